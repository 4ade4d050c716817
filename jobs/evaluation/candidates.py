"""Embeddings that can be compared: what each is, how it embeds labelled images, what it costs.

Timm models run exactly as executors run them (`udfs.embedding.embed`). The penultimate layer of open_nsfw's thin
ResNet-50 is a second trained network that set-up brings anyway, and a colour histogram is the floor that any network
has to beat.

Decoding and the forward pass are timed apart: executors decode on other threads while the GPU computes, and published
rates are of the forward pass alone.
"""

import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from jobs.config.errors import UsageError
from jobs.config.profile import load_settings
from schemas.settings import AssetSettings, EmbeddingSettings, Settings
from udfs.assets import locate
from udfs.devices import Device, claim_device
from udfs.embedding.embed import load_embedder
from udfs.embedding.pixels import Pixels
from udfs.embedding.vectors import Embedded, Vectors, unit_vectors
from udfs.embedding.vision import EmbedderError, ModelDescription, describe
from udfs.gate.nsfw import preprocess

_NO_WEIGHTS = AssetSettings(path="", sha256="0" * 64)
"""Stands for weights that are not there: a model's shape and cost do not depend on them."""
_HISTOGRAM_BINS = 8
"""A channel: 512 dimensions in all."""
_WARM_UP, _ALONE = 3, 50
"""Images embedded one at a time: before the clock counts, and for the median."""
_BATCHES = 4
"""Batches handed over at once: a GPU is given the next before the one before is waited for, as on executors."""
_LEAST_SECONDS = 1.0
"""Of forward passes behind a rate: a few hundred images are a tenth of that on a GPU."""
_ON_CPU: dict[str, Any] = {"cpu_batch_size": 1}
"""What a query costs."""
_ON_GPU: dict[str, Any] = {"dtype": "float16", "batch_size": 128}
"""As conf/nightly-gpu.yaml."""

CPU = "cpu"

Forward = Callable[[Sequence[Any]], list[Embedded]]
"""Decoded images to one result each."""


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
    """Settings of `embedding` (`mean`, `std`, `fit`, `dtype`, ...) where neither timm's nor the device's will do."""
    published: Published | None = None

    @property
    def is_available(self) -> bool:
        """Whether it can be run here; what has no weights needs none."""
        return self.kind == "colour_histogram" or self.weights is not None

    def embedding(self, device: Device = "cpu") -> EmbeddingSettings:
        """The settings of a `timm` candidate: float32, one image a batch, on a CPU; float16, 128 images, on a GPU."""
        given = {"model": self.model, "weights": self.weights or _NO_WEIGHTS, "licence": self.licence, "device": device}
        return EmbeddingSettings.model_validate(given | (_ON_GPU if device == "cuda" else _ON_CPU) | self.preprocessing)


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
class Running:
    """A loaded candidate, with decoding and the forward pass apart."""

    decode: Callable[[bytes], Any]
    """A canonical JPEG to the model's input: decoding, resizing, cropping."""
    together: Forward
    """In batches of `batch()` rows; the last one is padded and costs what a full one costs."""
    alone: Forward
    """In batches of one."""
    batch: Callable[[], int]
    """Rows a batch; shrinks where a GPU's memory runs out."""
    device: str = CPU
    """`cpu`, or the GPU's name."""
    dtype: str = "float32"


@dataclass(frozen=True)
class Measured:
    """All images' vectors, and what they cost on this device."""

    vectors: Vectors
    """(N, D) unit vectors; zeros where there is none."""
    latency_ms: float
    """Median wall-clock time of one image by itself: decoding, preprocessing, forward pass of a batch of one."""
    decode_per_second: float
    """Images that one thread decodes and preprocesses."""
    forward_per_second: float
    """Images that pass the model, copies to and from it included: in full batches on a GPU, one by one on a CPU."""
    device: str
    """`cpu`, or the GPU's name."""
    dtype: str

    @property
    def images_per_second(self) -> float:
        """Of one thread that decodes and waits for the model in turn; for a GPU, executors have more threads."""
        return 1 / (1 / self.decode_per_second + 1 / self.forward_per_second)


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


def embed(candidate: Candidate, images: Sequence[bytes]) -> Measured:
    """Vectors of canonical JPEGs, and what they cost. Raises what loading the model raises, and as `measure`."""
    return measure(load(candidate), images)


