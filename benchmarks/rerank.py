"""Tunes the reference re-ranker on one half of a labelled set; measures it on the other: nDCG@10 against visual only.

    python -m benchmarks.rerank --labelled DIR [--weights conf/rerank.yaml] [--json FILE]

Gain 2 for a result of the query's category, 1 for one of its domain, 0 otherwise. Near-duplicates are left out.
Captions lose every word that names a domain or category of the set, for they would give the answer away. Each half is
an index of its own, and every picture in it once the query. Tuned twice: all signals, and text alone (sharpness and
cluster size count nothing), so that what text brings is not what the others bring. The latter is written to
`--weights`, for the others have brought nothing that could be told from chance. Needs `make setup`.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import environment, publish
from jobs.config.profile import Config, load
from jobs.evaluation.labelled import read_labelled
from jobs.evaluation.labelled_set import LabelledSet, prepare
from jobs.evaluation.metrics import bootstrap_interval, ndcg
from lensfeed.rerank import Signals, Weights, measured_scale, query_features, rerank, save_weights
from udfs.cleaning import clean_text
from udfs.embedding.embed import load_embedder, model_version
from udfs.embedding.text import load_text_embedder, text_model_version
from udfs.images.canonical import canonical_version

CUTOFF = 10
DEPTH = 100
TEXT = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
SHARPNESS = (-1.0, -0.5, 0.0, 0.5, 1.0)
MEMBERS = (-0.5, 0.0, 0.5)
NOT_USED = (0.0,)
ENDINGS = ("ies", "es", "s")
COMMENT = """\
Weights of the reference re-ranker (lensfeed/rerank.py), tuned by benchmarks/rerank.py on one half of the
labelled set. The scales belong to these two models: measure them anew for others
(lensfeed.rerank.measured_scale). Whoever has clicks should train these instead.
`version` is the digest of the rest: load_weights refuses a file that was changed without it."""

Floats = NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="benchmarks.rerank", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--labelled", type=Path, required=True)
    parser.add_argument("--profile", default="conf/local.yaml", help="whose models the weights are for")
    parser.add_argument("--weights", type=Path, help="where the tuned weights are written")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args(arguments)
    config = load(options.profile)
    pictures = prepare(read_labelled(options.labelled), config.images, config.dedup)
    signals, versions = signals_of(pictures, config)
    names = [picture.labelled.name for picture in pictures.images]
    tuning = np.array([hashlib.sha256(name.encode()).digest()[0] % 2 == 0 for name in names])
    gains = gains_of(pictures)
    half = signals.take(tuning), gains[np.ix_(tuning, tuning)]
    weights = tuned(*half, versions)
    text_alone = tuned(*half, versions, sharpness=NOT_USED, members=NOT_USED)
    domains = np.array([picture.labelled.domain for picture in pictures.images])
    halves = {"tuned on": tuning, "reported on": ~tuning}

    def against_visual_only(chosen: Weights) -> dict[str, Any]:
        visual_only = chosen.model_copy(update=dict.fromkeys(("text", "sharpness", "members", "domains"), 0.0))
        found: dict[str, Any] = {"weights": chosen.model_dump(), "weights_version": chosen.version}
        for name, inside in halves.items():
            part, gain = signals.take(inside), gains[np.ix_(inside, inside)]
            found[name] = compared(scores(part, gain, visual_only), scores(part, gain, chosen), domains[inside])
        return found

    report = {"environment": environment(), "pictures": len(names), **against_visual_only(weights)}
    report["text alone"] = against_visual_only(text_alone)
    if options.weights:
        save_weights(text_alone, options.weights, COMMENT)
    publish(report, options.json)
    return 0


def signals_of(pictures: LabelledSet, config: Config) -> tuple[Signals, tuple[str, str]]:
    """Signals of every picture with the profile's models, and the versions of both models."""
    stop = label_stems(pictures)
    captions = [stripped(picture.labelled.caption, stop) for picture in pictures.images]
    tower, embedder = load_text_embedder(config.text), load_embedder(config.embedding)
    embedded = [one.vector for one in tower.embed(captions)]
    texts = [np.zeros(tower.dimension, np.float32) if vector is None else vector for vector in embedded]
    seen = [one.vector for one in embedder.embed([embedder.decode(picture.pixels) for picture in pictures.images])]
    vectors = [np.zeros(embedder.description.dimension, np.float32) if vector is None else vector for vector in seen]
    signals = Signals(
        vectors=np.stack(vectors),
        texts=np.stack(texts),
        has_text=np.array([vector is not None for vector in embedded]),
        sharpness=np.array([picture.sharpness for picture in pictures.images]),
        members=np.array([picture.copies for picture in pictures.images]),
        domains=np.ones(len(captions), np.int64),
    )
    canonical = canonical_version(config.images)
    return signals, (model_version(config.embedding, canonical), text_model_version(config.text))


