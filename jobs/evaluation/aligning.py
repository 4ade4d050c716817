"""Pairs of images and texts of a published feed: read, split, an alignment learned from some and measured on the rest.

Used by `jobs.fit_alignment`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.config.errors import UsageError
from jobs.evaluation.contrastive import Arrays, Settings, closed_form, fit
from jobs.evaluation.metrics import matched_ranks
from lensfeed.loaders import feed_loader
from lensfeed.snapshot import Snapshot
from udfs.embedding.alignment import Alignment, Projections, calibration_of

CUTOFFS = (1, 5, 10)
_BATCH = 4096
_LEAST_HELD = 2
"""Groups: with one there are no unrelated pairs to calibrate on."""
_LEAST_FITTED = 3
"""Groups: one chooses how to fit, and the closed form takes two that differ."""
_GROUPED = 256
_RANKED = 1024
"""Rows of a matrix of all pairs at a time, where alike images are looked for and where queries are ranked: 5 bytes a
cell, so for 50,000 pairs 64 and 256 MB."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Pairs:
    """Images of the feed that have a text."""

    vectors: Vectors
    """(N, D) unit."""
    texts: Vectors
    """(N, T) unit."""
    unread: int
    """Rows of the feed that were not looked at, because there were pairs enough."""


def read_pairs(snapshot: Snapshot, most: int, seed: int) -> Pairs:
    """Up to `most` pairs of the feed, row groups drawn by `seed`, in the order of feed_id.

    Raises SnapshotError for an empty feed.
    """
    ids, images, texts, read = [], [], [], 0
    with feed_loader(snapshot, _BATCH, shuffle_seed=seed) as loader:
        for batch in loader:
            present = batch["has_text"]
            ids.append(batch["feed_id"][present].numpy())
            images.append(batch["vector"][present].numpy())
            texts.append(batch["text_vector"][present].numpy())
            read += len(present)
            if sum(map(len, ids)) >= most:
                break
    order = np.argsort(np.concatenate(ids)[:most])
    return Pairs(
        np.concatenate(images)[:most][order],
        np.concatenate(texts)[:most][order],
        snapshot.row_count("index_feed") - read,
    )


def duplicate_groups(pairs: Pairs, duplicate_cosine: float) -> NDArray[np.int64]:
    """A group (N,) for each pair, numbered from 0 as they appear: connected by alike images or the same text vector."""
    _, first, same_text = np.unique(pairs.texts, axis=0, return_index=True, return_inverse=True)
    # Each group goes by its first pair, and is joined to others as soon as that is known. Edges are never collected:
    # a clique of n alike images has n * n. Beyond the pairs this holds N labels and _GROUPED rows of N cells.
    labels = first[same_text.reshape(-1)].astype(np.int64)
    for start in range(0, len(labels), _GROUPED):
        alike = pairs.vectors[start : start + _GROUPED] @ pairs.vectors[start:].T >= duplicate_cosine
        for row, likeness in enumerate(alike):
            likeness[row] = True  # a zero is not even alike to itself
            near = labels[start:][likeness]
            if (near != near[0]).any():
                labels[np.isin(labels, near)] = near.min()
    groups: NDArray[np.int64] = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return groups


