"""The pre-gate on executors: one manifest row in, the same row judged out. Needs no pixels and no network."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from schemas.outcomes import Decision
from schemas.policy import Policy
from schemas.tables import MANIFEST_COLUMNS
from udfs.cleaning import one_line, spellings, text_id
from udfs.language import language
from udfs.rules import SightingFacts, SightingJudge, sighting_judge
from udfs.urls import BadUrl, host_of, normalise_url, url_id

JUDGED = pa.schema(
    [
        ("url", pa.string()),
        ("normalised_url", pa.string()),
        ("url_id", pa.string()),
        ("host", pa.string()),
        ("bad_row", pa.string()),
        ("decision", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("withdraws", pa.bool_()),
        ("text", pa.string()),
        ("text_id", pa.string()),
        ("halves", pa.list_(pa.string())),
        ("language", pa.string()),
    ]
)
"""Columns that the pre-gate adds; `url` replaces the manifest's."""

_USER_INFO = re.compile(r"(?<=//)[^/?#\\\s]*@")
"""Between a URL's scheme and its host."""
_UP_TO_LAST_AT = re.compile(r"^(\s*[a-zA-Z][a-zA-Z0-9+.-]*:[/\\]+)?.*@", re.DOTALL)
_BETWEEN_TAGS = "; "
"""Neither white space nor part of a word alone: no phrase is found across two tags."""
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_SHOWN_FIELDS = ("title", "alt_text", "description")
_TEXT_FIELDS = (*_SHOWN_FIELDS, "page_url")


@dataclass(frozen=True)
class _Judged:
    url: str | None
    normalised_url: str | None = None
    url_id: str | None = None
    host: str | None = None
    bad_row: str | None = None
    decision: str = Decision.ALLOW.value
    reasons: tuple[str, ...] = ()
    withdraws: bool = False
    text: str | None = None
    text_id: str | None = None
    halves: tuple[str, ...] = ()
    language: str | None = None


def pregate(policy: Policy) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    """For `mapInArrow`: rows with the manifest's columns (schemas.tables.MANIFEST_COLUMNS) and `malformed` (why the
    row could not be read, or null); out come the same rows with the columns of `JUDGED` added.

    User names and passwords are removed from URLs, wherever in the manifest's columns they stand.
    """

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        judge = sighting_judge(policy)
        for batch in batches:
            judged = [_judge(judge, row) for row in batch.to_pylist()]
            added = [pa.array([getattr(row, field.name) for row in judged], field.type) for field in JUDGED]
            kept = [name for name in batch.schema.names if name not in {"url", "malformed"}]
            columns = [_without_credentials(name, batch.column(name)) for name in kept]
            yield pa.RecordBatch.from_arrays([*columns, *added], names=[*kept, *JUDGED.names])

    return run


def _without_credentials(name: str, column: pa.Array) -> pa.Array:
    if name not in MANIFEST_COLUMNS:
        return column
    values = column.to_pylist()
    clean = [_url_without_credentials(value) if name == "page_url" else _redacted(value) for value in values]
    return column if clean == values else pa.array(clean, column.type)


def _redacted(value: object) -> object:
    """A text, or a list or map of texts, without the credentials of URLs in it."""
    if isinstance(value, str):
        return _USER_INFO.sub("", value) if "@" in value else value
    if isinstance(value, (list, tuple)):
        return type(value)(_redacted(part) for part in value)
    return value


def _url_without_credentials(raw: str | None) -> str | None:
    """The URL as given, if it is sound; of one that is not, nothing is left that could be a password."""
    if raw is None or "@" not in raw:
        return raw
    redacted = _USER_INFO.sub("", raw)
    try:
        normalise_url(redacted)
    except BadUrl:
        return _UP_TO_LAST_AT.sub(r"\1", raw)
    return redacted


def _judge(judge: SightingJudge, row: dict[str, Any]) -> _Judged:
    raw = row["url"]
    shown = _url_without_credentials(raw) if isinstance(raw, str) else None
    problem = _problem(row)
    if problem:
        return _Judged(shown, bad_row=problem)
    try:
        normalised = normalise_url(str(raw))
    except BadUrl as error:
        return _Judged(shown, bad_row=f"url: {error}")
    host = host_of(normalised)
    tags = _redacted(row["tags"])
    tag_list = [str(tag) for tag in tags if tag] if isinstance(tags, list) else []
    fields = {name: str(_redacted(row[name])) for name in _TEXT_FIELDS if row[name]}
    licence = row["license"]
    shown_as: dict[str, Sequence[str]] = {name: spellings(fields.get(name)) for name in _SHOWN_FIELDS}
    tags_shown = [spellings(tag) for tag in tag_list]
    text = one_line(*(texts[-1] for texts in (*shown_as.values(), *tags_shown)))
    spoken = language(text)
    verdict = judge(
        SightingFacts(
            host,
            str(licence) if licence is not None else None,
            fields | {"url": normalised, "tags": _BETWEEN_TAGS.join(tag_list)},
            spoken,
            shown_as | {"tags": [_BETWEEN_TAGS.join(texts) for texts in _each_way(tags_shown)]},
        ),
        frozenset(row.get("cleared") or ()),
    )
    return _Judged(
        shown,
        normalised,
        url_id(normalised),
        host,
        None,
        verdict.decision.value,
        verdict.reasons,
        verdict.withdraws,
        text or None,
        text_id(text) if text else None,
        verdict.halves,
        spoken,
    )


def _each_way(tags: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """The tags together, as each of their texts in turn; those that have fewer texts as their last."""
    for number in range(max(map(len, tags), default=0)):
        yield [texts[min(number, len(texts) - 1)] for texts in tags]


def _problem(row: dict[str, object]) -> str | None:
    if row.get("malformed"):
        return str(row["malformed"])
    url = row["url"]
    if not isinstance(url, str) or not url.strip():
        return "url: missing"
    expected = row.get("expected_sha256")
    if expected and not _SHA256.fullmatch(str(expected)):
        return "expected_sha256: not 64 hexadecimal digits"
    return None
