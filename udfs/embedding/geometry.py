"""The resize and crop before a visual tower: RGB image of any size to the pixels that the model takes.

On a CPU they are timm's and Pillow's own, so that a vector has the bits of a bare timm loop: there the model costs ten
times as much. A GPU waits for the host, and most of what the host does is Pillow's resize (3.4 ms of 5.4 ms an image of
512 x 384 on one core). Torch has the same algorithm, two passes in integers, for vector instructions, at a fifth of the
time. Three values in a hundred, at most, differ by one level of 255, one in 30,000 by two, and a vector's
cosine by 5e-7: less than what another number format costs. Golden vectors hold it to that.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from udfs.devices import Device
from udfs.embedding.vision import ModelDescription

Pixels = NDArray[np.uint8]
"""`(height, width, 3)` uint8 RGB."""

_WHITE = (255, 255, 255)
_VECTORISED = ("bilinear", "bicubic")
"""Interpolations that torch has for bytes, with the antialiasing of Pillow."""


def geometry(description: ModelDescription, device: Device) -> Callable[[Image.Image], Pixels]:
    """What makes an RGB image of any size into pixels of the model's input size, beside a model on this device.

    The returned call raises ValueError for an image so narrow that nothing of it would be left.
    """
    fast = device == "cuda" and description.interpolation in _VECTORISED
    if description.fit == "pad":
        return _padded(description, fast)
    steps = _steps_of_timm(description)
    if fast and _are_plain(steps):
        return _vectorised(steps, description.interpolation)
    from torchvision.transforms import Compose

    transform = Compose(steps)
    return lambda image: np.asarray(transform(image))


def _steps_of_timm(description: ModelDescription) -> list[Any]:
    """Its evaluation transform, without the last step, which makes a tensor: whole batches become one on the device."""
    from timm.data import create_transform

    transform = create_transform(
        input_size=(3, *description.input_size),
        interpolation=description.interpolation,
        mean=description.mean,
        std=description.std,
        crop_pct=description.crop_pct,
        crop_mode=description.crop_mode,
        normalize=False,
    )
    return list(transform.transforms[:-1])


def _are_plain(steps: Sequence[Any]) -> bool:
    from torchvision.transforms import CenterCrop, Resize

    return all(isinstance(step, (Resize, CenterCrop)) for step in steps)


def _vectorised(steps: Sequence[Any], interpolation: str) -> Callable[[Image.Image], Pixels]:
    from torchvision.transforms import Resize

    def transform(image: Image.Image) -> Pixels:
        planes = _planes(image)
        for step in steps:
            if isinstance(step, Resize):
                planes = _resized(planes, _size_after(step.size, image.width, image.height), interpolation)
            else:
                planes = step(planes)
        return _pixels(planes)

    return transform


def _size_after(asked: int | Sequence[int], width: int, height: int) -> tuple[int, int]:
    """Height and width that torchvision's `Resize` makes: those asked for, or the shorter side as long as asked for."""
    if not isinstance(asked, int):
        return asked[0], asked[1]
    longer = int(asked * max(width, height) / min(width, height))
    return (asked, longer) if height <= width else (longer, asked)


def _padded(description: ModelDescription, fast: bool) -> Callable[[Image.Image], Pixels]:
    """The whole picture in the middle, on white."""
    height, width = description.input_size
    if not fast:
        resampling = Image.Resampling[description.interpolation.upper()]
        return lambda image: np.asarray(ImageOps.pad(image, (width, height), method=resampling, color=_WHITE))

    def transform(image: Image.Image) -> Pixels:
        rows, columns = height, width
        if image.width * height > width * image.height:
            rows = round(image.height / image.width * width)
        else:
            columns = round(image.width / image.height * height)
        shown = np.full((height, width, 3), 255, np.uint8)
        top, left = round((height - rows) * 0.5), round((width - columns) * 0.5)
        resized = _resized(_planes(image), (rows, columns), description.interpolation)
        shown[top : top + rows, left : left + columns] = _pixels(resized)
        return shown

    return transform


def _planes(image: Image.Image) -> Any:
    """`(3, height, width)` uint8, a view of pixels that lie beside one another: torch's fast way is for these."""
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _pixels(planes: Any) -> Pixels:
    found: Pixels = planes.permute(1, 2, 0).numpy()
    return found


def _resized(planes: Any, size: tuple[int, int], interpolation: str) -> Any:
    from torch.nn.functional import interpolate

    if not min(size):
        raise ValueError("height and width must be > 0")
    return interpolate(planes[None], size=size, mode=interpolation, antialias=True)[0]
