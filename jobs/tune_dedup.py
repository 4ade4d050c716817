"""Which `dedup.bands` and `dedup.rows`: recall and costs by arithmetic, for a size and a night; nothing is changed.

    python -m jobs.tune_dedup --images 1000000000 --night 10000000 [--max-hamming 6] [--target-recall 0.99]
    python -m jobs.tune_dedup --images 1000000000 --night 10000000 --warehouse W

Prints, for each number of rows a band, the fewest bands that find the target share of the pairs at the largest
distance, what share of unrelated pairs they have compared, how much of the index a night reads, and the index's bytes
an image; then the choice of least work a night. `--warehouse` takes a sample of that warehouse's own hashes: how many
an image has in the index, and how often unrelated ones really meet. Other settings than a warehouse's are switched to
by jobs.rededup. Exit codes as for every job.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jobs.config.command import JobParser, add_output_arguments, job_parser, run_command
from jobs.config.errors import UsageError
from jobs.evaluation.tuning import Choice, Need, choices, observed_rate, recommended
from jobs.reporting.pairs import stored_hashes
from lensfeed.snapshot import Snapshot, SnapshotError
from schemas.settings import DedupSettings

SAMPLE = 20_000
"""Hashes of a warehouse that are looked at, at most: 200 million pairs."""
_MOST = 10**15
"""Far beyond what there is, and what arithmetic has numbers for."""


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    shipped = DedupSettings()
    parser = job_parser("tune_dedup", __doc__)
    parser.add_argument("--images", type=int, required=True, metavar="N", help="in the warehouse")
    parser.add_argument("--night", type=int, required=True, metavar="N", help="new images a night")
    parser.add_argument("--max-hamming", type=int, default=shipped.max_hamming, metavar="BITS")
    parser.add_argument("--target-recall", type=float, default=shipped.target_recall, metavar="SHARE")
    parser.add_argument("--hashes", type=float, metavar="N", help="in the index an image; a warehouse's own, else 1")
    parser.add_argument("--most-bytes", type=int, default=4096, metavar="B", help="of the index, an image")
    parser.add_argument("--warehouse", metavar="W", help="take a sample of its hashes")
    add_output_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    for name in ("images", "night"):
        if not 1 <= getattr(options, name) <= _MOST:
            raise UsageError(f"--{name} {getattr(options, name)}: expected 1 to {_MOST:g}")
    if options.most_bytes < 1:
        raise UsageError(f"--most-bytes {options.most_bytes}: expected 1 or more")
    if not 0 <= options.max_hamming <= 32:
        raise UsageError(f"--max-hamming {options.max_hamming}: expected 0 to 32 bits")
    if not 0 < options.target_recall < 1:
        raise UsageError(f"--target-recall {options.target_recall}: expected a share between 0 and 1")
    sample, counted = _sample(options.warehouse) if options.warehouse is not None else (None, None)
    hashes = options.hashes if options.hashes is not None else counted or 1.0
    if not 1 <= hashes <= _MOST:
        raise UsageError(f"--hashes {hashes}: expected 1 to {_MOST:g}: the whole image's is always there")
    need = Need(options.max_hamming, options.target_recall, options.images, options.night, hashes, options.most_bytes)
    found = choices(need)
    _tell(need, found, sample)


def _tell(need: Need, found: Sequence[Choice], sample: NDArray[np.int64] | None) -> None:
    say = sys.stdout.write
    distances = list(found[0].recalls)
    say(f"{need.images} images of {need.hashes:.2f} hashes each, {need.night} a night; ")
    say(f"recall {need.target_recall:g} at distance {need.max_hamming}\n\n")
    say("rows  bands  " + "".join(f"recall@{distance:<4}" for distance in distances))
    say("unrelated meet  pairs a night  index read  bytes an image\n")
    for one in found:
        say(f"{one.rows:>4}{one.bands:>7}  " + "".join(f"{one.recalls[distance]:<11.4f}" for distance in distances))
        say(f"{one.candidate_rate:<16.2g}{one.night_pairs:<15.3g}{one.moved:<12.1%}{one.bytes_per_image:.0f}\n")
    best = recommended(list(found), need)
    if best is None:
        say(f"\nno choice has an index within {need.most_bytes} bytes an image: allow more, or a smaller distance\n")
        return
    say(f"\ndedup.bands={best.bands} dedup.rows={best.rows}: least work a night ")
    say(f"within {need.most_bytes} bytes an image; {best.full_pairs:.3g} pairs for all images at once\n")
    if sample is not None:
        settings = best.settings(DedupSettings(max_hamming=need.max_hamming))
        seen = observed_rate(sample, settings)
        say(f"of the warehouse's own unrelated hashes ({len(sample)} looked at) a share of {seen:.2g} meet, ")
        say(f"{seen / best.candidate_rate:.1f} times what chance says\n")


def _sample(warehouse: str) -> tuple[NDArray[np.int64], float]:
    """64-bit hashes of whole images, at most `SAMPLE`, and how many hashes an image has in the index.

    Whatever files come first: image_ids are digests, so that these are anybody's.
    """
    wholes: list[int] = []
    hashes = images = 0
    try:
        for batch in Snapshot.open(warehouse).batches("image_hashes", ["hashes", "flat"]):
            for row in batch.to_pylist():
                if not row["flat"]:
                    images, hashes = images + 1, hashes + len(row["hashes"])
                    wholes += [one.phash64 for one in stored_hashes(row["hashes"]) if one.is_whole]
            if len(wholes) >= SAMPLE:
                break
    except SnapshotError as error:
        raise UsageError(f"--warehouse {warehouse}: {error}") from None
    if not images:
        raise UsageError(f"--warehouse {warehouse}: no image there has a hash that could be looked at")
    return np.array(wholes[:SAMPLE], np.int64), hashes / images


if __name__ == "__main__":
    sys.exit(main())
