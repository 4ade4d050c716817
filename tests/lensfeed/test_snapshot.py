"""A snapshot shows exactly what a published run made visible, whatever else lies in the warehouse's folders."""

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from lensfeed.snapshot import Snapshot, SnapshotError, SnapshotGoneError, arrow_schema, ledger_events
from schemas.tables import INDEX_FEED, PUBLISHED, TABLES
from tests.lensfeed.tiny_warehouse import DAY, TinyWarehouse, delta_metadata, feed_row, image_id

NEXT_DAY = DAY + dt.timedelta(days=1)


def feed_ids(snapshot: Snapshot) -> list[int]:
    return sorted(snapshot.rows("index_feed", ["feed_id"])["feed_id"].to_pylist())


def sighting_row(date: dt.date, number: int) -> dict[str, Any]:
    return {
        "ingest_date": date,
        "source_file": "part-0.jsonl",
        "row_number": number,
        "url": f"https://pictures.example/{number}.jpg",
        "tags": ["red", "shoe"],
        "attributes": [("colour", "red")],
        "outcome": "accepted",
        "reasons": [],
        "image_id": image_id(number),
        "not_modified": False,
        "state_effect": "content",
        "policy_version": "policy-1",
        "run_id": "run",
    }


def test_rows_are_the_live_rows_and_not_what_lies_on_disk(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(n) for n in range(10)])
    warehouse.write("index_feed", [feed_row(n) for n in range(4)], overwrite=True)
    warehouse.delete("index_feed", "feed_id", 2)
    warehouse.event("run", "published")
    snapshot = Snapshot.open(str(warehouse.root))
    on_disk = sum(parquet.read_table(p).num_rows for p in (warehouse.root / "index_feed").glob("*.parquet"))
    assert on_disk == 17
    assert feed_ids(snapshot) == [0, 1, 3]
    assert snapshot.row_count("index_feed") == 3
    assert sum(parquet.read_table(path).num_rows for path in snapshot.files("index_feed")) == 3


@pytest.fixture
def killed(warehouse: TinyWarehouse) -> Snapshot:
    """A feed of nine live rows, some in files in which others are dead, one of those wholly; and one row in a file of
    its own that was dead in another before."""
    warehouse.write("index_feed", [feed_row(n) for n in range(8)])
    warehouse.write("index_feed", [feed_row(n) for n in (8, 9)])
    warehouse.write("index_feed", [feed_row(n) for n in (10, 11)])
    warehouse.kill("index_feed", [1, 2])
    warehouse.kill("index_feed", [7, 10, 11])
    warehouse.write("index_feed", [feed_row(2, title="anew")])
    warehouse.event("run", "published")
    warehouse.kill("index_feed", [9])
    return Snapshot.open(warehouse.root)


KILLED = [0, 2, 3, 4, 5, 6, 8, 9]


@pytest.mark.parametrize("least", range(-1, 10))
def test_of_files_with_dead_rows_the_row_groups_alone_are_read_that_may_have_what_is_asked_for(
    warehouse: TinyWarehouse, least: int
) -> None:
    warehouse.write("index_feed", [feed_row(n) for n in range(8)])  # four row groups
    warehouse.kill("index_feed", [1, 2, 7])
    warehouse.event("run", "published")
    snapshot = Snapshot.open(warehouse.root)
    (path,) = snapshot.files("index_feed")
    groups = parquet.read_metadata(path)
    content = bytearray(Path(path).read_bytes())
    for number in range(groups.num_row_groups):
        if 2 * number + 1 <= least:
            columns = [groups.row_group(number).column(n) for n in range(groups.num_columns)]
            start = min(column.dictionary_page_offset or column.data_page_offset for column in columns)
            length = sum(column.total_compressed_size for column in columns)
            content[start : start + length] = bytes(length)
    Path(path).write_bytes(content)
    found = snapshot.rows("index_feed", ["title", "feed_id"], where=pc.field("feed_id") > least)
    assert found["feed_id"].to_pylist() == [n for n in (0, 3, 4, 5, 6) if n > least]
    assert found["title"].to_pylist() == [f"picture {n}" if n % 2 == 0 else None for n in (0, 3, 4, 5, 6) if n > least]


