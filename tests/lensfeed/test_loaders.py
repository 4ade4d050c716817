"""Petastorm and torch see exactly the live rows of the published feed."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from petastorm.workers_pool import EmptyResultError
from petastorm.workers_pool.worker_base import WorkerBase

from lensfeed.feed import feed_vectors, text_vectors
from lensfeed.loaders import LOADABLE, _pool, feed_loader, feed_reader
from lensfeed.snapshot import Snapshot, SnapshotError, SnapshotGoneError
from tests.lensfeed.tiny_warehouse import DIMENSION, TEXT_DIMENSION, TinyWarehouse, feed_row

LIVE = [0, 2, 3, 4, 5, 6, 7]


@pytest.fixture
def snapshot(warehouse: TinyWarehouse) -> Snapshot:
    """Seven live rows in three files of four row groups, beside stale files and those of an unpublished run."""
    warehouse.write("index_feed", [feed_row(n) for n in range(10, 20)])
    warehouse.write("index_feed", [feed_row(n) for n in range(3)], overwrite=True)
    warehouse.write("index_feed", [feed_row(n) for n in (3, 4, 5)])
    warehouse.write("index_feed", [feed_row(n) for n in (6, 7)])
    warehouse.delete("index_feed", "feed_id", 1)
    warehouse.event("run", "published")
    warehouse.event("next", "prepared")
    warehouse.write("index_feed", [feed_row(n) for n in range(20, 25)])
    return Snapshot.open(str(warehouse.root))


@pytest.mark.parametrize("workers", [0, 2])
def test_petastorm_reads_exactly_the_live_rows(snapshot: Snapshot, workers: int) -> None:
    with feed_reader(snapshot, workers=workers) as reader:
        groups = list(reader)
    assert sorted(n for group in groups for n in group.feed_id) == LIVE
    assert sum(len(group.feed_id) for group in groups) == snapshot.row_count("index_feed")
    assert {group.vector.shape[1:] for group in groups} == {(DIMENSION,)}


def test_the_loader_yields_tensors_equal_to_the_vectors_in_their_order(snapshot: Snapshot) -> None:
    with feed_loader(snapshot, batch_size=3) as loader:
        batches = list(loader)
    assert [len(batch["feed_id"]) for batch in batches] == [3, 3, 1]
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    assert {name: values.dtype for name, values in joined.items()} == {
        "feed_id": torch.int64,
        "vector": torch.float32,
        "text_vector": torch.float32,
        "has_text": torch.bool,
    }
    feed_ids, vectors = feed_vectors(snapshot)
    _, has_text, texts = text_vectors(snapshot)
    assert np.array_equal(joined["feed_id"].numpy(), feed_ids)
    assert np.array_equal(joined["vector"].numpy(), vectors)
    assert np.array_equal(joined["has_text"].numpy(), has_text)
    assert np.array_equal(joined["text_vector"].numpy(), texts)
    assert joined["text_vector"][joined["has_text"]].shape == (4, TEXT_DIMENSION)


def test_every_column_said_to_be_loadable_loads(snapshot: Snapshot) -> None:
    with feed_loader(snapshot, 10, LOADABLE) as loader:
        (batch,) = loader
    assert set(batch) == set(LOADABLE)
    assert {len(values) for values in batch.values()} == {len(LIVE)}


def test_a_trainer_may_write_into_its_batches(snapshot: Snapshot) -> None:
    with feed_loader(snapshot, 10) as loader:
        for batch in loader:
            for values in batch.values():
                values.zero_()
    assert np.abs(feed_vectors(snapshot)[1]).sum() > 0


def test_every_epoch_holds_every_row_once(snapshot: Snapshot) -> None:
    with feed_loader(snapshot, 4, ["feed_id"], epochs=3) as loader:
        seen = [int(n) for batch in loader for n in batch["feed_id"]]
    assert sorted(seen) == sorted(LIVE * 3)


def test_a_second_pass_over_the_loader_reads_the_same_rows(snapshot: Snapshot) -> None:
    with feed_loader(snapshot, 4, ["feed_id"]) as loader:
        first, second = ([int(n) for batch in loader for n in batch["feed_id"]] for _ in range(2))
    assert sorted(first) == LIVE
    assert first == second


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_that_are_dead_in_files_that_stay_are_read_by_no_epoch(warehouse: TinyWarehouse, workers: int) -> None:
    high = 2**62  # a float has no room for such an id
    warehouse.write("index_feed", [feed_row(high + n) for n in range(7)])
    warehouse.write("index_feed", [feed_row(n) for n in (7, 8)])
    warehouse.kill("index_feed", [high + n for n in (0, 2, 3, 5)])
    warehouse.write("index_feed", [feed_row(high + 2, width=9)])
    warehouse.event("run", "published")
    snapshot = Snapshot.open(warehouse.root)
    live = [7, 8, *(high + n for n in (1, 2, 4, 6))]
    vectors = dict(zip(*(column.tolist() for column in feed_vectors(snapshot)), strict=True))
    for columns in (["feed_id", "vector", "has_text", "width"], ["feed_id", "row_id", "vector", "has_text", "width"]):
        with feed_loader(snapshot, 4, columns, epochs=2, workers=workers, shuffle_seed=3) as loader:
            batches = list(loader)
        assert all(set(batch) == set(columns) for batch in batches)
        rows = [
            (int(n), int(width), bool(flag), vector.tolist())
            for batch in batches
            for n, width, flag, vector in zip(
                batch["feed_id"], batch["width"], batch["has_text"], batch["vector"], strict=True
            )
        ]
        expected = [(n, 9 if n == high + 2 else 512, n % 2 == 0, vectors[n]) for n in live]
        assert sorted(rows) == sorted(expected * 2)


class _HandedOutLate:
    """Stands in for petastorm's ventilator at the worst moment: a row group is handed out between two looks at it."""

    def __init__(self, pool: Any) -> None:
        self.pool, self.left = pool, 3

    def start(self) -> None:
        """Nothing is handed out yet."""

    def completed(self) -> bool:
        if self.left:
            self.left -= 1
            self.pool.ventilate(piece_index=self.left)
        return not self.left

    def processed_item(self) -> None:
        """Nobody counts."""

    def stop(self) -> None:
        """There is no thread."""


