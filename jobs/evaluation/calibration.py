"""What labelled scores say about thresholds: miss rate, over-block rate, what people would have to look at.

A threshold `t` holds back what scores `t` or more. The miss rate is the share of explicit contents that it lets
through, the over-block rate the share of safe ones that it holds back. Every rate comes with what the number of labels
allows to say: exact binomial bounds after Clopper and Pearson, "The use of confidence or fiducial limits illustrated in
the case of the binomial", Biometrika 26, 1934.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

CONFIDENCE = 0.95
STEPS = 10_000
GRID: Floats = np.arange(STEPS + 1) / STEPS
"""Thresholds that are tried and given: four decimals, 0 to 1."""


@dataclass(frozen=True)
class Rate:
    """`events` of `of` contents, at least one."""

    events: int
    of: int

    @property
    def share(self) -> float:
        """As counted."""
        return self.events / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Two-sided 95 % interval (low, high)."""
        low, high = intervals(np.array([self.events]), self.of)
        return float(low[0]), float(high[0])

    @property
    def at_most(self) -> float:
        """One-sided 95 % upper bound; below 3/n for none of n."""
        return float(upper_bounds(np.array([self.events]), self.of)[0])

    def __str__(self) -> str:
        if not self.events:
            return f"0 of {self.of}, at most {min(1, 3 / self.of):.2%} (3/n)"
        low, high = self.interval
        return f"{self.share:.2%} ({low:.2%} to {high:.2%})"

    def document(self) -> dict[str, float]:
        """For JSON."""
        low, high = self.interval
        return {
            "events": self.events,
            "of": self.of,
            "share": self.share,
            "low": low,
            "high": high,
            "at_most": self.at_most,
        }


def intervals(events: Counts, of: int) -> tuple[Floats, Floats]:
    """Two-sided 95 % Clopper-Pearson bounds (low, high) of each count (N,) out of `of`: they hold the true rate at
    least so often, whatever it is."""
    tail = (1 - CONFIDENCE) / 2
    low = np.where(events == 0, 0.0, betaincinv(np.maximum(events, 1), of - events + 1, tail))
    return low, _upper(events, of, tail)


def upper_bounds(events: Counts, of: int) -> Floats:
    """One-sided 95 % Clopper-Pearson upper bound of each count (N,) out of `of`."""
    return _upper(events, of, 1 - CONFIDENCE)


def _upper(events: Counts, of: int, tail: float) -> Floats:
    bounds: Floats = np.where(events == of, 1.0, betaincinv(events + 1, np.maximum(of - events, 1), 1 - tail))
    return bounds


