"""The NSFW detector: Yahoo's open_nsfw, the model of opennsfw2, as executors run it.

Architecture and preprocessing are opennsfw2's (`Preprocessing.YAHOO`); how they are executed is ours. On a CPU the
network runs in ONNX Runtime, three times cheaper an image than Keras; on an NVIDIA GPU it runs as opennsfw2's own Keras
model. Both read the one pinned file, and nothing is ever downloaded. Scores of the two agree within 1e-4.
"""

import functools
import hashlib
import io
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from schemas.settings import AssetSettings
from udfs.assets import locate
from udfs.devices import Device, Wanted, claim_device

SIDE = 224
"""Height and width of the network's input in pixels."""
PREPROCESSING = "yahoo: squash to 256x256 bilinear, JPEG round trip, centre 224x224, BGR minus (104, 117, 123)"

_SQUASHED = 256
_MARGIN = (_SQUASHED - SIDE) // 2
_CENTRE = (_MARGIN, _MARGIN, _MARGIN + SIDE, _MARGIN + SIDE)
# As large as the image: subtracting a row of three channels by channel takes numpy three times as long.
_MEAN_BGR = np.tile(np.array([104, 117, 123], dtype=np.float32), (SIDE, SIDE, 1))
_BATCH_NORM_EPSILON = 1e-5
_GPU_BATCH = 32

Batch = NDArray[np.float32]
Scores = NDArray[np.float32]
Forward = Callable[[Batch], Scores]


class DetectorError(Exception):
    """The detector cannot be loaded: these are the weights of another network."""


@dataclass(frozen=True)
class Detector:
    """A loaded network. Make it with `load_detector`."""

    version: str
    device: Device
    batch_size: int
    """Images that go through the network at once: always exactly so many, the last batch padded."""
    forward: Forward
    """`(batch_size, 224, 224, 3) -> (batch_size,)`, float32."""

    def score(self, batch: Batch) -> Scores:
        """NSFW probabilities of preprocessed images: `(N, 224, 224, 3)` to `(N,)`, both float32, in [0, 1].

        An image's score does not depend on the images beside it. Raises ValueError for another shape, and whatever
        the runtime raises.
        """
        if batch.shape[1:] != (SIDE, SIDE, 3):
            raise ValueError(f"batch: expected shape (N, {SIDE}, {SIDE}, 3), found {batch.shape}")
        scores = np.empty(len(batch), dtype=np.float32)
        for start in range(0, len(batch), self.batch_size):
            part = batch[start : start + self.batch_size]
            scores[start : start + len(part)] = self.forward(self._padded(part))[: len(part)]
        return scores

    def _padded(self, part: Batch) -> Batch:
        missing = self.batch_size - len(part)
        return np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else part


def preprocess(image: Image.Image, whole: bool = False) -> Batch:
    """The network's input for one image: `(224, 224, 3)` float32, BGR, mean subtracted.

    Bit-equal to `opennsfw2.preprocess_image(image, Preprocessing.YAHOO)` for every mode of image; with `whole` nothing
    is cut off: all of the image is squashed to 224. The JPEG round trip is part of either: the weights were trained
    behind one. Raises what Pillow raises for pixels that cannot be decoded.
    """
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    encoded = io.BytesIO()
    side = SIDE if whole else _SQUASHED
    rgb.resize((side, side), Image.Resampling.BILINEAR).save(encoded, format="JPEG")
    with Image.open(encoded) as decoded:
        blue_green_red = (decoded if whole else decoded.crop(_CENTRE)).tobytes("raw", "BGR")
    return np.frombuffer(blue_green_red, dtype=np.uint8).reshape(SIDE, SIDE, 3) - _MEAN_BGR


def detector_version(weights: AssetSettings) -> str:
    """SHA-256 hex over architecture, weights and preprocessing; the same on every device."""
    parts = {"architecture": "open_nsfw", "weights": weights.sha256, "preprocessing": PREPROCESSING}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_detector(weights: AssetSettings, device: Wanted = "auto", threads: int = 1) -> Detector:
    """The detector on `device`, loaded once per process; `auto` takes an NVIDIA GPU where there is one.

    `threads` is for the CPU: Spark already runs one task a core, so more than its `spark.task.cpus` would contend.
    Raises AssetError for weights that are missing or not the pinned ones, DeviceError for a GPU that is not there or
    not ours.
    """
    return _load(weights, claim_device(device), threads)


