"""What turns the feed of one published run into that of a later one: the net upserts and deletes.

A row of `index_feed` says which run changed it last, and since which its id is there without a break; for an id that
left, `feed_tombstones` says from when to when it was there. So the later run's tables alone tell what happened since
the earlier one, whatever old files, change data or commits are gone by then. What happened in between does not show;
only a row that was changed there and back is told as one that changed. `changes_to` needs no run to begin with: it
holds ids and row digests that a consumer has against a snapshot.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lensfeed.dead_rows import places_among
from lensfeed.snapshot import Snapshot, SnapshotError, SnapshotGoneError, arrow_schema
from schemas.tables import ADDED_SEQ, CHANGED_SEQ, FEED_TOMBSTONES, GONE_SEQ, INDEX_FEED

Ids = NDArray[np.int64]


class ChangesGoneError(SnapshotGoneError):
    """What happened since that run is not known any more: take a new snapshot, or `changes_to` it."""


@dataclass(frozen=True)
class Changes:
    """Net changes of `index_feed`; ids are int64, ascending, and no id is in two of the three."""

    snapshot: Snapshot
    """Where they lead to."""
    since: Snapshot | None
    """Where they lead from; null where that is what a consumer holds. Vectors of two `model_version`s do not mix: where
    it differs, every row is an update, and an index is to be built anew."""
    inserted: Ids
    updated: Ids
    """There before, and written since; mostly with other contents."""
    deleted: Ids
    _read: Callable[[Sequence[str]], Iterator[pa.RecordBatch]] = field(repr=False, compare=False)

    @property
    def upserted(self) -> Ids:
        """`inserted` and `updated`, ascending."""
        return np.sort(np.concatenate([self.inserted, self.updated]))

    def __len__(self) -> int:
        return len(self.inserted) + len(self.updated) + len(self.deleted)

    def upserts(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The feed's rows of `upserted`, each once, in no particular order, a batch of at most 16,384 at a time.

        `columns`: as in `Snapshot.rows`; null for all. Raises SnapshotError for columns that are not the feed's, at
        once; SnapshotGoneError where the snapshot's files were removed meanwhile.
        """
        return self._read(arrow_schema(INDEX_FEED, columns).names)


