"""Tells why two images are, or are not, in one cluster of near-duplicates: distances, buckets, edges, representatives.

    python -m jobs.dedup --profile conf/local.yaml --explain IMAGE_ID IMAGE_ID [--set dedup.max_hamming=8]
    python -m jobs.dedup --warehouse W --explain IMAGE_ID IMAGE_ID [--json]

Distances by view, the bands in which the two meet, whether that makes an edge, and who stands behind whom, by the
functions with which the job decides. An image_id may be cut to its first 8 characters or more where no other live image
begins with them. With `--warehouse` the rule is that of the settings as shipped; the answer says so where the warehouse
is under another. With `--json` the same as a JSON object. Read without Spark from the newest published run. Exit codes
as for every job.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from jobs.config.command import JobParser, add_output_arguments, job_parser, run_command
from jobs.config.errors import UsageError
from jobs.config.profile import load
from jobs.reporting.pair_documents import document
from jobs.reporting.pairs import explain
from jobs.reporting.telling_pairs import told
from lensfeed.snapshot import Snapshot, SnapshotError
from schemas.settings import DedupSettings


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("dedup", __doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--profile", metavar="FILE", help="YAML profile: its warehouse, by its dedup settings")
    where.add_argument("--warehouse", metavar="W", help="a warehouse, by the dedup settings as shipped")
    parser.add_argument("--explain", nargs=2, required=True, metavar=("A", "B"), help="image_ids, or their beginnings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one of the profile's")
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_output_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    if options.profile is None and options.set:
        raise UsageError("--set overrides what a profile says: name one with --profile")
    warehouse, settings = options.warehouse, DedupSettings()
    if options.profile is not None:
        config = load(options.profile, options.set)
        warehouse, settings = config.warehouse, config.dedup
    first, second = options.explain
    try:
        explanation = explain(Snapshot.open(warehouse), first, second, settings)
    except SnapshotError as error:
        raise UsageError(str(error)) from None
    text = json.dumps(document(explanation), indent=2) if options.json else told(explanation)
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
