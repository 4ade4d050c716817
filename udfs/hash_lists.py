"""Lists of 256-bit hashes: whether one is listed, and whether one is within a Hamming distance of a listed one.

Large lists go by multi-index hashing (Norouzi, Punjani, Fleet, "Fast Exact Search in Hamming Space with Multi-Index
Hashing", 2014): of 16 chunks of 16 bits, two hashes at distance d have one at distance d // 16 or less. So the entries
that share a chunk within that radius are compared whole, and no others. Exact, whatever the list.
"""

import functools
import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.policy import HASH_BYTES

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
    """Listed hashes made ready for `any_within`. Make it with `hash_index`."""

    words: Words
    """(entries, 4)."""
    halves: Words
    """(entries, 2): the first half of each, for a first comparison."""
    order: NDArray[np.uint32]
    """(16, entries): per chunk, the entries in the order of its values; empty for a short list."""
    starts: NDArray[np.uint32]
    """(16, 65537): per chunk, where in `order` the entries of each value begin; empty for a short list."""


def hash_index(packed: bytes) -> HashIndex:
    """From hashes one after the other, 32 bytes each. A million take 80 MB beside their own 32."""
    words = np.frombuffer(packed, dtype=np.uint64).reshape(-1, 4)
    indexed = len(words) if len(words) > _BRUTE_BELOW else 0
    order = np.empty((_CHUNKS, indexed), dtype=np.uint32)
    starts = np.zeros((_CHUNKS, _CHUNK_VALUES + 1), dtype=np.uint32)
    for number, values in enumerate(words[:indexed].view(np.uint16).reshape(indexed, _CHUNKS).T):
        order[number] = np.argsort(values, kind="stable")
        np.cumsum(np.bincount(values, minlength=_CHUNK_VALUES), out=starts[number, 1:])
    return HashIndex(words, np.ascontiguousarray(words[:, :2]), order, starts)


def any_within(index: HashIndex, hashes: bytes, max_distance: int) -> bool:
    """Whether any of `hashes` (32 bytes each) is within `max_distance` of a listed one."""
    wanted = np.frombuffer(hashes, dtype=np.uint64).reshape(-1, 4)
    if not index.order.size:
        return any(bool((_distances(index.words, one) <= max_distance).any()) for one in wanted)
    masks = _neighbourhood(max_distance // _CHUNKS)
    probes = (wanted.view(np.uint16).reshape(-1, _CHUNKS, 1) ^ masks).astype(np.int64)
    chunk = np.arange(_CHUNKS)[:, None]
    first = index.starts[chunk, probes].reshape(-1).astype(np.int64)
    counts = index.starts[chunk, probes + 1].reshape(-1) - first
    # Of each candidate: the probe that found it, and its place in that probe's bucket.
    probe = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(probe)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    entries = index.order[probe // len(masks) % _CHUNKS, place]
    query = probe // (len(masks) * _CHUNKS)
    # Half of the bits rule out nearly all: unrelated halves are 64 +- 6 bits apart.
    halves = np.ascontiguousarray(wanted[:, :2]).take(query, axis=0)
    near = _distances(index.halves.take(entries, axis=0), halves) <= max_distance
    return bool((_distances(index.words[entries[near]], wanted[query[near]]) <= max_distance).any())


@functools.cache
def _neighbourhood(radius: int) -> NDArray[np.uint16]:
    """All 16-bit values with at most `radius` bits set."""
    masks = [sum(1 << bit for bit in bits) for n in range(radius + 1) for bits in itertools.combinations(range(16), n)]
    return np.array(masks, dtype=np.uint16)


def _distances(left: Words, right: Words) -> NDArray[np.int64]:
    """Differing bits row by row, by SWAR: numpy 1.26 has no `bitwise_count`."""
    bits = left ^ right
    bits = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((bits * np.uint64(0x0101010101010101)) >> np.uint64(56)).sum(axis=1).astype(np.int64)
