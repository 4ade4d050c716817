"""Perceptual hashes: of the canonical image for near-duplicates, of any image for the policy's hash lists.

pHashes are bit-equal to `imagehash.phash` 4.3.2 on the same luminance; PDQ is Meta's own code (`pdqhash`).

pHash: https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html; a bit says whether a low-frequency
coefficient of the two-dimensional DCT-II of the luminance is above the median of those coefficients.

`hash_pixels` goes by the stored JPEG alone, so that whoever holds the `images` table can compute it again.
"""

import hashlib
import io
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image
from scipy.fftpack import dct

from schemas.settings import FULL_VIEWS, HASHED_VIEWS, MOST_SHADES, DedupSettings, HashedView

REVISION = 1
"""Raise this whenever `oriented_hashes` makes other hashes of the same pixels."""

HIGH_FREQUENCY_FACTOR = 4
"""The DCT is taken over (hash side x this) squared pixels; imagehash's default."""

VIEWS_REVISION = 3
"""Raise this whenever other `view_hashes` are made of the same pixels."""

VIEW_BYTES, NEAR_BYTES, FAR_BYTES, HUE_BYTES, SHADES_BYTES = 1, 8, 32, 1, 1
"""A hash as it is stored: the view's place in `HASHED_VIEWS`, the 64-bit pHash, the 256-bit pHash, the hue, the
shades."""

HASH_LAYOUT = np.dtype(
    [
        ("view", "u1"),
        ("phash64", "u1", (NEAR_BYTES,)),
        ("phash256", "u1", (FAR_BYTES,)),
        ("hue", "u1"),
        ("shades", "u1"),
    ]
)
"""The same for numpy, to read many hashes at once."""
HASH_BYTES = HASH_LAYOUT.itemsize

HUES = 36
"""Hues, of 10 degrees each, that a view may be of, from 1; 0 says that it has no colour of its own. Of what is tinted
as a whole (sepia, a print in one ink) the tint's hue is stored, from `HUES` + 1 to 2 * `HUES`."""

COLOURFUL = 8.0
"""Levels that the mean of a view's chroma (Cb, Cr) is from grey, from which on it has a hue. Measured:
docs/decisions/0018-views.md."""

TINT_SCATTER, TINT_SCATTER_SHARE, TINT_MOST = 5.0, 0.25, 40.0
"""A view is tinted as a whole where its luminance says its chroma: this is off the mean of its shade by so many levels
at most (root mean square), by at most this share of its own size, and in no shade further from grey than that. What is
of a strong colour is a coloured thing. Measured: docs/decisions/0018-views.md."""

LUMINANCE_MIN_SIDE = 128
"""The stored JPEG is decoded at the smallest DCT scale (1, 1/2, 1/4, 1/8) that leaves both sides at least this long:
the 256-bit hash is taken over 64 x 64 pixels, and a border's end has to be found to half of one."""

VIEW_MIN_SIDE = 24
"""Pixels: a view with a side shorter than this, of the luminance as decoded, is left out."""

VIEW_FLAT_BELOW = 3.0
"""Grey levels: a view whose luminance deviates less has no structure to hash, and is left out."""

MOST_TURNS = 4
"""Orientations in which a view is hashed at most, where it looks alike from several sides."""

TIE = 0.5
"""How near to the edge of another orientation a view is hashed in that one too, over the median size of the lowest
coefficients. Measured: docs/decisions/0018-views.md."""

_BORDER_TOLERANCE = 20
"""Grey levels by which a border may differ from its own median: ringing of JPEG, and fine gradients."""
_OF_ONE_COLOUR = 0.96
"""Share of a line that is of one colour, from which on the line is a border's."""
_MOST_CUT = 0.4
"""Share of a side's length that a border, or a strip, may take."""
_OF_THE_GROUND = 0.985
"""Share of a line that is of the ground's colour, from which on nothing of an object is in it."""
_MOST_WRITTEN = 0.25
"""Share of the height that writing beside an object may take."""


Box = tuple[int, int, int, int]
"""Left, top, right and bottom, as Pillow has it: the last two are the first that are outside."""

