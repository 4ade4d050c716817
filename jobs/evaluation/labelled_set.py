"""Labelled images as the job would store them, without near-duplicates.

A mirrored or recompressed copy is found by any embedding and proves nothing, so only the first of each group of
near-duplicates takes part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.evaluation.labelled import Labelled
from schemas.settings import CrawlSettings, DedupSettings, ImageSettings
from udfs.images.canonical import Canonical, canonicalise
from udfs.images.decode import ImageError
from udfs.images.minhash import Compared, alike, hash_words
from udfs.images.phash import FULL_VIEW_NUMBERS, HASH_LAYOUT, view_numbers

_AT_ONCE = 1024
"""Hashes compared with all full views at once: some MB for a thousand images."""


@dataclass(frozen=True)
class Prepared:
    """A labelled image as it would be in the table `images`."""

    labelled: Labelled
    pixels: bytes
    """Canonical JPEG."""
    sharpness: float
    copies: int
    """Images of the set that are its near-duplicates, itself included."""


@dataclass(frozen=True)
class LabelledSet:
    """What takes part, and what was left out."""

    images: tuple[Prepared, ...]
    unreadable: int
    near_duplicates: int


def prepare(labelled: Sequence[Labelled], images: ImageSettings, rule: DedupSettings) -> LabelledSet:
    """Canonical images, the first of each group of near-duplicates, in order.

    What `udfs.images.canonical` refuses (not an image, too small) is left out and counted. A copy is whatever `rule`
    says, views and orientations included; flat images have no copies.
    """
    stored: list[tuple[Labelled, Canonical]] = []
    for one in labelled:
        try:
            stored.append((one, canonicalise(one.pixels, images, CrawlSettings())))
        except ImageError:
            continue
    near = _near([canonical for _, canonical in stored], rule)
    kept: list[int] = []
    copies: dict[int, int] = {}
    for number in range(len(stored)):
        original = next((earlier for earlier in kept if near[earlier, number]), None)
        if original is None:
            kept.append(number)
        copies[number if original is None else original] = copies.get(number if original is None else original, 0) + 1
    taken = [(*stored[number], copies[number]) for number in kept]
    prepared = tuple(Prepared(source, one.pixels, one.sharpness, count) for source, one, count in taken)
    return LabelledSet(prepared, len(labelled) - len(stored), len(stored) - len(kept))


def _near(images: Sequence[Canonical], rule: DedupSettings) -> NDArray[np.bool_]:
    """Which pairs (N, N) are near-duplicates: some view of one and a full view of the other are near by both hashes,
    and not of two colours."""
    seen = view_numbers(rule.views)
    mine = [[one for one in image.view_hashes if one[0] in seen] for image in images]
    owner = np.repeat(np.arange(len(images)), [len(some) for some in mine])
    rows = np.frombuffer(b"".join(one for some in mine for one in some), HASH_LAYOUT)
    near64, far = _signs(rows["phash64"]), hash_words([one.tobytes() for one in rows["phash256"]])
    hashes = Compared(rows["phash64"].copy().view(">u8").astype(np.uint64).ravel(), far, rows["hue"], rows["shades"])
    is_full = np.flatnonzero(np.isin(rows["view"], FULL_VIEW_NUMBERS))
    near = np.zeros((len(images), len(images)), dtype=bool)
    for start in range(0, len(rows), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        first, second = np.nonzero(_distances(near64[some], near64[is_full]) <= rule.outer_hamming)
        first, second = first + start, is_full[second]
        edges = alike(hashes, first, second, rule)
        near[owner[first[edges]], owner[second[edges]]] = True
    flat = np.array([image.flatness < rule.flat_below for image in images], dtype=bool)
    near[flat] = near[:, flat] = False
    both: NDArray[np.bool_] = near | near.T
    return both


def _signs(packed: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bits, packed along the last axis, as -1 and 1."""
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1


def _distances(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Hamming distances (N, M) of rows of signs."""
    distances: NDArray[np.float32] = (some.shape[1] - some @ others.T) / 2
    return distances
