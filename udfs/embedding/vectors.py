"""From a model's raw output to unit vectors, one result an item whatever happens to the items beside it."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Pending = Callable[[], Vectors]
"""Vectors that a GPU may still be computing; the call waits for them."""
Item = TypeVar("Item")

_LEAST_NORM = 1e-12

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embedded:
    """What became of one item: a unit vector of shape `(dimension,)`, or the reason why there is none."""

    vector: Vectors | None = None
    error: str | None = None


@dataclass
class FixedBatches(Generic[Item]):
    """Runs a model over items in batches that always have the same shape, so that a vector is the item's own.

    Matrix kernels are chosen by shape: the same image gives other last bits in a batch of 4 than in one of 8, but
    (tested) the same bits beside any neighbours and at any position of batches of one shape. The digest of the
    warehouse compares bits. So `forward` pads what it is given to `size`.
    """

    forward: Callable[[Sequence[Item], int], Vectors | Pending]
    """`(items, size)` to raw vectors `(len(items), dimension)`; computes on exactly `size` rows."""
    size: int
    """Rows a batch. Shrinks when GPU memory runs out, and stays so for the life of the process."""
    sound: Item | None = None
    """An item that has a vector. Where it has none either, it is not the items that are at fault but the process."""

    def run(self, items: Sequence[Item]) -> list[Embedded]:
        """One result an item, in order; `start` and wait."""
        return self.start(items)()

    def start(self, items: Sequence[Item]) -> Callable[[], list[Embedded]]:
        """Hand the items to the model; the call that comes back waits for one result an item, in order.

        A batch that fails is tried again item by item, so that only the culprit fails. Raises (here or in the call)
        what a GPU raises that cannot go on: memory for not even one item; a sticky CUDA error, after which nothing in
        this process counts; and whatever the sound item provokes as well, for then it is no item's fault.
        """
        parts: list[Callable[[], list[Embedded]]] = []
        started = 0
        while started < len(items):
            part = items[started : started + self.size]
            launched = self._launch(part)
            if launched is not None:
                parts.append(launched)
                started += len(part)
        return lambda: [result for part in parts for result in part()]

    def _launch(self, part: Sequence[Item]) -> Callable[[], list[Embedded]] | None:
        """What waits for the part's results; None where the batch had to shrink instead."""
        import torch

        try:
            raw = self.forward(part, self.size)
        except torch.OutOfMemoryError:
            if self.size == 1:
                raise
            self._shrink()
            return None
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever one image provokes, the others get their vectors
            if len(part) > 1:
                alone = [self.start([item]) for item in part]
                return lambda: [result for one in alone for result in one()]
            self._blame(error)
            _log.warning("no vector for one item", exc_info=True)
            failed = Embedded(error=f"{type(error).__name__}: {error}")
            return lambda: [failed]
        return lambda: unit_vectors(raw() if callable(raw) else raw)

    def _blame(self, error: Exception) -> None:
        """Raises the error unless the sound item does without it: CUDA's libraries raise RuntimeErrors too."""
        if self.sound is None:
            return
        try:
            raw = self.forward([self.sound], self.size)
            if callable(raw):
                raw()
        except Exception:  # noqa: BLE001 - whatever it is now, the first error tells more
            raise error from None

    def _shrink(self) -> None:
        import torch

        self.size = smaller_batch(self.size)
        torch.cuda.empty_cache()
        _log.warning("out of GPU memory: batches of %d from now on", self.size)


def smaller_batch(size: int) -> int:
    """The next smaller of 1, 2, 3, 4, 6, 8, 12, ... 32, 48, 64, ...: a quarter to a third less, and even kernels."""
    power = 1 << (size - 1).bit_length() - 1
    return max(step for step in (power // 2, power * 3 // 4, power, power * 3 // 2) if step < size)


def unit_vectors(raw: Vectors) -> list[Embedded]:
    """Rows `(N, dimension)` scaled to length one as float32; a row that is zero or not finite is an error.

    Computed in float64 and rounded once.
    """
    rows = raw.astype(np.float64)
    norms = np.sqrt(np.square(rows).sum(axis=1))
    return [_unit_vector(row, float(norm)) for row, norm in zip(rows, norms, strict=True)]


def _unit_vector(row: NDArray[np.float64], norm: float) -> Embedded:
    if not np.isfinite(norm):
        return Embedded(error="the model's output is not finite")
    if norm < _LEAST_NORM:
        return Embedded(error="the model's output is zero")
    return Embedded(vector=(row / norm).astype(np.float32))


def embedded_batch(key: str, keys: Sequence[str], results: Sequence[Embedded]) -> pa.RecordBatch:
    """Arrow rows `(<key> string, vector list<float32>, error string)`; of vector and error exactly one is null."""
    return pa.RecordBatch.from_arrays(
        [
            pa.array(keys, pa.string()),
            pa.array([result.vector for result in results], pa.list_(pa.float32())),
            pa.array([result.error for result in results], pa.string()),
        ],
        names=[key, "vector", "error"],
    )
