"""Calibrate a policy's thresholds on labelled contents: what each lets through, and what it holds back for nothing.

    python -m jobs.calibrate_policy LABELS --profile conf/local.yaml --into DIR [--target-miss-rate 0.01] [--rule nsfw]

LABELS (.csv, .jsonl, .parquet) has `label` (explicit or safe, also 1 or 0) and `image_id` or `url`; a URL stands for
the content that it showed last. Scores are those that the newest published run stores under the profile's detectors,
the worst view of each content; no picture is looked at and Spark is not started. `--rule` names the score: `nsfw`, or
`DETECTOR.LABEL` of another detector. Prints miss rate and over-block rate by threshold with 95 % intervals, the
threshold for the target miss rate, and what pairs of thresholds leave to people; writes `calibration.json` (also every
label without a stored score) and `calibration.png`. The warehouse stays as it is. Exit codes as for every job.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.config.command import add_config_arguments, run_command
from jobs.config.errors import RunError, UsageError
from jobs.config.profile import load, load_policy
from jobs.config.progress import log
from jobs.evaluation.calibration import (
    GRID,
    Band,
    Floats,
    LabelledScores,
    StoredCounts,
    chart,
    labelled_scores,
    labels_needed,
)
from jobs.evaluation.policy_labels import Label, read_labels
from lensfeed.snapshot import Snapshot, SnapshotError
from schemas.policy import NSFW, DetectorRule, NsfwRule, Policy
from udfs.gate.content import gate_version

_SHOWN = GRID[500::500]
"""Thresholds in the table: 0.05, 0.1, ..., 1."""
_PAIRED = GRID[2000:-1:2000]
"""Thresholds that are tried in pairs: 0.2, 0.4, 0.6, 0.8."""
_NAMED = 5
"""Labels without a stored score that are named; all of them are in the JSON."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="jobs.calibrate_policy", description="Miss rate and over-block rate of thresholds, from labelled contents."
    )
    parser.add_argument("labels", type=Path, metavar="LABELS", help="a .csv, .jsonl or .parquet file")
    add_config_arguments(parser)
    parser.add_argument("--into", required=True, type=Path, metavar="DIR", help="where the report is written")
    parser.add_argument("--target-miss-rate", type=_rate, default=0.01, metavar="RATE", help="0.01 where not given")
    parser.add_argument("--rule", default=NSFW, metavar="SCORE", help="nsfw, or DETECTOR.LABEL of another detector")
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options), debug=options.debug)


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
        contents = _by_content(options.labels, labels, snapshot)
        scored, stored = _scores(snapshot, contents.labels, options.rule, gate_version(config.policy), bands)
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
        raise UsageError(f"{options.labels}: {error}; {_counted(counts)}{_named(without)}") from None
    report = Report(options.rule, options.target_miss_rate, snapshot.run_id, counts, without, bands, scores, stored)
    sys.stdout.write(report.text())
    options.into.mkdir(parents=True, exist_ok=True)
    (options.into / "calibration.json").write_text(json.dumps(report.document(), indent=2) + "\n")
    chart(scores, options.into / "calibration.png", report.target, report.marks())
    log.info("calibrate: written: %s", options.into / "calibration.json")


def policy_bands(policy: Policy, score: str) -> dict[str, float]:
    """Thresholds that the policy sets on a score by action, `review` before `block`; of several rules the lowest."""
    rules = [
        rule
        for rule in policy.rules
        if (isinstance(rule, NsfwRule) and score == NSFW) or (isinstance(rule, DetectorRule) and score == rule.score)
    ]
    found = {action: [rule.at_least for rule in rules if rule.action == action] for action in ("review", "block")}
    return {action: min(thresholds) for action, thresholds in found.items() if thresholds}


# Contents and their scores --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Contents:
    """Labels by content."""

    labels: Mapping[str, Label]
    unknown: list[Label]
    """URLs that never showed a content."""
    repeated: int


