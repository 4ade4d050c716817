"""Keep a warehouse quick: put small files together, and delete what no reader of the last days needs.

    python -m jobs.maintain --profile conf/local.yaml [--retention-hours 168] [--collect] [--dry-run]

Every night adds files, and leaves the old ones of what it changed. This puts the small ones of each table together,
which changes no row, publishes the new versions, and then deletes files that only versions older than
`--retention-hours` hold: readers that opened a snapshot within that time go on, and so do those that have pinned theirs
(`lensfeed.pinned`). `--retention-hours 0` keeps the newest version alone, where nothing is pinned. The warehouse is let
go in between, so that a night that waits for it need not wait long. What a block or a takedown took out does not wait
for this: it leaves the disk at once.

`--collect` first takes out what nothing that is live needs: pixels and vectors of contents that no URL shows any more,
vectors of models that are not in use. What was found out about them stays, and so do the sightings. Such a content that
is shown again brings its pixels with it; one that only comes back as a date is forced or taken back is owed a fetch
first, and a switch back to an earlier model has to embed again. Exit codes as for every job.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.errors import UsageError
from jobs.config.profile import load
from jobs.config.progress import log
from jobs.config.texts import plain
from jobs.run.lifecycle import held
from jobs.run.upkeep import UpkeepPlan, find_garbage, maintain, standing_pins, survey
from jobs.startup.assets import local_assets
from jobs.startup.preflight import check
from jobs.startup.session import open_session

MOST_SMALL = 7
"""Two or three nights' files of a partition: with fewer, the next nights' would be put together with them anyway."""


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("maintain", __doc__)
    add_config_arguments(parser)
    parser.add_argument(
        "--retention-hours",
        type=float,
        default=168,
        metavar="H",
        help="how long a reader may go on with a snapshot that is not the newest any more (168, a week)",
    )
    parser.add_argument(
        "--most-small",
        type=int,
        default=MOST_SMALL,
        metavar="N",
        help=f"small files that a partition may keep ({MOST_SMALL})",
    )
    parser.add_argument(
        "--collect", action="store_true", help="take out pixels and vectors that nothing which is live needs"
    )
    parser.add_argument("--dry-run", action="store_true", help="only print each table's files, and what is to collect")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    if not 0 <= options.retention_hours < float("inf"):
        raise UsageError(f"--retention-hours {options.retention_hours:g}: expected a number of hours, 0 or more")
    if options.most_small < 1:
        raise UsageError(f"--most-small {options.most_small}: expected 1 or more")
    config = local_assets(load(options.profile, options.set))
    policy, versions = check(config)
    hold = partial(held, open_session(config), config, policy, versions, job="maintain", what="maintain")
    plan = UpkeepPlan(options.retention_hours, options.most_small, options.collect)
    if not options.dry_run:
        log.info("maintain: %s", maintain(hold, plan))
        return
    with hold() as warehouse:
        sys.stdout.write(f"{'table':<16}{'files':>8}{'MB':>12}{'to put together':>18}\n")
        for one in survey(warehouse, plan):
            sys.stdout.write(f"{one.name:<16}{one.files:>8}{one.bytes / 1e6:>12.1f}{one.crowded:>18}\n")
        if plan.collect:
            garbage = find_garbage(warehouse.work())
            sys.stdout.write(
                f"to collect: {garbage.unshown.count()} contents that no URL shows, {garbage.other_vectors.count()} "
                f"vectors of images and {garbage.other_texts.count()} of texts by models that are not in use\n"
            )
        for pin in standing_pins(warehouse.landing.storage):
            sys.stdout.write(
                f"pinned until {pin.until:%Y-%m-%d %H:%M} UTC by {plain(pin.by)}: run {plain(pin.run_id)}\n"
            )


if __name__ == "__main__":
    sys.exit(main())
