"""What goes out to reviewers and comes back: as published, and safe to open in a spreadsheet."""

import csv
import datetime as dt
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from jobs import review
from jobs.config.profile import load
from jobs.startup.preflight import check
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Event, Ledger
from schemas.tables import TABLES

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\rx", "\nx", " =1", "\u3000=1", "＝1", "＠x", "=cmd|' /C calc'!A0"]


def raw_cells(path: Path) -> list[str]:
    """Cells of the only data row, as a spreadsheet reads them."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1]


def there_and_back(folder: Path, row: dict[str, str]) -> tuple[list[str], dict[str, Any]]:
    path = folder / "review.csv"
    review.write_csv(pa.table({name: [value] for name, value in row.items()}), path)
    (back,) = review._rows(path)
    return raw_cells(path), dict(back)


def row_of(title: str) -> dict[str, str]:
    return {**dict.fromkeys(review.COLUMNS, "x"), "title": title}


@pytest.mark.parametrize("title", [*FORMULAS, *[f"'{title}" for title in FORMULAS]])
def test_what_begins_like_a_formula_goes_out_as_text_and_comes_back_as_it_was(tmp_path: Path, title: str) -> None:
    cells, back = there_and_back(tmp_path, row_of(title))
    assert cells[review.COLUMNS.index("title")] == f"'{title}"
    assert back == row_of(title)


@pytest.mark.parametrize("title", ["", "shoe", "'tis", "''", "a=b", "1-2", "3 @ 4", 'say "x", y', "two\nlines", "’=1"])
def test_any_other_text_goes_out_as_it_is(tmp_path: Path, title: str) -> None:
    cells, back = there_and_back(tmp_path, row_of(title))
    assert cells[review.COLUMNS.index("title")] == title
    assert back == row_of(title)


@given(st.text(st.sampled_from("'=+-@\t\r\n \"a,|\u3000＝é")) | st.text(st.characters(exclude_categories=["Cs"])))
@example("''\t=")
@example(" \r")
def test_every_text_comes_back_and_none_goes_out_as_a_formula(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    cells, back = there_and_back(tmp_path_factory.getbasetemp(), dict.fromkeys(review.COLUMNS, text))
    assert back == dict.fromkeys(review.COLUMNS, text)
    assert all(not cell.lstrip(" \u00a0\u3000").startswith(tuple("=+-@＝＋－＠\t\r\n")) for cell in cells)


def test_a_row_with_a_cell_too_many_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "review.csv"
    path.write_text("subject_kind,subject_id,reasons,verdict,reviewer\nimage,a,b,,\nimage,a,b,allow,me,more\n")
    with pytest.raises(review.UsageError, match="row 2: expected 5 cells, found 6"):
        review.read_verdicts(path)


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
    cells = dict(zip(review.COLUMNS, raw_cells(file), strict=True))
    assert (cells["subject_id"], cells["title"]) == ("2026-01-01/a.jsonl/1", "'=1+1")
    assert len(file.read_text().splitlines()) == 2
