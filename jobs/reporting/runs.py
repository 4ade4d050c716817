"""Which runs a report is about, and what the ledger knows of them: counts and seconds, exact at any size."""

import datetime as dt
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.config.errors import RunError, UsageError
from jobs.run.names import FAILED, Count, Metric, outcome, seconds
from jobs.run.pipelines import NIGHT
from jobs.warehouse.ledger import standing_nights
from schemas.outcomes import FAILURE_MEANINGS, TRANSIENT, FailureCode, Outcome

SHOWN_RUNS = 30
"""Nights that the drift shows, the newest ones: their number is said where there are more."""


@dataclass(frozen=True)
class Run:
    """A published run, as the ledger has it."""

    run_id: str
    job: str
    seq: int
    ingest_dates: tuple[dt.date, ...]
    published_at: dt.datetime
    is_night: bool
    """Whether it took its dates from their manifests, and no rollback has taken that back: others decide again, ask
    again, or switch models."""
    counts: Mapping[str, int]
    metrics: Mapping[str, float]
    table_versions: Mapping[str, int]

    @property
    def sightings(self) -> int:
        """Rows that it gave an outcome; 0 for a run that ends none."""
        return sum(self.outcomes.values())

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """Rows by outcome, every outcome named."""
        return {one: self.counts.get(outcome(one), 0) for one in Outcome}

    @property
    def seconds(self) -> float:
        """What staging it took."""
        return self.metrics.get(Metric.STAGING_SECONDS, 0.0)


def published_runs(events: Sequence[Mapping[str, Any]]) -> list[Run]:
    """The published runs of a ledger's events (`lensfeed.snapshot.ledger_events`), oldest first."""
    published = [event for event in events if event["event"] == "published"]
    told = [(e["run_id"], e["inputs_digest"] is not None, e.get("rolled_back_to")) for e in published]
    nights = set(standing_nights(told))
    return [
        Run(
            run_id=event["run_id"],
            job=event["job"],
            seq=event["seq"],
            ingest_dates=tuple(event["ingest_dates"]),
            published_at=event["at"],
            is_night=event["run_id"] in nights,
            counts=event["counts"],
            metrics=event["metrics"],
            table_versions=event["table_versions"],
        )
        for event in published
    ]


def chosen_runs(
    runs: Sequence[Run], *, run_id: str | None = None, dates: tuple[dt.date, dt.date] | None = None
) -> list[Run]:
    """The run of that id; or of each date from the first to the last of `dates` the newest night; or the newest run.

    Raises UsageError where that is none, and names what there is.
    """
    if run_id is not None:
        found = [run for run in runs if run.run_id == run_id]
        if not found:
            newest = [run.run_id for run in runs[-5:]]
            raise UsageError(f"--run {run_id}: no such run is published; the newest published ones: {newest}")
        return found
    if dates is None:
        if not runs:
            raise RunError("no run is published yet: there is nothing to report on")
        return [runs[-1]]
    nights = newest_nights(runs)
    chosen = {run.run_id: run for date, run in sorted(nights.items()) if dates[0] <= date <= dates[1]}
    if not chosen:
        raise UsageError(f"no night of {dates[0]} to {dates[1]} is published; {dates_known(nights)}")
    return list(chosen.values())


def newest_nights(runs: Sequence[Run]) -> dict[dt.date, Run]:
    """Of runs, the oldest first, the newest night of each date that has one."""
    return {date: run for run in runs if run.is_night for date in run.ingest_dates}


def dates_known(nights: Collection[dt.date]) -> str:
    """What an error says of the dates that have one."""
    return f"dates that are: {f'{min(nights)} to {max(nights)}' if nights else 'none'}"


@dataclass(frozen=True)
class Stage:
    """A width of the funnel."""

    name: str
    count: int
    meaning: str


@dataclass(frozen=True)
class Failure:
    """Rows that failed for one reason."""

    code: str
    count: int
    meaning: str
    is_transient: bool


