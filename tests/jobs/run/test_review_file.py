"""The file for reviewers comes back as it went out, and is safe to open in a spreadsheet."""

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobs.config.errors import UsageError
from jobs.run import review_file

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\rx", "\nx", " =1", "\u3000=1", "＝1", "＠x", "=cmd|' /C calc'!A0"]


def raw_cells(path: Path) -> list[str]:
    """Cells of the only data row, as a spreadsheet reads them."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1]


def there_and_back(folder: Path, row: dict[str, str]) -> tuple[list[str], dict[str, Any]]:
    path = folder / "review.csv"
    review_file.write_csv(pa.table({name: [value] for name, value in row.items()}), path)
    (back,) = review_file._rows(path)
    return raw_cells(path), dict(back)


def row_of(title: str) -> dict[str, str]:
    return {**dict.fromkeys(review_file.COLUMNS, "x"), "title": title}


@pytest.mark.parametrize("title", [*FORMULAS, *[f"'{title}" for title in FORMULAS]])
def test_what_begins_like_a_formula_goes_out_as_text_and_comes_back_as_it_was(tmp_path: Path, title: str) -> None:
    cells, back = there_and_back(tmp_path, row_of(title))
    assert cells[review_file.COLUMNS.index("title")] == f"'{title}"
    assert back == row_of(title)


@pytest.mark.parametrize("title", ["", "shoe", "'tis", "''", "a=b", "1-2", "3 @ 4", 'say "x", y', "two\nlines", "’=1"])
def test_any_other_text_goes_out_as_it_is(tmp_path: Path, title: str) -> None:
    cells, back = there_and_back(tmp_path, row_of(title))
    assert cells[review_file.COLUMNS.index("title")] == title
    assert back == row_of(title)


@given(st.text(st.sampled_from("'=+-@\t\r\n \"a,|\u3000＝é")) | st.text(st.characters(exclude_categories=["Cs"])))
@example("''\t=")
@example(" \r")
def test_every_text_comes_back_and_none_goes_out_as_a_formula(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    cells, back = there_and_back(tmp_path_factory.getbasetemp(), dict.fromkeys(review_file.COLUMNS, text))
    assert back == dict.fromkeys(review_file.COLUMNS, text)
    assert all(not cell.lstrip(" \u00a0\u3000").startswith(tuple("=+-@＝＋－＠\t\r\n")) for cell in cells)


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Only the last of them would be read."""
    path = tmp_path / "review.csv"
    path.write_text("subject_kind,subject_id,reasons,verdict,reviewer,verdict\nimage,x,a,block,me,\n")
    with pytest.raises(UsageError, match=r"expected columns of different names, found 'verdict' more than once"):
        review_file.read_verdicts(path)


def test_blanks_around_reasons_are_no_part_of_them(tmp_path: Path) -> None:
    path = tmp_path / "review.csv"
    path.write_text("subject_kind,subject_id,reasons,verdict,reviewer\nimage,x, nsfw | text |,allow,me\n")
    (row,) = review_file.read_verdicts(path)
    assert row.reasons == ("nsfw", "text")


def test_reasons_as_a_list_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "review.parquet"
    row = {"subject_kind": "image", "subject_id": "x", "reasons": ["nsfw"], "verdict": "allow", "reviewer": "me"}
    pq.write_table(pa.Table.from_pylist([row]), path)
    with pytest.raises(UsageError, match=r"row 1: reasons: expected a text, found \['nsfw'\]"):
        review_file.read_verdicts(path)


def test_columns_of_others_may_hold_what_python_has_no_type_for(tmp_path: Path) -> None:
    path = tmp_path / "review.parquet"
    row = {"subject_kind": "image", "subject_id": "x", "reasons": "nsfw", "verdict": "allow", "reviewer": "me"}
    table = pa.Table.from_pylist([row]).append_column("asked", pa.array([2**62], pa.timestamp("s")))
    pq.write_table(table, path)
    (found,) = review_file.read_verdicts(path)
    assert (found.subject_id, found.comment) == ("x", None)


def test_columns_that_a_spreadsheet_adds_are_none(tmp_path: Path) -> None:
    path = tmp_path / "review.csv"
    path.write_text("subject_kind,subject_id,reasons,verdict,reviewer,,\nimage,a,b,,,,\nimage,c,d,allow,me,,\n")
    assert [row.subject_id for row in review_file.read_verdicts(path)] == ["c"]
    path.write_text("subject_kind,subject_id,reasons,verdict,reviewer,,\nimage,c,d,allow,me,,more\n")
    with pytest.raises(UsageError, match="row 1: expected 5 cells, found 7"):
        review_file.read_verdicts(path)


def test_a_row_with_a_cell_too_many_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "review.csv"
    path.write_text("subject_kind,subject_id,reasons,verdict,reviewer\nimage,a,b,,\nimage,a,b,allow,me,more\n")
    with pytest.raises(UsageError, match="row 2: expected 5 cells, found 6"):
        review_file.read_verdicts(path)
