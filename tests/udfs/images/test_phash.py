"""The hashes are those of imagehash, bit by bit, and near pictures have near hashes."""

import io
import math

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw, ImageOps

from schemas.settings import HASHED_VIEWS, MOST_SHADES, DedupSettings
from tests.pictures import crops, encoded, photograph
from udfs.images.minhash import hues_apart
from udfs.images.phash import (
    FULL_VIEW_NUMBERS,
    HASH_LAYOUT,
    HUES,
    MOST_TURNS,
    ViewHash,
    canonical_turns,
    decode_small,
    hash_pixels,
    hash_small,
    oriented_hashes,
)


def assert_equal_to_imagehash(luminance: Image.Image) -> None:
    ours = hash_small(luminance)
    bits64 = imagehash.phash(luminance, hash_size=8).hash.flatten()
    bits256 = imagehash.phash(luminance, hash_size=16).hash.flatten()
    assert ours.phash64 % 2**64 == int("".join("01"[bit] for bit in bits64), 2)
    assert ours.phash256 == bytes(np.packbits(bits256))


def test_hashes_of_thousands_of_crops_are_those_of_imagehash() -> None:
    count = 0
    for crop in crops(48):
        assert_equal_to_imagehash(crop.convert("L"))
        count += 1
    assert count > 2000


@given(arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 70))))
@settings(max_examples=60, deadline=None)
def test_hashes_of_arbitrary_pixels_are_those_of_imagehash(pixels: np.ndarray) -> None:
    assert_equal_to_imagehash(Image.fromarray(pixels))


@pytest.mark.parametrize("level", [0, 1, 127, 255])
def test_hashes_of_one_level_are_those_of_imagehash(level: int) -> None:
    assert_equal_to_imagehash(Image.new("L", (50, 40), level))


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((512, 384), (256, 192)),
        ((512, 512), (128, 128)),
        ((512, 257), (256, 129)),
        ((512, 140), (512, 140)),
        ((512, 40), (512, 40)),
        ((100, 100), (100, 100)),
    ],
)
def test_luminance_is_decoded_at_the_smallest_scale_with_128_pixels_a_side(
    size: tuple[int, int], decoded: tuple[int, int]
) -> None:
    image = photograph("astronaut.png").resize(size)
    pixels = encoded(image, quality=90)
    small = decode_small(pixels)
    assert (small.mode, small.size) == ("YCbCr", decoded)
    alone = Image.open(io.BytesIO(pixels))
    alone.draft("L", (128, 128))
    assert small.getchannel(0).tobytes() == alone.tobytes()
    assert_equal_to_imagehash(small.getchannel(0))


def test_hashes_of_a_stored_image_are_those_of_its_decoded_luminance() -> None:
    pixels = encoded(photograph("coffee.png"), quality=90)
    assert hash_pixels(pixels) == hash_small(decode_small(pixels))


def test_flatness_is_the_standard_deviation() -> None:
    for name in ("astronaut.png", "gravel.png"):
        luminance = photograph(name).convert("L")
        assert hash_small(luminance).flatness == pytest.approx(np.asarray(luminance, dtype=float).std(), rel=1e-12)


def test_flat_pictures_are_told_from_pictures() -> None:
    white, photo = Image.new("L", (256, 256), 255), photograph("rocket.jpg").convert("L")
    assert hash_small(white).flatness == 0
    assert hash_small(photo).flatness > 10
    assert oriented_hashes(white.convert("RGB"), ("phash256",)).quality == 0
    assert oriented_hashes(photo.convert("RGB"), ("phash256",)).quality == 100


