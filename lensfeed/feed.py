"""What index builders take from a published snapshot: ids and vectors, and the way back from an id to what it shows."""

import datetime as dt
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lensfeed.snapshot import Snapshot, SnapshotError

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]

SCORES_AT_ONCE = 2**22
"""Scores (queries x vectors) that `nearest` holds at a time, so that memory does not grow with the feed: 16 MiB."""


@dataclass(frozen=True)
class SeenAt:
    """A URL that shows an image of the cluster, and the page and title under which it was seen."""

    image_id: str
    url: str
    page_url: str | None
    title: str | None
    hamming: int
    """Distance of the image's 64-bit pHash to the representative's."""


@dataclass(frozen=True)
class FeedEntry:
    """What stands behind a feed_id: the representative of a cluster of near-duplicates, and where they are shown."""

    feed_id: int
    image_id: str
    title: str | None
    first_seen: dt.date
    member_count: int
    """Live images of the cluster, the representative included."""
    urls: tuple[SeenAt, ...]
    """Every URL of every image of the cluster, the representative's own first, then by distance, image_id, url."""
    pixels: bytes | None
    """Canonical JPEG of the representative; null unless asked for."""


_LEAST_LENGTH, _MOST_LENGTH = 1e-15, 1e18
"""Of vectors whose squares float32 holds."""


def feed_vectors(snapshot: Snapshot) -> tuple[Ids, Vectors]:
    """Ids (N,) and visual unit vectors (N, D), float32, of the live representatives.

    Memory: the result and a few batches. D is 0 where the feed is empty. Raises SnapshotError where vectors differ in
    length.
    """
    feed_ids, _, vectors = _vectors(snapshot, "vector")
    return feed_ids, vectors


def text_vectors(snapshot: Snapshot) -> tuple[Ids, NDArray[np.bool_], Vectors]:
    """Ids (N,), has_text (N,) and text vectors (N, D), float32, in the order of `feed_vectors`.

    A vector is unit where has_text is true and zeros elsewhere. Raises SnapshotError where vectors differ in length.
    """
    return _vectors(snapshot, "text_vector")


def _vectors(snapshot: Snapshot, column: str) -> tuple[Ids, NDArray[np.bool_], Vectors]:
    count = snapshot.row_count("index_feed")
    feed_ids = np.empty(count, np.int64)
    has_text = np.empty(count, np.bool_)
    vectors: Vectors = np.empty((count, 0), np.float32)
    start = 0
    for batch in snapshot.batches("index_feed", ["feed_id", "has_text", column]):
        end = start + batch.num_rows
        block = vector_matrix(batch.column(column), column)
        if start == 0:
            vectors = np.empty((count, block.shape[1]), np.float32)
        if block.shape[1] != vectors.shape[1]:
            raise SnapshotError(f"expected one length in {column}, found {vectors.shape[1]} and {block.shape[1]}")
        feed_ids[start:end] = batch.column("feed_id").to_numpy()
        has_text[start:end] = batch.column("has_text").to_numpy(zero_copy_only=False)
        vectors[start:end] = block
        start = end
    return feed_ids, has_text, vectors


def vector_matrix(lists: pa.ListArray, name: str) -> Vectors:
    """The lists (N > 0, all of length D, no nulls) as a matrix (N, D) over the same memory.

    Raises SnapshotError, naming the column `name`, where lengths differ or an element is null.
    """
    lengths = pc.min_max(pc.list_value_length(lists)).as_py()
    if lengths["min"] != lengths["max"]:
        raise SnapshotError(f"expected one length in {name}, found {lengths['min']} and {lengths['max']}")
    values = lists.flatten()
    if values.null_count:
        raise SnapshotError(f"expected numbers in {name}, found {values.null_count} nulls")
    matrix: Vectors = values.to_numpy().reshape(len(lists), lengths["min"])
    return matrix


