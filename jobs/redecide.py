"""Re-decide everything that is stored under a policy file: what flips leaves or joins the index in one published run.

    python -m jobs.redecide --profile conf/local.yaml --policy conf/policy.yaml [--dry-run [--html FILE]]

Nothing is fetched. What is newly blocked leaves every derived table and the disk; what is newly allowed, and what lacks
a signal that the policy needs, goes to `refetch_queue`, which the next night drains, each row under its own date.
`--dry-run` prints how many sightings would flip, and why, and leaves the warehouse as it is; `--html` has it write an
HTML file as well, which shows what would change: samples of what leaves and enters, with images, representatives that
are replaced, rows of the feed. Exit codes as for every job.
"""

import argparse
import datetime as dt
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.errors import UsageError
from jobs.config.output_file import check_place
from jobs.config.profile import load
from jobs.config.progress import log
from jobs.reporting.pages import in_bytes, write_page
from jobs.reporting.whatif import render_effects
from jobs.run.context import Work
from jobs.run.effects import gather_effects
from jobs.run.lifecycle import Warehouse, held, summary
from jobs.run.pipelines import REDECISION, stage_run
from jobs.run.redecision import Redecision, tell_flips
from jobs.startup.assets import local_assets
from jobs.startup.preflight import check
from jobs.startup.session import open_session
from jobs.warehouse.ledger import Event


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("redecide", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--policy", metavar="FILE", help="policy file; the profile's where it is not given")
    parser.add_argument("--dry-run", action="store_true", help="only print what would flip")
    parser.add_argument("--html", type=Path, metavar="FILE", help="with --dry-run: where what would change is shown")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    if options.html is not None:
        if not options.dry_run:
            raise UsageError("--html: expected with --dry-run, which it shows the outcome of")
        check_place(options.html, "--html")
    chosen = [f"policy.file={options.policy}"] if options.policy else []
    config = local_assets(load(options.profile, [*options.set, *chosen]))
    policy, versions = check(config)
    spark = open_session(config)
    with held(
        spark, config, policy, versions, job="redecide", what="redecide", may_differ=("policy_version", "gate_version")
    ) as warehouse:
        redecide(warehouse, dry_run=options.dry_run, html=options.html)


def redecide(warehouse: Warehouse, *, dry_run: bool, html: Path | None = None) -> None:
    """Decide every sighting again under the warehouse's policy; `dry_run`: only tell what that would change, in a file
    as well where `html` names one. Raises RunError where nothing was ever published."""
    published = warehouse.last_published("decide")
    work = warehouse.work()
    run = Redecision(work, warehouse.landing.read("sightings"))
    if dry_run:
        try:
            stage_run(run, REDECISION)
            tell_flips(f"would flip under policy {warehouse.versions.policy_version}", work)
            if html is not None:
                _show(warehouse, work, published, html)
        finally:
            warehouse.landing.discard(work.run_id)
        return
    event = warehouse.publish(work, lambda: stage_run(run, REDECISION))
    if event is not None:
        log.info("redecide %s", summary(event))


def _show(warehouse: Warehouse, work: Work, published: Event, into: Path) -> None:
    with work.progress.stage("what would change"):
        effects = gather_effects(work, published)
        written = write_page(render_effects(effects, warehouse.policy, dt.datetime.now(dt.UTC)), into)
    sys.stdout.write(f"{into} ({in_bytes(written)})\n")


if __name__ == "__main__":
    sys.exit(main())
