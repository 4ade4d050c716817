"""Another rule of what near-duplicates are: all live images grouped afresh, in one published run.

    python -m jobs.rededup --profile conf/local.yaml [--set dedup.max_hamming=6 ...]

Hashes, bands, clusters and feed rows are worked out from the stored images as if they had always been under the
profile's `dedup` settings; only what differs is written, so that consumers of change data see no more than that. Nights
under other settings than the warehouse's are refused: change them in the profile, run this job, go on. The same after
an upgrade to a release that looks at other views of an image: they are hashed of the stored pixels. Exit codes as for
every job.
"""

import argparse
import sys
from collections.abc import Sequence

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.profile import load
from jobs.config.progress import log
from jobs.run.lifecycle import Warehouse, held
from jobs.run.names import changed
from jobs.run.pipelines import RULE_SWITCH, stage_run
from jobs.run.switch import RuleSwitch
from jobs.startup.assets import local_assets
from jobs.startup.preflight import check
from jobs.startup.session import open_session


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("rededup", __doc__)
    add_config_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    config = local_assets(load(options.profile, options.set))
    policy, versions = check(config)
    spark = open_session(config)
    with held(
        spark, config, policy, versions, job="rededup", what="rededup", may_differ=("rule_version",)
    ) as warehouse:
        rededup(warehouse)


def rededup(warehouse: Warehouse) -> None:
    """Switch the warehouse to the rule of its configuration.

    Raises RunError where nothing was ever published.
    """
    published = warehouse.last_published("group")
    if published.rule_version == warehouse.versions.rule_version:
        log.info("rededup: the warehouse is under this rule already (%s)", published.rule_version)
        return
    work = warehouse.work()
    switch = RuleSwitch(work)
    event = warehouse.publish(work, lambda: stage_run(switch, RULE_SWITCH))
    if event is not None:
        counts = event.counts or {}
        log.info(
            "rededup published run %s: rule %s -> %s, %d feed rows changed",
            *(event.run_id, published.rule_version, event.rule_version, counts.get(changed("index_feed"), 0)),
        )


if __name__ == "__main__":
    sys.exit(main())