def _by_content(path: Path, labels: Sequence[Label], snapshot: Snapshot) -> _Contents:
    """Each label with its image_id. Raises UsageError where two URLs of one content have different labels."""
    shown = _shown({label.url_id for label in labels if label.url_id}, snapshot)
    found: dict[str, Label] = {}
    unknown, repeated = [], 0
    for label in labels:
        image_id = label.image_id or shown.get(str(label.url_id))
        if image_id is None:
            unknown.append(label)
        elif image_id not in found:
            found[image_id] = label
        elif found[image_id].explicit == label.explicit:
            repeated += 1
        else:
            raise UsageError(
                f"{path}, {label.where}: {label.named} is the content {image_id}, which has another label on "
                f"{found[image_id].where} already"
            )
    return _Contents(found, unknown, repeated)


def _shown(url_ids: set[str], snapshot: Snapshot) -> dict[str, str]:
    """The image_id that each URL showed last, in date order."""
    if not url_ids:
        return {}
    wanted = pc.field("url_id").isin(sorted(url_ids)) & pc.field("image_id").is_valid()
    rows = snapshot.rows("sightings", ["ingest_date", "source_file", "row_number", "url_id", "image_id"], wanted)
    order = [(name, "ascending") for name in ("ingest_date", "source_file", "row_number")]
    ordered = rows.sort_by(order)
    return dict(zip(ordered["url_id"].to_pylist(), ordered["image_id"].to_pylist(), strict=True))


def _scores(
    snapshot: Snapshot, wanted: Mapping[str, Label], score: str, version: str, bands: Mapping[str, float]
) -> tuple[dict[str, float], StoredCounts]:
    """Worst scores of the contents wanted that have one, by image_id; and counts of those of all contents.

    Raises UsageError where no content has such a score.
    """
    stored, names = StoredCounts(list(bands.values())), set[str]()
    found: dict[str, float] = {}
    ids = pa.array(list(wanted), pa.string())
    of_version = pc.field("detector_version") == version
    for batch in snapshot.batches("content_signals", ["image_id", "scores"], of_version):
        names |= {name.partition(":")[0] for name in batch.column("scores").keys.unique().to_pylist()}
        worst = worst_scores(batch.column("scores"), f"{score}:")
        usable = (worst >= 0) & (worst <= 1)
        stored.add(worst[usable])
        mine = usable & pc.is_in(batch.column("image_id"), value_set=ids).to_numpy(zero_copy_only=False)
        named = batch.column("image_id").filter(pa.array(mine)).to_pylist()
        found |= dict(zip(named, worst[mine].tolist(), strict=True))
    if not stored.total:
        raise UsageError(
            f"--rule {score}: run {snapshot.run_id} stores no such score under the profile's detectors "
            f"({version[:16]}); found {', '.join(sorted(names)) or 'none at all'}"
        )
    return found, stored


def worst_scores(scores: pa.MapArray, prefix: str) -> Floats:
    """The highest score (N,) over the views whose name has the prefix; -inf where there is none, NaN where one is."""
    lengths = np.diff(scores.offsets.to_numpy())
    rows = np.repeat(np.arange(len(scores)), lengths)
    # Offsets count from the beginning of an array of which this one may be a slice.
    first, last = scores.offsets[0].as_py(), scores.offsets[-1].as_py()
    keys, values = scores.keys[first:last], scores.items[first:last]
    named = pc.starts_with(keys, prefix).to_numpy(zero_copy_only=False)
    worst: Floats = np.full(len(scores), -np.inf)
    with np.errstate(invalid="ignore"):  # NaN is what is wanted of a view without a score
        np.maximum.at(worst, rows[named], values.to_numpy(zero_copy_only=False)[named])
    return worst