def test_what_is_not_a_whole_jpeg_is_an_error() -> None:
    pixels = encoded(photograph("coffee.png"))
    for broken in (b"", pixels[: len(pixels) // 2], encoded(photograph("coffee.png"), "PNG")):
        with pytest.raises(OSError, match=r"truncated|identify"):
            hash_pixels(broken)


def test_phash64_is_signed_so_that_a_bigint_holds_it() -> None:
    values = {hash_small(crop.convert("L")).phash64 for crop in crops(256)}
    # The first bit is the mean's, which no other coefficient of a photograph exceeds.
    assert all(-(2**63) <= value < 0 for value in values)
    assert hash_small(Image.new("L", (64, 64))).phash64 == 0


ORIENTATIONS = (
    None,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
)
MATCH = {"phash256": 4, "pdq": 24}
"""Most bits of 256 by which a hash may miss that of the turned file: PDQ's authors match at 31."""


def eight(hashes: bytes | None) -> list[int]:
    assert hashes is not None
    assert len(hashes) == 256
    return [int.from_bytes(hashes[start : start + 32], "big") for start in range(0, 256, 32)]


def own_hash(picture: Image.Image, kind: str) -> int:
    """The hash of one orientation, by the packages that others make their lists with."""
    if kind == "phash256":
        bits = imagehash.phash(picture, hash_size=16).hash.flatten()
    else:
        import pdqhash

        bits, _ = pdqhash.compute(np.asarray(picture))
    return int.from_bytes(np.packbits(np.asarray(bits, dtype=bool)).tobytes(), "big")


@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "china.jpg"])
@pytest.mark.parametrize("kind", ["phash256", "pdq"])
def test_each_of_the_eight_hashes_is_that_of_the_picture_turned_so(kind: str, name: str) -> None:
    picture = photograph(name)
    made = oriented_hashes(picture, (kind,))
    found = eight(made.phash256s if kind == "phash256" else made.pdqs)
    for place, turn in enumerate(ORIENTATIONS):
        wanted = own_hash(picture if turn is None else picture.transpose(turn), kind)
        distances = [(one ^ wanted).bit_count() for one in found]
        assert distances[place] <= MATCH[kind]
        assert min(distances[:place] + distances[place + 1 :]) > 64


def test_the_upright_hash_is_the_packages_own() -> None:
    for name in ("astronaut.png", "coffee.png"):
        small = photograph(name).resize((400, 300))
        made = oriented_hashes(small, ("phash256", "pdq"))
        assert eight(made.phash256s)[0] == own_hash(small, "phash256")
        assert eight(made.pdqs)[0] == own_hash(small, "pdq")


def test_pdqs_eight_hashes_come_from_one_size_at_which_they_are_exact() -> None:
    import pdqhash

    square = photograph("astronaut.png").resize((320, 320), Image.Resampling.BILINEAR)
    turned, _ = pdqhash.compute_dihedral(np.asarray(square))
    for place, turn in enumerate(ORIENTATIONS):
        alone, _ = pdqhash.compute(np.asarray(square if turn is None else square.transpose(turn)))
        np.testing.assert_array_equal(turned[place], alone)


def test_only_what_is_asked_for_is_hashed() -> None:
    picture = photograph("coffee.png")
    assert oriented_hashes(picture, ()) == (None, None, None)
    one, other = oriented_hashes(picture, ("phash256",)), oriented_hashes(picture, ("pdq",))
    assert (one.pdqs, other.phash256s) == (None, None)
    assert (one.quality, other.quality) == (100, 100)


def test_a_flat_picture_has_no_quality() -> None:
    for kind in ("phash256", "pdq"):
        assert oriented_hashes(Image.new("RGB", (300, 200), "white"), (kind,)).quality == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (3, 2), (1500, 900)])
def test_pictures_of_any_size_have_hashes(size: tuple[int, int]) -> None:
    made = oriented_hashes(photograph("coffee.png").resize(size), ("phash256", "pdq"))
    assert len(eight(made.phash256s)) == len(eight(made.pdqs)) == 8


