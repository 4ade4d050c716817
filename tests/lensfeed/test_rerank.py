"""The reference re-ranker: what each signal does to an order, what the mask hides, what the weights' file must hold."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from jobs.config.profile import load
from lensfeed.feed import feed_vectors
from lensfeed.rerank import (
    Query,
    RerankError,
    Scale,
    Signals,
    Weights,
    check_models,
    feed_signals,
    load_weights,
    measured_scale,
    rerank,
    rerank_ids,
    save_weights,
)
from lensfeed.snapshot import Snapshot
from tests.lensfeed.tiny_warehouse import DIMENSION, TEXT_DIMENSION, TinyWarehouse, feed_row, unit_vector
from udfs.embedding.embed import model_version
from udfs.embedding.text import text_model_version
from udfs.images.canonical import canonical_version

VISUAL_ONLY = Weights(
    depth=10,
    visual_scale=Scale(model_version="visual", mean=0.2, deviation=0.1),
    text_scale=Scale(model_version="text", mean=0.0, deviation=0.5),
    visual=1,
    text=0,
    sharpness=0,
    members=0,
    domains=0,
)


def items() -> Signals:
    """Four items at falling visual cosines to [1, 0]; text says the opposite; the last has no text."""
    cosines = np.array([0.9, 0.8, 0.7, 0.6])
    return Signals(
        vectors=np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32),
        texts=np.array([[0, 1], [0.6, 0.8], [1, 0], [0, 0]], np.float32),
        has_text=np.array([True, True, True, False]),
        sharpness=np.array([10.0, 10.0, 10.0, 90.0]),
        members=np.array([1, 1, 1, 50]),
        domains=np.array([1, 20, 1, 1]),
    )


QUERY = Query(vector=np.array([1, 0], np.float32), text=np.array([1, 0], np.float32))


@pytest.mark.parametrize(
    ("changed", "first"),
    [({}, 0), ({"text": 2.0}, 2), ({"sharpness": 10.0}, 3), ({"members": 2.0}, 3), ({"domains": 2.0}, 1)],
)
def test_each_signal_moves_what_it_favours_to_the_top(changed: dict[str, float], first: int) -> None:
    order = rerank(QUERY, items(), VISUAL_ONLY.model_copy(update=changed))
    assert order[0] == first
    assert sorted(order) == [0, 1, 2, 3]


def test_the_mask_takes_text_out_of_the_score() -> None:
    weights = VISUAL_ONLY.model_copy(update={"text": 2.0})
    assert rerank(Query(vector=QUERY.vector), items(), weights).tolist() == [0, 1, 2, 3]


def test_a_query_of_text_alone_keeps_the_order_of_the_items_where_the_rest_is_equal() -> None:
    texts = Query(text=QUERY.text)
    assert rerank(texts, items(), VISUAL_ONLY).tolist() == [0, 1, 2, 3]
    assert rerank(texts, items(), VISUAL_ONLY.model_copy(update={"text": 2.0})).tolist() == [2, 1, 0, 3]


def test_the_ids_of_an_index_are_reordered_and_nothing_is_invented() -> None:
    feed_ids = np.array([40, 10, 30, 20])
    weights = VISUAL_ONLY.model_copy(update={"text": 2.0})
    found = np.array([10, 40, 20, -1, -1])
    assert rerank_ids(QUERY, found, feed_ids, items(), weights).tolist() == [10, 40, 20]
    assert rerank_ids(Query(vector=QUERY.vector), found, feed_ids, items(), weights).tolist() == [40, 10, 20]
    assert rerank_ids(QUERY, np.array([-1]), feed_ids, items(), weights).tolist() == []
    assert rerank_ids(QUERY, np.empty(0, np.int64), np.empty(0, np.int64), items().take([]), weights).tolist() == []
    with pytest.raises(KeyError, match=r"not in the feed: \[11\] \(1 of 2 ids\)"):
        rerank_ids(QUERY, np.array([10, 11]), feed_ids, items(), weights)
    with pytest.raises(KeyError, match="not in the feed"):
        rerank_ids(QUERY, np.array([10]), np.empty(0, np.int64), items().take([]), weights)


def test_a_query_of_nothing_or_of_another_length_is_refused() -> None:
    with pytest.raises(RerankError, match="expected a vector, a text or both, found neither"):
        Query()
    with pytest.raises(RerankError, match=r"a query's vector: expected shape \(2,\), found \(3,\); .* Encoder\.image"):
        rerank(Query(vector=np.ones(3, np.float32)), items(), VISUAL_ONLY)
    for name in ("vector", "text"):
        for number in (np.nan, np.inf):
            with pytest.raises(RerankError, match=f"a query's {name}: expected finite numbers"):
                Query(**{name: np.array([1, number], np.float32)})


def test_an_item_without_text_scores_as_unrelated_text_does() -> None:
    weights = VISUAL_ONLY.model_copy(update={"text": 2.0, "visual": 0.0})
    assert rerank(QUERY, items(), weights).tolist() == [2, 1, 0, 3]


def test_beyond_the_depth_the_visual_order_stays() -> None:
    weights = VISUAL_ONLY.model_copy(update={"text": 5.0, "depth": 2})
    assert rerank(QUERY, items(), weights).tolist() == [1, 0, 2, 3]


def test_a_scale_is_that_of_unrelated_pairs() -> None:
    generator = np.random.default_rng(0)
    raw = generator.normal(0.3, 1, size=(500, 30))
    vectors = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    scale = measured_scale(vectors, "model")
    cosines = (vectors @ vectors.T)[~np.eye(500, dtype=bool)]
    assert scale.mean == pytest.approx(cosines.mean(), abs=0.01)
    assert scale.deviation == pytest.approx(cosines.std(), abs=0.01)


@pytest.fixture
def snapshot(warehouse: TinyWarehouse) -> Snapshot:
    """Feed ids 0, 2, 3, 4 in two files; each has a sharpness, cluster size and number of domains of its own."""

    def row(number: int) -> dict[str, Any]:
        return feed_row(number, sharpness=number / 10, member_count=number + 1, domain_count=number + 2)

    warehouse.write("index_feed", [row(n) for n in (4, 1, 0)])
    warehouse.write("index_feed", [row(3), row(2)])
    warehouse.delete("index_feed", "feed_id", 1)
    warehouse.event("run", "published")
    return Snapshot.open(str(warehouse.root))


def test_signals_of_a_feed_are_each_representatives_own_in_the_order_of_its_vectors(snapshot: Snapshot) -> None:
    feed_ids, signals = feed_signals(snapshot)
    assert feed_ids.tolist() == feed_vectors(snapshot)[0].tolist()
    assert sorted(feed_ids) == [0, 2, 3, 4]
    for row, number in enumerate(feed_ids.tolist()):
        assert signals.vectors[row] == pytest.approx(unit_vector(number, DIMENSION))
        assert signals.has_text[row] == (number % 2 == 0)
        assert np.linalg.norm(signals.texts[row]) == pytest.approx(float(number % 2 == 0))
        assert (signals.sharpness[row], signals.members[row], signals.domains[row]) == (
            number / 10,
            number + 1,
            number + 2,
        )
    dtypes = [signals.vectors.dtype, signals.texts.dtype, signals.has_text.dtype, signals.sharpness.dtype]
    assert [*map(str, dtypes), str(signals.members.dtype)] == ["float32", "float32", "bool", "float64", "int64"]
    assert signals.texts.shape == (4, TEXT_DIMENSION)


def test_signals_of_some_ids_come_in_the_order_asked_for(snapshot: Snapshot) -> None:
    feed_ids, signals = feed_signals(snapshot)
    for wanted in ([3, 0, 4], [2], [4, 3, 2, 0, -1, -1], [-1], []):
        found, some = feed_signals(snapshot, np.array(wanted, np.int64))
        assert found.tolist() == [number for number in wanted if number != -1]
        rows = [feed_ids.tolist().index(number) for number in found.tolist()]
        for name in ("vectors", "texts", "has_text", "sharpness", "members", "domains"):
            assert np.array_equal(getattr(some, name).ravel(), getattr(signals, name)[rows].ravel())
    with pytest.raises(KeyError, match=r"not in the feed of run 'run': \[1, 9\] \(2 of 3 ids\)"):
        feed_signals(snapshot, np.array([9, 0, 1]))
    with pytest.raises(RerankError, match=r"feed_ids: expected different ids, found \[3\] more than once"):
        feed_signals(snapshot, np.array([3, 0, 3, -1, -1]))


def test_an_item_of_the_feed_finds_itself_first(snapshot: Snapshot) -> None:
    _, signals = feed_signals(snapshot)
    for row in range(4):
        assert rerank(signals.query(row), signals, VISUAL_ONLY)[0] == row


def test_an_empty_feed_has_no_signals(warehouse: TinyWarehouse) -> None:
    warehouse.event("run", "published")
    feed_ids, signals = feed_signals(Snapshot.open(str(warehouse.root)))
    assert len(feed_ids) == len(signals.members) == len(signals.sharpness) == 0


def test_where_an_index_finds_nothing_nothing_is_reordered(warehouse: TinyWarehouse) -> None:
    warehouse.write("index_feed", [feed_row(1)])
    warehouse.event("run", "published")
    snapshot, found = Snapshot.open(str(warehouse.root)), np.array([-1, -1])
    assert rerank_ids(QUERY, found, *feed_signals(snapshot, found), VISUAL_ONLY).tolist() == []


def for_models(visual: str, text: str) -> Weights:
    scales = {
        "visual_scale": VISUAL_ONLY.visual_scale.model_copy(update={"model_version": visual}),
        "text_scale": VISUAL_ONLY.text_scale.model_copy(update={"model_version": text}),
    }
    return VISUAL_ONLY.model_copy(update=scales)


def test_weights_for_the_feeds_models_are_accepted(snapshot: Snapshot) -> None:
    check_models(for_models("model-1", "text-1"), snapshot)


@pytest.mark.parametrize(
    ("visual", "text", "problem"),
    [
        ("model-2", "text-1", r"visual_scale\.model_version expected model-1, as in run 'run', found model-2"),
        ("model-1", "text-2", r"text_scale\.model_version expected text-1, as in run 'run', found text-2"),
    ],
)
def test_weights_for_other_models_than_the_feeds_are_refused(
    snapshot: Snapshot, visual: str, text: str, problem: str
) -> None:
    with pytest.raises(RerankError, match=problem):
        check_models(for_models(visual, text), snapshot)


def test_the_committed_weights_are_for_the_local_profiles_models() -> None:
    weights, config = load_weights(Path("conf/rerank.yaml")), load("conf/local.yaml")
    assert weights.visual > 0
    assert weights.visual_scale.model_version == model_version(config.embedding, canonical_version(config.images))
    assert weights.text_scale.model_version == text_model_version(config.text)


def test_saved_weights_come_back_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    save_weights(VISUAL_ONLY, path, "two lines\nof comment")
    assert load_weights(path) == VISUAL_ONLY
    assert path.read_text().startswith("# two lines\n# of comment\nversion: ")
    path.write_text(path.read_text().replace("text: 0", "text: 1"))
    changed = VISUAL_ONLY.model_copy(update={"text": 1.0})
    with pytest.raises(RerankError, match=f"version expected {VISUAL_ONLY.version}, found {changed.version}"):
        load_weights(path)


def test_a_file_without_a_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    path.write_text(yaml.safe_dump({"weights": VISUAL_ONLY.model_dump()}))
    with pytest.raises(RerankError, match="KeyError: 'version'"):
        load_weights(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version: !!timestamp soon\n", "AttributeError"),
        ("version: !!int ''\n", "IndexError"),
        ("weights: {depth: 0}", r"weights\.depth: Input should be greater"),
        ("[]", "TypeError"),
        ("other: 1", "KeyError"),
        ("\xff", "UnicodeDecodeError"),
    ],
)
def test_a_wrong_file_of_weights_is_refused_with_what_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "weights.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RerankError, match=problem):
        load_weights(path)


def test_a_file_of_weights_of_lists_within_lists_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.yaml"
    path.write_text("[" * 20_000)
    with pytest.raises(RerankError, match="expected weights of the re-ranker: RecursionError"):
        load_weights(path)


def test_what_anchors_multiply_is_refused_without_being_written_out(tmp_path: Path) -> None:
    """A line that doubles the one before: said in full, it would be of a gigabyte or so."""
    path = tmp_path / "weights.yaml"
    lines = ["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 20)), "weights: *a19"]
    path.write_text("\n".join(lines))
    with pytest.raises(RerankError, match="weights") as refused:
        load_weights(path)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["visual", "domains", "mean", "deviation"])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, name: str, number: float) -> None:
    """With one of them all scores are NaN, and nothing is put in order."""
    given = VISUAL_ONLY.model_dump()
    (given["visual_scale"] if name in given["visual_scale"] else given)[name] = number
    path = tmp_path / "weights.yaml"
    path.write_text(yaml.safe_dump({"version": "-", "weights": given}))
    with pytest.raises(RerankError, match=rf"weights\.\S*{name}: Input should be a finite number"):
        load_weights(path)


@pytest.mark.parametrize(("count", "pairs"), [(0, 10), (1, 10), (3, 0)])
def test_a_scale_of_nothing_is_refused(count: int, pairs: int) -> None:
    with pytest.raises(RerankError, match="expected two or more vectors and a pair"):
        measured_scale(np.eye(3, dtype=np.float32)[:count], "model", pairs=pairs)


@pytest.mark.parametrize("pairs", [1.5, "3", None, True, float("nan")])
def test_pairs_that_are_no_whole_number_are_refused_by_their_name(pairs: Any) -> None:
    with pytest.raises(RerankError, match=re.escape(f"pairs: expected a whole number, found {pairs!r}")):
        measured_scale(np.eye(3, dtype=np.float32), "model", pairs=pairs)


def test_a_scale_of_cosines_that_do_not_differ_is_refused() -> None:
    for vectors in (np.ones((5, 1), np.float32), np.full((5, 3), np.nan, np.float32)):
        with pytest.raises(RerankError, match="a scale: expected cosines that differ, found a mean of"):
            measured_scale(vectors, "model")
