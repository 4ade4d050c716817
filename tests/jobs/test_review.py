"""What goes out to reviewers is what is published."""

import csv
import datetime as dt
import errno
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs import review
from jobs.config.profile import load
from jobs.startup.preflight import check
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Event, Ledger
from schemas.tables import TABLES


def under_review(number: int) -> dict[str, Any]:
    row = dict.fromkeys(TABLES["sightings"].column_names)
    row |= {
        "ingest_date": dt.date(2026, 1, 1), "source_file": "a.jsonl", "row_number": number,
        "url": f"http://a.example/{number}", "title": "=1+1", "outcome": "review",
        "reasons": ["text_sensitive"], "not_modified": False,
        "state_effect": "none", "policy_version": "p", "run_id": "run", "tags": None, "attributes": None,
    }  # fmt: skip
    return row


@pytest.mark.spark
def test_an_export_holds_what_is_published_and_not_what_is_being_applied(
    spark: SparkSession, landing: Landing, warehouse: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["export", "--profile", "conf/local.yaml", "--set", f"warehouse={warehouse}", "--into"]
    file = tmp_path / "review.csv"
    assert review.main([*arguments, str(file)]) == 2  # nothing is published yet
    assert not file.exists()
    assert not warehouse.exists()
    landing.ensure_tables()
    landing.append("sightings", [under_review(1)])
    _, versions = check(load("conf/local.yaml", [f"warehouse={warehouse}"]))
    published = Event("run", "nightly", "published", (dt.date(2026, 1, 1),), 1, table_versions=landing.versions())
    Ledger(landing, 1).append(Event(**(vars(published) | asdict(versions))))
    landing.append("sightings", [under_review(2)])
    assert review.main([*arguments, str(file)]) == 0
    with file.open(newline="", encoding="utf-8") as written:
        (cells,) = csv.DictReader(written)
    assert (cells["subject_id"], cells["title"]) == ("2026-01-01/a.jsonl/1", "'=1+1")


@pytest.mark.parametrize("place", ["folder.csv", "file/review.csv"])
def test_a_place_that_no_file_can_be_written_to_is_refused_before_any_work(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(review, "under_review", None)  # its work
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    assert review.main(["export", "--profile", "conf/local.yaml", "--into", str(tmp_path / place)]) == 2
    assert f"--into {tmp_path / place}: " in capfd.readouterr().err


def test_an_export_that_fails_leaves_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts may have been written into it."""

    class Table:
        def toArrow(self) -> pa.Table:  # noqa: N802 -- pyspark's
            return pa.table({"subject_kind": ["image"]})

    def fills_the_disk(table: pa.Table, path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(review, "under_review", lambda *_: Table())
    monkeypatch.setattr(review, "writer", lambda _: fills_the_disk)
    file = tmp_path / "review.csv"
    file.write_text("verdicts")
    assert review.main(["export", "--profile", "conf/local.yaml", "--into", str(file)]) == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"review.csv": "verdicts"}
