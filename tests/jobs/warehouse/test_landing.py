"""Applying a staged run is idempotent for every kind of table, wherever it was interrupted, in any order of dates."""

import datetime as dt
import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from delta.exceptions import ConcurrentAppendException, ConcurrentTransactionException
from delta.tables import DeltaTable
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.types import StructField, StructType

from jobs.config.errors import RunError, UsageError
from jobs.warehouse.landing import CHANGE, Landing, StagedTable, changes
from lensfeed.snapshot import Snapshot, SnapshotGoneError
from schemas.spark import struct_type
from schemas.tables import TABLES, Column, Table
from tests.jobs.frames import frame, local_copy, table_frame

pytestmark = pytest.mark.spark

JANUARY = [dt.date(2026, 1, day) for day in (29, 30, 31)]
Rows = list[dict[str, Any]]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sighting(date: dt.date, number: int, **given: Any) -> dict[str, Any]:
    row = {
        "ingest_date": date,
        "source_file": "list.csv",
        "row_number": number,
        "outcome": "deferred",
        "reasons": [],
        "not_modified": False,
        "state_effect": "none",
        "policy_version": "policy",
        "run_id": "run",
    }
    return row | given


def feed_id(number: int) -> dict[str, Any]:
    return {"image_id": digest(str(number)), "feed_id": number, "collided": False, "run_id": "run"}


def decision(number: int) -> dict[str, Any]:
    return {
        "subject_kind": "image",
        "subject_id": digest(str(number)),
        "policy_version": "policy",
        "decision": "allow",
        "reasons": [],
        "source": "automatic",
        "decided_at": dt.datetime(2026, 1, 31, tzinfo=dt.UTC),
        "run_id": "run",
    }


def state(number: int, title: str | None) -> dict[str, Any]:
    return {
        "url_id": digest(str(number)),
        "ingest_date": JANUARY[0],
        "source_file": "list.csv",
        "row_number": number,
        "outcome": "accepted",
        "state_effect": "content",
        "title": title,
    }


def feed(number: int, row_digest: str) -> dict[str, Any]:
    names = ("has_text", "has_title", "has_alt_text", "has_description", "has_tags")
    row = {
        "feed_id": number,
        "image_id": digest(str(number)),
        "model_version": "model",
        "vector": [1.0, 0.0],
        "text_model_version": "text model",
        "text_vector": [0.0],
        "tokens": [],
        "member_count": 1,
        "url_count": 1,
        "domain_count": 1,
        "first_seen": JANUARY[0],
        "width": 1,
        "height": 1,
        "sharpness": 0.5,
        "row_digest": row_digest,
        "row_id": hash((number, row_digest)) % 2**63,
    }
    return row | dict.fromkeys(names, False)


def contents(landing: Landing, table: str) -> list[str]:
    """The table's rows by Delta's own reading of its newest version."""
    return sorted(map(repr, landing.spark.read.format("delta").load(landing.path(table)).collect()))


def wanted(spark: SparkSession, table: str, rows: Iterable[dict[str, Any]]) -> list[str]:
    return sorted(map(repr, table_frame(spark, table, rows).collect()))


def stage_table(landing: Landing, run: str, table: str, rows: Rows, *, into: bool = False, **given: Any) -> StagedTable:
    # As a run stages them: nothing says that a column has no nulls before Delta looks.
    schema = StructType([StructField(field.name, field.dataType) for field in struct_type(TABLES[table])])
    values = [[row.get(name) for name in schema.names] for row in rows]
    landing.stage(run, table, frame(landing.spark, schema, values), {table: "true"} if into else None)
    return StagedTable(table, table, len(rows), **given)


def stage_changes(
    landing: Landing,
    run: str,
    table: str,
    rows: Sequence[tuple[str, dict[str, Any]]],
    *,
    into: bool = False,
    **given: Any,
) -> StagedTable:
    kinds = [kind for kind, _ in rows]
    named = [dict(row) | {CHANGE: kind} for kind, row in rows]
    schema = struct_type(TABLES[table]).add(CHANGE, "string")
    values = [[row.get(name) for name in schema.fieldNames()] for row in named]
    going = {table: f"{CHANGE} != 'delete'"} if into else None
    landing.stage(run, table, frame(landing.spark, schema, values), going)
    return StagedTable(table, table, len(rows), inserts=kinds.count("insert"), changes=True, **given)


NAMES = ("sightings", "feed_ids", "decisions", "url_state", "index_feed")
"""A table of every kind, derived ones with and without a digest of their rows."""


@pytest.fixture
def tables(landing: Landing) -> Landing:
    landing.ensure_tables(NAMES)
    return landing


def first_run(landing: Landing) -> list[StagedTable]:
    return [
        stage_table(landing, "r1", "sightings", [sighting(JANUARY[1], n) for n in range(3)], dates=(str(JANUARY[1]),)),
        stage_table(landing, "r1", "feed_ids", [feed_id(1), feed_id(2)]),
        stage_table(landing, "r1", "decisions", [decision(1), decision(2)]),
        stage_changes(landing, "r1", "url_state", [("insert", state(1, "a")), ("insert", state(2, None))]),
        stage_changes(landing, "r1", "index_feed", [("insert", feed(n, "one")) for n in (1, 2, 3)]),
    ]


def second_run(landing: Landing) -> list[StagedTable]:
    changed = [("update", state(1, None)), ("delete", state(2, None)), ("insert", state(3, "c"))]
    fed = [("update", feed(1, "two")), ("delete", feed(2, "one")), ("insert", feed(4, "one"))]
    return [
        stage_table(landing, "r2", "sightings", [sighting(JANUARY[2], 0)], dates=(str(JANUARY[2]),)),
        stage_table(landing, "r2", "feed_ids", [feed_id(4)]),
        stage_table(landing, "r2", "decisions", [decision(4)]),
        stage_changes(landing, "r2", "url_state", changed),
        stage_changes(landing, "r2", "index_feed", fed),
    ]


