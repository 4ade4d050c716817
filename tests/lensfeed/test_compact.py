"""Compact vectors keep neighbours, say which calibration they need, and refuse another's."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensfeed.compact import CompactError, Int8Calibration, Vectors, float16_vectors, recall_against


@pytest.fixture
def vectors() -> Vectors:
    """Unit vectors whose dimensions differ in range by two orders of magnitude, as a CNN's do."""
    raw = np.random.default_rng(0).normal(size=(600, 48)) * np.geomspace(0.02, 2, 48)
    unit: Vectors = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_neighbours_survive_and_crude_rounding_would_be_noticed(vectors: Vectors) -> None:
    queries = np.arange(0, 600, 3)
    calibration = Int8Calibration.of(vectors[:200], "model")
    int8 = recall_against(vectors, calibration.decode(calibration.encode(vectors)), queries)
    float16 = recall_against(vectors, float16_vectors(vectors).astype(np.float32), queries)
    signs = recall_against(vectors, np.sign(vectors), queries)
    assert float16 > 0.99
    assert int8 > 0.95
    assert signs < int8


def test_codes_decode_within_half_a_step(vectors: Vectors) -> None:
    calibration = Int8Calibration.of(vectors, "model")
    error = np.abs(calibration.decode(calibration.encode(vectors)) - vectors)
    assert (error <= calibration.scales * 0.5001).all()


def test_values_beyond_the_sample_are_clipped(vectors: Vectors) -> None:
    codes = Int8Calibration.of(vectors[:10] * 0.1, "model").encode(vectors)
    assert codes.min() == -127
    assert codes.max() == 127


def test_folded_queries_score_codes_as_if_they_were_decoded(vectors: Vectors) -> None:
    calibration = Int8Calibration.of(vectors, "model")
    codes = calibration.encode(vectors)
    folded = calibration.fold(vectors[:5]) @ codes.T.astype(np.float32)
    np.testing.assert_allclose(folded, vectors[:5] @ calibration.decode(codes).T, rtol=1e-4, atol=1e-5)


def test_a_calibration_is_stored_with_its_version(vectors: Vectors, tmp_path: Path) -> None:
    calibration = Int8Calibration.of(vectors, "model")
    path = tmp_path / "int8.json"
    calibration.save(path)
    loaded = Int8Calibration.load(path)
    assert loaded.version == calibration.version
    assert np.array_equal(loaded.scales, calibration.scales)
    assert Int8Calibration.of(vectors, "another").version != calibration.version


def test_a_changed_calibration_is_refused(vectors: Vectors, tmp_path: Path) -> None:
    path = tmp_path / "int8.json"
    Int8Calibration.of(vectors, "model").save(path)
    path.write_text(path.read_text().replace('"model"', '"other"'))
    with pytest.raises(CompactError, match="version expected"):
        Int8Calibration.load(path)
    path.write_text('{"version": "v", "model_version": 1, "scales": [1.0]}')
    with pytest.raises(CompactError, match="not a calibration: AttributeError"):
        Int8Calibration.load(path)
    path.write_text("{}")
    with pytest.raises(CompactError, match="not a calibration: KeyError"):
        Int8Calibration.load(path)


@pytest.mark.parametrize(
    "scales",
    ["[0.0]", "[NaN]", "[Infinity]", "[-1.0]", "[1e-300]", "[1e300]", "[[1.0]]", "1.0", "[]", f"[1{'0' * 400}]"],
)
def test_scales_that_are_no_steps_are_refused(tmp_path: Path, scales: str) -> None:
    """By a step of nothing every vector is clipped, and by one that is no number all codes are the same."""
    path = tmp_path / "int8.json"
    with np.errstate(over="ignore"):
        try:
            found = np.array(json.loads(scales), "<f4").tobytes()
        except OverflowError:
            found = b""
    version = hashlib.sha256(b"model\n" + found).hexdigest()
    path.write_text(f'{{"version": "{version}", "model_version": "model", "scales": {scales}}}')
    with pytest.raises(CompactError, match=f"{path}: not a calibration: "):
        Int8Calibration.load(path)


def test_a_file_of_lists_within_lists_is_no_calibration(tmp_path: Path) -> None:
    path = tmp_path / "int8.json"
    path.write_text("[" * 100_000)
    with pytest.raises(CompactError, match="not a calibration: RecursionError"):
        Int8Calibration.load(path)


def test_a_sample_beyond_what_a_scale_can_be_is_refused() -> None:
    with pytest.raises(CompactError, match=r"scales: expected finite numbers above 0, \(D > 0,\)"):
        Int8Calibration.of(np.full((2, 3), 1e300), "model")


def test_another_dimension_is_refused(vectors: Vectors) -> None:
    with pytest.raises(CompactError, match=r"expected shape \(N, 48\), found \(600, 47\)"):
        Int8Calibration.of(vectors, "model").encode(vectors[:, 1:])
    with pytest.raises(CompactError, match=r"expected a sample \(N > 0, D\), found \(0, 48\)"):
        Int8Calibration.of(vectors[:0], "model")


@pytest.mark.parametrize("quantile", [0, -1, 1.5, float("nan")])
def test_a_quantile_that_is_none_is_refused(quantile: float) -> None:
    with pytest.raises(CompactError, match="expected a quantile above 0 and at most 1"):
        Int8Calibration.of(np.ones((2, 3), np.float32), "model", quantile)


def test_numbers_that_are_not_finite_are_refused_in_a_sample_and_in_vectors() -> None:
    unsound = np.array([[1, np.nan], [1, 1], [np.inf, 1]], np.float32)
    with pytest.raises(CompactError, match="expected finite numbers"):
        Int8Calibration.of(unsound, "model")
    with pytest.raises(CompactError, match="found others in 2 of 3 rows"):
        Int8Calibration.of(unsound[1:2], "model").encode(unsound)


@pytest.mark.parametrize(("queries", "k"), [([], 1), ([4], 1), ([-1], 1), ([0], 0)])
def test_recall_of_no_queries_and_of_rows_that_are_none_is_refused(queries: list[int], k: int) -> None:
    vectors = np.eye(4, dtype=np.float32)
    with pytest.raises(ValueError, match="expected"):
        recall_against(vectors, vectors, np.array(queries, np.int64), k)


@pytest.mark.parametrize("k", [1.5, "3", True])
def test_recall_at_a_k_that_is_no_whole_number_is_refused_by_its_name(k: Any) -> None:
    vectors = np.eye(4, dtype=np.float32)
    with pytest.raises(TypeError, match="k: expected a whole number, found"):
        recall_against(vectors, vectors, np.array([0]), k)
