"""Embeddings that can be compared: what each is, how it embeds labelled pictures, what it costs.

Timm models run exactly as executors run them (`udfs.embed`). The penultimate layer of open_nsfw's thin ResNet-50 is a
second trained network that set-up brings anyway, and a colour histogram is the floor that any network has to beat.
"""

import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from jobs.config import load_settings
from jobs.errors import UsageError
from schemas.settings import AssetSettings, EmbeddingSettings, Settings
from udfs.assets import locate
from udfs.embed import load_embedder
from udfs.nsfw import preprocess
from udfs.vectors import Vectors, unit_vectors
from udfs.vision import ModelDescription, describe

_NO_WEIGHTS = AssetSettings(path="", sha256="0" * 64)
"""Stands for weights that are not there: a model's shape and cost do not depend on them."""
_HISTOGRAM_BINS = 8
"""A channel: 512 dimensions in all."""
_WARM_UP, _ALONE = 3, 50
"""Pictures embedded one at a time: before the clock counts, and for the median."""
_GROUP = 128
"""Pictures decoded together at most."""

Embed = Callable[[Sequence[bytes]], list[Vectors | None]]
"""Canonical JPEGs to unit vectors; None where there is none."""


class Published(Settings):
    """A forward rate that somebody else measured."""

    images_per_second: float = Field(gt=0)
    hardware: str
    source: str


class Candidate(Settings):
    """One embedding to be compared."""

    name: str
    kind: Literal["timm", "open_nsfw", "colour_histogram"] = "timm"
    model: str | None = None
    """Timm's name, for `timm`."""
    weights: AssetSettings | None = None
    """Null where they are not available here: then it is listed, and not measured."""
    licence: str
    text_tower: str | None = None
    """What embeds text into the same space; null for none."""
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    """Settings of `embedding` (`mean`, `std`, `fit`, `pooling`, ...) where they differ from timm's."""
    published: Published | None = None

    @property
    def is_available(self) -> bool:
        """Whether it can be run here; what has no weights needs none."""
        return self.kind == "colour_histogram" or self.weights is not None

    def embedding(self) -> EmbeddingSettings:
        """The settings of a `timm` candidate, one image a batch on a CPU: what a query costs."""
        given = {"model": self.model, "weights": self.weights or _NO_WEIGHTS, "licence": self.licence}
        return EmbeddingSettings.model_validate({"cpu_batch_size": 1, **given, **self.preprocessing})


