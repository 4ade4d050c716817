"""What a fitted alignment is worth on pairs that it has not seen: recall over several splits of a published feed.

    python -m benchmarks.alignment --warehouse DIR [--splits 10] [--json FILE]

Each split holds out half of the pairs, near-duplicates and equal texts together, and fits on the other half alone: the
shrinkage and the number of epochs are chosen within it, so nothing is tuned on what is reported. `times chance` is the
mean over the splits; every figure also comes with its least and largest.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import environment, publish
from jobs.evaluation.aligning import CUTOFFS, duplicate_groups, measured, read_pairs, split
from jobs.evaluation.contrastive import Settings
from lensfeed.snapshot import Snapshot

HELD_OUT = 0.5
DUPLICATE_COSINE = 0.9
LEAST_TIMES_CHANCE = 8
DIRECTIONS = ("image to text", "text to image")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 where the alignment finds fewer than `LEAST_TIMES_CHANCE` times what chance does."""
    parser = argparse.ArgumentParser(prog="benchmarks.alignment", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--warehouse", required=True)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args(arguments)
    snapshot = Snapshot.open(options.warehouse)
    pairs = read_pairs(snapshot, sys.maxsize, 0)
    groups = duplicate_groups(pairs, DUPLICATE_COSINE)
    recalls, fits = [], []
    for seed in range(options.splits):
        held = split(groups, HELD_OUT, seed)
        _, recall, fitted = measured(pairs, groups, held, snapshot, Settings(seed=seed), seed)
        recalls.append(recall)
        fits.append({"held_out": int(held.sum()), **{name: fitted[name] for name in ("shrinkage", "epochs_kept")}})
    pools = {pool: _summary([recall[pool] for recall in recalls]) for pool in recalls[0]}
    worst = min(pools["all pairs"][f"{way}, aligned"]["times chance"]["mean"] for way in DIRECTIONS)
    report = {
        "environment": environment("numpy", "torch"),
        "pairs": len(groups),
        "groups": int(groups.max()) + 1,
        "splits": fits,
        "recall": pools,
        "at_least_times_chance": LEAST_TIMES_CHANCE,
        "met": worst >= LEAST_TIMES_CHANCE,
    }
    publish(report, options.json)
    return 0 if report["met"] else 1


def _summary(figures: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """By method: recall at each cutoff, and recall@10 over that of chance."""
    found: dict[str, Any] = {}
    most = f"recall@{CUTOFFS[-1]}"
    for method in figures[0]:
        by_cutoff = {f"recall@{k}": [one[method][f"recall@{k}"] for one in figures] for k in CUTOFFS}
        ratios = [one[method][most] / one["chance"][most] for one in figures]
        found[method] = {name: _spread(values) for name, values in (by_cutoff | {"times chance": ratios}).items()}
    return found


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": round(float(np.mean(values)), 4),
        "least": round(min(values), 4),
        "largest": round(max(values), 4),
    }


if __name__ == "__main__":
    sys.exit(main())