def lookup(snapshot: Snapshot, feed_ids: Iterable[int], pixels: bool = False) -> list[FeedEntry]:
    """What stands behind each id, in the order asked for; with the representative's pixels where `pixels`.

    Raises KeyError for ids that are not in the snapshot: look them up in the run whose feed the index was built from.
    TypeError for ids that are no whole numbers.
    """
    ids = [whole_number("feed_ids", feed_id) for feed_id in feed_ids]
    columns = ["feed_id", "image_id", "title", "first_seen", "member_count"]
    wanted = pc.field("feed_id").isin(pa.array([n for n in ids if 0 <= n < 2**63], pa.int64()))
    found = {row["feed_id"]: row for row in snapshot.rows("index_feed", columns, wanted).to_pylist()}
    if unknown := [feed_id for feed_id in ids if feed_id not in found]:
        raise KeyError(f"not in the feed of run {snapshot.run_id!r}: {unknown[:10]} ({len(unknown)} of {len(ids)} ids)")
    image_ids = [row["image_id"] for row in found.values()]
    urls = _urls(snapshot, image_ids)
    jpegs = _pixels(snapshot, image_ids) if pixels else {}
    return [
        FeedEntry(**row, urls=tuple(urls.get(row["image_id"], ())), pixels=jpegs.get(row["image_id"]))
        for row in (found[feed_id] for feed_id in ids)
    ]


def whole_number(name: str, given: object) -> int:
    """What was given under that name, of Python or numpy. Raises TypeError for what is none, as 2.0 and True are."""
    try:
        if isinstance(given, bool):  # an int to Python
            raise TypeError
        return operator.index(given)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, found {given!r}") from None


def _urls(snapshot: Snapshot, representatives: Sequence[str]) -> dict[str, list[SeenAt]]:
    columns = ["representative_id", "image_id", "url", "page_url", "title", "hamming"]
    wanted = pc.field("representative_id").isin(pa.array(representatives, pa.string()))
    urls: dict[str, list[SeenAt]] = {}
    rows = snapshot.rows("feed_members", columns, wanted).to_pylist()
    for row in sorted(
        rows, key=lambda r: (r["image_id"] != r["representative_id"], r["hamming"], r["image_id"], r["url"])
    ):
        urls.setdefault(row.pop("representative_id"), []).append(SeenAt(**row))
    return urls


def _pixels(snapshot: Snapshot, image_ids: Sequence[str]) -> dict[str, bytes]:
    wanted = pc.field("image_id").isin(pa.array(image_ids, pa.string()))
    rows = snapshot.rows("images", ["image_id", "pixels"], wanted)
    return dict(zip(rows["image_id"].to_pylist(), rows["pixels"].to_pylist(), strict=True))


_SEARCHED = ("vector", "text_vector")


def search(
    snapshot: Snapshot, query: Vectors, k: int, *, column: Literal["vector", "text_vector"] = "vector"
) -> tuple[Ids, Vectors]:
    """The `k` rows of the feed of highest cosine to each query, exactly: the oracle of any index built from it.

    `query` (D,) or (Q, D): of the model whose vectors `column` holds; of `text_vector`, rows without a text are no
    candidates. Ids and cosines come as from `nearest`. The feed is streamed, so that memory grows with Q and k and not
    with it. Raises ValueError and TypeError as `nearest`, SnapshotError for another `column` and where the feed's
    vectors differ in length.
    """
    if column not in _SEARCHED:
        raise SnapshotError(f"column: expected {' or '.join(map(repr, _SEARCHED))}, found {column!r}")
    best = _Best(query, k, column)
    where = pc.field("has_text") if column == "text_vector" else None
    for batch in snapshot.batches("index_feed", ["feed_id", column], where):
        best.offer(batch.column("feed_id").to_numpy(), vector_matrix(batch.column(column), column))
    return best.found()


def nearest(query: Vectors, feed_ids: Ids, vectors: Vectors, k: int) -> tuple[Ids, Vectors]:
    """The `k` ids of highest cosine to each query, exactly, among vectors in memory.

    `query` (D,) or (Q, D), any length but zero; `feed_ids` (N,); `vectors` (N, D), where a vector of zeros has cosine
    0 to everything. Returns ids and cosines, each (min(k, N),) or (Q, min(k, N)), best first, equal cosines by id.
    Raises ValueError where shapes do not fit, `k` < 1, a query is zero, or a query or a vector holds a number that is
    not finite, TypeError for a `k` that is no whole number.
    """
    best = _Best(query, k)
    best.offer(feed_ids, vectors)
    return best.found()


_MADE_BY = {
    "vector": "a query for vector comes from Encoder.image",
    "text_vector": "a query for text_vector comes from Encoder.text",
    "vectors": "a query comes from Encoder.image for the feed's vector, from Encoder.text for its text_vector",
}
"""What a query of another length was probably confused with, by the column that was asked."""