def test_rows_that_are_dead_in_files_that_stay_are_left_out(killed: Snapshot) -> None:
    assert feed_ids(killed) == KILLED
    assert killed.row_count("index_feed") == len(KILLED)
    (anew,) = killed.rows("index_feed", ["title"], pc.field("feed_id") == 2).to_pylist()
    assert anew == {"title": "anew"}
    on_disk = [parquet.read_table(path, columns=["feed_id", "row_id"]) for path in killed.files("index_feed")]
    rows = [row for table in on_disk for row in table.to_pylist()]
    dead = {row["row_id"] for row in rows} - set(killed.rows("index_feed", ["row_id"])["row_id"].to_pylist())
    assert len(rows) == 13
    assert sorted(killed.dead_row_ids("index_feed").tolist()) == sorted(dead)
    live = killed.live_files("index_feed")
    assert live is not None
    groups = [
        live.row_group(path, number, ["title", "feed_id"], use_threads=False)
        for path in live.dataset.files
        for number in range(parquet.read_metadata(f"{killed.warehouse}/index_feed/{path}").num_row_groups)
    ]
    assert [row for group in groups for row in group.to_pylist()] == killed.rows(
        "index_feed", ["title", "feed_id"]
    ).to_pylist()
    assert sorted(row["feed_id"] for row in rows if row["row_id"] in dead) == [1, 2, 7, 10, 11]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (pc.field("feed_id") < 5, [0, 2, 3, 4]),
        (pc.field("feed_id").isin([1, 7, 10]), []),
        (pc.field("title").is_null(), [3, 5, 9]),
        (pc.field("text_id") == "x", []),
        (pc.field("row_id") > 0, KILLED),
    ],
)
def test_a_condition_is_asked_of_live_rows_only(killed: Snapshot, where: Any, expected: list[int]) -> None:
    for columns in (["feed_id"], ["feed_id", "vector"], ["width", "feed_id"]):
        found = killed.rows("index_feed", columns, where)
        assert found.column_names == columns
        assert sorted(found["feed_id"].to_pylist()) == expected


def test_the_dataset_of_a_table_with_dead_rows_has_the_live_ones(killed: Snapshot) -> None:
    dataset = killed.dataset("index_feed")
    assert dataset is not None
    assert sorted(dataset.to_table(columns=["feed_id"])["feed_id"].to_pylist()) == KILLED
    few = dataset.to_table(columns=["title"], filter=pc.field("feed_id") < 3)
    assert sorted(few["title"].to_pylist()) == ["anew", "picture 0"]
    assert dataset.count_rows() == len(KILLED)
    assert pl.scan_pyarrow_dataset(dataset).select(pl.col("feed_id").sort()).collect()["feed_id"].to_list() == KILLED


def test_of_a_table_whose_rows_have_no_names_the_dataset_has_the_live_ones_and_nothing_else_is_given(
    warehouse: TinyWarehouse,
) -> None:
    def rows(*numbers: int) -> list[dict[str, Any]]:
        place = {"rule_version": "rule", "hamming": 0, "hamming256": 0, "group_id": "g", "first_seen": DAY}
        named = [{"image_id": image_id(n), "representative_id": image_id(n)} for n in numbers]
        return [one | place | {"source_pixels": 4} for one in named]

    for numbers in (range(4), (4, 5), (6,), (7,)):
        warehouse.write("clusters", rows(*numbers))
    warehouse.event("before", "published")
    warehouse.kill("clusters", [image_id(2), image_id(4), image_id(6)])
    warehouse.event("run", "published")
    live = [image_id(n) for n in (0, 1, 3, 5, 7)]
    snapshot = Snapshot.open(warehouse.root)
    assert sorted(snapshot.rows("clusters", ["image_id"])["image_id"].to_pylist()) == sorted(live)
    dataset = snapshot.dataset("clusters")
    assert dataset is not None
    for _ in range(2):
        assert sorted(dataset.to_table(columns=["image_id"])["image_id"].to_pylist()) == sorted(live)
    assert dataset.count_rows(filter=pc.field("image_id") == image_id(2)) == 0
    whole = Snapshot.open(warehouse.root, "before").dataset("clusters")
    assert whole is not None
    assert dataset.schema == whole.schema
    found = pl.scan_pyarrow_dataset(dataset).select(pl.col("image_id").sort()).collect()
    assert found["image_id"].to_list() == sorted(live)
    with pytest.raises(SnapshotError, match="clusters has 3 dead rows in its files, and no column row_id"):
        snapshot.dead_row_ids("clusters")
    assert Snapshot.open(warehouse.root, "before").dead_row_ids("clusters").tolist() == []


