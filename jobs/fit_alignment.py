"""Learns projections of image and text vectors into one space, from the pairs of a published feed.

    python -m jobs.fit_alignment --warehouse DIR --into DIR [--run RUN] [--dimension 128] [--held-out 0.5] [--seed 0]
    python -m jobs.fit_alignment --warehouse DIR --into DIR --native

For visual models without a text tower of their own; with `--native` for towers that share a space: nothing is fitted,
their cosines are measured and calibrated. Pairs are read through petastorm from exactly the live rows of the run's
`index_feed`. Near-duplicates and pairs with the same text stay on one side of the split. What is held out is looked up
among *all* pairs and among the held-out ones, in both directions, beside chance and beside no alignment. Writes
`alignment-<version>.safetensors`, which `embedding.alignment` names for the feed to carry the cosines (after
`jobs.reembed`), and the figures as `.json`; prints the lines that name it, as a profile takes them. Exit codes: 0 done,
1 failed, 2 bad usage.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from jobs.config.command import add_debug_argument, run_command
from jobs.config.errors import UsageError
from jobs.config.progress import Progress
from jobs.evaluation.contrastive import Arrays, Settings, closed_form, fit
from jobs.evaluation.metrics import matched_ranks
from lensfeed.loaders import feed_loader
from lensfeed.snapshot import Snapshot, SnapshotError
from udfs.assets import sha256_of
from udfs.embedding.alignment import Alignment, Projections, calibration_of, save_alignment

CUTOFFS = (1, 5, 10)
_BATCH = 4096
_LEAST_PAIRS = 8
_LEAST_HELD = 2
"""Groups: with one there are no unrelated pairs to calibrate on."""
_LEAST_FITTED = 3
"""Groups: one chooses how to fit, and the closed form takes two that differ."""
_GROUPED = 256
_RANKED = 1024
"""Rows of a matrix of all pairs at a time, where alike pictures are looked for and where queries are ranked: 5 bytes a
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="jobs.fit_alignment", description="Align image and text vectors.")
    parser.add_argument("--warehouse", required=True, metavar="DIR", help="where the published feed lies")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="where the alignment is stored")
    parser.add_argument("--run", metavar="RUN", help="run whose feed is read; the newest published one by default")
    parser.add_argument("--dimension", type=int, default=128, help="of the common space (128)")
    parser.add_argument("--held-out", type=float, default=0.5, help="share of pairs to measure on (0.5)")
    parser.add_argument("--duplicate-cosine", type=float, default=0.9, help="images as alike stay together (0.9)")
    parser.add_argument("--pairs", type=int, default=50_000, help="pairs read at most (50000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--native", action="store_true", help="the towers share a space: calibrate, fit nothing")
    add_debug_argument(parser)
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options), debug=options.debug)


def _run(options: argparse.Namespace) -> None:
    if not 0 < options.held_out < 1:
        raise UsageError(f"--held-out: expected a share between 0 and 1, found {options.held_out}")
    if options.pairs < _LEAST_PAIRS:
        raise UsageError(f"--pairs: expected at least {_LEAST_PAIRS}, found {options.pairs}")
    progress = Progress("align")
    try:
        snapshot = Snapshot.open(options.warehouse, options.run)
        with progress.stage("pairs"):
            pairs = read_pairs(snapshot, options.pairs, options.seed)
    except SnapshotError as error:
        raise UsageError(str(error)) from None
    if len(pairs.vectors) < _LEAST_PAIRS:
        raise UsageError(
            f"the feed of run {snapshot.run_id}: expected {_LEAST_PAIRS} pairs, found {len(pairs.vectors)}"
        )
    _check_dimensions(options, pairs)
    groups = duplicate_groups(pairs, options.duplicate_cosine)
    held = split(groups, options.held_out, options.seed)
    with progress.stage("fit"):
        settings = None if options.native else Settings(dimension=options.dimension, seed=options.seed)
        alignment, recall, fitted = measured(pairs, groups, held, snapshot, settings, options.seed)
    facts = {
        "run_id": snapshot.run_id,
        "feed_version": snapshot.table_versions["index_feed"],
        "pairs": {
            "read": len(pairs.vectors),
            "unread_rows": pairs.unread,
            "groups": int(groups.max()) + 1,
            "held_out": int(held.sum()),
        },
        "fit": fitted,
        "recall": recall,
    }
    path = save_alignment(alignment, options.into, facts)
    for pool, figures in recall.items():
        for name, values in figures.items():
            progress.say(f"{pool}: {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in values.items()))
    progress.say(f"stored: {path}; for the feed to carry image_text_cosine, in the profile:")
    # On standard output and by themselves, unlike what is logged with its time: they are there to be pasted.
    sys.stdout.write(_profile_lines(path))


def _check_dimensions(options: argparse.Namespace, pairs: Pairs) -> None:
    image, text = pairs.vectors.shape[1], pairs.texts.shape[1]
    if options.native:
        if image != text:
            raise UsageError(
                f"--native: image vectors have {image} dimensions, text vectors {text}: they share no space"
            )
    elif not 1 <= options.dimension <= min(image, text):
        raise UsageError(f"--dimension: expected 1 to {min(image, text)}, found {options.dimension}")


def _profile_lines(path: Path) -> str:
    asset = {"path": str(path), "sha256": sha256_of(path)}
    stated = yaml.safe_dump(asset, default_flow_style=True, sort_keys=False, allow_unicode=True, width=sys.maxsize)
    return f"embedding:\n  alignment: {stated}"


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
    # a clique of n alike pictures has n * n. Beyond the pairs this holds N labels and _GROUPED rows of N cells.
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


if __name__ == "__main__":
    sys.exit(main())
