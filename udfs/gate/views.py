"""What of a fetched file the gate looks at: every way in which a viewer may show it, and the parts of each.

A detector sees one small square, and whoever hides something hides it where that square is blind: outside the crop,
under transparency, in a later frame, behind an orientation, as a speck in a border. Each view names one such place.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from schemas.outcomes import FailureCode
from schemas.settings import CrawlSettings, GateSettings
from udfs.images.decode import ImageError, check_size, decode_rgb, decoding, open_image, orientation, to_rgb, upright

REVISION = 1
"""Raise this whenever a view of more than the default settings shows other pixels for the same bytes."""

CORNER = 224 / 256
"""Side of a corner, as a share of the image's: four of them cover what the central crop of the same size cuts off."""
TILE = 5 / 8
"""Side of a tile, as a share of the image's. Two tiles overlap by 2 x 5/8 - 1 = 1/4 of the image, so that anything up
to 1/4 of its width and height lies whole in one of the four, 2.6 times as large in area as in the whole image."""
MOST_ANIMATED = 8
"""An animation is decoded up to its last frame only while all frames together have at most this many times
`crawl.max_pixels`: a small file holds hundreds of large frames, and each must be decoded to reach the last."""

_SCREEN_GAMMA = 2.2
"""What browsers show a PNG for that states its own (libpng's `png_set_gamma`)."""
_GAMMA_TOLERANCE = 0.05
"""Share by which the two may differ and nothing is shown otherwise: libpng's PNG_GAMMA_THRESHOLD."""
_MOST_GAMMA = 21_474.83
"""A PNG that states more states none."""
_BORDER_TOLERANCE = 24
"""Grey levels by which a border may differ from the image's corner: JPEG's ringing, and fine gradients."""
_TRIM_SIDE = 256
"""Borders are looked for in the image reduced to about this many pixels a side."""
_TRIM_BELOW = 0.8
"""Less than this share of the area must be left for a trimmed image to be another view."""
_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


_Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""


@dataclass(frozen=True)
class View:
    """One square that a detector is asked about.

    Attributes:
        name: `center`, `plain`, `last-black-tile-3`: frame and rendering where they are not the stored ones, and part.
        image: mode RGB, of any size.
        whole: whether all of it is to be squashed into the network's input, or the detector's own crop is wanted.
    """

    name: str
    image: Image.Image
    whole: bool


def stored_and_views(
    data: bytes, gate: GateSettings, limits: CrawlSettings, declared_type: str | None
) -> tuple[Image.Image, Iterator[View]]:
    """The image as it will be stored (first frame, RGB, full size), and the views that `gate` asks for.

    The views are made one at a time as they are taken, `center` first: a caller that keeps none of them needs memory
    for a few images only, whatever their number. Both raise ImageError: taking a view may decode another frame.
    """
    image = open_image(data, limits, declared_type)
    stored = _decoded(image, gate)
    return stored, _views(image, stored, gate, limits)


def _views(image: Image.Image, stored: Image.Image, gate: GateSettings, limits: CrawlSettings) -> Iterator[View]:
    for frame in _frames(image, gate, limits):
        shown = _decoded(image, gate) if frame else stored
        for rendering, rendered in _renderings(image, shown, gate):
            for part, cut, whole in _parts(rendered, gate):
                named = [name for name in (frame, rendering) if name]
                named += [part] if part != "center" or not named else []
                yield View("-".join(named), cut, whole)


def _decoded(image: Image.Image, gate: GateSettings) -> Image.Image:
    """The frame at which `image` stands, in pixels that stay what they are when it is moved to another frame."""
    rgb = decode_rgb(image)
    return rgb.copy() if rgb is image and gate.frames != "first" else rgb


