"""The content gate on executors: the first thing to see pixels, and the only one to see those it refuses.

Two iterator pandas UDFs in one pass: `gate_udf` takes the original bytes and says allow, review or block;
`canonical_udf` makes the stored picture, and looks only at bytes that were allowed. The gate fails closed: whatever
goes wrong is a failure of that one row, never an admission.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
from PIL import Image, ImageChops
from pyspark.sql.pandas.functions import pandas_udf

from schemas.outcomes import Decision, FailureCode
from schemas.policy import Policy
from schemas.settings import AssetSettings, CrawlSettings, ImageSettings
from udfs.canonical import canonicalise
from udfs.decode import ImageError, decode_rgb, open_image
from udfs.nsfw import Detector, load_detector
from udfs.rules import MissingScore, judge_content

GATE = "decision string, reasons array<string>, scores map<string,double>, failure_code string, failure_detail string"
CANONICAL = (
    "pixels binary, width int, height int, source_width int, source_height int, source_format string, "
    "phash64 bigint, phash256 binary, flatness double, sharpness double, failure_code string, failure_detail string"
)
_CANONICAL_NAMES = [part.split()[0] for part in CANONICAL.split(", ")]

Row = dict[str, Any]


def gate_udf(policy: Policy, weights: AssetSettings, limits: CrawlSettings, batch_size: int) -> Any:
    """`(body binary, content_type string) -> GATE`; null bodies (nothing was fetched) give a null decision."""

    def gate(batches: Iterator[tuple[pd.Series, pd.Series]]) -> Iterator[pd.DataFrame]:
        detector = load_detector(weights)
        for bodies, types in batches:
            rows: list[Row] = []
            pairs = list(zip(bodies, types, strict=True))
            for start in range(0, len(pairs), batch_size):
                rows += judge_batch(policy, detector, limits, pairs[start : start + batch_size])
            yield pd.DataFrame(rows, columns=["decision", "reasons", "scores", "failure_code", "failure_detail"])

    return _iterator_udf(gate, GATE)


def _iterator_udf(function: Callable[..., Any], returns: str) -> Any:
    """The pandas UDF, nondeterministic so that Spark evaluates it once however often its result is used."""
    declare: Any = pandas_udf  # its stubs do not know iterators of frames
    return declare(function, returns).asNondeterministic()


def judge_batch(
    policy: Policy, detector: Detector, limits: CrawlSettings, pairs: Sequence[tuple[bytes | None, str | None]]
) -> list[Row]:
    """One row a pair, in order. A picture that cannot be decoded or scored fails alone."""
    rows: list[Row] = [_row() for _ in pairs]
    views: list[tuple[Row, str, Image.Image]] = []
    for row, (body, declared) in zip(rows, pairs, strict=True):
        if body is not None:
            views += [(row, name, picture) for name, picture in _views(row, body, limits, declared)]
    scores: dict[int, dict[str, float]] = {id(row): {} for row, _, _ in views}
    for (row, name, _), score in zip(views, detector.score_each([view[2] for view in views]), strict=True):
        scores[id(row)][f"nsfw:{name}"] = math.nan if score is None else float(score)
    for row in rows:
        if id(row) in scores:
            _decide(policy, row, scores[id(row)])
    return rows


def _row() -> Row:
    return {"decision": None, "reasons": [], "scores": None, "failure_code": None, "failure_detail": None}


def _views(row: Row, body: bytes, limits: CrawlSettings, declared: str | None) -> list[tuple[str, Image.Image]]:
    """What of a picture is judged: `center`, the picture as it will be stored; and where colour profile, transparency
    or orientation make that another picture than the bare pixels, `plain`, those. The worst view decides, so that
    neither hides anything from the gate.
    """
    try:
        image = open_image(body, limits, declared)
        stored = decode_rgb(image)
        bare = image.convert("RGB")
    except ImageError as error:
        row["failure_code"], row["failure_detail"] = error.code.value, error.detail
        return []
    same = stored.size == bare.size and ImageChops.difference(stored, bare).getbbox() is None
    return [("center", stored)] if same else [("center", stored), ("plain", bare)]


def _decide(policy: Policy, row: Row, scores: dict[str, float]) -> None:
    try:
        verdict = judge_content(policy, scores)
    except MissingScore as error:
        row["failure_code"], row["failure_detail"] = FailureCode.GATE_ERROR.value, str(error)
        return
    row["decision"], row["reasons"], row["scores"] = verdict.decision.value, list(verdict.reasons), scores


def canonical_udf(images: ImageSettings, limits: CrawlSettings) -> Any:
    """`(body binary, content_type string, decision string) -> CANONICAL`; nulls unless the decision is allow."""

    def canonical(batches: Iterator[tuple[pd.Series, pd.Series, pd.Series]]) -> Iterator[pd.DataFrame]:
        for bodies, types, decisions in batches:
            rows = [
                _canonical_row(body, declared, images, limits) if decision == Decision.ALLOW else {}
                for body, declared, decision in zip(bodies, types, decisions, strict=True)
            ]
            yield pd.DataFrame(rows, columns=_CANONICAL_NAMES, dtype=object)

    return _iterator_udf(canonical, CANONICAL)


def _canonical_row(body: bytes, declared: str | None, images: ImageSettings, limits: CrawlSettings) -> Row:
    try:
        made = canonicalise(body, images, limits, declared)
    except ImageError as error:
        return {"failure_code": error.code.value, "failure_detail": error.detail}
    return {name: getattr(made, name) for name in _CANONICAL_NAMES[:-2]}
