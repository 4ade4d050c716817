"""Petastorm over exactly the live rows of a published feed, and a torch loader on top.

Petastorm, like every plain Parquet reader, knows nothing of Delta's log: pointed at the folder of `index_feed` it also
returns rows that were deleted or overwritten. It is given the snapshot's own list of files instead, a worker that
leaves out the rows in them that are dead, and only columns that it and torch can hold: numbers, flags and vectors,
never null. Joining the rest by feed_id is for `lensfeed.feed.lookup`.

The worker takes the place of petastorm's own, which brings every row group through pandas and copies it whole to
shuffle it, also where nothing is shuffled: it reads twice as fast. What is read when, by whom and how often (epochs,
shards, order, threads) stays petastorm's.

Both libraries come with the extra `lensfeed[torch]`, and are imported when a reader or a loader is opened: the rest of
`lensfeed` does without them.
"""

import operator
import tempfile
import time
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lensfeed.dead_rows import file_name
from lensfeed.snapshot import LiveFiles, Snapshot, SnapshotError, named_columns
from schemas.tables import INDEX_FEED

if TYPE_CHECKING:
    import torch

FIXED_WIDTH = frozenset({"int", "bigint", "double", "boolean", "array<float>"})
"""Column types that become tensors; all vectors of one feed have one length."""

LOADABLE: tuple[str, ...] = tuple(c.name for c in INDEX_FEED.columns if c.type in FIXED_WIDTH and not c.nullable)
"""Columns of `index_feed` that can be loaded."""

FLAGS = frozenset(name for name in LOADABLE if INDEX_FEED.column(name).type == "boolean")

DEFAULT_COLUMNS: tuple[str, ...] = ("feed_id", "vector", "text_vector", "has_text")


def feed_reader(
    snapshot: Snapshot,
    columns: Sequence[str] = DEFAULT_COLUMNS,
    *,
    epochs: int | None = 1,
    workers: int = 0,
    shuffle_seed: int | None = None,
    shard: int | None = None,
    shard_count: int | None = None,
) -> Any:
    """A petastorm batch reader (`petastorm.reader.Reader`) over the live rows of the snapshot's `index_feed`.

    A context manager and an iterator of named tuples, a Parquet row group each: `feed_id` int64 (N,), `vector` float32
    (N, D), flags bool (N,). `epochs`: passes over the feed, null for no end. `workers`: reading threads; 0 reads in the
    caller's thread and makes the order reproducible: that of `lensfeed.feed.feed_vectors`, or with `shuffle_seed` row
    groups, and rows in each, shuffled by it. `shard` (from 0) of `shard_count`: every shard_count-th row group, for
    distributed training. Raises SnapshotError for columns that cannot be loaded, numbers out of their range and where
    there are fewer row groups than shards or no row at all, SnapshotGoneError where files were removed, ImportError
    without the extra `lensfeed[torch]`.
    """
    columns = _loadable(columns)
    workers = _whole("workers", workers, 0)
    epochs = None if epochs is None else _whole("epochs", epochs, 1)
    seed = None if shuffle_seed is None else _whole("shuffle_seed", shuffle_seed, 0, 2**32 - 1)
    if (shard is None) != (shard_count is None):
        raise SnapshotError(f"expected shard and shard_count together, found shard={shard!r} of {shard_count!r}")
    if shard is not None and shard_count is not None:
        shard_count = _whole("shard_count", shard_count, 1)
        shard = _whole(f"shard (from 0) of shard_count={shard_count}", shard, 0, shard_count - 1)
    with _extra_named():
        from petastorm.errors import NoDataAvailableError
        from petastorm.fs_utils import get_filesystem_and_path_or_paths
        from petastorm.reader import Reader

    # Petastorm reads through pyarrow's old file system layer: a page of deprecations that no caller can act on.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\.")
    # It looks at the schema before at what is asked for; maps are not.
    warnings.filterwarnings("ignore", message="Column .* has an unsupported field", category=UserWarning)
    live = snapshot.live_files(INDEX_FEED.name)
    shuffled = seed is not None
    seed = seed or _IN_PLACE_OF_0 if shuffled else None
    try:
        if live is None or not live.count_rows(use_threads=False):
            raise SnapshotError(f"the feed of run {snapshot.run_id!r} is empty: expected at least one row")
        urls, plain = _addresses(snapshot, [f"{snapshot.warehouse}/{INDEX_FEED.name}/{p}" for p in live.dataset.files])
        filesystem, paths = get_filesystem_and_path_or_paths(urls)
        reader = Reader(
            filesystem,
            paths,
            schema_fields=[f"^{name}$" for name in columns],
            worker_class=_worker_class(live, columns),
            reader_pool=_pool(workers, shuffled, seed),
            num_epochs=epochs,
            shuffle_row_groups=shuffled,
            shuffle_rows=shuffled,
            seed=seed,
            cur_shard=shard,
            shard_count=shard_count,
            is_batched_reader=True,
        )
    except NoDataAvailableError as error:
        raise SnapshotError(f"nothing to read for shard {shard} of {shard_count}: {error}") from error
    except FileNotFoundError as error:
        raise snapshot.gone(INDEX_FEED.name, error) from error
    if plain is not None:
        weakref.finalize(reader, plain.cleanup)
    # There is no cache here; what this would do is print a line to standard output.
    reader.cleanup_cache = _nothing
    return reader


