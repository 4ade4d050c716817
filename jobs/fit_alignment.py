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
from collections.abc import Sequence
from pathlib import Path

import yaml

from jobs.config.command import JobParser, add_output_arguments, job_parser, run_command
from jobs.config.errors import UsageError
from jobs.config.output_file import check_folder
from jobs.config.progress import Progress
from jobs.evaluation.aligning import Pairs, duplicate_groups, measured, read_pairs, split
from jobs.evaluation.contrastive import Settings
from lensfeed.snapshot import Snapshot, SnapshotError
from udfs.assets import sha256_of
from udfs.embedding.alignment import save_alignment

_LEAST_PAIRS = 8


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("fit_alignment", __doc__)
    parser.add_argument("--warehouse", required=True, metavar="DIR", help="where the published feed lies")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="where the alignment is stored")
    parser.add_argument("--run", metavar="RUN", help="run whose feed is read; the newest published one by default")
    parser.add_argument("--dimension", type=int, default=128, help="of the common space (128)")
    parser.add_argument("--held-out", type=float, default=0.5, help="share of pairs to measure on (0.5)")
    parser.add_argument("--duplicate-cosine", type=float, default=0.9, help="images as alike stay together (0.9)")
    parser.add_argument("--pairs", type=int, default=50_000, help="pairs read at most (50000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--native", action="store_true", help="the towers share a space: calibrate, fit nothing")
    add_output_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    if not 0 < options.held_out < 1:
        raise UsageError(f"--held-out: expected a share between 0 and 1, found {options.held_out}")
    if not 0 < options.duplicate_cosine <= 1:
        raise UsageError(f"--duplicate-cosine: expected above 0 and at most 1, found {options.duplicate_cosine}")
    check_folder(options.into, "--into")
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


if __name__ == "__main__":
    sys.exit(main())
