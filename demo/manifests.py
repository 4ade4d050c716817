"""The demo's manifests: three nights in three formats, with what must become of each row.

A night's manifest is a folder named by its date: JSON lines (one file of them gzipped) on the first, CSV on the second,
Parquet on the third.
"""

import csv
import datetime as dt
import gzip
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from demo.pictures import ORIGINAL, Picture
from demo.site import (
    DATES,
    MISBEHAVING_PICTURES,
    Cast,
    Page,
    Site,
    Truth,
    cast,
    failed,
    misbehaving_pages,
    picture_page,
)
from schemas.outcomes import FailureCode, Outcome
from schemas.tables import MANIFEST_COLUMNS

RESIGHTED = 6
"""Ordinary pictures of a night that the next night's manifest lists again, at the same URL."""

REPEATED = 3
"""Ordinary pictures of a night that its manifest lists twice, at the same URL."""

MIRRORED_HOSTS = 3
"""Ordinary pictures of a night that its manifest also lists at a second host."""

LICENCES = ("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", None)

Key = tuple[dt.date, str, int]
"""`ingest_date, source_file, row_number`: the key of `sightings`."""


@dataclass(frozen=True, slots=True)
class Row:
    """One manifest row: `fields` by manifest column, or a `line` as it stands in the file; and its truth."""

    truth: Truth
    fields: dict[str, Any] | None = None
    line: str | None = None


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a date's folder. `rows` has None for a blank line, which holds a position but is no row."""

    date: dt.date
    name: str
    rows: tuple[Row | None, ...]


def plan_manifests(site: Site, pictures: Sequence[Picture]) -> list[ManifestFile]:
    """The manifests of all three dates for a running `demo_site(pictures)`."""
    first, second, third = (_rows(site, cast(pictures), number) for number in range(len(DATES)))
    return [
        ManifestFile(DATES[0], "crawl-a.jsonl", (*first[::2], Row(failed(FailureCode.BAD_ROW), line='{"url": "http:'))),
        ManifestFile(DATES[0], "crawl-b.jsonl.gz", (first[1], None, *first[3::2])),
        ManifestFile(DATES[1], "crawl.csv", (*second, Row(failed(FailureCode.BAD_ROW), line="http://a.example/,one"))),
        ManifestFile(DATES[2], "crawl.parquet", tuple(third)),
    ]


def write_manifests(folder: Path, files: Sequence[ManifestFile]) -> dict[dt.date, Path]:
    """Write the files below `folder`; the folder of each date, so that `{folder}/{date}` is a `manifest.path`."""
    for file in files:
        path = folder / file.date.isoformat() / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_encoded(file))
    return {file.date: folder / file.date.isoformat() for file in files}


def expected_outcomes(files: Sequence[ManifestFile]) -> dict[Key, Truth]:
    """What must become of every row, by the key of its sighting."""
    return {
        (file.date, file.name, number): row.truth
        for file in files
        for number, row in enumerate(file.rows)
        if row is not None
    }


def picture_row(site: Site, page: Page, picture: Picture, number: int, host: int, date: dt.date) -> Row:
    """A row for a page that is said to show a picture; `number` varies what else the row says."""
    fields = {
        "url": site.url(page.path, host),
        "page_url": f"https://pictures.example/{picture.original}",
        "title": picture.caption,
        "alt_text": f'A picture called "{picture.name}",\nseen close' if number % 5 == 0 else None,
        "description": None,
        "tags": list(picture.tags),
        "license": LICENCES[number % len(LICENCES)],
        "attributes": {"variant": picture.variant},
        "expected_sha256": None,
    }
    return Row(page.truth(date), fields)


def _rows(site: Site, parts: Cast, night: int) -> list[Row]:
    """All rows of a night but those that only its format can spoil."""
    date = DATES[night]
    ordinary = list(_ordinary_rows(site, parts.ordinary, night))
    rows = [*ordinary, *_repeats(site, parts.ordinary, night), *_misbehaving_rows(site, parts, date)]
    return [*rows, *_refused_rows(site, parts, date), *_bad_rows()]


def _ordinary_rows(site: Site, pictures: Sequence[Picture], night: int) -> Iterator[Row]:
    for number, picture in enumerate(pictures):
        if _night(pictures, number) == night:
            yield picture_row(site, picture_page(picture), picture, number, number, DATES[night])


def _night(pictures: Sequence[Picture], number: int) -> int:
    """The night that lists a picture first: originals take turns, copies come with them, before and after them."""
    turn = sum(picture.variant == ORIGINAL for picture in pictures[: number + 1])
    return (turn + (number if pictures[number].variant != ORIGINAL else 0)) % len(DATES)


