"""What index builders take: ids beside vectors, the way back from an id, and exact nearest neighbours."""

import re
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lensfeed import feed
from lensfeed.feed import SeenAt, feed_vectors, lookup, nearest, search, text_vectors, vector_matrix
from lensfeed.snapshot import Snapshot, SnapshotError
from tests.lensfeed.tiny_warehouse import (
    DAY,
    DIMENSION,
    TEXT_DIMENSION,
    TinyWarehouse,
    feed_row,
    image_id,
    image_row,
    member_row,
    unit_vector,
)


@pytest.fixture
def snapshot(warehouse: TinyWarehouse) -> Snapshot:
    """Feed ids 0, 2, 3, 4 in two files; image 9 is a near-duplicate of image 2."""
    warehouse.write("index_feed", [feed_row(n) for n in (0, 1, 2)])
    warehouse.write("index_feed", [feed_row(3), feed_row(4)])
    warehouse.delete("index_feed", "feed_id", 1)
    warehouse.write("images", [image_row(n) for n in (0, 1, 2, 3, 4, 9)])
    warehouse.write(
        "feed_members",
        [
            member_row(2, 9, "https://pictures.example/9.jpg", hamming=3),
            member_row(2, 2, "https://pictures.example/2b.jpg"),
            member_row(2, 2, "https://pictures.example/2a.jpg", page_url=None),
            member_row(3, 3, "https://pictures.example/3.jpg"),
        ],
    )
    warehouse.event("run", "published")
    return Snapshot.open(str(warehouse.root))


def test_every_live_id_comes_beside_its_own_vector(snapshot: Snapshot) -> None:
    feed_ids, vectors = feed_vectors(snapshot)
    assert (str(feed_ids.dtype), str(vectors.dtype), vectors.shape) == ("int64", "float32", (4, DIMENSION))
    assert sorted(feed_ids) == [0, 2, 3, 4]
    expected = [unit_vector(int(n), DIMENSION) for n in feed_ids]
    assert np.array_equal(vectors, np.array(expected, np.float32))


def test_text_vectors_come_in_the_order_of_the_visual_ones_with_their_mask(snapshot: Snapshot) -> None:
    feed_ids, has_text, vectors = text_vectors(snapshot)
    assert feed_ids.tolist() == feed_vectors(snapshot)[0].tolist()
    assert has_text.tolist() == [n % 2 == 0 for n in feed_ids]
    assert vectors.shape == (4, TEXT_DIMENSION)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(has_text.astype(float))


def test_an_empty_feed_has_no_vectors(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(1)])
    warehouse.delete("index_feed", "feed_id", 1)
    warehouse.event("run", "published")
    feed_ids, vectors = feed_vectors(Snapshot.open(str(warehouse.root)))
    assert (feed_ids.shape, vectors.shape) == ((0,), (0, 0))


@pytest.mark.parametrize("files", [1, 2])
def test_vectors_of_two_lengths_are_refused(warehouse: TinyWarehouse, files: int) -> None:
    rows: list[dict[str, Any]] = [feed_row(1), feed_row(2, vector=[1.0])]
    for part in [rows] if files == 1 else [[row] for row in rows]:
        warehouse.write("index_feed", part)
    warehouse.event("run", "published")
    with pytest.raises(SnapshotError, match="expected one length in vector, found"):
        feed_vectors(Snapshot.open(str(warehouse.root)))


def test_a_matrix_of_a_slice_holds_the_rows_of_the_slice() -> None:
    lists = pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32()))
    assert vector_matrix(lists.slice(1), "vector").tolist() == [[3.0, 4.0], [5.0, 6.0]]


def test_a_null_within_a_vector_is_refused() -> None:
    with pytest.raises(SnapshotError, match="expected numbers in vector, found 1 nulls"):
        vector_matrix(pa.array([[1.0, None]], pa.list_(pa.float32())), "vector")


def test_lookup_leads_from_ids_to_images_titles_and_urls_in_the_order_asked_for(snapshot: Snapshot) -> None:
    three, two, again = lookup(snapshot, [3, 2, 3])
    assert (two.feed_id, two.image_id, two.title, two.first_seen, two.member_count) == (
        2,
        image_id(2),
        "picture 2",
        DAY,
        1,
    )
    base = "https://pictures.example"
    assert two.urls == (
        SeenAt(image_id(2), f"{base}/2a.jpg", None, f"seen at {base}/2a.jpg", 0),
        SeenAt(image_id(2), f"{base}/2b.jpg", f"{base}/2b.jpg.html", f"seen at {base}/2b.jpg", 0),
        SeenAt(image_id(9), f"{base}/9.jpg", f"{base}/9.jpg.html", f"seen at {base}/9.jpg", 3),
    )
    assert three == again
    assert (three.title, [u.url for u in three.urls], three.pixels) == (None, [f"{base}/3.jpg"], None)


