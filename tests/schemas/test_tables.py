"""Each table's schema in a plain form beside this file, so that a change of it is a diff that is read.

`python tests/schemas/test_tables.py` writes the golden files anew.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import types as t

from schemas.spark import spark_type, struct_type
from schemas.tables import (
    ADDED_SEQ,
    CHANGED_SEQ,
    GONE_SEQ,
    MANIFEST_COLUMNS,
    PUBLISHED,
    PURGED,
    ROW_ID,
    TABLES,
    Column,
    Table,
)

GOLDEN = Path(__file__).parent / "golden"
EVERY_TABLE = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


def rendered(table: Table) -> str:
    """All that other parts may rely on, a line each; comments are for people and left out."""
    lines = [
        f"table {table.name}",
        f"kind {table.kind}",
        f"keys {' '.join(table.keys)}",
        f"partition_by {' '.join(table.partition_by)}",
        f"change_data_feed {table.change_data_feed}",
        f"keeps_files {table.keeps_files}",
        f"digested {table.digested}",
        *(f"column {rendered_column(column)}" for column in table.columns),
        *(f"constraint {name}: {condition}" for name, condition in table.constraints.items()),
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def rendered_column(column: Column) -> str:
    null, volatile = "" if column.nullable else " not null", " volatile" if column.volatile else ""
    return f"{column.name} {column.type}{null}{volatile}"


@EVERY_TABLE
def test_a_tables_schema_is_the_one_that_was_agreed(table: Table) -> None:
    assert rendered(table) == (GOLDEN / f"{table.name}.txt").read_text(encoding="utf-8")


def test_every_agreed_table_is_there() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == set(TABLES)


@EVERY_TABLE
def test_keys_exist_are_given_once_and_are_never_null(table: Table) -> None:
    assert len(set(table.keys)) == len(table.keys)
    for key in table.keys:
        assert not table.column(key).nullable, key
        assert not table.column(key).volatile, key


@EVERY_TABLE
def test_every_table_but_a_log_can_be_merged_into_by_its_keys(table: Table) -> None:
    assert bool(table.keys) == (table.kind != "log")
    for key in table.keys:
        assert table.column(key).type in {"string", "bigint", "int", "date"}, f"{key} cannot be compared in a MERGE"


@EVERY_TABLE
def test_partition_columns_exist_are_plain_and_leave_something_to_store(table: Table) -> None:
    for name in table.partition_by:
        assert table.column(name).type in {"string", "date"}
        assert not table.column(name).nullable
        assert table.kind == "log" or name in table.keys, "a MERGE by key could not be narrowed to partitions"
    assert set(table.partition_by) < set(table.column_names)


@EVERY_TABLE
def test_files_are_sorted_by_a_column_that_can_be_looked_up_in_them(table: Table) -> None:
    if table.sorted_by is not None:
        assert table.column(table.sorted_by).type in {"string", "bigint"}
        assert table.sorted_by in table.measured or table.kind != "content", "Delta passes over no file by it"


@EVERY_TABLE
def test_a_dated_table_is_partitioned_by_the_date_that_is_replaced(table: Table) -> None:
    assert (table.kind == "dated") == (table.partition_by == ("ingest_date",))


@EVERY_TABLE
def test_column_names_are_given_once_and_plain(table: Table) -> None:
    assert len({name.lower() for name in table.column_names}) == len(table.columns)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in (table.name, *table.column_names))


@EVERY_TABLE
def test_every_column_says_what_it_holds(table: Table) -> None:
    assert table.row
    for column in table.columns:
        assert column.comment.strip(), column.name
        assert column.comment != column.name


@EVERY_TABLE
def test_measures_have_their_unit_in_their_comment_or_name(table: Table) -> None:
    for column in table.columns:
        if column.name in {"width", "height", "source_width", "source_height"}:
            assert "pixels" in column.comment
        if column.type == "timestamp":
            assert "UTC" in column.comment


@EVERY_TABLE
def test_a_table_that_keeps_its_files_can_be_told_by_its_keys_what_goes(table: Table) -> None:
    if table.keeps_files:
        assert {table.column(key).type for key in table.keys} <= {"bigint", "string"}
        assert not any(table.column(key).nullable for key in table.keys)
        assert not table.partition_by
    if ROW_ID in table.column_names:
        assert table.keeps_files
        assert (table.column(ROW_ID).type, table.column(ROW_ID).nullable) == ("bigint", False)


def test_whose_changes_are_read_from_files_names_its_rows() -> None:
    assert [table.name for table in TABLES.values() if table.change_data_feed] == ["index_feed"]
    assert [table.name for table in TABLES.values() if ROW_ID in table.column_names] == ["index_feed"]


@EVERY_TABLE
def test_what_differs_between_equal_runs_is_volatile(table: Table) -> None:
    for column in table.columns:
        if table.digested and (column.name == "run_id" or column.type == "timestamp"):
            assert column.volatile, column.name


@EVERY_TABLE
def test_a_derived_table_does_not_depend_on_which_run_derived_it(table: Table) -> None:
    if table.kind == "derived":  # but for the names by which rows of files are told apart, and when they changed
        assert {column.name for column in table.columns if column.volatile} == (
            {ROW_ID, ADDED_SEQ, CHANGED_SEQ} if ROW_ID in table.column_names else set()
        )
        assert "run_id" not in table.column_names


@EVERY_TABLE
def test_pixels_stand_in_one_table_alone(table: Table) -> None:
    holds_pixels = "pixels" in table.column_names
    assert holds_pixels == (table.name == "images")


def test_old_files_are_deleted_of_all_that_only_accepted_contents_may_have() -> None:
    made_of_contents = {"pixels", "vector", "phash64", "hashes", "representative_id", "hamming"}
    holding = {table.name for table in TABLES.values() if made_of_contents & set(table.column_names)}
    assert set(PURGED) == holding
    evidence = {"sightings", "fetches", "content_signals", "decisions", "runs", "overrides", "url_state"}
    assert not evidence & set(PURGED)


@EVERY_TABLE
def test_a_log_may_hold_keys_and_times_and_numbers_of_runs_only(table: Table) -> None:
    assert table.measured, "there is nothing by which files could be passed over"
    for name in table.measured:
        assert name in {*table.keys, CHANGED_SEQ, GONE_SEQ} or table.column(name).type in {"date", "timestamp"}
        assert name not in table.partition_by, "Delta refuses these"


@EVERY_TABLE
def test_every_rule_of_a_row_has_one_name(table: Table) -> None:
    assert not set(table.constraints) & set(table.column_names)
    required = [column.name for column in table.columns if not column.nullable]
    assert list(table.rules) == [*required, *table.constraints]


SQL_WORDS = {"and", "or", "not", "in", "is", "null", "rlike", "size", "length", "hex", "substring"}


def names_in(condition: str) -> Iterator[str]:
    """Identifiers of an SQL condition: words outside quotes that are neither operators nor functions."""
    for word in re.findall(r"[a-z_][a-z0-9_]*", re.sub(r"'[^']*'", "", condition.lower())):
        if word not in SQL_WORDS:
            yield word


@EVERY_TABLE
def test_constraints_speak_of_columns_that_exist(table: Table) -> None:
    for name, condition in table.constraints.items():
        assert re.fullmatch(r"[a-z0-9_]+", name)
        mentioned = list(names_in(condition))
        assert mentioned, name
        assert set(mentioned) <= set(table.column_names), name


@EVERY_TABLE
def test_the_struct_type_is_what_the_table_says(table: Table) -> None:
    struct = struct_type(table)
    assert struct.names == list(table.column_names)
    for column, field in zip(table.columns, struct, strict=True):
        assert field.dataType.simpleString() == column.type
        assert field.nullable == column.nullable
        assert field.metadata == {"comment": column.comment}
    assert t.StructType.fromJson(struct.jsonValue()) == struct


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("array<string>", t.ArrayType(t.StringType())),
        ("array<float>", t.ArrayType(t.FloatType())),
        ("map<string,bigint>", t.MapType(t.StringType(), t.LongType())),
        ("map<string,array<double>>", t.MapType(t.StringType(), t.ArrayType(t.DoubleType()))),
    ],
)
def test_a_simple_type_string_names_one_spark_type(name: str, expected: t.DataType) -> None:
    assert spark_type(name) == expected
    assert expected.simpleString() == name


@pytest.mark.parametrize("name", ["text", "", "array<string", "map<int,string>", "STRING", "decimal(38,0)"])
def test_any_other_type_string_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match="unknown column type"):
        spark_type(name)


def test_manifest_columns_have_the_types_that_sightings_keep_them_in() -> None:
    for name, kind in MANIFEST_COLUMNS.items():
        assert TABLES["sightings"].column(name).type == kind


def test_a_published_event_names_every_table_but_the_ledger_itself() -> None:
    assert set(PUBLISHED) == set(TABLES) - {"runs"}


def test_an_unknown_column_is_refused_with_the_tables_name_and_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"table runs has no column colour; it has .*'run_id'"):
        TABLES["runs"].column("colour")


if __name__ == "__main__":
    for written in TABLES.values():
        (GOLDEN / f"{written.name}.txt").write_text(rendered(written), encoding="utf-8")
