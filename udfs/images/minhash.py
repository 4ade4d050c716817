"""MinHash-LSH over the bits of the 64-bit pHash, and the exact verification of what falls into one bucket.

A hash is the set of its 64 tokens (position, bit), of 128 in all; at Hamming distance d two such sets have Jaccard
similarity (64 - d) / (64 + d). Signatures are those of `datasketch.MinHash(num_perm=bands * rows, seed=seed,
scheme="affine32")` with its own SHA-1 hash function, updated with one byte a token: 2 * position + bit, position 0
the most significant bit. Sources: Broder, "On the resemblance and containment of documents" (1997); Leskovec,
Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3.

Hashes come as uint64 or, as Spark keeps them, int64; only the bits count.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import ceil, comb, expm1, log1p
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.settings import DedupSettings
from udfs.bits import popcount
from udfs.images.phash import HUES, read_fixed

HASH_BITS = 64

Hashes = NDArray[np.uint64] | NDArray[np.int64]


class Compared(NamedTuple):
    """What of each of N hashes is compared, in the same order; `udfs.images.phash.ViewHash` says what it is."""

    phash64: Hashes
    """(N,)"""
    phash256: NDArray[np.uint64]
    """(N, 4), from `hash_words`."""
    hues: NDArray[np.uint8]
    """(N,)"""
    shades: NDArray[np.uint8]
    """(N,)"""

    def take(self, rows: NDArray[np.int64]) -> "Compared":
        """Those hashes alone, in that order."""
        return Compared(self.phash64[rows], self.phash256[rows], self.hues[rows], self.shades[rows])


_SIGNED_AT_ONCE = 4096
"""Rows signed at once: keeps the running minima in the processor's cache."""

_PAIRS_AT_ONCE = 1 << 16
"""Pairs compared at once: temporaries stay small, and memory bounded whatever a bucket's size."""

_WORDS = np.dtype([("words", ">u8", (4,))])
"""A 256-bit hash, most significant word first."""