def changes(snapshot: Snapshot | str | PathLike[str], since_run: str) -> Changes:
    """What happened to the feed from the published run `since_run` to the run of `snapshot` (of a warehouse: the newest
    published one).

    Reads of the feed's files those that hold a row that changed, and three numbers of each row; some 50 bytes of memory
    for one that changed. Vectors only in `Changes.upserts`. Raises SnapshotError for a run that is unknown or not
    published, or that was published after the snapshot's; ChangesGoneError for one that was published by a release
    which did not record this.
    """
    if not isinstance(since_run, str):  # None would be the newest run, since which nothing has changed
        raise SnapshotError(f"since_run: expected the id of a published run, found {since_run!r}")
    if not isinstance(snapshot, Snapshot):
        snapshot = Snapshot.open(snapshot)
    since = Snapshot.open(snapshot.warehouse, since_run, snapshot.storage_options)
    if since.seq > snapshot.seq:
        raise SnapshotError(
            f"changes lead forwards only: run {since_run!r} (published as number {since.seq}) comes after run "
            f"{snapshot.run_id!r} (number {snapshot.seq}); exchange the two"
        )
    if FEED_TOMBSTONES.name not in since.table_versions:
        raise ChangesGoneError(
            f"what changed in index_feed since run {since_run!r} is not known: it was published by an earlier release, "
            "which did not record that. Take a new snapshot and build from it, or have what you hold compared with it "
            "(lensfeed.changes_to); from there on changes are told"
        )
    portion = snapshot.portion_above(INDEX_FEED.name, CHANGED_SEQ, since.seq)
    is_newer = pc.field(CHANGED_SEQ) > since.seq
    written, from_when = _ids(snapshot.batches(INDEX_FEED.name, ["feed_id", ADDED_SEQ], is_newer, portion))
    is_newly_gone = pc.field(GONE_SEQ) > since.seq
    went, had_come = _ids(snapshot.batches(FEED_TOMBSTONES.name, ["feed_id", ADDED_SEQ], is_newly_gone))
    # Of the times for which an id was there and that are over now, one at most holds the run.
    left = went[had_come <= since.seq]
    was_there = (from_when <= since.seq) | np.isin(written, left)

    def read(names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return snapshot.batches(INDEX_FEED.name, names, is_newer, portion)

    return Changes(
        snapshot,
        since,
        np.sort(written[~was_there]),
        np.sort(written[was_there]),
        np.setdiff1d(left, written),
        read,
    )


def _ids(batches: Iterator[pa.RecordBatch]) -> tuple[Ids, Ids]:
    """Of rows of `feed_id` and `added_seq` the two, the latter 0 where it is null: before such was recorded."""
    parts = [(batch.column(0).to_numpy(), pc.fill_null(batch.column(1), 0).to_numpy()) for batch in batches]
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    ids, seqs = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ids, seqs


def changes_to(snapshot: Snapshot, feed_ids: Ids, row_digests: Sequence[str] | NDArray[Any]) -> Changes:
    """What turns rows that a consumer holds, by their `feed_id` (N,) and `row_digest` (N,), into the snapshot's feed.

    Needs no change data, so it works whatever was removed since; the price is one pass over ids and digests of the
    whole feed, and for `Changes.upserts` one over its files. Memory: some 200 bytes a row of either. Raises
    SnapshotError for ids that repeat, are no whole numbers, or are not as many as the digests.
    """
    given = np.asarray(feed_ids)
    if given.size and given.dtype.kind not in "iu":  # as floats, which pandas makes of them, large ids are others
        raise SnapshotError(f"feed_ids: expected whole numbers, found {given.dtype}")
    held = given.astype(np.int64)
    try:
        held_digests = np.asarray(row_digests).astype("S")
    except UnicodeEncodeError as error:
        raise SnapshotError(f"row_digests: expected hex digits, found {error.object[:100]!r}") from None
    if held.ndim != 1 or held.shape != held_digests.shape or len(np.unique(held)) < len(held):
        raise SnapshotError(
            f"expected different feed_ids (N,) and row_digests (N,), found {held.shape} with {len(np.unique(held))} "
            f"different ones, and {held_digests.shape}"
        )
    order = np.argsort(held)
    held, held_digests = held[order], held_digests[order]
    live, live_digests = _digests(snapshot)
    common, in_held, in_live = np.intersect1d(held, live, assume_unique=True, return_indices=True)
    updated = common[held_digests[in_held] != live_digests[in_live]]
    inserted = np.setdiff1d(live, held, assume_unique=True)
    wanted = np.sort(np.concatenate([inserted, updated]))

    def read(names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for batch in snapshot.batches(INDEX_FEED.name, [*names, *({"feed_id"} - {*names})]):
            kept = places_among(wanted, batch.column("feed_id").to_numpy()) >= 0
            if kept.any():
                yield batch.filter(pa.array(kept)).select(list(names))

    return Changes(snapshot, None, inserted, updated, np.setdiff1d(held, live, assume_unique=True), read)


def _digests(snapshot: Snapshot) -> tuple[Ids, NDArray[np.bytes_]]:
    parts = [
        (batch.column("feed_id").to_numpy(), _bytes(batch.column("row_digest")))
        for batch in snapshot.batches(INDEX_FEED.name, ["feed_id", "row_digest"])
    ]
    if not parts:
        return np.empty(0, np.int64), np.empty(0, "S1")
    ids, digests = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(ids)
    return ids[order], digests[order]


def _bytes(column: pa.Array) -> NDArray[np.bytes_]:
    digests: NDArray[np.bytes_] = column.to_numpy(zero_copy_only=False).astype("S")
    return digests
