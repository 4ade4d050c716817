"""From a published feed to a stored alignment: what it learns, how it splits, what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs.contrastive import Settings, fit
from jobs.fit_alignment import Pairs, duplicate_groups, main, read_pairs, split
from jobs.progress import log
from readers.snapshot import Snapshot
from tests.readers.tiny_warehouse import TinyWarehouse, feed_row
from udfs.alignment import Alignment, load_alignment

COUNT, IMAGE, TEXT = 240, 24, 12


def pairs_of(seed: int, count: int = COUNT) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors of two spaces that see the same six causes, each through its own mixture and noise."""
    generator = np.random.default_rng(seed)
    causes = generator.normal(size=(count, 6))
    images = causes @ generator.normal(size=(6, IMAGE)) + 0.5 * generator.normal(size=(count, IMAGE))
    texts = causes @ generator.normal(size=(6, TEXT)) + 0.5 * generator.normal(size=(count, TEXT))
    image, text = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (images, texts))
    return image.astype(np.float32), text.astype(np.float32)


def publish(feed: TinyWarehouse, count: int = COUNT) -> str:
    """A feed of these pairs in three files, every tenth without text; the warehouse's path."""
    images, texts = pairs_of(1, count)
    rows: list[dict[str, Any]] = []
    for n in range(count):
        silent = n % 10 == 9
        text = [0.0] * TEXT if silent else texts[n].tolist()
        rows.append(feed_row(n, vector=images[n].tolist(), text_vector=text, has_text=not silent))
    for start in range(0, count, -(-count // 3)):
        feed.write("index_feed", rows[start : start - (-count // 3)])
    feed.event("run", "published")
    return str(feed.root)


@pytest.fixture
def feed(tmp_path: Path) -> TinyWarehouse:
    """A warehouse without Spark, still empty."""
    return TinyWarehouse(tmp_path / "warehouse")


def test_held_out_pairs_are_found_far_above_chance_and_the_alignment_is_stored(
    feed: TinyWarehouse, tmp_path: Path
) -> None:
    into = tmp_path / "alignment"
    assert main(["--warehouse", publish(feed), "--into", str(into), "--dimension", "6", "--held-out", "0.3"]) == 0
    (path,) = into.glob("*.safetensors")
    described = json.loads(path.with_suffix(".json").read_text())
    assert described["run_id"] == "run"
    assert described["pairs"]["read"] == COUNT * 9 // 10
    for figures in described["recall"].values():
        chance = figures["chance"]["recall@10"]
        for direction in ("image to text", "text to image"):
            assert figures[f"{direction}, aligned"]["recall@10"] > 4 * chance
            assert figures[f"{direction}, no alignment"]["recall@10"] < 3 * chance

    alignment = load_alignment(path)
    assert (alignment.model_version, alignment.text_model_version) == ("model-1", "text-1")
    own, other = standardised(alignment)
    assert own.mean() > 1.5
    assert abs(other.mean()) < 0.3


def standardised(alignment: Alignment) -> list[NDArray[np.float64]]:
    """Calibrated cosines of each image to its own text, and to its neighbour's."""
    images, texts = pairs_of(1)
    assert alignment.calibration is not None
    return [
        alignment.calibration.standardise(
            np.array([alignment.cosine(image, text) for image, text in zip(images, others, strict=True)])
        )
        for others in (texts, np.roll(texts, 1, axis=0))
    ]


def test_the_same_feed_gives_the_same_alignment(feed: TinyWarehouse, tmp_path: Path) -> None:
    root = publish(feed)
    for name in ("first", "second"):
        assert main(["--warehouse", root, "--into", str(tmp_path / name), "--dimension", "6"]) == 0
    first, second = (sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("first", "second"))
    assert first == second


def test_no_more_pairs_are_read_than_asked_for(feed: TinyWarehouse) -> None:
    snapshot = Snapshot.open(publish(feed))
    pairs = read_pairs(snapshot, 50, seed=0)
    assert pairs.vectors.shape == (50, IMAGE)
    assert pairs.texts.shape == (50, TEXT)


def test_alike_images_and_equal_texts_are_one_group_and_stay_on_one_side() -> None:
    images, texts = pairs_of(2, 60)
    images[1] = images[0]
    texts[2] = texts[1]
    images[3] = (images[2] + 0.01 * images[3]) / np.linalg.norm(images[2] + 0.01 * images[3])
    groups = duplicate_groups(Pairs(images, texts, 0), 0.99)
    assert len(set(groups[:4])) == 1
    assert len(set(groups)) == 57
    for seed in range(10):
        held = split(groups, 0.5, seed)
        assert len(set(held[:4])) == 1
        assert 0.3 < held.mean() <= 0.5


def test_the_contrastive_loss_improves_on_a_poor_start() -> None:
    images, texts = pairs_of(3, 600)
    settings = Settings(dimension=6, shrinkages=(1000.0,), epochs=40, learning_rate=3e-2, dropout=0.0)
    _, figures = fit(images, texts, np.arange(600), settings)
    assert figures["shrinkage"] == 1000.0
    assert figures["epochs_kept"] > 0
    assert figures["reciprocal_rank"] > 1.1 * figures["reciprocal_rank_at_start"]


def test_the_shrinkage_is_the_one_under_which_unseen_pairs_are_told_apart_best() -> None:
    images, texts = pairs_of(3, 600)
    fits = {
        one: fit(images, texts, np.arange(600), Settings(dimension=6, shrinkages=one, epochs=0))[1]
        for one in ((1e-6,), (1.0,), (1e6,), (1e-6, 1.0, 1e6))
    }
    ranks = {chosen[0]: figures["reciprocal_rank"] for chosen, figures in fits.items() if len(chosen) == 1}
    assert len(set(ranks.values())) == 3
    assert fits[1e-6, 1.0, 1e6]["shrinkage"] == max(ranks, key=lambda one: ranks[one])


def test_towers_that_share_a_space_are_only_calibrated(feed: TinyWarehouse, tmp_path: Path) -> None:
    vectors = pairs_of(1, 60)[1]
    noisy = vectors + 0.1 * np.random.default_rng(0).normal(size=vectors.shape)
    feed.write(
        "index_feed",
        [feed_row(n, vector=noisy[n].tolist(), text_vector=vectors[n].tolist(), has_text=True) for n in range(60)],
    )
    feed.event("run", "published")
    assert (
        main(["--warehouse", str(feed.root), "--into", str(tmp_path / "native"), "--native", "--dimension", "6"]) == 0
    )
    (path,) = (tmp_path / "native").glob("*.safetensors")
    alignment = load_alignment(path)
    assert alignment.projections is None
    assert alignment.calibration is not None
    unrelated = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)) @ vectors.T
    assert alignment.calibration.mean == pytest.approx(unrelated[~np.eye(60, dtype=bool)].mean(), abs=0.01)
    figures = json.loads(path.with_suffix(".json").read_text())["recall"]["all pairs"]
    assert figures["image to text, native"]["recall@1"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--held-out", "1.5"], "--held-out: expected a share between 0 and 1, found 1.5"),
        (["--dimension", "99"], "--dimension: expected 1 to 12, found 99"),
        (["--pairs", "3"], "--pairs: expected at least 8, found 3"),
        (["--run", "other"], "other"),
        (
            ["--native", "--dimension", "6"],
            "--native: image vectors have 24 dimensions, text vectors 12: they share no",
        ),
    ],
)
def test_bad_usage_ends_with_exit_code_two_and_says_what_was_expected(
    feed: TinyWarehouse, tmp_path: Path, caplog: pytest.LogCaptureFixture, arguments: list[str], problem: str
) -> None:
    into = tmp_path / "alignment"
    root = publish(feed)
    log.addHandler(caplog.handler)
    try:
        assert main(["--warehouse", root, "--into", str(into), *arguments]) == 2
    finally:
        log.removeHandler(caplog.handler)
    assert problem in caplog.text
    assert not into.exists()


def test_a_feed_of_too_few_pairs_is_refused(feed: TinyWarehouse, tmp_path: Path) -> None:
    root = publish(feed, 6)
    assert main(["--warehouse", root, "--into", str(tmp_path / "alignment")]) == 2
