"""Lists of 256-bit hashes: whether one is listed, and whether one is within a Hamming distance of a listed one.

Large lists go by multi-index hashing (Norouzi, Punjani, Fleet, "Fast Exact Search in Hamming Space with Multi-Index
Hashing", 2014) with the pigeonring principle (Qin, Xiao, "Pigeonring: A Principle for Faster Thresholded Similarity
Search", 2018): of two hashes at distance d in 16 chunks, laid in a ring, there is a chunk from which on the next l
chunks differ in at most l * d / 16 bits together, for every l. So the entries that share a chunk but for d // 16 bits
are looked at, those that also agree on the two chunks after it are compared whole, and no others. Exact, whatever the
list.
"""

import functools
import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.policy import HASH_BYTES
from udfs.bits import popcount
from udfs.images.minhash import hamming256

_CHUNKS: Final = 16
_CHUNK_VALUES: Final = 1 << 16
_BRUTE_BELOW: Final = 1024
"""Entries up to which all are compared: as fast, and no index in memory."""

Words = NDArray[np.uint64]


def is_listed(packed: bytes, wanted: bytes) -> bool:
    """Whether `wanted` is one of the sorted hashes in `packed`, 32 bytes each; by bisection, without an index."""
    low, high = 0, len(packed) // HASH_BYTES
    while low < high:
        middle = (low + high) // 2
        entry = packed[middle * HASH_BYTES : (middle + 1) * HASH_BYTES]
        if entry == wanted:
            return True
        low, high = (middle + 1, high) if entry < wanted else (low, middle)
    return False


@dataclass(frozen=True, eq=False)
class HashIndex:
    """Listed hashes made ready for `any_within`. Make it with `hash_index`. Of a short list, only `words`."""

    words: Words
    """(entries, 4)."""
    order: NDArray[np.uint32]
    """(16 * entries,): per chunk, the entries in the order of its values."""
    following: NDArray[np.uint32]
    """(16 * entries,): beside each of `order`, the two chunks after that chunk."""
    starts: NDArray[np.uint32]
    """(16, 65537): per chunk, where among its entries in `order` those of each value begin."""


def hash_index(packed: bytes) -> HashIndex:
    """From hashes one after the other, 32 bytes each. A million take 130 MB beside their own 32."""
    words = np.frombuffer(packed, dtype=np.uint64).reshape(-1, 4)
    entries = len(words) if len(words) > _BRUTE_BELOW else 0
    chunks = words[:entries].view(np.uint16).reshape(entries, _CHUNKS)
    order = np.empty((_CHUNKS, entries), dtype=np.uint32)
    following = np.empty((_CHUNKS, entries), dtype=np.uint32)
    starts = np.zeros((_CHUNKS, _CHUNK_VALUES + 1), dtype=np.uint32)
    after = _following(chunks)
    for number in range(_CHUNKS):
        order[number] = np.argsort(chunks[:, number], kind="stable")
        following[number] = after[:, number].take(order[number])
        np.cumsum(np.bincount(chunks[:, number], minlength=_CHUNK_VALUES), out=starts[number, 1:])
    return HashIndex(words, order.reshape(-1), following.reshape(-1), starts)


def any_within(index: HashIndex, hashes: bytes, max_distance: int) -> bool:
    """Whether any of `hashes` (32 bytes each) is within `max_distance` of a listed one."""
    wanted = np.frombuffer(hashes, dtype=np.uint64).reshape(-1, 4)
    if not index.order.size:
        return any(bool((hamming256(index.words, one) <= max_distance).any()) for one in wanted)
    chunks = wanted.view(np.uint16)
    masks, flipped = _neighbourhood(max_distance // _CHUNKS)
    probes = (chunks[:, :, None] ^ masks).astype(np.int64)  # (hashes, 16, masks)
    chunk = np.arange(_CHUNKS)[:, None]
    first = index.starts[chunk, probes].astype(np.int64)
    counts = (index.starts[chunk, probes + 1] - first).reshape(-1)
    first = (first + chunk * len(index.words)).reshape(-1)
    # Candidates lie in runs, one a probe: their places in `order`, and what they are to agree with.
    places = np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    after = np.repeat(_following(chunks).reshape(-1), counts.reshape(-1, len(masks)).sum(axis=1))
    allowed = np.repeat(np.tile(3 * max_distance // _CHUNKS - flipped, chunks.size), counts)
    near = np.flatnonzero(popcount((index.following.take(places) ^ after).astype(np.uint64)) <= allowed)
    query = np.searchsorted(np.cumsum(counts), near, side="right") // (_CHUNKS * len(masks))
    entries = index.order.take(places.take(near))
    return bool((hamming256(index.words.take(entries, axis=0), wanted.take(query, axis=0)) <= max_distance).any())


def _following(chunks: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """The two chunks after each of (N, 16), round the ring, as one number."""
    wide = chunks.astype(np.uint32)
    return np.roll(wide, -1, axis=1) | np.roll(wide, -2, axis=1) << np.uint32(16)


@functools.cache
def _neighbourhood(radius: int) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """All 16-bit values with at most `radius` bits set, and how many are."""
    masks = [sum(1 << bit for bit in bits) for n in range(radius + 1) for bits in itertools.combinations(range(16), n)]
    return np.array(masks, dtype=np.uint16), np.array([mask.bit_count() for mask in masks])