_SHADE_LEVELS = 8
"""Levels of luminance in one shade: noise and what a JPEG leaves out make no further ones."""
_TINT_EVERY = 2
"""Of so many pixels along each side one is looked at for a tint."""
_LEAST_OF_A_SHADE = 0.005
"""Share of the pixels from which on a shade's chroma counts."""

_PDQ_SIDE = 512
"""Images larger in width or height are squashed to this before PDQ, as Meta's own tool does."""
_PDQ_SYMMETRIC_SIDE = 320
"""PDQ takes all eight orientations from one DCT, which is exact only where its filter and its 64 x 64 sampling lie
alike from either end: at 320 pixels a side, but not at 256 or 512, where four photographs were up to 40 bits off."""


def read_hashes(stored: pa.Array) -> NDArray[np.void]:
    """Stored hashes, an Arrow binary column, as (N,) of dtype `HASH_LAYOUT`. Raises ValueError where one has another
    length, or is null."""
    return read_fixed(stored, HASH_LAYOUT, "stored hashes")


def read_fixed(values: pa.Array, layout: np.dtype[Any], what: str) -> NDArray[Any]:
    """An Arrow binary column as (N,) of dtype `layout`, without a copy. Raises ValueError, which says `what` they are,
    where one has another length, or is null."""
    lengths = pc.binary_length(values).to_numpy(zero_copy_only=False)
    if not (lengths == layout.itemsize).all():
        raise ValueError(f"{what} have {layout.itemsize} bytes each; found lengths {np.unique(lengths)[:5]}")
    if len(values) == 0:
        return np.empty(0, dtype=layout)
    _, offsets, data = values.buffers()
    first = int(np.frombuffer(offsets, dtype=np.int32)[values.offset])
    return np.frombuffer(data, dtype=layout, count=len(values), offset=first)


@dataclass(frozen=True, slots=True)
class PerceptualHashes:
    """What near-duplicate search needs of one image.

    Attributes:
        phash64: 8 x 8 pHash as a signed 64-bit integer (a Spark bigint); row-major, the first bit the most significant.
        phash256: 16 x 16 pHash as 32 bytes; row-major, the first bit the most significant of the first byte.
        flatness: standard deviation of the luminance in grey levels (0 to 127.5); near 0 the bits are noise.
        view_hashes: what near-duplicates are found by: hashes of each view, in the order of `HASHED_VIEWS`, as
            `HASH_LAYOUT` has them.

    A view is hashed in its canonical orientation, so that a flipped or turned copy has the same hashes; where several
    orientations are as good as canonical, in each of them, at most `MOST_TURNS`. The whole is always there; another
    view is left out where there is nothing to cut, where too little is left, and where what is left is flat.
    """

    phash64: int
    phash256: bytes
    flatness: float
    view_hashes: tuple[bytes, ...]


class ViewHash(NamedTuple):
    """One of `view_hashes`, taken apart."""

    view: int
    """Place in `HASHED_VIEWS`; 0 is the whole."""
    phash64: int
    """Signed, as a Spark bigint."""
    phash256: bytes
    hue: int
    """0 to 2 * `HUES`; above `HUES` it is a tint's."""
    shades: int
    """1 to `MOST_SHADES`: how many shades of grey are seen in it, where few are; see `_shades`."""

    @classmethod
    def of(cls, stored: bytes) -> Self:
        """A hash as it is stored. Raises ValueError where it has another length."""
        if len(stored) != HASH_BYTES:
            raise ValueError(f"a hash of a view has {HASH_BYTES} bytes; found {len(stored)}")
        far = VIEW_BYTES + NEAR_BYTES
        near = int.from_bytes(stored[VIEW_BYTES:far], "big", signed=True)
        return cls(stored[0], near, stored[far : far + FAR_BYTES], stored[-2], stored[-1])

    @property
    def is_whole(self) -> bool:
        """Whether it is of the whole image, of which each image has one."""
        return HASHED_VIEWS[self.view] == "whole"

    @property
    def is_full(self) -> bool:
        """Whether it is of a full view: without one of these no two hashes are compared."""
        return self.view in FULL_VIEW_NUMBERS


def view_numbers(views: Iterable[HashedView]) -> tuple[int, ...]:
    """The numbers by which hashes name these views: their places in `HASHED_VIEWS`."""
    return tuple(HASHED_VIEWS.index(view) for view in views)


