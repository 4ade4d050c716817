"""Where the gate looks: pictures that hide a marker, a detector that knows nothing but the marker.

The marker is a square of grey shades, its upper left quarter bright and the others dark, on mid-grey. The detector sees
what open_nsfw sees (its preprocessing is the real one) and finds the marker only upright and some 12 pixels large.
"""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, PngImagePlugin

from jobs.config.profile import load, load_policy
from schemas.outcomes import FailureCode
from schemas.settings import CrawlSettings, GateSettings
from tests.pictures import encoded, photograph
from udfs.gate.content import Given, judge_batch
from udfs.gate.detectors import GateDetector, Input, Scores
from udfs.gate.nsfw import preprocess
from udfs.gate.views import TILE, stored_and_views, trimmed
from udfs.images.decode import ImageError

CONF = load("conf/local.yaml").policy
POLICY = load_policy(CONF)
EVERYWHERE: dict[str, Any] = {
    "views": ("center", "plain", "squash", "corners", "tiles", "trimmed", "turned"),
    "frames": "first_middle_last",
    "matte": "white_and_black",
}
WINDOW, STEP = 4, 8
"""Pixels of each quarter that must have its shade, and from one such window to the next: 12 in all."""
GREY, BRIGHT, DARK = 128, 250, 5


def has_marker(pixels: Input) -> float:
    """1 where the marker is, anywhere, else 0; `pixels` is what `udfs.gate.nsfw.preprocess` made."""
    grey = (pixels + np.array([104, 117, 123], dtype=np.float32)).mean(axis=2)
    bright = sliding_window_view(grey > 190, (WINDOW, WINDOW)).all(axis=(2, 3))
    dark = sliding_window_view(grey < 65, (WINDOW, WINDOW)).all(axis=(2, 3))
    found = bright[:-STEP, :-STEP] & dark[:-STEP, STEP:] & dark[STEP:, :-STEP] & dark[STEP:, STEP:]
    return float(found.any())


def score(batch: Input) -> Scores:
    return np.array([[has_marker(one)] for one in batch], dtype=np.float32)


DETECTOR = GateDetector(("nsfw",), lambda view: preprocess(view.image, view.whole), score)


def judged(body: bytes, **looking: Any) -> dict[str, Any]:
    gate = CONF.model_copy(update=looking)
    (row,) = judge_batch(POLICY, [DETECTOR], gate, CrawlSettings(), [Given(body, None, "a" * 64)], {})
    return row


