"""The pre-gate on executors: one manifest row in, the same row judged out. Needs no pixels and no network."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from schemas.outcomes import Decision
from schemas.policy import Policy
from udfs.rules import SightingFacts, judge_sighting
from udfs.text import clean_text, text_id
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
    ]
)
"""Columns that the pre-gate adds; `url` replaces the manifest's, for that may hold credentials."""

_CREDENTIALS = re.compile(r"(?<=//)[^/?#@]*@")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_TEXT_FIELDS = ("title", "alt_text", "description", "page_url")


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


def pregate(policy: Policy) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """For `mapInArrow`: rows with the manifest's columns (schemas.tables.MANIFEST_COLUMNS) and `malformed` (why the
    row could not be read, or null); out come the same rows with `url` redacted and the columns of `JUDGED` added.
    """

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            names = [name for name in batch.schema.names if name not in {"url", "malformed"}]
            judged = [_judge(policy, row) for row in batch.to_pylist()]
            columns = [batch.column(name) for name in names]
            added = [pa.array([getattr(row, field.name) for row in judged], field.type) for field in JUDGED]
            yield pa.RecordBatch.from_arrays([*columns, *added], names=[*names, *JUDGED.names])

    return run


def _judge(policy: Policy, row: dict[str, object]) -> _Judged:
    raw = row["url"]
    shown = _CREDENTIALS.sub("", raw) if isinstance(raw, str) else None
    problem = _problem(row)
    if problem:
        return _Judged(shown, bad_row=problem)
    try:
        normalised = normalise_url(str(raw))
    except BadUrl as error:
        return _Judged(shown, bad_row=f"url: {error}")
    host = host_of(normalised)
    tags = row.get("tags")
    tag_list = [str(tag) for tag in tags if tag] if isinstance(tags, list) else []
    fields = {name: str(row[name]) for name in _TEXT_FIELDS if row.get(name)}
    verdict = judge_sighting(
        policy,
        SightingFacts(
            host, _text_or_none(row.get("license")), fields | {"url": normalised, "tags": "\n".join(tag_list)}
        ),
    )
    text = clean_text(fields.get("title"), fields.get("alt_text"), fields.get("description"), tag_list)
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
    )


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


def _text_or_none(value: object) -> str | None:
    return str(value) if value is not None else None