def test_the_newest_published_run_is_opened_with_its_facts(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(1)])
    warehouse.event("first", "published")
    warehouse.event("second", "published", ingest_dates=[DAY, NEXT_DAY], model_version="model-2")
    snapshot = Snapshot.open(str(warehouse.root))
    assert (snapshot.run_id, snapshot.seq, snapshot.job, snapshot.model_version) == ("second", 2, "nightly", "model-2")
    assert snapshot.ingest_dates == (DAY, NEXT_DAY)
    assert snapshot.published_at == dt.datetime(2026, 2, 1, 3, 2, tzinfo=dt.UTC)
    assert snapshot.table_versions == dict.fromkeys(PUBLISHED, -1) | {"index_feed": 0}


def test_the_reader_of_an_older_run_sees_the_older_rows(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(n) for n in (1, 2)])
    warehouse.event("first", "published")
    older = Snapshot.open(str(warehouse.root))
    warehouse.delete("index_feed", "feed_id", 1)
    warehouse.write("index_feed", [feed_row(3)])
    warehouse.event("second", "published")
    assert feed_ids(older) == feed_ids(Snapshot.open(str(warehouse.root), "first")) == [1, 2]
    assert feed_ids(Snapshot.open(str(warehouse.root))) == [2, 3]


def test_a_run_that_is_only_prepared_does_not_show(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(1)])
    warehouse.event("first", "published")
    warehouse.event("second", "started")
    warehouse.event("second", "prepared")
    warehouse.write("index_feed", [feed_row(2)])
    snapshot = Snapshot.open(str(warehouse.root))
    assert snapshot.run_id == "first"
    assert feed_ids(snapshot) == [1]
    with pytest.raises(SnapshotError, match=r"'second' is not published \(its last event: prepared\).*\['first'\]"):
        Snapshot.open(str(warehouse.root), "second")


def test_an_unknown_run_is_named_with_the_newest_published_ones(warehouse: TinyWarehouse) -> None:
    for number in range(7):
        warehouse.event(f"run-{number}", "published")
    with pytest.raises(SnapshotError, match=r"'nonsense' is unknown.*\['run-6', 'run-5', 'run-4', 'run-3', 'run-2'\]"):
        Snapshot.open(str(warehouse.root), "nonsense")


def test_a_folder_without_a_ledger_is_no_warehouse(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SnapshotError, match=f"no warehouse at {place}: expected the ledger.*{place}/runs"):
            Snapshot.open(str(place))
    assert not (tmp_path / "nowhere").exists()


