"""A reference late-fusion re-ranker: signals of the feed, weighted and added, over what visual search found.

A reference, to be replaced by whoever trains a ranker on clicks. The feed carries signals and no blended score; their
weights are in a versioned file (`conf/rerank.yaml`). Cosines of different models are on different scales: each is
first expressed in deviations above what unrelated pairs have (`Scale`, measured for each model).

    weights = load_weights(Path("conf/rerank.yaml"))
    check_models(weights, snapshot)
    found = ids_that_an_index_returned(vector)
    best = rerank_ids(Query(vector=vector), found, *feed_signals(snapshot, found), weights)
"""

import reprlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError

from lensfeed.feed import Ids, Vectors, feed_vectors, text_vectors, vector_matrix, whole_number
from lensfeed.snapshot import Snapshot
from schemas.settings import Settings

Floats = NDArray[np.float64]


class RerankError(Exception):
    """The weights' file holds something else, or weights for other models. Says what was expected and found."""


class Scale(Settings):
    """Cosines of unrelated pairs of one model."""

    model_config = ConfigDict(allow_inf_nan=False)

    model_version: str
    mean: float
    deviation: float = Field(gt=0)


class Weights(Settings):
    """What each signal counts, and the scales of the cosines."""

    model_config = ConfigDict(allow_inf_nan=False)

    SIGNALS: ClassVar[tuple[str, ...]] = ("visual", "text", "sharpness", "members", "domains")

    depth: int = Field(ge=1)
    """Results of visual search that are re-ranked; those beyond keep their order behind them."""
    visual_scale: Scale
    text_scale: Scale
    visual: float
    """Of the standardised cosine of the visual vectors."""
    text: float
    """Of the standardised cosine of the text vectors; where either side has no text, nothing is added: the mask."""
    sharpness: float
    """Of the image's sharpness, 0 to 1."""
    members: float
    """Of the natural logarithm of the cluster's size."""
    domains: float
    """Of the natural logarithm of the number of distinct domains that show it."""

    @property
    def version(self) -> str:
        """SHA-256 hex of everything above."""
        return self.digest()


@dataclass(frozen=True)
class Query:
    """What is known of a query: one of the two at least. What is null adds nothing to a score."""

    vector: Vectors | None = None
    """(D,) visual unit vector, of an image."""
    text: Vectors | None = None
    """(T,) text unit vector."""

    def __post_init__(self) -> None:
        if self.vector is None and self.text is None:
            raise RerankError("a query: expected a vector, a text or both, found neither")
        for name in ("vector", "text"):
            given = getattr(self, name)
            if given is not None and not np.isfinite(given).all():  # they would sort anyhow
                raise RerankError(f"a query's {name}: expected finite numbers, found others")


@dataclass(frozen=True)
class Signals:
    """What is known of N items."""

    vectors: NDArray[np.float32]
    """(N, D) visual unit vectors."""
    texts: NDArray[np.float32]
    """(N, T) text unit vectors; zeros where has_text is false."""
    has_text: NDArray[np.bool_]
    """(N,)."""
    sharpness: Floats
    """(N,), 0 to 100."""
    members: NDArray[np.int64]
    """(N,), at least 1."""
    domains: NDArray[np.int64]
    """(N,), at least 1."""

    def take(self, rows: Any) -> "Signals":
        """Some of the items, in that order."""
        names = ("vectors", "texts", "has_text", "sharpness", "members", "domains")
        return Signals(*(getattr(self, name)[rows] for name in names))

    def query(self, row: int) -> Query:
        """The item's vectors, to ask with."""
        return Query(self.vectors[row], self.texts[row] if self.has_text[row] else None)