def measure(model: Running, images: Sequence[bytes], clock: Callable[[], float] = time.perf_counter) -> Measured:
    """Vectors of images (N > 0), and what they cost by `clock`, in seconds; EmbedderError where none has a vector."""
    alone = []
    for pixels in islice(cycle(images), _WARM_UP + _ALONE):
        begun = clock()
        model.alone([model.decode(pixels)])
        alone.append(clock() - begun)
    model.together([model.decode(images[0])])  # one image fills a batch: its shape's kernels are chosen here
    found: list[Embedded] = []
    decoded: list[Any] = []
    decoding, passing, rows = 0.0, 0.0, 0
    size = model.batch() * _BATCHES
    for start in range(0, len(images), size):
        begun = clock()
        decoded = [model.decode(pixels) for pixels in images[start : start + size]]
        ready = clock()
        found += model.together(decoded)
        decoding, passing = decoding + ready - begun, passing + clock() - ready
        rows += _rows(len(decoded), model.batch())
    while passing < _LEAST_SECONDS:
        ready = clock()
        model.together(decoded)
        passing += clock() - ready
        rows += _rows(len(decoded), model.batch())
    return Measured(
        vectors=_stacked(found),
        latency_ms=float(np.median(alone[_WARM_UP:])) * 1e3,
        decode_per_second=len(images) / decoding,
        forward_per_second=rows / passing,
        device=model.device,
        dtype=model.dtype,
    )


def _rows(images: int, batch: int) -> int:
    """What the model computes on, padding included."""
    return math.ceil(images / batch) * batch


def _stacked(found: Sequence[Embedded]) -> Vectors:
    dimension = next((len(one.vector) for one in found if one.vector is not None), None)
    if dimension is None:
        raise EmbedderError(f"expected vectors of {len(found)} images, found none: {found[0].error}")
    return np.stack([np.zeros(dimension, np.float32) if one.vector is None else one.vector for one in found])


def load(candidate: Candidate) -> Running:
    """The candidate on a GPU where there is one and it can use it. Raises what loading the model raises."""
    if candidate.kind == "timm":
        return _timm(candidate, claim_device("auto"))
    decode, raw = _open_nsfw(candidate) if candidate.kind == "open_nsfw" else (_small, _histogram)

    def forward(decoded: Sequence[Any]) -> list[Embedded]:
        return [unit_vectors(raw(one)[None])[0] for one in decoded]

    return Running(lambda pixels: decode(_opened(pixels)), forward, forward, lambda: 1)


def _timm(candidate: Candidate, device: Device) -> Running:
    import torch

    embedder = load_embedder(candidate.embedding(device))
    alone = replace(embedder, batches=replace(embedder.batches, size=1))
    return Running(
        embedder.decode,
        embedder.embed,
        alone.embed,
        lambda: embedder.batches.size,
        torch.cuda.get_device_name() if embedder.device == "cuda" else CPU,
        embedder.dtype,
    )


def _opened(pixels: bytes) -> Image.Image:
    with Image.open(io.BytesIO(pixels), formats=("JPEG",)) as image:
        return image.convert("RGB")


def _small(image: Image.Image) -> Pixels:
    return np.asarray(image.resize((64, 64), Image.Resampling.BOX))


def _histogram(small: Pixels) -> Vectors:
    """Square roots of the joint colour histogram's shares: their dot product is the Bhattacharyya coefficient."""
    steps = small // (256 // _HISTOGRAM_BINS)
    bins = (steps.reshape(-1, 3) * (_HISTOGRAM_BINS**2, _HISTOGRAM_BINS, 1)).sum(axis=1)
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


def _open_nsfw(candidate: Candidate) -> tuple[Callable[[Image.Image], Any], Callable[[Any], Vectors]]:
    """What makes the network's input of an image, and the penultimate layer's output of that."""
    import onnx
    import onnxruntime

    model, classifier = _open_nsfw_model(candidate)
    features = classifier.input[0]
    model.graph.output.append(onnx.ValueInfoProto(name=features))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def raw(decoded: Any) -> Vectors:
        vector: Vectors = session.run([features], {name: decoded[None]})[0][0]
        return vector

    return preprocess, raw


def _open_nsfw_model(candidate: Candidate) -> tuple[Any, Any]:
    """The ONNX model and its classifier, whose input is the penultimate layer."""
    import onnx

    if candidate.weights is None:
        raise UsageError(f"candidate {candidate.name}: open_nsfw is read from its file; expected weights")
    model = onnx.load(str(locate(candidate.weights)))
    return model, next(node for node in model.graph.node if node.op_type == "MatMul")
