"""From a published feed to a stored alignment: what it learns, how it splits, what it refuses."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from jobs.config.errors import UsageError
from jobs.config.progress import log
from jobs.evaluation.aligning import Pairs, duplicate_groups, evaluate, measured, read_pairs, split
from jobs.evaluation.contrastive import Settings, fit
from jobs.fit_alignment import main
from lensfeed.snapshot import Snapshot
from schemas.settings import EmbeddingSettings
from tests.lensfeed.tiny_warehouse import TinyWarehouse, feed_row
from udfs.embedding.alignment import Alignment, alignment_for, calibration_of, load_alignment

COUNT, IMAGE, TEXT = 240, 24, 12


def pairs_of(seed: int, count: int = COUNT) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors of two spaces that see the same six causes, each through its own mixture and noise."""
    generator = np.random.default_rng(seed)
    causes = generator.normal(size=(count, 6))
    images = causes @ generator.normal(size=(6, IMAGE)) + 0.5 * generator.normal(size=(count, IMAGE))
    texts = causes @ generator.normal(size=(6, TEXT)) + 0.5 * generator.normal(size=(count, TEXT))
    image, text = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (images, texts))
    return image.astype(np.float32), text.astype(np.float32)


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Each row (N, D) at unit length."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clustered(seed: int, count: int = 900) -> Pairs:
    """Pairs of which many are alike: chains of pictures, each alike to the next alone, cliques, equal texts."""
    generator = np.random.default_rng(seed)
    centres = unit(generator.normal(size=(count, IMAGE)))
    steps = generator.normal(size=(count, IMAGE)) * generator.choice([0.02, 0.08, 0.2], (count, 1))
    origins = generator.integers(0, np.arange(1, count + 1))
    fresh = generator.random(count) < 0.4
    for n in np.flatnonzero(~fresh):
        centres[n] = unit((centres[origins[n]] + steps[n])[None])[0]
    texts = unit(generator.normal(size=(count, TEXT)))
    repeated = generator.random(count) < 0.1
    texts[repeated] = texts[origins[repeated]]
    mixed = generator.permutation(count)
    return Pairs(centres[mixed], texts[mixed], 0)


