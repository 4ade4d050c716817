"""The nightly job: one date from its manifest to a published run.

    python -m jobs.nightly --profile conf/local.yaml --date 2026-01-31 [--force] [--set key.path=value ...] [--dry-run]
        [--accept-breach NAME --why TEXT]
    python -m jobs.nightly --profile conf/local.yaml --date 2026-01-01 [--through 2026-01-31] --retry-failed

and the same file under `spark-submit`. A published date is skipped (and reported as stale where its manifest or the
configuration has changed since) unless `--force` says to do it again. Before its date, a night takes up what earlier
nights are owed (`refetch_queue`), each row under its own date. A night that is not as `run.expectations` has it is not
published, unless `--accept-breach NAME --why TEXT` says so. `--retry-failed` asks again for what failed for now or was
deferred on published dates, and for nothing else. `--dry-run` says what the manifest holds, by file, and what the
pre-gate says of its rows, by outcome and reason; it fetches, holds and writes nothing. Exit codes: 0 done, 1 the run
failed (nothing published), 2 bad usage or configuration (nothing touched).
"""

import argparse
import sys
from collections.abc import Sequence

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.errors import UsageError
from jobs.config.progress import log
from jobs.run.expectations import accepted_by, add_accepting_arguments
from jobs.run.lifecycle import retry_failed, summary
from jobs.run.nights import find_manifest_of, open_job, run_night
from jobs.run.preview import preview
from jobs.startup.preflight import parse_date


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("nightly", __doc__)
    add_config_arguments(parser)
    add_accepting_arguments(parser)
    parser.add_argument("--date", required=True, help="ingest date, YYYY-MM-DD")
    parser.add_argument("--force", action="store_true", help="do a published date again")
    parser.add_argument("--dry-run", action="store_true", help="say what the manifest holds, and fetch nothing")
    parser.add_argument("--retry-failed", action="store_true", help="only what failed for now or was deferred")
    parser.add_argument("--through", metavar="DATE", help="with --retry-failed: all dates from --date to this one")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    date = parse_date(options.date)
    last = parse_date(options.through, "--through") if options.through else date
    if options.through and not options.retry_failed:
        raise UsageError("--through goes with --retry-failed only")
    if options.force and options.retry_failed:
        raise UsageError("--force does a whole date again, --retry-failed a part of it: give one of them")
    if options.accept_breach and options.retry_failed:
        raise UsageError("--accept-breach is for a whole night, --retry-failed does a part of one: give one of them")
    if options.dry_run and options.retry_failed:
        raise UsageError("--dry-run looks at a manifest, --retry-failed at none: give one of them")
    if last < date:
        raise UsageError(f"--through {last} lies before --date {date}")
    opened = open_job(options.profile, options.set, accepted_by(options))
    if options.dry_run:
        sys.stdout.write(f"{preview(opened, date, force=options.force)}\n")
        return
    if options.retry_failed:
        with opened.held("nightly", date.isoformat()) as warehouse:
            published = [retry_failed(warehouse, date, last, opened.config.crawl.deadline_s)]
    else:
        manifest = find_manifest_of(opened, date)
        published = [*run_night(opened, date, manifest, job="nightly", force=options.force)]
    for event in published:
        if event is not None:
            log.info("%s %s", date, summary(event))


if __name__ == "__main__":
    sys.exit(main())
