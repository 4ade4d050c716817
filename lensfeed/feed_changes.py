"""What turns the feed of one published run into that of a later one: the net upserts and deletes.

`changes` reads the commits of `index_feed` between the versions that the two runs published, and in them only the rows
that changed: change data where Delta wrote some, else the rows that came and went, with their file or out of one that
stays. What happened in between does not show: a row that was changed there and back, or that compaction only moved, is
no change. What went does not stay on disk for ever: after contents were taken out for good it is gone at once
(ChangesGoneError). `changes_to` needs none of it: it holds ids and row digests that a consumer has against a snapshot.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError
from numpy.typing import NDArray
from pyarrow import fs

from lensfeed.dead_rows import ALL, Positions, live_positions, places_among
from lensfeed.snapshot import (
    Snapshot,
    SnapshotError,
    SnapshotGoneError,
    arrow_schema,
    checked_batch,
    open_delta,
    scanned_file,
)
from schemas.tables import INDEX_FEED

Ids = NDArray[np.int64]

_CHANGE_TYPE = "_change_type"
_BEFORE, _AFTER = 0, 1
_SIDES = {"delete": _BEFORE, "update_preimage": _BEFORE, "insert": _AFTER, "update_postimage": _AFTER}
"""Which state of its row a row of change data is: https://github.com/delta-io/delta/blob/master/PROTOCOL.md"""


class ChangesGoneError(SnapshotGoneError):
    """What happened since that run can no longer be read: take a new snapshot, or `changes_to` it."""


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
    """There before, with other contents now."""
    deleted: Ids
    _read: Callable[[tuple[str, ...]], Iterator[pa.RecordBatch]] = field(repr=False, compare=False)

    @property
    def upserted(self) -> Ids:
        """`inserted` and `updated`, ascending."""
        return np.sort(np.concatenate([self.inserted, self.updated]))

    def __len__(self) -> int:
        return len(self.inserted) + len(self.updated) + len(self.deleted)

    def upserts(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The feed's rows of `upserted`, each once, in no particular order, a batch of at most 16,384 at a time.

        `columns`: as in `Snapshot.rows`; null for all. Raises SnapshotError for columns that are not the feed's, at
        once; ChangesGoneError or SnapshotGoneError where the files were removed meanwhile.
        """
        schema = arrow_schema(INDEX_FEED, columns)
        batches = self._read(tuple(schema.names))
        return (checked_batch(INDEX_FEED.name, batch, schema) for batch in batches)


class _File(NamedTuple):
    """A Parquet file of a commit."""

    version: int
    path: str
    side: int | None
    """What all of its rows are; null for change data, whose rows say so themselves."""
    positions: Positions = ALL
    """Which of its rows the commit is about."""


def changes(snapshot: Snapshot | str | PathLike[str], since_run: str) -> Changes:
    """What happened to the feed from the published run `since_run` to the run of `snapshot` (of a warehouse: the newest
    published one).

    Reads ids and digests of what changed, some 100 bytes of memory a row; vectors only in `Changes.upserts`. Raises
    SnapshotError for a run that is unknown or not published, or that was published after the snapshot's;
    ChangesGoneError where the changes were removed since.
    """
    if not isinstance(since_run, str):  # None would be the newest run, since which nothing has changed
        raise SnapshotError(f"since_run: expected the id of a published run, found {since_run!r}")
    if not isinstance(snapshot, Snapshot):
        snapshot = Snapshot.open(snapshot)
    since = Snapshot.open(snapshot.warehouse, since_run, snapshot.storage_options)
    first, last = (one.table_versions[INDEX_FEED.name] for one in (since, snapshot))
    if since.seq > snapshot.seq or first > last:
        raise SnapshotError(
            f"changes lead forwards only: run {since_run!r} (published as number {since.seq}, index_feed at version "
            f"{first}) comes after run {snapshot.run_id!r} (number {snapshot.seq}, version {last}); exchange the two"
        )
    place = snapshot.filesystem(INDEX_FEED.name)
    with _gone(since, snapshot):
        files = [file for version in range(first + 1, last + 1) for file in _commit(snapshot, place, version)]
        ids, steps, digests = _events(place, files)
    firsts, lasts = _ends(ids)
    was, now = steps[firsts] % 2 == _BEFORE, steps[lasts] % 2 == _AFTER
    # What is there on both sides and the same is no change: it moved, or went there and back.
    updated = was & now & (digests[firsts] != digests[lasts])
    upserted = updated | (~was & now)
    distinct = ids[firsts]
    wanted, versions = distinct[upserted], (steps[lasts] // 2)[upserted]

    def read(names: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
        with _gone(since, snapshot):
            yield from _rows(place, files, wanted, versions, names)

    return Changes(snapshot, since, distinct[~was & now], distinct[updated], distinct[was & ~now], read)


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

    def read(names: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
        for batch in snapshot.batches(INDEX_FEED.name, [*names, *({"feed_id"} - {*names})]):
            kept = places_among(wanted, batch.column("feed_id").to_numpy()) >= 0
            if kept.any():
                yield batch.filter(pa.array(kept))

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


@contextmanager
def _gone(since: Snapshot, snapshot: Snapshot) -> Iterator[None]:
    """Say in words what to do where a commit or a file of it is no longer there."""
    try:
        yield
    except (FileNotFoundError, DeltaError) as error:
        raise ChangesGoneError(
            f"what changed in index_feed between the runs {since.run_id!r} and {snapshot.run_id!r} is no longer on "
            "disk: contents were taken out for good since, or maintenance removed it. Take a new snapshot and build "
            f"from it, or have what you hold compared with it (lensfeed.changes_to): {error}"
        ) from error


def _commit(snapshot: Snapshot, place: fs.FileSystem, version: int) -> Iterator[_File]:
    """The files in which a commit's changes are: its change data, or else what it adds and removes."""
    with place.open_input_stream(f"_delta_log/{version:020}.json") as log:
        actions = [json.loads(line) for line in log.read().splitlines() if line.strip()]
    if data := [action["cdc"] for action in actions if "cdc" in action]:
        yield from (_File(version, unquote(file["path"]), None) for file in data)
        return
    removed, added = (
        {action[kind]["path"]: action[kind] for action in actions if kind in action and action[kind]["dataChange"]}
        for kind in ("remove", "add")
    )
    before, after = (_live(snapshot, at, files) for at, files in ((version - 1, removed), (version, added)))
    for path in sorted(before.keys() | after.keys()):
        sides = {_BEFORE: before.get(path), _AFTER: after.get(path)}
        for side, live in sides.items():
            if live is None:
                continue
            other = sides[1 - side]  # of a file that is in both only what differs: other rows of it are dead, or back
            yield _File(version, unquote(path), side, live if other is None else live.less(other))


def _live(snapshot: Snapshot, version: int, files: Mapping[str, Any]) -> dict[str, Positions]:
    """Where the live rows of each of these files are at a version of the feed."""
    if not any(file.get("deletionVector") for file in files.values()):
        return dict.fromkeys(files, ALL)
    delta = open_delta(f"{snapshot.warehouse}/{INDEX_FEED.name}", version, snapshot.storage_options)
    return dict.fromkeys(files, ALL) | live_positions(delta, files)


def _events(place: fs.FileSystem, files: Sequence[_File]) -> tuple[Ids, Ids, NDArray[np.bytes_]]:
    """Every state of a row that the files tell of, by id and in the order of time: `feed_id`, step, `row_digest`.

    A step is twice the version, and one more for what a row is after it.
    """
    parts = []
    for file in files:
        for batch in _scan(place, file, ("feed_id", "row_digest")):
            digests = _bytes(batch.column("row_digest"))
            parts.append((batch.column("feed_id").to_numpy(), 2 * file.version + _sides(file, batch), digests))
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, "S1")
    ids, steps, digests = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((steps, ids))
    return ids[order], steps[order], digests[order]