AFTER_BOTH: dict[str, Rows] = {
    "sightings": [*(sighting(JANUARY[1], number) for number in range(3)), sighting(JANUARY[2], 0)],
    "feed_ids": [feed_id(1), feed_id(2), feed_id(4)],
    "decisions": [decision(1), decision(2), decision(4)],
    "url_state": [state(1, None), state(3, "c")],
    "index_feed": [feed(1, "two"), feed(3, "one"), feed(4, "one")],
}


def test_a_run_applied_in_part_and_again_and_again_leaves_what_once_would(
    spark: SparkSession, tables: Landing, warehouse: Path
) -> None:
    tables.write_plan("r1", first_run(tables))
    versions = tables.apply("r1")
    assert {name: versions[name] for name in NAMES} == dict.fromkeys(NAMES, 1)
    assert versions.keys() == TABLES.keys() - {"runs"}
    assert versions["images"] == -1

    plan = second_run(tables)
    for part in (plan[::2], plan[1:], plan[:2]):  # each line twice, none of the parts the whole
        tables.write_plan("r2", part)
        # Whoever finishes the work of a killed driver knows only what is on disk.
        versions = Landing(spark, str(warehouse)).apply("r2")
    for name in NAMES:
        assert contents(tables, name) == wanted(spark, name, AFTER_BOTH[name]), name
    applied_once = {name: versions[name] for name in ("sightings", "feed_ids", "decisions")}
    assert applied_once == dict.fromkeys(applied_once, 2)

    change_data = spark.read.format("delta").option("readChangeFeed", "true").option("startingVersion", 2)
    seen = change_data.load(tables.path("index_feed")).select("_change_type", "feed_id", "row_digest").collect()
    assert sorted(map(tuple, seen)) == [
        ("delete", 1, "one"),
        ("delete", 2, "one"),
        ("insert", 1, "two"),
        ("insert", 4, "one"),
    ]


def test_a_run_applied_again_by_a_driver_that_slept_while_others_published_changes_nothing(
    spark: SparkSession, tables: Landing, warehouse: Path
) -> None:
    """That a write may be repeated is not enough: what came after it must stand, also where a row that the run removed,
    or looked for in vain, has come since."""
    tables.write_plan("r1", first_run(tables))
    tables.apply("r1")
    tables.stage("r2", "gone", frame(spark, "image_id string", [(digest("1"),), (digest("9"),)]))
    removed = StagedTable("feed_ids", "gone", 2, removes=True)
    tables.stage("r2", "in vain", frame(spark, "subject_id string", [(digest("8"),)]))
    in_vain = StagedTable("decisions", "in vain", 1, removes=True)
    tables.write_plan("r2", [*second_run(tables), removed, in_vain])
    tables.apply("r2")
    tables.write_plan(
        "r3",
        [
            stage_table(tables, "r3", "sightings", [sighting(JANUARY[2], 5)], dates=(str(JANUARY[2]),)),
            stage_table(tables, "r3", "feed_ids", [feed_id(1), feed_id(9)]),
            stage_table(tables, "r3", "decisions", [decision(8)]),
            stage_changes(tables, "r3", "url_state", [("delete", state(1, None)), ("insert", state(2, "back"))]),
            stage_changes(tables, "r3", "index_feed", [("update", feed(1, "three")), ("insert", feed(2, "back"))]),
        ],
    )
    versions = tables.apply("r3")
    after = {name: contents(tables, name) for name in NAMES}
    assert Landing(spark, str(warehouse)).apply("r2") == versions
    assert {name: contents(tables, name) for name in NAMES} == after