def _frames(image: Image.Image, gate: GateSettings, limits: CrawlSettings) -> Iterator[str]:
    """Names of the frames to look at; `image` stands at the frame whenever its name is given."""
    yield ""
    if gate.frames == "first":
        return
    with decoding(image.format):
        count: int = getattr(image, "n_frames", 1)
    if image.width * image.height * count > MOST_ANIMATED * limits.max_pixels:
        pixels = f"{count} frames of {image.width} x {image.height}"
        raise ImageError(FailureCode.BOMB, f"{pixels} are over {MOST_ANIMATED} x {limits.max_pixels} pixels")
    for name, index in {"middle": count // 2, "last": count - 1}.items():
        if index > image.tell():
            with decoding(image.format):
                image.seek(index)
            check_size(image.size, limits)  # a later frame may be larger
            yield name


def _renderings(image: Image.Image, shown: Image.Image, gate: GateSettings) -> Iterator[tuple[str, Image.Image]]:
    """The loaded frame as it is stored, on white; where transparency makes a difference also on black; its bare pixels,
    where colour profile, transparency or orientation make a difference; and as the gamma of a PNG has it."""
    yield "", shown
    others: dict[str, Image.Image] = {}
    with decoding(image.format):
        if gate.matte == "white_and_black" and image.has_transparency_data:
            others["black"] = _on_black(image)
        if "plain" in gate.views and shown is not image:
            others["plain"] = image.convert("RGB")
        if "plain" in gate.views and (levels := _levels_by_gamma(image)) is not None:
            others["gamma"] = shown.point(levels * 3)
    yield from ((name, other) for name, other in others.items() if not _same(other, shown))


def _levels_by_gamma(image: Image.Image) -> list[int] | None:
    """What browsers show of each level of a PNG that states a gamma; None where that is the level itself.

    By another gamma an image may be all black or white in its bytes, and anything at all in a browser.
    """
    gamma = image.info.get("gamma") if image.format == "PNG" else None
    if gamma is None or not 0 < gamma <= _MOST_GAMMA or abs(gamma * _SCREEN_GAMMA - 1) < _GAMMA_TOLERANCE:
        return None
    return [round(255 * (level / 255) ** (1 / (gamma * _SCREEN_GAMMA))) for level in range(256)]


def _on_black(image: Image.Image) -> Image.Image:
    layered = image.convert("RGBA")
    colours = layered.convert("RGB")
    opaque = to_rgb(colours)
    black = Image.new("RGB", opaque.size)
    return upright(Image.composite(opaque, black, layered.getchannel("A")), orientation(image))


def _same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and ImageChops.difference(one, other).getbbox() is None


def _parts(image: Image.Image, gate: GateSettings) -> Iterator[tuple[str, Image.Image, bool]]:
    """Name, pixels and `View.whole` of each part of one rendering."""
    yield "center", image, False
    if "squash" in gate.views:
        yield "squash", image, True
    if "corners" in gate.views:
        yield from ((f"corner-{i}", cut, True) for i, cut in enumerate(_four(image, CORNER), 1))
    if "tiles" in gate.views:
        yield from ((f"tile-{i}", cut, True) for i, cut in enumerate(_four(image, TILE), 1))
    if "trimmed" in gate.views and (inner := trimmed(image)) is not None:
        yield "trimmed", inner, True
    if "turned" in gate.views:
        yield from ((f"turned-{angle}", image.transpose(turn), True) for angle, turn in _TURNS.items())


def _four(image: Image.Image, share: float) -> Iterable[Image.Image]:
    """The corners of the image, row by row, each `share` of its width and height."""
    width, height = max(1, round(image.width * share)), max(1, round(image.height * share))
    for top in (0, image.height - height):
        for left in (0, image.width - width):
            yield image.crop((left, top, left + width, top + height))


def trimmed(image: Image.Image) -> Image.Image | None:
    """The image without the border of one colour around it; None where there is none to speak of, or nothing else.

    The border's colour is that of the corner by which least is left. Specks of one or two pixels in some 256 keep no
    border on.
    """
    factor = -(-min(image.size) // _TRIM_SIDE)
    small = image.reduce(factor) if factor > 1 else image
    right, bottom = small.width - 1, small.height - 1
    corners = {small.getpixel(place) for place in ((0, 0), (right, 0), (0, bottom), (right, bottom))}
    boxes = [box for colour in corners if (box := _content_box(small, colour)) is not None]
    if not boxes:
        return None
    left, top, right, bottom = (place * factor for place in min(boxes, key=_area))
    inner = (left, top, min(right, image.width), min(bottom, image.height))
    return image.crop(inner) if _area(inner) < _TRIM_BELOW * image.width * image.height else None


def _content_box(small: Image.Image, colour: Any) -> _Box | None:
    """What differs from the colour, but for specks."""
    red, green, blue = ImageChops.difference(small, Image.new("RGB", small.size, colour)).split()
    differs = np.asarray(ImageChops.lighter(ImageChops.lighter(red, green), blue)) > _BORDER_TOLERANCE
    inside = differs[1:-1, 1:-1] & differs[:-2, 1:-1] & differs[2:, 1:-1] & differs[1:-1, :-2] & differs[1:-1, 2:]
    rows, columns = inside.any(axis=1).nonzero()[0], inside.any(axis=0).nonzero()[0]
    if not rows.size:
        return None
    # What is inside, itself one pixel off, has a pixel around it; one more keeps what JPEG blurred into the border.
    left, top = max(0, int(columns[0]) - 1), max(0, int(rows[0]) - 1)
    return left, top, min(small.width, int(columns[-1]) + 4), min(small.height, int(rows[-1]) + 4)


def _area(box: _Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