def test_no_name_is_not_the_working_directory(warehouse: TinyWarehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse.event("run", "published")
    monkeypatch.chdir(warehouse.root)
    with pytest.raises(SnapshotError, match="warehouse: expected a path or URI, found ''"):
        Snapshot.open("")
    with pytest.raises(SnapshotError, match="warehouse: expected a path or URI, found ''"):
        ledger_events("")
    assert Snapshot.open(".").run_id == "run"


def test_a_warehouse_without_a_published_run_says_so(warehouse: TinyWarehouse) -> None:
    warehouse.event("first", "started")
    with pytest.raises(SnapshotError, match="no run is published yet"):
        Snapshot.open(str(warehouse.root))


@pytest.mark.parametrize("prefix", ["file:", "file://"])
def test_a_warehouse_may_be_named_as_hadoop_names_it(warehouse: TinyWarehouse, prefix: str) -> None:
    warehouse.write("index_feed", [feed_row(1)])
    warehouse.event("run", "published")
    assert feed_ids(Snapshot.open(f"{prefix}{warehouse.root}/")) == [1]


@pytest.mark.parametrize("table", PUBLISHED)
def test_every_table_reads_back_as_written_under_the_types_of_schemas(warehouse: TinyWarehouse, table: str) -> None:
    described = TABLES[table]
    values: dict[str, Any] = {
        "string": "text",
        "binary": b"\x00\xff",
        "boolean": True,
        "int": -5,
        "bigint": 2**62 + 1,
        "double": 0.1,
        "date": DAY,
        "timestamp": dt.datetime(2026, 2, 1, 3, 4, 5, 678901, tzinfo=dt.UTC),
        "array<string>": ["a", "b"],
        "array<binary>": [b"\x00\xff", b""],
        "array<bigint>": [-(2**63), 2**62 + 1],
        "array<float>": [0.5, -0.25],
        "map<string,string>": [("a", "b")],
        "map<string,double>": [("a", 0.1)],
        "map<string,bigint>": [("a", 2**40)],
    }
    full = {c.name: values[c.type] for c in described.columns}
    sparse = {c.name: None if c.nullable else values[c.type] for c in described.columns}
    warehouse.write(table, [full, sparse])
    warehouse.event("run", "published")
    rows = Snapshot.open(str(warehouse.root)).rows(table)
    assert rows.schema == arrow_schema(described)
    assert [field.nullable for field in rows.schema] == [c.nullable for c in described.columns]
    assert rows.to_pylist() == [full, sparse]


def test_partition_columns_come_back_and_restrict_what_is_read(warehouse: TinyWarehouse) -> None:
    warehouse.write("sightings", [sighting_row(date, number) for date in (DAY, NEXT_DAY) for number in (0, 1)])
    warehouse.event("run", "published")
    snapshot = Snapshot.open(str(warehouse.root))
    keys = snapshot.rows("sightings", ["row_number", "ingest_date"]).to_pylist()
    expected = [{"row_number": n, "ingest_date": date} for date in (DAY, NEXT_DAY) for n in (0, 1)]
    assert sorted(keys, key=lambda k: (k["ingest_date"], k["row_number"])) == expected
    for file in (warehouse.root / "sightings" / f"ingest_date={DAY}").iterdir():
        file.unlink()
    only = snapshot.rows("sightings", ["url", "ingest_date"], pc.field("ingest_date") == NEXT_DAY)
    assert only["ingest_date"].to_pylist() == [NEXT_DAY, NEXT_DAY]


def test_columns_come_in_the_order_asked_for_and_conditions_may_use_others(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(n) for n in range(4)])
    warehouse.event("run", "published")
    rows = Snapshot.open(str(warehouse.root)).rows("index_feed", ["title", "feed_id"], pc.field("has_text"))
    assert rows.column_names == ["title", "feed_id"]
    assert rows["feed_id"].to_pylist() == [0, 2]


def test_an_unknown_column_or_table_is_named_with_the_known_ones(warehouse: TinyWarehouse) -> None:
    warehouse.event("run", "published")
    snapshot = Snapshot.open(str(warehouse.root))
    with pytest.raises(SnapshotError, match=r"index_feed has no column \['colour'\]; it has \['feed_id'"):
        snapshot.rows("index_feed", ["feed_id", "colour"])
    with pytest.raises(SnapshotError, match=r"unknown table 'feeds'; known: \['clusters'"):
        snapshot.rows("feeds")


def test_the_ledger_is_read_as_it_was_when_the_run_was_published(warehouse: TinyWarehouse) -> None:
    warehouse.event("first", "started")
    warehouse.event("first", "published")
    warehouse.event("second", "started")
    snapshot = Snapshot.open(warehouse.root)
    rows = snapshot.rows("runs", ["run_id", "event"]).to_pylist()
    assert sorted(row["event"] for row in rows) == ["published", "started"]
    assert {row["run_id"] for row in rows} == {"first"}
    assert snapshot.row_count("runs") == 2
    assert snapshot.rows("runs", ["seq"], pc.field("event") == "published").to_pylist() == [{"seq": 2}]


