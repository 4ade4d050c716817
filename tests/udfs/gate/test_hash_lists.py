import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.gate.hash_lists import any_within, hash_index, is_listed

RANDOM = np.random.default_rng(7)
LONG = RANDOM.bytes(32 * 5000)
INDEX = hash_index(LONG)
SHORT_INDEX = hash_index(LONG[: 32 * 100])


def nearest(hashes: bytes, listed: bytes) -> int:
    """The least distance, by comparing all with all."""
    entries = np.frombuffer(listed, dtype=np.uint8).reshape(-1, 32)
    wanted = np.frombuffer(hashes, dtype=np.uint8).reshape(-1, 1, 32)
    return int(np.unpackbits(entries ^ wanted, axis=2).sum(axis=2).min())


def flipped(entry: bytes, bits: frozenset[int]) -> bytes:
    return (int.from_bytes(entry, "big") ^ sum(1 << bit for bit in bits)).to_bytes(32, "big")


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 4999),
    st.frozensets(st.integers(0, 255), max_size=66),
    st.integers(0, 63),
    st.integers(0, 7),
    st.integers(0, 2**32),
)
def test_an_indexed_list_answers_as_a_comparison_with_every_entry(
    entry: int, bits: frozenset[int], max_distance: int, orientation: int, seed: int
) -> None:
    unrelated = np.random.default_rng(seed).bytes(7 * 32)
    planted = flipped(LONG[32 * entry : 32 * (entry + 1)], bits)
    hashes = unrelated[: 32 * orientation] + planted + unrelated[32 * orientation :]
    assert any_within(INDEX, hashes, max_distance) is (nearest(hashes, LONG) <= max_distance)


@pytest.mark.parametrize("bits", [0, 1, 15, 16, 31, 47, 63])
@pytest.mark.parametrize("spread", ["in one run", "evenly"])
@pytest.mark.parametrize("index", [INDEX, SHORT_INDEX])
def test_the_distance_itself_counts_as_within_and_one_less_does_not(bits: int, spread: str, index: object) -> None:
    step = 1 if spread == "in one run" else 4
    planted = flipped(LONG[:32], frozenset(step * number for number in range(bits)))
    assert any_within(index, planted, bits)  # type: ignore[arg-type]
    assert not (bits and any_within(index, planted, bits - 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("entries", [100, 5000])
def test_entries_that_are_all_alike_are_found_too(entries: int) -> None:
    index = hash_index(bytes(32) * entries)
    assert any_within(index, b"\x01" * 32, 32)
    assert not any_within(index, b"\x01" * 32, 31)


@settings(deadline=None)
@given(st.sets(st.integers(0, 40), max_size=20), st.integers(0, 40))
def test_bisection_finds_what_is_listed_and_nothing_else(listed: set[int], wanted: int) -> None:
    def digest(number: int) -> bytes:
        return hashlib.sha256(bytes([number])).digest()

    assert is_listed(b"".join(sorted(map(digest, listed))), digest(wanted)) is (wanted in listed)
