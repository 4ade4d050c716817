"""The arithmetic of bands and rows against counting."""

from math import isclose

import numpy as np
import pytest

from jobs import tune_dedup
from jobs.evaluation.tuning import BAND_BYTES, Need, choices, observed_rate, recommended
from schemas.settings import DedupSettings
from udfs.images.minhash import band_keys, candidate_rate, recall, signatures

NEED = Need(max_hamming=6, target_recall=0.99, images=1_000_000, night=10_000)


def test_more_rows_have_fewer_pairs_compared_and_a_larger_index() -> None:
    found = choices(NEED)
    assert [one.candidate_rate for one in found] == sorted((one.candidate_rate for one in found), reverse=True)
    assert [one.bytes_per_image for one in found] == sorted(one.bytes_per_image for one in found)
    assert [one.moved for one in found] == sorted((one.moved for one in found), reverse=True)
    for one in found:
        assert one.bytes_per_image == one.bands * BAND_BYTES
        assert isclose(one.night_pairs, 1e10 * one.candidate_rate)
        assert one.recalls[6] >= 0.99 > recall(6, one.bands - 1, one.rows)


def test_the_share_of_the_index_that_a_night_reads_is_what_counting_finds() -> None:
    random = np.random.default_rng(7)
    history, night = (random.integers(-(2**63), 2**63, size, dtype=np.int64) for size in (20_000, 2_000))
    (one,) = [one for one in choices(Need(6, 0.99, 20_000, 2_000)) if one.rows == 12]
    settings = one.settings(DedupSettings())
    old, new = (band_keys(signatures(hashes, settings), settings) for hashes in (history, night))
    read = np.mean([np.isin(old[:, band], new[:, band]).mean() for band in range(one.bands)])
    assert read == pytest.approx(one.moved, rel=0.15)


def test_the_recommended_choice_is_within_the_index_and_the_least_work() -> None:
    found = choices(NEED)
    best = recommended(found, NEED)
    assert best is not None
    assert best.bytes_per_image <= NEED.most_bytes
    assert best.night_work == min(one.night_work for one in found if one.bytes_per_image <= NEED.most_bytes)
    assert recommended(found, Need(6, 0.99, 1_000_000, 10_000, most_bytes=10)) is None


def test_of_random_hashes_as_many_meet_as_chance_says_and_related_ones_do_not_count() -> None:
    random = np.random.default_rng(3)
    hashes = random.integers(-(2**63), 2**63, 1_500, dtype=np.int64)
    settings = DedupSettings(bands=28, rows=10, max_hamming=6)
    assert observed_rate(hashes, settings) == pytest.approx(candidate_rate(28, 10), rel=0.25)
    related = np.concatenate([hashes, hashes ^ 1, hashes ^ 3])
    assert observed_rate(related, settings) == pytest.approx(candidate_rate(28, 10), rel=0.25)
    assert np.isnan(observed_rate(np.array([0, 1], np.int64), settings))


@pytest.mark.parametrize("hashes", ["nan", "inf", "0", "0.5", "-1"])
def test_a_number_of_hashes_that_no_image_has_is_refused(hashes: str) -> None:
    assert tune_dedup.main(["--images", "1000", "--night", "10", "--hashes", hashes]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--images", "1" + "0" * 400, "--night", "10"],
        ["--images", "1000", "--night", "1" + "0" * 400],
        ["--images", "1000", "--night", "10", "--hashes", "1e300"],
        ["--images", "1000", "--night", "10", "--most-bytes", "0"],
    ],
)
def test_numbers_that_no_warehouse_has_are_refused(arguments: list[str]) -> None:
    assert tune_dedup.main(arguments) == 2


def test_no_name_of_a_warehouse_is_not_no_warehouse() -> None:
    """As of `--warehouse "$W"` without W: its sample would be left out and nobody told."""
    assert tune_dedup.main(["--images", "1000", "--night", "10", "--warehouse", ""]) == 2
