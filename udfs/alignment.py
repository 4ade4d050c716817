"""Image and text vectors in one space, and how alike the two are: `image_text_cosine`, a signal for rankers.

Towers of CLIP's kind share a space as they are. For any other pair `jobs.fit_alignment` learns two projections into
one; this is what applies them. Cosines between modalities are on a scale of their own for each pair of models, so both
come with the mean and deviation of unrelated pairs that put them on one scale. Numpy alone.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
_ARRAYS = ("image_mean", "image_projection", "text_mean", "text_projection")
_LEAST_NORM = 1e-12


class AlignmentError(Exception):
    """The alignment cannot be used as asked. The message says what was expected and found."""


@dataclass(frozen=True)
class Calibration:
    """Cosines of pairs that do not belong together, for one pair of models."""

    mean: float
    deviation: float

    def __post_init__(self) -> None:
        if not self.deviation > 0:
            raise AlignmentError(f"calibration: expected a deviation above 0, found {self.deviation}")

    def standardise(self, cosines: NDArray[np.float64]) -> NDArray[np.float64]:
        """Deviations above what unrelated pairs have: comparable between pairs of models. NaN stays NaN."""
        return (cosines - self.mean) / self.deviation


@dataclass(frozen=True)
class Alignment:
    """Two affine projections into one space of K dimensions. Make it with `jobs.fit_alignment` or `load_alignment`."""

    model_version: str
    """Of the image vectors it takes."""
    text_model_version: str
    image_mean: Vectors
    """(D,) float32."""
    image_projection: Vectors
    """(D, K) float32."""
    text_mean: Vectors
    """(T,) float32."""
    text_projection: Vectors
    """(T, K) float32."""
    calibration: Calibration

    def __post_init__(self) -> None:
        for name in ("image", "text"):
            mean, projection = getattr(self, f"{name}_mean"), getattr(self, f"{name}_projection")
            if projection.ndim != 2 or mean.shape != projection.shape[:1]:
                raise AlignmentError(
                    f"alignment: expected {name}_mean (D,) and {name}_projection (D, K), "
                    f"found {mean.shape} and {projection.shape}"
                )
        if self.image_projection.shape[1] != self.text_projection.shape[1]:
            raise AlignmentError(
                f"alignment: expected projections into one space, found {self.image_projection.shape[1]} and "
                f"{self.text_projection.shape[1]} dimensions"
            )

    @property
    def version(self) -> str:
        """SHA-256 hex over both models and every number."""
        parts = [self.model_version, self.text_model_version, json.dumps(asdict(self.calibration), sort_keys=True)]
        digest = hashlib.sha256("\n".join(parts).encode())
        for name in _ARRAYS:
            array = np.ascontiguousarray(getattr(self, name), "<f4")
            digest.update(f"{name} {array.shape}".encode() + array.tobytes())
        return digest.hexdigest()

    def images(self, vectors: Vectors) -> Vectors:
        """Image vectors (N, D) to unit vectors (N, K) of the common space; a zero stays zero."""
        return _projected(vectors, self.image_mean, self.image_projection, "image")

    def texts(self, vectors: Vectors) -> Vectors:
        """Text vectors (N, T) to unit vectors (N, K) of the common space."""
        return _projected(vectors, self.text_mean, self.text_projection, "text")


def image_text_cosine(
    vectors: Vectors, text_vectors: Vectors, has_text: NDArray[np.bool_], alignment: Alignment | None
) -> NDArray[np.float64]:
    """Cosine of each image to its own text: (N, D), (N, T), (N,) to (N,) float64 in [-1, 1]; NaN where has_text is not.

    `alignment` null: the towers share a space natively, and D equals T. Raises AlignmentError where shapes do not fit.
    """
    if alignment is None and vectors.shape != text_vectors.shape:
        raise AlignmentError(
            f"expected image and text vectors of one space, found {vectors.shape} and {text_vectors.shape}; "
            "fit an alignment (jobs.fit_alignment)"
        )
    images = _unit(vectors) if alignment is None else alignment.images(vectors)
    texts = _unit(text_vectors) if alignment is None else alignment.texts(text_vectors)
    cosines = np.einsum("nk,nk->n", images, texts, dtype=np.float64).clip(-1, 1)
    return np.where(has_text, cosines, np.nan)


def calibration_of(images: Vectors, texts: Vectors, seed: int = 0, pairs: int = 100_000) -> Calibration:
    """Mean and deviation of the cosine of unrelated pairs: rows of `images` and `texts` (N, K), unit, with another's.

    Raises AlignmentError for fewer than two rows.
    """
    if len(images) < 2:
        raise AlignmentError(f"calibration: expected two pairs at least, found {len(images)}")
    generator = np.random.default_rng(seed)
    first = generator.integers(0, len(images), pairs)
    other = (first + generator.integers(1, len(images), pairs)) % len(images)
    cosines = np.einsum("nk,nk->n", images[first], texts[other], dtype=np.float64)
    return Calibration(float(cosines.mean()), float(cosines.std()))


def save_alignment(alignment: Alignment, folder: Path, facts: dict[str, Any]) -> Path:
    """Write `alignment-<version>.safetensors` and, last, the JSON file beside it that names both; returns the latter.

    `facts`: what else the JSON file is to hold of how the alignment came about (JSON types).
    """
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    stem = f"alignment-{alignment.version[:16]}"
    data = save({name: np.ascontiguousarray(getattr(alignment, name), np.float32) for name in _ARRAYS})
    (folder / f"{stem}.safetensors").write_bytes(data)
    description = {
        "version": alignment.version,
        "file": f"{stem}.safetensors",
        "sha256": hashlib.sha256(data).hexdigest(),
        "model_version": alignment.model_version,
        "text_model_version": alignment.text_model_version,
        "calibration": asdict(alignment.calibration),
    }
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(description | facts, indent=2) + "\n")
    return path


def load_alignment(path: Path) -> Alignment:
    """The alignment of a JSON file that `save_alignment` wrote. Raises AlignmentError where it or its file is another.

    Whoever applies it checks `model_version` and `text_model_version` against those of the vectors.
    """
    from safetensors.numpy import load

    try:
        described = json.loads(path.read_text())
        data = (path.parent / described["file"]).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AlignmentError(f"{path}: not the description of an alignment: {type(error).__name__}: {error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != described["sha256"]:
        raise AlignmentError(f"{described['file']}: SHA-256 expected {described['sha256']}, found {found}")
    alignment = Alignment(
        model_version=described["model_version"],
        text_model_version=described["text_model_version"],
        calibration=Calibration(**described["calibration"]),
        **load(data),
    )
    if alignment.version != described["version"]:
        raise AlignmentError(f"{path}: version expected {alignment.version}, found {described['version']}")
    return alignment


def _projected(vectors: Vectors, mean: Vectors, projection: Vectors, name: str) -> Vectors:
    if vectors.ndim != 2 or vectors.shape[1] != len(mean):
        raise AlignmentError(f"{name} vectors: expected shape (N, {len(mean)}), found {vectors.shape}")
    return _unit((vectors - mean) @ projection)


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(lengths, _LEAST_NORM)
    return unit
