"""Labels of contents that people have judged, from a file: explicit or safe.

CSV with a header, JSON lines or Parquet. Column `label`: `explicit` or `safe`, also `1` or `0`. Which content: column
`image_id`, or `url` where that is absent or empty. Anything unusable is refused with its line (Parquet: its row).
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.config.errors import UsageError
from udfs.urls import BadUrl, normalise_url, url_id

_VALUES = {"explicit": True, "1": True, "safe": False, "0": False}
_COLUMNS = ("image_id", "url", "label")
_IMAGE_ID = re.compile("[0-9a-f]{64}")


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it was written: of what it gives twice no reader says which holds."""


@dataclass(frozen=True)
class Label:
    """One row of the file: either `image_id` or `url_id` is given."""

    where: str
    """`line 7` or `row 7`."""
    named: str
    """As the file names it: an image_id or a URL."""
    image_id: str | None
    url_id: str | None
    explicit: bool


def read_labels(path: Path) -> list[Label]:
    """All labels, in order. Raises UsageError for a file that is not one, a bad row, and what is labelled twice."""
    labels: dict[str, Label] = {}
    for where, row in _rows(path):
        label = _label(path, where, row)
        subject = str(label.image_id or label.url_id)
        if subject in labels:
            earlier = labels[subject]
            how = "the same" if earlier.explicit == label.explicit else "another"
            raise UsageError(f"{path}, {where}: {label.named} has {how} label on {earlier.where} already")
        labels[subject] = label
    if not labels:
        raise UsageError(f"{path}: expected labels, found none")
    return list(labels.values())


def _label(path: Path, where: str, row: Mapping[str, Any]) -> Label:
    values = {name: str(value).strip() for name, value in row.items() if value is not None}
    explicit = _VALUES.get(values.get("label", "").lower())
    if explicit is None:
        raise UsageError(f"{path}, {where}: label: expected explicit, safe, 1 or 0, found {values.get('label', '')!r}")
    image_id, url = values.get("image_id"), values.get("url")
    if image_id:
        if not _IMAGE_ID.fullmatch(image_id):
            raise UsageError(f"{path}, {where}: image_id: expected 64 hexadecimal digits, found {image_id[:80]!r}")
        return Label(where, image_id, image_id, None, explicit)
    if not url:
        raise UsageError(f"{path}, {where}: expected an image_id or a url, found neither")
    try:
        return Label(where, url, None, url_id(normalise_url(url)), explicit)
    except BadUrl as error:
        raise UsageError(f"{path}, {where}: url {url[:80]!r}: {error}") from None


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    readers = {".csv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}
    if path.suffix not in readers:
        raise UsageError(f"{path}: expected a file named .csv, .jsonl or .parquet")
    try:
        yield from readers[path.suffix](path)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowInvalid) as error:
        raise UsageError(f"{path}: cannot be read as {path.suffix[1:]} ({error})") from None


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        _require_columns(path, reader.fieldnames or ())
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row:
                raise UsageError(f"{path}, {where}: expected {len(reader.fieldnames or ())} values, found more")
            yield where, row


def _json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    row = json.loads(line, object_pairs_hook=_Pairs)
                except (ValueError, RecursionError) as error:
                    raise UsageError(f"{path}, line {number}: not JSON ({error})") from None
                if not isinstance(row, _Pairs):
                    raise UsageError(f"{path}, line {number}: expected an object, found a {type(row).__name__}")
                names = [name for name, _ in row]
                if repeated := next((name for name in _COLUMNS if names.count(name) > 1), None):
                    raise UsageError(f"{path}, line {number}: {repeated} is given twice")
                yield f"line {number}", dict(row)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    table = pq.read_table(path)
    _require_columns(path, table.column_names)
    wanted = [name for name in _COLUMNS if name in table.column_names]
    for number, row in enumerate(table.select(wanted).to_pylist(), start=1):
        yield f"row {number}", row


def _require_columns(path: Path, found: Any) -> None:
    if "label" not in found or not {"image_id", "url"} & set(found):
        raise UsageError(f"{path}: expected the columns label and image_id or url, found {', '.join(found) or 'none'}")
    if repeated := next((name for name in _COLUMNS if list(found).count(name) > 1), None):
        raise UsageError(f"{path}: expected the column {repeated} once, found it {list(found).count(repeated)} times")