class _Piece(WorkerBase):  # type: ignore[misc]
    """Tells which piece it was given."""

    def process(self, piece_index: int) -> None:
        self.publish_func(piece_index)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_row_groups_that_are_handed_out_late_are_not_lost(workers: int) -> None:
    pool = _pool(workers, shuffled=False, seed=None)
    pool.start(_Piece, None, _HandedOutLate(pool))
    assert sorted([pool.get_results() for _ in range(3)]) == [0, 1, 2]
    with pytest.raises(EmptyResultError):
        pool.get_results()
    pool.stop()
    pool.join()


@pytest.mark.parametrize("workers", [0, 2])
def test_no_epoch_of_many_loses_a_row(snapshot: Snapshot, workers: int) -> None:
    for _ in range(20):
        with feed_reader(snapshot, ["feed_id"], epochs=5, workers=workers) as reader:
            assert sorted(n for group in reader for n in group.feed_id) == sorted(LIVE * 5)


def test_vectors_of_two_lengths_are_named(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(1), feed_row(2, vector=[1.0])])
    warehouse.event("run", "published")
    with (
        feed_reader(Snapshot.open(warehouse.root)) as reader,
        pytest.raises(SnapshotError, match=r"column vector of index_feed: expected vectors of one length, found .*1"),
    ):
        list(reader)


def test_shuffling_is_reproducible_and_loses_nothing(snapshot: Snapshot) -> None:
    def order(seed: int) -> list[int]:
        torch.manual_seed(seed)
        with feed_loader(snapshot, 2, ["feed_id"], shuffle_seed=seed, shuffle_buffer=4) as loader:
            return [int(n) for batch in loader for n in batch["feed_id"]]

    orders = [order(seed) for seed in range(5)]
    assert all(sorted(one) == LIVE for one in orders)
    for _ in range(3):
        assert orders == [order(seed) for seed in range(5)]
    assert len({tuple(one) for one in orders}) > 1


def test_shards_share_the_rows_out(snapshot: Snapshot) -> None:
    shards: list[list[int]] = []
    for number in range(3):
        with feed_loader(snapshot, 10, ["feed_id"], shard=number, shard_count=3) as loader:
            shards.append([int(n) for batch in loader for n in batch["feed_id"]])
    assert all(shards)
    assert sorted(n for shard in shards for n in shard) == LIVE


def test_more_shards_than_row_groups_are_refused(snapshot: Snapshot) -> None:
    with pytest.raises(SnapshotError, match="nothing to read for shard 4 of 5"):
        feed_reader(snapshot, shard=4, shard_count=5)


def test_columns_that_are_no_tensors_are_refused_with_those_that_are(snapshot: Snapshot) -> None:
    with pytest.raises(SnapshotError, match=r"\['title', 'first_seen', 'colour'\].*these do: \['feed_id', 'vector'"):
        feed_loader(snapshot, 4, ["feed_id", "title", "first_seen", "colour"])


def test_an_empty_feed_is_refused(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(1)])
    warehouse.delete("index_feed", "feed_id", 1)
    warehouse.event("run", "published")
    with pytest.raises(SnapshotError, match="the feed of run 'run' is empty"):
        feed_reader(Snapshot.open(str(warehouse.root)))


