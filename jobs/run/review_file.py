"""The file that goes out to reviewers and comes back with their verdicts: CSV or Parquet, a row for each subject."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from jobs.config.errors import UsageError

COLUMNS = (
    "subject_kind",
    "subject_id",
    "reasons",
    "url",
    "page_url",
    "title",
    "scores",
    "verdict",
    "reviewer",
    "comment",
)
"""Columns of the file; lists and maps are text in it: `a|b`, `name=value|...`."""

_NEEDED = ("subject_kind", "subject_id", "reasons", "verdict", "reviewer")
BETWEEN = "|"
"""What stands between the entries of a list or map."""

_BLANK = "[ \\t\\n\\v\\f\\r\u00a0\u3000]"
_FORMULA = f"{_BLANK}*[=+\\-@\uff1d\uff0b\uff0d\uff20\\t\\n\\r]"
"""How a cell begins that some spreadsheet takes for a formula, or for more than one cell: full-width signs count in
some locales, blanks before a sign in some programs."""
_DEFUSED = re.compile(f"'+{_FORMULA}")


@dataclass(frozen=True)
class ReviewedRow:
    """One row of the file that holds a verdict."""

    subject_kind: str
    subject_id: str
    reasons: tuple[str, ...]
    verdict: str
    reviewer: str
    comment: str | None


def writer(path: Path) -> Any:
    """What writes a table to the file, by its name. Raises UsageError for a name that is neither."""
    return {".csv": write_csv, ".parquet": pq.write_table}[_kind(path)]


def write_csv(table: pa.Table, path: Path) -> None:
    """Write text columns as CSV that is safe to open in a spreadsheet. One more apostrophe goes before what begins like
    a formula, apostrophes before it or not, so that taking one off restores every cell."""
    begins = f"^('*{_FORMULA})"
    columns = [pc.replace_substring_regex(column, begins, r"'\1") for column in table.columns]
    pa.csv.write_csv(pa.table(columns, table.column_names), path)


def read_verdicts(path: Path) -> list[ReviewedRow]:
    """Rows of the file that hold a verdict. Raises UsageError with the row's position for anything unusable."""
    verdicts: dict[tuple[str, str], ReviewedRow] = {}
    for number, row in enumerate(_rows(path), start=1):
        where = f"{path}, row {number}"
        values = {name: str(value).strip() for name, value in row.items() if value is not None}
        if not values.get("verdict"):
            continue
        if values["verdict"] not in {"allow", "block", "withdraw"}:
            raise UsageError(f"{where}: verdict must be allow, block or withdraw, found {values['verdict']!r}")
        if values.get("subject_kind") not in {"image", "sighting"}:
            raise UsageError(f"{where}: subject_kind must be image or sighting, found {values.get('subject_kind')!r}")
        for name in ("subject_id", "reviewer"):
            if not values.get(name):
                raise UsageError(f"{where}: {name} is required beside a verdict")
        for name in {*_NEEDED, "comment"}.intersection(values):
            if not isinstance(row[name], str):  # of a Parquet file: a list's text would be no list of reasons
                raise UsageError(f"{where}: {name}: expected a text, found {row[name]!r}")
        reasons = tuple(sorted({reason.strip() for reason in values.get("reasons", "").split(BETWEEN)} - {""}))
        if values["verdict"] == "allow" and not reasons:
            raise UsageError(f"{where}: an allow clears the reasons in its row, and there are none")
        subject = values["subject_kind"], values["subject_id"]
        if subject in verdicts:
            raise UsageError(f"{where}: {' '.join(subject)} has a verdict in an earlier row already")
        verdicts[subject] = ReviewedRow(
            *subject, reasons, values["verdict"], values["reviewer"], values.get("comment") or None
        )
    return list(verdicts.values())


def _rows(path: Path) -> list[Mapping[str, Any]]:
    kind = _kind(path)
    try:
        if kind == ".parquet":
            names = pq.read_schema(path).names
            # Others may hold what Python has no type for.
            read = [name for name in (*_NEEDED, "comment") if name in names]
            rows: list[Mapping[str, Any]] = pq.read_table(path, columns=read).to_pylist()
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, strict=True)
                names, cells = check_header(path, reader)
                rows = [_restored_row(path, number, row, cells) for number, row in enumerate(reader, start=1)]
    except (OSError, pa.ArrowInvalid, csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as {kind[1:]} ({error})") from None
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise UsageError(f"{path}: no column {', '.join(missing)}; columns found: {', '.join(names) or 'none'}")
    return rows


def _restored_row(path: Path, number: int, row: dict[str | Any, str | Any], cells: int) -> dict[str, str | None]:
    """The row as it went out; UsageError where it has more cells than the header."""
    check_cells(path, number, row, cells)
    named = {name: cell for name, cell in row.items() if name is not None}
    return {name: cell[1:] if cell and _DEFUSED.match(cell) else cell for name, cell in named.items()}


def check_header(path: Path, reader: "csv.DictReader[str]") -> tuple[list[str], int]:
    """The names of a CSV's columns, and how many cells it has; UsageError for a name that stands twice, of which only
    the last would be read.

    The reader goes by these names: columns without one behind the last that has one, which spreadsheets add, are none.
    """
    given = list(reader.fieldnames or ())
    named = max((place for place, name in enumerate(given, 1) if name.strip()), default=0)
    names = given[:named]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{path}: expected columns of different names, found {repeated[0]!r} more than once")
    reader.fieldnames = names
    return names, len(given)


def check_cells(path: Path, number: int, row: Mapping[str | Any, Any], cells: int) -> None:
    """Raises UsageError where a row of a CSV has more cells than the header's `cells`, or anything in one that has no
    name: they are under None."""
    beyond = row.get(None, ())
    named = len(row) - (None in row)
    if named + len(beyond) > max(cells, named) or any(map(str.strip, beyond)):
        raise UsageError(f"{path}, row {number}: expected {named} cells, found {named + len(beyond)}")


def _kind(path: Path) -> str:
    if path.suffix not in {".csv", ".parquet"}:
        raise UsageError(f"{path}: expected a file named .csv or .parquet")
    return path.suffix
