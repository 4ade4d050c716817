"""Paths are what they are: no character of a name is taken for something else."""

import datetime as dt
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Event, Ledger
from jobs.warehouse.storage import Storage, local_path
from lensfeed.snapshot import Snapshot
from schemas.tables import PUBLISHED

ODD = ["a#b", "a?b=c", "50%20", "100%", "a+b c", "[1]{2}*", "a:b", "s3:x", "a\\b", "ü;&", "%41#?:[x] +*"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *[(name, Path(name)) for name in ODD],
        ("/x/a#b?c%20", Path("/x/a#b?c%20")),
        ("file:/x/a#b", Path("/x/a#b")),
        ("file:///x/50%20?", Path("/x/50%20?")),
        ("s3a://bucket/a#b", None),
        ("hdfs:///x", None),
    ],
)
def test_a_local_path_is_told_from_another_file_systems(address: str, expected: Path | None) -> None:
    assert local_path(address) == expected


@pytest.mark.spark
def test_a_warehouse_of_any_name_is_written_and_read(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ODD:
        root = tmp_path / name / "w" / name
        landing = Landing(spark, str(root))
        landing.ensure_tables(["runs"])
        ledger = Ledger(landing, 1).load()
        for number in (1, 2):
            event = Event(f"run-{number}", "nightly", "published", (dt.date(2026, 1, 1),), 1)
            ledger.append(Event(**(vars(event) | {"table_versions": dict.fromkeys(PUBLISHED, -1)})))
        assert [event.run_id for event in Ledger(landing, 1).load().events] == ["run-1", "run-2"], name
        assert landing.stage("run", "x", spark.range(3)).count() == 3, name
        files = [row["file"] for row in landing.files("runs").select("file").collect()]
        assert landing.read_files("runs", files).count() == 2, name
        landing.storage.write_text("text", "_x", "a.json")
        assert landing.storage.read_text("_x", "a.json") == "text", name
        assert root.joinpath("_x", "a.json").read_text() == "text", name
        assert Snapshot.open(str(root)).run_id == "run-2", name
        assert Snapshot.open(landing.storage.root).run_id == "run-2", name


@pytest.mark.spark
def test_a_relative_path_with_a_colon_has_no_scheme(spark: SparkSession, tmp_path: Path) -> None:
    # The JVM's working directory is its own: only the name that it makes of the path can be looked at.
    assert Storage(spark, "s3:x/y").root.endswith("/s3:x/y")
    assert Storage(spark, "a:b").root.startswith("file:/")
    assert Storage(spark, f"file://{tmp_path}/a:b").root == f"file:{tmp_path}/a:b"
