"""The nightly job: one date from its manifest to a published run.

    python -m jobs.nightly --profile conf/local.yaml --date 2026-01-31 [--force] [--set key.path=value ...]

and the same file under `spark-submit`. A published date is skipped (and reported as stale where its manifest or the
configuration has changed since) unless `--force` says to do it again.
Exit codes: 0 done, 1 the run failed (nothing published), 2 bad usage or configuration (nothing touched).
"""

import argparse
import sys
from collections.abc import Sequence

from jobs.command import run_command
from jobs.config import load
from jobs.execution import run_date, summary
from jobs.preflight import check, parse_date
from jobs.progress import log
from jobs.session import open_session
from jobs.stages.manifest import find_manifest


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="jobs.nightly", description="Ingest one date, from manifest to published run."
    )
    parser.add_argument("--profile", required=True, help="YAML profile, for example conf/local.yaml")
    parser.add_argument("--date", required=True, help="ingest date, YYYY-MM-DD")
    parser.add_argument("--force", action="store_true", help="do a published date again")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    date = parse_date(options.date)
    config = load(options.profile, options.set)
    policy, versions = check(config)
    spark = open_session(config)
    manifest = find_manifest(spark, config.manifest, date)
    published = run_date(spark, config, policy, versions, date, manifest, job="nightly", force=options.force)
    if published is not None:
        log.info("%s %s", date, summary(published))


if __name__ == "__main__":
    sys.exit(main())
