"""Labelled pictures as the job would store them, without near-duplicates.

A mirrored or recompressed copy is found by any embedding and proves nothing, so only the first of each group of
near-duplicates takes part, tried in all eight orientations.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.evaluation.labelled import Labelled
from schemas.settings import CrawlSettings, DedupSettings, ImageSettings
from udfs.images.canonical import canonicalise
from udfs.images.decode import ImageError
from udfs.images.phash import PerceptualHashes, decode_luminance, hash_luminance

_TURNS: tuple[Image.Transpose | None, ...] = (None, *Image.Transpose)


@dataclass(frozen=True)
class Prepared:
    """A labelled picture as it would be in the table `images`."""

    labelled: Labelled
    pixels: bytes
    """Canonical JPEG."""
    sharpness: float
    copies: int
    """Pictures of the set that are its near-duplicates, itself included."""


@dataclass(frozen=True)
class LabelledSet:
    """What takes part, and what was left out."""

    pictures: tuple[Prepared, ...]
    unreadable: int
    near_duplicates: int


def prepare(pictures: Sequence[Labelled], images: ImageSettings, rule: DedupSettings) -> LabelledSet:
    """Canonical pictures, the first of each group of near-duplicates, in order.

    What `udfs.images.canonical` refuses (not a picture, too small) is left out and counted. A copy is whatever `rule`'s
    distances say in any orientation; flat pictures have no copies.
    """
    stored: list[tuple[Labelled, bytes]] = []
    hashes: list[list[PerceptualHashes]] = []
    for picture in pictures:
        try:
            canonical = canonicalise(picture.pixels, images, CrawlSettings())
        except ImageError:
            continue
        stored.append((picture, canonical.pixels))
        luminance = decode_luminance(canonical.pixels)
        hashes.append([hash_luminance(luminance if turn is None else luminance.transpose(turn)) for turn in _TURNS])
    near = _near(hashes, rule)
    kept: list[int] = []
    copies: dict[int, int] = {}
    for number in range(len(stored)):
        original = next((earlier for earlier in kept if near[earlier, number]), None)
        if original is None:
            kept.append(number)
        copies[number if original is None else original] = copies.get(number if original is None else original, 0) + 1
    prepared = tuple(Prepared(*stored[n], hashes[n][0].sharpness, copies[n]) for n in kept)
    return LabelledSet(prepared, len(pictures) - len(stored), len(stored) - len(kept))


def _near(hashes: Sequence[Sequence[PerceptualHashes]], rule: DedupSettings) -> NDArray[np.bool_]:
    """Which pairs (N, N) are near-duplicates in some orientation of either."""
    bits64 = np.array([[_signs(one.phash64.to_bytes(8, "big", signed=True)) for one in turns] for turns in hashes])
    bits256 = np.array([[_signs(one.phash256) for one in turns] for turns in hashes])
    near = np.zeros((len(hashes), len(hashes)), dtype=bool)
    for turn in range(len(_TURNS)):
        near |= (_distances(bits64, turn) <= rule.max_hamming) & (_distances(bits256, turn) <= rule.max_hamming256)
    flat = np.array([turns[0].flatness < rule.flat_below for turns in hashes])
    near[flat] = near[:, flat] = False
    both: NDArray[np.bool_] = near | near.T
    return both


def _signs(packed: bytes) -> NDArray[np.float32]:
    return np.unpackbits(np.frombuffer(packed, np.uint8)).astype(np.float32) * 2 - 1


def _distances(signs: NDArray[np.float32], turn: int) -> NDArray[np.float32]:
    """Hamming distances (N, N) of the upright hashes to those of one orientation; `signs` (N, 8, bits) in {-1, 1}."""
    upright, turned = signs[:, 0], signs[:, turn]
    distances: NDArray[np.float32] = (upright.shape[1] - upright @ turned.T) / 2
    return distances