def test_what_is_asked_of_a_large_table_is_compiled(
    spark: SparkSession, tables: Landing, warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_compiled(landing: Landing) -> str | None:
        rows = landing.read("url_state")
        return rows.join(landing.staged("r1", "url_state"), "url_id").sparkSession.conf.get(
            "spark.sql.codegen.wholeStage"
        )

    tables.write_plan("r1", first_run(tables))
    tables.apply("r1")
    assert is_compiled(Landing(spark, str(warehouse))) == "false"
    monkeypatch.setattr("jobs.warehouse.landing.LARGE_TABLE", 0)
    large = Landing(spark, str(warehouse))
    assert is_compiled(large) == "true"
    large.write_plan("r2", second_run(large))
    large.apply("r2")
    for name in NAMES:
        assert contents(large, name) == wanted(spark, name, AFTER_BOTH[name]), name


def files_of(landing: Landing, table: str) -> dict[str, int]:
    """The table's live files, with how many rows of each are dead."""
    jvm: Any = landing.spark._jvm
    log = jvm.org.apache.spark.sql.delta.DeltaLog.forTable(landing.spark._jsparkSession, landing.path(table))
    files = DataFrame(log.unsafeVolatileSnapshot().allFiles().toDF(), landing.spark)
    return {row.path: row.dead or 0 for row in files.selectExpr("path", "deletionVector.cardinality as dead").collect()}


@pytest.mark.parametrize(
    ("most_named", "at_once"), [(200_000, 20_000), (200_000, 1), (0, 1)], ids=["named", "one by one", "merged"]
)
def test_a_wide_table_keeps_the_files_in_which_rows_change_or_go(
    spark: SparkSession,
    tables: Landing,
    warehouse: Path,
    monkeypatch: pytest.MonkeyPatch,
    most_named: int,
    at_once: int,
) -> None:
    monkeypatch.setattr("jobs.warehouse.landing.MOST_NAMED", most_named)
    monkeypatch.setattr("jobs.warehouse.landing.NAMED_AT_ONCE", at_once)
    many = [feed(number, "one") for number in range(40)]
    tables.write_plan("r1", [stage_changes(tables, "r1", "index_feed", [("insert", row) for row in many])])
    first = tables.apply("r1")["index_feed"]
    before = files_of(tables, "index_feed")
    fed = [
        ("update", feed(1, "two")),
        ("delete", feed(2, "one")),
        ("update", feed(3, "two")),
        ("insert", feed(90, "x")),
    ]
    tables.write_plan("r2", [stage_changes(tables, "r2", "index_feed", fed)])

    def killed(*_: Any) -> None:
        raise RuntimeError("killed")

    with pytest.MonkeyPatch.context() as between:  # what goes is gone, what comes is not there yet
        between.setattr(Landing, "_write", killed)
        with pytest.raises(RuntimeError, match="killed"):
            tables.apply("r2")
    for _ in range(2):
        versions = Landing(spark, str(warehouse)).apply("r2")
    expected = [
        *(row for row in many if row["feed_id"] not in (1, 2, 3)),
        feed(1, "two"),
        feed(3, "two"),
        feed(90, "x"),
    ]
    assert contents(tables, "index_feed") == wanted(spark, "index_feed", expected)
    after = files_of(tables, "index_feed")
    assert before.keys() <= after.keys()
    assert sum(after.values()) == 3
    written = [pq.read_table(warehouse / "index_feed" / path).num_rows for path in after.keys() - before.keys()]
    assert sum(written) == 3

    # Every reader of ours leaves dead rows out, and reads an older version as it was.
    for version, rows in ((versions["index_feed"], expected), (first, many)):
        assert sorted(map(repr, tables.read("index_feed", version).collect())) == wanted(spark, "index_feed", rows)
        snapshot = feed_at(warehouse, version)
        live = {row["row_id"] for row in rows}
        assert snapshot.row_count("index_feed") == len(rows)
        assert set(snapshot.rows("index_feed", ["row_id"])["row_id"].to_pylist()) == live
        on_disk = [pq.read_table(file, columns=["row_id"])["row_id"] for file in snapshot.files("index_feed")]
        dead = {one for column in on_disk for one in column.to_pylist()} - live
        assert set(snapshot.dead_row_ids("index_feed").tolist()) == dead
    tables.restore(versions | {"index_feed": first})
    assert contents(tables, "index_feed") == wanted(spark, "index_feed", many)
    for file in (warehouse / "index_feed").glob("*.bin"):
        file.unlink()
    gone = feed_at(warehouse, versions["index_feed"])
    for read in (gone.rows, gone.row_count, gone.dataset):
        with pytest.raises(SnapshotGoneError, match=f"index_feed at version {versions['index_feed']}"):
            read("index_feed")


def feed_at(warehouse: Path, version: int) -> Snapshot:
    """What a reader has of the feed at a version."""
    names = ("policy", "model", "text_model", "rule", "canonical", "alignment")
    none: dict[str, Any] = {f"{name}_version": None for name in names}
    now = dt.datetime.now(dt.UTC)
    return Snapshot(str(warehouse), "run", 1, "nightly", now, (), {"index_feed": version}, **none)


def placed(number: int, representative: int) -> dict[str, Any]:
    """A row of `clusters`. Its rule is no digest: a key is a text of any characters but spaces."""
    return {
        "image_id": digest(str(number)),
        "rule_version": "rule'\\",
        "representative_id": digest(str(representative)),
        "hamming": 0,
        "hamming256": 0,
        "group_id": "group",
        "first_seen": JANUARY[0],
        "source_pixels": 4,
    }


def member(number: int, title: str) -> dict[str, Any]:
    """A row of `feed_members`; every two are of one image, and every four of one URL."""
    place = {"url": "https://one.example/", "domain": "one.example", "hamming": 0}
    ids = {"representative_id": digest("0"), "image_id": digest(str(number // 2)), "url_id": digest(str(number % 4))}
    return ids | place | {"title": title}


def plan_of(rows: DataFrame) -> str:
    java: Any = rows.sparkSession._jvm
    plan = rows._jdf.queryExecution()
    return str(java.org.apache.spark.sql.api.python.PythonSQLUtils.explainString(plan, "formatted"))


NARROW: dict[str, tuple[Rows, Rows]] = {
    # What a row is in the beginning, and when it has been changed.
    "url_state": ([state(n, "one") for n in range(8)], [state(n, "two") for n in range(8)]),
    "clusters": ([placed(n, n) for n in range(8)], [placed(n, 7) for n in range(8)]),
    "feed_members": ([member(n, "one") for n in range(8)], [member(n, "two") for n in range(8)]),
}


@pytest.mark.parametrize("at_once", [20_000, 1], ids=["named", "one by one"])
@pytest.mark.parametrize("table", NARROW)
def test_a_night_writes_of_narrow_tables_what_it_changes(
    spark: SparkSession, tables: Landing, warehouse: Path, monkeypatch: pytest.MonkeyPatch, table: str, at_once: int
) -> None:
    """Keys are texts there, of two columns that are equal in other rows each; and rows die in a file again and again,
    until one of its rows is moved."""
    monkeypatch.setattr("jobs.warehouse.landing.NAMED_AT_ONCE", at_once)
    tables.ensure_tables([table])
    one, two = NARROW[table]
    nights: list[list[tuple[str, dict[str, Any]]]] = [
        [("insert", row) for row in one],
        [("update", two[2]), ("delete", one[5])],
        [("update", one[2]), ("update", two[4]), ("insert", one[5])],
    ]
    lengths: list[int] = []
    first = {table: 0}
    for night, changed in enumerate(nights):
        line = stage_changes(tables, f"r{night}", table, changed, keeps_files=True)
        tables.write_plan(f"r{night}", [line])
        for _ in range(2):
            versions = tables.apply(f"r{night}")
        first = first if night else versions
        lengths.append(sum(pq.read_table(file).num_rows for file in (warehouse / table).glob("*.parquet")))
    assert lengths == [8, 9, 12]
    live = [one[0], one[1], one[2], one[3], two[4], one[5], one[6], one[7]]
    told = wanted(spark, table, live)
    assert contents(tables, table) == told
    fresh = Landing(spark, str(warehouse))
    assert sorted(map(repr, fresh.read(table).collect())) == told
    assert fresh.files(table).count() == 8
    assert fresh.files(table, with_dead=True).count() == 11  # a file all of whose rows are dead has left
    assert sum(files_of(tables, table).values()) == 3
    snapshot = replace(feed_at(warehouse, 0), table_versions={table: tables.version(table)})
    assert snapshot.row_count(table) == 8
    # A query does not have Delta list the files once more, passes over pages as it does of others, and reads those
    # that have no dead rows as it does them.
    for version, index in ((first[table], "InMemoryFileIndex"), (None, "TahoeBatchFileIndex")):
        asked = fresh.read(table, version).where(f.col(TABLES[table].keys[0]) == "x")
        plan = plan_of(asked)
        assert f"EqualTo({TABLES[table].keys[0]},x)" in plan.partition("PushedFilters")[2].partition("\n")[0]
        assert index in plan

    keys = TABLES[table].keys
    lying = fresh.files(table).collect()
    (holds,) = {row.file for row in lying if all(row[key] == one[7][key] for key in keys)}
    tables.write_plan("m", [stage_table(tables, "m", table, [one[7]], moves=True)])
    for _ in range(2):
        tables.apply("m")
    assert contents(tables, table) == told
    assert holds.rpartition("/")[2] not in files_of(tables, table)


def test_a_plan_made_before_a_table_kept_its_files_is_applied_as_it_was_meant(
    spark: SparkSession, tables: Landing
) -> None:
    """Some of it may be done already, under the names that its commits had; nothing says what to free of the dead."""
    one, two = NARROW["url_state"]
    for run, changed in (("a", [("insert", row) for row in one]), ("b", [("update", two[2]), ("delete", one[5])])):
        tables.write_plan(run, [stage_changes(tables, run, "url_state", changed)])
        for _ in range(2):
            tables.apply(run)
    live = [one[0], one[1], two[2], one[3], one[4], one[6], one[7]]
    assert contents(tables, "url_state") == wanted(spark, "url_state", live)
    assert set(files_of(tables, "url_state").values()) == {0}


def test_rows_that_are_moved_take_what_is_dead_out_of_their_files(
    spark: SparkSession, tables: Landing, warehouse: Path
) -> None:
    """And out of no others: what a night takes out costs what it touches."""
    for number, run in ((0, "a"), (10, "b"), (20, "c")):  # a file or two for each run
        rows = [("insert", feed(number + n, "one")) for n in range(5)]
        tables.write_plan(run, [stage_changes(tables, run, "index_feed", rows)])
        tables.apply(run)
        tables.put_together("index_feed", 1000)
    changed = [("update", feed(1, "two")), ("delete", feed(2, "one")), ("update", feed(12, "two"))]
    tables.write_plan("r", [stage_changes(tables, "r", "index_feed", changed)])
    tables.apply("r")
    lying = tables.files("index_feed", with_dead=True)
    assert sorted(row[0] for row in lying.select("feed_id").collect()) == sorted(
        [*range(5), *range(10, 15), *range(20, 25), 1, 12]
    )
    assert tables.files("index_feed").count() == 14
    (holds,) = {row.file for row in lying.where("feed_id = 2").collect()}
    beside = [row.feed_id for row in tables.files("index_feed").where(f.col("file") == holds).collect()]
    before = files_of(tables, "index_feed")
    moved = stage_table(tables, "m", "index_feed", [feed(beside[0], "one") | {"row_id": 5}], moves=True)
    for _ in range(2):
        tables.write_plan("m", [moved])
        versions = Landing(spark, str(warehouse)).apply("m")
    after = files_of(tables, "index_feed")
    assert before.keys() - after.keys() == {holds.rpartition("/")[2]}
    assert 2 not in {row.feed_id for row in tables.files("index_feed", with_dead=True).collect()}
    assert sum(after.values()) == sum(before.values()) - before[holds.rpartition("/")[2]]
    live = [n for n in (*range(5), *range(10, 15), *range(20, 25)) if n != 2]
    rows = {n: feed(n, "two" if n in (1, 12) else "one") for n in live} | {
        beside[0]: feed(beside[0], "one") | {"row_id": 5}
    }
    assert contents(tables, "index_feed") == wanted(spark, "index_feed", rows.values())
    tables.purge(["index_feed"])
    assert 2 not in ids_on_disk(warehouse / "index_feed", "feed_id")
    assert tables.versions() == versions


def test_what_lies_in_files_that_a_table_needs_no_more_is_found(tables: Landing, warehouse: Path) -> None:
    """Whoever looks for what has to leave the disk has to look there, too."""
    date = JANUARY[0]
    for run, title in (("a", "one"), ("b", "two"), ("c", "three")):
        rows = [sighting(date, 1, title=title), sighting(date, 2, title=title)]
        staged = stage_table(tables, run, "sightings", rows, dates=(date.isoformat(),))
        tables.write_plan(run, [staged, stage_changes(tables, run, "url_state", [("insert", state(ord(run), title))])])
        tables.apply(run)
        left = tables.left_behind("sightings")
        assert left.count() == 2 * (ord(run) - ord("a"))
    assert {(row.ingest_date, row.title) for row in left.collect()} == {(date, "one"), (date, "two")}
    assert tables.left_behind("url_state").count() == 0
    assert tables.left_behind("decisions").count() == 0  # of which there never was one
    gone = [("delete", state(ord("a"), "one")), ("insert", state(1, "four"))]
    tables.write_plan("d", [stage_changes(tables, "d", "url_state", gone)])
    tables.apply("d")
    assert [row.title for row in tables.left_behind("url_state").collect()] == ["one"]
    torn = warehouse / "sightings" / f"ingest_date={date}" / "part-00000-torn.zstd.parquet"
    torn.write_bytes(b"PAR1 half of a file")
    assert left.count() == tables.left_behind("sightings").count() == 4
    tables.purge(["sightings", "url_state"])
    assert tables.left_behind("sightings").count() == tables.left_behind("url_state").count() == 0


def test_files_in_which_many_rows_are_dead_are_written_anew_with_the_small_ones(
    spark: SparkSession, tables: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [feed(number, "one") for number in range(40)]
    tables.write_plan("r1", [stage_changes(tables, "r1", "index_feed", [("insert", row) for row in many])])
    tables.apply("r1")
    tables.put_together("index_feed", 1)
    (large,) = files_of(tables, "index_feed")
    monkeypatch.setattr("jobs.warehouse.landing.SMALL_FILE", 1)  # so that it is no small one
    for number, crowded in ((0, 0), (1, 0), (2, 1)):  # up to two of forty rows are few
        tables.write_plan(f"d{number}", [stage_changes(tables, f"d{number}", "index_feed", [("delete", many[number])])])
        tables.apply(f"d{number}")
        assert tables.crowded("index_feed", 7)[0] == crowded
        tables.put_together("index_feed", 7)
    assert tables.crowded("index_feed", 7) == (0, 0)
    files = files_of(tables, "index_feed")
    assert large not in files
    assert set(files.values()) == {0}
    assert contents(tables, "index_feed") == wanted(spark, "index_feed", many[3:])


def test_rows_with_an_equal_digest_are_not_rewritten_by_a_merge(
    spark: SparkSession, tables: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.warehouse.landing.MOST_NAMED", 0)
    tables.write_plan("r1", [stage_changes(tables, "r1", "index_feed", [("insert", feed(1, "one"))])])
    tables.apply("r1")
    tables.write_plan("r2", [stage_changes(tables, "r2", "index_feed", [("update", feed(1, "one") | {"width": 9})])])
    tables.apply("r2")
    assert contents(tables, "index_feed") == wanted(spark, "index_feed", [feed(1, "one")])


def dated(landing: Landing, run: str, date: dt.date, count: int) -> None:
    rows = [sighting(date, number, url=run) for number in range(count)]
    landing.write_plan(run, [stage_table(landing, run, "sightings", rows, dates=(str(date),))])
    landing.apply(run)


def test_an_older_date_is_applied_after_a_newer_one_and_replaces_itself_alone(
    spark: SparkSession, tables: Landing
) -> None:
    dated(tables, "newest", JANUARY[2], 2)
    dated(tables, "oldest", JANUARY[0], 3)
    dated(tables, "middle", JANUARY[1], 1)
    dated(tables, "oldest again", JANUARY[0], 1)
    dated(tables, "newest again, now empty", JANUARY[2], 0)
    left = [sighting(JANUARY[0], 0, url="oldest again"), sighting(JANUARY[1], 0, url="middle")]
    assert contents(tables, "sightings") == wanted(spark, "sightings", left)


def test_a_plan_may_take_some_rows_of_a_dataset_only(spark: SparkSession, tables: Landing) -> None:
    line = stage_table(tables, "r", "feed_ids", [feed_id(number) for number in range(6)])
    tables.stage("r", "chosen", frame(spark, "image_id string", [(digest(str(number)),) for number in (1, 2, 5)]))
    tables.write_plan("r", [StagedTable("feed_ids", line.source, 3, only="chosen", only_rows=3, where="feed_id > 1")])
    tables.apply("r")
    assert contents(tables, "feed_ids") == wanted(spark, "feed_ids", [feed_id(2), feed_id(5)])


def test_rows_of_dated_tables_may_be_changed_by_key(spark: SparkSession, tables: Landing) -> None:
    dated(tables, "first", JANUARY[0], 2)
    dated(tables, "second", JANUARY[1], 2)
    line = stage_changes(
        tables,
        "r",
        "sightings",
        [("update", sighting(JANUARY[0], 1, url="changed")), ("update", sighting(JANUARY[1], 0, url="changed"))],
        dates=(str(JANUARY[0]), str(JANUARY[1])),
    )
    for _ in range(2):
        tables.write_plan("r", [line])
        tables.apply("r")
    expected = [
        sighting(JANUARY[0], 0, url="first"),
        sighting(JANUARY[0], 1, url="changed"),
        sighting(JANUARY[1], 0, url="changed"),
        sighting(JANUARY[1], 1, url="second"),
    ]
    assert contents(tables, "sightings") == wanted(spark, "sightings", expected)


def ids_on_disk(folder: Path, column: str) -> set[str]:
    """Values of a column in every Parquet file below a folder, change data included."""
    files = (pq.ParquetFile(path) for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts)
    return {value for file in files for value in file.read(columns=[column]).column(0).to_pylist()}


def test_what_is_removed_leaves_the_table_and_by_a_purge_the_disk(
    spark: SparkSession, tables: Landing, warehouse: Path
) -> None:
    tables.ensure_tables(["text_embeddings"])
    texts = [
        {"text_id": digest(str(n)), "text_model_version": "model", "vector": [1.0], "run_id": "run"} for n in range(4)
    ]
    fed = [("insert", feed(n, "one")) for n in range(4)]
    plan = [
        stage_table(tables, "r1", "text_embeddings", texts),
        stage_changes(tables, "r1", "index_feed", fed),
        stage_table(tables, "r1", "feed_ids", [feed_id(n) for n in range(4)]),
    ]
    tables.write_plan("r1", plan)
    tables.apply("r1")
    gone = [(digest("1"), None), (digest("never there"), None), (None, digest("not a text"))]
    tables.stage("r2", "gone", frame(spark, "text_id string, image_id string", gone))
    removal = StagedTable("text_embeddings", "gone", 2, where="text_id is not null", removes=True)
    joining = stage_table(tables, "r2", "text_embeddings", [texts[1] | {"text_id": digest("7")}])
    left = [("delete", feed(1, "one")), ("update", feed(2, "two"))]
    rewritten = StagedTable("index_feed", "", 0, rewrites=True)
    for _ in range(2):
        tables.write_plan("r2", [removal, joining, stage_changes(tables, "r2", "index_feed", left), rewritten])
        versions = tables.apply("r2")
    expected = [*(texts[n] for n in (0, 2, 3)), texts[1] | {"text_id": digest("7")}]
    assert contents(tables, "text_embeddings") == wanted(spark, "text_embeddings", expected)
    assert digest("1") in ids_on_disk(warehouse / "text_embeddings", "text_id")
    assert digest("1") in ids_on_disk(warehouse / "index_feed", "image_id")
    assert list((warehouse / "index_feed").glob("*.bin"))
    abandoned = warehouse / "index_feed" / "part-0-of-a-writer-that-was-killed.parquet"
    pq.write_table(pq.read_table(next((warehouse / "index_feed").glob("*.parquet"))), abandoned)

    before = {name: contents(tables, name) for name in (*NAMES, "text_embeddings")}
    for _ in range(2):
        tables.purge()
        assert ids_on_disk(warehouse / "text_embeddings", "text_id") == {row["text_id"] for row in expected}
        assert ids_on_disk(warehouse / "index_feed", "feed_id") == {0, 2, 3}
        assert ids_on_disk(warehouse / "index_feed", "row_digest") == {"one", "two"}
        assert not abandoned.exists()
        assert not list((warehouse / "index_feed").glob("*.bin"))
        # No row and no version is another than the published ones.
        assert tables.versions() == versions
        assert {name: contents(tables, name) for name in before} == before


def in_the_log(folder: Path) -> str:
    """All that a table's log says, checkpoints included."""
    log = folder / "_delta_log"
    texts = [path.read_text(errors="replace") for path in log.iterdir() if path.suffix in {".json", ".crc"}]
    checkpoints = [repr(pq.read_table(path).to_pylist()) for path in log.glob("*.parquet")]
    assert checkpoints
    return "".join([*texts, *checkpoints])


def test_a_tables_log_holds_nothing_of_urls_and_texts(spark: SparkSession, landing: Landing, warehouse: Path) -> None:
    names = ["sightings", "url_state", "index_feed", "feed_members", "fetches"]
    landing.ensure_tables(names)
    given = dict.fromkeys(("url", "page_url", "title", "alt_text", "description", "host", "final_url"), "planted")
    rows: dict[str, dict[str, Any]] = {
        "sightings": sighting(JANUARY[0], 0) | {"url_id": digest("1")},
        "url_state": state(1, None),
        "index_feed": feed(1, "one"),
        "feed_members": {"representative_id": digest("1"), "image_id": digest("1"), "url_id": digest("2")}
        | {"domain": "planted", "hamming": 0},
        "fetches": {"ingest_date": JANUARY[0], "url_id": digest("1"), "deferred": False, "not_modified": False}
        | {"run_id": "run"},
    }
    for name in names:
        known = {key: value for key, value in given.items() if key in TABLES[name].column_names}
        landing.append(name, [rows[name] | known])
        assert "planted" in "".join(contents(landing, name))
        java: Any = spark._jvm
        log = java.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, landing.path(name))
        log.checkpoint()
        said = in_the_log(warehouse / name)
        assert "planted" not in said, name
        assert f"'minValues': {{'{TABLES[name].measured[0]}'" in said, name  # files are still passed over by their keys


def test_a_run_that_a_release_before_a_column_prepared_is_rolled_forward(spark: SparkSession, tables: Landing) -> None:
    tables.write_plan("r1", [stage_changes(tables, "r1", "index_feed", [("insert", feed(n, "one")) for n in (1, 2)])])
    tables.apply("r1")
    changed = [("update", feed(1, "two")), ("insert", feed(3, "one"))]
    schema = struct_type(TABLES["index_feed"]).add(CHANGE, "string")
    schema = StructType([field for field in schema if field.name not in {"added_seq", "changed_seq", "url"}])
    rows = [[(row | {CHANGE: kind}).get(name) for name in schema.names] for kind, row in changed]
    tables.stage("r2", "index_feed", frame(spark, schema, rows))
    tables.stage("r2", "feed_ids", table_frame(spark, "feed_ids", [feed_id(1)]))
    keeping = StagedTable("index_feed", "index_feed", 2, inserts=1, changes=True, keeps_files=True)
    tables.write_plan("r2", [keeping, StagedTable("feed_ids", "feed_ids", 1)])
    Landing(spark, tables.storage.root).apply("r2")  # another process
    expected = [feed(1, "two"), feed(2, "one"), feed(3, "one")]
    assert contents(tables, "index_feed") == wanted(spark, "index_feed", expected)


def test_a_dataset_planned_twice_for_one_table_is_refused(tables: Landing) -> None:
    line = stage_table(tables, "r", "feed_ids", [feed_id(1)])
    with pytest.raises(ValueError, match="planned twice for one table"):
        tables.write_plan("r", [line, line])


def test_a_write_that_another_ones_commit_came_before_is_done_again_while_the_warehouse_is_held(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Exception] = []
    asked: list[int] = []
    monkeypatch.setattr(landing, "check_held", lambda: asked.append(len(raised)))

    def write() -> str:
        if raised:
            raise raised.pop()
        return "written"

    raised += [ConcurrentTransactionException("one"), ConcurrentAppendException("two")]
    assert landing._commit(write) == "written"
    assert asked == [2, 1, 0]
    raised += [ConcurrentAppendException("one"), ConcurrentAppendException("two"), ConcurrentAppendException("three")]
    with pytest.raises(ConcurrentAppendException, match="one"):
        landing._commit(write)
    raised += [ValueError("no conflict")]
    with pytest.raises(ValueError, match="no conflict"):
        landing._commit(write)


def test_a_log_without_a_commit_is_no_table(landing: Landing, warehouse: Path) -> None:
    """What is left of a driver that was killed while it made its tables."""
    for name in ("feed_ids", "runs"):
        (warehouse / name / "_delta_log" / "_staged_commits").mkdir(parents=True)
        (warehouse / name / "_delta_log" / ".00000000000000000000.json.1b2c.tmp").write_text("{}")
        assert landing.version(name) == -1
        assert landing.read(name).collect() == []
    assert landing.recorded_version("runs") == 0
    landing.ensure_tables(["feed_ids", "runs"])
    assert (landing.version("feed_ids"), landing.version("runs")) == (0, 0)
    landing.append("feed_ids", [feed_id(1)])
    assert landing.read("feed_ids").count() == 1


def test_a_staged_dataset_is_read_back_as_written_and_counted(spark: SparkSession, landing: Landing) -> None:
    schema = "number int, name string, tags array<string>, attributes map<string,string>, date date"
    rows = [(1, "größe", ["a", None], {"k": None}, JANUARY[0]), (2, None, None, None, None)]
    for name, some in (("rows", rows), ("none", [])):
        given = frame(spark, schema, some)
        back = landing.stage("r", name, given.repartition(3), ones=f.col("number") == 1)
        assert back.schema == given.schema
        assert sorted(back.collect()) == sorted(given.collect())
        counted = landing.staged_rows("r", name)
        assert (counted.rows, counted.counted) == (len(some), {"ones": min(len(some), 1)})
        # What nobody else can be meant to read is not even written.
        assert landing.storage.exists("_staging", "r", name) == bool(some)
    assert Landing(spark, landing.storage.root).staged("r", "rows").count() == len(rows)
    landing.stage("r", "for a table", table_frame(spark, "overrides", []), {"overrides": "true"})
    assert Landing(spark, landing.storage.root).staged("r", "for a table").count() == 0
    landing.discard("r")
    assert not landing.storage.exists("_staging", "r")


def test_tables_are_made_with_their_constraints_and_may_be_ensured_again(spark: SparkSession, landing: Landing) -> None:
    names = ["runs", "embeddings"]
    landing.ensure_tables(names)
    versions = [landing.version(name) for name in names]
    landing.ensure_tables(names)
    assert [landing.version(name) for name in names] == versions
    for name in names:
        detail = DeltaTable.forPath(spark, landing.path(name)).detail().first()
        assert detail is not None
        expected = {f"delta.constraints.{key}": text for key, text in TABLES[name].constraints.items()}
        assert expected.items() <= detail.properties.items()
        assert detail.properties["delta.enableDeletionVectors"] == "false"
        assert detail.properties["delta.dataSkippingStatsColumns"] == ",".join(TABLES[name].measured)
        assert tuple(detail.partitionColumns) == TABLES[name].partition_by
        assert detail.description == TABLES[name].row
        stored = spark.read.format("delta").load(landing.path(name)).schema
        assert [(field.name, field.dataType) for field in stored] == [
            (field.name, field.dataType) for field in struct_type(TABLES[name])
        ]


def test_tables_of_an_earlier_release_are_brought_up_to_date_once(
    spark: SparkSession, landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = replace(
        TABLES["runs"],
        constraints={"event_known": "event in ('started', 'published')", "no_longer_asked_for": "seq > 0"},
    )
    names = ["runs", "embeddings"]
    with monkeypatch.context() as then:
        then.setitem(TABLES, "runs", earlier)
        then.setattr("jobs.warehouse.landing.TABLE_PROPERTIES", {"delta.dataSkippingNumIndexedCols": "8"})
        landing.ensure_tables(names)
    for _ in range(2):
        landing.ensure_tables(names)
        versions = {name: landing.version(name) for name in names}
        for name in names:
            detail = DeltaTable.forPath(spark, landing.path(name)).detail().first()
            assert detail is not None
            found = {key: "".join(text.split()) for key, text in detail.properties.items() if "constraints" in key}
            expected = {key: "".join(text.split()) for key, text in TABLES[name].constraints.items()}
            assert found == {f"delta.constraints.{key}": text for key, text in expected.items()}
            assert detail.properties["delta.checkpointInterval"] == "20"
        landing.storage.delete("_layout")  # as if killed before the last step: looked at again, and left alone
    assert {name: landing.version(name) for name in names} == versions


def described(name: str, *columns: Column, without: str = "") -> Table:
    """A table with more columns, or one less."""
    kept = tuple(column for column in TABLES[name].columns if column.name != without)
    return replace(TABLES[name], columns=(*kept, *columns))


def test_a_nullable_column_is_added_to_a_table_that_is_there(
    spark: SparkSession, landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    landing.ensure_tables(["url_state"])
    landing.append("url_state", [state(1, "a")])
    newer = described("url_state", Column("score", "double", "it's \\ new"))
    monkeypatch.setitem(TABLES, "url_state", newer)
    for _ in range(2):
        landing.ensure_tables(["url_state"])
    landing.append("url_state", [state(2, "b") | {"score": 0.5}])
    rows = {row.title: row.score for row in landing.read("url_state").collect()}
    assert rows == {"a": None, "b": 0.5}
    field = spark.read.format("delta").load(landing.path("url_state")).schema["score"]
    assert field.metadata["comment"] == "it's \\ new"


@pytest.mark.parametrize(
    ("newer", "why"),
    [
        (described("url_state", without="title"), "it has title string, unknown here"),
        (described("url_state", Column("score", "double", "new", nullable=False)), "no score, which may not be null"),
        (described("url_state", Column("title", "int", "other"), without="title"), "it has title string, not int"),
    ],
)
def test_columns_that_cannot_be_brought_up_to_date_are_refused_in_words(
    landing: Landing, monkeypatch: pytest.MonkeyPatch, newer: Table, why: str
) -> None:
    landing.ensure_tables(["url_state"])
    monkeypatch.setitem(TABLES, "url_state", newer)
    with pytest.raises(UsageError, match=rf"^table url_state was made by another version .*{why}"):
        landing.ensure_tables(["url_state"])
    assert landing.version("url_state") == 0


@pytest.mark.parametrize(
    ("rows", "constraint"),
    [
        ([sighting(JANUARY[0], 0), sighting(JANUARY[0], 1, outcome="failed")], "failed_has_code"),
        ([sighting(JANUARY[0], 0, outcome="blocked")], "held_back_has_reason"),
        ([sighting(JANUARY[0], 0, outcome="accepted", image_id="A" * 64)], "accepted_has_image"),
        ([sighting(JANUARY[0], 0, source_file=None)], "source_file"),
    ],
)
def test_a_row_that_breaks_the_contract_lets_nothing_of_its_table_in(
    tables: Landing, rows: Rows, constraint: str
) -> None:
    tables.write_plan("bad", [stage_table(tables, "bad", "sightings", rows, dates=(str(JANUARY[0]),))])
    with pytest.raises(PySparkException, match=constraint):
        tables.apply("bad")
    assert tables.version("sightings") == 0


BROKEN: list[tuple[str, Rows, str]] = [
    ("sightings", [sighting(JANUARY[0], 0), sighting(JANUARY[0], 1, outcome="failed")], "1 break failed_has_code"),
    ("sightings", [sighting(JANUARY[0], 0, source_file=None)] * 2, "2 break source_file"),
    ("feed_ids", [feed_id(1), feed_id(2) | {"image_id": None}], "1 break image_id"),
    ("index_feed", [feed(1, "one"), feed(-1, "one"), feed(-2, "one")], "2 break feed_id_positive"),
    # What is neither true nor false is refused too.
    ("sightings", [sighting(JANUARY[0], 0, outcome=None)], "1 break outcome_known"),
]


@pytest.mark.parametrize(("name", "rows", "told"), BROKEN)
@pytest.mark.parametrize("counted", [True, False], ids=["counted while staging", "staged by another process"])
def test_what_a_table_would_refuse_is_found_before_the_run_is_prepared(
    tables: Landing, warehouse: Path, counted: bool, name: str, rows: Rows, told: str
) -> None:
    line = stage_table(tables, "bad", name, rows, into=counted)
    landing = tables if counted else Landing(tables.spark, str(warehouse))
    with pytest.raises(RunError, match=f"table {name} would refuse rows of dataset '{name}': .*{told} "):
        landing.check_plan("bad", [line])
    # Rows that are not written may be anything.
    landing.check_plan("bad", [replace(line, rows=0), replace(line, removes=True), replace(line, where="false")])


def test_sound_rows_cost_no_second_look(tables: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        stage_table(tables, "r", "sightings", [sighting(JANUARY[0], 0)], into=True, dates=(str(JANUARY[0]),)),
        stage_changes(tables, "r", "index_feed", [("insert", feed(1, "one")), ("delete", feed(-1, "one"))], into=True),
    ]

    def looked(*_: object) -> None:
        raise AssertionError("the rows were read again")

    monkeypatch.setattr(Landing, "_check_rows", looked)
    tables.check_plan("r", lines)
    tables.write_plan("r", lines)
    tables.apply("r")
    assert tables.version("sightings") == 1


def test_a_column_that_is_missing_or_of_another_type_is_found_before_the_run_is_prepared(tables: Landing) -> None:
    staged = tables.stage("r", "feed_ids", table_frame(tables.spark, "feed_ids", [feed_id(1)]))
    line = StagedTable("feed_ids", "feed_ids", 1)
    for other, told in (
        (staged.withColumn("feed_id", f.col("feed_id").cast("string")), "column feed_id bigint, found string"),
        (staged.drop("collided"), "column collided boolean, found none of that name"),
    ):
        tables.stage("other", "feed_ids", other)
        with pytest.raises(RunError, match=f"table feed_ids would refuse what is staged: expected {told}"):
            tables.check_plan("other", [line])
    tables.check_plan("r", [line])


def test_a_table_is_read_at_the_version_asked_for_and_empty_where_there_is_none(
    spark: SparkSession, landing: Landing
) -> None:
    assert landing.version("feed_ids") == -1
    assert landing.read("feed_ids").collect() == []
    landing.ensure_tables(["feed_ids", "embeddings"])
    for number in range(1, 4):
        landing.append("feed_ids", [feed_id(number)])
        assert landing.version("feed_ids") == number
    history = DeltaTable.forPath(spark, landing.path("feed_ids")).history().select("version").collect()
    assert max(row.version for row in history) == 3
    for version in range(4):
        assert {row.feed_id for row in landing.read("feed_ids", version).collect()} == set(range(1, version + 1))
    assert {row.feed_id for row in landing.read("feed_ids").collect()} == {1, 2, 3}
    assert landing.read("feed_ids").columns == list(TABLES["feed_ids"].column_names)
    # Partition values are text, also where they look like numbers.
    landing.append("embeddings", [{"image_id": digest("1"), "model_version": "0012", "vector": [1.0], "run_id": "r"}])
    assert [row.model_version for row in landing.read("embeddings").collect()] == ["0012"]


# Changes ------------------------------------------------------------------------------------------------------------


def random_rows(chance: random.Random, table: str) -> Rows:
    if table == "index_feed":
        made = [feed(number, chance.choice("ab")) for number in range(40)]
    else:
        made = [state(number, chance.choice([None, "a", "b"])) for number in range(40)]
        for row in made:
            row["image_id"] = chance.choice([None, digest("x")])
    return chance.sample(made, 28)


@pytest.mark.parametrize("table", ["url_state", "index_feed"])
def test_changes_are_the_least_that_turns_the_old_rows_into_the_new(spark: SparkSession, table: str) -> None:
    chance = random.Random(9)
    old, new = random_rows(chance, table), random_rows(chance, table)
    key = TABLES[table].keys[0]
    before, after = ({row[key]: row for row in rows} for rows in (old, new))
    expected = {(number, "insert") for number in after.keys() - before.keys()}
    expected |= {(number, "delete") for number in before.keys() - after.keys()}
    expected |= {(number, "update") for number in after.keys() & before.keys() if after[number] != before[number]}
    assert {kind for _, kind in expected} == {"insert", "delete", "update"}

    found = local_copy(changes(table_frame(spark, table, old), table_frame(spark, table, new), TABLES[table]))
    assert found.columns == [*TABLES[table].column_names, CHANGE]
    rows = [(row[key], row[CHANGE]) for row in found.collect()]
    assert len(rows) == len(set(rows))
    assert set(rows) == expected
    written = found.where(f.col(CHANGE) != "delete").drop(CHANGE)
    upserts = [after[number] for number, kind in expected if kind != "delete"]
    assert sorted(map(repr, written.collect())) == wanted(spark, table, upserts)


def test_changes_of_nothing_to_rows_and_back_are_inserts_and_deletes(spark: SparkSession) -> None:
    table = TABLES["url_state"]
    none, some = table_frame(spark, "url_state", []), table_frame(spark, "url_state", [state(1, None)])
    for old, new, kinds in ((none, some, ["insert"]), (some, none, ["delete"]), (some, some, []), (none, none, [])):
        assert [row[CHANGE] for row in changes(old, new, table).collect()] == kinds