def label_stems(pictures: LabelledSet) -> frozenset[str]:
    """Stems of all words in the names of domains and categories."""
    words = (word for picture in pictures.images for word in words_of(picture.labelled.category))
    return frozenset(map(stem, words))


def stripped(caption: str | None, stop: Iterable[str]) -> str:
    """The caption without words whose stem is in `stop`."""
    kept = [word for word in words_of(clean_text(caption, None, None, None)) if stem(word) not in stop]
    return " ".join(kept)


def words_of(text: str) -> list[str]:
    """Words in lower case; whatever is no letter separates."""
    return re.findall(r"[^\W\d_]+", text.lower())


def stem(word: str) -> str:
    """The word without a plural's ending."""
    ending = next((ending for ending in ENDINGS if word.endswith(ending) and len(word) > len(ending) + 2), "")
    return word[: len(word) - len(ending)].rstrip("y") if ending or word.endswith("y") else word


def gains_of(pictures: LabelledSet) -> Floats:
    """(N, N): what each picture is worth as a result for each."""
    categories = np.array([picture.labelled.category for picture in pictures.images])
    domains = np.array([picture.labelled.domain for picture in pictures.images])
    gains = (categories[:, None] == categories).astype(np.float64) + (domains[:, None] == domains)
    np.fill_diagonal(gains, 0)
    return gains


def tuned(
    signals: Signals,
    gains: Floats,
    versions: tuple[str, str],
    sharpness: Sequence[float] = SHARPNESS,
    members: Sequence[float] = MEMBERS,
) -> Weights:
    """The weights of a grid with the highest mean nDCG; of equals, the first. Nothing varies in domains here: 0."""
    weights = Weights(
        depth=DEPTH,
        visual_scale=measured_scale(signals.vectors, versions[0]),
        text_scale=measured_scale(signals.texts[signals.has_text], versions[1]),
        visual=1.0,
        text=0.0,
        sharpness=0.0,
        members=0.0,
        domains=0.0,
    )
    features = [query_features(signals.query(n), signals, weights) for n in range(len(gains))]

    def merit(*chosen: float) -> float:
        counted = np.array([1.0, *chosen, 0.0])
        return float(np.mean(query_scores(gains, [feature @ counted for feature in features])))

    best = max(product(TEXT, sharpness, members), key=lambda chosen: merit(*chosen))
    return weights.model_copy(update=dict(zip(("text", "sharpness", "members"), best, strict=True)))


def query_scores(gains: Floats, scored: Sequence[Floats]) -> Floats:
    """nDCG of each query, its own picture taken out."""
    ranked = np.stack(
        [gain[order[order != n]] for n, (gain, order) in enumerate(zip(gains, map(_descending, scored), strict=True))]
    )
    return ndcg(ranked, gains, CUTOFF)


def _descending(values: Floats) -> NDArray[np.int64]:
    return np.argsort(-values, kind="stable")


def scores(signals: Signals, gains: Floats, weights: Weights) -> Floats:
    """nDCG of every picture as the query, ranked by `lensfeed.rerank.rerank`."""
    orders = [rerank(signals.query(n), signals, weights) for n in range(len(gains))]
    ranked = np.stack([gains[n][order[order != n]] for n, order in enumerate(orders)])
    return ndcg(ranked, gains, CUTOFF)


def compared(before: Floats, after: Floats, domains: NDArray[np.str_]) -> dict[str, Any]:
    """Means, their difference with its 95 % bootstrap interval over queries, and the difference in each domain."""
    difference = after - before
    low, high = bootstrap_interval(difference)
    return {
        "queries": len(before),
        "ndcg@10 visual only": float(before.mean()),
        "ndcg@10 re-ranked": float(after.mean()),
        "difference": float(difference.mean()),
        "interval 95 %": [low, high],
        "difference by domain": {name: float(difference[domains == name].mean()) for name in sorted(set(domains))},
    }


if __name__ == "__main__":
    sys.exit(main())
