"""Tells what became of each row of a date: its outcome, why, the manifest's file and row, the URL, the image.

    python -m jobs.outcomes --profile conf/local.yaml --date 2026-01-31
    python -m jobs.outcomes --profile P --date D [--through D] [--outcome failed] [--reason CODE] [--host H] [--json]

A line a row on stdout, in the order of the manifest, its columns apart by tabs; rows are counted from 0, and of an
image's id there are the first characters, which `why` takes. With `--json` a JSON object a line, with the whole id and
the failure's detail. The last line, on stderr, counts them. Read without Spark from the newest published run. Exit
codes as for every job; 1 also where a date is not published.
"""

import argparse
import datetime as dt
import sys
from collections.abc import Sequence

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.errors import RunError, UsageError
from jobs.config.profile import load
from jobs.config.progress import log
from jobs.reporting.outcomes import Chosen, as_json, as_line, counted, with_date, write_outcomes
from jobs.reporting.runs import dates_known, newest_nights, published_runs
from jobs.startup.preflight import parse_date
from lensfeed.snapshot import Snapshot, SnapshotError, ledger_events
from schemas.outcomes import Outcome


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("outcomes", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--date", required=True, metavar="D", help="the date, YYYY-MM-DD")
    parser.add_argument("--through", metavar="D", help="all dates from --date to this one, each line with its date")
    parser.add_argument(
        "--outcome", action="append", choices=[*map(str, Outcome)], help="only this outcome, or one of several"
    )
    parser.add_argument("--reason", metavar="CODE", help="only this failure code, or this reason of the policy")
    parser.add_argument("--host", metavar="H", help="only URLs of this host")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    first = parse_date(options.date)
    last = parse_date(options.through, "--through") if options.through else first
    if last < first:
        raise UsageError(f"--through {last} lies before --date {first}")
    dates = [first + dt.timedelta(days=number) for number in range((last - first).days + 1)]
    warehouse = load(options.profile, options.set).warehouse
    told = as_json if options.json else as_line if first == last else with_date
    try:
        snapshot = Snapshot.open(warehouse)
        _check_published(snapshot, dates)
        chosen = Chosen(options.outcome or (), options.reason, options.host)
        counts = write_outcomes(snapshot, dates, chosen, told)
    except SnapshotError as error:
        raise RunError(str(error)) from None
    log.info("%s", counted(dates, counts))


def _check_published(snapshot: Snapshot, dates: Sequence[dt.date]) -> None:
    """Raises RunError where one of the dates was not published by then, or was taken back."""
    events = [event for event in ledger_events(snapshot.warehouse) if event["seq"] <= snapshot.seq]
    published = newest_nights(published_runs(events))
    if missing := [date for date in dates if date not in published]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise RunError(
            f"{missing[0]}{more}: not published in the warehouse {snapshot.warehouse} as of run {snapshot.run_id}; "
            f"{dates_known(published)}"
        )


if __name__ == "__main__":
    sys.exit(main())
