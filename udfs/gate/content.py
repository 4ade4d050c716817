"""The content gate on executors: the first thing to see pixels, and the only one to see those it refuses.

Two iterator pandas UDFs in one pass: `gate_udf` takes the original bytes and says allow, review or block;
`canonical_udf` makes the canonical image, and looks only at bytes that were allowed. The gate fails closed: whatever
goes wrong is a failure of that one row, never an admission.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from PIL import Image
from pyspark import TaskContext
from pyspark.sql.pandas.functions import pandas_udf

from schemas.outcomes import Decision, FailureCode
from schemas.policy import NSFW, CombinedRule, ContentHalf, DetectorRule, PerceptualRule, Policy
from schemas.settings import CrawlSettings, GateSettings, ImageSettings
from udfs.devices import Wanted
from udfs.gate.detectors import REVISION as DETECTORS_REVISION
from udfs.gate.detectors import GateDetector, Input, load_detectors
from udfs.gate.isolation import IsolatedDecoders
from udfs.gate.nsfw import detector_version
from udfs.gate.overrides import People, judge_with_people
from udfs.gate.rules import ContentSignals, MissingScore
from udfs.gate.views import REVISION as VIEWS_REVISION
from udfs.gate.views import View, stored_and_views
from udfs.gate.watchdog import TimedOut, is_full, process_ends_after, within
from udfs.images.canonical import Canonical, canonicalise
from udfs.images.decode import ImageError
from udfs.images.phash import REVISION as HASHES_REVISION
from udfs.images.phash import oriented_hashes
from udfs.tally import Listener, telling

GATE = (
    "decision string, reasons array<string>, halves array<string>, scores map<string,double>, "
    "phash256s binary, pdqs binary, pdq_quality int, failure_code string, failure_detail string"
)
CANONICAL = (
    "pixels binary, width int, height int, source_width int, source_height int, source_format string, "
    "phash64 bigint, phash256 binary, flatness double, sharpness double, view_hashes array<binary>, "
    "failure_code string, failure_detail string"
)
_GATE_NAMES = [part.split()[0] for part in GATE.split(", ")]
_CANONICAL_NAMES = [part.split()[0] for part in CANONICAL.split(", ")]

_MOST_WAITING = 64
"""Prepared views, of 0.6 MB each, that may wait to be scored together."""

Row = dict[str, Any]
_Batches = Iterator[tuple[pd.Series, pd.Series, pd.Series]]

_log = logging.getLogger(__name__)


def gate_version(gate: GateSettings) -> str:
    """SHA-256 hex over everything that decides which signals are stored of a content, and what they come to.

    With the default settings that is open_nsfw's own `detector_version`.
    """
    own = detector_version(gate.detector)
    default = GateSettings(file=gate.file, detector=gate.detector)
    decisive = _without_order(gate)
    if decisive == _without_order(default):
        return own
    parts = decisive | {"detector": own, "revisions": [VIEWS_REVISION, DETECTORS_REVISION, HASHES_REVISION]}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _without_order(gate: GateSettings) -> dict[str, Any]:
    """What decides the signals: lists are sorted, since all views, hashes and detectors count alike."""
    decisive = gate.decisive()
    return decisive | {name: sorted(value, key=str) for name, value in decisive.items() if isinstance(value, list)}


def missing_signals(policy: Policy, gate: GateSettings) -> list[str]:
    """A line for each rule that goes by a signal which this gate does not make: with it, every content would fail."""
    scores = {NSFW, *(f"{one.name}.{label}" for one in gate.detectors for label in one.labels)}
    lines = []
    for rule in policy.rules:
        if isinstance(rule, PerceptualRule) and rule.hash not in gate.hashes:
            known = ", ".join(gate.hashes) or "none"
            lines.append(f"rule {rule.id}: expected its hash {rule.hash} among policy.hashes, found {known}")
        half = rule.content if isinstance(rule, CombinedRule) else rule
        if isinstance(half, DetectorRule | ContentHalf) and half.score not in scores:
            known = ", ".join(sorted(scores))
            lines.append(f"rule {rule.id}: expected its score {half.score} of policy.detectors, found {known}")
    return lines


class Decoders(Protocol):
    """What turns bytes into pixels: in this process, or in others (`udfs.gate.isolation`)."""

    @property
    def patience(self) -> int:
        """With these decoders an image may take this many times its time limit (`policy.timeout_s`)."""

    def stored_and_views(
        self, data: bytes, gate: GateSettings, limits: CrawlSettings, declared_type: str | None
    ) -> tuple[Image.Image, Iterator[View]]:
        """See `udfs.gate.views.stored_and_views`."""

    def canonicalise(
        self, data: bytes, images: ImageSettings, limits: CrawlSettings, declared_type: str | None
    ) -> Canonical:
        """See `udfs.images.canonical.canonicalise`."""


class OwnDecoders:
    """The decoders of this process."""

    patience = 1
    stored_and_views = staticmethod(stored_and_views)
    canonicalise = staticmethod(canonicalise)


class HangingImagesError(Exception):
    """So many images hang that this process can begin no more: the task is to be tried again, where children are
    ended."""


def decoders_of_task(timeout_s: float) -> Decoders:
    """This process's own; for a task that is tried again those that nothing can crash, for an image may have ended the
    attempt before."""
    task = TaskContext.get()
    is_retry = task is not None and task.attemptNumber() > 0
    return IsolatedDecoders(_ISOLATED_TIMEOUTS * timeout_s) if is_retry else OwnDecoders()


def _is_first_attempt() -> bool:
    task = TaskContext.get()
    return task is not None and task.attemptNumber() == 0


_ISOLATED_TIMEOUTS = 3
"""How many time-outs of an image pass before one that does not answer counts as one that hangs its decoder."""


def gate_udf(
    policy: Policy,
    gate: GateSettings,
    limits: CrawlSettings,
    people: People,
    device: Wanted = "auto",
    listener: Listener | None = None,
) -> Any:
    """`(body binary, content_type string, image_id string) -> GATE`; null bodies (nothing was fetched) give a null
    decision. `device`: where detectors that can use a GPU compute; `listener`: who is told what came of the rows."""

    def judge(batches: _Batches) -> Iterator[pd.DataFrame]:
        judged = judge_batches(batches, policy, gate, limits, people, device)
        return telling(judged, listener, "gate", _judged_so_far)

    return _iterator_udf(judge, GATE)


def judge_batches(
    batches: _Batches,
    policy: Policy,
    gate: GateSettings,
    limits: CrawlSettings,
    people: People,
    device: Wanted = "auto",
) -> Iterator[pd.DataFrame]:
    """What `gate_udf` runs: batches of bodies, types and image_ids to frames of the columns of `GATE`."""
    loaded = load_detectors(gate, device)
    decoders = decoders_of_task(gate.timeout_s)
    for bodies, types, image_ids in batches:
        rows: list[Row] = []
        given = [Given(*one) for one in zip(bodies, types, image_ids, strict=True)]
        for start in range(0, len(given), gate.batch_size):
            batch = given[start : start + gate.batch_size]
            with process_ends_after((len(batch) + 2) * decoders.patience * gate.timeout_s):
                rows += judge_batch(policy, loaded, gate, limits, batch, people, decoders)
            if is_full() and _is_first_attempt():
                raise HangingImagesError("too many images were given up in one process")
        yield pd.DataFrame(rows, columns=_GATE_NAMES, dtype=object)


def _judged_so_far(judged: pd.DataFrame) -> Mapping[str, int]:
    """What came of the contents of a batch that the gate does not allow."""
    decisions = judged["decision"].value_counts()
    return _ended_so_far(
        {
            "review": int(decisions.get(Decision.REVIEW.value, 0)),
            "blocked": int(decisions.get(Decision.BLOCK.value, 0)),
            "failed": int(judged["failure_code"].notna().sum()),
        }
    )


def _made_so_far(made: pd.DataFrame) -> Mapping[str, int]:
    """What came of those that it allows."""
    allowed, failed = (int(made[name].notna().sum()) for name in ("pixels", "failure_code"))
    return _ended_so_far({"allowed": allowed, "failed": failed})


def _ended_so_far(counts: dict[str, int]) -> Mapping[str, int]:
    """With these, that they are no longer merely fetched (`udfs.crawl.fetch.fetched_so_far`)."""
    return counts | {"fetched": -sum(counts.values())}


def _iterator_udf(function: Callable[..., Any], returns: str) -> Any:
    """The pandas UDF, nondeterministic so that Spark evaluates it once however often its result is used."""
    declare: Any = pandas_udf  # its stubs do not know iterators of frames
    return declare(function, returns).asNondeterministic()


class Given(NamedTuple):
    """What the gate is given of one row."""

    body: bytes | None
    declared_type: str | None
    image_id: str | None


def judge_batch(
    policy: Policy,
    loaded: Sequence[GateDetector],
    gate: GateSettings,
    limits: CrawlSettings,
    given: Sequence[Given],
    people: People,
    decoders: Decoders | None = None,
) -> list[Row]:
    """One row for each of `given`, in order.

    Never raises for what is in an image. All are decoded and scored together; where that raises or takes longer than
    one image may, each is tried again alone, and whatever goes wrong then is a failure of its own row.
    """
    rows = [_no_verdict() for _ in given]
    fetched = [(row, one) for row, one in zip(rows, given, strict=True) if one.body is not None]
    decoders = decoders or OwnDecoders()
    examined = _examined([one for _, one in fetched], loaded, gate, limits, decoders)
    for (row, _), signals in zip(fetched, examined, strict=True):
        if isinstance(signals, ImageError):
            row["failure_code"], row["failure_detail"] = signals.code.value, signals.detail
        else:
            try:
                _decide(policy, row, signals, people)
            except Exception as error:  # noqa: BLE001 - fail closed: without a verdict there is no admission
                _log.warning("no verdict: %r", error)
                row.update(_no_verdict() | _failure(error))
    return rows


def _no_verdict() -> Row:
    return dict.fromkeys(_GATE_NAMES) | {"reasons": [], "halves": []}


def _failure(error: Exception) -> Row:
    return {
        "failure_code": FailureCode.GATE_ERROR.value,
        "failure_detail": f"{type(error).__name__}: {error}"[:200],
    }


def _examined(
    given: list[Given],
    loaded: Sequence[GateDetector],
    gate: GateSettings,
    limits: CrawlSettings,
    decoders: Decoders,
) -> list[ContentSignals | ImageError]:
    if not given:
        return []
    limit_s = decoders.patience * gate.timeout_s
    try:
        return within(limit_s, lambda given_up: _signals(given, loaded, gate, limits, decoders, given_up))
    except Exception as error:  # noqa: BLE001 - fail closed: whatever an image does to a runtime, it has no score
        if len(given) > 1:
            return [_examined([one], loaded, gate, limits, decoders)[0] for one in given]
        _log.warning("no score: %r", error)
        return [ImageError(FailureCode.GATE_ERROR, f"{type(error).__name__}: {error}"[:200])]


def _signals(
    given: list[Given],
    loaded: Sequence[GateDetector],
    gate: GateSettings,
    limits: CrawlSettings,
    decoders: Decoders,
    given_up: threading.Event,
) -> list[ContentSignals | ImageError]:
    """Signals of each, or why its pixels cannot be had. Raises whatever a detector raises."""
    found: list[ContentSignals | ImageError] = []
    waiting: list[list[_Prepared]] = [[] for _ in loaded]
    for one in given:
        scores: dict[str, float] = {}
        try:
            stored, seen = decoders.stored_and_views(one.body or b"", gate, limits, one.declared_type)
            hashes = oriented_hashes(stored, gate.hashes)
            prepared = _prepared(seen, scores, loaded, given_up)
        except ImageError as error:
            found.append(error)
            continue
        found.append(ContentSignals(one.image_id or "", scores, *hashes))
        for index, own in enumerate(prepared):
            waiting[index] += own
        if sum(map(len, waiting)) >= _MOST_WAITING:
            _score(loaded, waiting)
    _score(loaded, waiting)
    return found


class _Prepared(NamedTuple):
    scores: dict[str, float]
    """Where the score belongs."""
    view: str
    pixels: Input


def _prepared(
    seen: Iterator[View], scores: dict[str, float], loaded: Sequence[GateDetector], given_up: threading.Event
) -> list[list[_Prepared]]:
    """All views of an image for each detector."""
    prepared: list[list[_Prepared]] = [[] for _ in loaded]
    for view in seen:
        if given_up.is_set():
            raise TimedOut("nobody waits for the rest")
        for own, detector in zip(prepared, loaded, strict=True):
            if (pixels := detector.prepare(view)) is not None:
                own.append(_Prepared(scores, view.name, pixels))
    return prepared


def _score(loaded: Sequence[GateDetector], waiting: list[list[_Prepared]]) -> None:
    """Scores what waits for each detector, and puts each score where it belongs."""
    for detector, views in zip(loaded, waiting, strict=True):
        if not views:
            continue
        rows = detector.score(np.stack([view.pixels for view in views]))
        for view, row in zip(views, rows, strict=True):
            for label, score in zip(detector.labels, row, strict=True):
                view.scores[f"{label}:{view.view}"] = float(score)
        views.clear()


def _decide(policy: Policy, row: Row, signals: ContentSignals, people: People) -> None:
    unusable = sorted(name for name, score in signals.scores.items() if not 0 <= score <= 1)
    try:
        if unusable or not signals.scores:
            raise MissingScore(f"no usable score: {', '.join(unusable) or 'none at all'}")
        verdict = judge_with_people(policy, signals, people)
    except MissingScore as error:
        row["failure_code"], row["failure_detail"] = FailureCode.GATE_ERROR.value, str(error)
        return
    row["decision"], row["reasons"], row["halves"] = verdict.decision.value, list(verdict.reasons), list(verdict.halves)
    row["scores"] = dict(signals.scores)
    row["phash256s"], row["pdqs"], row["pdq_quality"] = signals.phash256s, signals.pdqs, signals.pdq_quality


def canonical_udf(
    images: ImageSettings, limits: CrawlSettings, gate: GateSettings, listener: Listener | None = None
) -> Any:
    """`(body binary, content_type string, decision string) -> CANONICAL`; nulls unless the decision is allow.
    `listener`: as of `gate_udf`."""

    def canonical(batches: _Batches) -> Iterator[pd.DataFrame]:
        return telling(canonical_batches(batches, images, limits, gate), listener, "canonical", _made_so_far)

    return _iterator_udf(canonical, CANONICAL)


def canonical_batches(
    batches: _Batches, images: ImageSettings, limits: CrawlSettings, gate: GateSettings
) -> Iterator[pd.DataFrame]:
    """What `canonical_udf` runs: batches of bodies, types and decisions to frames of the columns of `CANONICAL`."""
    decoders = decoders_of_task(gate.timeout_s)
    # What a row lacks is null: pandas would make NaN of it, which is no list.
    nulls = dict.fromkeys(_CANONICAL_NAMES)
    for bodies, types, decisions in batches:
        rows: list[Row] = []
        given = list(zip(bodies, types, decisions, strict=True))
        for start in range(0, len(given), gate.batch_size):
            batch = given[start : start + gate.batch_size]
            with process_ends_after((len(batch) + 2) * gate.timeout_s):
                for body, declared, decision in batch:
                    is_allowed = decision == Decision.ALLOW
                    made = canonical_row(body, declared, images, limits, decoders) if is_allowed else {}
                    rows.append(nulls | made)
        yield pd.DataFrame(rows, columns=_CANONICAL_NAMES, dtype=object)


def canonical_row(
    body: bytes, declared: str | None, images: ImageSettings, limits: CrawlSettings, decoders: Decoders
) -> Row:
    """The columns of `CANONICAL` for one body. Never raises for what is in it."""
    try:
        made = decoders.canonicalise(body, images, limits, declared)
    except ImageError as error:
        return {"failure_code": error.code.value, "failure_detail": error.detail}
    except Exception as error:  # noqa: BLE001 - one row must never take the others down
        _log.warning("no canonical image: %r", error)
        detail = f"{type(error).__name__}: {error}"[:200]
        return {"failure_code": FailureCode.INTERNAL.value, "failure_detail": detail}
    return {name: getattr(made, name) for name in _CANONICAL_NAMES[:-2]}
