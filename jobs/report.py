"""Writes what came of a run, or of a range of dates, as one HTML file: figures, charts and thumbnails of live images.

    python -m jobs.report --profile conf/local.yaml --into report.html [--run RUN | --date D | --start D --end D]

Without a run or dates it is on the newest published run. The file stands alone: no script, no request, and whatever
came from the web is text in it. Read without Spark, and at any size of the warehouse a bounded part of each table; the
report says which. Exit codes as for every job.
"""

import argparse
import datetime as dt
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.errors import RunError, UsageError
from jobs.config.output_file import check_place
from jobs.config.profile import Config, load, load_policy
from jobs.reporting.gathering import gather
from jobs.reporting.pages import in_bytes, write_page
from jobs.reporting.rendering import Head, render
from jobs.reporting.runs import chosen_runs, published_runs
from jobs.startup.preflight import parse_date
from lensfeed.snapshot import Snapshot, SnapshotError, ledger_events


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("report", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--into", required=True, type=Path, metavar="FILE", help="where the report is written")
    parser.add_argument("--run", metavar="RUN", help="the published run that it is on")
    parser.add_argument("--date", metavar="D", help="the newest night of that date, YYYY-MM-DD")
    parser.add_argument("--start", metavar="D", help="with --end: the newest night of each date of the range")
    parser.add_argument("--end", metavar="D")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    begun = time.monotonic()
    dates = _dates(options)
    check_place(options.into, "--into")
    written = write_report(load(options.profile, options.set), options.into, run_id=options.run, dates=dates)
    sys.stdout.write(f"{options.into} ({in_bytes(written)}, {time.monotonic() - begun:.1f} s)\n")


def _dates(options: argparse.Namespace) -> tuple[dt.date, dt.date] | None:
    if sum((options.run is not None, options.date is not None, (options.start or options.end) is not None)) > 1:
        raise UsageError("expected one of --run, --date, and --start with --end; found several")
    if (options.start is None) != (options.end is None):
        raise UsageError("--start and --end: expected both, found one")
    if options.date is not None:
        return (parse_date(options.date),) * 2
    if options.start is None:
        return None
    first, last = parse_date(options.start, "--start"), parse_date(options.end, "--end")
    if last < first:
        raise UsageError(f"--end {last}: expected a date not before --start {first}")
    return first, last


def write_report(
    config: Config, into: Path, *, run_id: str | None = None, dates: tuple[dt.date, dt.date] | None = None
) -> int:
    """Write the report of that run, of those dates, or of the newest run, whole or not at all; its size in bytes.

    Raises UsageError for a run or dates that are not published, RunError where the warehouse cannot be read.
    """
    policy = load_policy(config.policy)
    try:
        history = published_runs(ledger_events(config.warehouse))
        runs = chosen_runs(history, run_id=run_id, dates=dates)
        snapshot = Snapshot.open(config.warehouse)
        contents = gather(snapshot, runs, policy, config.policy, history)
    except SnapshotError as error:
        raise RunError(str(error)) from None
    head = Head(runs, history, snapshot, policy.version, dt.datetime.now(dt.UTC))
    return write_page(render(head, contents, config.dedup), into)


if __name__ == "__main__":
    sys.exit(main())
