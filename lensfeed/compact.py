"""Vectors in half or a quarter of the bytes, for index builders: float16, and int8 with a versioned calibration.

int8 keeps, for each dimension, 255 steps up to that dimension's range in a sample. What it costs in recall is measured
against float32 (`recall_against`), never assumed.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lensfeed.feed import nearest, whole_number

_STEPS = 127
_LEAST_RANGE = 1e-8

Vectors = NDArray[np.float32]


class CompactError(Exception):
    """Vectors or calibration are not as expected. The message says what was expected and found."""


@dataclass(frozen=True)
class Int8Calibration:
    """What turns float32 vectors of one model into int8 and back."""

    model_version: str
    scales: Vectors
    """(D > 0,) float32, above 0: what one step stands for."""

    def __post_init__(self) -> None:
        scales = self.scales
        if scales.ndim != 1 or not len(scales) or not (np.isfinite(scales) & (scales > 0)).all():
            found = f"{scales.shape} {scales}"[:100]
            raise CompactError(f"scales: expected finite numbers above 0, (D > 0,), found {found}")

    @classmethod
    def of(cls, sample: Vectors, model_version: str, quantile: float = 1.0) -> Self:
        """From a sample (N > 0, D) of the model's vectors: each dimension's range is its largest magnitude there, or
        with `quantile` below 1 that quantile of its magnitudes; what lies beyond is clipped."""
        if sample.ndim != 2 or not len(sample):
            raise CompactError(f"calibration: expected a sample (N > 0, D), found {sample.shape}")
        if not 0 < quantile <= 1:
            raise CompactError(f"calibration: expected a quantile above 0 and at most 1, found {quantile}")
        if not np.isfinite(sample).all():
            raise CompactError("calibration: expected finite numbers in the sample, found others")
        ranges = np.quantile(np.abs(sample), quantile, axis=0)
        return cls(model_version, _scales(np.maximum(ranges, _LEAST_RANGE) / _STEPS))

    @property
    def version(self) -> str:
        """SHA-256 hex over model and scales: vectors of two versions do not mix."""
        scales = np.ascontiguousarray(self.scales, "<f4").tobytes()
        return hashlib.sha256(self.model_version.encode() + b"\n" + scales).hexdigest()

    def encode(self, vectors: Vectors) -> NDArray[np.int8]:
        """Vectors (N, D) as int8 in [-127, 127]; CompactError for another D and for numbers that are not finite."""
        self._check(vectors)
        if unsound := int((~np.isfinite(vectors)).any(axis=1).sum()):
            raise CompactError(f"vectors: expected finite numbers, found others in {unsound} of {len(vectors)} rows")
        codes: NDArray[np.int8] = np.rint(vectors / self.scales).clip(-_STEPS, _STEPS).astype(np.int8)
        return codes

    def decode(self, codes: NDArray[np.int8]) -> Vectors:
        """Codes (N, D) as float32, about of unit length."""
        self._check(codes)
        return codes * self.scales

    def fold(self, queries: Vectors) -> Vectors:
        """Queries (Q, D) whose dot product with *codes* is that of the queries with the decoded vectors."""
        self._check(queries)
        return queries * self.scales

    def save(self, path: Path) -> None:
        """Write it as JSON, its version beside it."""
        scales = [float(scale) for scale in self.scales]
        described = {"version": self.version, "model_version": self.model_version, "scales": scales}
        path.write_text(json.dumps(described) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote; CompactError where it is something else or was changed."""
        try:
            described = json.loads(path.read_text())
            calibration = cls(described["model_version"], _scales(described["scales"]))
            expected, found = described["version"], calibration.version
        except CompactError as error:
            raise CompactError(f"{path}: not a calibration: {error}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise CompactError(f"{path}: not a calibration: {type(error).__name__}: {error}") from error
        if found != expected:
            raise CompactError(f"{path}: version expected {expected}, found {found}")
        return calibration

    def _check(self, rows: NDArray[np.float32] | NDArray[np.int8]) -> None:
        if rows.ndim != 2 or rows.shape[1] != len(self.scales):
            raise CompactError(f"expected shape (N, {len(self.scales)}), found {rows.shape}")


def _scales(numbers: ArrayLike) -> Vectors:
    """As float32, in which what is too large is infinite, to be refused."""
    with np.errstate(over="ignore"):
        return np.asarray(numbers, np.float64).astype(np.float32)


def float16_vectors(vectors: Vectors) -> NDArray[np.float16]:
    """Vectors (N, D) in half the bytes; unit vectors keep three decimal digits, and nothing needs calibrating."""
    return vectors.astype(np.float16)


def recall_against(exact: Vectors, compact: Vectors, queries: NDArray[np.int64], k: int = 10) -> float:
    """Share of each query's k nearest by cosine among `exact` (N, D) that it also has among `compact` (N, D), decoded.

    `queries` (Q > 0,): rows that are looked up, in float32, among all others. Raises ValueError for fewer than k
    others, no queries, and queries that are no rows, TypeError for a `k` that is no whole number.
    """
    if whole_number("k", k) < 1:
        raise ValueError(f"k: expected at least 1, found {k}")
    if not len(queries) or queries.min() < 0 or queries.max() >= len(exact):
        raise ValueError(f"queries: expected one or more rows from 0 to {len(exact) - 1}, found {queries}")
    if len(exact) <= k or exact.shape != compact.shape:
        raise ValueError(f"expected two sets of one shape and more than {k} rows, found {exact.shape}, {compact.shape}")
    ids = np.arange(len(exact))
    found = [nearest(exact[queries], ids, vectors, k + 1)[0] for vectors in (exact, compact)]
    shares = []
    for query, wanted, got in zip(queries, *found, strict=True):
        shares.append(len(np.intersect1d(_others(query, wanted, k), _others(query, got, k))) / k)
    return float(np.mean(shares))


def _others(query: np.int64, ids: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    others: NDArray[np.int64] = ids[ids != query][:k]
    return others
