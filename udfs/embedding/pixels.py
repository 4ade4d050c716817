"""From stored JPEG bytes to what a visual tower is given: decoded, resized, cropped, `(height, width, 3)` uint8 RGB.

On a CPU that is timm's and Pillow's own work, so that a vector has the bits of a bare timm loop: there the model costs
ten times as much. A GPU waits for the host, and there torchvision decodes, to the same bits, and torch resizes: as
Pillow does, in integers and two passes, but by vector instructions. Of 5.4 ms an image of 512 x 384 on one core, 3.4 of
them Pillow's resize, 1.3 are left, and next to nothing of it holds Python's lock against the other decoding threads.
At most four values in a hundred differ by one level of 255 (a fifth in strips less than eight pixels wide that are
drawn out to a square), one in 7,000 by two, and a vector's cosine by 5e-7: less than another number format costs.
Golden vectors hold it to that.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any, Protocol

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
_LARGEST_FOR_TORCH = 1 << 20
"""Bytes of a JPEG. Torchvision believes whatever size a header states; Pillow refuses what would fill the memory. So
few bytes cannot, as one decodes to less than 1,000; a canonical image is far smaller."""


class Preparation(Protocol):
    """What makes images of any size into pixels of the model's input size."""

    def decode(self, jpeg: bytes) -> Pixels:
        """Of a JPEG in any colour space. Raises OSError, SyntaxError, ValueError or DecompressionBombError for bytes
        that are none, and ValueError for an image so narrow that nothing of it would be left."""

    def fit(self, image: Pixels) -> Pixels:
        """Of decoded pixels; ValueError as `decode`."""


def preparation(description: ModelDescription, device: Device) -> Preparation:
    """For a model that runs on this device."""
    from torchvision.transforms import Compose

    pads = description.fit == "pad"
    steps = [] if pads else _steps_of_timm(description)
    by_pillow = _ByPillow(_padding_by_pillow(description) if pads else Compose(steps))
    if device != "cuda" or description.interpolation not in _VECTORISED or not _are_plain(steps):
        return by_pillow
    return _ByTorch(_padding(description) if pads else _following(steps, description.interpolation), by_pillow)


class _ByPillow:
    def __init__(self, transform: Callable[[Image.Image], Image.Image]) -> None:
        self._transform = transform

    def decode(self, jpeg: bytes) -> Pixels:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            return np.asarray(self._transform(image.convert("RGB")))

    def fit(self, image: Pixels) -> Pixels:
        return np.asarray(self._transform(Image.fromarray(image)))


class _ByTorch:
    """`transform` is from planes to planes, `(3, height, width)` uint8, the colours of a pixel beside one another."""

    def __init__(self, transform: Callable[[Any], Any], by_pillow: Preparation) -> None:
        self._transform = transform
        self._by_pillow = by_pillow

    def decode(self, jpeg: bytes) -> Pixels:
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        if len(jpeg) > _LARGEST_FOR_TORCH:
            return self._by_pillow.decode(jpeg)
        try:
            planes = decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode=ImageReadMode.RGB)
        except RuntimeError:
            return self._by_pillow.decode(jpeg)  # What a CPU makes of it: the same error, or a picture after all.
        return _pixels(self._transform(planes))

    def fit(self, image: Pixels) -> Pixels:
        import torch

        return _pixels(self._transform(torch.from_numpy(np.array(image)).permute(2, 0, 1)))


def _pixels(planes: Any) -> Pixels:
    found: Pixels = planes.permute(1, 2, 0).numpy()
    return found


def _padding_by_pillow(description: ModelDescription) -> Callable[[Image.Image], Image.Image]:
    height, width = description.input_size
    resampling = Image.Resampling[description.interpolation.upper()]
    return lambda image: ImageOps.pad(image, (width, height), method=resampling, color=_WHITE)


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


def _following(steps: Sequence[Any], interpolation: str) -> Callable[[Any], Any]:
    """Timm's steps, but for the resize: torchvision has it for tensors by way of floats, rounded once and not twice."""
    from torchvision.transforms import Resize

    def transform(planes: Any) -> Any:
        for step in steps:
            if isinstance(step, Resize):
                planes = _resized(planes, _size_after(step.size, *planes.shape[1:]), interpolation)
            else:
                planes = step(planes)
        return planes

    return transform


def _size_after(asked: int | Sequence[int], height: int, width: int) -> tuple[int, int]:
    """Height and width that torchvision's `Resize` makes: those asked for, or the shorter side as long as asked for."""
    if not isinstance(asked, int):
        return asked[0], asked[1]
    longer = int(asked * max(width, height) / min(width, height))
    return (asked, longer) if height <= width else (longer, asked)


def _padding(description: ModelDescription) -> Callable[[Any], Any]:
    """The whole picture in the middle, on white: `ImageOps.pad`."""
    import torch

    height, width = description.input_size

    def transform(planes: Any) -> Any:
        found_height, found_width = planes.shape[1:]
        rows, columns = height, width
        if found_width * height > width * found_height:
            rows = round(found_height / found_width * width)
        else:
            columns = round(found_width / found_height * height)
        shown = torch.full((height, width, 3), 255, dtype=torch.uint8).permute(2, 0, 1)
        top, left = round((height - rows) * 0.5), round((width - columns) * 0.5)
        resized = _resized(planes, (rows, columns), description.interpolation)
        shown[:, top : top + rows, left : left + columns] = resized
        return shown

    return transform


def _resized(planes: Any, size: tuple[int, int], interpolation: str) -> Any:
    from torch.nn.functional import interpolate

    if not min(size):
        raise ValueError("height and width must be > 0")
    return interpolate(planes[None], size=size, mode=interpolation, antialias=True)[0]
