"""Perceptual hashes: of the canonical image for near-duplicates, of any picture for the policy's hash lists.

pHashes are bit-equal to `imagehash.phash` 4.3.2 on the same luminance; PDQ is Meta's own code (`pdqhash`).

pHash: https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html; a bit says whether a low-frequency
coefficient of the two-dimensional DCT-II of the luminance is above the median of those coefficients.

`hash_pixels` goes by the stored JPEG alone, so that whoever holds the `images` table can compute it again.
"""

import io
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fftpack import dct

REVISION = 1
"""Raise this whenever `picture_hashes` makes other hashes of the same pixels."""

HIGH_FREQUENCY_FACTOR = 4
"""The DCT is taken over (hash side x this) squared pixels; imagehash's default."""

LUMINANCE_MIN_SIDE = 64
"""The stored JPEG is decoded at the smallest DCT scale (1, 1/2, 1/4, 1/8) that leaves both sides at least this long,
since the 256-bit hash is taken over 64 x 64 pixels."""


_PDQ_SIDE = 512
"""Pictures larger in width or height are squashed to this before PDQ, as Meta's own tool does."""
_PDQ_SYMMETRIC_SIDE = 320
"""PDQ takes all eight orientations from one DCT, which is exact only where its filter and its 64 x 64 sampling lie
alike from either end: at 320 pixels a side, but not at 256 or 512, where four photographs were up to 40 bits off."""


@dataclass(frozen=True, slots=True)
class PerceptualHashes:
    """What near-duplicate search needs of one image.

    Attributes:
        phash64: 8 x 8 pHash as a signed 64-bit integer (a Spark bigint); row-major, the first bit the most significant.
        phash256: 16 x 16 pHash as 32 bytes; row-major, the first bit the most significant of the first byte.
        flatness: standard deviation of the luminance in grey levels (0 to 127.5); near 0 the bits are noise.
        sharpness: 0 to 100, how much gradient there is to hash: the quality measure of PDQ (Meta, "The TMK+PDQF
            Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm", 2019) on 64 x 64 luminance.
    """

    phash64: int
    phash256: bytes
    flatness: float
    sharpness: float


def hash_pixels(pixels: bytes) -> PerceptualHashes:
    """Hash a canonical JPEG.

    Raises:
        OSError: where `pixels` is not a whole JPEG (`PIL.UnidentifiedImageError` is one).
    """
    return hash_luminance(decode_luminance(pixels))


def decode_luminance(pixels: bytes) -> Image.Image:
    """The luminance (mode L) of a canonical JPEG, scaled down while decoding; see `LUMINANCE_MIN_SIDE`."""
    image = Image.open(io.BytesIO(pixels), formats=["JPEG"])
    image.draft("L", (LUMINANCE_MIN_SIDE, LUMINANCE_MIN_SIDE))
    image.load()
    return image


def hash_luminance(luminance: Image.Image) -> PerceptualHashes:
    """Hash a luminance image (mode L) of any size."""
    small, large = _resampled(luminance, 8), _resampled(luminance, 16)
    bits64, bits256 = _bits(small, 8), _bits(large, 16)
    return PerceptualHashes(
        phash64=int.from_bytes(np.packbits(bits64).tobytes(), "big", signed=True),
        phash256=np.packbits(bits256).tobytes(),
        flatness=_standard_deviation(luminance),
        sharpness=_gradient_sum(large),
    )


class PictureHashes(NamedTuple):
    """A picture's hashes in its eight orientations, each 8 x 32 bytes; None where not asked for.

    Orientations: as it is; turned by 90, 180, 270 degrees counter-clockwise; flipped top to bottom; left to right;
    about the main diagonal; about the other one. A hash is 256 bits row-major, the first the most significant.
    """

    phash256s: bytes | None
    pdqs: bytes | None
    quality: int | None
    """0 to 100, PDQ's measure of how much gradient there is to hash; below 50 its authors discard a hash."""


def picture_hashes(picture: Image.Image, kinds: Collection[str]) -> PictureHashes:
    """Hashes of an RGB picture of any size, of the kinds (`phash256`, `pdq`) that are asked for."""
    phash256s = pdqs = quality = None
    if "phash256" in kinds:
        pixels = _resampled(picture.convert("L"), 16)
        phash256s = b"".join(np.packbits(_bits(turned, 16)).tobytes() for turned in _orientations(pixels))
        quality = int(_gradient_sum(pixels))
    if "pdq" in kinds:
        pdqs, quality = _pdq(picture)
    return PictureHashes(phash256s, pdqs, quality)


def _orientations(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The square array in the order of `PictureHashes`. A DCT of flipped pixels is that of the pixels with signs
    changed only up to rounding, which decides bits near the median: so each orientation has its own."""
    turned = [np.rot90(pixels, turns) for turns in range(4)]
    return [*turned, pixels[::-1], pixels[:, ::-1], pixels.T, np.rot90(pixels, 2).T]


def _pdq(picture: Image.Image) -> tuple[bytes, int]:
    import pdqhash

    large = max(picture.size) > _PDQ_SIDE
    small = picture.resize((_PDQ_SIDE, _PDQ_SIDE), Image.Resampling.BILINEAR) if large else picture
    upright, quality = pdqhash.compute(np.asarray(small))
    symmetric = picture.resize((_PDQ_SYMMETRIC_SIDE, _PDQ_SYMMETRIC_SIDE), Image.Resampling.BILINEAR)
    turned, _ = pdqhash.compute_dihedral(np.asarray(symmetric))
    return b"".join(np.packbits(bits.astype(bool)).tobytes() for bits in (upright, *turned[1:])), int(quality)


def _resampled(luminance: Image.Image, hash_side: int) -> NDArray[np.uint8]:
    side = hash_side * HIGH_FREQUENCY_FACTOR
    return np.asarray(luminance.resize((side, side), Image.Resampling.LANCZOS))


def _bits(pixels: NDArray[np.uint8], hash_side: int) -> NDArray[np.bool_]:
    """(side, side) uint8 to (hash_side, hash_side) bool; SciPy's DCT: only the same arithmetic gives the same bits."""
    rows = dct(pixels, axis=0)[:hash_side]
    coefficients = dct(rows, axis=1)[:, :hash_side]
    return cast("NDArray[np.bool_]", coefficients > np.median(coefficients))


def _standard_deviation(luminance: Image.Image) -> float:
    """Population standard deviation from the histogram: integer sums, so the same on every machine."""
    counts = np.array(luminance.histogram(), dtype=np.int64)
    levels = np.arange(256, dtype=np.int64)
    count, total, squares = int(counts.sum()), int(counts @ levels), int(counts @ levels**2)
    return float((count * squares - total * total) ** 0.5 / count)


def _gradient_sum(pixels: NDArray[np.uint8]) -> float:
    """Sum of the neighbours' differences in per cent of the range, each truncated, over 90 and at most 100."""
    values = pixels.astype(np.int64) * 100
    horizontal = np.abs(np.diff(values, axis=1)) // 255
    vertical = np.abs(np.diff(values, axis=0)) // 255
    return float(min(100, (int(horizontal.sum()) + int(vertical.sum())) // 90))
