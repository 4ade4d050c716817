"""Re-decide everything that is stored under a policy file: what flips leaves or joins the index in one published run.

    python -m jobs.redecide --profile conf/local.yaml --policy conf/policy.yaml [--dry-run]

Nothing is fetched. What is newly blocked leaves every derived table and the disk; what is newly allowed, and what lacks
a signal that the policy needs, goes to `refetch_queue`, which the next night drains, each row under its own date.
`--dry-run` prints how many sightings would flip, and why, and leaves the warehouse as it is. Exit codes as for every
job.
"""

import argparse
import sys
from collections.abc import Sequence

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.profile import load
from jobs.config.progress import log
from jobs.run.lifecycle import Warehouse, held, summary
from jobs.run.pipelines import REDECISION, stage_run
from jobs.run.redecision import Redecision, tell_flips
from jobs.startup.assets import local_assets
from jobs.startup.preflight import check
from jobs.startup.session import open_session


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("redecide", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--policy", metavar="FILE", help="policy file; the profile's where it is not given")
    parser.add_argument("--dry-run", action="store_true", help="only print what would flip")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    chosen = [f"policy.file={options.policy}"] if options.policy else []
    config = local_assets(load(options.profile, [*options.set, *chosen]))
    policy, versions = check(config)
    spark = open_session(config)
    with held(
        spark, config, policy, versions, job="redecide", what="redecide", may_differ=("policy_version", "gate_version")
    ) as warehouse:
        redecide(warehouse, dry_run=options.dry_run)


def redecide(warehouse: Warehouse, *, dry_run: bool) -> None:
    """Decide every sighting again under the warehouse's policy. Raises RunError where nothing was ever published."""
    warehouse.last_published("decide")
    work = warehouse.work()
    run = Redecision(work, warehouse.landing.read("sightings"))
    if dry_run:
        stage_run(run, REDECISION)
        tell_flips(f"would flip under policy {warehouse.versions.policy_version}", work)
        warehouse.landing.discard(work.run_id)
        return
    event = warehouse.publish(work, lambda: stage_run(run, REDECISION))
    if event is not None:
        log.info("redecide %s", summary(event))


if __name__ == "__main__":
    sys.exit(main())