def test_a_table_is_given_as_pandas_and_as_an_arrow_dataset(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(n) for n in range(4)])
    warehouse.event("run", "published")
    warehouse.delete("index_feed", "feed_id", 3)
    snapshot = Snapshot.open(warehouse.root)
    frame = snapshot.pandas("index_feed", ["feed_id", "title"], pc.field("has_text"))
    assert frame.to_dict("list") == {"feed_id": [0, 2], "title": ["picture 0", "picture 2"]}
    dataset = snapshot.dataset("index_feed")
    assert dataset is not None
    assert sorted(dataset.to_table(columns=["feed_id"])["feed_id"].to_pylist()) == [0, 1, 2, 3]
    assert snapshot.dataset("images") is None


@pytest.mark.parametrize("columns", [[], (), "feed_id", ["feed_id", "feed_id"]])
def test_no_columns_a_bare_name_and_one_named_twice_are_refused(warehouse: TinyWarehouse, columns: Any) -> None:
    warehouse.write("index_feed", [feed_row(1)])
    warehouse.event("run", "published")
    snapshot = Snapshot.open(str(warehouse.root))
    for read in (snapshot.rows, snapshot.batches):
        with pytest.raises(
            SnapshotError, match="columns of index_feed: expected a list of one or more different names"
        ):
            read("index_feed", columns)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (pc.field("colour") == 1, r"where: table index_feed cannot be asked \(colour == 1\).*it has \['feed_id'"),
        (pc.field("feed_id") == "one", "where: table index_feed cannot be asked"),
        ("feed_id = 1", "where: expected a pyarrow expression, .*found 'feed_id = 1'"),
    ],
)
def test_a_condition_that_cannot_be_evaluated_is_refused_before_the_first_batch(
    warehouse: TinyWarehouse, where: Any, expected: str
) -> None:
    warehouse.write("index_feed", [feed_row(1)])
    warehouse.event("run", "published")
    with pytest.raises(SnapshotError, match=expected):
        Snapshot.open(str(warehouse.root)).batches("index_feed", where=where)


def test_an_unknown_table_is_refused_before_the_first_batch(warehouse: TinyWarehouse) -> None:
    warehouse.event("run", "published")
    with pytest.raises(SnapshotError, match="unknown table 'feeds'"):
        Snapshot.open(str(warehouse.root)).batches("feeds")


@pytest.mark.parametrize(
    "name",
    [
        "50%20",
        "%2Fetc",
        "100%",
        "a#b",
        "a?b=c",
        "a+b &c",
        "[1]{2}*",
        "a:b",
        "s3:x",
        "a\\b",
        "a;b",
        "ü ~",
        "a\nb",
        "50%20\\#?:",
    ],
)
def test_a_warehouse_may_have_any_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = TinyWarehouse(tmp_path / name / "w" / name)
    warehouse.write("index_feed", [feed_row(n) for n in (1, 2)])
    warehouse.delete("index_feed", "feed_id", 2)
    warehouse.write("sightings", [sighting_row(DAY, 0)])
    warehouse.event("run", "published")
    monkeypatch.chdir(tmp_path / name)
    for place in (str(warehouse.root), f"file:{warehouse.root}", f"w/{name}"):
        snapshot = Snapshot.open(place)
        assert feed_ids(snapshot) == [1]
        assert snapshot.rows("sightings", ["ingest_date"])["ingest_date"].to_pylist() == [DAY]
        assert all(Path(path).is_file() for path in snapshot.files("index_feed"))


def test_a_table_that_did_not_exist_yet_is_empty(warehouse: TinyWarehouse) -> None:
    warehouse.event("run", "published")
    warehouse.write("index_feed", [feed_row(1)])
    snapshot = Snapshot.open(str(warehouse.root))
    assert snapshot.rows("index_feed").schema == arrow_schema(INDEX_FEED)
    assert (snapshot.rows("index_feed").num_rows, snapshot.row_count("index_feed")) == (0, 0)
    assert snapshot.files("index_feed") == []


