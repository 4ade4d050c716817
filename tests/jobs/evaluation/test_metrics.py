"""Retrieval metrics against hand-worked rankings."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs.evaluation.metrics import bootstrap_interval, leave_one_out, matched_ranks, ndcg, retrieval_scores

TRUE, FALSE = True, False


def labelled(count: int) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Unit vectors (N, 16) whose cosines are exact in any order of summation, so many are equal; a label for each."""
    generator = np.random.default_rng(3)
    vectors = generator.choice([-0.25, 0.25], (count, 16)).astype(np.float32)
    return vectors, generator.choice(["cat", "dog", "a much longer label than the others"], count)


def test_scores_of_a_ranking_worked_by_hand() -> None:
    found = retrieval_scores(np.array([[TRUE, FALSE, TRUE], [FALSE, FALSE, TRUE], [FALSE, FALSE, FALSE]]))
    assert found.queries == 2
    assert found.recall_at_1 == 0.5
    assert found.recall_at_10 == 1.0
    assert found.mean_average_precision == pytest.approx(((1 + 2 / 3) / 2 + 1 / 3) / 2)


def test_recall_at_ten_does_not_look_beyond_ten() -> None:
    eleventh = np.zeros((1, 12), bool)
    eleventh[0, 10] = True
    assert retrieval_scores(eleventh).recall_at_10 == 0


def test_no_query_with_a_relevant_item_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a query with a relevant item, found none among 2"):
        retrieval_scores(np.zeros((2, 3), bool))


def test_no_item_finds_itself() -> None:
    vectors = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    relevant = leave_one_out(vectors, np.array(["a", "b", "a", "a"]))
    assert relevant.shape == (4, 3)
    assert relevant.sum(axis=1).tolist() == [2, 0, 2, 2]
    assert not relevant[0, 0]  # the nearest of the first is the second, of another label


def test_a_ranking_in_blocks_is_that_of_all_queries_at_once() -> None:
    vectors, labels = labelled(700)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    at_once = labels[np.argsort(-cosines, axis=1, kind="stable")[:, :-1]] == labels[:, None]
    assert np.array_equal(leave_one_out(vectors, labels), at_once)


def test_scores_of_many_queries_are_those_of_each_alone() -> None:
    relevant = np.random.default_rng(4).random((700, 30)) < 0.1
    found = retrieval_scores(relevant)
    alone = [retrieval_scores(query[None]) for query in relevant if query.any()]
    assert found.queries == len(alone)
    for name in ("recall_at_1", "recall_at_10", "mean_average_precision"):
        assert getattr(found, name) == pytest.approx(np.mean([getattr(one, name) for one in alone]))


def test_ranking_all_items_takes_hardly_more_memory_than_its_result() -> None:
    count = 2500
    vectors, labels = labelled(count)
    tracemalloc.start()
    try:
        retrieval_scores(leave_one_out(vectors, labels))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A matrix of cosines and one of positions alone would be 12 bytes a cell.
    assert peak < 6 * count**2


def test_a_rank_counts_the_match_and_whatever_is_as_good() -> None:
    similarities = np.array([[0.5, 0.5, 0.4], [0.1, 0.9, 0.8], [0.7, 0.9, 0.1]], np.float32)
    assert matched_ranks(similarities, np.array([0, 1, 2])).tolist() == [2, 1, 3]


def test_a_similarity_that_is_no_number_is_the_worst_rank_and_never_the_best() -> None:
    similarities = np.array([[np.nan, 0.5, 0.4], [np.nan, np.nan, np.nan]], np.float32)
    assert matched_ranks(similarities, np.array([0, 1])).tolist() == [3, 3]


def test_ndcg_is_one_for_the_ideal_order_and_what_was_worked_by_hand_else() -> None:
    ideal = np.array([[0.0, 2.0, 1.0]])
    assert ndcg(np.array([[2.0, 1.0, 0.0]]), ideal, 2) == pytest.approx([1])
    assert ndcg(np.array([[0.0, 2.0, 1.0]]), ideal, 2) == pytest.approx([2 / np.log2(3) / (2 + 1 / np.log2(3))])
    assert ndcg(np.zeros((1, 3)), np.zeros((1, 3)), 2).tolist() == [0.0]


def test_the_bootstrap_interval_is_that_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(0.5, 1, 400)
    low, high = bootstrap_interval(values)
    expected = values.std() / 20 * 1.96
    assert low == pytest.approx(values.mean() - expected, abs=0.02)
    assert high == pytest.approx(values.mean() + expected, abs=0.02)


def test_each_group_counts_alike_in_the_bootstrap_interval_whatever_its_size() -> None:
    generator = np.random.default_rng(2)
    few, many = generator.normal(0, 1, 50), generator.normal(1, 1, 5000)
    low, high = bootstrap_interval(few, many)
    expected = np.hypot(few.std() / 50**0.5, many.std() / 5000**0.5) / 2 * 1.96
    assert low == pytest.approx((few.mean() + many.mean()) / 2 - expected, abs=0.02)
    assert high == pytest.approx((few.mean() + many.mean()) / 2 + expected, abs=0.02)


def test_arguments_that_make_no_sense_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="expected a label for each vector, found 1 for 2"):
        leave_one_out(np.eye(2, dtype=np.float32), np.array(["a"]))
    for k in (0, -1):
        with pytest.raises(ValueError, match="k: expected at least 1"):
            ndcg(np.ones((1, 3)), np.ones((1, 3)), k)
    for groups, resamples in (([], 1), ([[]], 1), ([[1.0], []], 1), ([[1.0]], 0)):
        with pytest.raises(ValueError, match="expected values in every group and resamples of at least 1"):
            bootstrap_interval(*map(np.array, groups), resamples=resamples)