class Candidates(Settings):
    """The file of candidates."""

    candidates: tuple[Candidate, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Shape:
    """What is known of a candidate without its weights."""

    dimension: int
    parameters: int
    gmacs: float
    """Multiply-accumulate operations of one image's forward pass, in 1e9."""


@dataclass(frozen=True)
class Embedded:
    """All pictures' vectors, and what they cost on this device."""

    vectors: Vectors
    """(N, D) unit vectors; zeros where there is none."""
    latency_ms: float
    """Median wall-clock time of one picture by itself: decoding, preprocessing, forward pass."""
    images_per_second: float
    """All pictures, in batches on a GPU and one by one on a CPU, by this process on one thread."""
    device: str


def load_candidates(path: str) -> tuple[Candidate, ...]:
    """The candidates of a YAML file; UsageError where it cannot be read or holds something else."""
    return load_settings(Candidates, path, "candidates file").candidates


def shape(candidate: Candidate) -> Shape:
    """Dimension, parameters and operations, counted; needs no weights of a timm model."""
    if candidate.kind == "timm":
        return _timm_shape(describe(candidate.embedding()))
    if candidate.kind == "open_nsfw":
        return _onnx_shape(candidate)
    return Shape(_HISTOGRAM_BINS**3, 0, 0.0)


def embed(candidate: Candidate, pictures: Sequence[bytes]) -> Embedded:
    """Vectors of canonical JPEGs, and what they cost. Raises what loading the model raises."""
    together, device = _embedder(candidate)
    alone = [_seconds(together, [pixels])[1] for pixels in pictures[: _WARM_UP + _ALONE]][_WARM_UP:]
    vectors, seconds = _seconds(together, pictures)
    dimension = next(len(vector) for vector in vectors if vector is not None)
    filled = [np.zeros(dimension, np.float32) if vector is None else vector for vector in vectors]
    return Embedded(np.stack(filled), float(np.median(alone)) * 1e3, len(pictures) / seconds, device)


def _seconds(together: Embed, pictures: Sequence[bytes]) -> tuple[list[Vectors | None], float]:
    begun = time.perf_counter()
    vectors = [one for start in range(0, len(pictures), _GROUP) for one in together(pictures[start : start + _GROUP])]
    return vectors, time.perf_counter() - begun


def _embedder(candidate: Candidate) -> tuple[Embed, str]:
    if candidate.kind == "timm":
        embedder = load_embedder(candidate.embedding())
        return lambda jpegs: [
            one.vector for one in embedder.embed([embedder.decode(j) for j in jpegs])
        ], embedder.device
    raw = _open_nsfw(candidate) if candidate.kind == "open_nsfw" else _histogram

    def one(pixels: bytes) -> Vectors | None:
        with Image.open(io.BytesIO(pixels), formats=("JPEG",)) as image:
            return unit_vectors(raw(image.convert("RGB"))[None])[0].vector

    return lambda jpegs: [one(pixels) for pixels in jpegs], "cpu"


def _histogram(image: Image.Image) -> Vectors:
    """Square roots of the joint colour histogram's shares: their dot product is the Bhattacharyya coefficient."""
    small = np.asarray(image.resize((64, 64), Image.Resampling.BOX)) // (256 // _HISTOGRAM_BINS)
    bins = (small.reshape(-1, 3) * (_HISTOGRAM_BINS**2, _HISTOGRAM_BINS, 1)).sum(axis=1)
    return np.sqrt(np.bincount(bins, minlength=_HISTOGRAM_BINS**3)).astype(np.float32)


def _timm_shape(description: ModelDescription) -> Shape:
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    arguments: dict[str, Any] = {} if description.head == "projection" else {"num_classes": 0}
    if description.pooling != "model":
        arguments["global_pool"] = description.pooling
    with torch.device("meta"):
        model = timm.create_model(description.architecture, pretrained=False, **arguments).eval().requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, *description.input_size))
    parameters = sum(tensor.numel() for tensor in model.parameters())
    return Shape(description.dimension, parameters, counter.get_total_flops() / 2e9)


def _onnx_shape(candidate: Candidate) -> Shape:
    """Of open_nsfw up to its pooled features, from the file's own kernels and inferred shapes."""
    import onnx

    model, classifier = _open_nsfw_model(candidate)
    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes = {value.name: [one.dim_value for one in value.type.tensor_type.shape.dim] for value in graph.value_info}
    kernels = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    parameters, operations = 0, 0
    for node in graph.node:
        if node.op_type == "Conv":
            weights = math.prod(kernels[node.input[1]])
            parameters += weights + kernels[node.input[1]][0]
            operations += weights * math.prod(sizes[node.output[0]][2:])
    return Shape(kernels[classifier.input[1]][0], parameters, operations / 1e9)


def _open_nsfw(candidate: Candidate) -> Callable[[Image.Image], Vectors]:
    import onnx
    import onnxruntime

    model, classifier = _open_nsfw_model(candidate)
    features = classifier.input[0]
    model.graph.output.append(onnx.ValueInfoProto(name=features))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def raw(image: Image.Image) -> Vectors:
        vector: Vectors = session.run([features], {name: preprocess(image)[None]})[0][0]
        return vector

    return raw


def _open_nsfw_model(candidate: Candidate) -> tuple[Any, Any]:
    """The ONNX model and its classifier, whose input is the penultimate layer."""
    import onnx

    if candidate.weights is None:
        raise UsageError(f"candidate {candidate.name}: open_nsfw is read from its file; expected weights")
    model = onnx.load(str(locate(candidate.weights)))
    return model, next(node for node in model.graph.node if node.op_type == "MatMul")
