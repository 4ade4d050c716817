"""Go back to an earlier run: take back what nights have brought since then, and publish what is left as a new run.

    python -m jobs.rollback --profile conf/local.yaml --to RUN [--dry-run]

RUN is a published run, as the table `runs` and the last line of every job name it. Dates that were published since then
for the first time count as unpublished: the next backfill does them again. Dates that were done again, or asked for
again, get the rows that they had. What was decided since then stays as it is: the policy, people's verdicts, takedowns,
models and dedup settings, under which the earlier rows are judged. Images whose pixels have left the disk meanwhile are
asked for again by the next night. Rows that a date had are there for as long as `jobs.maintain` keeps old files, and
until a takedown erases texts; where they are gone, the job says so and changes nothing. Exit codes as for every job.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.profile import load
from jobs.config.progress import log
from jobs.run.lifecycle import Warehouse, held
from jobs.run.names import changed
from jobs.run.pipelines import ROLLBACK, stage_run
from jobs.run.rollback import Rollback, described, find_earlier
from jobs.startup.assets import local_assets
from jobs.startup.preflight import check
from jobs.startup.session import open_session


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("rollback", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--to", required=True, metavar="RUN", help="the published run to go back to")
    parser.add_argument("--dry-run", action="store_true", help="only say what would change")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    config = local_assets(load(options.profile, options.set))
    policy, versions = check(config)
    spark = open_session(config)
    with held(spark, config, policy, versions, job="rollback", what="rollback") as warehouse:
        roll_back(warehouse, options.to, dry_run=options.dry_run)


def roll_back(warehouse: Warehouse, run_id: str, *, dry_run: bool) -> None:
    """Publish the state of an earlier run; `dry_run`: only say what that would change.

    Raises UsageError where the run was not published here, RunError where what the tables held then has left the disk.
    """
    earlier = find_earlier(warehouse.ledger, run_id)
    if not earlier.dates:
        log.info("rollback: nothing was brought since run %s: nothing to do", run_id)
        return
    log.info(
        "rollback to run %s: dates that become unpublished: %s; dates that get back what they had: %s",
        *(run_id, described(earlier.dropped), described(earlier.restored)),
    )
    work = warehouse.work()
    run = Rollback(work, earlier)
    if dry_run:
        stage_run(run, ROLLBACK)
        warehouse.landing.discard(work.run_id)
        log.info("rollback: %s would change", _effect(work.counts))
        return
    event = warehouse.publish(work, lambda: stage_run(run, ROLLBACK), rolled_back_to=run_id)
    if event is not None:
        log.info("rollback published run %s: %s changed", event.run_id, _effect(event.counts or {}))


def _effect(counts: Mapping[str, int]) -> str:
    tables = ("url_state", "clusters", "index_feed", "refetch_queue")
    return ", ".join(f"{counts.get(changed(table), 0)} rows of {table}" for table in tables)


if __name__ == "__main__":
    sys.exit(main())