def test_vacuumed_files_are_reported_as_gone(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(n) for n in range(4)])
    warehouse.event("first", "published")
    warehouse.delete("index_feed", "feed_id", 1)
    warehouse.event("second", "published")
    warehouse.vacuum("index_feed")
    older = Snapshot.open(str(warehouse.root), "first")
    for read in (older.rows, older.row_count):
        with pytest.raises(SnapshotGoneError, match="index_feed at version 0, published by run 'first'"):
            read("index_feed")
    assert feed_ids(Snapshot.open(str(warehouse.root))) == [0, 2, 3]


def test_a_file_of_the_ledger_that_is_gone_is_reported_as_gone(warehouse: TinyWarehouse) -> None:
    warehouse.event("run", "published")
    snapshot = Snapshot.open(str(warehouse.root))
    for file in (warehouse.root / "runs").glob("*.parquet"):
        file.unlink()
    for read in (
        lambda: snapshot.rows("runs"),
        lambda: snapshot.row_count("runs"),
        lambda: Snapshot.open(warehouse.root),
    ):
        with pytest.raises(SnapshotGoneError, match=r"a file of the ledger .* is not there"):
            read()


def test_a_version_whose_log_is_gone_is_reported_as_gone(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(1)])
    warehouse.event("run", "published")
    snapshot = Snapshot.open(str(warehouse.root))
    (warehouse.root / "index_feed" / "_delta_log" / f"{0:020}.json").unlink()
    with pytest.raises(SnapshotGoneError, match="index_feed at version 0"):
        snapshot.files("index_feed")


def commit(warehouse: TinyWarehouse, *actions: dict[str, Any]) -> None:
    """Publishes a feed whose version 1 consists of the actions."""
    warehouse.write("index_feed", [feed_row(1)])
    log = warehouse.root / "index_feed" / "_delta_log" / f"{1:020}.json"
    log.write_text("\n".join(json.dumps(action) for action in actions))
    versions = dict.fromkeys(PUBLISHED, -1) | {"index_feed": 1}
    warehouse.event("run", "published", table_versions=list(versions.items()))


def test_missing_and_extra_columns_are_listed_with_what_was_expected_and_found(warehouse: TinyWarehouse) -> None:
    metadata = delta_metadata(INDEX_FEED)
    schema = json.loads(metadata["schemaString"])
    schema["fields"] = [f for f in schema["fields"] if f["name"] != "sharpness"]
    schema["fields"].append({"name": "score", "type": "double", "nullable": True, "metadata": {}})
    schema["fields"][0]["type"] = "string"
    commit(warehouse, {"metaData": metadata | {"schemaString": json.dumps(schema)}})
    snapshot = Snapshot.open(str(warehouse.root))
    expected = r"missing \['feed_id bigint', 'sharpness double'\], unexpected \['feed_id string', 'score double'\]"
    with pytest.raises(SnapshotError, match=expected):
        snapshot.rows("index_feed")


def test_a_nullable_column_that_a_later_release_added_is_null_in_what_was_there(warehouse: TinyWarehouse) -> None:
    metadata = delta_metadata(INDEX_FEED)
    schema = json.loads(metadata["schemaString"])
    schema["fields"] = [f for f in schema["fields"] if f["name"] != "language"]
    commit(warehouse, {"metaData": metadata | {"schemaString": json.dumps(schema)}})
    for path in (warehouse.root / "index_feed").glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["language"]), path)
    rows = Snapshot.open(str(warehouse.root)).rows("index_feed", ["feed_id", "language"])
    assert rows.to_pylist() == [{"feed_id": 1, "language": None}]