SEEN = ["astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "china.jpg", "motorcycle_left.png"]


def hashes_of(luminance: Image.Image) -> dict[str, list[bytes]]:
    """By view, in their order: the hashes without the number of the view."""
    found: dict[str, list[bytes]] = {}
    for one in hash_small(luminance).view_hashes:
        assert len(one) == 43
        found.setdefault(HASHED_VIEWS[one[0]], []).append(one[1:41])
    return found


def test_many_hashes_are_read_as_one_is() -> None:
    stored = hash_small(photograph("coffee.png").convert("YCbCr")).view_hashes
    for row, one in zip(np.frombuffer(b"".join(stored), HASH_LAYOUT), map(ViewHash.of, stored), strict=True):
        assert (row["view"], row["phash256"].tobytes()) == (one.view, one.phash256)
        assert (row["hue"], row["shades"]) == (one.hue, one.shades)
        assert int.from_bytes(row["phash64"].tobytes(), "big", signed=True) == one.phash64


def all_turns(luminance: Image.Image) -> list[bytes]:
    """What imagehash says of each of the eight orientations of what the hash is taken over."""
    found = []
    for turn in ORIENTATIONS:
        parts = []
        for side in (8, 16):
            small = luminance.resize((4 * side, 4 * side), Image.Resampling.LANCZOS)
            turned = small if turn is None else small.transpose(turn)
            parts.append(np.packbits(imagehash.phash(turned, hash_size=side).hash.flatten()).tobytes())
        found.append(b"".join(parts))
    return found


def distances(one: bytes, other: bytes) -> tuple[int, int]:
    near, far = (
        (int.from_bytes(one[part], "big") ^ int.from_bytes(other[part], "big")).bit_count()
        for part in (slice(0, 8), slice(8, 40))
    )
    return near, far


def least(some: list[bytes], others: list[bytes]) -> tuple[int, int]:
    return min(distances(one, other) for one in some for other in others)


@pytest.mark.parametrize("name", SEEN)
def test_hashes_of_views_are_those_of_imagehash_on_the_same_pixels(name: str) -> None:
    picture = photograph(name).convert("L").resize((300, 200))
    width, height = picture.size
    boxes = {
        "whole": (0, 0, width, height),
        "inner2": (8, 5, width - 8, height - 5),
        "inner5": (15, 10, width - 15, height - 10),
        "inner10": (30, 20, width - 30, height - 20),
    }
    found = hashes_of(picture)
    assert found.keys() == boxes.keys()
    for view, box in boxes.items():
        assert set(found[view]) <= set(all_turns(picture.crop(box)))
        assert 1 <= len(found[view]) <= MOST_TURNS


def test_the_best_orientation_has_the_lowest_coefficients_in_order() -> None:
    """Whatever the picture: what changes most slowly along the rows is positive, and more than along the columns."""
    for crop in crops(128):
        luminance = crop.convert("L")
        whole = hashes_of(luminance)["whole"]
        small = luminance.resize((32, 32), Image.Resampling.LANCZOS)
        turned = [small if turn is None else small.transpose(turn) for turn in ORIENTATIONS]
        best = all_turns(luminance).index(whole[0])
        pixels = np.asarray(turned[best]).astype(float)
        phase = np.cos(np.pi * (np.arange(32) + 0.5) / 32)
        x, y = (pixels @ phase).sum(), (phase @ pixels).sum()
        assert x >= y - 1e-6
        assert y >= -1e-6


@pytest.mark.parametrize("name", SEEN)
def test_a_turned_or_flipped_picture_has_the_hashes_of_the_picture(name: str) -> None:
    picture = photograph(name).convert("L")
    upright = hashes_of(picture)
    for turn in ORIENTATIONS[1:]:
        assert turn is not None
        turned = hashes_of(picture.transpose(turn))
        assert turned.keys() == upright.keys()
        for view, hashes in upright.items():
            # Resampling rounds otherwise from the other side, which turns bits near the median.
            near, far = least(hashes, turned[view])
            assert near <= 2
            assert far <= 6


@pytest.mark.parametrize("name", SEEN)
def test_a_picture_that_leans_to_no_side_is_hashed_from_both(name: str) -> None:
    """Whichever way noise tips it, the two have a hash in common, or nearly."""
    levels = np.asarray(photograph(name).convert("L").resize((256, 256))).astype(float) / 2 + 64
    slope = np.cos(np.pi * (np.arange(256) + 0.5) / 256)
    level = levels - np.outer(np.ones(256), slope) * (levels @ slope).mean() / (slope @ slope)
    one, other = (
        hashes_of(Image.fromarray(np.clip(level + tip * slope, 0, 255).astype(np.uint8)))["whole"]
        for tip in (-0.1, 0.1)
    )
    assert len(one) > 1
    assert one[0] not in other[:1]
    near, far = least(one, other)
    assert near <= 2
    assert far <= 6


def test_orientations_near_a_tie_are_counted_and_capped() -> None:
    tied = np.zeros((8, 8))
    tied[0, 0], tied[2:, 2:] = 100, 5
    assert canonical_turns(tied) == [0, 1, 2, 3]
    clear = tied.copy()
    clear[0, 1], clear[1, 0] = 50, 20
    assert canonical_turns(clear) == [0]
    mirrored = clear.copy()
    mirrored[0, 1] = -50
    assert canonical_turns(mirrored) == [5]
    clear[1, 0] = 49
    assert canonical_turns(clear) == [0, 6]


def bordered(picture: Image.Image, share: float, level: int) -> Image.Image:
    return ImageOps.expand(picture, round(share * min(picture.size)), level)


def captioned(picture: Image.Image, above: bool) -> Image.Image:
    """The picture with a strip of writing, a seventh of its height, beside it: black or white, whichever stands out."""
    bar = picture.height // 7
    edge = np.asarray(picture)[:3] if above else np.asarray(picture)[-3:]
    level = 0 if edge.mean() > 127 else 255
    made = Image.new("L", (picture.width, picture.height + bar), level)
    made.paste(picture, (0, bar if above else 0))
    middle = bar // 2 if above else picture.height + bar // 2
    ImageDraw.Draw(made).text((picture.width // 2, middle), "found on pictures.example", 255 - level, anchor="mm")
    return made


NEAR = (6, 64)


@pytest.mark.parametrize("name", SEEN)
def test_views_of_a_copy_are_near_the_whole_of_the_picture(name: str) -> None:
    picture = photograph(name).convert("L").resize((320, 240))
    whole = hashes_of(picture)["whole"]

    def stored(copy: Image.Image) -> dict[str, list[bytes]]:
        return hashes_of(decode_small(encoded(copy, quality=60)))

    copies = [
        *(bordered(picture, 0.05, 255), bordered(picture, 0.1, 0), ImageOps.mirror(bordered(picture, 0.1, 90))),
        *(captioned(picture, above=True), captioned(picture, above=False)),
        *(ImageOps.flip(captioned(picture, above=True)), captioned(captioned(picture, above=False), above=True)),
        bordered(captioned(picture, above=False), 0.05, 90),
    ]
    for copy in copies:
        found = stored(copy)
        for view in ("trimmed", "inner5", "inner10"):
            others = whole if view == "trimmed" else hashes_of(picture)[view]
            near, far = least(found[view], others)
            assert near <= NEAR[0]
            assert far <= NEAR[1]
    for view, share in (("inner5", 0.05), ("inner10", 0.1)):
        x, y = round(320 * share), round(240 * share)
        near, far = least(stored(picture.crop((x, y, 320 - x, 240 - y)))["whole"], hashes_of(picture)[view])
        assert near <= NEAR[0]
        assert far <= NEAR[1]


def thing_on(ground: int, margins: tuple[int, int, int, int], name: str = "coffee.png") -> Image.Image:
    """An oval cut out of a photograph, on a ground of one colour with these margins (left, top, right, bottom)."""
    left, top, right, bottom = margins
    thing = photograph(name).convert("L").resize((160, 120))
    mask = Image.new("L", thing.size, 0)
    ImageDraw.Draw(mask).ellipse((0, 0, 159, 119), fill=255)
    made = Image.new("L", (160 + left + right, 120 + top + bottom), ground)
    made.paste(thing, (left, top), mask)
    return made


def written_beside(picture: Image.Image, above: bool) -> Image.Image:
    """The picture on its own ground, with a line of writing on that."""
    ground = picture.getpixel((0, 0))
    assert isinstance(ground, int)
    made = Image.new("L", (picture.width, picture.height + 24), ground)
    made.paste(picture, (0, 24 if above else 0))
    middle = 12 if above else picture.height + 10
    ImageDraw.Draw(made).text((made.width // 2, middle), "now half the price", 255 - ground, anchor="mm")
    return made


def test_an_object_on_white_has_no_border() -> None:
    white = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(white).ellipse((40, 30, 170, 180), fill=60)
    assert hashes_of(white).keys() == {"whole", "object", "inner2", "inner5", "inner10"}


@pytest.mark.parametrize("ground", [255, 0])
@pytest.mark.parametrize("name", SEEN)
def test_an_object_is_the_same_with_other_margins_and_with_writing_beside_it(ground: int, name: str) -> None:
    one = hashes_of(thing_on(ground, (20, 20, 20, 20), name))
    wide = thing_on(ground, (70, 10, 15, 50), name)
    for other in (wide, written_beside(wide, above=True), written_beside(wide, above=False), ImageOps.mirror(wide)):
        found = hashes_of(decode_small(encoded(other, quality=85)))
        near, far = least(one["object"], found["object"])
        assert near <= NEAR[0]
        assert far <= NEAR[1]
        apart, _ = least(one["whole"], found["whole"])
        assert apart > NEAR[0]


@pytest.mark.parametrize("degrees", range(0, 360, 45))
def test_a_hue_is_the_direction_of_the_mean_colour(degrees: int) -> None:
    turn = math.radians(degrees)
    chroma = [round(128 + 60 * part) for part in (math.cos(turn), math.sin(turn))]
    light = photograph("coffee.png").convert("L")
    plain = Image.merge("YCbCr", [light, *[Image.new("L", light.size, level) for level in chroma]])
    hues = {one[41] for one in hash_small(plain).view_hashes}
    assert hues == {1 + round(degrees / 10) % 36}
    assert {one[41] for one in hash_small(plain.getchannel(0)).view_hashes} == {0}


@pytest.mark.parametrize("name", SEEN)
def test_a_re_encoded_picture_keeps_its_hue_and_a_grey_one_has_none(name: str) -> None:
    picture = photograph(name)
    made = [hash_pixels(encoded(one, quality=quality)).view_hashes for one, quality in ((picture, 95), (picture, 40))]
    for one, other in zip(*([h[41] for h in hashes if h[0] == 0] for hashes in made), strict=False):
        apart = abs(one - other)
        assert not (one and other) or min(apart, 36 - apart) <= 1
    assert {one[41] for one in hash_pixels(encoded(picture.convert("L"), quality=90)).view_hashes} == {0}
    assert {one[41] for one in hash_pixels(encoded(picture.convert("L").convert("RGB"), quality=90)).view_hashes} == {0}


def test_colours_that_cancel_out_and_pale_ones_have_no_hue() -> None:
    grey = Image.new("L", (60, 60), 128)
    halves = grey.copy()
    halves.paste(200, (0, 0, 30, 60))
    halves.paste(56, (30, 0, 60, 60))
    light = photograph("coffee.png").convert("L").resize((60, 60))
    for chroma in ([halves, grey], [Image.new("L", (60, 60), 134), Image.new("L", (60, 60), 132)]):
        assert hash_small(Image.merge("YCbCr", [light, *chroma])).view_hashes[0][41] == 0


def in_one_ink(picture: Image.Image, ink: tuple[int, int, int]) -> Image.Image:
    """A print: grey levels from black over the ink to white."""
    return ImageOps.colorize(picture.convert("L"), "black", "white", ink)


def stored_hues(picture: Image.Image) -> set[int]:
    """Hues of the full views."""
    return {one[41] for one in hash_pixels(encoded(picture, quality=85)).view_hashes if one[0] in FULL_VIEW_NUMBERS}


@pytest.mark.parametrize("name", SEEN)
def test_a_sepia_copy_is_apart_from_no_colour(name: str) -> None:
    """Its hue is a tint's, which is compared with those of tints alone."""
    for hue in stored_hues(in_one_ink(photograph(name), (160, 120, 80))):
        assert hue == 0 or hue > HUES
        others = np.arange(HUES + 1, dtype=np.uint8)
        assert (hues_apart(np.uint8([hue]), others) == 0).all()
    blue = max(stored_hues(in_one_ink(photograph(name), (95, 120, 160))))
    assert blue == 0 or hues_apart(np.uint8([hue]), np.uint8([blue])).item() > 100


@pytest.mark.parametrize("colour", ["red", "green", "blue", "orange"])
def test_a_thing_of_one_strong_colour_is_no_print(colour: str) -> None:
    """Its chroma follows from its luminance too: on white there is nothing else."""
    made = Image.new("RGB", (200, 200), "white")
    pen = ImageDraw.Draw(made)
    pen.ellipse((20, 20, 180, 180), fill=colour)
    pen.line((60, 100, 140, 170), fill="black", width=9)
    assert all(0 < hue <= HUES for hue in stored_hues(made))


@pytest.mark.parametrize("count", range(1, 12))
def test_equally_frequent_shades_are_counted(count: int) -> None:
    """Their entropy is a logarithm of a whole number, which floating point may miss by a bit on either side."""
    stripes = np.repeat(np.arange(count) * 16, 12).astype(np.uint8)
    picture = Image.fromarray(np.tile(stripes, (120, 1)))
    assert ViewHash.of(hash_small(picture).view_hashes[0]).shades == min(count, MOST_SHADES)


def test_a_screen_of_text_has_few_shades_and_a_photograph_many() -> None:
    page = Image.new("RGB", (360, 640), (245, 245, 248))
    pen = ImageDraw.Draw(page)
    for row in range(6):
        pen.rectangle((16, 80 + 80 * row, 344, 146 + 80 * row), fill="white")
        pen.text((86, 96 + 80 * row), "the picture that a search finds", (110, 110, 110))
    rule = DedupSettings()
    for quality in (90, 30):
        shades = [one[42] for one in hash_pixels(encoded(page, quality=quality)).view_hashes]
        assert max(shades) < rule.outer_shades
    for name in SEEN:
        shades = [one[42] for one in hash_pixels(encoded(photograph(name), quality=85)).view_hashes]
        assert min(shades) >= rule.outer_shades, name


@pytest.mark.parametrize("name", SEEN)
def test_a_photograph_is_no_object(name: str) -> None:
    assert "object" not in hashes_of(photograph(name).convert("L"))


def test_a_part_of_an_object_is_no_writing_where_it_is_a_quarter_of_it() -> None:
    """Two things above one another, the upper one of a third of the height: both are what is seen."""
    made = Image.new("L", (200, 200), 255)
    pen = ImageDraw.Draw(made)
    pen.ellipse((60, 20, 140, 70), fill=60)
    pen.rectangle((50, 90, 150, 180), fill=90)
    pen.line((60, 100, 140, 170), fill=200, width=9)
    found = hashes_of(made)["object"]
    assert found[0] in all_turns(made.crop((50, 20, 151, 181)))


@pytest.mark.parametrize("level", [0, 128, 255])
def test_views_with_nothing_to_see_are_left_out_and_the_whole_is_not(level: int) -> None:
    assert hashes_of(Image.new("L", (200, 160), level)).keys() == {"whole"}
    framed = bordered(Image.new("L", (180, 140), level), 0.05, 255 - level if level != 128 else 0)
    # Half of the frame is left in the first cut.
    assert hashes_of(framed).keys() <= {"whole", "trimmed", "inner2"}
    assert hashes_of(framed)["whole"]


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (3, 2), (20, 20), (700, 25)])
def test_views_that_are_too_small_are_left_out(size: tuple[int, int]) -> None:
    assert hashes_of(photograph("coffee.png").convert("L").resize(size)).keys() == {"whole"}


@given(arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 70))))
@settings(max_examples=60, deadline=None)
def test_any_pixels_have_hashes_in_the_order_of_views_each_once(pixels: np.ndarray) -> None:
    made = hash_small(Image.fromarray(pixels)).view_hashes
    assert made[0][0] == 0
    assert [one[0] for one in made] == sorted(one[0] for one in made)
    assert len(set(made)) == len(made) <= MOST_TURNS * len(HASHED_VIEWS)
