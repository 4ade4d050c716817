"""The canonical image: same bytes in, same bytes out; upright, small, sRGB, and nothing of the source's metadata."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFilter

from schemas.outcomes import FailureCode
from schemas.settings import CrawlSettings, ImageSettings
from tests.pictures import encoded, names, photograph
from udfs.images.canonical import Canonical, canonical_version, canonicalise
from udfs.images.decode import ImageError
from udfs.images.phash import hash_pixels

IMAGES = ImageSettings()
LIMITS = CrawlSettings()


def canonical(data: bytes, images: ImageSettings = IMAGES) -> Canonical:
    return canonicalise(data, images, LIMITS)


def stored(made: Canonical) -> Image.Image:
    image = Image.open(io.BytesIO(made.pixels))
    image.load()
    return image


def mean_difference(left: Image.Image, right: Image.Image) -> float:
    assert left.size == right.size
    return float(np.abs(np.asarray(left, dtype=int) - np.asarray(right, dtype=int)).mean())


@pytest.mark.parametrize("pillow", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_every_format_becomes_a_small_srgb_jpeg(pillow: str) -> None:
    original = photograph("coffee.png").resize((1000, 640), Image.Resampling.LANCZOS)
    made = canonical(encoded(original, pillow))
    image = stored(made)
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (512, 328))
    assert (made.width, made.height) == (512, 328)
    assert (made.source_width, made.source_height, made.source_format) == (1000, 640, pillow.lower())
    assert mean_difference(image, original.resize((512, 328), Image.Resampling.LANCZOS)) < 6


@pytest.mark.parametrize("name", names())
def test_pixels_are_those_of_a_lanczos_resize(name: str) -> None:
    original = photograph(name)
    made = canonical(encoded(original, "PNG"), ImageSettings(max_side=200, jpeg_quality=95))
    reference = original.resize((made.width, made.height), Image.Resampling.LANCZOS)
    assert mean_difference(stored(made), reference) < 7


@given(width=st.integers(1, 900), height=st.integers(1, 900), max_side=st.integers(32, 600))
@settings(max_examples=60, deadline=None)
def test_size_keeps_the_shape_within_the_longest_side_and_is_never_enlarged(
    width: int, height: int, max_side: int
) -> None:
    data = encoded(Image.new("RGB", (width, height), "teal"))
    made = canonical(data, ImageSettings(max_side=max_side, min_side=1))
    scale = min(1, max_side / max(width, height))
    assert max(made.width, made.height) <= max_side
    assert abs(made.width - width * scale) <= 1
    assert abs(made.height - height * scale) <= 1
    assert (made.width, made.height) == stored(made).size
    if scale == 1:
        assert (made.width, made.height) == (width, height)


@pytest.mark.parametrize("side", [1023, 1024, 1025, 2100])
def test_scaling_inside_the_jpeg_decoder_gives_the_same_picture(side: int) -> None:
    original = photograph("astronaut.png").resize((side, side), Image.Resampling.BICUBIC)
    by_decoder = canonical(encoded(original, quality=95))
    in_full = canonical(encoded(original, "PNG"))
    assert (by_decoder.width, by_decoder.height) == (512, 512)
    assert mean_difference(stored(by_decoder), stored(in_full)) < 3
    assert (by_decoder.phash64 ^ in_full.phash64).bit_count() <= 2


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize(("pillow", "size"), [("JPEG", (1400, 900)), ("JPEG", (120, 80)), ("PNG", (700, 500))])
def test_orientation_is_applied_to_pixels_and_to_the_source_size(pillow: str, size: tuple[int, int], turn: int) -> None:
    turned_by = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = photograph("rocket.jpg").resize(size)
    exif = Image.Exif()
    exif[0x0112] = turn
    source = upright.transpose(turned_by[turn]) if turn in turned_by else upright
    made = canonical(encoded(source, pillow, exif=exif, quality=95))
    plain = canonical(encoded(upright, pillow, quality=95))
    assert (made.source_width, made.source_height) == size
    assert mean_difference(stored(made), stored(plain)) < 3


def test_no_metadata_of_the_source_is_stored() -> None:
    exif = Image.Exif()
    exif[0x010F] = "SECRETMAKER"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)  # GPSLatitude
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = encoded(
        photograph("coffee.png"), exif=exif, icc_profile=profile, comment=b"SECRETCOMMENT", xmp=b"<SECRETXMP/>"
    )
    assert source.count(b"SECRET") >= 3
    made = canonical(source)
    assert b"SECRET" not in made.pixels
    assert set(stored(made).info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    # Nothing but the JFIF header, tables, frame and scan: no APP1 to APP15, no comment.
    position, markers = 2, []
    while made.pixels[position + 1] != 0xDA:
        markers.append(made.pixels[position + 1])
        position += 2 + int.from_bytes(made.pixels[position + 2 : position + 4], "big")
    assert set(markers) == {0xE0, 0xDB, 0xC0, 0xC4}


def test_chroma_is_stored_at_half_resolution() -> None:
    assert stored(canonical(encoded(photograph("coffee.png"), "PNG"))).layer[0][1:3] == (2, 2)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = photograph("camera.png").resize((300, 200))
    if mode == "I;16":
        source = Image.fromarray(np.asarray(grey.convert("L")).astype(np.uint16) * 257)
    else:
        source = grey.convert("P").convert("PA") if mode == "PA" else grey.convert(mode)
    data = encoded(source, {"CMYK": "JPEG", "PA": "WEBP"}.get(mode, "PNG"), lossless=True)
    image = stored(canonical(data))
    assert image.mode == "RGB"
    assert mean_difference(image, source.convert("RGB") if mode in ("1", "P", "PA") else grey) < 8


def test_transparent_pixels_become_white_and_do_not_bleed_their_hidden_colour() -> None:
    image = Image.new("RGBA", (1200, 1200), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (300, 300, 900, 900))
    made = np.asarray(stored(canonical(encoded(image, "PNG"))), dtype=int)
    assert (made[:100] >= 250).all()
    edge = made[110:150, 256]
    assert (edge[:, 0] <= edge[:, 2] + 8).all(), "hidden red shows at the edge"


def test_a_wide_gamut_profile_is_converted_and_dropped() -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    table = {bytes(profile[start : start + 4]): start for start in range(132, 132 + 12 * profile[131], 12)}
    red, green = table[b"rXYZ"] + 4, table[b"gXYZ"] + 4
    profile[red : red + 8], profile[green : green + 8] = profile[green : green + 8], profile[red : red + 8]
    source = encoded(Image.new("RGB", (1200, 900), (200, 30, 30)), icc_profile=bytes(profile), quality=95)
    image = stored(canonical(source))
    red_level, green_level, _ = image.getpixel((100, 100))
    assert red_level < 60
    assert green_level > 180
    assert "icc_profile" not in image.info


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue")]
    for pillow in ("GIF", "WEBP", "PNG"):
        made = canonical(encoded(frames[0], pillow, save_all=True, append_images=frames[1:]))
        assert mean_difference(stored(made), frames[0]) < 4


def test_a_multi_picture_jpeg_of_a_phone_is_a_jpeg() -> None:
    first, second = photograph("coffee.png"), photograph("coffee.png").resize((64, 64))
    made = canonicalise(encoded(first, "MPO", save_all=True, append_images=[second]), IMAGES, LIMITS, "image/jpeg")
    assert made.source_format == "jpeg"
    assert mean_difference(stored(made), stored(canonical(encoded(first)))) < 1


def test_hashes_are_those_of_the_stored_pixels() -> None:
    made = canonical(encoded(photograph("china.jpg")))
    hashes = hash_pixels(made.pixels)
    assert (made.phash64, made.phash256) == (hashes.phash64, hashes.phash256)
    assert (made.flatness, made.view_hashes) == (hashes.flatness, hashes.view_hashes)


@pytest.mark.parametrize("name", ["chelsea.png", "china.jpg", "coffee.png", "rocket.jpg"])
def test_sharpness_falls_with_blur_and_is_saturated_in_no_photograph(name: str) -> None:
    picture = photograph(name)
    blurred = [picture.filter(ImageFilter.GaussianBlur(radius)) if radius else picture for radius in (0, 1, 2, 4, 8)]
    found = [canonical(encoded(one)).sharpness for one in blurred]
    assert found == sorted(found, reverse=True)
    assert found[0] - found[-1] > 10
    assert 0 < found[-1] < found[0] < 95


def test_sharpness_is_that_of_the_pixels_however_they_are_turned() -> None:
    picture = photograph("coffee.png").resize((400, 300))
    upright, turned = (
        canonical(encoded(one, "PNG")).sharpness for one in (picture, picture.transpose(Image.Transpose.ROTATE_90))
    )
    assert upright == pytest.approx(turned, rel=1e-9)
    assert canonical(encoded(Image.new("RGB", (300, 200), (9, 99, 199)), "PNG")).sharpness == 0


def test_an_image_that_is_canonical_already_keeps_its_size() -> None:
    once = canonical(encoded(photograph("retina.jpg")))
    twice = canonical(once.pixels)
    assert (twice.width, twice.height) == (once.width, once.height)
    assert (once.phash64 ^ twice.phash64).bit_count() <= 4


def test_a_large_image_that_pillow_keeps_in_several_blocks_is_resized_alike() -> None:
    large = photograph("astronaut.png").resize((2100, 2100), Image.Resampling.BICUBIC)
    made = canonical(encoded(large, "PNG", compress_level=1), ImageSettings(max_side=1400))
    reference = large.resize((1400, 1400), Image.Resampling.BICUBIC)
    assert mean_difference(stored(made), reference) < 2


def test_a_side_below_the_settings_least_is_too_small() -> None:
    with pytest.raises(ImageError) as caught:
        canonical(encoded(Image.new("RGB", (31, 500))))
    assert caught.value.code is FailureCode.TOO_SMALL


@pytest.mark.parametrize("pillow", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_a_file_that_breaks_off_has_no_canonical_image(pillow: str, kept: float) -> None:
    """A PNG's was half a picture: looking for its orientation had decoded it, and swallowed what was wrong."""
    data = encoded(photograph("coffee.png"), pillow)
    with pytest.raises(ImageError) as caught:
        canonical(data[: int(len(data) * kept)])
    assert caught.value.code is FailureCode.DECODE