def peak_of(action: Callable[[], object]) -> int:
    """Bytes that an action holds at most, beyond what there is."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


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


def test_what_is_printed_last_is_what_a_profile_takes(
    feed: TinyWarehouse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "alignment: of 2026, # 1"
    assert main(["--warehouse", publish(feed), "--into", str(into), "--dimension", "6"]) == 0
    (path,) = into.glob("*.safetensors")
    printed = capsys.readouterr().out
    first, second = printed.splitlines()
    assert first == "embedding:"
    assert second.startswith("  alignment: {path: ")
    stated = yaml.safe_load(printed)
    weights = {"path": "none.safetensors", "sha256": "0" * 64}
    embedding = EmbeddingSettings.model_validate({"weights": weights, "licence": "none", **stated["embedding"]})
    assert embedding.alignment is not None
    assert embedding.alignment.path == str(path)
    assert alignment_for(embedding, "model-1", "text-1") is not None


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


def by_all_edges(pairs: Pairs, duplicate_cosine: float) -> list[int]:
    """Groups (N,) the plain way: every edge, followed from each pair not yet reached."""
    alike = pairs.vectors @ pairs.vectors.T >= duplicate_cosine
    alike |= (pairs.texts[:, None] == pairs.texts[None]).all(axis=2)
    found = [-1] * len(alike)
    for first in range(len(alike)):
        reached = [first] if found[first] < 0 else []
        number = max(found) + 1
        for one in reached:
            if found[one] < 0:
                found[one] = number
                reached += np.flatnonzero(alike[one]).tolist()
    return found


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_the_components_of_all_edges_numbered_as_they_appear(seed: int) -> None:
    pairs = clustered(seed)
    groups = duplicate_groups(pairs, 0.9)
    sizes = np.bincount(groups)
    assert (sizes == 1).any()
    assert (sizes > 5).any()
    assert groups.tolist() == by_all_edges(pairs, 0.9)


def test_a_picture_without_any_likeness_is_a_group_of_its_own() -> None:
    images, texts = pairs_of(2, 10)
    images[3:5] = 0  # not even alike to itself
    assert duplicate_groups(Pairs(images, texts, 0), 0.999).tolist() == list(range(10))


def test_thousands_of_alike_pictures_are_grouped_without_a_list_of_their_edges() -> None:
    count = 4000
    images = np.tile(pairs_of(2, 1)[0], (count, 1))
    pairs = Pairs(images, pairs_of(3, count)[1], 0)
    assert not duplicate_groups(pairs, 0.9).any()
    # Their edges would be two indices of 8 bytes for each of count ** 2.
    assert peak_of(lambda: duplicate_groups(pairs, 0.9)) < count**2


def test_recall_is_that_of_the_whole_matrix_in_less_memory() -> None:
    count = 5000
    images, texts = pairs_of(4, count)
    pairs = Pairs(images, texts, 0)
    held = np.random.default_rng(0).random(count) < 0.6
    native = Alignment("image", "text", None, None)
    space = Pairs(images[:, :TEXT], texts, 0)
    found = evaluate(space, held, {"native": native}, 0)["all pairs"]
    similarities = native.images(space.vectors)[held] @ native.texts(texts).T
    own = similarities[np.arange(held.sum()), np.flatnonzero(held)]
    ranks = (similarities >= own[:, None]).sum(axis=1)
    for k in (1, 5, 10):
        assert found["image to text, native"][f"recall@{k}"] == pytest.approx(np.mean(ranks <= k), abs=2 / held.sum())
    # A matrix of 4 bytes a cell and a mask are more.
    assert peak_of(lambda: evaluate(pairs, held, {}, 0)) < 3 * held.sum() * count


@pytest.mark.parametrize("seed", range(10))
def test_a_group_too_big_to_be_held_out_leaves_room_for_those_that_fit(seed: int) -> None:
    sizes = [400, *[1] * 300, *[30] * 10]
    groups = np.repeat(np.arange(len(sizes)), sizes)
    held = split(groups, 0.3, seed)
    assert 0.28 < held.mean() <= 0.3
    assert not held[0]
    assert all(len(set(held[groups == group])) == 1 for group in range(len(sizes)))
    assert np.array_equal(held, split(groups, 0.3, seed))


def test_splits_differ_with_the_seed() -> None:
    groups = np.arange(100)
    assert not np.array_equal(split(groups, 0.5, 0), split(groups, 0.5, 1))


@pytest.mark.parametrize(
    ("sizes", "share", "found"),
    [
        ([1] * 10, 0.1, "found 1 and 9 (1 and 9 pairs; the largest group has 1)"),
        ([1] * 10, 0.8, "found 8 and 2 (8 and 2 pairs; the largest group has 1)"),
        ([70, *[1] * 30], 0.5, "found 30 and 1 (30 and 70 pairs; the largest group has 70)"),
        ([50, 50], 0.4, "found 0 and 2 (0 and 100 pairs; the largest group has 50)"),
        ([9], 0.5, "found 0 and 1 (0 and 9 pairs; the largest group has 9)"),
    ],
)
def test_too_few_groups_on_a_side_are_refused_with_what_there_is(sizes: list[int], share: float, found: str) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    with pytest.raises(UsageError) as refused:
        split(groups, share, 0)
    assert f"--held-out {share}: expected at least 2 groups of alike pairs held out and 3 not, {found}" in str(
        refused.value
    )


def test_the_least_that_is_not_refused_can_be_fitted_and_measured(feed: TinyWarehouse, tmp_path: Path) -> None:
    images, texts = pairs_of(1, 8)
    images[5:] = images[4]
    rows = [feed_row(n, vector=images[n].tolist(), text_vector=texts[n].tolist(), has_text=True) for n in range(8)]
    feed.write("index_feed", rows)
    feed.event("run", "published")
    arguments = ["--warehouse", str(feed.root), "--dimension", "6"]
    ends = {
        seed: main([*arguments, "--into", str(tmp_path / f"{seed}"), "--seed", f"{seed}", "--held-out", "0.25"])
        for seed in range(3)
    }
    assert ends == {0: 0, 1: 0, 2: 0}  # two of the four that are unlike any other are held out
    assert main([*arguments, "--into", str(tmp_path / "half"), "--held-out", "0.5"]) == 2  # all four fit
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("native", [False, True])
def test_pairs_of_one_group_take_no_part_in_the_calibration(feed: TinyWarehouse, native: bool) -> None:
    publish(feed)
    snapshot = Snapshot.open(str(feed.root))
    images, texts = pairs_of(1, 60)
    if native:
        images = texts + np.float32(0)
    images[:30], texts[:30] = images[0], texts[0]
    pairs = Pairs(images, texts, 0)
    groups = duplicate_groups(pairs, 0.9)
    assert not groups[:30].any()
    held = np.arange(60) < 45
    settings = None if native else Settings(dimension=6, epochs=2)
    alignment, _, _ = measured(pairs, groups, held, snapshot, settings, 0)
    shown = np.ones(60, bool) if native else held
    sides = alignment.images(images[shown]), alignment.texts(texts[shown])
    assert alignment.calibration == calibration_of(*sides, 0, groups=groups[shown])
    assert alignment.calibration != calibration_of(*sides, 0)


def test_the_contrastive_loss_improves_on_a_poor_start() -> None:
    images, texts = pairs_of(3, 600)
    settings = Settings(dimension=6, shrinkages=(1000.0,), epochs=40, learning_rate=3e-2, dropout=0.0)
    _, figures = fit(images, texts, np.arange(600), settings)
    assert figures["shrinkage"] == 1000.0
    assert figures["epochs_kept"] > 0
    assert figures["reciprocal_rank"] > 1.1 * figures["reciprocal_rank_at_start"]


def test_a_fit_that_runs_away_keeps_the_start() -> None:
    images, texts = pairs_of(3, 60)
    settings = Settings(dimension=6, shrinkages=(1.0,), epochs=3, learning_rate=1e30)
    projections, figures = fit(images, texts, np.arange(60), settings)
    assert figures["epochs_kept"] == 0
    assert figures["reciprocal_rank"] == figures["reciprocal_rank_at_start"] <= 1
    assert all(np.isfinite(array).all() for array in projections.values())


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
    noisy = unit(vectors + 0.1 * np.random.default_rng(0).normal(size=vectors.shape))
    feed.write(
        "index_feed",
        [feed_row(n, vector=noisy[n].tolist(), text_vector=vectors[n].tolist(), has_text=True) for n in range(60)],
    )
    feed.event("run", "published")
    # Fewer dimensions than are fitted by default, and than are asked for: nothing is fitted.
    for dimension in ([], ["--dimension", "99"]):
        assert main(["--warehouse", str(feed.root), "--into", str(tmp_path / "native"), "--native", *dimension]) == 0
    (path,) = (tmp_path / "native").glob("*.safetensors")
    alignment = load_alignment(path)
    assert alignment.projections is None
    assert alignment.calibration is not None
    unrelated = (noisy @ vectors.T)[~np.eye(60, dtype=bool)]
    assert alignment.calibration.mean == pytest.approx(unrelated.mean(), abs=0.005)
    figures = json.loads(path.with_suffix(".json").read_text())["recall"]["all pairs"]
    assert figures["image to text, native"]["recall@1"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--held-out", "1.5"], "--held-out: expected a share between 0 and 1, found 1.5"),
        (["--dimension", "99"], "--dimension: expected 1 to 12, found 99"),
        (["--pairs", "3"], "--pairs: expected at least 8, found 3"),
        (["--run", "other"], "other"),
        (["--duplicate-cosine", "nan"], "--duplicate-cosine: expected above 0 and at most 1, found nan"),
        (["--duplicate-cosine", "90"], "--duplicate-cosine: expected above 0 and at most 1, found 90.0"),
        (["--native"], "--native: image vectors have 24 dimensions, text vectors 12: they share no"),
        (["--dimension", "6", "--held-out", "0.001"], "--held-out 0.001: expected at least 2 groups"),
        (["--dimension", "6", "--held-out", "0.999"], "--held-out 0.999: expected at least 2 groups"),
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


def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    log.addHandler(caplog.handler)
    try:
        for into in (tmp_path / "file", tmp_path / "file/below"):
            assert main(["--warehouse", str(tmp_path / "none"), "--into", str(into)]) == 2
            assert f"--into {into}: expected a folder, found the file {tmp_path / 'file'}" in caplog.text
        assert main(["--warehouse", str(tmp_path / "none"), "--into", str(tmp_path / ("x" * 256))]) == 2
        assert "File name too long" in caplog.text
    finally:
        log.removeHandler(caplog.handler)


def test_a_feed_of_too_few_pairs_is_refused(feed: TinyWarehouse, tmp_path: Path) -> None:
    root = publish(feed, 6)
    assert main(["--warehouse", root, "--into", str(tmp_path / "alignment")]) == 2