@pytest.mark.parametrize("writer_features", [None, ["checkConstraints", "changeDataFeed", "appendOnly", "invariants"]])
def test_writer_features_do_not_keep_readers_out(warehouse: TinyWarehouse, writer_features: list[str] | None) -> None:
    protocol: dict[str, Any] = {"minReaderVersion": 1, "minWriterVersion": 4}
    if writer_features is not None:
        protocol = {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": writer_features}
    metadata = delta_metadata(INDEX_FEED, **{"delta.checkpointInterval": "20"})
    assert metadata["configuration"]["delta.enableChangeDataFeed"] == "true"
    assert "delta.constraints.feed_id_positive" in metadata["configuration"]
    commit(warehouse, {"protocol": protocol}, {"metaData": metadata})
    assert feed_ids(Snapshot.open(str(warehouse.root))) == [1]


@pytest.mark.parametrize(
    ("protocol", "named"),
    [
        (
            {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["columnMapping", "deletionVectors"]}
            | {"writerFeatures": ["columnMapping", "deletionVectors"]},
            "columnMapping",
        ),
        ({"minReaderVersion": 2, "minWriterVersion": 5}, "columnMapping"),
    ],
)
def test_tables_whose_files_do_not_tell_their_rows_are_refused(
    warehouse: TinyWarehouse, protocol: dict[str, Any], named: str
) -> None:
    commit(warehouse, {"protocol": protocol}, {"metaData": delta_metadata(INDEX_FEED)})
    with pytest.raises(SnapshotError, match=f"index_feed needs the Delta reader features \\['{named}'\\]"):
        Snapshot.open(str(warehouse.root)).rows("index_feed")


def test_a_null_that_may_not_be_is_refused(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(1), feed_row(2)])
    warehouse.event("run", "published")
    snapshot = Snapshot.open(str(warehouse.root))
    (path,) = snapshot.files("index_feed")
    rows = parquet.read_table(path)
    index = rows.column_names.index("vector")
    parquet.write_table(rows.set_column(index, "vector", pa.nulls(2, pa.list_(pa.float32()))), path)
    with pytest.raises(SnapshotError, match="column vector of table index_feed may not be null: found 2 nulls"):
        snapshot.rows("index_feed")


def test_credentials_are_not_shown(warehouse: TinyWarehouse) -> None:
    warehouse.event("run", "published")
    assert "hush" not in repr(Snapshot.open(str(warehouse.root), storage_options={"AWS_SECRET_ACCESS_KEY": "hush"}))


def test_importing_the_readers_needs_neither_spark_nor_torch() -> None:
    code = (
        "import sys, lensfeed.snapshot, lensfeed.feed, lensfeed.loaders;"
        "sys.exit(str({'pyspark', 'torch', 'petastorm'} & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_files_that_delta_rs_opens_read_like_local_ones(
    warehouse: TinyWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.write("sightings", [sighting_row(date, number) for date in (DAY, NEXT_DAY) for number in (0, 1)])
    warehouse.event("run", "published")
    local = Snapshot.open(str(warehouse.root))
    expected = local.rows("sightings")
    monkeypatch.setattr("lensfeed.snapshot._is_local", lambda _: False)
    remote = Snapshot.open(str(warehouse.root))
    assert remote == local
    assert remote.rows("sightings").equals(expected)
    assert remote.row_count("sightings") == 4


def test_a_process_that_has_read_through_delta_rs_exits_cleanly(warehouse: TinyWarehouse) -> None:
    warehouse.event("run", "published")
    code = (
        "import sys, lensfeed.snapshot as snapshot;"
        "snapshot._is_local = lambda place: False;"
        "snapshot.Snapshot.open(sys.argv[1])"
    )
    # Read on Arrow's threads, about two of five such processes abort at exit: several are asked.
    processes = [subprocess.Popen([sys.executable, "-c", code, str(warehouse.root)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0] * 3


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("overwrite"), st.integers(1, 4)),
        st.tuples(st.just("delete"), st.integers(0, 30)),
        st.tuples(st.just("publish"), st.just(0)),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_every_published_run_shows_the_rows_of_its_moment(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    warehouse = TinyWarehouse(tmp_path_factory.mktemp("warehouse"))
    live: list[int] = []
    published: dict[str, list[int]] = {}
    next_id = 0
    for action, number in [("append", 1), *steps, ("publish", 0)]:
        if action in {"append", "overwrite"}:
            added = list(range(next_id, next_id + number))
            next_id += number
            warehouse.write("index_feed", [feed_row(n) for n in added], overwrite=action == "overwrite")
            live = added if action == "overwrite" else live + added
        elif action == "delete":
            warehouse.delete("index_feed", "feed_id", number)
            live = [n for n in live if n != number]
        else:
            run_id = f"run-{len(published)}"
            warehouse.event(run_id, "published")
            published[run_id] = sorted(live)
    assert {run: feed_ids(Snapshot.open(str(warehouse.root), run)) for run in published} == published