def load_weights(path: Path) -> Weights:
    """What `save_weights` wrote; RerankError where it is missing, is something else or was changed."""
    try:
        read = yaml.safe_load(path.read_text())
        weights = Weights.model_validate(read["weights"])
        expected = read["version"]
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("weights", *first["loc"])))
        # By anchors a file of a page says more than memory holds: what is beyond the first few is left out unseen.
        raise RerankError(f"{path}: {place}: {first['msg']}, found {reprlib.repr(first['input'])}") from error
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # A ValueError: no UTF-8. A LookupError or AttributeError: also a value that is not what its YAML tag says.
        raise RerankError(f"{path}: expected weights of the re-ranker: {type(error).__name__}: {error}") from error
    if weights.version != expected:
        raise RerankError(f"{path}: version expected {expected}, found {weights.version}")
    return weights


def save_weights(weights: Weights, path: Path, comment: str = "") -> None:
    """Write them as YAML under their version; `comment` goes above."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    document = {"version": weights.version, "weights": weights.model_dump()}
    path.write_text(head + yaml.safe_dump(document, sort_keys=False))


def check_models(weights: Weights, snapshot: Snapshot) -> None:
    """RerankError where the scales are not those of the models whose vectors the snapshot's feed holds."""
    models = (
        ("visual_scale", snapshot.model_version, weights.visual_scale),
        ("text_scale", snapshot.text_model_version, weights.text_scale),
    )
    for name, expected, scale in models:
        if scale.model_version != expected:
            raise RerankError(
                f"weights {weights.version}: {name}.model_version expected {expected}, as in run {snapshot.run_id!r}, "
                f"found {scale.model_version}; measure the scale of that model (lensfeed.rerank.measured_scale)"
            )


def feed_signals(snapshot: Snapshot, feed_ids: Ids | None = None) -> tuple[Ids, Signals]:
    """Ids (N,), int64, and signals of the live representatives, in the order of `lensfeed.feed.feed_vectors`; or of
    those asked for, different ones, in that order (-1, with which FAISS fills up, is dropped).

    Memory: N x 4 x (D + T) bytes and little more. Raises SnapshotError where vectors differ in length, RerankError for
    ids that repeat, KeyError for ids that are not in the snapshot: the index is of another run.
    """
    names = ["feed_id", "vector", "text_vector", "has_text", "sharpness", "member_count", "domain_count"]
    if feed_ids is None:
        all_ids, vectors = feed_vectors(snapshot)
        _, has_text, texts = text_vectors(snapshot)
        rows = snapshot.rows("index_feed", names[-3:])
        return all_ids, Signals(vectors, texts, has_text, *(rows[name].to_numpy() for name in names[-3:]))
    wanted = feed_ids[feed_ids != -1]
    rows = snapshot.rows("index_feed", names, pc.field("feed_id").isin(pa.array(wanted))).combine_chunks()
    found = rows["feed_id"].to_numpy()
    if repeated := [number for number, count in Counter(wanted.tolist()).items() if count > 1]:
        raise RerankError(f"feed_ids: expected different ids, found {repeated[:10]} more than once")
    if unknown := sorted(set(wanted.tolist()) - set(found.tolist())):
        raise KeyError(
            f"not in the feed of run {snapshot.run_id!r}: {unknown[:10]} ({len(unknown)} of {len(wanted)} ids)"
        )
    if not len(found):
        empty = np.empty((0, 0), np.float32)
        return found, Signals(empty, empty, *(rows[name].to_numpy() for name in names[-4:]))
    vectors, texts = (vector_matrix(rows[name].combine_chunks(), name) for name in ("vector", "text_vector"))
    signals = Signals(vectors, texts, *(rows[name].to_numpy() for name in names[-4:]))
    order = np.argsort(found)[np.argsort(np.argsort(wanted))]
    return found[order], signals.take(order)


