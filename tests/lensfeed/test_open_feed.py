"""The public face: what `from lensfeed import ...` gives."""

import numpy as np
import pytest

import lensfeed
from lensfeed import Snapshot, SnapshotError, feed_vectors, lookup, open_feed
from tests.lensfeed.tiny_warehouse import DIMENSION, TinyWarehouse, feed_row, unit_vector


def test_the_newest_published_feed_is_opened(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(1)])
    warehouse.event("first", "published")
    warehouse.write("index_feed", [feed_row(2)])
    warehouse.event("second", "published")
    warehouse.write("index_feed", [feed_row(3)])
    warehouse.event("third", "prepared")
    snapshot = open_feed(str(warehouse.root))
    assert snapshot == Snapshot.open(str(warehouse.root), "second") == open_feed(warehouse.root, run="second")
    assert open_feed(warehouse.root, run="first").row_count("index_feed") == 1
    ids, vectors = feed_vectors(snapshot)
    assert sorted(ids.tolist()) == [1, 2]  # file by file; the files' names are random
    assert np.array_equal(vectors[ids == 2], np.array([unit_vector(2, DIMENSION)], np.float32))
    assert lookup(snapshot, [2])[0].title == "picture 2"


def test_a_folder_without_a_warehouse_is_refused(warehouse: TinyWarehouse) -> None:
    with pytest.raises(SnapshotError, match="no warehouse at"):
        open_feed(str(warehouse.root))


def test_every_name_of_the_public_face_is_there() -> None:
    assert all(hasattr(lensfeed, name) for name in lensfeed.__all__)