def split(groups: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Which pairs (N,) are held out: whole groups in an order shuffled by `seed`, each that fits into `share` of them.

    Raises UsageError where that leaves too few groups on a side to measure on or to fit on.
    """
    sizes = np.bincount(groups)
    room = int(share * len(groups))
    chosen = []
    for group in np.random.default_rng(seed).permutation(len(sizes)):
        if sizes[group] <= room:
            chosen.append(group)
            room -= sizes[group]
    held: NDArray[np.bool_] = np.isin(groups, chosen)
    fitted = len(sizes) - len(chosen)
    if len(chosen) < _LEAST_HELD or fitted < _LEAST_FITTED:
        raise UsageError(
            f"--held-out {share}: expected at least {_LEAST_HELD} groups of alike pairs held out and {_LEAST_FITTED} "
            f"not, found {len(chosen)} and {fitted} ({held.sum()} and {(~held).sum()} pairs; the largest group has "
            f"{sizes.max()}); another share may do"
        )
    return held


def measured(
    pairs: Pairs,
    groups: NDArray[np.int64],
    held: NDArray[np.bool_],
    snapshot: Snapshot,
    settings: Settings | None,
    seed: int,
) -> tuple[Alignment, dict[str, dict[str, dict[str, float]]], dict[str, Any]]:
    """The alignment learned from what is not `held` (N,), its recall on what is, and how it was fitted; without
    settings the vectors share a space as they are, and are only calibrated."""
    if settings is None:
        native = alignment_of(pairs, groups, None, snapshot, seed)
        return native, evaluate(pairs, held, {"native": native}, seed), {}
    images, texts = pairs.vectors[~held], pairs.texts[~held]
    projections, fitted = fit(images, texts, groups[~held], settings)
    start = closed_form(images, texts, fitted["shrinkage"], settings.dimension)
    # On pairs that the fit has not seen: those that it has are further apart than others will be.
    unseen = Pairs(pairs.vectors[held], pairs.texts[held], 0)
    aligned, start_only = (
        alignment_of(unseen, groups[held], arrays, snapshot, seed) for arrays in (projections, start)
    )
    return aligned, evaluate(pairs, held, {"aligned": aligned, "closed form": start_only}, seed), fitted


def alignment_of(
    pairs: Pairs, groups: NDArray[np.int64], arrays: Arrays | None, snapshot: Snapshot, seed: int
) -> Alignment:
    """The alignment of these projections (null: of one space as it is), calibrated on `pairs` of different `groups`
    (N,)."""
    plain = Alignment(
        model_version=str(snapshot.model_version),
        text_model_version=str(snapshot.text_model_version),
        projections=Projections(**arrays) if arrays else None,
        calibration=None,
    )
    images, texts = plain.images(pairs.vectors), plain.texts(pairs.texts)
    return replace(plain, calibration=calibration_of(images, texts, seed, groups=groups))


def evaluate(
    pairs: Pairs, held: NDArray[np.bool_], alignments: Mapping[str, Alignment], seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Recall at 1, 5 and 10 of held-out pairs, by pool and direction: by chance, without and with each alignment.

    Pools: all pairs, and the held-out ones alone. Without: the vectors as they are where both have one dimension, else
    image vectors under a random projection.
    """
    plain = pairs.vectors
    if plain.shape[1] != pairs.texts.shape[1]:
        random = np.random.default_rng(seed).normal(size=(plain.shape[1], pairs.texts.shape[1]))
        plain = plain @ random.astype(np.float32)
        plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    spaces = {name: (one.images(pairs.vectors), one.texts(pairs.texts)) for name, one in alignments.items()}
    spaces["no alignment"] = (plain, pairs.texts)
    asked = np.flatnonzero(held)
    pools = {"all pairs": np.arange(len(held)), "held-out pairs": asked}
    recall: dict[str, dict[str, dict[str, float]]] = {}
    for name, pool in pools.items():
        figures = {"chance": {f"recall@{k}": min(1.0, k / len(pool)) for k in CUTOFFS}}
        for how, (images, texts) in spaces.items():
            figures[f"image to text, {how}"] = _recall(images, texts, asked, pool)
            figures[f"text to image, {how}"] = _recall(texts, images, asked, pool)
        recall[name] = figures
    return recall


def _recall(queries: Vectors, found: Vectors, asked: NDArray[np.int64], pool: NDArray[np.int64]) -> dict[str, float]:
    among = found[pool]
    matches = np.searchsorted(pool, asked)
    ranks = np.concatenate(
        [
            matched_ranks(queries[asked[start : start + _RANKED]] @ among.T, matches[start : start + _RANKED])
            for start in range(0, len(asked), _RANKED)
        ]
    )
    return {f"recall@{k}": float((ranks <= k).mean()) for k in CUTOFFS}
