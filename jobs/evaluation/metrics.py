"""How good a ranking is: recall, average precision and nDCG over queries, and how sure one can be of a difference.

Arrays are queries by results, best result first. Numpy alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_BLOCK = 256
"""Queries at a time: what is worked out on the way takes up to 30 bytes a cell, the result one."""


@dataclass(frozen=True)
class RetrievalScores:
    """Means over the queries that have a relevant item at all."""

    queries: int
    recall_at_1: float
    """Share of queries whose best result is relevant."""
    recall_at_10: float
    """Share of queries with a relevant result among the best ten."""
    mean_average_precision: float
    """Of the whole ranking, not cut off."""


def leave_one_out(vectors: NDArray[np.float32], labels: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Every item once as the query against all others, by cosine: which results (N, N - 1) have the query's label.

    `vectors` (N, D) of unit length, `labels` (N,); equal cosines rank by position. Holds the result and some rows of
    the cosine matrix, never the whole of it. Raises ValueError where there are not as many labels as vectors.
    """
    if len(vectors) != len(labels):
        raise ValueError(f"expected a label for each vector, found {len(labels)} for {len(vectors)}")
    # Cells of text would be four bytes for every character of the longest label.
    _, codes = np.unique(labels, return_inverse=True)
    relevant = np.empty((len(vectors), max(len(vectors) - 1, 0)), bool)
    for block in _blocks(len(vectors)):
        cosines = vectors[block] @ vectors.T
        own = np.arange(len(vectors))[block]
        cosines[np.arange(len(own)), own] = -np.inf
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :-1]
        relevant[block] = codes[order] == codes[block, None]
    return relevant


def retrieval_scores(relevant: NDArray[np.bool_]) -> RetrievalScores:
    """Scores of rankings (Q, N): whether each result is relevant. Queries without a relevant item are left out.

    Raises ValueError where that leaves none.
    """
    asked = relevant[relevant.any(axis=1)]
    if not len(asked):
        raise ValueError(f"expected a query with a relevant item, found none among {len(relevant)}")
    average = np.concatenate([_average_precision(asked[block]) for block in _blocks(len(asked))])
    return RetrievalScores(
        queries=len(asked),
        recall_at_1=float(asked[:, 0].mean()),
        recall_at_10=float(asked[:, :10].any(axis=1).mean()),
        mean_average_precision=float(average.mean()),
    )


def _average_precision(relevant: NDArray[np.bool_]) -> Floats:
    precision = np.cumsum(relevant, axis=1) / np.arange(1, relevant.shape[1] + 1)
    average: Floats = (precision * relevant).sum(axis=1) / relevant.sum(axis=1)
    return average


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _BLOCK):
        yield slice(start, start + _BLOCK)


def matched_ranks(similarities: NDArray[np.float32], matches: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank (Q,), from 1, of each query's match, column `matches` (Q,) of its row (Q, N); ties count against it, and so
    does what is no number."""
    own = np.take_along_axis(similarities, matches[:, None], axis=1)
    ranks: NDArray[np.int64] = (~(similarities < own)).sum(axis=1)
    return ranks


def ndcg(gains: Floats, ideal: Floats, k: int) -> Floats:
    """nDCG@k of each query (Q,): Jaervelin and Kekaelaeinen, "Cumulated gain-based evaluation of IR techniques", 2002.

    `gains` (Q, N): gain of each result in the order ranked; `ideal` (Q, M): of all items that could be found, in any
    order. Gains count as they are, discounted by log2(rank + 1). A query without any gain has 0. Raises ValueError for
    `k` < 1.
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, found {k}")
    best = -np.sort(-ideal, axis=1)
    reachable = _discounted(best, k)
    return np.divide(_discounted(gains, k), reachable, out=np.zeros(len(gains)), where=reachable > 0)


def _discounted(gains: Floats, k: int) -> Floats:
    cut = gains[:, :k]
    total: Floats = (cut / np.log2(np.arange(2, cut.shape[1] + 2))).sum(axis=1)
    return total


def bootstrap_interval(*groups: Floats, seed: int = 0, resamples: int = 10_000) -> tuple[float, float]:
    """95 % percentile bootstrap interval (low, high) of the mean of the groups' means; `groups` (N > 0,) hold a value a
    query, and each is resampled by itself.

    Raises ValueError for no groups, a group without values, and `resamples` < 1.
    """
    if not groups or not all(map(len, groups)) or resamples < 1:
        found = f"{[len(group) for group in groups]} values, resamples={resamples}"
        raise ValueError(f"expected values in every group and resamples of at least 1, found {found}")
    generator = np.random.default_rng(seed)
    means = [group[generator.integers(0, len(group), (resamples, len(group)))].mean(axis=1) for group in groups]
    low, high = np.quantile(np.mean(means, axis=0), [0.025, 0.975])
    return float(low), float(high)
