"""The backfill: the nights of a range of dates, oldest first, one after the other in one session.

    python -m jobs.backfill --profile conf/nightly.yaml --start 2026-01-01 --end 2026-03-31 [--parallel N] [--force]
        [--dry-run]

and the same file under `spark-submit`. Each date is what jobs.nightly makes of it, and is published by itself: a
backfill that was stopped or killed goes on where it was when it is started again. A date that is published already is
left as it is (and reported as stale where its manifest or the configuration has changed since) unless `--force` says to
do it again. A date that fails, has no manifest, or is not as expected (see jobs.nightly), is reported, and the rest
goes on. The warehouse is held for a date at a time: nights, takedowns and re-decisions come in between. With
`--parallel N` there are N dates under way: while one is deduplicated and published, what the next ones show is fetched
and embedded. `--dry-run` says what would be done with each date, and why, and touches nothing. Exit codes: 0 done, 1
one or more dates failed, or could not be run as the plan stands, 2 bad usage or configuration (nothing touched).
"""

import argparse
import datetime as dt
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Self

from pyspark.sql import SparkSession

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command, what_failed
from jobs.config.errors import RunError, UsageError
from jobs.config.progress import log
from jobs.run.expectations import accepted_by, add_accepting_arguments
from jobs.run.lifecycle import summary
from jobs.run.nights import OpenedJob, look_at, open_job, prepare_ahead, run_night, stage_ahead
from jobs.startup.preflight import parse_date

_TAG = "ahead"
"""Of the Spark jobs that fetch ahead; their scheduler's pool, too."""

Outcome = Literal["published", "skipped", "stale", "failed", "not tried"]


@dataclass(frozen=True)
class Done:
    """What came of a date."""

    date: dt.date
    outcome: Outcome
    said: str
    ran: bool = False
    """Whether a night was run for it, successfully or not: by those the time left is told."""


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("backfill", __doc__)
    add_config_arguments(parser)
    add_accepting_arguments(parser)
    parser.add_argument("--start", required=True, metavar="DATE", help="the first date, YYYY-MM-DD")
    parser.add_argument("--end", required=True, metavar="DATE", help="the last date, itself included")
    parser.add_argument(
        "--parallel",
        type=int,
        default=1,
        metavar="N",
        help="dates under way at a time (default 1, one after the other): while one is published, the N - 1 next are "
        "fetched ahead; at most crawl.per_host_concurrency",
    )
    parser.add_argument("--force", action="store_true", help="do published dates again")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and touch nothing")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    first, last = parse_date(options.start, "--start"), parse_date(options.end, "--end")
    if last < first:
        raise UsageError(f"--end {last} lies before --start {first}")
    dates = [first + dt.timedelta(days=number) for number in range((last - first).days + 1)]
    if options.parallel < 1:
        raise UsageError(f"--parallel {options.parallel}: expected 1 or more dates at a time")
    # What is fetched ahead is to leave room for the date that is being published.
    fair = ["spark.properties.spark.scheduler.mode=FAIR"] if options.parallel > 1 else []
    opened = open_job(options.profile, [*fair, *options.set], accepted_by(options), options.parallel)
    ledger = opened.ledger()
    published = ledger.published_dates().intersection(dates)
    if options.dry_run:
        _say_plan(opened, dates, force=options.force)
        return
    pending = set(dates) if options.force else set(dates) - published
    with DatesAhead(opened, sorted(pending), options.parallel - 1, force=options.force) as ahead:
        done = run_dates(opened, dates, Clock(pending), ahead, force=options.force)
    _say_summary(done)
    failed = [one.date.isoformat() for one in done if one.outcome in {"failed", "not tried"}]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(dates)} dates failed or were not tried: {_some(failed)}; start again to try them"
        )


