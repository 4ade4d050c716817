"""What index builders take from a published snapshot: ids and vectors, and the way back from an id to what it shows."""

import datetime as dt
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lensfeed.snapshot import Snapshot, SnapshotError

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


def feed_vectors(snapshot: Snapshot) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Ids (N,) and visual unit vectors (N, D), float32, of the live representatives.

    Memory: the result and a few batches. D is 0 where the feed is empty. Raises SnapshotError where vectors differ in
    length.
    """
    feed_ids, _, vectors = _vectors(snapshot, "vector")
    return feed_ids, vectors


def text_vectors(snapshot: Snapshot) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float32]]:
    """Ids (N,), has_text (N,) and text vectors (N, D), float32, in the order of `feed_vectors`.

    A vector is unit where has_text is true and zeros elsewhere. Raises SnapshotError where vectors differ in length.
    """
    return _vectors(snapshot, "text_vector")


def _vectors(snapshot: Snapshot, column: str) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float32]]:
    count = snapshot.row_count("index_feed")
    feed_ids = np.empty(count, np.int64)
    has_text = np.empty(count, np.bool_)
    vectors: NDArray[np.float32] = np.empty((count, 0), np.float32)
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


def vector_matrix(lists: pa.ListArray, name: str) -> NDArray[np.float32]:
    """The lists (N > 0, all of length D, no nulls) as a matrix (N, D) over the same memory.

    Raises SnapshotError, naming the column `name`, where lengths differ or an element is null.
    """
    lengths = pc.min_max(pc.list_value_length(lists)).as_py()
    if lengths["min"] != lengths["max"]:
        raise SnapshotError(f"expected one length in {name}, found {lengths['min']} and {lengths['max']}")
    values = lists.flatten()
    if values.null_count:
        raise SnapshotError(f"expected numbers in {name}, found {values.null_count} nulls")
    matrix: NDArray[np.float32] = values.to_numpy().reshape(len(lists), lengths["min"])
    return matrix


def lookup(snapshot: Snapshot, feed_ids: Iterable[int], pixels: bool = False) -> list[FeedEntry]:
    """What stands behind each id, in the order asked for; with the representative's pixels where `pixels`.

    Raises KeyError for ids that are not in the snapshot: look them up in the run whose feed the index was built from.
    TypeError for ids that are no whole numbers.
    """
    ids = [operator.index(feed_id) for feed_id in feed_ids]
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


def nearest(
    query: NDArray[np.float32], feed_ids: NDArray[np.int64], vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The `k` ids of highest cosine to each query, exactly: what an approximate index is measured against.

    `query` (D,) or (Q, D), any length but zero; `feed_ids` (N,); `vectors` (N, D), where a vector of zeros has cosine
    0 to everything. Returns ids and cosines, each (min(k, N),) or (Q, min(k, N)), best first, equal cosines by id.
    Raises ValueError where shapes do not fit, `k` < 1, or a query is zero or holds a number that is not finite.
    """
    queries = np.atleast_2d(np.asarray(query, np.float32))
    if vectors.ndim != 2 or queries.shape[1:] != vectors.shape[1:] or len(feed_ids) != len(vectors):
        raise ValueError(
            f"expected query (D,) or (Q, D), feed_ids (N,), vectors (N, D), "
            f"found {query.shape}, {feed_ids.shape}, {vectors.shape}"
        )
    if k < 1:
        raise ValueError(f"k: expected at least 1, found {k}")
    if not np.isfinite(queries).all():
        raise ValueError(f"query: expected finite numbers, found {int((~np.isfinite(queries)).sum())} that are not")
    lengths: NDArray[np.float32] = np.linalg.norm(queries, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(f"query: expected no zero vector, found {int((lengths == 0).sum())}")
    queries = queries / lengths
    ids = np.empty((len(queries), 0), np.int64)
    cosines = np.empty((len(queries), 0), np.float32)
    rows = max(1, SCORES_AT_ONCE // len(queries))
    for start in range(0, len(vectors), rows):
        block = vectors[start : start + rows]
        block_ids = np.broadcast_to(feed_ids[start : start + rows], (len(queries), len(block)))
        ids = np.concatenate([ids, block_ids], axis=1)
        cosines = np.concatenate([cosines, _cosines(queries, block)], axis=1)
        ids, cosines = _best(ids, cosines, k)
    return (ids[0], cosines[0]) if np.ndim(query) == 1 else (ids, cosines)


def _cosines(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines (Q, B) of unit queries (Q, D) to vectors (B, D)."""
    lengths = np.linalg.norm(vectors, axis=1)
    lengths[lengths == 0] = 1
    cosines: NDArray[np.float32] = queries @ vectors.T
    cosines /= lengths
    return cosines


def _best(
    ids: NDArray[np.int64], cosines: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
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
