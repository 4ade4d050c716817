"""Take images down, for good: by URL, domain, content or perceptual hash, in one published run.

    python -m jobs.takedown --profile conf/local.yaml --url https://example.net/a.jpg --reference CASE-1 [--dry-run]
    python -m jobs.takedown --profile conf/local.yaml --file requests.csv --reference CASE-2
    python -m jobs.takedown --profile conf/local.yaml --image SHA256 --reference CASE-3 --lift

A URL or a domain withdraws what is seen there, redirects to it included; an image that is also seen elsewhere stays.
An image (SHA-256 of its bytes) or a hash blocks the content wherever it is seen, and erases what was said of it. Either
way it leaves every derived table and the disk, and no later night, backfill, re-decision or refetch brings it back.
`--near` also takes down what looks like the image. Options may be repeated; a file has a column `kind` (url, domain,
image, phash256, pdq) and a column `subject`. `--lift` takes requests back: what is allowed again is fetched by the next
night, what was erased is read by a forced date. Exit codes as for every job.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.errors import UsageError
from jobs.config.profile import load
from jobs.run.lifecycle import held
from jobs.run.review_file import check_cells, check_header
from jobs.run.takedowns import near_copies, take_down
from jobs.startup.assets import local_assets
from jobs.startup.preflight import check
from jobs.startup.session import open_session
from udfs.gate.takedowns import KINDS, MOST_DISTANCE, PERCEPTUAL, Takedown, TakedownError, named

NEAR = 31
"""Differing bits of 256 up to which two images are the same: the threshold of PDQ's authors."""


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("takedown", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--url", action="append", default=[], help="what is seen at this URL")
    parser.add_argument("--domain", action="append", default=[], help="what is seen at this host, or below it")
    parser.add_argument("--image", action="append", default=[], metavar="SHA256", help="the content of these bytes")
    parser.add_argument("--hash", action="append", default=[], metavar="KIND:HEX", help="phash256:... or pdq:...")
    parser.add_argument("--file", type=Path, help="CSV with the columns kind and subject")
    parser.add_argument(
        "--near",
        type=int,
        nargs="?",
        const=NEAR,
        metavar="BITS",
        help=f"with --image: also what is within so many bits of its hash ({NEAR}); with --hash: other than {NEAR}",
    )
    parser.add_argument("--reference", required=True, help="who asks, or the case: stays beside the request")
    parser.add_argument("--lift", action="store_true", help="take the requests back")
    parser.add_argument("--dry-run", action="store_true", help="only print what would flip")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    if not options.reference.strip():
        raise UsageError("--reference: expected who asks, or the case, found nothing")
    requests = list(_requests(options))
    if not requests:
        raise UsageError("nothing to take down: expected --url, --domain, --image, --hash or --file")
    if options.near is not None and not any(one.kind in {"image", *PERCEPTUAL} for one in requests):
        raise UsageError("--near: expected an image or a hash to be near to, found only URLs and domains")
    config = local_assets(load(options.profile, options.set))
    policy, versions = check(config)
    spark = open_session(config)
    with held(spark, config, policy, versions, job="takedown", what="takedown") as warehouse:
        if options.near is not None:
            images = [one.subject for one in requests if one.kind == "image"]
            requests += [near_copies(warehouse, image, options.near) for image in images]
        take_down(
            warehouse,
            list(dict.fromkeys(requests)),
            reference=options.reference,
            lift=options.lift,
            dry_run=options.dry_run,
        )


def _requests(options: argparse.Namespace) -> Iterator[Takedown]:
    distance = NEAR if options.near is None else options.near
    if not 0 <= distance <= MOST_DISTANCE:
        raise UsageError(f"--near {distance}: expected 0 to {MOST_DISTANCE} bits")
    for kind in ("url", "domain", "image"):
        for subject in getattr(options, kind):
            yield _named(f"--{kind}", kind, subject, distance)
    for text in options.hash:
        kind, _, subject = text.partition(":")
        if kind not in PERCEPTUAL:
            raise UsageError(f"--hash {text}: expected {' or '.join(f'{one}:HEX' for one in PERCEPTUAL)}")
        yield _named("--hash", kind, subject, distance)
    for where, kind, subject in _rows(options.file) if options.file else ():
        yield _named(where, kind, subject, distance)


def _named(where: str, kind: str, subject: str, distance: int) -> Takedown:
    try:
        return named(kind, subject, distance if kind in PERCEPTUAL else None)
    except TakedownError as error:
        raise UsageError(f"{where}: {error}") from None


def _rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Where a request stands, its kind and its subject."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            names, cells = check_header(path, reader)
            if missing := {"kind", "subject"} - set(names):
                raise UsageError(f"{path}: expected the columns kind and subject, found none of {sorted(missing)}")
            for number, row in enumerate(reader, start=1):
                # A comma in a URL that is not in quotes: what is before it is another URL.
                check_cells(path, number, row, cells)
                kind = (row["kind"] or "").strip()
                if kind not in KINDS:
                    raise UsageError(f"{path}, row {number}: kind: expected one of {', '.join(KINDS)}, found {kind!r}")
                yield f"{path}, row {number}", kind, row["subject"] or ""
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as CSV ({error})") from None


if __name__ == "__main__":
    sys.exit(main())