def test_lookup_brings_pixels_where_asked(snapshot: Snapshot) -> None:
    assert [entry.pixels for entry in lookup(snapshot, [4, 0], pixels=True)] == [
        image_row(4)["pixels"],
        image_row(0)["pixels"],
    ]


def test_lookup_takes_what_nearest_gives(snapshot: Snapshot) -> None:
    feed_ids, vectors = feed_vectors(snapshot)
    found, cosines = nearest(np.array(unit_vector(3, DIMENSION)), feed_ids, vectors, k=2)
    assert lookup(snapshot, found)[0].image_id == image_id(3)
    assert cosines[0] == pytest.approx(1.0)


def test_lookup_names_ids_that_are_not_live(snapshot: Snapshot) -> None:
    with pytest.raises(KeyError, match=r"not in the feed of run 'run': \[1, 77\] \(2 of 3 ids\)"):
        lookup(snapshot, [1, 2, 77])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 60),
    queries=st.integers(1, 4),
    k=st.integers(1, 70),
    at_once=st.integers(1, 100),
)
def test_nearest_is_the_sorted_list_of_all_cosines_cut_at_k(
    seed: int, count: int, queries: int, k: int, at_once: int
) -> None:
    random = np.random.default_rng(seed)
    # Small integers give exact products and many ties.
    vectors = random.integers(-1, 2, (count, 3)).astype(np.float32)
    query = random.integers(-2, 3, (queries, 3)).astype(np.float32)
    query[~query.any(axis=1), 0] = 1
    ids = random.permutation(count).astype(np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "SCORES_AT_ONCE", at_once)
        found, cosines = nearest(query, ids, vectors, k)
    assert found.shape == cosines.shape == (queries, min(k, count))
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    for row, one in enumerate(query.astype(np.float64)):
        exact = {
            int(i): float(v @ one) / (n * np.linalg.norm(one) or 1) for i, v, n in zip(ids, vectors, norms, strict=True)
        }
        best = sorted(exact.values(), reverse=True)[:k]
        assert cosines[row] == pytest.approx(best, abs=1e-6)
        assert cosines[row] == pytest.approx([exact[int(i)] for i in found[row]], abs=1e-6)
        assert len(set(found[row].tolist())) == len(found[row])


def test_equal_cosines_are_ordered_by_id() -> None:
    vectors = np.ones((5, 4), np.float32)
    found, _ = nearest(np.ones(4, np.float32), np.array([5, 3, 4, 1, 2]), vectors, k=3)
    assert found.tolist() == [1, 2, 3]


def test_nearest_to_one_query_has_no_query_axis() -> None:
    found, cosines = nearest(np.array([2.0, 0.0]), np.array([7, 8]), np.eye(2, dtype=np.float32), k=1)
    assert (found.tolist(), cosines.tolist()) == ([7], [1.0])


@pytest.mark.parametrize(
    ("query", "ids", "k", "message"),
    [
        (np.ones(3), np.arange(2), 1, "query has 3 numbers, vectors 2: .* Encoder.image .* Encoder.text "),
        (np.ones((1, 1, 2)), np.arange(2), 1, "expected query"),
        (np.ones(2), np.arange(3), 1, "expected query"),
        (np.ones(2), np.arange(2), 0, "k: expected at least 1, found 0"),
        (np.zeros(2), np.arange(2), 1, "expected no zero vector"),
    ],
)
def test_nearest_refuses_what_does_not_fit(query: Any, ids: Any, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(query, ids, np.eye(2, dtype=np.float32), k)


@pytest.mark.parametrize("k", [1.5, 2.0, "3", True, None])
def test_a_k_that_is_no_whole_number_is_refused_by_its_name(warehouse: TinyWarehouse, k: Any) -> None:
    warehouse.event("run", "published")
    message = re.escape(f"k: expected a whole number, found {k!r}")
    vectors = np.eye(2, dtype=np.float32)
    with pytest.raises(TypeError, match=message):
        nearest(vectors, np.arange(2), vectors, k)
    with pytest.raises(TypeError, match=message):
        search(Snapshot.open(warehouse.root), np.ones(DIMENSION, np.float32), k)


def test_a_k_of_numpys_is_one() -> None:
    vectors = np.eye(3, dtype=np.float32)
    for k in (np.int64(2), np.uint8(2)):
        assert nearest(vectors[1], np.arange(3), vectors, k)[0].tolist() == [1, 0]


def test_ids_beyond_63_bits_are_not_in_the_feed_and_other_than_whole_numbers_are_refused(snapshot: Snapshot) -> None:
    for unknown in (-1, 2**63, 10**30):
        with pytest.raises(KeyError, match="not in the feed"):
            lookup(snapshot, [unknown])
    with pytest.raises(TypeError, match=r"feed_ids: expected a whole number, found 1\.5"):
        lookup(snapshot, [1.5])


def test_a_query_that_is_not_finite_is_refused() -> None:
    vectors = np.eye(3, dtype=np.float32)
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="query: expected finite numbers, found 1 that are not"):
            nearest(np.array([1, value, 0], np.float32), np.arange(3), vectors, 1)


