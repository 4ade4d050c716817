"""The reference re-ranker: what each signal does to an order, what the mask hides, what the weights' file must hold."""

from pathlib import Path

import numpy as np
import pytest

from readers.rerank import RerankError, Scale, Signals, Weights, load_weights, measured_scale, rerank

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


QUERY = Signals(
    vectors=np.array([[1, 0]], np.float32),
    texts=np.array([[1, 0]], np.float32),
    has_text=np.array([True]),
    sharpness=np.array([50.0]),
    members=np.array([1]),
    domains=np.array([1]),
)


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
    silent = Signals(QUERY.vectors, QUERY.texts, np.array([False]), QUERY.sharpness, QUERY.members, QUERY.domains)
    assert rerank(silent, items(), weights).tolist() == [0, 1, 2, 3]


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


def test_the_committed_weights_load_and_have_a_version_of_their_own() -> None:
    weights = load_weights(Path("conf/rerank.yaml"))
    assert weights.visual > 0
    assert weights.version != weights.model_copy(update={"text": weights.text + 1}).version


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("weights: {depth: 0}", r"weights\.depth: Input should be greater"),
        ("[]", "TypeError"),
        ("other: 1", "KeyError"),
    ],
)
def test_a_wrong_file_of_weights_is_refused_with_what_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "weights.yaml"
    path.write_text(text)
    with pytest.raises(RerankError, match=problem):
        load_weights(path)
