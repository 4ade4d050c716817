"""An alignment maps both sides into one space, is stored with its digest, and its cosines are calibrated."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from udfs.alignment import (
    Alignment,
    AlignmentError,
    Calibration,
    calibration_of,
    image_text_cosine,
    load_alignment,
    save_alignment,
)

CALIBRATION = Calibration(0.1, 0.2)


@pytest.fixture
def alignment() -> Alignment:
    """Images of three dimensions, texts of two, into two: the image's first two, and the text as it is."""
    return Alignment(
        model_version="image",
        text_model_version="text",
        image_mean=np.array([0, 0, 5], np.float32),
        image_projection=np.array([[1, 0], [0, 1], [0, 0]], np.float32),
        text_mean=np.zeros(2, np.float32),
        text_projection=np.eye(2, dtype=np.float32),
        calibration=CALIBRATION,
    )


def test_cosines_are_those_of_the_projected_vectors_and_missing_text_has_none(alignment: Alignment) -> None:
    images = np.array([[3, 0, 9], [3, 3, 1], [1, 0, 0]], np.float32)
    texts = np.array([[2, 0], [1, 0], [0, 0]], np.float32)
    cosines = image_text_cosine(images, texts, np.array([True, True, False]), alignment)
    np.testing.assert_allclose(cosines, [1, np.sqrt(0.5), np.nan], rtol=1e-6)
    np.testing.assert_allclose(CALIBRATION.standardise(cosines)[:2], (cosines[:2] - 0.1) / 0.2)


def test_native_towers_need_no_alignment_but_one_dimension() -> None:
    images, texts = np.array([[3, 4]], np.float32), np.array([[1, 0]], np.float32)
    assert image_text_cosine(images, texts, np.array([True]), None) == pytest.approx([0.6])
    with pytest.raises(AlignmentError, match=r"of one space, found \(1, 2\) and \(1, 1\); fit an alignment"):
        image_text_cosine(images, texts[:, :1], np.array([True]), None)


def test_unrelated_pairs_are_calibrated_to_mean_zero_and_deviation_one() -> None:
    generator = np.random.default_rng(0)
    raw = generator.normal(0.4, 1, size=(2, 400, 12))
    images, texts = (raw / np.linalg.norm(raw, axis=2, keepdims=True)).astype(np.float32)
    calibration = calibration_of(images, texts)
    unrelated = calibration.standardise((images @ texts.T)[~np.eye(400, dtype=bool)].astype(np.float64))
    assert unrelated.mean() == pytest.approx(0, abs=0.02)
    assert unrelated.std() == pytest.approx(1, abs=0.02)


def test_what_was_stored_comes_back_with_its_version(alignment: Alignment, tmp_path: Path) -> None:
    path = save_alignment(alignment, tmp_path / "alignments", {"run_id": "run"})
    loaded = load_alignment(path)
    assert loaded.version == alignment.version
    assert path.stem == f"alignment-{alignment.version[:16]}"
    images = np.array([[1, 2, 3]], np.float32)
    assert np.array_equal(loaded.images(images), alignment.images(images))


def test_versions_differ_with_every_part(alignment: Alignment) -> None:
    others = [
        replace(alignment, model_version="other"),
        replace(alignment, text_mean=np.ones(2, np.float32)),
        replace(alignment, calibration=Calibration(0.1, 0.3)),
    ]
    assert len({alignment.version, *(other.version for other in others)}) == 4


def test_a_changed_file_is_refused(alignment: Alignment, tmp_path: Path) -> None:
    path = save_alignment(alignment, tmp_path, {})
    path.write_text(path.read_text().replace('"deviation": 0.2', '"deviation": 0.25'))
    with pytest.raises(AlignmentError, match="version expected"):
        load_alignment(path)
    path.with_suffix(".safetensors").write_bytes(b"other")
    with pytest.raises(AlignmentError, match="SHA-256 expected"):
        load_alignment(path)
    path.write_text("[]")
    with pytest.raises(AlignmentError, match="not the description of an alignment"):
        load_alignment(path)


def test_shapes_that_do_not_fit_are_refused(alignment: Alignment) -> None:
    with pytest.raises(AlignmentError, match=r"image vectors: expected shape \(N, 3\), found \(1, 2\)"):
        alignment.images(np.zeros((1, 2), np.float32))
    with pytest.raises(AlignmentError, match="into one space, found 1 and 2 dimensions"):
        replace(alignment, image_projection=np.ones((3, 1), np.float32))
    with pytest.raises(AlignmentError, match="expected a deviation above 0, found 0"):
        Calibration(0, 0)
