"""Another embedding model for what is stored: its vectors beside the old ones, then the feed in one published run.

    python -m jobs.reembed --profile conf/local.yaml [--model NAME] [--batch 1000000] [--no-switch] [--most-failed 0.01]
        [--accept-breach NAME --why TEXT]

`NAME` is the model of the profile's `embedding` (the default) or `embedding_beside`. Every stored image without a
vector of that model gets one, and every accepted text one of the profile's text model, in parts that are published one
by one: a job that is stopped goes on where it was, and nights may come in between. When none is missing the feed is
switched to these models, and to the alignment that the profile names for them, in one run. While both visual models are
configured, nights embed with both. After a switch, name the model under `embedding` in the profile: nights under the
other are refused. What one model has no vector for, the other is asked about at the switch: it is owed a fetch, for its
pixels were not kept. Before a switch to another visual model a sample's nearest neighbours under both are compared; an
expectation on `vectors.neighbour_overlap` (`run.expectations`) stops one that turns the feed upside down. Exit codes as
for every job.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.errors import UsageError
from jobs.config.profile import Config, load
from jobs.run.expectations import accepted_by, add_accepting_arguments, check_names
from jobs.run.lifecycle import SWITCHED, held
from jobs.run.models import Plan, reembed
from jobs.startup.assets import local_assets
from jobs.startup.preflight import check
from jobs.startup.session import open_session


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("reembed", __doc__)
    add_config_arguments(parser)
    add_accepting_arguments(parser)
    parser.add_argument("--model", metavar="NAME", help="the model of embedding (the default) or embedding_beside")
    parser.add_argument(
        "--batch", type=int, default=1_000_000, metavar="N", help="images, or texts, embedded by one run (1000000)"
    )
    parser.add_argument("--no-switch", action="store_true", help="only fill; leave the feed with its model")
    parser.add_argument(
        "--most-failed",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of the images that may have no vector of the model for the feed to be switched (0.01)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    if options.batch < 1:
        raise UsageError(f"--batch {options.batch}: expected one image or more")
    if not 0 <= options.most_failed <= 1:
        raise UsageError(f"--most-failed {options.most_failed}: expected a share between 0 and 1")
    config = towards(local_assets(load(options.profile, options.set)), options.model)
    accepted = accepted_by(options)
    check_names(accepted, config.run.expectations)
    policy, versions = check(config)
    hold = partial(
        held, open_session(config), config, policy, versions, job="reembed", what="reembed", may_differ=tuple(SWITCHED)
    )
    reembed(hold, Plan(options.batch, not options.no_switch, options.most_failed, accepted))


def towards(config: Config, model: str | None) -> Config:
    """The configuration with that model as `embedding`, the other beside it. UsageError where neither is that model, or
    both are."""
    beside = config.embedding_beside
    if model is None:
        return config
    if beside is not None and beside.model == config.embedding.model == model:
        raise UsageError(
            f"--model {model}: embedding and embedding_beside both are; name the wanted one under embedding, and leave "
            "--model out"
        )
    if config.embedding.model == model:
        return config
    if beside is None or beside.model != model:
        known = [config.embedding.model] + ([beside.model] if beside else [])
        raise UsageError(
            f"--model {model}: neither embedding nor embedding_beside is that; they are {', '.join(known)}"
        )
    return config.model_copy(update={"embedding": beside, "embedding_beside": config.embedding})


if __name__ == "__main__":
    sys.exit(main())