_IN_PLACE_OF_0 = 2**31
"""Petastorm takes the seed 0 for none."""


def _worker_class(live: LiveFiles, columns: Sequence[str]) -> type:
    """A worker of petastorm's that reads the live rows of a row group straight into numpy."""
    from petastorm.arrow_reader_worker import ArrowReaderWorker

    class LiveRows(ArrowReaderWorker):  # type: ignore[misc]
        def process(self, piece_index: int, **_not_asked_for: Any) -> None:
            piece = self._split_pieces[piece_index]
            rows = live.row_group(file_name(piece.path), piece.row_group, columns, use_threads=False)
            if not rows.num_rows:  # all of them are dead
                return
            found = {name: _as_numpy(name, rows.column(name)) for name in columns}
            if self._shuffle_rows:
                order = self._rng.permutation(rows.num_rows)
                found = {name: values[order] for name, values in found.items()}
            self.publish_func(found)

    return LiveRows


def _pool(workers: int, shuffled: bool, seed: int | None) -> Any:
    """A pool of petastorm's: of threads, or none, where row groups are read in the caller's.

    Petastorm's own look first whether anything is left to read, and then whether everything was handed out: what is
    handed out in between, by another thread, is lost, and an epoch ends without its last rows. (The one without threads
    may wait for ever, too.) Here it is the other way round.
    """
    from petastorm.workers_pool import EmptyResultError
    from petastorm.workers_pool.dummy_pool import DummyPool
    from petastorm.workers_pool.thread_pool import ThreadPool

    class Threads(ThreadPool):  # type: ignore[misc]
        def all_workers_done(self) -> bool:
            return bool(self._ventilator.completed() and super().all_workers_done())

    class Caller(DummyPool):  # type: ignore[misc]
        def get_results(self) -> Any:
            while not self._results_queue:
                everything_is_handed_out = self._ventilator.completed()
                if self._ventilator_queue:
                    args, named = self._ventilator_queue.pop(0)
                    self._worker.process(*args, **named)
                    self._ventilator.processed_item()
                elif everything_is_handed_out:
                    raise EmptyResultError
                else:
                    time.sleep(0.001)
            return self._results_queue.pop(0)

    return Threads(workers, shuffle_rows=shuffled, seed=seed) if workers else Caller()