@dataclass(frozen=True)
class StepCost:
    """What a step of the runs took."""

    name: str
    seconds: float
    worked_through: int
    what: str
    """What it worked through, in words."""

    @property
    def each_ms(self) -> float | None:
        """Milliseconds a piece; None where it worked through nothing."""
        return 1000 * self.seconds / self.worked_through if self.worked_through else None

    @property
    def hours_for_a_billion(self) -> float | None:
        """Hours that 1e9 pieces would take at that rate; None where it worked through nothing."""
        return None if self.each_ms is None else self.each_ms * 1e9 / 3.6e6


def totals(runs: Sequence[Run]) -> Counter[str]:
    """The counts of the runs together."""
    total: Counter[str] = Counter()
    for run in runs:
        total.update(run.counts)
    return total


def funnel(runs: Sequence[Run]) -> list[Stage]:
    """From manifest rows to the rows of the feed that changed, narrower from each to the next but the last; empty for
    runs that end no rows."""
    total = totals(runs)
    rows = sum(run.sightings for run in runs)
    if not rows:
        return []
    return [
        Stage("Manifest rows", rows, "every one ended with exactly one outcome"),
        Stage("URLs asked", total[Count.URLS], "distinct, after the pre-gate and what is no URL"),
        Stage("Rows accepted", total[outcome(Outcome.ACCEPTED)], "fetched or confirmed, allowed and embedded"),
        Stage("Images embedded", total[Count.EMBEDDED], "contents that had no vector yet"),
        Stage("Feed rows changed", total["changed.index_feed"], "representatives that came, changed or left"),
    ]


def failures(runs: Sequence[Run]) -> list[Failure]:
    """Failed rows by code, most frequent first."""
    counts = {name.removeprefix(FAILED): n for name, n in totals(runs).items() if name.startswith(FAILED) and n}
    known = {code.value: code for code in FailureCode}
    return [
        Failure(
            name,
            count,
            FAILURE_MEANINGS[known[name]] if name in known else "",
            name in known and known[name] in TRANSIENT,
        )
        for name, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


_IN_WORDS = {
    Count.SIGHTINGS: "row",
    Count.URLS: "URL",
    Count.EMBEDDED: "image",
    outcome(Outcome.ACCEPTED): "accepted row",
}


def step_costs(runs: Sequence[Run]) -> list[StepCost]:
    """Seconds by step in the order of a night, then what other kinds of runs call theirs."""
    prefix = seconds("")
    took: dict[str, float] = {}
    for run in runs:
        for name, value in run.metrics.items():
            if name.startswith(prefix) and name != Metric.STAGING_SECONDS:
                step = name.removeprefix(prefix)
                took[step] = took.get(step, 0.0) + value
    through = {step.name: step.works_through for step in NIGHT}
    total = totals(runs)
    ordered = [name for name in through if name in took] + sorted(took.keys() - through.keys())
    return [
        StepCost(
            name,
            took[name],
            total[through.get(name, Count.SIGHTINGS)],
            _IN_WORDS.get(through.get(name, Count.SIGHTINGS), through.get(name, "row")),
        )
        for name in ordered
    ]


@dataclass(frozen=True)
class Night:
    """A night among the others."""

    run: Run
    is_reported: bool
    accepted_share: float
    beside_earlier: float | None
    """By how many percentage points the accepted share is above the median of the nights before it; None for the
    first."""
    row_ms: float


def drift(runs: Sequence[Run], reported: Collection[str]) -> list[Night]:
    """The newest nights in the order in which they were published, at most `SHOWN_RUNS` of them."""
    nights: list[Night] = []
    shares: list[float] = []
    for run in runs:
        if not run.is_night or not run.sightings:
            continue
        share = run.outcomes[Outcome.ACCEPTED] / run.sightings
        beside = round(100 * (share - statistics.median(shares)), 1) + 0.0 if shares else None  # no minus before 0.0
        nights.append(Night(run, run.run_id in reported, share, beside, 1000 * run.seconds / run.sightings))
        shares.append(share)
    return nights[-SHOWN_RUNS:]