def test_a_query_may_have_any_length_that_float32_can_hold() -> None:
    for length in (1e-40, 1e-30, 1e30, 3e38):
        query = np.array([length, 0, 0], np.float32)
        found, cosines = nearest(query, np.array([4, 5, 6]), np.eye(3, dtype=np.float32), 1)
        assert (found.tolist(), cosines.tolist()) == ([4], [1.0])


def test_vectors_may_have_any_length_that_float32_can_hold() -> None:
    for length in (1e-40, 1e-30, 1e-20, 1e20, 1e30, 3e38):
        vectors = np.array([[0, 1, 0], [length, 0, 0], [0, 0, 0], [length, length, 0]], np.float32)
        found, cosines = nearest(np.array([1, 0, 0], np.float32), np.array([4, 5, 6, 7]), vectors, 4)
        assert found.tolist() == [5, 7, 4, 6]
        assert cosines.tolist() == pytest.approx([1.0, 0.5**0.5, 0.0, 0.0])
        assert vectors[1, 0] == np.float32(length)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_vector_that_is_not_finite_is_refused_by_its_id(k: int) -> None:
    for value in (np.nan, np.inf):
        vectors = np.array([[1, 0], [value, 1], [0, 1]], np.float32)
        with pytest.raises(ValueError, match=r"vectors: expected finite numbers, found others at the ids \[5\]"):
            nearest(np.ones(2, np.float32), np.array([4, 5, 6]), vectors, k)


@pytest.mark.parametrize("column", ["vector", "text_vector"])
def test_search_streams_the_feed_and_finds_what_all_of_it_in_memory_gives(
    warehouse: TinyWarehouse, column: Literal["vector", "text_vector"]
) -> None:
    for start in range(0, 40, 8):
        warehouse.write("index_feed", [feed_row(n) for n in range(start, start + 8)])
    warehouse.delete("index_feed", "feed_id", 6)
    warehouse.event("run", "published")
    snapshot = Snapshot.open(warehouse.root)
    if column == "vector":
        feed_ids, vectors = feed_vectors(snapshot)
    else:
        feed_ids, has_text, vectors = text_vectors(snapshot)
        feed_ids, vectors = feed_ids[has_text], vectors[has_text]
    queries = np.random.default_rng(3).normal(size=(3, vectors.shape[1])).astype(np.float32)
    for query in (queries, queries[0]):
        found, cosines = search(snapshot, query, 5, column=column)
        expected, expected_cosines = nearest(query, feed_ids, vectors, 5)
        assert found.tolist() == expected.tolist()
        assert cosines == pytest.approx(expected_cosines, abs=1e-6)
    assert 6 not in search(snapshot, queries[0], 100, column=column)[0]


def test_search_in_an_empty_feed_finds_nothing_and_refuses_what_makes_no_sense(warehouse: TinyWarehouse) -> None:
    warehouse.event("run", "published")
    snapshot = Snapshot.open(warehouse.root)
    assert search(snapshot, np.ones(DIMENSION, np.float32), 3)[0].tolist() == []
    with pytest.raises(ValueError, match="k: expected at least 1"):
        search(snapshot, np.ones(DIMENSION, np.float32), 0)


@pytest.mark.parametrize("column", ["title", "text", "nowhere", ["vector"], None])
def test_a_column_without_vectors_is_not_searched(warehouse: TinyWarehouse, column: Any) -> None:
    warehouse.event("run", "published")
    for _ in range(2):  # in an empty feed, and in one that has rows
        with pytest.raises(SnapshotError, match=re.escape(f"'vector' or 'text_vector', found {column!r}")):
            search(Snapshot.open(warehouse.root), np.ones(DIMENSION, np.float32), 3, column=column)
        warehouse.write("index_feed", [feed_row(2)])
        warehouse.event("later", "published")


@pytest.mark.parametrize("query", ["a cat asleep", ["1", "x"], [[1.0, 2.0], [3.0]], object()])
def test_a_query_of_other_things_than_numbers_is_refused_by_its_name(query: Any) -> None:
    with pytest.raises(ValueError, match=r"query: expected numbers \(D,\) or \(Q, D\), found "):
        nearest(query, np.arange(2), np.eye(2, dtype=np.float32), 1)


def test_a_query_for_the_other_column_is_told_who_makes_the_right_one(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(2)])
    warehouse.event("run", "published")
    snapshot = Snapshot.open(warehouse.root)
    image, text = np.ones(DIMENSION, np.float32), np.ones(TEXT_DIMENSION, np.float32)
    with pytest.raises(ValueError, match=r"query has 8 numbers, text_vector 4: .* comes from Encoder\.text"):
        search(snapshot, image, 3, column="text_vector")
    with pytest.raises(ValueError, match=r"query has 4 numbers, vector 8: .* comes from Encoder\.image"):
        search(snapshot, text, 3)
