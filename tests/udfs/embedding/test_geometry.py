"""Beside a GPU pixels are made by torch's integer resize: held to Pillow's and timm's, which a CPU keeps to the bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.pictures import photograph
from tests.udfs.embedding.test_embed import PACKAGED
from udfs.devices import Device
from udfs.embedding.embed import Embedder, load_embedder
from udfs.embedding.geometry import geometry
from udfs.embedding.golden import golden_images
from udfs.embedding.vision import ModelDescription

WAYS = [
    {"crop_mode": "center"},
    {"crop_mode": "center", "interpolation": "bilinear", "crop_pct": 1.0},
    {"crop_mode": "squash"},
    {"crop_mode": "squash", "input_size": (160, 224), "crop_pct": 1.0},
    {"fit": "pad"},
    {"fit": "pad", "input_size": (160, 224), "interpolation": "bilinear"},
]
LEFT_TO_PILLOW = [
    {"crop_mode": "border"},
    {"crop_mode": "center", "input_size": (160, 224)},
    {"interpolation": "lanczos"},
    {"fit": "pad", "interpolation": "lanczos"},
]


def described(**changes: object) -> ModelDescription:
    usual: dict[str, object] = {
        "architecture": "test_vit", "head": "features", "pooling": "model", "dimension": 64, "input_size": (224, 224),
        "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 0.875,
        "crop_mode": "center", "fit": "model",
    }  # fmt: skip
    return ModelDescription(**(usual | changes))  # type: ignore[arg-type]


def apart(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.int64]:
    assert one.shape == other.shape
    return np.abs(one.astype(np.int64) - other)


@pytest.mark.parametrize("way", WAYS)
@given(width=st.integers(1, 700), height=st.integers(1, 700))
@settings(max_examples=40, deadline=None)
def test_pixels_for_a_gpu_are_those_for_a_cpu_to_a_level_or_two(
    way: dict[str, object], width: int, height: int
) -> None:
    """Of a photograph, cut to any shape; where Pillow refuses a shape, so does torch."""
    wide = photograph("coffee.png").resize((700, 700))
    image = wide.crop((0, 0, width, height))
    on_cpu, on_gpu = geometry(described(**way), "cpu"), geometry(described(**way), "cuda")
    try:
        expected = on_cpu(image)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)):
            on_gpu(image)
        return
    found = apart(on_gpu(image), expected)
    assert found.max(initial=0) <= 2
    assert (found > 0).mean() < 0.05
    assert (found > 1).mean() < 0.001


@pytest.mark.parametrize("way", LEFT_TO_PILLOW)
def test_what_torch_has_no_equal_of_is_left_to_pillow(way: dict[str, object]) -> None:
    image = photograph("coffee.png")
    on_cpu, on_gpu = geometry(described(**way), "cpu"), geometry(described(**way), "cuda")
    assert np.array_equal(on_cpu(image), on_gpu(image))


def test_golden_vectors_do_not_tell_the_two_apart() -> None:
    """Not by a tenth of what they allow in float32, with the model that feels a changed pixel most."""
    embedder: Embedder = load_embedder(PACKAGED)
    beside: tuple[Device, Device] = ("cpu", "cuda")
    for image in map(Image.fromarray, golden_images()):
        one, other = embedder.embed([geometry(embedder.description, device)(image) for device in beside])
        assert one.vector is not None
        assert other.vector is not None
        assert 1 - float(np.dot(one.vector, other.vector)) < 1e-6


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_padding_shows_the_whole_picture_on_white(device: Device) -> None:
    shown = geometry(described(fit="pad"), device)(Image.new("RGB", (400, 100), (200, 0, 0)))
    assert shown.shape == (224, 224, 3)
    assert (shown[:80] == 255).all()
    assert (shown[100:120] == (200, 0, 0)).all()
