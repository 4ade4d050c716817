"""Rows of LSH buckets on their way to whoever compares them, and what is near another one there.

A bucket's row is one hash in one band. There are `bands` times as many as hashes, and as rows of Spark's each would
cost ten times what is done with it: so they travel in blocks of bytes (`ROW`), one for each batch and *part*, a share
of all buckets.
"""

from collections.abc import Iterable, Iterator
from math import ceil

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from udfs.images.minhash import close_pairs, finalised

ROW = np.dtype(
    [
        ("band_key", "<i8"),
        ("group_number", "<i8"),
        ("phash64", "<i8"),
        ("hash_number", "<i4"),
        ("is_full", "?"),
        ("is_new", "?"),
    ]
)
"""A row of a bucket: which one, which hash of which group, its 64 bits, whether it is of a full view
(`schemas.settings.FULL_VIEWS`), whether it is among those that are looked up."""

BLOCK_DDL = "part int, rows binary"
MET_DDL = "bucket bigint, group_number bigint, hash_number int"

ROWS_IN_PART = 1 << 20
"""Rows that a part is meant to have: some 30 MB, of which a task takes three times as much while it compares."""

MOST_PARTS = 1 << 17
"""Parts that there are at most: of more, each task would have too little of each for a block."""
MOST_AT_ONCE = 1 << 23
"""Rows of a part that are compared at once, 250 MB: of more (a crowd in few buckets, or more rows than were thought of)
some of the buckets are compared after the others."""

_PACKED_AT_ONCE, _MOST_PACKED = 1 << 18, 1 << 22
"""Rows that are gathered before they are cut into blocks, 8 MB; with many parts up to so many, 130 MB."""
_IN_BLOCK = 32
"""Rows that a block has on average, for blocks have a price of their own."""

Rows = NDArray[np.void]
"""(N,) of dtype `ROW`."""


def parts_for(rows: float) -> int:
    """Into how many parts so many rows of buckets are cut."""
    return min(max(1, ceil(rows / ROWS_IN_PART)), MOST_PARTS)


def pack(batches: Iterable[pa.RecordBatch], parts: int) -> Iterator[pa.RecordBatch]:
    """Hashes with their `band_keys`, and with the columns of `ROW` -> blocks (`BLOCK_DDL`) of all their rows."""
    most = min(max(_PACKED_AT_ONCE, _IN_BLOCK * parts), _MOST_PACKED)
    held: list[Rows] = []
    count = 0
    for batch in batches:
        held.append(_bucket_rows(batch))
        count += len(held[-1])
        if count >= most:
            yield _blocks(np.concatenate(held), parts)
            held, count = [], 0
    if count:
        yield _blocks(np.concatenate(held), parts)


def meet(batches: Iterable[pa.RecordBatch], max_hamming: int) -> Iterator[pa.RecordBatch]:
    """Blocks, those of one part one after the other -> what is near another one in its bucket (`MET_DDL`).

    Near: of two groups, within `max_hamming` by their 64 bits, one of the two being new and one of a full view. What
    is left of a bucket is named by who is in it; of several with the same hashes one comes out of a part, of a large
    part a few.
    """
    for rows in _parts(batches):
        for some in _in_turns(rows):
            yield _met(some, max_hamming)


def _bucket_rows(batch: pa.RecordBatch) -> Rows:
    lists = batch.column("band_keys")
    keys, times = lists.flatten(), lists.value_lengths().to_numpy(zero_copy_only=False)
    rows = np.empty(len(keys), ROW)
    rows["band_key"] = keys.to_numpy()
    for name in ROW.names or ():
        if name != "band_key":
            rows[name] = np.repeat(batch.column(name).to_numpy(zero_copy_only=False), times)
    return rows


def _blocks(rows: Rows, parts: int) -> pa.RecordBatch:
    part = (rows["band_key"].view(np.uint64) % np.uint64(parts)).astype(np.uint16 if parts <= 1 << 16 else np.int64)
    counts = np.bincount(part, minlength=parts)
    there = np.flatnonzero(counts)
    ends = np.r_[0, np.cumsum(counts[there])] * ROW.itemsize
    laid_out = rows[np.argsort(part, kind="stable")]  # of 16 bits: by radix
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(laid_out)]
    blocks = pa.Array.from_buffers(pa.binary(), len(there), buffers)
    return pa.RecordBatch.from_arrays([pa.array(there.astype(np.int32)), blocks], names=["part", "rows"])


def _parts(batches: Iterable[pa.RecordBatch]) -> Iterator[Rows]:
    held: list[Rows] = []
    current = None
    for batch in batches:
        for part, block in zip(batch.column("part").to_pylist(), batch.column("rows"), strict=True):
            if part != current and held:
                yield np.concatenate(held)
                held = []
            current = part
            held.append(np.frombuffer(block.as_buffer(), ROW))
    if held:
        yield np.concatenate(held)


def _in_turns(rows: Rows) -> Iterator[Rows]:
    """The rows, whole buckets at a time, about `MOST_AT_ONCE` of them."""
    turns = ceil(len(rows) / MOST_AT_ONCE)
    if turns <= 1:
        yield rows
        return
    turn = (rows["band_key"].view(np.uint64) >> np.uint64(32)) % np.uint64(turns)  # parts go by the lower bits
    for number in range(turns):
        yield rows[turn == number]


def _met(rows: Rows, max_hamming: int) -> pa.RecordBatch:
    keys = rows["band_key"].copy()
    order = np.argsort(keys)
    follows = np.diff(keys[order]) == 0
    order = order[np.r_[False, follows] | np.r_[follows, False]]  # many buckets have one row
    # Column by column: to take whole rows out of their order is five times as slow.
    group, hashes = (rows[name].copy()[order] for name in ("group_number", "phash64"))
    flags = {name: rows[name].copy()[order] for name in ("is_full", "is_new")}
    met = np.zeros(len(order), dtype=np.bool_)
    for first, second in close_pairs(keys[order], hashes, max_hamming, **flags):
        others = group[first] != group[second]
        met[first[others]] = True
        met[second[others]] = True
    return _named(rows[order[met]])


def _named(rows: Rows) -> pa.RecordBatch:
    """Rows, sorted by bucket -> those of buckets that differ, which are named by a 64-bit hash of who is in them. That
    two have one name, a chance of 2**-64, would lose one's pairs."""
    keys = rows["band_key"]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(rows) else np.empty(0, np.int64)
    hashes = finalised(rows["group_number"].view(np.uint64) ^ finalised(rows["hash_number"].astype(np.uint64)))
    names = np.add.reduceat(hashes, starts) if len(rows) else hashes  # a sum does not go by order
    sizes = np.diff(np.r_[starts, len(rows)])
    wanted = np.zeros(len(starts), dtype=np.bool_)
    wanted[np.unique(names, return_index=True)[1]] = True
    chosen = np.repeat(wanted, sizes)
    columns = (np.repeat(names, sizes).view(np.int64), rows["group_number"], rows["hash_number"])
    return pa.RecordBatch.from_arrays(
        [pa.array(column[chosen]) for column in columns], names=["bucket", "group_number", "hash_number"]
    )
