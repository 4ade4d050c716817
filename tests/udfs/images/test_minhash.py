"""Signatures are datasketch's, the formulas hold, and verification inside buckets loses nothing."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import udfs.images.minhash
from schemas.settings import MOST_SHADES, DedupSettings
from tests.model import Hash, is_edge
from udfs.images.minhash import (
    Compared,
    alike,
    band_keys,
    bands_needed,
    candidate_rate,
    close_pairs,
    hamming64,
    hamming256,
    hash_words,
    recall,
    share_met,
    signatures,
    verified_pairs,
)
from udfs.images.phash import HUES

WORDS = st.integers(0, 2**64 - 1)
STORED_SIGNATURE = [[84655260, 87681066, 10127101, 131086503, 19428357, 52513422, 12896644, 56138671]]
STORED_KEYS = [[-1209250394886333581, -8925133788853150564]]


def random_hashes(count: int, seed: int = 1) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def flipped(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.uint64]:
    """The hashes with `distance` random bits of each turned over."""
    generator = np.random.default_rng(distance)
    positions = np.argsort(generator.random((len(hashes), 64)), axis=1)[:, :distance].astype(np.uint64)
    return hashes ^ np.bitwise_or.reduce(np.uint64(1) << positions, axis=1)


@given(word=WORDS, bands=st.integers(1, 12), rows=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_signatures_are_those_of_datasketch(word: int, bands: int, rows: int, seed: int) -> None:
    rule = DedupSettings(bands=bands, rows=rows, seed=seed)
    reference = MinHash(num_perm=bands * rows, seed=seed, scheme="affine32")
    for position in range(64):
        reference.update(bytes([2 * position + (word >> (63 - position) & 1)]))
    (ours,) = signatures(np.array([word], dtype=np.uint64), rule)
    assert ours.dtype == reference.hashvalues.dtype
    assert ours.tolist() == reference.hashvalues.tolist()


def test_signatures_of_many_hashes_are_those_of_each() -> None:
    rule, hashes = DedupSettings(), random_hashes(10_000)
    many = signatures(hashes, rule)
    assert many.shape == (10_000, rule.bands * rule.rows)
    for row in (0, 4095, 4096, 9_999):
        assert (many[row] == signatures(hashes[row : row + 1], rule)[0]).all()


def test_a_bigint_and_its_unsigned_bits_are_one_hash() -> None:
    rule, hashes = DedupSettings(), random_hashes(100)
    assert (signatures(hashes.view(np.int64), rule) == signatures(hashes, rule)).all()
    assert (hamming64(hashes.view(np.int64), hashes) == 0).all()


def test_no_hashes_have_no_signatures_and_no_pairs() -> None:
    rule, none = DedupSettings(), random_hashes(0)
    assert band_keys(signatures(none, rule), rule).shape == (0, rule.bands)
    hashes = Compared(none, none.reshape(0, 4), none.astype(np.uint8), none.astype(np.uint8))
    assert list(verified_pairs(none.view(np.int64), hashes, rule)) == []


def test_band_keys_are_equal_exactly_where_the_rows_of_that_band_are() -> None:
    rule = DedupSettings(bands=6, rows=3)
    signed = np.random.default_rng(3).integers(0, 3, (400, 18), dtype=np.uint32)
    keys = band_keys(signed, rule)
    rows = signed.reshape(400, 6, 3)
    assert ((keys[:, None] == keys[None]) == (rows[:, None] == rows[None]).all(axis=-1)).all()
    distinct = {(band, *row) for one in rows.tolist() for band, row in enumerate(one)}
    assert len(np.unique(keys)) == len(distinct), "the same rows in two bands are two buckets"


def test_band_keys_do_not_change_from_release_to_release() -> None:
    # They are stored in lsh_bands: another value here needs a new rule_version.
    rule = DedupSettings(bands=2, rows=4, seed=1)
    signed = signatures(np.array([0x8123456789ABCDEF], dtype=np.uint64), rule)
    assert signed.tolist() == STORED_SIGNATURE
    assert band_keys(signed, rule).tolist() == STORED_KEYS


@pytest.mark.parametrize("distance", [2, 4, 6, 8, 12])
@pytest.mark.parametrize(("bands", "rows"), [(18, 7), (45, 9)])
def test_as_many_pairs_share_a_band_as_the_formula_says(bands: int, rows: int, distance: int) -> None:
    rule, hashes = DedupSettings(bands=bands, rows=rows), random_hashes(10_000)
    keys, others = (band_keys(signatures(h, rule), rule) for h in (hashes, flipped(hashes, distance)))
    assert (keys == others).any(axis=1).mean() == pytest.approx(recall(distance, bands, rows), abs=0.02)


def test_as_many_unrelated_pairs_become_candidates_as_the_formula_says() -> None:
    rule = DedupSettings(bands=18, rows=7)
    keys, others = (band_keys(signatures(random_hashes(40_000, seed), rule), rule) for seed in (1, 2))
    assert (keys == others).any(axis=1).mean() == pytest.approx(candidate_rate(18, 7), rel=0.25)


def test_recall_is_one_for_equal_hashes_and_falls_with_distance() -> None:
    values = [recall(distance, 18, 7) for distance in range(65)]
    assert (values[0], values[64]) == (1, 0)
    assert all(later < earlier for earlier, later in pairwise(values[2:]))


def test_the_default_bands_reach_the_target_at_the_largest_distance() -> None:
    rule = DedupSettings()
    assert recall(rule.max_hamming, rule.bands, rule.rows) >= rule.target_recall
    assert candidate_rate(rule.bands, rule.rows) < 0.01


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=20))
@settings(deadline=None)
def test_hamming64_counts_the_bits_that_differ(pairs: list[tuple[int, int]]) -> None:
    left, right = np.array(pairs, dtype=np.uint64).T
    assert hamming64(left, right).tolist() == [(a ^ b).bit_count() for a, b in pairs]
    assert left.tolist() == [a for a, _ in pairs], "the arguments are left alone"


@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32)), max_size=20))
@settings(deadline=None)
def test_hamming256_counts_the_bits_that_differ(pairs: list[tuple[bytes, bytes]]) -> None:
    left, right = hash_words([a for a, _ in pairs]), hash_words([b for _, b in pairs])
    expected = [(int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count() for a, b in pairs]
    assert hamming256(left, right).tolist() == expected


def test_distances_broadcast() -> None:
    hashes, words = random_hashes(5), random_hashes(20).reshape(5, 4)
    assert hamming64(hashes[:, None], hashes[None]).shape == (5, 5)
    assert hamming256(words[:, None], words[None]).diagonal().tolist() == [0] * 5


def test_hash_words_reads_lists_and_arrow_columns_alike() -> None:
    hashes = [bytes([n]) * 32 for n in range(10)]
    expected = [[n * 0x0101010101010101] * 4 for n in range(10)]
    assert hash_words(hashes).tolist() == expected
    assert hash_words(pa.array(hashes)[3:]).tolist() == expected[3:]
    assert hash_words(pa.chunked_array([hashes[:4], hashes[4:]])).tolist() == expected


@pytest.mark.parametrize("hashes", [[b"short"], [bytes(32), bytes(33)], [bytes(32), None]])
def test_hash_words_refuses_other_lengths_and_nulls(hashes: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32"):
        hash_words(hashes)


def brute_force(
    keys: NDArray[np.int64],
    hashes: list[Hash],
    rule: DedupSettings,
    is_new: NDArray[np.bool_] | None,
    is_full: NDArray[np.bool_] | None,
) -> set[tuple[int, int]]:
    return {
        (i, j)
        for i in range(len(keys))
        for j in range(i + 1, len(keys))
        if keys[i] == keys[j]
        and (is_new is None or is_new[i] or is_new[j])
        and (is_full is None or is_full[i] or is_full[j])
        and is_edge(hashes[i], hashes[j], rule)
    }


def plain(hashes: Compared) -> list[Hash]:
    """The same hashes, one by one, all of full views."""
    fars = [int.from_bytes(row.astype(">u8").tobytes(), "big") for row in hashes.phash256]
    rows = zip(hashes.phash64.tolist(), fars, hashes.hues.tolist(), hashes.shades.tolist(), strict=True)
    return [Hash(near, far, 0, hue, shades) for near, far, hue, shades in rows]


def drawn_hashes(data: st.DataObject, count: int) -> Compared:
    """Hashes that are near one another more often than by chance."""
    return Compared(
        data.draw(arrays(np.uint64, count, elements=st.integers(0, 15))),
        data.draw(arrays(np.uint64, (count, 4), elements=st.sampled_from([0, 1, 3, 2**64 - 1]))),
        data.draw(arrays(np.uint8, count, elements=st.integers(0, 2 * HUES))),
        data.draw(arrays(np.uint8, count, elements=st.integers(1, MOST_SHADES))),
    )


def drawn_rule(data: st.DataObject) -> DedupSettings:
    """Any thresholds about what such hashes are apart."""
    inner = data.draw(st.integers(0, 3))
    degrees = st.sampled_from([0, 5, 10, 40, 170, 180])
    return DedupSettings(
        max_hamming=inner,
        max_hamming256=data.draw(st.integers(0, 128)),
        max_hue_apart=data.draw(degrees),
        outer_bits=data.draw(st.integers(0, 4 - inner)),
        outer_shades=data.draw(st.integers(0, MOST_SHADES)),
        outer_hue_apart=data.draw(degrees),
    )


def listed(blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> list[tuple[int, int]]:
    """Pairs of row numbers, in the order in which they come."""
    return [pair for first, second in blocks for pair in zip(first.tolist(), second.tolist(), strict=True)]


@given(data=st.data(), pairs_at_once=st.sampled_from([1, 2, 7, 1 << 16]))
@settings(max_examples=150, deadline=None)
def test_verification_finds_what_brute_force_finds_each_pair_once(data: st.DataObject, pairs_at_once: int) -> None:
    count = data.draw(st.integers(0, 40))
    keys = np.sort(data.draw(arrays(np.int64, count, elements=st.integers(-3, 3))))
    hashes, rule = drawn_hashes(data, count), drawn_rule(data)
    is_new, is_full = (data.draw(st.none() | arrays(np.bool_, count)) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(udfs.images.minhash, "_PAIRS_AT_ONCE", pairs_at_once)
        found = listed(verified_pairs(keys, hashes, rule, is_new=is_new, is_full=is_full))
    ends = [(min(pair), max(pair)) for pair in found]
    assert len(ends) == len(set(ends))
    assert set(ends) == brute_force(keys, plain(hashes), rule, is_new, is_full)
    if is_new is None:
        assert found == sorted(ends)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_two_hashes_are_alike_whichever_comes_first(data: st.DataObject) -> None:
    hashes, rule = drawn_hashes(data, 8), drawn_rule(data)
    first, second = (one.ravel() for one in np.indices((8, 8)))
    found = alike(hashes, first, second, rule).reshape(8, 8)
    assert (found == found.T).all()
    assert found.diagonal().all()
    one_by_one = plain(hashes)
    assert found.tolist() == [[is_edge(one, other, rule) for other in one_by_one] for one in one_by_one]


def test_beyond_the_inner_distance_both_need_shades_and_nearer_hues() -> None:
    rule = DedupSettings()
    cases = [  # bits apart, shades, hues; whether they are an edge
        *[(6, 1, (1, 6), True), (6, 1, (1, 7), False), (8, 6, (1, 3), True), (8, 8, (0, 9), True)],
        *[(8, 5, (1, 1), False), (8, 6, (1, 4), False), (10, 8, (1, 1), False)],
        *[(8, 6, (1, HUES + 20), True), (8, 6, (HUES + 1, HUES + 4), False)],
    ]
    for apart, shades, hues, wanted in cases:
        hashes = Compared(
            np.array([0, 2**apart - 1], dtype=np.uint64),
            np.zeros((2, 4), dtype=np.uint64),
            np.array(hues, dtype=np.uint8),
            np.array([shades, MOST_SHADES], dtype=np.uint8),
        )
        assert alike(hashes, np.array([0]), np.array([1]), rule).tolist() == [wanted], (apart, shades, hues)


def test_a_bucket_much_larger_than_a_block_loses_nothing() -> None:
    count = 3000
    near, far = random_hashes(count), random_hashes(4 * count, seed=2).reshape(-1, 4)
    planted = np.random.default_rng(5).permutation(count)[:400].reshape(200, 2)
    near[planted[:, 1]] = flipped(near[planted[:, 0]], 6)
    far[planted[:, 1]] = far[planted[:, 0]] ^ np.uint64(0b101)
    none = np.zeros(count, dtype=np.uint8)
    found = listed(verified_pairs(np.zeros(count, dtype=np.int64), Compared(near, far, none, none), DedupSettings()))
    assert set(found) == {(min(p), max(p)) for p in planted.tolist()}


def test_old_pairs_cost_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    original = udfs.images.minhash.hamming64

    def counting(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.uint8]:
        nonlocal compared
        compared += len(left)
        return original(left, right)

    monkeypatch.setattr(udfs.images.minhash, "hamming64", counting)
    count, new = 2000, np.arange(2000) % 1000 == 7
    listed(close_pairs(np.zeros(count, dtype=np.int64), random_hashes(count), 8, is_new=new))
    assert compared == 1999 + 1998
    # A new full view meets all others, another new one the old full ones alone.
    compared, full = 0, np.arange(2000) % 10 == 0
    full[7] = True
    listed(close_pairs(np.zeros(count, dtype=np.int64), random_hashes(count), 8, is_new=new, is_full=full))
    assert compared == 1999 + 200


@pytest.mark.parametrize("rows", [8, 10, 12, 16])
@pytest.mark.parametrize("hamming", [0, 2, 4, 6, 8, 20])
def test_the_bands_needed_reach_the_recall_and_one_fewer_do_not(hamming: int, rows: int) -> None:
    for target in (0.5, 0.9, 0.99, 0.999):
        bands = bands_needed(hamming, rows, target)
        assert recall(hamming, bands, rows) >= target
        assert bands == 1 or recall(hamming, bands - 1, rows) < target


@pytest.mark.parametrize(("hamming", "rows"), [(32, 40), (63, 20)])
def test_a_share_too_small_to_take_from_one_needs_bands_without_number(hamming: int, rows: int) -> None:
    assert bands_needed(hamming, rows, 0.99) > 1e18


@pytest.mark.parametrize(("hamming", "rows", "bands"), [(4, 10, 14), (6, 12, 42), (8, 12, 92), (6, 16, 91)])
def test_known_figures(hamming: int, rows: int, bands: int) -> None:
    assert bands_needed(hamming, rows, 0.99) == pytest.approx(bands, abs=1)


@pytest.mark.parametrize(("hamming", "target"), [(64, 0.9), (-1, 0.9), (4, 0.0), (4, 1.0)])
def test_what_no_number_of_bands_reaches_is_refused(hamming: int, target: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        bands_needed(hamming, 12, target)


def test_share_met_is_that_of_one_band_and_never_more_than_all() -> None:
    assert share_met(1, 12) == pytest.approx(candidate_rate(1, 12))
    assert share_met(1000, 12) == pytest.approx(1 - (1 - candidate_rate(1, 12)) ** 1000)
    assert share_met(0, 12) == 0
    assert share_met(1e12, 12) == 1