@pytest.mark.parametrize("size", [(40, 20_000), (20_000, 40), (530, 32), (40, 700)])
def test_a_strip_that_would_be_stored_too_narrow_is_too_small(size: tuple[int, int]) -> None:
    """Two of them were stored one pixel wide, and were near-duplicates whatever they showed."""
    with pytest.raises(ImageError) as caught:
        canonical(encoded(Image.new("RGB", size)))
    assert caught.value.code is FailureCode.TOO_SMALL
    assert f"{size[0]} x {size[1]}" in caught.value.detail


@pytest.mark.parametrize("size", [(512, 32), (8192, 512), (100, 1600), (512, 33)])
def test_a_long_picture_is_stored_down_to_the_least_side(size: tuple[int, int]) -> None:
    made = canonical(encoded(Image.new("RGB", size)))
    assert min(made.width, made.height) >= IMAGES.min_side


PROGRAM = """
import hashlib, pathlib, sys
from schemas.settings import CrawlSettings, ImageSettings
from udfs.images.canonical import canonicalise
digest = hashlib.sha256()
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    digest.update(repr(canonicalise(path.read_bytes(), ImageSettings(), CrawlSettings())).encode())
print(digest.hexdigest())
"""


def test_the_same_bytes_give_the_same_image_whatever_the_processor_offers(tmp_path: Path) -> None:
    for name in ("astronaut.png", "china.jpg"):
        for width, height in ((640, 480), (1100, 700)):
            image = photograph(name).resize((width, height))
            (tmp_path / f"{name}-{width}.jpeg").write_bytes(encoded(image))
            (tmp_path / f"{name}-{width}.png").write_bytes(encoded(image, "PNG", compress_level=1))

    def digest(**variables: str) -> str:
        program = [sys.executable, "-c", PROGRAM, str(tmp_path)]
        environment = {**os.environ, **variables}
        return subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout

    # OpenCV and Intel's library dispatch on the processor, libjpeg-turbo and NumPy too.
    plain = digest()
    assert len(plain.strip()) == 64
    assert plain == digest(
        OPENCV_CPU_DISABLE="AVX512-SKX,AVX2,FP16,AVX",
        OPENCV_IPP="disabled",
        JSIMD_FORCESSE2="1",
        NPY_DISABLE_CPU_FEATURES="AVX2 FMA3 AVX512F AVX512CD AVX512_SKX",
    )


def test_the_version_changes_with_what_decides_the_pixels_and_with_nothing_else() -> None:
    version = canonical_version(IMAGES)
    assert version == canonical_version(ImageSettings(min_side=64))
    assert version != canonical_version(ImageSettings(max_side=384))
    assert version != canonical_version(ImageSettings(jpeg_quality=80))
