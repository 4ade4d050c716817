"""The canonical image: what the warehouse keeps of an image, and all that later stages see of it.

A JPEG in sRGB, upright, without metadata, its longest side at most `images.max_side`. The same bytes give the same
JPEG on every x86-64 machine with the same `canonical_version`: each step is integer arithmetic, which is why OpenCV's
bit-exact resampler is used and not its bicubic one, whose results depend on the processor.
"""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, features

from schemas.outcomes import FailureCode
from schemas.settings import CrawlSettings, ImageSettings
from udfs.images.decode import ImageError, decoding, load, open_image, orientation, to_rgb, upright
from udfs.images.phash import hash_pixels

METHOD = 2
"""Raise this whenever this module or `udfs.images.decode` gives other pixels for the same bytes."""

_PACKED_MODES = {"RGB": "RGBX", "CMYK": "CMYK"}
"""Modes of four bytes a pixel in Pillow's memory: resampled as they are, colours converted when they are small."""

_SOURCE_FORMATS = {"MPO": "jpeg"}


@lru_cache(maxsize=1)
def _opencv() -> ModuleType:
    """OpenCV kept to one thread: a task has one core."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


@dataclass(frozen=True, slots=True)
class Canonical:
    """One canonical image.

    Attributes:
        pixels: the JPEG: sRGB, upright, 4:2:0, without metadata.
        width, height: of `pixels`, in pixels.
        source_width, source_height: of the bytes it was made from, upright, in pixels.
        source_format: "jpeg", "png", "webp", "gif" or "avif".
        sharpness: 0 to 100, of what was encoded as `pixels`; see `sharpness_of`.
        phash64, phash256, flatness, view_hashes: of `pixels`; see `udfs.images.phash.PerceptualHashes`.
    """

    pixels: bytes
    width: int
    height: int
    source_width: int
    source_height: int
    source_format: str
    sharpness: float
    phash64: int
    phash256: bytes
    flatness: float
    view_hashes: tuple[bytes, ...]


def canonical_version(images: ImageSettings) -> str:
    """16 hex digits of the SHA-256 over all that decides which canonical JPEG some bytes become."""
    decides = {
        "method": METHOD,
        "max_side": images.max_side,
        "jpeg_quality": images.jpeg_quality,
        "opencv": _opencv().__version__,
        "pillow": features.version("pil"),
        **{name: features.version(name) for name in ("libjpeg_turbo", "webp", "avif", "littlecms2")},
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def canonicalise(
    data: bytes, images: ImageSettings, limits: CrawlSettings, declared_type: str | None = None
) -> Canonical:
    """Make the canonical image of fetched bytes (the first frame of an animation).

    Raises:
        ImageError: `BAD_TYPE`, `DECODE`, `BOMB` or `TOO_SMALL`; see `udfs.images.decode.open_image`.
    """
    image = open_image(data, limits, declared_type, images.min_side)
    size = _fitted(image.size, images.max_side)
    if min(size) < images.min_side:
        # A strip a few pixels wide has nothing left to tell it from another.
        width, height = image.size
        raise ImageError(
            FailureCode.TOO_SMALL,
            f"{width} x {height}, stored as {size[0]} x {size[1]}: a side below {images.min_side}",
        )
    return rendered(image, size, images.jpeg_quality)


def rendered(image: Image.Image, size: tuple[int, int], quality: int) -> Canonical:
    """The canonical image at `size`, (width, height) before it is brought upright, of one that `open_image` opened.

    Raises:
        ImageError: `DECODE` or `BOMB`; see `udfs.images.decode.load`.
    """
    source_size, source_format = image.size, image.format or ""
    with decoding(source_format):
        # libjpeg-turbo scales by 1/2, 1/4, 1/8 inside the inverse DCT: never below `size`, and cheaper than full size.
        image.draft(None, size)
        load(image)
        turn = orientation(image)
        array = _shrunk_rgbx(image, size, turn)
    pixels = _encoded(array, quality)
    hashes = hash_pixels(pixels)
    source_width, source_height = source_size[::-1] if turn >= 5 else source_size
    return Canonical(
        pixels=pixels,
        width=array.shape[1],
        height=array.shape[0],
        source_width=source_width,
        source_height=source_height,
        source_format=_SOURCE_FORMATS.get(source_format, source_format.lower()),
        sharpness=sharpness_of(array),
        phash64=hashes.phash64,
        phash256=hashes.phash256,
        flatness=hashes.flatness,
        view_hashes=hashes.view_hashes,
    )


def sharpness_of(array: NDArray[np.uint8]) -> float:
    """25 log10(1 + the variance of the Laplacian) of the luminance of (height, width, 4) uint8, at most 100.

    A blurred image has no edges and a Laplacian near 0 everywhere. The measure is LAPV of Pertuz, Puig and Garcia,
    "Analysis of focus measure operators for shape-from-focus", Pattern Recognition 46 (2013); its logarithm, for it
    spreads over four powers of ten.
    """
    cv2 = _opencv()
    edges = cv2.Laplacian(cv2.cvtColor(array, cv2.COLOR_RGBA2GRAY), cv2.CV_16S)
    mean, squares = cv2.mean(edges)[0], cv2.norm(edges, cv2.NORM_L2SQR) / edges.size
    return float(min(100.0, 25 * math.log10(1 + squares - mean * mean)))


def _fitted(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """`size` scaled so that its longest side is at most `max_side`; never enlarged, never below one pixel."""
    longest = max(size)
    if longest <= max_side:
        return size
    width, height = (max(1, (2 * side * max_side + longest) // (2 * longest)) for side in size)
    return width, height


def _shrunk_rgbx(image: Image.Image, size: tuple[int, int], turn: int) -> NDArray[np.uint8]:
    """The loaded image as (height, width, 4) uint8, sRGB and a byte without meaning: shrunk to `size`, then brought
    upright from EXIF orientation `turn`."""
    profile = image.info.get("icc_profile")
    if image.mode not in _PACKED_MODES or image.has_transparency_data:
        image, profile = to_rgb(image), None
    mode = image.mode
    array = _resampled(image, size)
    if mode == "RGB" and profile is None and turn == 1:
        return array
    shrunk = Image.frombuffer(mode, size, array, "raw", _PACKED_MODES[mode], 0, 1)
    if profile is not None:
        shrunk.info["icc_profile"] = profile
    return _packed(upright(to_rgb(shrunk), turn))


def _packed(image: Image.Image) -> NDArray[np.uint8]:
    """(height, width, 4) uint8: Pillow's own memory where it is in one piece, which below 16 MB it is, else a copy."""
    try:
        flat = pa.array(image).values.to_numpy()
    except ValueError:
        flat = np.frombuffer(image.tobytes("raw", _PACKED_MODES[image.mode]), dtype=np.uint8)
    return cast("NDArray[np.uint8]", flat.reshape(image.height, image.width, 4))


def _resampled(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(height, width, 4) uint8 at `size`.

    Below a factor of two, which is what the JPEG decoder leaves, bilinear reads every source pixel: measured at
    800 x 600 to 512 x 384, 1.0 ms and 40 dB from Lanczos, where OpenCV's area filter takes 3 ms for the same and
    Pillow's bicubic 7 ms for 46 dB. From there on (PNG, WebP and the like) a box filter comes first.
    """
    if image.size == size:
        return _packed(image)
    if image.width >= 2 * size[0] or image.height >= 2 * size[1]:
        return _packed(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=1.0))
    cv2 = _opencv()
    return cast("NDArray[np.uint8]", cv2.resize(_packed(image), size, interpolation=cv2.INTER_LINEAR_EXACT))


def _encoded(array: NDArray[np.uint8], quality: int) -> bytes:
    cv2 = _opencv()
    options = [
        *(cv2.IMWRITE_JPEG_QUALITY, quality),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
    ]
    encoded, jpeg = cv2.imencode(".jpg", cv2.cvtColor(array, cv2.COLOR_RGBA2BGR), options)
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode {array.shape[1]} x {array.shape[0]} pixels as JPEG")
    return bytes(jpeg)
