"""Some of a table's files: what a bounded look reads."""

import datetime as dt

import pytest

from lensfeed.snapshot import Snapshot, SnapshotError, ledger_events
from tests.lensfeed.tiny_warehouse import DAY, TinyWarehouse, feed_row, image_row


def test_a_portion_is_the_whole_table_where_it_fits_and_at_least_one_file(warehouse: TinyWarehouse) -> None:
    for first in (0, 3, 6):
        warehouse.write("index_feed", [feed_row(number) for number in range(first, first + 3)])
    warehouse.event("run", "published")
    snapshot = Snapshot.open(str(warehouse.root))

    whole = snapshot.portion("index_feed", 10**9)
    assert (whole.is_whole, whole.rows, whole.of_rows, whole.of_files) == (True, 9, 9, 3)
    assert (
        whole.bytes
        == whole.of_bytes
        == sum(file.stat().st_size for file in warehouse.root.glob("index_feed/*.parquet"))
    )

    least = snapshot.portion("index_feed", 0)
    assert (least.is_whole, least.rows, least.of_rows, len(least.paths)) == (False, 3, 9, 1)
    read = [row for batch in snapshot.batches("index_feed", ["feed_id"], portion=least) for row in batch.to_pylist()]
    assert len(read) == 3
    assert len(snapshot.rows("index_feed", ["feed_id"])) == 9


def test_a_portion_keeps_to_partitions_and_refuses_what_is_none(warehouse: TinyWarehouse) -> None:
    vectors = [
        {"image_id": image_row(n)["image_id"], "model_version": model, "vector": [1.0], "run_id": "run"}
        for n, model in enumerate(("old", "old", "new"))
    ]
    warehouse.write("embeddings", vectors)
    warehouse.event("run", "published")
    snapshot = Snapshot.open(str(warehouse.root))
    assert snapshot.portion("embeddings", 10**9, {"model_version": ["old"]}).rows == 2
    assert snapshot.portion("embeddings", 10**9, {"model_version": []}).of_files == 0
    with pytest.raises(SnapshotError, match="table embeddings is not partitioned by \\['image_id'\\]"):
        snapshot.portion("embeddings", 1, {"image_id": ["x"]})


def test_an_empty_table_has_an_empty_portion(warehouse: TinyWarehouse) -> None:
    warehouse.event("run", "published")
    snapshot = Snapshot.open(str(warehouse.root))
    nothing = snapshot.portion("images", 10)
    assert (nothing.paths, nothing.rows, nothing.is_whole) == (frozenset(), 0, True)
    assert list(snapshot.batches("images", ["image_id"], portion=nothing)) == []


def test_a_portion_of_another_table_is_refused(warehouse: TinyWarehouse) -> None:
    warehouse.write("images", [image_row(0)])
    warehouse.write("index_feed", [feed_row(0)])
    warehouse.event("run", "published")
    snapshot = Snapshot.open(str(warehouse.root))
    with pytest.raises(SnapshotError, match="expected a portion of table images, found one of index_feed"):
        snapshot.batches("images", ["image_id"], portion=snapshot.portion("index_feed", 1))


def test_events_come_in_order_with_their_maps(warehouse: TinyWarehouse) -> None:
    warehouse.event("run", "started", counts=None)
    warehouse.event("run", "published", metrics=[("seconds.embed", 1.5)])
    started, published = ledger_events(str(warehouse.root))
    assert (started["event"], started["counts"], started["table_versions"]) == ("started", {}, {})
    assert published["counts"] == {"accepted": 4}
    assert published["metrics"] == {"seconds.embed": 1.5}
    assert published["ingest_dates"] == [DAY]
    assert isinstance(published["at"], dt.datetime)