FULL_VIEW_NUMBERS = view_numbers(FULL_VIEWS)


def rule_version(settings: DedupSettings, canonical_version: str) -> str:
    """Under which rule near-duplicates are found: digest of what decides in the settings, the pixels and the views."""
    decisive = json.dumps(settings.decisive())
    views = f"{VIEWS_REVISION} {' '.join(FULL_VIEWS)}"
    return hashlib.sha256(f"{decisive} {canonical_version} {views}".encode()).hexdigest()[:16]


def hash_pixels(pixels: bytes) -> PerceptualHashes:
    """Hash a canonical JPEG.

    Raises:
        OSError: where `pixels` is not a whole JPEG (`PIL.UnidentifiedImageError` is one).
    """
    return hash_small(decode_small(pixels))


def decode_small(pixels: bytes) -> Image.Image:
    """A canonical JPEG (mode YCbCr, L where it is grey), scaled down while decoding; see `LUMINANCE_MIN_SIDE`."""
    image = Image.open(io.BytesIO(pixels), formats=["JPEG"])
    image.draft("YCbCr", (LUMINANCE_MIN_SIDE, LUMINANCE_MIN_SIDE))
    image.load()
    return image


def hash_small(image: Image.Image) -> PerceptualHashes:
    """Hash an image (mode L or YCbCr) of any size."""
    luminance = image.getchannel(0)
    whole, flatness = _Resampled.of(luminance), _standard_deviation(luminance)
    hashed = whole.hash_turned(0)
    return PerceptualHashes(
        phash64=int.from_bytes(hashed[:8], "big", signed=True),
        phash256=hashed[8:],
        flatness=flatness,
        view_hashes=_view_hashes(image, luminance, whole),
    )


class _Resampled(NamedTuple):
    """What hashes are taken over: (32, 32) and (64, 64) uint8."""

    small: NDArray[np.uint8]
    large: NDArray[np.uint8]

    @classmethod
    def of(cls, luminance: Image.Image) -> Self:
        return cls(_resampled(luminance, 8), _resampled(luminance, 16))

    def hash_turned(self, turn: int) -> bytes:
        """64 and 256 bits, 40 bytes, of what is seen in that orientation (a place in `OrientedHashes`)."""
        small, large = _TURNS[turn](self.small), _TURNS[turn](self.large)
        return _packed(_coefficients(small, 8)) + _packed(_coefficients(large, 16))


def _view_hashes(image: Image.Image, luminance: Image.Image, whole: _Resampled) -> tuple[bytes, ...]:
    found: dict[bytes, None] = {}
    for view, box in _views(luminance):
        resampled = whole if view == "whole" else _Resampled.of(luminance.crop(box))
        number = HASHED_VIEWS.index(view).to_bytes(VIEW_BYTES, "big")
        seen = image.crop(box)
        histogram = np.array(seen.histogram(), dtype=np.int64).reshape(-1, 256)
        colours = bytes([_hue(seen, histogram), _shades(histogram[0])])
        for turn in canonical_turns(_coefficients(resampled.small, 8)):
            found.setdefault(number + resampled.hash_turned(turn) + colours)
    return tuple(found)


def _hue(view: Image.Image, histogram: NDArray[np.int64]) -> int:
    """The direction of the mean of (Cb, Cr), 1 to `HUES`, so many more where it is a tint's; 0 where that mean is too
    near grey to have one."""
    if view.mode == "L":
        return 0
    blue, red = (histogram[1:] @ np.arange(256) / histogram[0].sum() - 128).tolist()
    if math.hypot(blue, red) < COLOURFUL:
        return 0
    hue = 1 + round(math.degrees(math.atan2(red, blue)) * HUES / 360) % HUES
    return hue + HUES if _is_tinted(view) else hue


