"""Beside a GPU pixels are torch's and torchvision's: held to Pillow's and timm's, which a CPU keeps to the bit."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.pictures import encoded, photograph
from tests.udfs.embedding.test_embed import PACKAGED
from udfs.devices import Device
from udfs.embedding.embed import load_embedder
from udfs.embedding.golden import golden_images
from udfs.embedding.pixels import Pixels, preparation
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
UNSCALED = {"input_size": (400, 600), "crop_mode": "squash", "crop_pct": 1.0}
"""The size of the photograph that is used here: only decoding is left."""


def described(**changes: object) -> ModelDescription:
    usual: dict[str, object] = {
        "architecture": "test_vit", "head": "features", "pooling": "model", "dimension": 64, "input_size": (224, 224),
        "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 0.875,
        "crop_mode": "center", "fit": "model",
    }  # fmt: skip
    return ModelDescription(**(usual | changes))  # type: ignore[arg-type]


def saved(mode: str = "RGB", **options: object) -> bytes:
    return encoded(photograph("coffee.png").convert(mode), **options)


def apart(one: Pixels, other: Pixels) -> NDArray[np.int64]:
    assert one.shape == other.shape
    return np.abs(one.astype(np.int64) - other)


@pytest.mark.parametrize("way", WAYS)
@given(width=st.integers(1, 700), height=st.integers(1, 700))
@example(width=64, height=684)
@settings(max_examples=40, deadline=None)
def test_pixels_for_a_gpu_are_those_for_a_cpu_to_a_level_or_two(
    way: dict[str, object], width: int, height: int
) -> None:
    """Of a photograph, cut to any shape; where Pillow refuses a shape, so does torch."""
    image = np.asarray(photograph("coffee.png").resize((700, 700)).crop((0, 0, width, height)))
    on_cpu, on_gpu = preparation(described(**way), "cpu"), preparation(described(**way), "cuda")
    try:
        expected = on_cpu.fit(image)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)):
            on_gpu.fit(image)
        return
    found = apart(on_gpu.fit(image), expected)
    assert found.max(initial=0) <= 2
    # A strip of a few pixels that is drawn out to a square is made of few values: where one rounds otherwise, many do.
    # By a ratio of small numbers (64 pixels to 224) many values lie halfway between two levels, and go either way: of
    # 2,300 shapes that were looked through for it .079 at most.
    assert (found > 0).mean() < (0.1 if min(width, height) >= 8 else 0.25)
    assert (found > 1).mean() < 0.001


@pytest.mark.parametrize(
    "jpeg",
    [
        saved(), saved("L"), saved("CMYK"), saved(quality=30), saved(quality=100, subsampling=0),
        saved(progressive=True, subsampling=2), saved() + bytes(2 << 20),
    ],
    ids=["usual", "grey", "cmyk", "coarse", "fine", "progressive", "left to Pillow"],
)  # fmt: skip
def test_a_jpeg_is_decoded_to_the_same_bits(jpeg: bytes) -> None:
    on_cpu, on_gpu = (preparation(described(**UNSCALED), device) for device in ("cpu", "cuda"))
    expected = on_cpu.decode(jpeg)
    assert expected.shape == (400, 600, 3)
    assert np.array_equal(on_gpu.decode(jpeg), expected)


@pytest.mark.parametrize(
    "damaged",
    [b"abc", saved()[:200], saved()[:9000], encoded(photograph("coffee.png"), "PNG")],
    ids=["words", "beginning", "half", "png"],
)
def test_damage_ends_as_it_does_beside_a_cpu(damaged: bytes) -> None:
    on_cpu, on_gpu = preparation(described(), "cpu"), preparation(described(), "cuda")
    with pytest.raises(OSError, match=r"cannot identify|[Tt]runcated") as expected:
        on_cpu.decode(damaged)
    with pytest.raises(type(expected.value), match=str(expected.value).partition(" <")[0].partition(" (")[0]):
        on_gpu.decode(damaged)


def test_a_header_that_would_fill_the_memory_is_refused() -> None:
    """65,500 pixels a side: Pillow refuses it, and what torch is given cannot decode to so much."""
    jpeg = bytearray(saved() + bytes(2 << 20))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (65500).to_bytes(2, "big") * 2
    with pytest.raises(Image.DecompressionBombError):
        preparation(described(), "cuda").decode(bytes(jpeg))


@pytest.mark.parametrize("way", LEFT_TO_PILLOW)
def test_what_torch_has_no_equal_of_is_left_to_pillow(way: dict[str, object]) -> None:
    on_cpu, on_gpu = preparation(described(**way), "cpu"), preparation(described(**way), "cuda")
    assert np.array_equal(on_cpu.decode(saved()), on_gpu.decode(saved()))


def test_golden_vectors_do_not_tell_the_two_apart() -> None:
    """Not by a tenth of what they allow in float32, with the model that feels a changed pixel most."""
    embedder = load_embedder(PACKAGED)
    on_cpu, on_gpu = (preparation(embedder.description, device) for device in ("cpu", "cuda"))
    for image in golden_images():
        one, other = embedder.embed([on_cpu.fit(image), on_gpu.fit(image)])
        assert one.vector is not None
        assert other.vector is not None
        assert 1 - float(np.dot(one.vector, other.vector)) < 1e-6


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_padding_shows_the_whole_picture_on_white(device: Device) -> None:
    wide = np.full((100, 400, 3), (200, 0, 0), np.uint8)
    shown = preparation(described(fit="pad"), device).fit(wide)
    assert shown.shape == (224, 224, 3)
    assert (shown[:80] == 255).all()
    assert (shown[100:120] == (200, 0, 0)).all()