def test_vacuumed_files_are_reported_as_gone(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(1), feed_row(2)])
    warehouse.event("run", "published")
    snapshot = Snapshot.open(str(warehouse.root))
    for path in snapshot.files("index_feed"):
        Path(path).unlink()
    with pytest.raises(SnapshotGoneError, match="index_feed at version 0, published by run 'run', is no longer there"):
        feed_reader(snapshot)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_purge_in_the_midst_of_reading_is_reported_as_gone(warehouse: TinyWarehouse, workers: int) -> None:
    for number in range(20):  # a file each, more than are read ahead
        warehouse.write("index_feed", [feed_row(number)])
    warehouse.event("run", "published")
    snapshot = Snapshot.open(str(warehouse.root))
    with feed_loader(snapshot, 1, workers=workers) as loader:
        batches = iter(loader)
        next(batches)
        for path in snapshot.files("index_feed"):
            Path(path).unlink()
        with pytest.raises(SnapshotGoneError, match="index_feed at version 19, published by run 'run', is no longer"):
            list(batches)


def test_reading_prints_nothing(snapshot: Snapshot, capfd: pytest.CaptureFixture[str]) -> None:
    with feed_loader(snapshot, 4) as loader:
        assert len(list(loader)) == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"batch_size": 0}, "batch_size: expected a whole number from 1, found 0"),
        ({"batch_size": -4}, "batch_size: expected a whole number from 1, found -4"),
        ({"batch_size": 2.5}, "batch_size: expected a whole number from 1, found 2.5"),
        ({"batch_size": None}, "batch_size: expected a whole number from 1, found None"),
        ({"shuffle_buffer": -1}, "shuffle_buffer: expected a whole number from 0, found -1"),
        ({"epochs": 0}, "epochs: expected a whole number from 1, found 0"),
        ({"workers": -1}, "workers: expected a whole number from 0, found -1"),
        ({"shuffle_seed": -1}, "shuffle_seed: expected a whole number from 0 to 4294967295, found -1"),
        (
            {"shard": 5, "shard_count": 2},
            r"shard \(from 0\) of shard_count=2: expected a whole number from 0 to 1, found 5",
        ),
        ({"shard": 2, "shard_count": 2}, "expected a whole number from 0 to 1, found 2"),
        ({"shard": -1, "shard_count": 2}, "expected a whole number from 0 to 1, found -1"),
        ({"shard": 0, "shard_count": 0}, "shard_count: expected a whole number from 1, found 0"),
        ({"shard": "0", "shard_count": 2}, "expected a whole number from 0 to 1, found '0'"),
        ({"shard": 1}, "expected shard and shard_count together, found shard=1 of None"),
        ({"shard_count": 2}, "expected shard and shard_count together, found shard=None of 2"),
        ({"columns": []}, r"columns of index_feed: expected a list of one or more different names, found \[\]"),
        ({"columns": "vector"}, "expected a list of one or more different names, found 'vector'"),
        ({"columns": ["feed_id", "feed_id"]}, "expected a list of one or more different names"),
    ],
)
def test_numbers_and_columns_that_make_no_sense_are_refused_in_words(
    snapshot: Snapshot, given: dict[str, object], expected: str
) -> None:
    with pytest.raises(SnapshotError, match=expected):
        feed_loader(snapshot, **({"batch_size": 4} | given))


def test_numpys_whole_numbers_are_whole_numbers(snapshot: Snapshot) -> None:
    with feed_loader(snapshot, np.int64(4), ["feed_id"], shard=np.int32(0), shard_count=np.int32(1)) as loader:
        assert sum(len(batch["feed_id"]) for batch in loader) == len(LIVE)


@pytest.mark.parametrize("name", ["a#b", "a?b", "50%20", "a;b", "[1] +", "a:b"])
def test_a_warehouse_of_any_name_loads(tmp_path: Path, name: str) -> None:
    warehouse = TinyWarehouse(tmp_path / name / name)
    warehouse.write("index_feed", [feed_row(n) for n in range(3)])
    warehouse.event("run", "published")
    with feed_loader(Snapshot.open(str(warehouse.root)), 2, ["feed_id"], epochs=2, workers=2) as loader:
        assert sorted(int(n) for batch in loader for n in batch["feed_id"]) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("missing", ["petastorm.reader", "petastorm.pytorch", "torch"])
def test_a_missing_library_is_said_with_the_extra_that_brings_it(
    snapshot: Snapshot, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"pip install 'lensfeed\[torch\]'.*{missing}"):
        feed_loader(snapshot, 10)
