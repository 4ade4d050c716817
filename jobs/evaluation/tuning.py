"""Which bands and rows: the arithmetic of MinHash-LSH over the bits of a pHash, at a size and for a night.

Formulas: Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3.4. Unrelated hashes agree in each bit by
chance, which real ones do not quite: `observed_rate` says by how much more they meet in a sample of a table's own.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.settings import DedupSettings
from udfs.images.minhash import band_keys, bands_needed, candidate_rate, hamming64, recall, share_met, signatures

BAND_BYTES = 8.3
"""Of a band of a hash in `lsh_bands` on disk, measured: docs/scale.md."""
ROWS = range(8, 21)
"""Rows a band that are looked at: with fewer everything meets, with more no index is small enough."""


@dataclass(frozen=True)
class Need:
    """What is asked of the index."""

    max_hamming: int
    """Distance of 64-bit hashes up to which pairs are to be found."""
    target_recall: float
    """Share of the pairs at that distance that must share a bucket."""
    images: int
    night: int
    """Images of a night."""
    hashes: float = 1.0
    """In the index, of an image: of its views and orientations. One of them is of the whole, and without one of these
    no pair is compared."""
    most_bytes: int = 4096
    """Of the index, an image."""


@dataclass(frozen=True)
class Choice:
    """Bands and rows that reach the recall, and what they cost."""

    bands: int
    rows: int
    recalls: dict[int, float]
    """By distance."""
    candidate_rate: float
    """Share of unrelated pairs of hashes that share a bucket."""
    full_pairs: float
    """Unrelated pairs of hashes that a first grouping of all images compares."""
    night_pairs: float
    """The same of a night against all images."""
    moved: float
    """Share of the index's rows that share a bucket with a hash of the night, and are read for it."""
    bytes_per_image: float
    night_work: float
    """Rows written, rows read and pairs compared by a night, together: what choices are ordered by."""

    def settings(self, base: DedupSettings) -> DedupSettings:
        """The settings with these bands and rows."""
        return base.model_copy(update={"bands": self.bands, "rows": self.rows})


def choices(need: Need) -> list[Choice]:
    """For each number of rows the fewest bands that reach the recall, with their costs."""
    return [_choice(need, rows, bands_needed(need.max_hamming, rows, need.target_recall)) for rows in ROWS]


def recommended(found: list[Choice], need: Need) -> Choice | None:
    """Of the choices whose index is small enough the one of least work a night; None where none is."""
    small = [one for one in found if one.bytes_per_image <= need.most_bytes]
    return min(small, key=lambda one: one.night_work, default=None)


def _choice(need: Need, rows: int, bands: int) -> Choice:
    rate = candidate_rate(bands, rows)
    compared = 2 * need.hashes - 1  # hashes of one with the whole of the other, both ways round
    night_pairs = need.night * need.images * compared * rate
    # One band of a history's hash meets none of the night's by chance.
    moved = share_met(need.night * need.hashes, rows)
    index_rows = need.hashes * bands
    work = need.night * index_rows + moved * need.images * index_rows + night_pairs
    return Choice(
        bands,
        rows,
        {distance: recall(distance, bands, rows) for distance in range(0, need.max_hamming + 3, 2)},
        rate,
        need.images * (need.images - 1) / 2 * compared * rate,
        night_pairs,
        moved,
        index_rows * BAND_BYTES,
        work,
    )


def observed_rate(hashes: NDArray[np.int64], settings: DedupSettings) -> float:
    """Share of the pairs of these hashes, (N,) int64, that share a bucket, of those further apart than `max_hamming`.

    For a sample: time and memory grow with the pairs that meet. NaN where no pair is that far apart.
    """
    distinct = np.unique(hashes)
    keys = band_keys(signatures(distinct, settings), settings)
    met: set[int] = set()
    for band in range(settings.bands):
        met |= _sharing(keys[:, band])
    pairs = np.fromiter(met, np.int64, len(met))
    left, right = pairs // len(distinct), pairs % len(distinct)
    far = hamming64(distinct[left], distinct[right]) > settings.max_hamming
    near_in_all = sum(
        int((hamming64(distinct[number], distinct[number + 1 :]) <= settings.max_hamming).sum())
        for number in range(len(distinct))
    )
    unrelated = len(distinct) * (len(distinct) - 1) // 2 - near_in_all
    return float(far.sum()) / unrelated if unrelated else math.nan


def _sharing(keys: NDArray[np.int64]) -> set[int]:
    """Pairs of positions i < j with equal keys, each as i * N + j."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    ends = np.flatnonzero(np.diff(ordered)) + 1
    found: set[int] = set()
    for bucket in np.split(order, ends):
        if len(bucket) > 1:
            first, second = np.triu_indices(len(bucket), 1)
            one, other = bucket[first], bucket[second]
            found.update((np.minimum(one, other) * len(keys) + np.maximum(one, other)).tolist())
    return found