def labels_needed(target: float) -> int:
    """Explicit labels, none of them missed, from which a miss rate of at most `target` follows with 95 % confidence."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-target))


@dataclass(frozen=True)
class Band:
    """What a pair of thresholds does: below `review` allowed, from `block` on blocked, between them left to people."""

    review: float
    block: float
    missed: Rate
    """Explicit contents allowed."""
    over_blocked: Rate
    """Safe contents blocked without anybody looking."""
    explicit_to_people: Rate
    safe_to_people: Rate
    stored_to_people: Rate
    """Of all contents that the warehouse has scores of, labelled or not: the work that the pair makes."""

    def document(self) -> dict[str, Any]:
        """For JSON."""
        rates = {name: value.document() for name, value in vars(self).items() if isinstance(value, Rate)}
        return {"review": self.review, "block": self.block} | rates


class StoredCounts:
    """How many stored scores reach a threshold, of more scores than memory holds."""

    def __init__(self, thresholds: Sequence[float] = ()) -> None:
        """Counts for the thresholds of `GRID` and for those given."""
        self._edges = np.union1d(GRID, np.asarray(thresholds, dtype=np.float64))
        self._counts = np.zeros(len(self._edges), dtype=np.int64)

    def add(self, scores: Floats) -> None:
        """Count scores in [0, 1] (N,)."""
        positions = np.searchsorted(self._edges, scores, side="right") - 1
        self._counts += np.bincount(positions, minlength=len(self._edges))

    @property
    def total(self) -> int:
        """How many scores there are."""
        return int(self._counts.sum())

    def between(self, low: float, high: float) -> Rate:
        """Scores in [low, high). Raises KeyError for a threshold that is not counted."""
        return Rate(int(self._counts[self._position(low) : self._position(high)].sum()), self.total)

    def _position(self, threshold: float) -> int:
        position = int(np.searchsorted(self._edges, threshold))
        if position == len(self._edges) or self._edges[position] != threshold:
            raise KeyError(threshold)
        return position


@dataclass(frozen=True)
class LabelledScores:
    """Worst scores of labelled contents, each kind sorted, at least one of each. Make it with `labelled_scores`."""

    explicit: Floats
    safe: Floats

    def missed(self, threshold: float) -> Rate:
        """Explicit contents that score below the threshold."""
        return _within(self.explicit, -math.inf, threshold)

    def over_blocked(self, threshold: float) -> Rate:
        """Safe contents that score the threshold or more."""
        return _within(self.safe, threshold, math.inf)

    def threshold_for(self, target: float) -> float | None:
        """The highest threshold of `GRID` whose miss rate is at most `target` (0 to 1) with 95 % confidence; None where
        the labels are too few to say so of any (`labels_needed`).

        Choosing among thresholds costs no confidence here: misses only grow with the threshold, so a threshold that is
        too high is chosen only if the bound fails at the first threshold that is.
        """
        of = len(self.explicit)
        allowed = int(np.searchsorted(upper_bounds(np.arange(of + 1), of), target, side="right")) - 1
        if allowed < 0:
            return None
        # Below the next explicit score there are at most `allowed` others.
        return float(GRID[np.searchsorted(GRID, self.explicit[allowed], side="right") - 1])

    def band(self, review: float, block: float, stored: StoredCounts) -> Band:
        """What the pair `review <= block` does."""
        return Band(
            review,
            block,
            missed=self.missed(review),
            over_blocked=self.over_blocked(block),
            explicit_to_people=_within(self.explicit, review, block),
            safe_to_people=_within(self.safe, review, block),
            stored_to_people=stored.between(review, block),
        )


def labelled_scores(scores: Floats, explicit: NDArray[np.bool_]) -> LabelledScores:
    """Of worst scores in [0, 1] (N,) and whether each content is explicit (N,). Raises ValueError where either kind is
    missing."""
    found = LabelledScores(np.sort(scores[explicit]), np.sort(scores[~explicit]))
    if not len(found.explicit) or not len(found.safe):
        raise ValueError(
            "expected explicit and safe contents with stored scores, at least one of each; "
            f"found {len(found.explicit)} explicit and {len(found.safe)} safe"
        )
    return found


def _within(ordered: Floats, low: float, high: float) -> Rate:
    """Scores in [low, high)."""
    return Rate(int(np.searchsorted(ordered, high) - np.searchsorted(ordered, low)), len(ordered))


def chart(scores: LabelledScores, path: Path, target: float, marks: Sequence[tuple[str, float]]) -> None:
    """A PNG: both rates against the threshold with their 95 % intervals, `marks` (name, threshold) as upright lines."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import PercentFormatter

    thresholds = GRID[::10]
    missed = np.searchsorted(scores.explicit, thresholds)
    over = len(scores.safe) - np.searchsorted(scores.safe, thresholds)
    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    curves = (("explicit, let through", missed, scores.explicit), ("safe, held back", over, scores.safe))
    for name, events, of in curves:
        (line,) = axes.plot(thresholds, events / len(of), label=f"{name} (n = {len(of)})")
        low, high = intervals(events, len(of))
        axes.fill_between(thresholds, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.axhline(target, color="grey", linestyle=":", label=f"target miss rate {target:.2%}")
    for (name, threshold), style in zip(marks, ("-", "--", "-."), strict=False):
        axes.axvline(threshold, color="grey", linestyle=style, label=f"{name} {threshold:g}")
    # Linear up to the target, so that none can be shown, logarithmic above.
    axes.set_yscale("symlog", linthresh=target)
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("threshold: held back from this score on")
    axes.set_ylabel("share, with 95 % interval")
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
