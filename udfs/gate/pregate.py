"""The pre-gate on executors: one manifest row in, the same row judged out. Needs no pixels and no network."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from schemas.outcomes import Decision
from schemas.policy import Policy
from schemas.tables import MANIFEST_COLUMNS
from udfs.cleaning import one_line, spellings, text_id
from udfs.credentials import redact_text, redact_url
from udfs.gate.language import language
from udfs.gate.rules import SightingFacts, SightingJudge, sighting_judge
from udfs.urls import BadUrl, host_of, normalise_url, url_id

JUDGED = pa.schema(
    [
        ("url", pa.string()),
        ("normalised_url", pa.string()),
        ("fetch_url", pa.string()),
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
"""Columns that the pre-gate adds; `url` replaces the manifest's. `url` and `normalised_url` are without credentials, as
they are stored and judged; `fetch_url` is the URL to ask for, of which `url_id` is the digest: null where it is not
known any more."""

RECORDED = ("url", "normalised_url", "url_id", "host", "bad_row")
"""What of a row's URL is stored, and taken as it stands when the row is judged again."""

_BETWEEN_TAGS = "; "
"""Neither white space nor part of a word alone: no phrase is found across two tags."""
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_PLACE = ("url", "normalised_url", "fetch_url", "url_id", "host", "bad_row")
_SHOWN_FIELDS = ("title", "alt_text", "description")
_TEXT_FIELDS = (*_SHOWN_FIELDS, "page_url")


@dataclass(frozen=True)
class _Located:
    """A row's URL as it is stored, or what is wrong with the row."""

    url: str | None
    normalised_url: str | None = None
    fetch_url: str | None = None
    url_id: str | None = None
    host: str | None = None
    bad_row: str | None = None


@dataclass(frozen=True)
class _Judged(_Located):
    decision: str = Decision.ALLOW.value
    reasons: tuple[str, ...] = ()
    withdraws: bool = False
    text: str | None = None
    text_id: str | None = None
    halves: tuple[str, ...] = ()
    language: str | None = None


_T = TypeVar("_T")
_Row = dict[str, Any]
_Batches = Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]


def pregate(policy: Policy) -> _Batches:
    """For `mapInArrow`: rows with the manifest's columns (schemas.tables.MANIFEST_COLUMNS) and `malformed` (why the
    row could not be read, or null); out come the same rows with the columns of `JUDGED` added.

    User names and passwords are removed from URLs, wherever in the manifest's columns they stand. Whatever a row brings
    about costs that row alone: it is a bad one, and `bad_row` names the step and the kind of failure.
    """

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        judge = sighting_judge(policy)
        for batch in batches:
            readable, problems = _readable(batch)
            kept = [name for name in readable.schema.names if name not in {"url", "malformed"}]
            columns = [_without_credentials(name, readable.column(name), problems) for name in kept]
            located = [_locate_alone(row, problems.get(number)) for number, row in enumerate(readable.to_pylist())]
            yield _judged(judge, pa.RecordBatch.from_arrays(columns, names=kept), located)

    return run


def judge_recorded(policy: Policy) -> _Batches:
    """For `mapInArrow`: rows as `pregate` made them and the warehouse stores them, with the manifest's columns and
    those of `RECORDED`, judged by the policy; out come the columns of `pregate`.

    What was made of a row when it came in is taken as it stands: its URL is not normalised and nothing redacted again,
    so that the same policy says the same of it.
    """

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        judge = sighting_judge(policy)
        for batch in batches:
            located = [_recorded(row) for row in batch.select(RECORDED).to_pylist()]
            kept = [name for name in batch.schema.names if name not in RECORDED]
            yield _judged(judge, batch.select(kept), located)

    return run


def _judged(judge: SightingJudge, stored: pa.RecordBatch, located: Sequence[_Located]) -> pa.RecordBatch:
    rows = [_judge_alone(judge, row, place) for row, place in zip(stored.to_pylist(), located, strict=True)]
    added = [pa.array([getattr(row, field.name) for row in rows], field.type) for field in JUDGED]
    return pa.RecordBatch.from_arrays([*stored.columns, *added], names=[*stored.schema.names, *JUDGED.names])


_Problems = dict[int, str]
"""What is wrong with rows of a batch, by their position in it."""


class _StepError(Exception):
    """A step failed on a row. The message names step and kind of failure; it repeats nothing of the row, which may hold
    a password."""


def _tried(step: str, function: Callable[..., _T], *arguments: Any) -> _T:
    """What the function returns; raises _StepError for whatever it raises."""
    try:
        return function(*arguments)
    except _StepError:
        raise
    except Exception as error:
        raise _StepError(f"{step}: {type(error).__name__}") from error