def _ends(ids: Ids) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where each id's first and last entry is among ids in order."""
    starts = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1))
    return starts, np.append(starts[1:], len(ids))[: len(starts)] - 1


def _rows(
    place: fs.FileSystem, files: Sequence[_File], wanted: Ids, versions: Ids, names: tuple[str, ...]
) -> Iterator[pa.RecordBatch]:
    """Rows as they are after the last commit that changed them, which `versions` names for each of `wanted`."""
    telling = set(versions.tolist())
    for file in files:
        if file.side == _BEFORE or file.version not in telling:
            continue
        for batch in _scan(place, file, (*names, *({"feed_id"} - {*names}))):
            at = places_among(wanted, batch.column("feed_id").to_numpy())
            kept = (at >= 0) & (_sides(file, batch) == _AFTER)
            kept[kept] = versions[at[kept]] == file.version
            if kept.any():
                yield batch.filter(pa.array(kept))


def _scan(place: fs.FileSystem, file: _File, names: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    more = [pa.field(_CHANGE_TYPE, pa.string())] if file.side is None else []
    schema = pa.schema([*arrow_schema(INDEX_FEED), *more])
    return file.positions.of(scanned_file(place, file.path, schema, [*names, *(one.name for one in more)]))


def _sides(file: _File, batch: pa.RecordBatch) -> Ids:
    if file.side is not None:
        return np.full(batch.num_rows, file.side, np.int64)
    kinds = batch.column(_CHANGE_TYPE)
    at = pc.index_in(kinds, pa.array(list(_SIDES)))
    if at.null_count:
        unknown = sorted(set(map(repr, kinds.filter(pc.is_null(at)).to_pylist())))
        raise SnapshotError(f"{file.path}: expected changes of the kinds {list(_SIDES)}, found {', '.join(unknown)}")
    sides: Ids = np.array(list(_SIDES.values()))[at.to_numpy()]
    return sides