class _Best:
    """The best `k` ids for each query of all that was offered so far."""

    def __init__(self, query: Vectors, k: int, column: str = "vectors") -> None:
        self._k = whole_number("k", k)
        if self._k < 1:
            raise ValueError(f"k: expected at least 1, found {k}")
        try:
            queries = np.atleast_2d(np.asarray(query, np.float32))
        except (TypeError, ValueError) as error:  # a text, or queries of two lengths
            found = f"{type(query).__name__} {query!r}"[:100]
            raise ValueError(f"query: expected numbers (D,) or (Q, D), found {found}") from error
        if queries.ndim != 2:
            raise ValueError(f"expected query (D,) or (Q, D), found {np.shape(query)}")
        if not np.isfinite(queries).all():
            raise ValueError(f"query: expected finite numbers, found {int((~np.isfinite(queries)).sum())} that are not")
        # In float64, which holds the squares of any float32: else a long query would count as one of zeros.
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
        if not lengths.all():
            raise ValueError(f"query: expected no zero vector, found {int((lengths == 0).sum())}")
        self._single = np.ndim(query) == 1
        self._queries: Vectors = (queries / lengths).astype(np.float32)
        self._column = column
        self._ids: Ids = np.empty((len(queries), 0), np.int64)
        self._cosines: Vectors = np.empty((len(queries), 0), np.float32)

    def offer(self, feed_ids: Ids, vectors: Vectors) -> None:
        queries = self._queries
        if vectors.ndim == 2 and queries.shape[1:] != vectors.shape[1:]:
            raise ValueError(
                f"query has {queries.shape[1]} numbers, {self._column} {vectors.shape[1]}: {_MADE_BY[self._column]}"
            )
        if vectors.ndim != 2 or len(feed_ids) != len(vectors):
            raise ValueError(
                f"expected query (D,) or (Q, D), feed_ids (N,), vectors (N, D), "
                f"found {queries[0].shape if self._single else queries.shape}, {feed_ids.shape}, {vectors.shape}"
            )
        rows = max(1, SCORES_AT_ONCE // max(1, len(queries)))
        for start in range(0, len(vectors), rows):
            block = vectors[start : start + rows]
            block_ids = np.broadcast_to(feed_ids[start : start + rows], (len(queries), len(block)))
            ids = np.concatenate([self._ids, block_ids], axis=1)
            offered = _cosines(queries, block)
            if not np.isfinite(offered).all():
                wrong = feed_ids[start : start + rows][~np.isfinite(offered).all(axis=0)]
                raise ValueError(
                    f"{self._column}: expected finite numbers, found others at the ids {wrong[:10].tolist()}"
                )
            cosines = np.concatenate([self._cosines, offered], axis=1)
            self._ids, self._cosines = _best(ids, cosines, self._k)

    def found(self) -> tuple[Ids, Vectors]:
        return (self._ids[0], self._cosines[0]) if self._single else (self._ids, self._cosines)


def _cosines(queries: Vectors, vectors: Vectors) -> Vectors:
    """Cosines (Q, B) of unit queries (Q, D) to vectors (B, D)."""
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused with its ids
        lengths = np.linalg.norm(vectors, axis=1)
        doubtful = ~((lengths > _LEAST_LENGTH) & (lengths < _MOST_LENGTH))
        if doubtful.any():
            exact = vectors[doubtful].astype(np.float64)
            norms = np.linalg.norm(exact, axis=1, keepdims=True)
            vectors = vectors.copy()
            vectors[doubtful], lengths[doubtful] = exact / np.where(norms == 0, 1, norms), 1
        cosines: Vectors = queries @ vectors.T
        cosines /= lengths
    return cosines


def _best(ids: Ids, cosines: Vectors, k: int) -> tuple[Ids, Vectors]:
    """The k best of each row of (Q, M) candidates, highest cosine first, equal ones by id: (Q, min(k, M))."""
    kept = min(k, ids.shape[1])
    best_ids = np.empty((len(ids), kept), np.int64)
    best_cosines = np.empty((len(ids), kept), np.float32)
    for row, (row_ids, row_cosines) in enumerate(zip(ids, cosines, strict=True)):
        worst_kept = np.partition(row_cosines, len(row_cosines) - kept)[len(row_cosines) - kept]
        candidates = np.flatnonzero(row_cosines >= worst_kept)
        order = candidates[np.lexsort((row_ids[candidates], -row_cosines[candidates]))[:kept]]
        best_ids[row], best_cosines[row] = row_ids[order], row_cosines[order]
    return best_ids, best_cosines