def _readable(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, _Problems]:
    """The batch with U+FFFD for whatever is no UTF-8, which Spark takes for a string as well, and the rows that hold
    some."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        pass
    else:
        return batch, {}
    problems: _Problems = {}
    columns = [
        _decoded_column(name, column, problems) for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names), problems


def _decoded_column(name: str, column: pa.Array, problems: _Problems) -> pa.Array:
    decoded = []
    for number, value in enumerate(column.cast(_of_bytes(column.type)).to_pylist()):
        try:
            decoded.append(_decoded(value, "strict"))
        except UnicodeDecodeError:
            problems.setdefault(number, f"{name}: not UTF-8")
            decoded.append(_decoded(value, "replace"))
    return pa.array(decoded, column.type)


def _of_bytes(kind: pa.DataType) -> pa.DataType:
    """The same type of bytes in place of texts."""
    if pa.types.is_list(kind):
        return pa.list_(_of_bytes(kind.value_type))
    if pa.types.is_map(kind):
        return pa.map_(_of_bytes(kind.key_type), _of_bytes(kind.item_type))
    return pa.binary() if pa.types.is_string(kind) else kind


def _decoded(value: object, errors: str) -> object:
    """A text, or a list or map of texts, of their bytes."""
    if isinstance(value, bytes):
        return value.decode(errors=errors)
    if isinstance(value, (list, tuple)):
        return type(value)(_decoded(part, errors) for part in value)
    return value


def _without_credentials(name: str, column: pa.Array, problems: _Problems) -> pa.Array:
    """The column as it is stored; null where credentials could not be looked for, which is told among `problems`."""
    if name not in MANIFEST_COLUMNS:
        return column
    values = column.to_pylist()
    redact = redact_url if name == "page_url" else redact_text
    clean = []
    for number, value in enumerate(values):
        try:
            clean.append(_tried(name, _redacted, value, redact))
        except _StepError as failure:
            problems.setdefault(number, str(failure))
            clean.append(None)
    return column if clean == values else pa.array(clean, column.type)


def _redacted(value: object, redact: Callable[[str], str]) -> object:
    """A text, or a list or map of texts, without the credentials of URLs in it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_redacted(part, redact) for part in value)
    return value


def _locate_alone(row: _Row, problem: str | None) -> _Located:
    try:
        return _tried("url", _locate, row | {"malformed": row["malformed"] or problem})
    except _StepError as failure:
        return _Located(None, bad_row=str(failure))


def _locate(row: _Row) -> _Located:
    """A manifest's row."""
    raw = row["url"]
    shown = redact_url(raw) if isinstance(raw, str) else None
    problem = _problem(row)
    if problem:
        return _Located(shown, bad_row=redact_text(problem))
    try:
        normalised = normalise_url(str(raw))
    except BadUrl as error:
        return _Located(shown, bad_row=f"url: {error}")
    return _Located(shown, redact_url(normalised), normalised, url_id(normalised), host_of(normalised))


def _recorded(row: _Row) -> _Located:
    """A stored row. Where its URL had credentials, what is left of it is another resource's, and not asked for."""
    kept = row["normalised_url"]
    return _Located(**row, fetch_url=kept if kept is not None and url_id(kept) == row["url_id"] else None)


def _judge_alone(judge: SightingJudge, row: _Row, located: _Located) -> _Judged:
    try:
        return _tried("row", _judge, judge, row, located)
    except _StepError as failure:
        return _Judged(located.url, bad_row=str(failure))


def _judge(judge: SightingJudge, row: _Row, located: _Located) -> _Judged:
    """The verdict on a row without credentials."""
    place = {name: getattr(located, name) for name in _PLACE}
    if located.bad_row is not None or located.host is None or located.normalised_url is None:
        return _Judged(**place)
    tags = row["tags"]
    tag_list = [str(tag) for tag in tags if tag] if isinstance(tags, list) else []
    fields = {name: str(row[name]) for name in _TEXT_FIELDS if row[name]}
    licence = row["license"]
    shown_as: dict[str, Sequence[str]] = {name: _tried(name, spellings, fields.get(name)) for name in _SHOWN_FIELDS}
    tags_shown = [_tried("tags", spellings, tag) for tag in tag_list]
    text = one_line(*(texts[-1] for texts in (*shown_as.values(), *tags_shown)))
    spoken = _tried("language", language, text)
    verdict = _tried(
        "rules",
        judge,
        SightingFacts(
            located.host,
            str(licence) if licence is not None else None,
            fields | {"url": located.normalised_url, "tags": _BETWEEN_TAGS.join(tag_list)},
            spoken,
            shown_as | {"tags": [_BETWEEN_TAGS.join(texts) for texts in _each_way(tags_shown)]},
        ),
        frozenset(row.get("cleared") or ()),
    )
    return _Judged(
        **place,
        decision=verdict.decision.value,
        reasons=verdict.reasons,
        withdraws=verdict.withdraws,
        text=text or None,
        text_id=text_id(text) if text else None,
        halves=verdict.halves,
        language=spoken,
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