@functools.cache
def _load(weights: AssetSettings, device: Device, threads: int) -> Detector:
    path = locate(weights)
    version = detector_version(weights)
    if device == "cuda":
        return Detector(version, device, _GPU_BATCH, keras_forward(path, device, threads))
    # One image at a time costs no more on a CPU (measured: 22 ms at 1, 23 at 16) and makes a score the image's own.
    return Detector(version, device, 1, _onnx_forward(path, threads))


def keras_model(weights: Path) -> Any:
    """opennsfw2's Keras model holding the weights of an ONNX file of open_nsfw; Keras runs on torch.

    The ONNX file has each batch norm folded into the convolution before it, and names that convolution's output after
    opennsfw2's `bn_*` layer. So convolutions take kernel (as HWIO) and bias, and batch norms become the identity.
    Raises DetectorError when the file's layers are not the model's.
    """
    os.environ["KERAS_BACKEND"] = "torch"
    from opennsfw2 import make_open_nsfw_model

    model = make_open_nsfw_model(weights_path=None)
    folded = _onnx_layers(weights)
    wanted = {layer.name for layer in model.layers if type(layer).__name__ in {"Conv2D", "Dense"}}
    if folded.keys() != wanted:
        differing = ", ".join(sorted(folded.keys() ^ wanted)[:5])
        raise DetectorError(f"{weights}: expected the layers of open_nsfw, found a difference in {differing}")
    for layer in model.layers:
        if layer.name in folded:
            layer.set_weights(folded[layer.name])
        elif type(layer).__name__ == "BatchNormalization":
            layer.set_weights(_identity_batch_norm(layer.gamma.shape[0]))
    return model


def keras_forward(weights: Path, device: Device, threads: int) -> Forward:
    """The Keras model of `keras_model` on a device of torch, in full float32 (no TF32) and deterministic."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    import torch

    torch.set_num_threads(threads)
    with keras.device(device):
        model = keras_model(weights)

    def forward(batch: Batch) -> Scores:
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), keras.device(device), exact:
            probabilities = model(torch.from_numpy(batch).to(device), training=False)
        scores: Scores = probabilities[:, 1].cpu().numpy()
        return scores

    return forward


def _onnx_forward(weights: Path, threads: int) -> Forward:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning thread burns the core of the task beside it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def forward(batch: Batch) -> Scores:
        probabilities: NDArray[np.float32] = session.run(None, {name: batch})[0]
        return probabilities[:, 1]

    return forward


def _onnx_layers(path: Path) -> dict[str, list[NDArray[np.float32]]]:
    """Kernel and bias by the name of opennsfw2's layer: `conv_*` as HWIO, `fc_nsfw` as (inputs, classes)."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    layers: dict[str, list[NDArray[np.float32]]] = {}
    for node in graph.node:
        if node.op_type == "Conv":
            batch_norm = node.output[0].split("/")[0]
            kernel = values[node.input[1]].transpose(2, 3, 1, 0)
            layers[f"conv{batch_norm.removeprefix('bn')}"] = [kernel, values[node.input[2]]]
        elif node.op_type == "MatMul":
            layer = node.output[0].split("/")[0]
            layers[layer] = [values[node.input[1]], values[f"{layer}/BiasAdd/ReadVariableOp:0"]]
    return layers


def _identity_batch_norm(channels: int) -> list[NDArray[np.float32]]:
    """Gamma, beta, mean and variance with which a batch norm returns its input."""
    gamma = np.full(channels, math.sqrt(1 + _BATCH_NORM_EPSILON), dtype=np.float32)
    zeros = np.zeros(channels, dtype=np.float32)
    return [gamma, zeros, zeros, np.ones(channels, dtype=np.float32)]
