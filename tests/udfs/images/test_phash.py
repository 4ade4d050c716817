"""The hashes are those of imagehash, bit by bit, and near pictures have near hashes."""

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tests.pictures import crops, encoded, photograph
from udfs.images.phash import decode_luminance, hash_luminance, hash_pixels, picture_hashes


def assert_equal_to_imagehash(luminance: Image.Image) -> None:
    ours = hash_luminance(luminance)
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
        ((512, 384), (128, 96)),
        ((512, 512), (64, 64)),
        ((512, 257), (128, 65)),
        ((512, 40), (512, 40)),
        ((100, 100), (100, 100)),
    ],
)
def test_luminance_is_decoded_at_the_smallest_scale_with_64_pixels_a_side(
    size: tuple[int, int], decoded: tuple[int, int]
) -> None:
    image = photograph("astronaut.png").resize(size)
    luminance = decode_luminance(encoded(image, quality=90))
    assert (luminance.mode, luminance.size) == ("L", decoded)
    assert_equal_to_imagehash(luminance)


def test_hashes_of_a_stored_image_are_those_of_its_decoded_luminance() -> None:
    pixels = encoded(photograph("coffee.png"), quality=90)
    assert hash_pixels(pixels) == hash_luminance(decode_luminance(pixels))


def test_flatness_is_the_standard_deviation() -> None:
    for name in ("astronaut.png", "gravel.png"):
        luminance = photograph(name).convert("L")
        assert hash_luminance(luminance).flatness == pytest.approx(np.asarray(luminance, dtype=float).std(), rel=1e-12)


def test_flat_pictures_are_told_from_pictures() -> None:
    white, photo = Image.new("L", (256, 256), 255), photograph("rocket.jpg").convert("L")
    assert (hash_luminance(white).flatness, hash_luminance(white).sharpness) == (0, 0)
    assert hash_luminance(photo).flatness > 10
    assert hash_luminance(photo).sharpness == 100


def test_sharpness_falls_when_a_picture_is_blurred() -> None:
    sharp = photograph("chelsea.png").convert("L")
    blurred = sharp.reduce(40).resize(sharp.size, Image.Resampling.BICUBIC)
    assert 0 < hash_luminance(blurred).sharpness < hash_luminance(sharp).sharpness


def test_what_is_not_a_whole_jpeg_is_an_error() -> None:
    pixels = encoded(photograph("coffee.png"))
    for broken in (b"", pixels[: len(pixels) // 2], encoded(photograph("coffee.png"), "PNG")):
        with pytest.raises(OSError, match=r"truncated|identify"):
            hash_pixels(broken)


def test_phash64_is_signed_so_that_a_bigint_holds_it() -> None:
    values = {hash_luminance(crop.convert("L")).phash64 for crop in crops(256)}
    # The first bit is the mean's, which no other coefficient of a photograph exceeds.
    assert all(-(2**63) <= value < 0 for value in values)
    assert hash_luminance(Image.new("L", (64, 64))).phash64 == 0


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
    made = picture_hashes(picture, (kind,))
    found = eight(made.phash256s if kind == "phash256" else made.pdqs)
    for place, turn in enumerate(ORIENTATIONS):
        wanted = own_hash(picture if turn is None else picture.transpose(turn), kind)
        distances = [(one ^ wanted).bit_count() for one in found]
        assert distances[place] <= MATCH[kind]
        assert min(distances[:place] + distances[place + 1 :]) > 64


def test_the_upright_hash_is_the_packages_own() -> None:
    for name in ("astronaut.png", "coffee.png"):
        small = photograph(name).resize((400, 300))
        made = picture_hashes(small, ("phash256", "pdq"))
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
    assert picture_hashes(picture, ()) == (None, None, None)
    one, other = picture_hashes(picture, ("phash256",)), picture_hashes(picture, ("pdq",))
    assert (one.pdqs, other.phash256s) == (None, None)
    assert (one.quality, other.quality) == (100, 100)


def test_a_flat_picture_has_no_quality() -> None:
    for kind in ("phash256", "pdq"):
        assert picture_hashes(Image.new("RGB", (300, 200), "white"), (kind,)).quality == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (3, 2), (1500, 900)])
def test_pictures_of_any_size_have_hashes(size: tuple[int, int]) -> None:
    made = picture_hashes(photograph("coffee.png").resize(size), ("phash256", "pdq"))
    assert len(eight(made.phash256s)) == len(eight(made.pdqs)) == 8
