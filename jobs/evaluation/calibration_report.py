"""The report on the thresholds of one score: tables for people, a document for programs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.evaluation.calibration import GRID, Band, LabelledScores, StoredCounts, labels_needed
from jobs.evaluation.policy_labels import Label

_SHOWN = GRID[500::500]
"""Thresholds in the table: 0.05, 0.1, ..., 1."""
_PAIRED = GRID[2000:-1:2000]
"""Thresholds that are tried in pairs: 0.2, 0.4, 0.6, 0.8."""
_NAMED = 5
"""Labels without a stored score that are named; all of them are in the JSON."""


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
            f"{counted(self.counts)}{named(self.without)}",
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


def counted(counts: Mapping[str, int]) -> str:
    """Counts in a line."""
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def named(without: Sequence[Label]) -> str:
    """The first labels without a stored score, in brackets; nothing where there are none."""
    if not without:
        return ""
    more = f" and {len(without) - _NAMED} more" if len(without) > _NAMED else ""
    return f" ({', '.join(f'{label.where}: {label.named}' for label in without[:_NAMED])}{more})"
