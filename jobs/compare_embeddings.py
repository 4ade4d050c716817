"""Compares embeddings on labelled images of many domains, and recommends one for given limits.

    python -m jobs.compare_embeddings --labelled DIR|TABLE --into DIR [--candidates conf/compare.yaml]
        [--profile FILE] [--max-latency-ms MS] [--max-dimension N] [--max-gpu-hours H] [--needs-text]

`--labelled` is read as `jobs.evaluation.labelled` says: folders `domain/category`, or a Parquet or Delta table. Every
image is once the query against all others, near-duplicates left out; relevant is what shares its category. Writes
`comparison.md`, `comparison.json` and `comparison.png`. Weights are brought from wherever `jobs.startup.assets` can
bring them; for those on a file system of Hadoop's (`s3a://`), `--profile` names whose Spark session reads it. Exit
codes: 0 done, 1 failed, 2 bad usage or configuration.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from jobs.config.command import JobParser, add_output_arguments, job_parser, run_command
from jobs.config.errors import UsageError
from jobs.config.output_file import check_folder
from jobs.config.profile import load
from jobs.config.progress import Progress
from jobs.evaluation.candidates import CPU, Candidate, Candidates, Measured, embed, load_candidates, shape
from jobs.evaluation.comparison import Comparison, Cost, Limits, Quality, behind_the_best, chart, markdown, recommend
from jobs.evaluation.labelled import LabelledError, read_labelled
from jobs.evaluation.labelled_set import LabelledSet, prepare
from jobs.evaluation.metrics import leave_one_out, retrieval_scores
from jobs.startup.assets import brought
from schemas.settings import DedupSettings, ImageSettings
from udfs.assets import AssetError, locate
from udfs.embedding.vision import EmbedderError

IMAGES = 1_000_000_000
"""For which GPU-hours and storage are reported."""


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("compare_embeddings", __doc__)
    parser.add_argument("--labelled", type=Path, required=True, metavar="DIR|TABLE", help="labelled images")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="where the report is written")
    parser.add_argument("--candidates", default="conf/compare.yaml", metavar="FILE", help="what is compared")
    parser.add_argument("--profile", metavar="FILE", help="whose Spark session reads weights on s3a:// and the like")
    parser.add_argument("--max-latency-ms", type=_positive, metavar="MS", help="of one image on this device")
    parser.add_argument("--max-dimension", type=_positive, metavar="N", help="of a vector")
    parser.add_argument("--max-gpu-hours", type=_positive, metavar="H", help="for 1e9 images")
    parser.add_argument("--needs-text", action="store_true", help="only towers that share a space with a text tower")
    add_output_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return value


def _run(options: argparse.Namespace) -> None:
    check_folder(options.into, "--into")
    candidates = weights_here(load_candidates(options.candidates), options.profile)
    limits = Limits(options.max_latency_ms, options.max_dimension, options.max_gpu_hours, options.needs_text)
    progress = Progress("compare")
    with progress.stage("images"):
        try:
            labelled = prepare(read_labelled(options.labelled), ImageSettings(), DedupSettings())
        except LabelledError as error:
            raise UsageError(f"--labelled: {error}") from None
    labels = [image.labelled.category for image in labelled.images]
    if len(set(labels)) < 2 or len(set(labels)) == len(labels):
        raise UsageError(
            f"--labelled {options.labelled}: expected two categories at least, one of them with two images that are "
            f"no near-duplicates; found {len(set(labels))} categories among {len(labels)} images"
        )
    comparisons = []
    for candidate in candidates:
        with progress.stage(candidate.name):
            comparisons.append(compared(candidate, labelled))
    write(options.into, comparisons, limits, labelled)
    progress.say(recommend(comparisons, limits))
    progress.say(f"written: {options.into / 'comparison.md'}")


def weights_here(candidates: Sequence[Candidate], profile: str | None) -> tuple[Candidate, ...]:
    """The candidates with the weights of all of them on this machine, so that none fails after hours of others.

    Raises UsageError for weights that cannot be brought or are not the pinned ones.
    """
    here = brought(Candidates(candidates=tuple(candidates)), load(profile) if profile else None).candidates
    for candidate in here:
        try:
            if candidate.weights:
                locate(candidate.weights)
        except AssetError as error:
            raise UsageError(f"candidate {candidate.name}: {error}") from None
    return here


def compared(candidate: Candidate, labelled: LabelledSet) -> Comparison:
    """What can be said of one candidate; raises UsageError for weights that are not the model's."""
    try:
        counted = shape(candidate)
        measured = embed(candidate, [one.pixels for one in labelled.images]) if candidate.is_available else None
    except (AssetError, EmbedderError) as error:
        raise UsageError(f"candidate {candidate.name}: {error}") from None
    quality = quality_of(measured, labelled) if measured else None
    return Comparison(candidate, counted, cost_of(candidate, counted.dimension, measured), quality)


