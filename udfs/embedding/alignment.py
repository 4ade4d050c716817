"""Image and text vectors in one space, and how alike the two are: `image_text_cosine`, a signal for rankers.

Towers of CLIP's kind share a space as they are. For any other pair `jobs.fit_alignment` learns two projections into
one; this is what applies them. Cosines between modalities are on a scale of their own for each pair of models, so both
come with the mean and deviation of unrelated pairs that put them on one scale. Numpy alone.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.settings import EmbeddingSettings
from udfs.assets import locate

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]
_LEAST_NORM = 1e-12
_DESCRIPTION = "lensfeed.alignment"
"""Key in the file's metadata."""
_DECIMALS = 6


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

    def standardise(self, cosines: Floats) -> Floats:
        """Deviations above what unrelated pairs have: comparable between pairs of models. NaN stays NaN."""
        return (cosines - self.mean) / self.deviation


@dataclass(frozen=True)
class Projections:
    """Two affine maps into one space of K dimensions."""

    image_mean: Vectors
    """(D,) float32."""
    image_projection: Vectors
    """(D, K) float32."""
    text_mean: Vectors
    """(T,) float32."""
    text_projection: Vectors
    """(T, K) float32."""

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

    def arrays(self) -> dict[str, Vectors]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Alignment:
    """How images of one model and texts of another are compared. Made by `jobs.fit_alignment`."""

    model_version: str
    """Of the image vectors it takes."""
    text_model_version: str
    projections: Projections | None
    """Null where the towers share a space as they are."""
    calibration: Calibration | None
    """Null for towers that share a space and were not calibrated yet."""

    @property
    def version(self) -> str:
        """SHA-256 hex over both models and every number."""
        calibration = asdict(self.calibration) if self.calibration else None
        parts = [self.model_version, self.text_model_version, json.dumps(calibration, sort_keys=True)]
        digest = hashlib.sha256("\n".join(parts).encode())
        for name, given in self.projections.arrays().items() if self.projections else ():
            array = np.ascontiguousarray(given, "<f4")
            digest.update(f"{name} {array.shape}".encode() + array.tobytes())
        return digest.hexdigest()

    def images(self, vectors: Vectors) -> Vectors:
        """Image vectors (N, D) to unit vectors (N, K) of the common space; a zero stays zero."""
        return self._projected("image", vectors)

    def texts(self, vectors: Vectors) -> Vectors:
        """Text vectors (N, T) to unit vectors (N, K) of the common space."""
        return self._projected("text", vectors)

    def cosine(self, vector: Vectors, text_vector: Vectors) -> float:
        """Of one image (D,) to one text (T,), in [-1, 1].

        A pair by itself, in float64, and to six decimals: what stands in the feed must not depend on the rows beside it
        nor on which machine's kernels worked it out, or rows would seem changed that are not.
        """
        image, text = (
            side if exact is None else (side - exact[0]) @ exact[1]
            for side, exact in zip(
                (vector.astype(np.float64), text_vector.astype(np.float64)), self._exact, strict=True
            )
        )
        if image.shape != text.shape:
            raise AlignmentError(
                f"expected image and text vectors of one space, found {image.shape} and {text.shape}; "
                "fit an alignment (jobs.fit_alignment)"
            )
        norms = np.sqrt(np.square(image).sum() * np.square(text).sum())
        return round(float(np.clip((image * text).sum() / max(norms, _LEAST_NORM), -1, 1)), _DECIMALS)

    @cached_property
    def _exact(self) -> tuple[tuple[Floats, Floats] | None, tuple[Floats, Floats] | None]:
        """Mean and matrix of either side in float64."""
        p = self.projections
        if p is None:
            return None, None
        return (
            (p.image_mean.astype(np.float64), p.image_projection.astype(np.float64)),
            (p.text_mean.astype(np.float64), p.text_projection.astype(np.float64)),
        )

    def _projected(self, side: str, vectors: Vectors) -> Vectors:
        if self.projections is None:
            return _unit(vectors)
        arrays = self.projections.arrays()
        mean, projection = arrays[f"{side}_mean"], arrays[f"{side}_projection"]
        if vectors.ndim != 2 or vectors.shape[1] != len(mean):
            raise AlignmentError(f"{side} vectors: expected shape (N, {len(mean)}), found {vectors.shape}")
        return _unit((vectors - mean) @ projection)


