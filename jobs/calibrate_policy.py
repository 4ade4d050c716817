"""Calibrate a policy's thresholds on labelled contents: what each lets through, and what it holds back for nothing.

    python -m jobs.calibrate_policy LABELS --profile conf/local.yaml --into DIR [--target-miss-rate 0.01] [--rule nsfw]

LABELS (.csv, .jsonl, .parquet) has `label` (explicit or safe, also 1 or 0) and `image_id` or `url`; a URL stands for
the content that it showed last. Scores are those that the newest published run stores under the profile's detectors,
the worst view of each content; no pixels are looked at and Spark is not started. `--rule` names the score: `nsfw`, or
`DETECTOR.LABEL` of another detector. Prints miss rate and over-block rate by threshold with 95 % intervals, the
threshold for the target miss rate, and what pairs of thresholds leave to people; writes `calibration.json` (also every
label without a stored score) and `calibration.png`. The warehouse stays as it is. Exit codes as for every job.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.errors import RunError, UsageError
from jobs.config.profile import load, load_policy
from jobs.config.progress import log
from jobs.evaluation.calibration import chart, labelled_scores
from jobs.evaluation.calibration_report import Report, counted, named
from jobs.evaluation.policy_labels import read_labels
from jobs.evaluation.stored_scores import by_content, policy_bands, stored_scores
from lensfeed.snapshot import Snapshot, SnapshotError
from schemas.policy import NSFW
from udfs.gate.content import gate_version


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("calibrate_policy", __doc__)
    parser.add_argument("labels", type=Path, metavar="LABELS", help="a .csv, .jsonl or .parquet file")
    add_config_arguments(parser)
    parser.add_argument("--into", required=True, type=Path, metavar="DIR", help="where the report is written")
    parser.add_argument("--target-miss-rate", type=_rate, default=0.01, metavar="RATE", help="0.01 where not given")
    parser.add_argument("--rule", default=NSFW, metavar="SCORE", help="nsfw, or DETECTOR.LABEL of another detector")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a rate between 0 and 1, found {text}")
    return value


def _run(options: argparse.Namespace) -> None:
    if options.into.exists() and not options.into.is_dir():
        raise UsageError(f"--into {options.into}: expected a folder, found a file")
    labels = read_labels(options.labels)
    config = load(options.profile, options.set)
    bands = policy_bands(load_policy(config.policy), options.rule)
    try:
        snapshot = Snapshot.open(config.warehouse)
        contents = by_content(options.labels, labels, snapshot)
        scored, stored = stored_scores(snapshot, contents.labels, options.rule, gate_version(config.policy), bands)
    except SnapshotError as error:
        raise RunError(str(error)) from None
    without = contents.unknown + [label for image_id, label in contents.labels.items() if image_id not in scored]
    counts = {
        "labels": len(labels),
        "same content under another URL": contents.repeated,
        "without a stored score": len(without),
    }
    try:
        scores = labelled_scores(
            np.array(list(scored.values()), dtype=np.float64),
            np.array([contents.labels[image_id].explicit for image_id in scored], dtype=np.bool_),
        )
    except ValueError as error:
        raise UsageError(f"{options.labels}: {error}; {counted(counts)}{named(without)}") from None
    report = Report(options.rule, options.target_miss_rate, snapshot.run_id, counts, without, bands, scores, stored)
    sys.stdout.write(report.text())
    options.into.mkdir(parents=True, exist_ok=True)
    (options.into / "calibration.json").write_text(json.dumps(report.document(), indent=2) + "\n")
    chart(scores, options.into / "calibration.png", report.target, report.marks())
    log.info("calibrate: written: %s", options.into / "calibration.json")


if __name__ == "__main__":
    sys.exit(main())
