"""What a night says beforehand, and that saying it does nothing."""

import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from jobs.config.progress import log
from jobs.nightly import main
from jobs.run.preview import MOST_SHOWN, _counted, _told
from lensfeed.snapshot import Snapshot, SnapshotError
from tests.e2e.small import DAYS, small_world

pytestmark = pytest.mark.spark

DAY = DAYS[0]


def test_a_dry_run_tells_what_the_manifest_holds_and_touches_nothing(
    tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_world(tmp_path) as small:
        for path, fields in {
            "/a.jpg": {},
            "/b.jpg": {"title": "Nude, sitting"},
            "/c.jpg": {"license": "all-rights-reserved"},
            "/d.jpg": {"license": "cc-by-nd"},
        }.items():
            small.row(DAY, path, **fields)
        small.row(DAY, "/a.jpg", title="again")
        small.rows[DAY].append({"url": "\x1b[2Jnot a url"})
        small.write_manifest(DAY)
        warehouse = tmp_path / "warehouse"
        arguments = [*small.arguments(warehouse), "--date", str(DAY)]

        assert main([*arguments, "--dry-run"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert small.site.requests_on(DAY) == {}
        assert not warehouse.exists()
        assert lines[0] == f"{DAY}: run, not published yet"
        assert lines[1] == "manifest (jsonl): 6 rows"
        assert lines[2].split() == ["6", f"{DAY}.jsonl"]
        assert [line.strip() for line in lines[4:-2]] == [
            "2  blocked, not fetched: licence_not_allowed",
            "2  to be fetched",
            lines[6].strip(),
            "1  review, fetched all the same: text_sensitive",
        ]
        assert lines[6].strip().startswith("1  failed, bad_row: url: ")
        assert all(line.isprintable() for line in lines)
        assert lines[-2] == "to be asked for: at most 2 URLs of 1 hosts"

        assert main([*arguments, "--dry-run", "--retry-failed"]) == 2
        # A user agent that is a placeholder is refused beforehand as it would be in the night.
        row = {"url": "http://pictures.example.org/a.jpg"}
        (tmp_path / "manifests" / f"{DAYS[1]}.jsonl").write_text(json.dumps(row) + "\n")
        assert main([*small.arguments(warehouse), "--date", str(DAYS[1]), "--dry-run"]) == 2
        assert not warehouse.exists()


def test_a_night_under_a_placeholder_asks_no_stranger_and_publishes_nothing(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "error", lambda template, *values: said.append(template % values))
    with small_world(tmp_path) as small:
        small.row(DAY, "/a.jpg")
        small.rows[DAY].append({"url": "http://pictures.example.org/a.jpg"})
        warehouse = tmp_path / "warehouse"
        assert small.night(DAY, warehouse) == 2
        assert small.site.requests_on(DAY) == {}
        assert said[0].startswith("error: crawl.user_agent: expected a name, a version, ")
        assert said[0].endswith("and pictures.example.org would be asked by that")
        assert not any((warehouse / "_staging").glob("*"))


def test_a_manifest_of_paths_is_refused_before_and_in_the_night_and_an_empty_one_is_not(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "error", lambda template, *values: said.append(template % values))
    with small_world(tmp_path) as small:
        small.rows[DAY] = [{"url": "/home/me/a.jpg"}, {"url": "b.jpg"}]
        warehouse = tmp_path / "warehouse"
        assert small.night(DAY, warehouse, "--dry-run") == 1
        assert small.night(DAY, warehouse) == 1
        assert all("none of its 2 rows has a usable URL" in line and "'/home/me/a.jpg'" in line for line in said)
        assert len(said) == 2
        assert small.site.requests_on(DAY) == {}
        with pytest.raises(SnapshotError):
            Snapshot.open(str(warehouse))
        small.rows[DAY] = []
        assert small.night(DAY, warehouse) == 0


def test_of_many_groups_the_rest_is_counted(spark: SparkSession) -> None:
    rows = spark.range(100).selectExpr("concat('file ', least(id, 29)) AS source_file")
    counted = _counted(rows, f.col("source_file"))
    assert counted.groups[0] == ("file 29", 71)
    assert len(counted.groups) == MOST_SHOWN
    assert (counted.more_groups, counted.more_rows) == (10, 10)
    assert list(_told(counted, "files"))[-1].split() == ["10", "in", "10", "more", "files"]