def rerank_ids(query: Query, found: Ids, feed_ids: Ids, items: Signals, weights: Weights) -> Ids:
    """The ids that an index found, best first: re-ordered as `rerank` does, none added and none left out.

    `found` (K,): different ids in the order in which the index gave them, -1 where it found fewer than it was asked for
    (as FAISS does), which is dropped; `feed_ids` (N,) and `items`: of `feed_signals`. Raises KeyError for ids that are
    not among `feed_ids`: the index is of another run.
    """
    found = found[found != -1]
    order = np.argsort(feed_ids)
    at = np.searchsorted(feed_ids, found, sorter=order)
    rows = order[np.minimum(at, len(feed_ids) - 1)] if len(feed_ids) else np.zeros(0, np.intp)
    unknown = found[feed_ids[rows] != found] if len(rows) else found
    if len(unknown):
        raise KeyError(f"not in the feed: {unknown[:10].tolist()} ({len(unknown)} of {len(found)} ids)")
    return found[rerank(query, items.take(rows), weights)]


def rerank(query: Query, items: Signals, weights: Weights) -> NDArray[np.int64]:
    """Rows of `items` (N,) for one query, best first: the `depth` visually nearest by fused score, then the rest.

    Equal scores stay in visual order, and equal cosines in the order of the items, which is all the order there is for
    a query without a vector.
    """
    features = query_features(query, items, weights)
    nearest = np.argsort(-features[:, 0], kind="stable")
    head = nearest[: weights.depth]
    scores = features[head] @ np.array([getattr(weights, name) for name in Weights.SIGNALS])
    return np.concatenate([head[np.argsort(-scores, kind="stable")], nearest[weights.depth :]])


def query_features(query: Query, items: Signals, weights: Weights) -> Floats:
    """The signals (N, 5) of `items` for one query in the order of `Weights.SIGNALS`, before they are weighted."""
    columns = [
        _standardised("vector", query.vector, items.vectors, weights.visual_scale),
        np.where(items.has_text, _standardised("text", query.text, items.texts, weights.text_scale), 0.0),
        items.sharpness / 100,
        np.log(items.members),
        np.log(items.domains),
    ]
    features: Floats = np.stack(columns, axis=1).astype(np.float64)
    return features


def _standardised(name: str, query: Vectors | None, vectors: Vectors, scale: Scale) -> NDArray[np.floating[Any]]:
    if query is None or not len(vectors):  # no vectors have no length
        return np.zeros(len(vectors), np.float32)
    if query.shape != vectors.shape[1:]:
        raise RerankError(
            f"a query's {name}: expected shape {vectors.shape[1:]}, found {query.shape}; its vector comes from "
            "Encoder.image, its text from Encoder.text"
        )
    standardised: NDArray[np.float32] = (vectors @ query - scale.mean) / scale.deviation
    return standardised


def measured_scale(vectors: NDArray[np.float32], model_version: str, seed: int = 0, pairs: int = 100_000) -> Scale:
    """Mean and deviation of the cosine of two different rows, drawn at random, of unit vectors (N > 1, D).

    Raises RerankError for fewer than two vectors, `pairs` < 1 or no whole number, cosines that are all one, and such
    that are no numbers.
    """
    try:
        pairs = whole_number("pairs", pairs)
    except TypeError as error:
        raise RerankError(f"a scale: {error}") from None
    if len(vectors) < 2 or pairs < 1:
        raise RerankError(f"a scale: expected two or more vectors and a pair, found {len(vectors)} and pairs={pairs}")
    generator = np.random.default_rng(seed)
    first = generator.integers(0, len(vectors), pairs)
    other = (first + generator.integers(1, len(vectors), pairs)) % len(vectors)
    cosines = np.einsum("nd,nd->n", vectors[first], vectors[other])
    mean, deviation = float(cosines.mean()), float(cosines.std())
    if not (np.isfinite(mean) and 0 < deviation < np.inf):
        raise RerankError(
            f"a scale: expected cosines that differ, found a mean of {mean} and a deviation of {deviation}"
        )
    return Scale(model_version=model_version, mean=mean, deviation=deviation)