def _repeats(site: Site, pictures: Sequence[Picture], night: int) -> Iterator[Row]:
    """Sightings of what is listed elsewhere too: last night, in the same manifest, at another host."""
    date = DATES[night]
    mine = [number for number in range(len(pictures)) if _night(pictures, number) == night]
    before = [number for number in range(len(pictures)) if _night(pictures, number) == night - 1]
    for number in [*before[:RESIGHTED], *mine[:REPEATED]]:
        yield picture_row(site, picture_page(pictures[number]), pictures[number], number + 1, number, date)
    for number in mine[REPEATED : REPEATED + MIRRORED_HOSTS]:
        yield picture_row(site, picture_page(pictures[number]), pictures[number], number + 1, number + 1, date)


def _misbehaving_rows(site: Site, parts: Cast, date: dt.date) -> Iterator[Row]:
    pages = [page for page in misbehaving_pages(parts.reserved) if page.path not in _REDIRECT_STEPS]
    for number, page in enumerate(pages):
        yield picture_row(site, page, parts.reserved[number % MISBEHAVING_PICTURES], number, number, date)


_REDIRECT_STEPS = frozenset({"/moved/2.jpg", "/moved/1.jpg", "/moved/0.jpg"})


def _refused_rows(site: Site, parts: Cast, date: dt.date) -> Iterator[Row]:
    """Rows that the policy or the promised digest hold back, or that a promised digest confirms."""
    promised, wrong, licence, domain, explicit, sensitive, *_ = parts.reserved[MISBEHAVING_PICTURES:]

    def row(picture: Picture, truth: Truth, **fields: Any) -> Row:
        plain = picture_row(site, picture_page(picture), picture, 1, 0, date)
        return Row(truth, {**(plain.fields or {}), **fields})

    digest = hashlib.sha256(promised.data).hexdigest()
    other_digest = hashlib.sha256(b"something else").hexdigest()
    yield row(promised, picture_page(promised).truth(date), expected_sha256=digest.upper())
    yield row(wrong, _failed_with(wrong, FailureCode.HASH_MISMATCH), expected_sha256=other_digest)
    yield row(licence, _blocked("licence_not_allowed"), license="All-Rights-Reserved")
    yield row(domain, _blocked("domain_blocked"), url=f"http://images.blocked.example/{domain.file_name}")
    yield row(explicit, _blocked("text_explicit"), title="XXX large poster")
    held = Truth(Outcome.REVIEW, reasons=("text_sensitive",), picture=sensitive.name)
    yield row(sensitive, held, title="Al Gore at the opening")


def _failed_with(picture: Picture, code: FailureCode) -> Truth:
    return Truth(Outcome.FAILED, code, picture=picture.name)


def _blocked(reason: str) -> Truth:
    return Truth(Outcome.BLOCKED, reasons=(reason,))


def _bad_rows() -> Iterator[Row]:
    for url in ("not a URL", "ftp://pictures.example/a.jpg", None, "http://user:secret@pictures.example/a.jpg"):
        yield Row(failed(FailureCode.BAD_ROW), {"url": url, "title": "A row without a usable URL"})
    yield Row(failed(FailureCode.BAD_ROW), {"url": "http://pictures.example/a.jpg", "expected_sha256": "unknown"})
    # An address of link-local services, which no crawler may be led to.
    yield Row(failed(FailureCode.FORBIDDEN_ADDRESS), {"url": "http://169.254.169.254/latest/a.jpg"})


def _encoded(file: ManifestFile) -> bytes:
    if file.name.endswith(".parquet"):
        return _parquet(file)
    if file.name.endswith(".csv"):
        return _csv(file).encode()
    text = "".join(f"{_json_line(row) if row else ''}\n" for row in file.rows).encode()
    return gzip.compress(text, mtime=0) if file.name.endswith(".gz") else text


def _json_line(row: Row) -> str:
    if row.fields is None:
        return row.line or ""
    return json.dumps({name: value for name, value in row.fields.items() if value is not None})


def _csv(file: ManifestFile) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, MANIFEST_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in file.rows:
        if row is not None and row.fields is not None:
            tags, attributes = row.fields.get("tags"), row.fields.get("attributes")
            lists = {
                "tags": " | ".join(tags) if tags else "",
                "attributes": json.dumps(attributes) if attributes else "",
            }
            writer.writerow(row.fields | lists)
        elif row is not None:
            text.write(f"{row.line}\n")
    return text.getvalue()


_ARROW_TYPES = {
    "string": pa.string(),
    "array<string>": pa.list_(pa.string()),
    "map<string,string>": pa.map_(pa.string(), pa.string()),
}


def _parquet(file: ManifestFile) -> bytes:
    fields = [row.fields for row in file.rows if row is not None and row.fields is not None]
    arrays = []
    for name, kind in MANIFEST_COLUMNS.items():
        values = [row.get(name) for row in fields]
        entries = [list(value.items()) if isinstance(value, dict) else value for value in values]
        arrays.append(pa.array(entries, _ARROW_TYPES[kind]))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays, names=list(MANIFEST_COLUMNS)), sink)
    return bytes(sink.getvalue())