def _is_tinted(view: Image.Image) -> bool:
    """Whether a view (mode YCbCr) is of one pale ink: its chroma follows from its luminance, and is nowhere strong."""
    pixels = np.asarray(view)[::_TINT_EVERY, ::_TINT_EVERY].reshape(-1, 3)
    shades = (pixels[:, 0] // _SHADE_LEVELS).astype(np.int64)
    counts = np.bincount(shades, minlength=256 // _SHADE_LEVELS)
    means, size = np.empty((2, len(counts))), 0.0
    for place in (0, 1):
        chroma = pixels[:, 1 + place] - np.float64(128)
        size += float(chroma @ chroma) / len(pixels)
        means[place] = np.bincount(shades, chroma, len(counts)) / np.maximum(counts, 1)
    # Of all that chroma is from grey, what the mean of its shade does not say.
    scatter = size - float((means**2).sum(axis=0) @ counts) / len(pixels)
    strongest = np.hypot(*means)[counts >= _LEAST_OF_A_SHADE * len(pixels)].max()
    return scatter <= min(TINT_SCATTER**2, TINT_SCATTER_SHARE**2 * size) and bool(strongest <= TINT_MOST)


def _shades(histogram: NDArray[np.int64]) -> int:
    """How many shades a view with this histogram (256,) of its luminance shows, 1 to `MOST_SHADES`: as many equally
    frequent ones as have the entropy of those that it has, rounded down. A screen of text or a sign has few, and
    differs from another in little."""
    counts = histogram.reshape(-1, _SHADE_LEVELS).sum(axis=1)
    shares = counts[counts > 0] / counts.sum()
    # Equal shares come to a whole number, which rounding may miss by a bit, and not by the same on every machine.
    return min(MOST_SHADES, max(1, int(2 ** -(shares @ np.log2(shares)) + 1e-6)))


def canonical_turns(coefficients: NDArray[np.float64]) -> list[int]:
    """Which of the eight orientations (places in `OrientedHashes`) are canonical or nearly so, best first.

    `coefficients`: (8, 8), the lowest of the upright image's DCT. Flipping an image left to right turns the sign of
    what changes along its rows, top to bottom that of what changes along its columns, and a transposition swaps the
    two. Canonical is the orientation in which the lowest of the one, x, and the lowest of the other, y, satisfy
    x >= y >= 0. How far from each of these limits an image is, is the same whichever way up it is given.
    """
    x, y = float(coefficients[0, 1]), float(coefficients[1, 0])
    turned = ((x, y), (y, -x), (-x, -y), (-y, x), (x, -y), (-x, y), (y, x), (-y, -x))
    margins = [min(x, y, (x - y) / 2**0.5) for x, y in turned]
    best, *others = sorted(range(len(turned)), key=lambda turn: -margins[turn])[:MOST_TURNS]
    allowed = -TIE * _median(np.abs(coefficients))
    return [best, *[turn for turn in others if margins[turn] >= allowed]]


def _views(luminance: Image.Image) -> Iterator[tuple[HashedView, Box]]:
    """The views of `HASHED_VIEWS` that there are: where there is a frame, the others are of what it holds."""
    levels = np.asarray(luminance)
    everything = bare = (0, 0, *luminance.size)
    yield "whole", everything
    trimmed = _bare(levels)
    if trimmed != everything and _tells(luminance, trimmed):
        yield "trimmed", trimmed
        bare = trimmed
    thing = _object(levels, bare)
    if thing != bare and _tells(luminance, thing):
        yield "object", thing
    left, top, right, bottom = bare
    shares: tuple[tuple[HashedView, float], ...] = (("inner2", 0.025), ("inner5", 0.05), ("inner10", 0.1))
    for view, share in shares:
        x, y = round((right - left) * share), round((bottom - top) * share)
        inside = (left + x, top + y, right - x, bottom - y)
        if _tells(luminance, inside):
            yield view, inside


def _tells(luminance: Image.Image, box: Box) -> bool:
    """Whether a view is large enough, and has structure, to be told from others."""
    left, top, right, bottom = box
    is_large = min(right - left, bottom - top) >= VIEW_MIN_SIDE
    return is_large and _standard_deviation(luminance.crop(box)) >= VIEW_FLAT_BELOW


def _bare(levels: NDArray[np.uint8]) -> Box:
    """What is left (left, top, right, bottom) without a border of one colour, and then without a strip of writing at
    the top and at the bottom."""
    height, width = levels.shape
    sides = (levels, levels[::-1], levels.T, levels.T[::-1])
    top, bottom, left, right = (_border(_alike(side)) for side in sides)
    inside = levels[top : height - bottom, left : width - right]
    if inside.size:
        above, below = _strip(_alike(inside)), _strip(_alike(inside[::-1]))
        if above + below < len(inside):
            top, bottom = top + above, bottom + below
    return left, top, width - right, height - bottom


def _object(levels: NDArray[np.uint8], bare: Box) -> Box:
    """What stands out of a ground of one colour in `bare`, without writing that stands apart above or below it: the
    same thing with other margins, and with a caption on the ground."""
    box = left, top, right, bottom = _off_ground(levels, bare)
    corners = levels[np.ix_([bare[1], bare[3] - 1], [bare[0], bare[2] - 1])].astype(int)
    if box == bare or np.ptp(corners) > _BORDER_TOLERANCE:
        return box
    inside, ground = levels[top:bottom, left:right], int(_median(corners))
    above, below = (_writing(_alike_to(ground, lines)) for lines in (inside, inside[::-1]))
    if not above + below:
        return box
    return _off_ground(levels, (left, top + above, right, bottom - below))


def _off_ground(levels: NDArray[np.uint8], box: Box) -> Box:
    """`box` without the lines on each side that are of one colour."""
    left, top, right, bottom = box
    inside = levels[top:bottom, left:right]
    cuts = []
    for lines in (inside.T, inside, inside.T[::-1], inside[::-1]):
        alike = _alike(lines) if lines.size else None
        ends = [] if alike is None else np.flatnonzero(alike < _OF_THE_GROUND).tolist()
        cuts.append(ends[0] if ends else 0)
    return left + cuts[0], top + cuts[1], right - cuts[2], bottom - cuts[3]


def _writing(alike: NDArray[np.float64]) -> int:
    """How many lines a block of writing takes, and the ground between it and what follows; 0 where there is none."""
    marked = np.flatnonzero(alike < _OF_THE_GROUND)
    gaps = np.flatnonzero(np.diff(marked) > 2)
    if not len(gaps):
        return 0
    last, follows = int(marked[gaps[0]]), int(marked[gaps[0] + 1])
    is_written = last < _MOST_WRITTEN / _MOST_CUT * len(alike) and alike[: last + 1].min() >= 0.1
    return follows if is_written else 0


def _alike(levels: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Which share of each line, from the first as far as a border or a strip may go, has the colour of the first; None
    where the first has no colour of its own."""
    first = levels[0].astype(np.int16)
    colour = int(_median(first))
    if (np.abs(first - colour) <= _BORDER_TOLERANCE).mean() < _OF_ONE_COLOUR:
        return None
    return _alike_to(colour, levels)


def _alike_to(colour: int, levels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Which share of each line, from the first as far as a border or a strip may go, has that colour."""
    lines = levels[: int(_MOST_CUT * len(levels)) + 2].astype(np.int16)
    return np.asarray((np.abs(lines - colour) <= _BORDER_TOLERANCE).mean(axis=1))


def _border(alike: NDArray[np.float64] | None) -> int:
    """How many lines of one colour there are before the image begins, at an edge across at least half of it: what
    only juts into the colour (an object on white) is no border's end. 0 where there is none, or hardly more than it."""
    if alike is None:
        return 0
    ends = np.flatnonzero(alike < _OF_ONE_COLOUR)
    if not len(ends) or ends[0] + 2 > len(alike):
        return 0
    return int(ends[0]) if alike[ends[0] : ends[0] + 2].min() <= 0.5 else 0


def _strip(alike: NDArray[np.float64] | None) -> int:
    """How many lines a strip of one colour with writing on it takes before the image begins; 0 where there is none.

    It begins and ends with lines of its colour, and what follows them differs nearly all along. Without writing it is a
    border.
    """
    if alike is None:
        return 0
    for cut in range(len(alike) - 2, 1, -1):
        own = alike[:cut]
        if own[-1] >= _OF_ONE_COLOUR and alike[cut : cut + 2].min() <= 0.2 and own.min() >= 0.1 and own.mean() >= 0.6:
            return cut if own.min() < _OF_ONE_COLOUR else 0
    return 0


class OrientedHashes(NamedTuple):
    """An image's hashes in its eight orientations, each 8 x 32 bytes; None where not asked for.

    Orientations: as it is; turned by 90, 180, 270 degrees counter-clockwise; flipped top to bottom; left to right;
    about the main diagonal; about the other one. A hash is 256 bits row-major, the first the most significant.
    """

    phash256s: bytes | None
    pdqs: bytes | None
    quality: int | None
    """0 to 100, PDQ's measure of how much gradient there is to hash; below 50 its authors discard a hash."""


def oriented_hashes(image: Image.Image, kinds: Collection[str]) -> OrientedHashes:
    """Hashes of an RGB image of any size, of the kinds (`phash256`, `pdq`) that are asked for."""
    phash256s = pdqs = quality = None
    if "phash256" in kinds:
        pixels = _resampled(image.convert("L"), 16)
        phash256s = b"".join(_packed(_coefficients(turn(pixels), 16)) for turn in _TURNS)
        quality = int(_gradient_sum(pixels))
    if "pdq" in kinds:
        pdqs, quality = _pdq(image)
    return OrientedHashes(phash256s, pdqs, quality)


_TURNS: tuple[Callable[[NDArray[np.uint8]], NDArray[np.uint8]], ...] = (
    *(lambda pixels: pixels, np.rot90, lambda pixels: np.rot90(pixels, 2), lambda pixels: np.rot90(pixels, 3)),
    *(lambda pixels: pixels[::-1], lambda pixels: pixels[:, ::-1]),
    *(lambda pixels: pixels.T, lambda pixels: np.rot90(pixels, 2).T),
)
"""A square array in the order of `OrientedHashes`. A DCT of flipped pixels is that of the pixels with signs changed
only up to rounding, which decides bits near the median: so each orientation has its own."""


def _pdq(image: Image.Image) -> tuple[bytes, int]:
    import pdqhash

    large = max(image.size) > _PDQ_SIDE
    small = image.resize((_PDQ_SIDE, _PDQ_SIDE), Image.Resampling.BILINEAR) if large else image
    upright, quality = pdqhash.compute(np.asarray(small))
    symmetric = image.resize((_PDQ_SYMMETRIC_SIDE, _PDQ_SYMMETRIC_SIDE), Image.Resampling.BILINEAR)
    turned, _ = pdqhash.compute_dihedral(np.asarray(symmetric))
    return b"".join(np.packbits(bits.astype(bool)).tobytes() for bits in (upright, *turned[1:])), int(quality)


def _resampled(luminance: Image.Image, hash_side: int) -> NDArray[np.uint8]:
    side = hash_side * HIGH_FREQUENCY_FACTOR
    return np.asarray(luminance.resize((side, side), Image.Resampling.LANCZOS))


def _coefficients(pixels: NDArray[np.uint8], hash_side: int) -> NDArray[np.float64]:
    """(side, side) uint8 to the lowest (hash_side, hash_side) coefficients; SciPy's DCT: only the same arithmetic gives
    the same bits."""
    rows = dct(pixels, axis=0)[:hash_side]
    return cast("NDArray[np.float64]", dct(rows, axis=1)[:, :hash_side])


def _packed(coefficients: NDArray[np.float64]) -> bytes:
    """One bit per coefficient: whether it is above the median."""
    return np.packbits(coefficients > _median(coefficients)).tobytes()


def _median(values: NDArray[Any]) -> float:
    """As `np.median`, at half its cost."""
    ordered = np.sort(values, axis=None)
    middle = len(ordered) // 2
    return float(ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)


def _standard_deviation(luminance: Image.Image) -> float:
    """Population standard deviation from the histogram: integer sums, so the same on every machine."""
    counts = np.array(luminance.histogram(), dtype=np.int64)
    levels = np.arange(256, dtype=np.int64)
    count, total, squares = int(counts.sum()), int(counts @ levels), int(counts @ levels**2)
    return float((count * squares - total * total) ** 0.5 / count)


def _gradient_sum(pixels: NDArray[np.uint8]) -> float:
    """Sum of the neighbours' differences in per cent of the range, each truncated, over 90 and at most 100: the quality
    measure of PDQ (Meta, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm", 2019)."""
    values = pixels.astype(np.int64) * 100
    horizontal = np.abs(np.diff(values, axis=1)) // 255
    vertical = np.abs(np.diff(values, axis=0)) // 255
    return float(min(100, (int(horizontal.sum()) + int(vertical.sum())) // 90))
