"""The review band, for people: what the policy leaves to them goes out as a file, and their verdicts come back.

    python -m jobs.review export --profile conf/local.yaml --into review.csv
    python -m jobs.review import --profile conf/local.yaml review.csv

The file (CSV or Parquet) has one row per subject (a content or a sighting), with the reasons why it is held back and a
URL to fetch it by; no pixels. People fill in `verdict` (allow, block, or withdraw for an earlier verdict that no longer
holds), `reviewer` and `comment`; rows without a verdict are passed over. An allow clears the review reasons in its row,
those that the reviewer saw: other reasons and blocks that come later still hold. Import publishes what flips, and
queues what has to be fetched for it, as jobs.redecide does. Titles and addresses are strangers' texts: in a CSV file
what a spreadsheet would take for a formula has an apostrophe before it, which import takes off again. Exit codes as for
every job.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.output_file import check_place, written_whole
from jobs.config.profile import load
from jobs.config.progress import log
from jobs.run.lifecycle import held
from jobs.run.review import take_verdicts, under_review
from jobs.run.review_file import read_verdicts, writer
from jobs.startup.assets import local_assets
from jobs.startup.preflight import check
from jobs.startup.session import open_session


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("review", __doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    export = actions.add_parser("export", help="write what is under review to a file")
    export.add_argument("--into", required=True, type=Path, metavar="FILE", help="a .csv or .parquet file")
    take = actions.add_parser("import", help="take the verdicts of a file, and publish what follows")
    take.add_argument("file", type=Path, help="a .csv or .parquet file with verdicts filled in")
    for action in (export, take):
        add_config_arguments(action)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _export(options) if options.action == "export" else _import(options), options)


def _export(options: argparse.Namespace) -> None:
    write = writer(options.into)
    check_place(options.into, "--into")
    config = local_assets(load(options.profile, options.set))
    policy, versions = check(config)
    table = under_review(config, policy, versions).toArrow()
    with written_whole(options.into) as draft:
        write(table, draft)
    log.info("review: %d subjects written to %s", table.num_rows, options.into)


def _import(options: argparse.Namespace) -> None:
    verdicts = read_verdicts(options.file)
    config = local_assets(load(options.profile, options.set))
    policy, versions = check(config)
    if not verdicts:
        log.info("review: no row of %s holds a verdict: nothing to do", options.file)
        return
    spark = open_session(config)
    with held(spark, config, policy, versions, job="review", what="review") as warehouse:
        take_verdicts(warehouse, verdicts)


if __name__ == "__main__":
    sys.exit(main())