def marker(side: int) -> Image.Image:
    image = Image.new("L", (side, side), DARK)
    image.paste(BRIGHT, (0, 0, side // 2, side // 2))
    return image


def with_marker(size: int, side: int, left: int, top: int) -> Image.Image:
    image = Image.new("L", (size, size), GREY)
    image.paste(marker(side), (left, top))
    return image.convert("RGB")


BENIGN = Image.new("RGB", (448, 448), (GREY, GREY, GREY))
OPEN = with_marker(448, 96, 176, 176)
"""The marker, large and in the middle."""


def in_the_border_of_the_crop() -> bytes:
    return encoded(with_marker(448, 28, 0, 210), "PNG")


def smaller_in_a_corner_than_the_whole_shows() -> bytes:
    return encoded(with_marker(896, 46, 850, 0), "PNG")


def small_in_a_corner() -> bytes:
    return encoded(with_marker(640, 28, 606, 606), "PNG")


def on_black_only() -> bytes:
    """White of as much opacity as the marker is bright: nothing but white on white."""
    white = Image.new("RGBA", OPEN.size, "white")
    white.putalpha(OPEN.convert("L"))
    return encoded(white, "PNG")


def under_full_transparency() -> bytes:
    hidden = OPEN.convert("RGBA")
    hidden.putalpha(0)
    return encoded(hidden, "PNG")


def washed_out_but_for_its_gamma() -> bytes:
    """Nearly white in the bytes; a browser goes by the gAMA chunk, which has it as it was."""
    pale = OPEN.point([round(255 * (level / 255) ** 0.125) for level in range(256)] * 3)
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", round(100_000 * 0.125 / 2.2).to_bytes(4, "big"))
    return encoded(pale, "PNG", pnginfo=chunks)


def undone_by_its_orientation() -> bytes:
    """Upright in the bytes; a viewer that goes by EXIF turns it upside down."""
    return encoded(OPEN, "PNG", exif=_orientation(3))


def animated(image_format: str, place: int) -> bytes:
    frames = [Image.new("RGB", OPEN.size, (level, level, level)) for level in (100, 110, 120, 130, 140)]
    frames[place] = OPEN
    return encoded(frames[0], image_format, save_all=True, append_images=frames[1:], duration=40)


def tiny_in_a_border(image_format: str = "JPEG") -> bytes:
    large = Image.new("RGB", (2400, 1800), (240, 240, 250))
    large.paste(with_marker(120, 40, 40, 40), (1700, 300))
    large.paste((200, 200, 200), (0, 0, 4, 4))  # a speck, which is no picture
    return encoded(large, image_format, quality=92)


def turned(angle: int) -> bytes:
    return encoded(OPEN.rotate(angle), "PNG")


def _orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def without(view: str) -> dict[str, Any]:
    return EVERYWHERE | {"views": tuple(name for name in EVERYWHERE["views"] if name != view)}


HIDDEN: dict[str, tuple[Callable[[], bytes], dict[str, Any], str]] = {
    "outside the crop": (in_the_border_of_the_crop, {"views": ("center", "plain", "squash")}, "squash"),
    "corner": (smaller_in_a_corner_than_the_whole_shows, {"views": ("center", "plain", "corners")}, "corner-2"),
    "small in a corner": (small_in_a_corner, {"views": ("center", "plain", "squash", "corners", "tiles")}, "tile-4"),
    "on black only": (on_black_only, {"matte": "white_and_black", "views": ("center",)}, "black"),
    "under transparency": (under_full_transparency, {"views": ("center", "plain")}, "plain"),
    "by its gamma": (washed_out_but_for_its_gamma, {"views": ("center", "plain")}, "gamma"),
    "undone by EXIF": (undone_by_its_orientation, {"views": ("center", "plain")}, "plain"),
    "middle frame": (lambda: animated("GIF", 2), {"frames": "first_middle_last"}, "middle"),
    "last frame": (lambda: animated("GIF", 4), {"frames": "first_middle_last"}, "last"),
    "last frame of WebP": (lambda: animated("WEBP", 4), {"frames": "first_middle_last"}, "last"),
    "last frame of PNG": (lambda: animated("PNG", 4), {"frames": "first_middle_last"}, "last"),
    "tiny in a border": (tiny_in_a_border, {"views": ("center", "plain", "trimmed")}, "trimmed"),
    "upside down": (lambda: turned(180), {"views": ("center", "plain", "turned")}, "turned-180"),
    "on its side": (lambda: turned(90), {"views": ("center", "plain", "turned")}, "turned-270"),
}
_FRAMES = [("middle", ""), ("last", ""), ("last", " of WebP"), ("last", " of PNG")]
REMOVED: dict[str, dict[str, Any]] = {
    "outside the crop": {"views": ("center", "plain")},
    "corner": {"views": ("center", "plain", "squash")},
    "small in a corner": {"views": ("center", "plain", "squash", "corners")},
    "on black only": {"matte": "white", "views": ("center",)},
    "under transparency": {"views": ("center",)},
    "by its gamma": {"views": ("center",)},
    "undone by EXIF": {"views": ("center",)},
    **{f"{which} frame{kind}": {"frames": "first"} for which, kind in _FRAMES},
    "tiny in a border": without("trimmed"),
    "upside down": without("turned"),
    "on its side": without("turned"),
}


@pytest.mark.parametrize("place", HIDDEN)
def test_what_is_hidden_is_seen_by_the_view_that_is_made_for_it_and_not_without_it(place: str) -> None:
    make, looking, view = HIDDEN[place]
    seen, blind = judged(make(), **looking), judged(make(), **REMOVED[place])
    assert (seen["decision"], seen["failure_detail"]) == ("block", None)
    assert [name for name, value in seen["scores"].items() if value == 1] == [f"nsfw:{view}"]
    assert blind["decision"] == "allow"
    assert judged(make(), **EVERYWHERE)["decision"] == "block"


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_is_judged_as_its_exif_orientation_has_it_shown(turn: int) -> None:
    raw = OPEN.transpose(_INVERSE[turn]) if turn in _INVERSE else OPEN
    for image_format in ("PNG", "JPEG"):
        row = judged(encoded(raw, image_format, exif=_orientation(turn)), views=("center",))
        assert row["scores"] == {"nsfw:center": 1.0}


_INVERSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def test_tricks_can_be_combined_and_are_still_seen() -> None:
    """In the border of the last frame, on black only."""
    hidden = Image.new("RGBA", (448, 448), "white")
    hidden.putalpha(with_marker(448, 28, 0, 210).convert("L"))
    frames = [Image.new("RGBA", (448, 448), (255, 255, 255, 128)), hidden]
    body = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=40)
    row = judged(body, **EVERYWHERE)
    assert row["decision"] == "block"
    assert row["scores"]["nsfw:middle-black-squash"] == 1


def test_a_picture_without_the_marker_passes_everywhere() -> None:
    row = judged(encoded(BENIGN), **EVERYWHERE)
    assert (row["decision"], set(row["scores"].values())) == ("allow", {0.0})


def test_an_ordinary_picture_has_one_view_by_default() -> None:
    assert judged(encoded(BENIGN))["scores"] == {"nsfw:center": 0.0}
    assert judged(encoded(OPEN))["scores"] == {"nsfw:center": 1.0}


def test_transparency_that_changes_nothing_adds_no_view() -> None:
    opaque = BENIGN.convert("RGBA")
    assert judged(encoded(opaque, "PNG"), matte="white_and_black")["scores"].keys() == {"nsfw:center"}


@pytest.mark.parametrize("gamma", [0, 45_455, 46_000, 2**32 - 1])
def test_a_gamma_by_which_nothing_is_shown_otherwise_adds_no_view(gamma: int) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add(b"gAMA", gamma.to_bytes(4, "big"))
    assert judged(encoded(BENIGN, "PNG", pnginfo=chunks))["scores"].keys() == {"nsfw:center"}


def test_views_kept_for_later_are_those_of_their_own_frame() -> None:
    """Pillow decodes each frame into the one image: what is kept must not follow it."""
    body = animated("WEBP", 2)
    stored, seen = stored_and_views(body, CONF.model_copy(update=EVERYWHERE), CrawlSettings(), None)
    kept = {view.name: view for view in seen}
    assert has_marker(preprocess(kept["middle"].image)) == 1
    assert has_marker(preprocess(kept["center"].image)) == has_marker(preprocess(kept["last"].image)) == 0
    assert has_marker(preprocess(stored)) == 0


def test_a_broken_last_frame_fails_the_picture_only_where_frames_are_looked_at() -> None:
    cut = animated("GIF", 4)[:-200]
    assert judged(cut)["decision"] == "allow"
    assert judged(cut, frames="first_middle_last")["failure_code"] in {FailureCode.DECODE, FailureCode.GATE_ERROR}


def test_an_animation_of_too_many_pixels_is_refused_before_its_frames_are_decoded() -> None:
    gate = CONF.model_copy(update={"frames": "first_middle_last"})
    limits = CrawlSettings(max_pixels=100_000)
    frames = [Image.new("L", (300, 300), level) for level in range(20)]
    body = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    _, seen = stored_and_views(body, gate, limits, None)
    with pytest.raises(ImageError, match=r"20 frames of 300 x 300 are over 8 x 100000 pixels") as refused:
        list(seen)
    assert refused.value.code is FailureCode.BOMB


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.02, 0.25), st.integers(64, 700), st.integers(64, 700))
def test_anything_up_to_a_quarter_of_either_side_lies_whole_in_one_tile(
    x: float, y: float, share: float, width: int, height: int
) -> None:
    side_x, side_y = int(share * width), int(share * height)
    left, top = round(x * (width - side_x)), round(y * (height - side_y))
    picture = Image.new("RGB", (width, height))
    picture.paste((255, 255, 255), (left, top, left + side_x, top + side_y))
    gate = GateSettings(file="-", detector=CONF.detector, views=("center", "tiles"))
    _, seen = stored_and_views(encoded(picture, "PNG"), gate, CrawlSettings(), None)
    tiles = [np.asarray(view.image) for view in seen if view.name.startswith("tile-")]
    assert {tile.shape for tile in tiles} == {(round(height * TILE), round(width * TILE), 3)}
    assert max((tile[..., 0] > 0).sum() for tile in tiles) == side_x * side_y


@pytest.mark.parametrize("colour", ["white", "black", (12, 200, 90)])
def test_a_border_is_cut_to_what_is_inside(colour: Any) -> None:
    inner = photograph("astronaut.png").resize((90, 60))
    picture = Image.new("RGB", (900, 800), colour)
    picture.paste(inner, (300, 500))
    with io.BytesIO(encoded(picture, quality=90)) as file, Image.open(file) as jpeg:
        found = trimmed(jpeg.convert("RGB"))
    assert found is not None
    assert 90 <= found.width <= 108
    assert 60 <= found.height <= 78


def test_what_has_no_border_to_speak_of_is_not_trimmed() -> None:
    framed = Image.new("RGB", (500, 500), "white")
    framed.paste(photograph("coffee.png").resize((470, 470)), (15, 15))
    assert trimmed(framed) is None
    assert trimmed(photograph("coffee.png")) is None
    assert trimmed(Image.new("RGB", (500, 500), "white")) is None
    assert trimmed(Image.new("RGB", (1, 1))) is None
