"""Tells why a URL, an image or a row of the feed is, or is not, in the index: its whole story across nights.

    python -m jobs.why --profile conf/local.yaml https://example.org/a.jpg
    python -m jobs.why --profile conf/local.yaml IMAGE_ID|URL_ID|FEED_ID [--json]

A part of a URL (`cat.jpg`) or the first eight or more characters of an id will do where only one has it; where several
have, they are named. That takes a pass over the URLs, or ids, of all sightings.
Manifest rows, robots.txt, hops, scores, rules and their comments, verdicts of people, duplicates, cluster, feed id.
Read without Spark from the newest published run. Exit codes as for every job; 1 also where nothing is known of it.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.errors import RunError, UsageError
from jobs.config.profile import load, load_policy
from jobs.config.texts import plain
from jobs.reporting.stories import tell
from jobs.reporting.telling import told
from lensfeed.snapshot import Snapshot, SnapshotError


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("why", __doc__)
    parser.add_argument(
        "what",
        metavar="URL|IMAGE_ID|FEED_ID",
        help="what the story is about; a part of a URL, or the beginning of an id, will do",
    )
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="as JSON, the rows as they are in the tables")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    try:
        options.what.encode()
    except UnicodeEncodeError:
        raise UsageError(f"URL|IMAGE_ID|FEED_ID: expected text in UTF-8, found {plain(options.what)!r}") from None
    config = load(options.profile, options.set)
    policy = load_policy(config.policy)
    try:
        story = tell(Snapshot.open(config.warehouse), options.what, policy)
    except SnapshotError as error:
        raise RunError(str(error)) from None
    text = json.dumps(story.document(), indent=2) if options.json else told(story)
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
