"""What labelled scores say about thresholds, on synthetic scores: bounds that hold, rates that are counted right."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binom

from jobs.evaluation.calibration import (
    GRID,
    LabelledScores,
    Rate,
    StoredCounts,
    chart,
    intervals,
    labelled_scores,
    labels_needed,
    upper_bounds,
)

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=30)
THRESHOLDS = st.integers(0, 10_000).map(lambda step: step / 10_000)


def labelled(explicit: list[float], safe: list[float]) -> LabelledScores:
    return labelled_scores(np.array(explicit + safe), np.array([True] * len(explicit) + [False] * len(safe)))


def counted(scores: list[float], *thresholds: float) -> StoredCounts:
    stored = StoredCounts(thresholds)
    stored.add(np.array(scores))
    return stored


# Bounds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [1, 2, 10, 50, 299])
def test_an_interval_holds_the_true_rate_at_least_95_times_in_100(of: int) -> None:
    counts = np.arange(of + 1)
    low, high = intervals(counts, of)
    upper = upper_bounds(counts, of)
    for true in np.linspace(0, 1, 201):
        chances = binom.pmf(counts, of, true)
        assert chances[(low <= true) & (true <= high)].sum() >= 0.95 - 1e-9
        assert chances[true <= upper].sum() >= 0.95 - 1e-9


def test_bounds_are_those_of_the_tables() -> None:
    # Clopper and Pearson for 3 of 20, as in any table of exact limits.
    assert Rate(3, 20).interval == pytest.approx((0.0321, 0.3789), abs=5e-5)


@given(st.integers(1, 100_000))
def test_none_of_n_means_at_most_three_in_n(of: int) -> None:
    rate = Rate(0, of)
    assert rate.interval[0] == 0
    assert rate.at_most == pytest.approx(1 - 0.05 ** (1 / of))
    assert rate.at_most <= 3 / of
    assert str(rate) == f"0 of {of}, at most {min(1, 3 / of):.2%} (3/n)"


@given(st.integers(1, 500), st.data())
def test_bounds_enclose_the_share_and_grow_with_the_count(of: int, data: st.DataObject) -> None:
    events = data.draw(st.integers(0, of))
    low, high = intervals(np.arange(of + 1), of)
    assert low[events] <= events / of <= high[events]
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) >= 0).all()
    assert Rate(events, of).at_most <= high[events]


@pytest.mark.parametrize("target", [0.5, 0.05, 0.01, 0.001])
def test_as_many_labels_as_are_needed_are_enough_and_one_less_is_not(target: float) -> None:
    needed = labels_needed(target)
    assert Rate(0, needed).at_most <= target
    assert Rate(0, needed - 1).at_most > target


def test_one_per_cent_needs_299_labels() -> None:
    assert labels_needed(0.01) == 299


# Rates by threshold ---------------------------------------------------------------------------------------------------


def test_a_threshold_holds_back_what_scores_exactly_it() -> None:
    scores = labelled([0.2, 0.8, 0.9], [0.1, 0.8])
    assert scores.missed(0.8) == Rate(1, 3)
    assert scores.over_blocked(0.8) == Rate(1, 2)


@given(SCORES, SCORES, THRESHOLDS, THRESHOLDS)
def test_a_higher_threshold_misses_no_less_and_holds_back_no_more(
    explicit: list[float], safe: list[float], one: float, other: float
) -> None:
    scores = labelled(explicit, safe)
    low, high = sorted((one, other))
    assert scores.missed(low).events <= scores.missed(high).events
    assert scores.over_blocked(low).events >= scores.over_blocked(high).events


@given(SCORES, SCORES, THRESHOLDS, THRESHOLDS)
def test_every_content_of_a_band_is_allowed_blocked_or_left_to_people(
    explicit: list[float], safe: list[float], one: float, other: float
) -> None:
    review, block = sorted((one, other))
    band = labelled(explicit, safe).band(review, block, counted(explicit + safe))
    blocked = sum(score >= block for score in explicit)
    assert band.missed.events + band.explicit_to_people.events + blocked == len(explicit)
    allowed = sum(score < review for score in safe)
    assert band.over_blocked.events + band.safe_to_people.events + allowed == len(safe)
    assert band.stored_to_people.events == band.explicit_to_people.events + band.safe_to_people.events


@given(SCORES, SCORES, st.floats(0, 1), st.floats(0, 1))
def test_counts_of_stored_scores_are_exact_at_any_threshold_that_was_asked_for(
    first: list[float], second: list[float], one: float, other: float
) -> None:
    low, high = sorted((one, other))
    stored = counted(first, low, high)
    stored.add(np.array(second))
    assert stored.between(low, high) == Rate(
        sum(low <= score < high for score in first + second), len(first) + len(second)
    )


def test_counts_for_another_threshold_are_refused() -> None:
    with pytest.raises(KeyError):
        counted([0.5]).between(0.12345, 0.5)


@pytest.mark.parametrize(("explicit", "safe"), [([], [0.1]), ([0.9], [])])
def test_labels_of_one_kind_only_are_refused(explicit: list[float], safe: list[float]) -> None:
    with pytest.raises(ValueError, match=f"found {len(explicit)} explicit and {len(safe)} safe"):
        labelled(explicit, safe)


# The threshold for a target -------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=60, max_size=120), st.sampled_from([0.05, 0.1, 0.3]))
@settings(deadline=None)
def test_the_threshold_meets_the_target_and_the_next_does_not(explicit: list[float], target: float) -> None:
    scores = labelled(explicit, [0.5])
    threshold = scores.threshold_for(target)
    assert threshold is not None
    assert scores.missed(threshold).at_most <= target
    higher = GRID[np.searchsorted(GRID, threshold) + 1 :]
    assert threshold == 1 or scores.missed(higher[0]).at_most > target


def test_too_few_labels_give_no_threshold_however_well_they_score() -> None:
    assert labelled([1.0] * 298, [0.0]).threshold_for(0.01) is None
    assert labelled([1.0] * 299, [0.0]).threshold_for(0.01) == 1.0


def test_the_threshold_misses_more_than_the_target_less_than_5_times_in_100() -> None:
    # Scores of explicit contents evenly spread: a threshold's true miss rate is the threshold.
    random, target, draws = np.random.default_rng(5), 0.1, 1_000
    chosen = [LabelledScores(np.sort(random.random(200)), np.zeros(1)).threshold_for(target) for _ in range(draws)]
    too_high = sum(threshold is not None and threshold > target for threshold in chosen)
    # Three standard errors of 1,000 draws above 5 %; and not idle, or the bound would be far too careful.
    assert 0.005 < too_high / draws < 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


@given(THRESHOLDS)
def test_thresholds_are_the_doubles_that_a_policy_file_gives(threshold: float) -> None:
    step = Fraction(str(threshold)) * 10_000
    assert step.denominator == 1
    assert GRID[int(step)] == float(str(threshold))


# The chart ------------------------------------------------------------------------------------------------------------


def test_the_chart_is_a_picture(tmp_path: Path) -> None:
    chart(labelled([0.4, 0.9], [0.0, 0.6]), tmp_path / "c.png", 0.01, [("review", 0.35), ("block", 0.8)])
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.format == "PNG"
        assert len(set(picture.convert("RGB").getdata())) > 10
