"""An alignment maps both sides into one space, is stored with its digest, and its cosines are calibrated."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.settings import AssetSettings, EmbeddingSettings
from udfs.assets import sha256_of
from udfs.embedding.alignment import (
    Alignment,
    AlignmentError,
    Calibration,
    Projections,
    alignment_for,
    calibration_of,
    load_alignment,
    save_alignment,
)

CALIBRATION = Calibration(0.1, 0.2)
PROJECTIONS = Projections(
    image_mean=np.array([0, 0, 5], np.float32),
    image_projection=np.array([[1, 0], [0, 1], [0, 0]], np.float32),
    text_mean=np.zeros(2, np.float32),
    text_projection=np.eye(2, dtype=np.float32),
)
"""Images of three dimensions, texts of two, into two: the image's first two, and the text as it is."""
ALIGNED = Alignment("image", "text", PROJECTIONS, CALIBRATION)
NATIVE = Alignment("image", "text", None, None)


@pytest.mark.parametrize(
    ("image", "text", "cosine"),
    [([3, 0, 9], [2, 0], 1), ([3, 3, 1], [1, 0], np.sqrt(0.5)), ([0, -1, 0], [0, 3], -1), ([0, 0, 1], [1, 0], 0)],
)
def test_a_cosine_is_that_of_the_projected_vectors(image: list[float], text: list[float], cosine: float) -> None:
    found = ALIGNED.cosine(np.array(image, np.float32), np.array(text, np.float32))
    assert found == pytest.approx(cosine, abs=1e-6)
    assert found == round(found, 6)


def test_native_towers_need_no_projections_but_one_dimension() -> None:
    image, text = np.array([3, 4], np.float32), np.array([1, 0], np.float32)
    assert NATIVE.cosine(image, text) == 0.6
    with pytest.raises(AlignmentError, match=r"of one space, found \(2,\) and \(1,\); fit an alignment"):
        NATIVE.cosine(image, text[:1])


def test_many_vectors_at_once_give_the_same_cosines() -> None:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(50, 3)).astype(np.float32)
    texts = generator.normal(size=(50, 2)).astype(np.float32)
    at_once = np.einsum("nk,nk->n", ALIGNED.images(images), ALIGNED.texts(texts))
    one_by_one = [ALIGNED.cosine(image, text) for image, text in zip(images, texts, strict=True)]
    np.testing.assert_allclose(at_once, one_by_one, atol=2e-6)


def test_unrelated_pairs_are_calibrated_to_mean_zero_and_deviation_one() -> None:
    generator = np.random.default_rng(0)
    raw = generator.normal(0.4, 1, size=(2, 400, 12))
    images, texts = (raw / np.linalg.norm(raw, axis=2, keepdims=True)).astype(np.float32)
    calibration = calibration_of(images, texts)
    unrelated = calibration.standardise((images @ texts.T)[~np.eye(400, dtype=bool)].astype(np.float64))
    assert unrelated.mean() == pytest.approx(0, abs=0.02)
    assert unrelated.std() == pytest.approx(1, abs=0.02)


def test_pairs_of_one_group_are_not_taken_for_unrelated() -> None:
    # Two groups of alike pairs: 1 within a group, 0 or 0.6 between them.
    images = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    texts = np.array([[1, 0], [1, 0], [0.6, 0.8], [0, 1]], np.float32)
    calibration = calibration_of(images, texts, groups=np.array([7, 7, 2, 2]))
    assert calibration.mean == pytest.approx(0.15, abs=0.01)
    assert calibration.deviation == pytest.approx(np.sqrt(0.36 / 4 - 0.15**2), abs=0.01)
    assert calibration_of(images, texts).mean > 0.3


def test_groups_that_part_no_pairs_change_no_calibration() -> None:
    images, texts = np.random.default_rng(0).normal(size=(2, 30, 4)).astype(np.float32)
    assert calibration_of(images, texts, groups=np.arange(30)) == calibration_of(images, texts)


