"""The nightly job: one date from its manifest to a published run.

    python -m jobs.nightly --profile conf/local.yaml --date 2026-01-31 [--force] [--set key.path=value ...]
    python -m jobs.nightly --profile conf/local.yaml --date 2026-01-01 [--through 2026-01-31] --retry-failed

and the same file under `spark-submit`. A published date is skipped (and reported as stale where its manifest or the
configuration has changed since) unless `--force` says to do it again. Before its date, a night takes up what earlier
nights are owed (`refetch_queue`), each row under its own date. `--retry-failed` asks again for what failed for now or
was deferred on published dates, and for nothing else. Exit codes: 0 done, 1 the run failed (nothing published), 2 bad
usage or configuration (nothing touched).
"""

import argparse
import sys
import time
from collections.abc import Sequence

from jobs.assets import local_assets
from jobs.command import add_config_arguments, run_command
from jobs.config import load
from jobs.errors import UsageError
from jobs.execution import drain_queue, held, retry_failed, run_date, summary
from jobs.preflight import check, parse_date
from jobs.progress import log
from jobs.session import open_session
from jobs.stages.manifest import find_manifest


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="jobs.nightly", description="Ingest one date, from manifest to published run."
    )
    add_config_arguments(parser)
    parser.add_argument("--date", required=True, help="ingest date, YYYY-MM-DD")
    parser.add_argument("--force", action="store_true", help="do a published date again")
    parser.add_argument("--retry-failed", action="store_true", help="only what failed for now or was deferred")
    parser.add_argument("--through", metavar="DATE", help="with --retry-failed: all dates from --date to this one")
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    date = parse_date(options.date)
    last = parse_date(options.through) if options.through else date
    if options.through and not options.retry_failed:
        raise UsageError("--through goes with --retry-failed only")
    if options.force and options.retry_failed:
        raise UsageError("--force does a whole date again, --retry-failed a part of it: give one of them")
    if last < date:
        raise UsageError(f"--through {last} lies before --date {date}")
    config = local_assets(load(options.profile, options.set))
    policy, versions = check(config)
    spark = open_session(config)
    manifest = None if options.retry_failed else find_manifest(spark, config.manifest, date)
    deadline = time.time() + config.crawl.deadline_s if config.crawl.deadline_s else None
    with held(spark, config, policy, versions, job="nightly", what=date.isoformat()) as warehouse:
        if manifest is None:
            published = [retry_failed(warehouse, date, last, deadline)]
        else:
            published = [
                drain_queue(warehouse, deadline),
                run_date(warehouse, date, manifest, force=options.force, deadline_at=deadline),
            ]
    for event in published:
        if event is not None:
            log.info("%s %s", date, summary(event))


if __name__ == "__main__":
    sys.exit(main())
