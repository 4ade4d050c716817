"""Retrieval metrics against hand-worked rankings."""

import numpy as np
import pytest

from readers.metrics import bootstrap_interval, leave_one_out, matched_recall, ndcg, retrieval_scores

TRUE, FALSE = True, False


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


def test_ties_count_against_the_match() -> None:
    similarities = np.array([[0.5, 0.5], [0.1, 0.9]], np.float32)
    assert matched_recall(similarities, np.array([0, 1]), 1) == 0.5


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