def _as_numpy(name: str, column: pa.ChunkedArray) -> NDArray[Any]:
    """Numbers or flags (N,), vectors (N, D); views of Arrow's memory where they lie in one piece."""
    if not pa.types.is_list(column.type):
        numbers: NDArray[Any] = column.to_numpy()
        return numbers
    lengths = pc.min_max(pc.list_value_length(column))
    if lengths["min"] != lengths["max"]:
        raise SnapshotError(f"column {name} of index_feed: expected vectors of one length, found {lengths.as_py()}")
    parts = [chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@contextmanager
def _extra_named() -> Iterator[None]:
    """Let an import that fails say which extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"lensfeed.loaders needs torch and petastorm: pip install 'lensfeed[torch]' ({error})", name=error.name
        ) from error


def _nothing() -> None:
    pass


def _loadable(columns: Sequence[str]) -> tuple[str, ...]:
    names = named_columns(INDEX_FEED, columns)
    if refused := [name for name in names if name not in LOADABLE]:
        raise SnapshotError(f"columns {refused} of index_feed do not fit into tensors; these do: {list(LOADABLE)}")
    return names


def _whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """The value as Python's own int, which petastorm insists on; SnapshotError for all but whole numbers in range."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        to = "" if most is None else f" to {most}"
        raise SnapshotError(f"{name}: expected a whole number from {least}{to}, found {value!r}")
    return number


def _addresses(snapshot: Snapshot, files: Sequence[str]) -> tuple[list[str], tempfile.TemporaryDirectory[str] | None]:
    """The live files as petastorm has to be given them, and the folder that has to be there for as long as it reads.

    It takes every path for a URL and cuts off what follows `#`, `?` or `;`: where the warehouse's name holds one of
    these, it gets a link of a plain name. Raises SnapshotError where that cannot be done.
    """
    urls = [path if "://" in path else f"file://{path}" for path in files]
    if all(url == urlparse(url)._replace(params="", query="", fragment="").geturl() for url in urls):
        return urls, None
    root = f"{snapshot.warehouse}/{INDEX_FEED.name}"
    if "://" in root:
        raise SnapshotError(f"petastorm cannot open {root}: it takes what follows #, ? or ; for no part of the path")
    folder = tempfile.TemporaryDirectory(prefix="lensfeed-")
    link = Path(folder.name) / INDEX_FEED.name
    link.symlink_to(root, target_is_directory=True)
    return [f"file://{link}{path.removeprefix(root)}" for path in files], folder


class FeedLoader:
    """Batches of a petastorm reader as tensors.

    Each `for` over it reads the feed anew, if the one before went to its end; RuntimeError otherwise. SnapshotGoneError
    where a purge deletes the files meanwhile.
    """

    def __init__(self, reader: Any, batch_size: int, shuffle_buffer: int, snapshot: Snapshot) -> None:
        with _extra_named():
            import torch
            from petastorm.pytorch import BatchedDataLoader

        # Copies: petastorm's arrays may be read-only views of Arrow memory, which a trainer must not write to.
        self._loader = BatchedDataLoader(reader, batch_size, torch.tensor, shuffle_buffer)
        self._snapshot = snapshot

    def __iter__(self) -> Iterator[dict[str, "torch.Tensor"]]:
        try:
            for batch in self._loader:
                # Petastorm promotes flags to uint8, which would index a tensor instead of masking it.
                yield {name: values.bool() if name in FLAGS else values for name, values in batch.items()}
        except FileNotFoundError as error:
            raise self._snapshot.gone(INDEX_FEED.name, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loader.__exit__(kind, error, trace)


def feed_loader(
    snapshot: Snapshot,
    batch_size: int,
    columns: Sequence[str] = DEFAULT_COLUMNS,
    *,
    epochs: int | None = 1,
    workers: int = 0,
    shuffle_seed: int | None = None,
    shuffle_buffer: int = 0,
    shard: int | None = None,
    shard_count: int | None = None,
) -> FeedLoader:
    """A torch loader over the live rows of the snapshot's `index_feed`, by petastorm's BatchedDataLoader.

    A context manager; iterating yields dicts of tensors by column, `batch_size` rows each and what is left in the last:
    `feed_id` int64 (B,), `vector` float32 (B, D), `has_text` bool (B,). `shuffle_buffer`: rows among which batches are
    drawn at random (by torch's generator: `torch.manual_seed`), so that they mix row groups; 0 for none. The rest, and
    what is raised, as in `feed_reader`.
    """
    batch_size = _whole("batch_size", batch_size, 1)
    shuffle_buffer = _whole("shuffle_buffer", shuffle_buffer, 0)
    reader = feed_reader(
        snapshot,
        columns,
        epochs=epochs,
        workers=workers,
        shuffle_seed=shuffle_seed,
        shard=shard,
        shard_count=shard_count,
    )
    return FeedLoader(reader, batch_size, shuffle_buffer, snapshot)
