"""Fixed batches: one result an item, in order, whatever fails beside it or on the device."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from udfs.embedding.vectors import Embedded, FixedBatches, Vectors, embedded_batch, smaller_batch, unit_vectors


def angle(items: Sequence[float], size: int) -> Vectors:
    """A model of two dimensions that computes on exactly `size` rows."""
    padded = np.zeros(size, dtype=np.float32)
    padded[: len(items)] = items
    return np.stack([np.cos(padded), np.sin(padded)], axis=1)[: len(items)]


def test_vectors_have_unit_norm_and_keep_their_direction() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 33)).astype(np.float32) * 1e3
    for row, result in zip(rows, unit_vectors(rows), strict=True):
        assert result.vector is not None
        assert result.vector.dtype == np.float32
        assert np.linalg.norm(result.vector.astype(np.float64)) == pytest.approx(1, abs=1e-6)
        assert float(result.vector @ row) == pytest.approx(float(np.linalg.norm(row)), rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_is_an_error_of_its_row_alone(bad: float) -> None:
    rows = np.ones((3, 4), dtype=np.float32)
    rows[1, 2] = bad
    assert [result.error for result in unit_vectors(rows)] == [None, "the model's output is not finite", None]


def test_a_zero_output_is_an_error() -> None:
    assert unit_vectors(np.zeros((1, 4), dtype=np.float32)) == [Embedded(error="the model's output is zero")]


@given(count=st.integers(0, 40), size=st.integers(1, 9))
def test_every_item_gets_its_own_result_in_order(count: int, size: int) -> None:
    items = [0.1 * index for index in range(count)]
    results = FixedBatches(angle, size).run(items)
    assert len(results) == count
    for item, result in zip(items, results, strict=True):
        assert result.vector == pytest.approx([np.cos(item), np.sin(item)], abs=1e-6)


def test_the_model_always_computes_on_the_same_number_of_rows() -> None:
    sizes: list[int] = []

    def forward(items: Sequence[float], size: int) -> Vectors:
        sizes.append(size)
        return angle(items, size)

    FixedBatches(forward, 8).run([0.5] * 19)
    assert sizes == [8, 8, 8]


@given(poisoned=st.sets(st.integers(0, 11)), size=st.integers(1, 5))
def test_an_item_that_breaks_its_batch_fails_alone(poisoned: set[int], size: int) -> None:
    def forward(items: Sequence[float], size: int) -> Vectors:
        if poisoned.intersection(items):
            raise ValueError("cannot infer this")
        return angle(items, size)

    results = FixedBatches(forward, size).run(list(range(12)))
    assert {index for index, result in enumerate(results) if result.vector is None} == poisoned
    assert {results[index].error for index in poisoned} <= {"ValueError: cannot infer this"}


def test_what_a_sound_item_provokes_too_is_the_process_s_fault_and_fails_the_task() -> None:
    broken = False

    def forward(items: Sequence[float], size: int) -> Vectors:
        if broken or 0.2 in items:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED")
        return angle(items, size)

    batches = FixedBatches(forward, 2, sound=0.5)
    assert [result.vector is not None for result in batches.run([0.1, 0.2, 0.3])] == [True, False, True]
    broken = True
    with pytest.raises(RuntimeError, match="CUBLAS_STATUS_EXECUTION_FAILED"):
        batches.run([0.1, 0.2, 0.3])


def test_running_out_of_gpu_memory_shrinks_the_batch_for_good() -> None:
    sizes: list[int] = []

    def forward(items: Sequence[float], size: int) -> Vectors:
        sizes.append(size)
        if size > 24:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return angle(items, size)

    batches = FixedBatches(forward, 64)
    assert all(result.vector is not None for result in batches.run([0.1] * 60))
    assert sizes == [64, 48, 32, 24, 24, 24]
    batches.run([0.1] * 24)
    assert sizes[6:] == [24]


def test_running_out_of_memory_while_a_broken_batch_is_tried_again_loses_no_item() -> None:
    def forward(items: Sequence[float], size: int) -> Vectors:
        if 0.2 in items and len(items) > 1:
            raise ValueError("one of these")
        if 0.2 in items and size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return angle(items, size)

    results = FixedBatches(forward, 4).run([0.1, 0.2, 0.3, 0.4, 0.5])
    assert [result.vector is not None for result in results] == [True] * 5
    assert results[4].vector == pytest.approx([np.cos(0.5), np.sin(0.5)])


def test_what_a_gpu_still_computes_is_waited_for_only_when_asked() -> None:
    waited: list[int] = []

    def forward(items: Sequence[float], size: int) -> Callable[[], Vectors]:
        def wait() -> Vectors:
            waited.append(len(items))
            return angle(items, size)

        return wait

    finish = FixedBatches(forward, 2).start([0.1, 0.2, 0.3])
    assert waited == []
    assert [result.vector is not None for result in finish()] == [True] * 3
    assert waited == [2, 1]


def test_no_gpu_memory_for_even_one_item_fails_the_task() -> None:
    def forward(items: Sequence[float], size: int) -> Vectors:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        FixedBatches(forward, 4).run([0.1])


def test_a_cuda_error_fails_the_task_and_is_not_tried_again() -> None:
    calls: list[int] = []

    def forward(items: Sequence[float], size: int) -> Vectors:
        calls.append(size)
        raise torch.AcceleratorError("an illegal memory access was encountered")

    with pytest.raises(torch.AcceleratorError):
        FixedBatches(forward, 4).run([0.1] * 4)
    assert calls == [4]


def test_batches_shrink_by_the_published_ladder_down_to_one() -> None:
    ladder = [64]
    while ladder[-1] > 1:
        ladder.append(smaller_batch(ladder[-1]))
    assert ladder == [64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1]
    assert smaller_batch(50) == 48
    assert smaller_batch(33) == 32


def test_rows_hold_a_vector_or_an_error() -> None:
    results = [Embedded(vector=np.array([0.6, 0.8], dtype=np.float32)), Embedded(error="no pixels")]
    rows = embedded_batch("image_id", ["a", "b"], results).to_pylist()
    assert rows == [
        {"image_id": "a", "vector": pytest.approx([0.6, 0.8]), "error": None},
        {"image_id": "b", "vector": None, "error": "no pixels"},
    ]
