"""Labelled images, for measuring what an embedding is worth: a folder of named categories, or a table.

    DIR/food/fruit/cartoon/apple.png       domain `food`, category `food/fruit`
    DIR/food/fruit/cartoon/apple.txt       its caption: the first line

A Parquet file, a folder of Parquet files or a Delta table has the columns `domain, category` and one of `pixels`
(encoded bytes) or `path`, and may have `caption`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from lensfeed.snapshot import open_delta

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_CATEGORY_DEPTH = 2
"""Folders that name a category; those within (`cartoon`, `uppercase`) are ways to draw it."""
_REQUIRED = ("domain", "category")
_SOURCES = ("pixels", "path")


class LabelledError(Exception):
    """There are no labelled images where they were said to be. The message says what was expected and found."""


@dataclass(frozen=True)
class Labelled:
    """One image and what it shows."""

    name: str
    """Of the file below the folder, or the table's row."""
    domain: str
    """What kind of business it belongs to: food, clothes, household."""
    category: str
    """What a relevant result has in common with it; belongs to one domain."""
    caption: str | None
    pixels: bytes
    """Encoded, as found."""


def read_labelled(place: Path) -> list[Labelled]:
    """The labelled images of a folder or table, in the order of their names. Raises LabelledError, also for none."""
    if not place.exists():
        raise LabelledError(f"{place}: no such file or folder; expected labelled images")
    is_table = place.is_file() or (place / "_delta_log").is_dir() or any(place.glob("*.parquet"))
    images = _of_table(place) if is_table else _of_folder(place)
    if not images:
        raise LabelledError(
            f"{place}: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}) in folders that name domain and "
            "category, or a table of them; found none"
        )
    return images


def _of_folder(root: Path) -> list[Labelled]:
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    images = []
    for path in files:
        folders = path.relative_to(root).parts[:-1]
        if folders:
            category = "/".join(folders[:_CATEGORY_DEPTH])
            name = str(path.relative_to(root))
            images.append(Labelled(name, folders[0], category, _caption(path), path.read_bytes()))
    return images


def _caption(image: Path) -> str | None:
    text = image.with_suffix(".txt")
    if not text.is_file():
        return None
    lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[0].strip() or None if lines else None


def _of_table(place: Path) -> list[Labelled]:
    table = _table(place)
    source = next((name for name in _SOURCES if name in table.column_names), None)
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing or source is None:
        wanted = f"{', '.join(_REQUIRED)}, one of {' or '.join(_SOURCES)}, and perhaps caption"
        raise LabelledError(f"{place}: expected the columns {wanted}; found {', '.join(table.column_names)}")
    names = [*_REQUIRED, source, *(["caption"] if "caption" in table.column_names else [])]
    return [_of_row(place, row, number, source) for number, row in enumerate(table.select(names).to_pylist())]


def _table(place: Path) -> pa.Table:
    try:
        if (place / "_delta_log").is_dir():
            return ds.dataset(_live(place), format="parquet").to_table()
        return ds.dataset(place, format="parquet").to_table()
    except pa.ArrowInvalid as error:
        raise LabelledError(f"{place}: expected Parquet: {error}") from error


def _live(place: Path) -> list[str]:
    actions = pa.table(open_delta(str(place)).get_add_actions(flatten=True))
    return [str(place / path) for path in sorted(actions["path"].to_pylist())]


def _of_row(place: Path, row: dict[str, Any], number: int, source: str) -> Labelled:
    if None in (row["domain"], row["category"], row[source]):
        raise LabelledError(f"{place}: row {number}: expected domain, category and {source}, found a null")
    if source == "path":
        path = place.parent / row["path"]
        if not path.is_file():
            raise LabelledError(f"{place}: row {number}: {path}: no such file")
        return Labelled(str(row["path"]), row["domain"], row["category"], row.get("caption"), path.read_bytes())
    return Labelled(f"row {number}", row["domain"], row["category"], row.get("caption"), row["pixels"])