def cost_of(candidate: Candidate, dimension: int, measured: Measured | None) -> Cost:
    """GPU-hours from the forward rate measured on a GPU, else from the published one, else unknown."""
    rate, source = None, None
    if measured and measured.device != CPU:
        rate, source = measured.forward_per_second, f"measured, {measured.device}, {measured.dtype}"
    elif candidate.published:
        rate, source = candidate.published.images_per_second, f"published, {candidate.published.hardware}"
    return Cost(
        latency_ms=measured.latency_ms if measured else None,
        images_per_second=measured.images_per_second if measured else None,
        decode_per_second=measured.decode_per_second if measured else None,
        forward_per_second=measured.forward_per_second if measured else None,
        device=measured.device if measured else None,
        dtype=measured.dtype if measured else None,
        gpu_hours=IMAGES / rate / 3600 if rate else None,
        gpu_hours_source=source,
        storage_gb=IMAGES * dimension * 4 / 1e9,
    )


def quality_of(measured: Measured, labelled: LabelledSet) -> Quality:
    """Scores on one index of all domains, over all queries and by domain, and on an index of each domain alone."""
    labels = np.array([image.labelled.category for image in labelled.images])
    domains = np.array([image.labelled.domain for image in labelled.images])
    relevant = leave_one_out(measured.vectors, labels)
    merged, alone, precisions = {}, {}, {}
    for domain in sorted(set(domains)):
        inside = domains == domain
        if relevant[inside].any():
            merged[domain] = retrieval_scores(relevant[inside])
            queries = [retrieval_scores(query[None]) for query in relevant[inside] if query.any()]
            precisions[domain] = np.array([one.mean_average_precision for one in queries])
            # With one category every result is relevant, which says nothing.
            if len(set(labels[inside])) > 1:
                alone[domain] = retrieval_scores(leave_one_out(measured.vectors[inside], labels[inside]))
    return Quality(retrieval_scores(relevant), merged, alone, precisions)


def write(into: Path, comparisons: Sequence[Comparison], limits: Limits, labelled: LabelledSet) -> None:
    """The report as Markdown, JSON and a chart."""
    into.mkdir(parents=True, exist_ok=True)
    counts = {
        "pictures": len(labelled.images),
        "domains": len({image.labelled.domain for image in labelled.images}),
        "categories": len({image.labelled.category for image in labelled.images}),
        "left out, near-duplicates": labelled.near_duplicates,
        "left out, unreadable or too small": labelled.unreadable,
    }
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": 1}
    advice = recommend(comparisons, limits)
    (into / "comparison.md").write_text(markdown(comparisons, counts, machine, advice))
    document = {
        "set": counts,
        "machine": machine,
        "limits": asdict(limits),
        "recommendation": advice,
        "best_above": {name: asdict(gained) for name, gained in behind_the_best(comparisons).items()},
        "candidates": [comparison.document() for comparison in comparisons],
    }
    (into / "comparison.json").write_text(json.dumps(document, indent=2) + "\n")
    chart(comparisons, into / "comparison.png")


if __name__ == "__main__":
    sys.exit(main())