def cosine_udf(alignment: Alignment) -> Any:
    """`(vector array<float>, text vector array<float>) -> double`: a row's cosine, null where either is null."""
    import pandas as pd
    from pyspark.sql.pandas.functions import pandas_udf

    def cosines(batches: Iterator[tuple[pd.Series, pd.Series]]) -> Iterator[pd.Series]:
        for vectors, texts in batches:
            yield pd.Series(list(_cosines(alignment, vectors, texts)), dtype="float64")

    declare: Any = pandas_udf  # its stubs do not know iterators of several columns
    # Nondeterministic in name only: then Spark evaluates it once, although row and digest both use it.
    return declare(cosines, "double").asNondeterministic()


def _cosines(
    alignment: Alignment, vectors: Iterable[Vectors | None], texts: Iterable[Vectors | None]
) -> Iterator[float | None]:
    for vector, text in zip(vectors, texts, strict=True):
        yield None if vector is None or text is None else alignment.cosine(vector, text)


def alignment_for(embedding: EmbeddingSettings, model_version: str, text_model_version: str) -> Alignment | None:
    """How the settings have images compared with texts of these models; null where they do not.

    Raises AssetError for a file that is missing or not the pinned one, AlignmentError for one of other models.
    """
    if embedding.alignment is None:
        return Alignment(model_version, text_model_version, None, None) if embedding.shares_text_space else None
    alignment = load_alignment(locate(embedding.alignment))
    for what, expected, found in (
        ("image", model_version, alignment.model_version),
        ("text", text_model_version, alignment.text_model_version),
    ):
        if found != expected:
            raise AlignmentError(
                f"{embedding.alignment.path}: expected one for the configured {what} model, {expected}, found one for "
                f"{found}; fit it anew (jobs.fit_alignment)"
            )
    return alignment


def calibration_of(
    images: Vectors, texts: Vectors, seed: int = 0, pairs: int = 100_000, groups: NDArray[np.int64] | None = None
) -> Calibration:
    """Mean and deviation of the cosine of unrelated pairs: rows of `images` and `texts` (N, K), unit, with another's.

    `pairs` are drawn by `seed`; those of one of `groups` (N,) belong together, near-duplicates say, and do not count.
    Raises AlignmentError where that leaves none, and for fewer than two rows.
    """
    if len(images) < 2:
        raise AlignmentError(f"calibration: expected two pairs at least, found {len(images)}")
    if groups is not None and len(groups) != len(images):
        raise AlignmentError(f"calibration: expected a group for each of {len(images)} pairs, found {len(groups)}")
    generator = np.random.default_rng(seed)
    first = generator.integers(0, len(images), pairs)
    other = (first + generator.integers(1, len(images), pairs)) % len(images)
    if groups is not None:
        unrelated = groups[first] != groups[other]
        first, other = first[unrelated], other[unrelated]
        if not len(first):
            raise AlignmentError(
                f"calibration: expected pairs of different groups, found none among {pairs} drawn from "
                f"{len(images)} pairs (groups: {len(np.unique(groups))})"
            )
    cosines = np.einsum("nk,nk->n", images[first], texts[other], dtype=np.float64)
    return Calibration(float(cosines.mean()), float(cosines.std()))


def save_alignment(alignment: Alignment, folder: Path, facts: dict[str, Any]) -> Path:
    """Write `alignment-<version>.safetensors`, which `load_alignment` reads, and beside it a JSON file for people.

    Returns the former. `facts`: what the latter is to hold of how the alignment came about (JSON types).
    """
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"alignment-{alignment.version[:16]}.safetensors"
    description = {
        "version": alignment.version,
        "model_version": alignment.model_version,
        "text_model_version": alignment.text_model_version,
        "calibration": asdict(alignment.calibration) if alignment.calibration else None,
    }
    arrays = alignment.projections.arrays() if alignment.projections else {}
    data = save(
        {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()},
        {_DESCRIPTION: json.dumps(description)},
    )
    path.write_bytes(data)
    report = {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()} | description | facts
    path.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    return path


def load_alignment(path: Path) -> Alignment:
    """The alignment of a file that `save_alignment` wrote. Raises AlignmentError where it is something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            described = json.loads(file.metadata()[_DESCRIPTION])
            names = file.keys()
            arrays = {name: file.get_tensor(name) for name in names}
        alignment = Alignment(
            model_version=described["model_version"],
            text_model_version=described["text_model_version"],
            projections=Projections(**arrays) if arrays else None,
            calibration=Calibration(**described["calibration"]) if described["calibration"] else None,
        )
        expected = described["version"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise AlignmentError(f"{path}: not an alignment: {type(error).__name__}: {error}") from error
    if alignment.version != expected:
        raise AlignmentError(f"{path}: version expected {expected}, found {alignment.version}")
    return alignment


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = vectors / np.maximum(lengths, _LEAST_NORM)
    return unit