_ODD = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio: the multiplier of Fibonacci hashing."""


def recall(hamming: int, bands: int, rows: int) -> float:
    """Probability that two hashes at this Hamming distance (0 to 64) share at least one of the bands."""
    jaccard = (HASH_BITS - hamming) / (HASH_BITS + hamming)
    return float(1 - (1 - jaccard**rows) ** bands)


def bands_needed(hamming: int, rows: int, target_recall: float) -> int:
    """The fewest bands of so many rows by which pairs at this distance share a bucket with at least that probability.

    Raises ValueError for a recall outside (0, 1) and a distance outside 0 to 63, which no number of bands reaches.
    """
    if not 0 < target_recall < 1:
        raise ValueError(f"target recall: expected a number between 0 and 1, found {target_recall}")
    if not 0 <= hamming < HASH_BITS:
        raise ValueError(f"distance: expected 0 to {HASH_BITS - 1} bits, found {hamming}")
    # Not by `recall`, which takes it from 1 twice: of less than 1e-16 nothing would be left to divide by.
    one = ((HASH_BITS - hamming) / (HASH_BITS + hamming)) ** rows
    if one >= 1:
        return 1
    found = ceil(log1p(-target_recall) / log1p(-one))
    return max(1, found if recall(hamming, found, rows) >= target_recall else found + 1)


def candidate_rate(bands: int, rows: int) -> float:
    """Share of unrelated pairs that share a band: their bits agree by chance, so the distance is Binomial(64, 1/2)."""
    return sum(comb(HASH_BITS, d) * recall(d, bands, rows) for d in range(HASH_BITS + 1)) / 2.0**HASH_BITS


def share_met(hashes: float, rows: int) -> float:
    """Of the rows of an index, share that are in a bucket with one of so many unrelated hashes, with so many rows a
    band."""
    return -expm1(hashes * log1p(-candidate_rate(1, rows)))


def signatures(hashes: Hashes, settings: DedupSettings) -> NDArray[np.uint32]:
    """MinHash signatures of 64-bit hashes.

    Args:
        hashes: (N,) uint64 or int64.
        settings: `bands`, `rows` and `seed`.

    Returns:
        (N, bands * rows) uint32, bit-equal to datasketch 2.0's.
    """
    tables = _byte_minima(settings.bands * settings.rows, settings.seed)
    hash_bytes = np.ascontiguousarray(hashes).view(np.uint64).astype(">u8").view(np.uint8).reshape(-1, 8)
    result = np.empty((len(hashes), tables.shape[2]), dtype=np.uint32)
    for start in range(0, len(hashes), _SIGNED_AT_ONCE):
        block, minima = hash_bytes[start : start + _SIGNED_AT_ONCE], result[start : start + _SIGNED_AT_ONCE]
        np.take(tables[0], block[:, 0], axis=0, out=minima)
        for position in range(1, 8):
            np.minimum(minima, tables[position][block[:, position]], out=minima)
    return result


@lru_cache(maxsize=4)
def _byte_minima(num_perm: int, seed: int) -> NDArray[np.uint32]:
    """(8, 256, num_perm) uint32: for each byte of a hash and each of its values, the minima over its eight tokens.

    A signature is then the minimum over eight look-ups, instead of over 64 tokens.
    """
    from datasketch import MinHash

    empty = MinHash(num_perm=num_perm, seed=seed, scheme="affine32")
    tokens = np.empty((128, num_perm), dtype=np.uint32)
    for token in range(128):
        one = empty.copy()
        one.update(bytes([token]))
        tokens[token] = one.hashvalues
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    positions = np.arange(64).reshape(8, 1, 8)
    # One byte position at a time: (256, 8, num_perm) is what is held at once.
    return np.stack([tokens[2 * row + bits].min(axis=1) for row in positions])


def band_keys(signature_rows: NDArray[np.uint32], settings: DedupSettings) -> NDArray[np.int64]:
    """The bucket of each signature in each band: a 64-bit hash of the band's number and its rows.

    Args:
        signature_rows: (N, bands * rows) uint32, from `signatures`.
        settings: `bands` and `rows`.

    Returns:
        (N, bands) int64. Equal rows of one band give equal keys; others collide with a chance of about 2**-64, which
        costs a comparison and no result.
    """
    bands = signature_rows.reshape(-1, settings.bands, settings.rows)
    keys = np.broadcast_to(np.arange(1, settings.bands + 1, dtype=np.uint64), bands.shape[:2]) * _ODD
    for row in range(settings.rows):
        keys ^= bands[:, :, row]
        keys *= _ODD
        keys ^= keys >> np.uint64(29)
    return finalised(keys).view(np.int64)


def finalised(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64-bit numbers mixed by the finaliser of SplitMix64 (Steele, Lea, Flood, 2014): every bit of one depends on every
    bit before."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def hash_words(hashes: Sequence[bytes] | pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """256-bit hashes, 32 bytes each or an Arrow binary column of such, as (N, 4) uint64, most significant word first.

    Raises:
        ValueError: where a hash has not 32 bytes, or is null.
    """
    column = pa.chunked_array([hashes], pa.binary()) if isinstance(hashes, Sequence) else hashes
    column = column.cast(pa.binary())
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return read_fixed(array, _WORDS, "256-bit hashes")["words"].astype(np.uint64)


def hamming64(left: Hashes, right: Hashes) -> NDArray[np.uint8]:
    """Hamming distances of 64-bit hashes, element by element with broadcasting; uint8."""
    return popcount(np.asarray(left).view(np.uint64) ^ np.asarray(right).view(np.uint64)).astype(np.uint8)


def hamming256(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Hamming distances of 256-bit hashes, (..., 4) uint64 each, with broadcasting; (...) uint16."""
    return cast("NDArray[np.uint16]", popcount(left ^ right).sum(axis=-1, dtype=np.uint16))