@pytest.mark.parametrize(
    ("count", "groups", "problem"),
    [
        (1, None, "expected two pairs at least, found 1"),
        (3, np.zeros(3, np.int64), r"of different groups, found none among 100000 drawn from 3 pairs \(groups: 1\)"),
        (3, np.arange(2), "expected a group for each of 3 pairs, found 2"),
    ],
)
def test_a_calibration_without_unrelated_pairs_is_refused(
    count: int, groups: NDArray[np.int64] | None, problem: str
) -> None:
    vectors = np.eye(4, dtype=np.float32)[:count]
    with pytest.raises(AlignmentError, match=problem):
        calibration_of(vectors, vectors, groups=groups)


@pytest.mark.parametrize("alignment", [ALIGNED, NATIVE, replace(NATIVE, calibration=CALIBRATION)])
def test_what_was_stored_comes_back_with_its_version(alignment: Alignment, tmp_path: Path) -> None:
    path = save_alignment(alignment, tmp_path / "alignments", {"run_id": "run"})
    loaded = load_alignment(path)
    assert loaded.version == alignment.version
    assert loaded.calibration == alignment.calibration
    assert path.name == f"alignment-{alignment.version[:16]}.safetensors"
    assert f'"sha256": "{sha256_of(path)}"' in path.with_suffix(".json").read_text()
    if alignment.projections:
        images = np.array([[1, 2, 3]], np.float32)
        assert np.array_equal(loaded.images(images), alignment.images(images))


def test_versions_differ_with_every_part() -> None:
    others = [
        replace(ALIGNED, model_version="other"),
        replace(ALIGNED, text_model_version="other"),
        replace(ALIGNED, projections=replace(PROJECTIONS, text_mean=np.ones(2, np.float32))),
        replace(ALIGNED, calibration=Calibration(0.1, 0.3)),
        replace(ALIGNED, projections=None),
        NATIVE,
    ]
    assert len({ALIGNED.version, *(other.version for other in others)}) == 7


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda data: data.replace(b"0.2", b"0.3"), "version expected"),
        (lambda data: data[:-1] + b"\x01", "version expected"),
        (lambda data: data[:100], "not an alignment"),
        (lambda _: b"[]", "not an alignment"),
        (lambda data: data.replace(b"lensfeed.alignment", b"lensfeed.elsewhere"), "not an alignment"),
    ],
)
def test_a_changed_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], problem: str) -> None:
    path = save_alignment(ALIGNED, tmp_path, {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(AlignmentError, match=problem):
        load_alignment(path)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AlignmentError, match=r"image vectors: expected shape \(N, 3\), found \(1, 2\)"):
        ALIGNED.images(np.zeros((1, 2), np.float32))
    with pytest.raises(AlignmentError, match="into one space, found 1 and 2 dimensions"):
        replace(PROJECTIONS, image_projection=np.ones((3, 1), np.float32))
    with pytest.raises(AlignmentError, match="expected a deviation above 0, found 0"):
        Calibration(0, 0)


def embedding(**given: object) -> EmbeddingSettings:
    """Settings of some visual tower, whose weights nobody reads."""
    weights = {"path": "none.safetensors", "sha256": "0" * 64}
    return EmbeddingSettings.model_validate({"weights": weights, "licence": "none", **given})


def test_pictures_and_texts_are_compared_as_the_settings_say(tmp_path: Path) -> None:
    path = save_alignment(ALIGNED, tmp_path, {})
    asset = AssetSettings(path=str(path), sha256=sha256_of(path))
    assert alignment_for(embedding(), "image", "text") is None
    assert alignment_for(embedding(shares_text_space=True), "image", "text") == NATIVE
    for shares in (False, True):
        found = alignment_for(embedding(alignment=asset, shares_text_space=shares), "image", "text")
        assert found is not None
        assert found.version == ALIGNED.version
    with pytest.raises(AlignmentError, match="for the configured image model, other, found one for image; fit it anew"):
        alignment_for(embedding(alignment=asset), "other", "text")
    with pytest.raises(AlignmentError, match="for the configured text model, other, found one for text; fit it anew"):
        alignment_for(embedding(alignment=asset), "image", "other")
