"""What is near in buckets, from blocks that were cut by key, against all pairs of rows."""

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import pyarrow as pa
import pytest

from udfs.images import buckets
from udfs.images.buckets import MOST_PARTS, ROWS_IN_PART, meet, pack, parts_for

MOST = 6


@dataclass(frozen=True)
class Hash:
    """A hash with the buckets that it is in."""

    group: int
    number: int
    bits: int
    is_full: bool
    is_new: bool
    keys: tuple[int, ...]


def made_up(seed: int, count: int = 400) -> list[Hash]:
    """Few buckets and few bits, so that much meets; keys of both signs, groups with several hashes."""
    chance = random.Random(seed)
    keys = [chance.randrange(-(2**63), 2**63) for _ in range(120)]
    hashes = []
    for place in range(count):
        bits = sum(1 << chance.randrange(64) for _ in range(chance.randrange(6)))
        signed = bits % 2**64 - (2**64 if bits % 2**64 >= 2**63 else 0)
        own = tuple(chance.sample(keys, chance.randrange(1, 5)))
        flags = (chance.random() < 0.6, chance.random() < 0.3)
        hashes.append(Hash((place // 3) * 7 - 200, place % 3, signed, *flags, own))
    return hashes


def batches(hashes: list[Hash], size: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(hashes), size):
        some = hashes[start : start + size]
        yield pa.RecordBatch.from_pydict(
            {
                "group_number": pa.array([one.group for one in some], pa.int64()),
                "hash_number": pa.array([one.number for one in some], pa.int32()),
                "phash64": pa.array([one.bits for one in some], pa.int64()),
                "band_keys": pa.array([list(one.keys) for one in some], pa.list_(pa.int64())),
                "is_full": pa.array([one.is_full for one in some], pa.bool_()),
                "is_new": pa.array([one.is_new for one in some], pa.bool_()),
            }
        )


def met(hashes: list[Hash], parts: int, size: int = 50) -> list[frozenset[tuple[int, int]]]:
    """Who is left together, after blocks were exchanged as Spark does it."""
    blocks = pa.Table.from_batches(pack(batches(hashes, size), parts)).sort_by("part").to_batches(max_chunksize=3)
    found: dict[int, set[tuple[int, int]]] = defaultdict(set)
    rows = 0
    for batch in meet(blocks, MOST):
        rows += batch.num_rows
        for row in batch.to_pylist():
            found[row["bucket"]].add((row["group_number"], row["hash_number"]))
    assert parts > 1 or rows == sum(map(len, found.values()))
    return list(map(frozenset, found.values()))


def all_pairs(hashes: list[Hash]) -> set[frozenset[tuple[int, int]]]:
    in_bucket: dict[int, list[Hash]] = defaultdict(list)
    for one in hashes:
        for key in one.keys:
            in_bucket[key].append(one)
    left = set()
    for some in in_bucket.values():
        near = {
            (end.group, end.number)
            for one, other in combinations(some, 2)
            if one.group != other.group and (one.is_full or other.is_full) and (one.is_new or other.is_new)
            if ((one.bits ^ other.bits) & (2**64 - 1)).bit_count() <= MOST
            for end in (one, other)
        }
        left.add(frozenset(near))
    return left - {frozenset()}


@pytest.mark.parametrize("parts", [1, 2, 7, 70_000])
@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_near_is_left_with_whom_it_is_near_and_once(seed: int, parts: int) -> None:
    hashes = made_up(seed)
    wanted = all_pairs(hashes)
    assert len(wanted) > 20
    found = met(hashes, parts)
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_rows_that_are_gathered_in_several_turns_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = made_up(3)
    monkeypatch.setattr(buckets, "_PACKED_AT_ONCE", 100)
    monkeypatch.setattr(buckets, "_IN_BLOCK", 1)
    assert set(met(hashes, 3, size=7)) == all_pairs(hashes)


def test_a_part_that_is_too_large_is_compared_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = made_up(4)
    turns: list[int] = []
    compared = buckets._met
    monkeypatch.setattr(buckets, "_met", lambda rows, most: turns.append(len(rows)) or compared(rows, most))
    monkeypatch.setattr(buckets, "MOST_AT_ONCE", 100)
    assert set(met(hashes, 2)) == all_pairs(hashes)
    assert len(turns) > 8
    assert max(turns) < 250


def test_buckets_with_the_same_hashes_are_told_of_once() -> None:
    keys = tuple(range(100, 142))
    pair = [Hash(1, 0, 0, True, True, keys), Hash(2, 0, 1, True, True, keys)]
    assert met(pair, 1) == [frozenset({(1, 0), (2, 0)})]


def test_nothing_comes_of_nothing() -> None:
    assert list(pack([], 4)) == []
    assert list(pack(batches([], 1), 4)) == []
    assert list(meet([], MOST)) == []


def test_a_hash_without_bands_meets_nobody() -> None:
    assert list(pack(batches([Hash(1, 0, 0, True, True, ())], 1), 4)) == []


def test_parts_have_about_as_many_rows_as_they_are_meant_to() -> None:
    counts = (0, 1, ROWS_IN_PART, ROWS_IN_PART + 1, 42e9, 1e15)
    assert [parts_for(rows) for rows in counts] == [1, 1, 1, 2, 40_055, MOST_PARTS]