def close_pairs(
    keys: NDArray[np.int64],
    phash64: Hashes,
    max_hamming: int,
    *,
    is_full: NDArray[np.bool_] | None = None,
    is_new: NDArray[np.bool_] | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs of rows in one bucket whose 64-bit hashes are near; none is lost whatever a bucket's size.

    Two hashes that meet in several bands come out once for each.

    Args:
        keys: (N,) band keys, sorted: a run of equal keys is one bucket.
        phash64: (N,) uint64 or int64.
        max_hamming: largest distance, inclusive.
        is_full: (N,) bool, whether a hash is of a full view (`schemas.settings.FULL_VIEWS`); where given, only pairs
            with at least one such.
        is_new: (N,) bool; where given, only pairs with at least one new row, at the cost of those only.

    Yields:
        Row numbers (first, second), (P,) int64 each, a block of pairs at a time. Without `is_new` first < second, and
        over all blocks pairs come in the order of (first, second).
    """
    order, begins, partners = _enumeration(keys, is_full, is_new)
    hashes = np.ascontiguousarray(phash64).view(np.uint64)[order]
    full = None if is_full is None or is_new is not None else is_full[order]
    for block in _pair_blocks(begins, partners):
        first, second = block
        if full is not None:
            compared = full[first] | full[second]
            first, second = first[compared], second[compared]
        near = hamming64(hashes[first], hashes[second]) <= max_hamming
        yield order[first[near]], order[second[near]]


def verified_pairs(
    keys: NDArray[np.int64],
    hashes: Compared,
    settings: DedupSettings,
    *,
    is_full: NDArray[np.bool_] | None = None,
    is_new: NDArray[np.bool_] | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Those of `close_pairs` up to `outer_hamming` that are `alike`: near-duplicates by `settings`."""
    for first, second in close_pairs(keys, hashes.phash64, settings.outer_hamming, is_full=is_full, is_new=is_new):
        edges = alike(hashes, first, second, settings)
        yield first[edges], second[edges]


def alike(
    hashes: Compared, first: NDArray[np.int64], second: NDArray[np.int64], settings: DedupSettings
) -> NDArray[np.bool_]:
    """Which pairs of hashes, by their places (P,) in `hashes`, are near-duplicates by `settings`: (P,) bool.

    A symmetric function of the two, whether they share a bucket or not: `are_near`, and not of two colours, that is
    with hues within `max_hue_apart` degrees, or `outer_hue_apart` where they are more than `max_hamming` apart.
    """
    one, other = hashes.take(first), hashes.take(second)
    hamming = hamming64(one.phash64, other.phash64)
    is_one_colour: NDArray[np.bool_] = hues_apart(one.hues, other.hues) <= most_apart(hamming, settings)
    return _are_near(hamming, one, other, settings) & is_one_colour


def are_near(left: Compared, right: Compared, settings: DedupSettings) -> NDArray[np.bool_]:
    """Which hashes are near each other whatever their colours, element by element with broadcasting.

    Within `max_hamming` and `max_hamming256`, inclusive; where both have `outer_shades`, within `outer_hamming` and
    `max_hamming256`.
    """
    return _are_near(hamming64(left.phash64, right.phash64), left, right, settings)


def _are_near(
    hamming: NDArray[np.uint8], left: Compared, right: Compared, settings: DedupSettings
) -> NDArray[np.bool_]:
    shades = np.minimum(left.shades, right.shades)
    limit = np.where(shades >= settings.outer_shades, settings.outer_hamming, settings.max_hamming)
    near: NDArray[np.bool_] = hamming <= limit
    near &= hamming256(left.phash256, right.phash256) <= settings.max_hamming256
    return near


def most_apart(hamming: NDArray[np.uint8], settings: DedupSettings) -> NDArray[np.int64]:
    """Degrees that the hues of hashes at these 64-bit distances may be apart, element by element."""
    outer = min(settings.max_hue_apart, settings.outer_hue_apart)
    return np.where(hamming <= settings.max_hamming, settings.max_hue_apart, outer)


def hues_apart(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Degrees between hues as they are stored (`udfs.images.phash.HUES`), element by element with broadcasting.

    0 where one of the two has none, and where one is a tint and the other is not: a print in one ink is near whatever
    colours it is of, and far from one in another ink.
    """
    one, other = left.astype(np.int16), right.astype(np.int16)
    apart = np.abs(one - other)
    degrees = np.minimum(apart, HUES - apart) * np.int16(360 // HUES)
    compared = (one > 0) & (other > 0) & ((one > HUES) == (other > HUES))
    return np.where(compared, degrees, np.int16(0))


def _enumeration(
    keys: NDArray[np.int64], is_full: NDArray[np.bool_] | None, is_new: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """An order of the rows; and of each, in that order, the first row that it is to be compared with, and how many.

    In a bucket the new full ones come first, and are compared with all that come after them; the other new ones follow,
    and then the old full ones, which these are compared with. So each pair that is wanted is met once, and no other
    pair at all. (Without `is_new` the order is left alone, and pairs without a full one are passed over later.)
    """
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.empty(0, dtype=np.int64)
    sizes = np.diff(np.r_[starts, len(keys)])
    bucket = np.repeat(np.arange(len(starts)), sizes)
    following = np.arange(1, len(keys) + 1)
    partners = np.repeat(starts + sizes, sizes) - following
    if is_new is None:
        return np.arange(len(keys)), following, partners
    part = 2 * ~is_new + (0 if is_full is None else ~is_full)
    order = np.argsort(4 * bucket + part, kind="stable")
    part = part[order]
    counts = np.bincount(4 * bucket + part, minlength=4 * len(starts)).reshape(-1, 4)
    old_full = (starts + counts[:, 0] + counts[:, 1])[bucket]
    begins = np.where(part == 1, old_full, following)
    return order, begins, np.select([part == 0, part == 1], [partners, counts[bucket, 2]], 0)


def _pair_blocks(
    begins: NDArray[np.int64], partners: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Positions (first, second) of all pairs that `partners` counts, at most `_PAIRS_AT_ONCE` at a time."""
    ends = np.cumsum(partners)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, _PAIRS_AT_ONCE):
        stop = min(start + _PAIRS_AT_ONCE, total)
        low, high = np.searchsorted(ends, (start, stop - 1), side="right")
        here, own = ends[low : high + 1], slice(low, high + 1)
        counts = np.diff(np.r_[start, np.minimum(here, stop)])
        first = np.repeat(np.arange(low, high + 1), counts)
        # The pair that ends a row's count is the one with the last row it is compared with.
        second = np.arange(start, stop) - np.repeat(here - partners[own] - begins[own], counts)
        yield first, second
