"""The detectors of the gate behind one interface: open_nsfw, and those that the settings name beside it.

A detector prepares one view at a time, so that no full-size image has to wait for its batch, and scores a batch of
what it prepared.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from schemas.settings import DetectorSettings, GateSettings
from udfs.assets import locate
from udfs.devices import Wanted
from udfs.gate.nsfw import Detector, DetectorError, load_detector, preprocess
from udfs.gate.views import View
from udfs.tensors import TensorsError, read_tensors

REVISION = 1
"""Raise this whenever this module makes other scores of the same pixels and settings."""

Input = NDArray[np.float32]
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class GateDetector:
    """One loaded detector."""

    labels: tuple[str, ...]
    """Scores are stored as `<label>:<view>`: `nsfw`, or `<name>.<label>` for each label of another detector."""
    prepare: Callable[[View], Input | None]
    """A view as the network takes it; None for a view in which this detector sees no more than in another."""
    score: Callable[[Input], Scores]
    """`(N, ...)` prepared views to `(N, len(labels))` probabilities."""


def load_detectors(gate: GateSettings, device: Wanted = "auto") -> tuple[GateDetector, ...]:
    """All detectors of the gate, open_nsfw first and on `device`, the others on the CPU; each is loaded once per
    process.

    Raises AssetError for weights that are missing or not the pinned ones, DetectorError for those of another model,
    DeviceError for a GPU that is not there or not ours.
    """
    return (open_nsfw(load_detector(gate.detector, device)), *(_load(one) for one in gate.detectors))


def open_nsfw(detector: Detector) -> GateDetector:
    return GateDetector(
        labels=("nsfw",),
        prepare=lambda view: preprocess(view.image, view.whole),
        score=lambda batch: detector.score(batch)[:, None],
    )


@functools.cache
def _load(settings: DetectorSettings) -> GateDetector:
    path = locate(settings.weights)
    forward = (_onnx if settings.kind == "onnx" else _timm)(settings, path)
    activate = _ACTIVATIONS[settings.activation]

    def prepare(view: View) -> Input | None:
        # Without a crop of its own, `squash` would be `center` once more.
        return None if view.name.endswith("squash") else _pixels(view.image, settings)

    def score(batch: Input) -> Scores:
        outputs = [np.asarray(forward(one[None]), dtype=np.float32) for one in batch]
        expected = (1, len(settings.labels))
        if any(output.shape != expected for output in outputs):
            raise DetectorError(f"{path}: expected outputs of shape {expected}, found {outputs[0].shape}")
        return activate(np.concatenate(outputs))

    return GateDetector(tuple(f"{settings.name}.{label}" for label in settings.labels), prepare, score)


def _pixels(image: Image.Image, settings: DetectorSettings) -> Input:
    """(3, height, width) float32: red, green, blue, normalised."""
    height, width = settings.input_size
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(resized, dtype=np.float32) / 255
    values = (values - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _onnx(settings: DetectorSettings, path: Path) -> Callable[[Input], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class of their own
        raise DetectorError(f"{path}: expected an ONNX model, found: {error}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    channels_last = _channels_last(settings, path, inputs[0].shape, len(inputs))

    def forward(pixels: Input) -> Any:
        given = pixels.transpose(0, 2, 3, 1) if channels_last else pixels
        return session.run([outputs[0].name], {inputs[0].name: np.ascontiguousarray(given)})[0]

    return forward


def _channels_last(settings: DetectorSettings, path: Path, shape: list[Any], inputs: int) -> bool:
    """Whether the file takes (1, height, width, 3) and not (1, 3, height, width); a size that it leaves open fits."""
    height, width = settings.input_size
    for channels_last, wanted in ((False, (1, 3, height, width)), (True, (1, height, width, 3))):
        fits = len(shape) == 4 and all(not isinstance(s, int) or s == w for s, w in zip(shape, wanted, strict=True))
        if inputs == 1 and fits:
            return channels_last
    raise DetectorError(
        f"{path}: expected one input of shape (1, 3, {height}, {width}) or (1, {height}, {width}, 3), found {inputs} "
        f"of which the first is {tuple(shape)}"
    )


def _timm(settings: DetectorSettings, path: Path) -> Callable[[Input], Any]:
    import timm
    import torch

    if not timm.is_model(settings.model or ""):
        raise DetectorError(f"policy.detectors: timm knows no model {settings.model!r}")
    try:
        model = timm.create_model(settings.model, pretrained=False, num_classes=len(settings.labels))
        model.load_state_dict(read_tensors(path), strict=True)
    except (RuntimeError, TensorsError) as error:
        wanted = f"the tensors of timm's {settings.model} with {len(settings.labels)} classes"
        raise DetectorError(f"{path}: expected {wanted}, found: {' '.join(str(error).split())[:300]}") from error
    model.eval()
    torch.set_num_threads(1)

    def forward(pixels: Input) -> Any:
        with torch.inference_mode():
            return model(torch.from_numpy(pixels)).numpy()

    return forward


def _softmax(outputs: Scores) -> Scores:
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    shares: Scores = powers / powers.sum(axis=1, keepdims=True)
    return shares


_ACTIVATIONS: dict[str, Callable[[Scores], Scores]] = {
    "softmax": _softmax,
    "sigmoid": lambda outputs: 1 / (1 + np.exp(-outputs)),
    "none": lambda outputs: outputs,
}
