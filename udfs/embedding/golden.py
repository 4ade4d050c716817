"""Golden vectors: what a model makes of a few fixed images, kept with its version and asked of every process.

A digest pins the weights; nothing pins what computes with them. Before an executor's process writes its first vector it
embeds the golden images, and a build, a number format or a device that turns them elsewhere fails the run. The
reference is made once, when a version is first used, on the driver's CPU in float32.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from udfs.embedding.vectors import Embedded

Pixels = NDArray[np.uint8]

GOLDEN_TEXTS = (
    "a tabby cat asleep on a sofa",
    "Red leather shoes, size 42",
    "An aerial photograph of a harbour at dawn with fishing boats, cranes and a lighthouse on the far pier",
    "名前のない猫が窓辺で眠っている",
)

_HEIGHT, _WIDTH = 384, 512
_TOLERANCES = {"float32": 1e-5, "float16": 2e-4, "bfloat16": 5e-3}


class GoldenError(Exception):
    """This process does not make the vectors that its model version stands for. The message says how far off it is."""


@dataclass(frozen=True)
class Golden:
    """Golden vectors of one model: unit norm, in the order of the samples."""

    samples: str
    """SHA-256 hex of the images and texts they were made of; others have other vectors."""
    vectors: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, embedded: Sequence[Embedded]) -> "Golden":
        """Of what a model made of the samples; GoldenError for one that has no vector."""
        return cls(samples_digest(), tuple(tuple(map(float, row)) for row in _vectors(embedded)))


def check_golden(embedded: Sequence[Embedded], golden: Golden, tolerance: float) -> None:
    """Raises GoldenError unless the vectors' cosines to the golden ones are, in the mean, at least `1 - tolerance`."""
    found, expected = _vectors(embedded), np.array(golden.vectors)
    if found.shape != expected.shape:
        raise GoldenError(
            f"golden vectors: expected {len(expected)} of dimension {expected.shape[1]}, found {len(found)} of "
            f"{found.shape[1]}: this process runs another model than the version's"
        )
    cosines = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    if not cosines.mean() >= 1 - tolerance:
        raise GoldenError(
            f"golden vectors: expected a mean cosine of at least {1 - tolerance:.6f} to those of the model version, "
            f"found {cosines.mean():.6f}: this process's build, device or number format makes other vectors"
        )


def tolerance(dtype: str) -> float:
    """By how much the mean golden cosine may fall short of 1 in this number format.

    Measured on EfficientNet-Lite0, which is delicate (on a small random ViT a hundredth of it): float32 through other
    kernels and batch sizes 1e-8, float16 2e-5, bfloat16 2.3e-3. What the check is there to find is larger: resizing by
    another filter 1.3e-2, swapped colour channels, another scaling or crop 5e-2 and more.
    """
    return _TOLERANCES[dtype]


def golden_images() -> tuple[Pixels, ...]:
    """Four images, `(384, 512, 3)` uint8 RGB, by integer arithmetic alone: the same bytes on every machine.

    A disc on a gradient, a board whose fields get finer, coloured tiles, and a fine grain: edges, colours and textures
    in which resizing, channel order and scaling all show.
    """
    y, x = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    disc = (y - 180) ** 2 + (x - 300) ** 2 < 110**2
    gradient = np.stack([x // 2, y // 2, 255 - x // 2], axis=-1)
    board = ((y * (x + 64) // 2048 + x // 24) % 2)[..., None] * np.array([220, 180, 40]) + 20
    stripes = np.stack([(3 * x + y) % 256, (x + 2 * y) // 2 % 256, (5 * y - x) % 256], axis=-1)
    noise = ((y[..., None] * _WIDTH + x[..., None] + np.array([1, 7, 13])) * 2654435761 >> 13) % 256
    images = (np.where(disc[..., None], np.array([200, 30, 60]), gradient), board, stripes, noise)
    return tuple(image.astype(np.uint8) for image in images)


def samples_digest() -> str:
    """SHA-256 hex of the golden images and texts."""
    digest = hashlib.sha256("\n".join(GOLDEN_TEXTS).encode())
    for image in golden_images():
        digest.update(image.tobytes())
    return digest.hexdigest()


def _vectors(embedded: Sequence[Embedded]) -> NDArray[np.float64]:
    failed = [one.error for one in embedded if one.vector is None]
    if failed:
        raise GoldenError(f"golden vectors: the model has no vector for a golden sample: {failed[0]}")
    return np.array([one.vector for one in embedded], dtype=np.float64)
