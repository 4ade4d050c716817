"""The report of a comparison of embeddings: table, chart, and a recommendation in words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.evaluation.candidates import Candidate, Shape
from jobs.evaluation.metrics import RetrievalScores, bootstrap_interval

NOT_AVAILABLE = "weights not available"


@dataclass(frozen=True)
class Limits:
    """What a recommended embedding must keep; null for no limit."""

    max_latency_ms: float | None = None
    max_dimension: float | None = None
    max_gpu_hours: float | None = None
    needs_text: bool = False


@dataclass(frozen=True)
class Cost:
    """What a candidate costs; null where it was not measured and nobody published it."""

    latency_ms: float | None
    """Of one image by itself, decoding included."""
    images_per_second: float | None
    """Of one thread that decodes and waits for the model in turn."""
    decode_per_second: float | None
    """Of one thread that only decodes."""
    forward_per_second: float | None
    """Of the model alone: one by one on a CPU, in batches on a GPU."""
    device: str | None
    """`cpu`, or the GPU's name."""
    dtype: str | None
    gpu_hours: float | None
    """For 1e9 images at the rate of the forward pass alone."""
    gpu_hours_source: str | None
    storage_gb: float
    """Of 1e9 vectors in float32."""


@dataclass(frozen=True)
class Quality:
    """How well a candidate finds images of the query's category."""

    overall: RetrievalScores
    """All queries on one index of all domains."""
    merged: Mapping[str, RetrievalScores]
    """Queries of each domain on that index."""
    alone: Mapping[str, RetrievalScores]
    """Queries of each domain on an index of that domain, where it has two categories at least."""
    precisions: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Average precision of each query (Q,) of a domain on the merged index, in the order of the images."""

    @property
    def macro_map(self) -> float:
        """Mean average precision on the merged index, every domain counting the same however many images it has."""
        return sum(scores.mean_average_precision for scores in self.merged.values()) / len(self.merged)


@dataclass(frozen=True)
class Comparison:
    """All that is known of one candidate."""

    candidate: Candidate
    shape: Shape
    cost: Cost
    quality: Quality | None
    """Null where the weights are not available."""

    def document(self) -> dict[str, Any]:
        """JSON types only."""
        described = self.candidate.model_dump(mode="json", exclude={"weights", "preprocessing"})
        quality: Any = NOT_AVAILABLE
        if self.quality:
            quality = asdict(self.quality) | {"macro_map": self.quality.macro_map}
            del quality["precisions"]
        return described | asdict(self.shape) | asdict(self.cost) | {"quality": quality}


@dataclass(frozen=True)
class Difference:
    """By how much one macro-averaged mAP is above another."""

    mean: float
    low: float
    high: float
    """The 95 % interval."""

    def __str__(self) -> str:
        return f"{self.mean:.3f} higher, 95 % interval {self.low:.3f} to {self.high:.3f}"


def difference(above: Quality, below: Quality) -> Difference:
    """Of two candidates over the same queries; the interval by bootstrap over the queries of each domain."""
    gains = [precisions - below.precisions[domain] for domain, precisions in above.precisions.items()]
    low, high = bootstrap_interval(*gains)
    return Difference(float(np.mean([gained.mean() for gained in gains])), low, high)


def behind_the_best(comparisons: Sequence[Comparison]) -> dict[str, Difference]:
    """By how much the best measured candidate is above each of the others, by their names."""
    named = [(one.candidate.name, one.quality) for one in comparisons if one.quality]
    measured = sorted(named, key=lambda pair: -pair[1].macro_map)
    return {name: difference(measured[0][1], quality) for name, quality in measured[1:]}


def recommend(comparisons: Sequence[Comparison], limits: Limits) -> str:
    """Which measured candidate to take within the limits, and why; says so where none keeps them."""
    measured = [one for one in comparisons if one.quality]
    reasons = {one.candidate.name: broken(one, limits) for one in measured}
    kept = sorted((one for one in measured if not reasons[one.candidate.name]), key=lambda one: -_merit(one))
    refused = "; ".join(f"{name}: {', '.join(why)}" for name, why in reasons.items() if why)
    unmeasured = [one.candidate.name for one in comparisons if not one.quality]
    sentences = [_choice(kept, refused)]
    if kept and refused:
        sentences.append(f"Outside the limits: {refused}.")
    if unmeasured:
        sentences.append(f"Not measured, {NOT_AVAILABLE}: {', '.join(unmeasured)}.")
    return " ".join(sentences)


def _choice(kept: Sequence[Comparison], refused: str) -> str:
    if not kept:
        return f"Take none: no measured candidate keeps the limits ({refused or 'none was measured'})."
    best, *others = kept
    reason = f"its macro-averaged mAP on the merged index, {_merit(best):.3f}, is the highest within the limits"
    if others:
        second = others[0]
        reason += f" (next: {second.candidate.name}, {_merit(second):.3f}"
        if best.quality and second.quality and best.quality.precisions:
            reason += f"; {difference(best.quality, second.quality)}"
        reason += ")"
    cheaper = [one for one in others if (one.cost.latency_ms or 0) < (best.cost.latency_ms or 0)]
    price = f"; {cheaper[0].candidate.name} would be faster" if cheaper else "; none of the others is faster"
    return f"Take {best.candidate.name}: {reason}, at {best.cost.latency_ms:.1f} ms per image{price}."


def broken(comparison: Comparison, limits: Limits) -> list[str]:
    """The limits that a candidate does not keep, or is not known to keep, in words."""
    figures = (
        ("latency", comparison.cost.latency_ms, limits.max_latency_ms, "ms"),
        ("dimension", comparison.shape.dimension, limits.max_dimension, ""),
        ("GPU-hours for 1e9", comparison.cost.gpu_hours, limits.max_gpu_hours, "h"),
    )
    problems = []
    for name, found, most, unit in figures:
        if most is not None and found is None:
            problems.append(f"{name} unknown")
        elif most is not None and found is not None and found > most:
            problems.append(f"{name} {found:,.0f} {unit}".rstrip() + f" above {most:g}")
    if limits.needs_text and not comparison.candidate.text_tower:
        problems.append("no text tower")
    return problems


def markdown(
    comparisons: Sequence[Comparison], counts: Mapping[str, int], machine: Mapping[str, Any], advice: str
) -> str:
    """The report for people."""
    facts = [", ".join(f"{name}: {value}" for name, value in group.items()) for group in (counts, machine)]
    parts = ["# Embeddings compared", ". ".join(facts) + ".", f"**{advice}**", _table(comparisons)]
    parts += ["## By domain: recall@1 / recall@10 / mAP, on an index of the domain alone and on the merged one"]
    parts += [_domain_table([one for one in comparisons if one.quality])]
    return "\n\n".join(parts) + "\n"


def _table(comparisons: Sequence[Comparison]) -> str:
    head = (
        "candidate | recall@1 | recall@10 | mAP | mAP, domains weighted alike | dimension | parameters, M | GMACs | "
        "ms per image | images/s | of decoding alone | of the forward pass alone | GPU-hours for 1e9 | "
        "GB for 1e9, float32 | text tower | licence"
    )
    lines = [head, " | ".join("---" for _ in head.split(" | "))]
    lines += [" | ".join(_row(one)) for one in comparisons]
    return "\n".join(f"| {line} |" for line in lines)


def _row(one: Comparison) -> list[str]:
    quality, cost = one.quality, one.cost
    scores = [NOT_AVAILABLE, "", "", ""]
    if quality:
        overall = quality.overall
        scores = [
            f"{value:.3f}"
            for value in (overall.recall_at_1, overall.recall_at_10, overall.mean_average_precision, quality.macro_map)
        ]
    hours = f"{cost.gpu_hours:,.0f} ({cost.gpu_hours_source})" if cost.gpu_hours else "unknown"
    return [
        one.candidate.name,
        *scores,
        str(one.shape.dimension),
        f"{one.shape.parameters / 1e6:.1f}",
        f"{one.shape.gmacs:.2f}",
        f"{cost.latency_ms:.1f}" if cost.latency_ms else "",
        f"{cost.images_per_second:.0f} ({cost.device})" if cost.images_per_second else "",
        f"{cost.decode_per_second:.0f}" if cost.decode_per_second else "",
        f"{cost.forward_per_second:.0f} ({cost.dtype})" if cost.forward_per_second else "",
        hours,
        f"{cost.storage_gb:,.0f}",
        one.candidate.text_tower or "none",
        one.candidate.licence,
    ]


def _domain_table(measured: Sequence[Comparison]) -> str:
    names = [one.candidate.name for one in measured]
    columns = [f"{name}, {index}" for name in names for index in ("alone", "merged")]
    domains = sorted({domain for one in measured if one.quality for domain in one.quality.merged})
    lines = [" | ".join(["domain", "queries", *columns]), " | ".join("---" for _ in range(len(columns) + 2))]
    for domain in domains:
        cells, queries = [], 0
        for one in measured:
            if one.quality:
                queries = one.quality.merged[domain].queries
                cells += [_cell(one.quality.alone.get(domain)), _cell(one.quality.merged[domain])]
        lines.append(" | ".join([domain, str(queries), *cells]))
    return "\n".join(f"| {line} |" for line in lines)


def _cell(scores: RetrievalScores | None) -> str:
    if scores is None:
        return "one category"
    return f"{scores.recall_at_1:.2f} / {scores.recall_at_10:.2f} / {scores.mean_average_precision:.2f}"


def pareto(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The measured candidates that no other beats in both latency and macro-averaged mAP, fastest first."""
    front: list[Comparison] = []
    measured = [one for one in comparisons if one.quality and one.cost.latency_ms is not None]
    for one in sorted(measured, key=lambda one: (one.cost.latency_ms or 0.0, -_merit(one))):
        if not front or _merit(one) > _merit(front[-1]):
            front.append(one)
    return front


def chart(comparisons: Sequence[Comparison], path: Path) -> None:
    """A PNG: latency against macro-averaged mAP, dimensions in the legend, and the front of what is not beaten."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for one in comparisons:
        if one.quality and one.cost.latency_ms:
            label = f"{one.candidate.name}, {one.shape.dimension} dimensions"
            axes.scatter(one.cost.latency_ms, _merit(one), label=label, zorder=2)
    front = pareto(comparisons)
    axes.step([one.cost.latency_ms or 0.0 for one in front], [_merit(one) for one in front], where="post", alpha=0.5)
    axes.set_xscale("log")
    axes.legend(loc="upper left")
    axes.margins(y=0.4)
    axes.set_xlabel("milliseconds per image on this device, one at a time")
    axes.set_ylabel("mAP on the merged index, domains weighted alike")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _merit(comparison: Comparison) -> float:
    return comparison.quality.macro_map if comparison.quality else 0.0