# The report -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What is said about one score."""

    score: str
    target: float
    run_id: str
    counts: Mapping[str, int]
    without: Sequence[Label]
    """Labels of contents that have no stored score."""
    policy: Mapping[str, float]
    scores: LabelledScores
    stored: StoredCounts

    def marks(self) -> list[tuple[str, float]]:
        """Thresholds of interest by name: the policy's, and the one for the target."""
        chosen = self.scores.threshold_for(self.target)
        return [*self.policy.items(), *([("for the target", chosen)] if chosen is not None else [])]

    def thresholds(self) -> list[float]:
        """Those of the table."""
        return sorted({float(t) for t in _SHOWN} | {threshold for _, threshold in self.marks()})

    def bands(self) -> list[Band]:
        """Those of the second table."""
        tried = sorted({float(t) for t in _PAIRED} | {threshold for _, threshold in self.marks()})
        return [self.scores.band(review, block, self.stored) for review in tried for block in tried if review < block]

    def advice(self) -> str:
        """The threshold for the target miss rate, or why there is none."""
        threshold, explicit = self.scores.threshold_for(self.target), len(self.scores.explicit)
        if threshold is None:
            needed = labels_needed(self.target)
            return (
                f"no threshold can be said to miss at most {self.target:.2%}: {explicit} explicit labels are too few; "
                f"with {needed}, none of them missed, one could"
            )
        missed, over = self.scores.missed(threshold), self.scores.over_blocked(threshold)
        note = ", which holds back everything" if threshold == 0 else ""
        return (
            f"hold back from {threshold:.4f} on{note}: misses {missed.events} of {missed.of} explicit, with 95 % "
            f"confidence at most {missed.at_most:.2%} (target {self.target:.2%}); holds back {over} of the safe"
        )

    def text(self) -> str:
        """For people."""
        marks = {threshold: name for name, threshold in self.marks()}
        lines = [
            f"{self.score}, run {self.run_id}: {len(self.scores.explicit)} explicit and {len(self.scores.safe)} safe "
            f"contents with scores, of {self.stored.total} stored",
            f"{_counted(self.counts)}{_named(self.without)}",
            "",
            *_table(
                ("threshold", "explicit let through", "safe held back", ""),
                [
                    (f"{t:g}", str(self.scores.missed(t)), str(self.scores.over_blocked(t)), marks.get(t, ""))
                    for t in self.thresholds()
                ],
            ),
            "",
            "left to people from the first threshold on, blocked from the second on:",
            *_table(
                (
                    "review",
                    "block",
                    "explicit allowed",
                    "safe blocked",
                    "explicit, people",
                    "safe, people",
                    "all, people",
                ),
                [_band_row(band) for band in self.bands()],
            ),
            "",
            self.advice(),
        ]
        return "".join(f"{line.rstrip()}\n" for line in lines)

    def document(self) -> dict[str, Any]:
        """For programs."""
        chosen = self.scores.threshold_for(self.target)
        return {
            "score": self.score,
            "run_id": self.run_id,
            "counts": {**self.counts, "explicit": len(self.scores.explicit), "safe": len(self.scores.safe)},
            "stored_scores": self.stored.total,
            "without_a_stored_score": [asdict(label) for label in self.without],
            "policy": self.policy,
            "target_miss_rate": self.target,
            "threshold": chosen,
            "labels_needed": labels_needed(self.target),
            "advice": self.advice(),
            "thresholds": [
                {
                    "threshold": threshold,
                    "missed": self.scores.missed(threshold).document(),
                    "over_blocked": self.scores.over_blocked(threshold).document(),
                }
                for threshold in self.thresholds()
            ],
            "bands": [band.document() for band in self.bands()],
        }


def _band_row(band: Band) -> tuple[str, ...]:
    labelled = (band.missed, band.over_blocked, band.explicit_to_people, band.safe_to_people)
    # The labelled are a sample; the stored are all there are, and none of them is none.
    cells = [f"{rate.share:.2%}" if rate.events else f"at most {min(1, 3 / rate.of):.2%}" for rate in labelled]
    return f"{band.review:g}", f"{band.block:g}", *cells, f"{band.stored_to_people.share:.2%}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def _named(without: Sequence[Label]) -> str:
    if not without:
        return ""
    more = f" and {len(without) - _NAMED} more" if len(without) > _NAMED else ""
    return f" ({', '.join(f'{label.where}: {label.named}' for label in without[:_NAMED])}{more})"


if __name__ == "__main__":
    sys.exit(main())