class DatesAhead:
    """Dates that are fetched and embedded by threads while an earlier one is run. Use as a context manager."""

    def __init__(self, opened: OpenedJob, dates: Sequence[dt.date], threads: int, *, force: bool) -> None:
        """`dates`: those that will have to be run, in their order; `threads`: how many at a time, 0 for none."""
        self._opened, self._dates, self._threads, self._force = opened, list(dates), threads, force
        self._pool = ThreadPoolExecutor(max(threads, 1), "ahead")
        self._begun: dict[dt.date, Future[None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        if any(not one.done() for one in self._begun.values()):
            with suppress(Exception):  # of a session that is gone
                self._opened.spark.sparkContext.cancelJobsWithTag(_TAG)
        self._pool.shutdown()

    def reach(self, date: dt.date) -> None:
        """The date is to be run now: have the next ones fetched, and wait for what is being fetched of this one."""
        if not self._threads or date not in self._dates:
            return
        if not self._begun and len(self._dates) > 1:
            prepare_ahead(self._opened, "backfill")
        place = self._dates.index(date)
        for one in self._dates[max(place, 1) : place + self._threads + 1]:
            if one not in self._begun:
                self._begun[one] = self._pool.submit(self._stage, one)
        if date in self._begun:
            self._begun[date].result()

    def _stage(self, date: dt.date) -> None:
        try:
            context = self._opened.spark.sparkContext
            context.setLocalProperty("spark.scheduler.pool", _TAG)
            context.addJobTag(_TAG)
            stage_ahead(self._opened, date, force=self._force)
        except Exception as error:  # noqa: BLE001 -- whatever it was, the night of the date meets it, or does without
            log.debug("traceback", exc_info=True)
            log.info("backfill %s is not fetched ahead: %s", date, what_failed(error))


def run_dates(
    opened: OpenedJob, dates: Sequence[dt.date], clock: "Clock", ahead: DatesAhead, *, force: bool
) -> list[Done]:
    """Run the nights of the dates in their order. Whatever ends one of them, the rest goes on, unless Spark is gone."""
    done: list[Done] = []
    for number, date in enumerate(dates, start=1):
        if done and not _is_alive(opened.spark):
            done += [Done(rest, "not tried", "the Spark session had ended") for rest in dates[number - 1 :]]
            break
        begun = time.monotonic()
        try:
            ahead.reach(date)
            one = _run_date(opened, date, force=force)
        except Exception as error:  # noqa: BLE001 -- whatever it was, it ended this date and no other
            log.debug("traceback", exc_info=True)
            one = Done(date, "failed", what_failed(error), ran=True)
        done.append(one)
        log.info("backfill %s %s: %s", date, one.outcome, one.said)
        clock.count(date, time.monotonic() - begun if one.ran else None)
        log.info("backfill %d of %d dates: %s", number, len(dates), clock.says())
    return done


def _run_date(opened: OpenedJob, date: dt.date, *, force: bool) -> Done:
    outlook = look_at(opened, date, force=force)
    if outlook.action == "skip":
        return Done(date, "skipped", outlook.why)
    if outlook.action == "stale":
        return Done(date, "stale", f"{outlook.why}; --force does it again")
    if outlook.manifest is None:
        return Done(date, "failed", outlook.why)
    drained, event = run_night(opened, date, outlook.manifest, job="backfill", force=force)
    if drained is not None:
        log.info("backfill %s first: %s", date, summary(drained))
    if event is None:  # by whoever held the warehouse meanwhile, or by a run that was killed and rolled forward now
        return Done(date, "skipped", "was published in the meantime")
    return Done(date, "published", summary(event), ran=True)


def _is_alive(spark: SparkSession) -> bool:
    try:
        return not spark._jsc.sc().isStopped()
    except Exception:  # noqa: BLE001 -- the JVM does not even answer
        return False


class Clock:
    """How long the rest will take, by the mean of the dates that were run so far."""

    def __init__(self, pending: set[dt.date]) -> None:
        """`pending`: dates that will have to be run, as far as is known."""
        self._pending = set(pending)
        self._begun = time.monotonic()
        self._took: list[float] = []

    def count(self, date: dt.date, seconds: float | None) -> None:
        """A date is done; `seconds` it took to run, None where it did not have to be."""
        self._pending.discard(date)
        if seconds is not None:
            self._took.append(seconds)

    def says(self) -> str:
        """Time gone, and time left with the hour at which it ends."""
        gone = _duration(time.monotonic() - self._begun)
        if not self._pending:
            return f"{gone} gone, none left to run"
        left = f"{gone} gone, {len(self._pending)} left to run"
        if not self._took:
            return left
        seconds = len(self._pending) * sum(self._took) / len(self._took)
        until = dt.datetime.now() + dt.timedelta(seconds=seconds)
        return f"{left}, about {_duration(seconds)}, until {until:%Y-%m-%d %H:%M}"


def _duration(seconds: float) -> str:
    return str(dt.timedelta(seconds=round(seconds)))


def _say_plan(opened: OpenedJob, dates: Sequence[dt.date], *, force: bool) -> None:
    """Say what would be done with each date. Raises RunError where one of them cannot be run."""
    outlooks = [look_at(opened, date, force=force) for date in dates]
    for one in outlooks:
        log.info("plan %s %s: %s", one.date, one.action, one.why)
    counts = Counter(one.action for one in outlooks)
    log.info("plan of %d dates: %s", len(dates), ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    if failing := [one.date.isoformat() for one in outlooks if one.action == "fail"]:
        raise RunError(f"{len(failing)} of {len(dates)} dates cannot be run: {_some(failing)}; the plan says why")


def _some(dates: Sequence[str]) -> str:
    return ", ".join(dates[:10]) + (", ..." if len(dates) > 10 else "")


def _say_summary(done: Sequence[Done]) -> None:
    counts = Counter(one.outcome for one in done)
    log.info(
        "summary of %d dates: %s", len(done), ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    )
    for one in done:
        log.info("summary %s %s: %s", one.date, one.outcome, one.said)


if __name__ == "__main__":
    sys.exit(main())
