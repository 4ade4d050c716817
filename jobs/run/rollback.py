"""An earlier state published again: what nights have brought or found out since then is taken back.

What is taken back is evidence, rows of `sightings` and `fetches`. What was decided of it since then (policy, verdicts,
takedowns, models) stays: the earlier rows are judged as everything else is now. Pixels and vectors that have left the
disk meanwhile are owed a fetch.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs.config.errors import UsageError
from jobs.run import audit, contents
from jobs.run.context import Work
from jobs.run.derived import Facts, Touched
from jobs.run.freeing import says
from jobs.run.names import Count, Dataset
from jobs.run.redecision import stage_what_follows
from jobs.stages import outcomes
from jobs.stages.pregate import fetch_requests, judge_sightings
from jobs.warehouse.ledger import TEXTS_ERASED, Event, Ledger

MOST_NAMED = 10
"""Runs that a message lists."""


@dataclass(frozen=True)
class Earlier:
    """The state that a rollback goes back to, and what has come since."""

    target: Event
    dropped: tuple[dt.date, ...]
    """Dates that were published since then for the first time."""
    restored: tuple[dt.date, ...]
    """Dates that were done or asked for again since then."""
    sightings: int
    """Of the dates restored, as they were published then."""

    @property
    def dates(self) -> tuple[dt.date, ...]:
        """All that change."""
        return tuple(sorted((*self.dropped, *self.restored)))


def find_earlier(ledger: Ledger, run_id: str) -> Earlier:
    """What going back to a published run means. Raises UsageError where no such run was published here."""
    published = [event for event in ledger.events if event.event == "published"]
    target = next((event for event in published if event.run_id == run_id), None)
    if target is None:
        others = [f"{event.run_id} ({event.job})" for event in published[-MOST_NAMED:]]
        raise UsageError(
            f"--to {run_id}: expected a published run of the warehouse {ledger.landing.storage.root}, the last of "
            f"which are {', '.join(others) or 'none: there is none'}"
        )
    since = [event for event in published if event.seq > target.seq and _brings_evidence(event)]
    undone = bool(since) and since[-1].rolled_back_to == run_id
    dates = sorted({date for event in since for date in event.ingest_dates}) if not undone else []
    then = {date: night for night in ledger.nights(run_id) for date in night.ingest_dates}
    restored = tuple(date for date in dates if date in then)
    return Earlier(
        target,
        tuple(date for date in dates if date not in then),
        restored,
        sum((then[date].counts or {}).get(Count.SIGHTINGS, 0) for date in restored),
    )


def _brings_evidence(event: Event) -> bool:
    """Whether a run has asked for something, or taken back what others had: no other changes `fetches`, or the rows of
    a manifest."""
    return Count.URLS in (event.counts or {}) or event.rolled_back_to is not None


@dataclass
class Rollback:
    """The staging of a rollback."""

    work: Work
    earlier: Earlier
    touched: Touched | None = None

    def restore(self) -> None:
        """Stage the dates' rows as they were, judged as of now, in place of those that they have."""
        work, dates = self.work, self.earlier.dates
        work.dates = dates
        before = self._rows("sightings")
        rows = work.stage(Dataset.ROWS, judge_sightings(before, work.policy, work.overrides.rows))
        fetches = work.stage(Dataset.FETCHES, self._rows("fetches"), {"fetches": "true"})
        work.plan_rows("fetches", Dataset.FETCHES, dates=dates)
        answers = contents.recorded_answers(work, fetch_requests(rows), fetches)
        version = work.versions.policy_version
        decided = outcomes.decide_outcomes(
            rows, answers, policy=work.policy, policy_version=version, run_id=work.run_id
        )
        spoke = before.where(says()).count()
        sightings = work.stage(Dataset.SIGHTINGS, decided, {"sightings": "true"}, **{TEXTS_ERASED: says()})
        # What is taken down by now may lie on the disk in the files that these rows came from.
        work.counts[TEXTS_ERASED] = spoke - work.rows(Dataset.SIGHTINGS).counted[TEXTS_ERASED]
        work.plan_rows("sightings", Dataset.SIGHTINGS, dates=dates)
        work.counts |= audit.outcome_counts(sightings)
        stage_what_follows(work, rows, sightings, answers)

    def facts(self) -> Facts:
        """The dates' sightings as they were, in place of those that they have."""
        work, before = self.work, self.work.landing.read("sightings")
        of_dates = f.col("ingest_date").isin(*self.earlier.dates)
        return Facts(
            old=before.where(of_dates),
            new=work.staged(Dataset.SIGHTINGS),
            before=before,
            kept=lambda rows: rows.where(~of_dates),
            embeddings=contents.no_vectors(work),
            texts=contents.new_text_vectors(work),
            crawled=None,
        )

    def audit(self) -> None:
        """As many rows as were published then, each with one outcome; no representative is a member elsewhere."""
        audit.check_accounting(self.earlier.sightings, self.work.staged(Dataset.SIGHTINGS), self.work.counts)
        audit.check_clusters(self.work.staged(Dataset.CLUSTERS))

    def _rows(self, table: str) -> DataFrame:
        versions = self.earlier.target.table_versions or {}
        return self.work.landing.read_dates(table, versions.get(table, 0), self.earlier.restored)


def described(dates: Sequence[dt.date]) -> str:
    """Dates in words: how many, and the first and the last of them."""
    if len(dates) < 2:
        return str(dates[0]) if dates else "none"
    return f"{len(dates)} from {dates[0]} to {dates[-1]}"
