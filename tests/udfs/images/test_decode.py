"""Only what is meant to be decoded is decoded, and every failure has its code."""

import io
import pickle
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from schemas.outcomes import FailureCode
from schemas.settings import AssetSettings, CrawlSettings, GateSettings
from tests.pictures import encoded, photograph
from udfs.bounded import RecentlyUsed
from udfs.gate.views import stored_and_views
from udfs.images.decode import (
    KEPT_TRANSFORM_BYTES,
    MAX_JPEG_SCANS,
    PILLOW_FORMATS,
    ImageError,
    _check_scans,
    _srgb_transform,
    decode_rgb,
    load,
    open_image,
    orientation,
    sniff,
    to_rgb,
)

LIMITS = CrawlSettings()
ACCEPTED = {name: (pillow, f"image/{name}") for name, pillow in PILLOW_FORMATS.items()}


def small() -> Image.Image:
    return photograph("coffee.png").resize((120, 80))


def failure(data: bytes, declared: str | None = None, limits: CrawlSettings = LIMITS, min_side: int = 1) -> ImageError:
    """The error that opening and decoding ends with."""
    with pytest.raises(ImageError) as caught:
        load(open_image(data, limits, declared, min_side))
    return caught.value


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes, rows: bytes = b"\0", depth: int = 8, colour_type: int = 0) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body


def gif(frames: int) -> bytes:
    images = [Image.new("P", (8, 8), n % 2) for n in range(frames)]
    for image in images:
        image.putpalette([0, 0, 0, 255, 255, 255])
    return encoded(images[0], "GIF", save_all=True, append_images=images[1:], optimize=False)


@pytest.mark.parametrize("name", ACCEPTED)
def test_each_accepted_format_is_sniffed_and_decoded(name: str) -> None:
    pillow, media_type = ACCEPTED[name]
    data = encoded(small(), pillow)
    assert sniff(data) == name
    for declared in (media_type, f"{media_type.upper()}; charset=binary", None, "", "application/octet-stream"):
        assert decode_rgb(open_image(data, LIMITS, declared)).size == (120, 80)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf \n<!DOCTYPE HTML><title>x", "html"),
        (b"<html><body><svg/></body></html>", "html"),
        (b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml">', "html"),
        (b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg xmlns="http://www.w3.org/2000/svg"/>', "svg"),
        (b"<!-- made by hand --><svg></svg>", "svg"),
        (b"  <svg></svg>", "svg"),
        (b"<?xml version='1.0'?><rss/>", "xml"),
        (b"8BPS\0\1", "psd"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "eps"),
        (b"\xc5\xd0\xd3\xc6", "eps"),
        (encoded(Image.new("RGB", (8, 8)), "TIFF"), "tiff"),
        (encoded(Image.new("RGB", (8, 8)), "BMP"), "bmp"),
        (encoded(Image.new("RGB", (16, 16)), "ICO"), "ico"),
        (encoded(Image.new("RGB", (8, 8)), "JPEG2000"), "jpeg2000"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "heic"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "unknown"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"%PDF-1.7", "pdf"),
        (b"RIFF\0\0\0\0WAVE", "unknown"),
        (b"not an image", "unknown"),
    ],
)
def test_everything_else_is_refused_by_its_name(data: bytes, name: str) -> None:
    assert sniff(data) == name
    error = failure(data)
    assert error.code is FailureCode.BAD_TYPE
    assert name in error.detail


def test_a_brand_list_with_avif_makes_it_avif_whatever_the_major_brand() -> None:
    assert sniff(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf") == "avif"


@pytest.mark.parametrize("declared", ["image/png", "text/html; charset=utf-8", "image/svg+xml", "image/"])
def test_jpeg_bytes_declared_as_something_else_are_bad_type(declared: str) -> None:
    error = failure(encoded(small()), declared)
    assert error.code is FailureCode.BAD_TYPE
    assert "jpeg" in error.detail
    assert declared.partition(";")[0] in error.detail


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_data_are_a_decode_failure(name: str, kept: float) -> None:
    data = encoded(photograph("coffee.png"), ACCEPTED[name][0])
    assert failure(data[: int(len(data) * kept)]).code is FailureCode.DECODE


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_header_without_an_image_is_a_decode_failure(name: str) -> None:
    error = failure(encoded(small(), ACCEPTED[name][0])[:20])
    assert error.code is FailureCode.DECODE
    assert "0x" not in error.detail, "an address would make the detail differ from run to run"


def test_a_png_of_50000_squared_is_a_bomb_and_takes_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert failure(png(50_000, 50_000)).code is FailureCode.BOMB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_pixels_up_to_the_limit_are_decoded_and_one_more_is_a_bomb() -> None:
    data = encoded(Image.new("L", (100, 50)), "PNG")
    load(open_image(data, CrawlSettings(max_pixels=5000)))
    assert failure(data, limits=CrawlSettings(max_pixels=4999)).code is FailureCode.BOMB


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000))),
        png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(50_000_000))),
        png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(50_000_000))),
    ],
    ids=["zTXt", "iTXt", "iCCP"],
)
def test_a_png_chunk_that_unpacks_to_megabytes_is_a_bomb(chunk: bytes) -> None:
    assert failure(png(1, 1, chunk, rows=b"\0\0")).code is FailureCode.BOMB


def test_a_gif_of_a_thousand_frames_is_a_bomb() -> None:
    assert failure(gif(1000)).code is FailureCode.BOMB


@pytest.mark.parametrize(("pillow", "frames"), [("GIF", 6), ("WEBP", 6), ("PNG", 6), ("AVIF", 6)])
def test_frames_up_to_the_limit_are_decoded_and_one_more_is_a_bomb(pillow: str, frames: int) -> None:
    images = [Image.new("RGB", (16, 16), (40 * n, 0, 0)) for n in range(frames)]
    data = encoded(images[0], pillow, save_all=True, append_images=images[1:])
    load(open_image(data, CrawlSettings(max_frames=frames)))
    assert failure(data, limits=CrawlSettings(max_frames=frames - 1)).code is FailureCode.BOMB


@given(frames=st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_gif_frames_are_counted_as_pillow_counts_them(frames: int) -> None:
    data = gif(frames)
    with Image.open(io.BytesIO(data)) as image:
        counted = image.n_frames
    open_image(data, CrawlSettings(max_frames=counted))
    if counted > 1:
        assert failure(data, limits=CrawlSettings(max_frames=counted - 1)).code is FailureCode.BOMB


def test_a_jpeg_of_many_scans_is_a_bomb() -> None:
    data = encoded(small(), progressive=True)
    last_scan = data.rindex(b"\xff\xda")
    scan, end = data[last_scan:-2], data[-2:]
    load(open_image(data, LIMITS))
    assert failure(data[:last_scan] + scan * 200 + end).code is FailureCode.BOMB


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """A JPEG with segments behind its first marker."""
    return data[:2] + b"".join(segments) + data[2:]


SCAN_BYTES = b"\xff\xda"
"""What a scan begins with, where it is a marker."""


def test_scans_are_counted_where_they_are_and_not_where_two_bytes_occur() -> None:
    plain = encoded(small(), progressive=True)
    pixels = decode_rgb(open_image(plain, LIMITS)).tobytes()
    noise = np.random.default_rng(1).bytes(8_000_000)
    assert noise.count(SCAN_BYTES) > MAX_JPEG_SCANS
    segments = [jpeg_segment(0xE5, noise[start : start + 60_000]) for start in range(0, len(noise), 60_000)]
    cases = {
        "a metadata segment": with_segments(plain, jpeg_segment(0xED, SCAN_BYTES * 1000)),
        "a comment": with_segments(plain, jpeg_segment(0xFE, SCAN_BYTES * 1000)),
        "many metadata segments": with_segments(plain, *segments),
        "filling before a marker": with_segments(plain, b"\xff" * 1000 + jpeg_segment(0xE5, SCAN_BYTES * 1000)),
        "behind the end": plain + noise,
        "another picture behind the end": plain + b"\xff\xd8" + SCAN_BYTES * 1000,
    }
    for case, data in cases.items():
        assert decode_rgb(open_image(data, LIMITS)).tobytes() == pixels, case


def many_scans(count: int) -> bytes:
    data = encoded(small(), progressive=True)
    last_scan = data.rindex(SCAN_BYTES)
    return data[:last_scan] + data[last_scan:-2] * count + data[-2:]


@pytest.mark.parametrize(
    "segments",
    [
        b"",
        jpeg_segment(0xE5, b"\xff\xd9" * 100),  # what looks like the end
        b"\xff\xff\xff\x01\xff\xd0\xff\x00",  # filling, and markers without a segment
        b"no marker at all",
    ],
)
def test_no_padding_hides_scans(segments: bytes) -> None:
    """As libjpeg's next_marker: it skips whatever is no marker."""
    with pytest.raises(ImageError) as caught:
        _check_scans(memoryview(with_segments(many_scans(200), segments)))
    assert caught.value.code is FailureCode.BOMB


def test_scans_of_a_later_picture_of_the_file_are_counted_before_it_is_decoded() -> None:
    data = bytearray(encoded(small(), "MPO", save_all=True, append_images=[small()]))
    second = data.index(b"\xff\xd8\xff", 3)
    # The same offset, but another picture there.
    image = open_image(bytes(data[:second]) + many_scans(200), LIMITS)
    load(image)
    image.seek(1)
    with pytest.raises(ImageError) as caught:
        load(image)
    assert caught.value.code is FailureCode.BOMB


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\x00", b"\xff\xd0", b"\xff\xda\x00\x02", b"\x00"])
def test_counting_scans_takes_time_in_proportion_to_the_file(filling: bytes) -> None:
    data = memoryview(b"\xff\xd8" + filling * (LIMITS.max_bytes // len(filling)))
    begun = time.process_time()
    with suppress(ImageError):
        _check_scans(data)
    assert time.process_time() - begun < 5


def test_a_sound_png_with_megabytes_of_text_or_profile_is_a_picture() -> None:
    noise = np.random.default_rng(2).bytes(2_000_000)
    text = noise.hex().encode()
    profile = swapped_profile() + noise  # its tags say where they lie: what follows them does not matter
    profile = struct.pack(">I", len(profile)) + profile[4:]
    cases = {
        "tEXt": png_chunk(b"tEXt", b"prompt\0" + text),
        "zTXt": png_chunk(b"zTXt", b"prompt\0\0" + zlib.compress(text)),
        "iTXt": png_chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(text)),
        "plain iTXt": png_chunk(b"iTXt", b"prompt\0\0\0\0\0" + text),
        "iCCP": png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(profile)),
    }
    for case, chunk in cases.items():
        image = open_image(png(8, 8, chunk, rows=bytes(72)), LIMITS)
        assert decode_rgb(image).size == (8, 8), case
        assert image.info.get("icc_profile") == (profile if case == "iCCP" else None)


@pytest.mark.parametrize("keyword", [b"transparency", b"exif", b"icc_profile", b"duration", b"Raw profile type exif"])
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
def test_a_text_of_a_png_is_never_taken_for_something_else(kind: bytes, keyword: bytes) -> None:
    between = {b"tEXt": b"\0", b"zTXt": b"\0\0", b"iTXt": b"\0\0\0\0\0"}[kind]
    text = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"  # orientation 6
    plain = encoded(small(), "PNG")
    end = plain.index(b"IEND") - 4
    for place in (33, end):  # behind the header, and behind the pixels
        chunk = png_chunk(kind, keyword + between + (zlib.compress(text) if kind == b"zTXt" else text))
        image = open_image(plain[:place] + chunk + plain[place:], LIMITS)
        assert decode_rgb(image).tobytes() == small().tobytes()
        assert keyword.decode() not in image.info


def test_texts_that_together_unpack_to_more_than_is_sound_are_a_bomb() -> None:
    chunk = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000)))
    load(open_image(png(8, 8, *[chunk] * 16, rows=bytes(72)), LIMITS))
    assert failure(png(8, 8, *[chunk] * 17, rows=bytes(72))).code is FailureCode.BOMB


@pytest.mark.parametrize("size", [60_000, 1_000_000])
def test_texts_that_break_after_they_were_unpacked_count_for_what_they_cost(size: int) -> None:
    broken = zlib.compress(bytes(size))[:-4] + b"sum!"
    chunk = png_chunk(b"zTXt", b"Comment\0\0" + broken)
    load(open_image(png(8, 8, chunk, rows=bytes(72)), LIMITS))
    assert failure(png(8, 8, *[chunk] * 300, rows=bytes(72))).code is FailureCode.BOMB


def _shared(entries: int, size: int) -> bytes:
    """EXIF whose entries all stand for the same bytes, of orientation 6."""
    head = 8 + 2 + 12 * (entries + 1) + 4
    tags = [struct.pack("<HHLHH", 0x0112, 3, 1, 6, 0)]
    tags += [struct.pack("<HHLL", 1000 + number, 7, size, head) for number in range(entries)]
    return b"II*\0\x08\0\0\0" + struct.pack("<H", entries + 1) + b"".join(tags) + bytes(4) + bytes(size)


@pytest.mark.parametrize("pillow", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_exif_that_says_the_same_over_and_over_is_a_bomb(pillow: str) -> None:
    """A megabyte of it would take a gigabyte of memory, and twenty 200."""

    def image(exif: bytes) -> bytes:
        if pillow == "PNG":
            return _behind_the_header(encoded(small(), "PNG"), png_chunk(b"eXIf", exif))
        if pillow != "JPEG":
            stand_in = b"II*\0\x08\0\0\0" + bytes(6) + b"?" * (len(exif) - 14)  # writing reads it, too
            data = encoded(small(), pillow, exif=stand_in)
            assert data.count(stand_in) == 1
            return data.replace(stand_in, exif)
        parts = [b"Exif\0\0" + exif[start : start + 65_000] for start in range(0, len(exif), 65_000)]
        segments = [struct.pack(">HH", 0xFFE1, len(part) + 2) + part for part in parts]
        plain = encoded(small())
        return plain[:2] + b"".join(segments) + plain[2:]

    with pytest.raises(ImageError) as caught:
        decode_rgb(open_image(image(_shared(1000, 200_000)), LIMITS))
    assert caught.value.code is FailureCode.BOMB
    turned = decode_rgb(open_image(image(_shared(10, 200_000)), LIMITS))
    assert turned.size == (small().size if pillow == "AVIF" else small().size[::-1])


@pytest.mark.parametrize("comment", [b"\xfe" + b"\1c" * 900_000 + b"\0", b"\xfe\1c\0!" * 400_000 + b"\xfe\0"])
@pytest.mark.parametrize("place", ["before", "behind"])
def test_comments_of_a_gif_cost_no_more_than_their_length(comment: bytes, place: str) -> None:
    plain = gif(2)
    head = 13 + 3 * 2 ** ((plain[10] & 7) + 1)
    assert plain[10] & 0x80
    data = plain[:head] + b"!" + comment + plain[head:] if place == "before" else plain[:-1] + b"!" + comment + b";"
    begun = time.process_time()
    image = open_image(data, LIMITS)
    assert decode_rgb(image).tobytes() == decode_rgb(open_image(plain, LIMITS)).tobytes()
    image.seek(1)
    load(image)
    assert time.process_time() - begun < 5
    assert failure(data, limits=CrawlSettings(max_frames=1)).code is FailureCode.BOMB


def test_a_jpeg_of_very_many_exif_segments_is_a_bomb() -> None:
    """Pillow appends each to those before."""
    segment = struct.pack(">HH", 0xFFE1, 18) + b"Exif\0\0" + bytes(10)
    plain = encoded(small())
    load(open_image(plain[:2] + segment * 300 + plain[2:], LIMITS))
    begun = time.process_time()
    assert failure(plain[:2] + segment * 500_000 + plain[2:]).code is FailureCode.BOMB
    assert time.process_time() - begun < 1


def test_a_file_of_millions_of_segments_or_chunks_is_a_bomb() -> None:
    """Pillow would keep each: 700 MB for a file of 20."""
    jpeg, segment = encoded(small()), b"\xff\xfe\0\2"
    load(open_image(jpeg[:2] + segment * 9000 + jpeg[2:], LIMITS))
    assert failure(jpeg[:2] + segment * 2_000_000 + jpeg[2:]).code is FailureCode.BOMB
    chunk = png_chunk(b"prVt", b"")
    load(open_image(_behind_the_header(encoded(small(), "PNG"), chunk * 9000), LIMITS))
    for place in (_behind_the_header, _behind_the_pixels):
        assert failure(place(encoded(small(), "PNG"), chunk * 500_000)).code is FailureCode.BOMB


def test_pixels_beyond_pillows_own_limit_are_for_ours_to_refuse() -> None:
    open_image(png(20_000, 20_000), CrawlSettings(max_pixels=400_000_000))


def test_a_later_frame_that_is_larger_than_the_first_is_held_against_the_limit() -> None:
    data = bytearray(gif(2))
    second = data.rindex(b"\x2c\0\0\0\0\x08\0\x08\0")
    data[second + 5 : second + 9] = struct.pack("<HH", 3000, 2000)
    views = {"views": ("center",), "frames": "first_middle_last"}
    gate = GateSettings(file="x", detector=AssetSettings(path="x", sha256="0" * 64), **views)
    for most in (5_999_999, 2_000_000):  # beyond twice the limit Pillow refuses by itself
        with pytest.raises(ImageError) as caught:
            list(stored_and_views(bytes(data), gate, CrawlSettings(max_pixels=most), None)[1])
        assert caught.value.code is FailureCode.BOMB


def test_a_side_below_the_least_is_too_small() -> None:
    data = encoded(Image.new("RGB", (500, 31)), "PNG")
    assert failure(data, min_side=32).code is FailureCode.TOO_SMALL
    load(open_image(data, LIMITS, min_side=31))


def mutations(data: bytes) -> Iterator[bytes]:
    generator = np.random.default_rng(7)
    for _ in range(60):
        mutated = bytearray(data)
        for position in generator.integers(0, min(len(data), 3000), size=8):
            mutated[position] = generator.integers(0, 256)
        yield bytes(mutated)


@pytest.mark.parametrize("name", ACCEPTED)
def test_broken_bytes_end_as_pixels_or_as_an_image_error(name: str) -> None:
    for data in mutations(encoded(small(), ACCEPTED[name][0])):
        with suppress(ImageError):
            assert decode_rgb(open_image(data, CrawlSettings(max_pixels=1_000_000))).mode == "RGB"


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_never_escape_as_another_exception(data: bytes) -> None:
    with pytest.raises(ImageError):
        load(open_image(b"\x89PNG\r\n\x1a\n" + data, LIMITS))


def test_pillows_warnings_do_not_reach_stderr() -> None:
    program = (
        "import io; from PIL import Image\n"
        "from schemas.settings import CrawlSettings; from udfs.images.decode import *\n"
        "image = Image.new('P', (64, 64)); image.info['transparency'] = bytes(range(256)); buffer = io.BytesIO()\n"
        "image.save(buffer, 'PNG'); Image.MAX_IMAGE_PIXELS = 3000\n"
        "print(decode_rgb(open_image(buffer.getvalue(), CrawlSettings())).size)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(64, 64)\n", "")


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("pillow", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_exif_orientation_is_applied(pillow: str, turn: int) -> None:
    corners = Image.new("RGB", (64, 48), "white")
    corners.paste("red", (0, 0, 32, 24))
    corners.paste("blue", (32, 24, 64, 48))
    backwards = {
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
    }
    stored = corners.transpose(backwards[turn]) if turn in backwards else corners
    exif = Image.Exif()
    exif[0x0112] = turn
    upright = decode_rgb(open_image(encoded(stored, pillow, exif=exif, quality=95), LIMITS))
    difference = np.asarray(upright, dtype=int) - np.asarray(corners, dtype=int)
    assert upright.size == (64, 48)
    assert np.abs(difference[4:20, 4:28]).max() < 30
    assert np.abs(difference[28:44, 36:60]).max() < 30


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_broken_exif_is_ignored(exif: bytes) -> None:
    image = open_image(encoded(small(), exif=exif), LIMITS)
    load(image)
    assert orientation(image) == 1
    assert decode_rgb(image).size == (120, 80)


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize("pillow", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("has_exif", [True, False])
def test_orientation_in_xmp_does_not_turn_a_picture(pillow: str, has_exif: bool) -> None:
    """Browsers go by EXIF alone: whoever opens the link sees it as it lies."""
    exif = Image.Exif()
    exif[0x010E] = "no orientation here"
    options = {"exif": exif} if has_exif else {}
    data = encoded(small(), pillow, xmp=XMP, **options)
    if pillow == "PNG":
        chunk = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
        data = data[:33] + chunk + data[33:]
    assert b"tiff:Orientation" in data
    plain = encoded(small(), pillow, **options)
    assert decode_rgb(open_image(data, LIMITS)).tobytes() == decode_rgb(open_image(plain, LIMITS)).tobytes()


def test_exif_behind_the_pixels_of_a_png_turns_it_as_well() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(small(), "PNG")
    end = data.index(b"IEND") - 4
    chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    assert decode_rgb(open_image(data[:end] + chunk + data[end:], LIMITS)).size == small().size[::-1]


def test_alpha_is_composited_on_white_in_every_mode_that_has_it() -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    palette = Image.new("P", (40, 40), 3)
    palette.putpalette(range(12))
    cases = {
        "RGBA": encoded(clear, "PNG"),
        "LA": encoded(clear.convert("LA"), "PNG"),
        "RGBA webp": encoded(clear, "WEBP", lossless=True, exact=True),
        "palette": encoded(palette, "PNG", transparency=3),
        "palette gif": encoded(palette, "GIF", transparency=3),
        "RGB with a key colour": encoded(Image.new("RGB", (40, 40), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
    }
    for case, data in cases.items():
        assert decode_rgb(open_image(data, LIMITS)).getextrema() == ((255, 255),) * 3, case


@pytest.mark.parametrize(
    ("depth", "colour_type", "key", "is_sound"),
    [
        *[(1, 0, "0001", True), (2, 0, "0000", True), (2, 0, "0003", True), (4, 0, "000f", True), (8, 0, "0040", True)],
        *[(2, 0, "0001", False), (4, 0, "0001", False), (4, 0, "000e", False)],
        *[(16, 0, "0001", False), (16, 0, "ffff", False)],
        *[(8, 2, "000100020003", True), (16, 2, "000100020003", False), (16, 2, "ffffffffffff", False)],
    ],
)
def test_a_png_whose_transparent_colour_the_decoder_would_not_find_is_not_decoded(
    depth: int, colour_type: int, key: str, is_sound: bool
) -> None:
    channels = 3 if colour_type == 2 else 1
    rows = bytes(8 * (1 + depth * channels))
    chunk = png_chunk(b"tRNS", bytes.fromhex(key))
    assert open_image(png(8, 8, rows=rows, depth=depth, colour_type=colour_type), LIMITS).size == (8, 8)
    data = png(8, 8, chunk, rows=rows, depth=depth, colour_type=colour_type)
    if is_sound:
        assert decode_rgb(open_image(data, LIMITS)).size == (8, 8)
    else:
        assert failure(data).code is FailureCode.DECODE


def test_half_transparent_black_on_white_is_grey() -> None:
    image = decode_rgb(open_image(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG"), LIMITS))
    assert image.getpixel((0, 0)) == (127, 127, 127)


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = decode_rgb(open_image(encoded(Image.fromarray(ramp), "PNG"), LIMITS))
    assert (np.asarray(image)[..., 0] == ramp >> 8).all()


def test_cmyk_jpeg_becomes_rgb_of_the_same_colours() -> None:
    original = small()
    image = decode_rgb(open_image(encoded(original.convert("CMYK"), quality=95), LIMITS))
    assert np.abs(np.asarray(image, dtype=int) - np.asarray(original, dtype=int)).mean() < 4


def swapped_profile() -> bytes:
    """A profile whose red and green primaries change places, so that a conversion cannot be overlooked."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    table = {
        bytes(profile[start : start + 4]): start for start in range(132, 132 + 12 * profile[131], 12)
    }  # ICC.1:2022, 7.3
    red, green = table[b"rXYZ"] + 4, table[b"gXYZ"] + 4
    profile[red : red + 8], profile[green : green + 8] = profile[green : green + 8], profile[red : red + 8]
    return bytes(profile)


@pytest.mark.parametrize("pillow", ["JPEG", "PNG", "WEBP"])
def test_an_icc_profile_is_converted_to_srgb(pillow: str) -> None:
    data = encoded(Image.new("RGB", (32, 32), (200, 30, 30)), pillow, icc_profile=swapped_profile(), quality=95)
    red, green, _blue = decode_rgb(open_image(data, LIMITS)).getpixel((16, 16))
    assert red < 60
    assert green > 180


@pytest.mark.parametrize(
    "profile",
    [b"not a profile", swapped_profile()[:200], ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()],
    ids=["garbage", "truncated", "of other channels"],
)
def test_a_profile_that_cannot_be_used_is_ignored(profile: bytes) -> None:
    plain, tagged = encoded(small()), encoded(small(), icc_profile=profile)
    assert decode_rgb(open_image(tagged, LIMITS)).tobytes() == decode_rgb(open_image(plain, LIMITS)).tobytes()


def test_an_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = open_image(encoded(small(), icc_profile=profile), LIMITS)
    load(image)
    assert to_rgb(image) is image


def _behind_the_header(data: bytes, *chunks: bytes) -> bytes:
    return data[:33] + b"".join(chunks) + data[33:]


def _behind_the_pixels(data: bytes, *chunks: bytes) -> bytes:
    end = data.index(b"IEND") - 4
    return data[:end] + b"".join(chunks) + data[end:]


_GAMMAS = [png_chunk(b"gAMA", struct.pack(">I", gamma)) for gamma in (5000, 45455)]
_PROFILES = [png_chunk(b"iCCP", b"one\0\0" + zlib.compress(profile)) for profile in (b"one", b"another")]
_TURNED = png_chunk(b"eXIf", bytes.fromhex("4949 2a00 0800 0000 0100 1201 0300 0100 0000 0600 0000 0000 0000"))
_ONCE = {
    "header": [png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))],
    "gamma": _GAMMAS,
    "profile": _PROFILES,
    "transparent colour": [png_chunk(b"tRNS", bytes(6))] * 2,
    "orientation": [_TURNED] * 2,
    "palette": [png_chunk(b"PLTE", bytes(3))] * 2,
    "animation": [png_chunk(b"acTL", struct.pack(">II", 2, 0))] * 2,
}


@pytest.mark.parametrize("name", _ONCE)
def test_a_png_that_says_a_thing_twice_is_not_decoded(name: str) -> None:
    """Browsers go by the first, Pillow by the last, or in an animation by neither: they would show two images."""
    data = encoded(small(), "PNG")
    assert failure(_behind_the_header(data, *_ONCE[name])).code is FailureCode.DECODE
    if name in {"header", "orientation"}:
        apart = _behind_the_pixels(_behind_the_header(data, *_ONCE[name][1:]), *_ONCE[name][:1])
        assert failure(apart).code is FailureCode.DECODE


@pytest.mark.parametrize("name", ["gamma", "profile", "transparent colour", "palette", "animation"])
def test_what_a_png_says_behind_its_pixels_is_no_more_heard_than_by_browsers(name: str) -> None:
    plain = encoded(small(), "PNG")
    image = open_image(_behind_the_pixels(plain, *_ONCE[name]), LIMITS)
    before = dict(image.info)
    assert decode_rgb(image).tobytes() == small().tobytes()
    assert image.info == before == {}
    image = open_image(_behind_the_pixels(_behind_the_header(plain, _GAMMAS[0]), _GAMMAS[1]), LIMITS)
    load(image)
    assert image.info["gamma"] == 0.05


def test_a_png_that_does_not_begin_with_its_header_is_not_decoded() -> None:
    data = encoded(small(), "PNG")
    assert failure(data[:8] + png_chunk(b"prVt", bytes(20)) + data[8:]).code is FailureCode.DECODE


def _jpeg_with(data: bytes, *profiles: bytes, before: int) -> bytes:
    """The JPEG with segments as of a profile before the marker `before`."""
    segments = [struct.pack(">HH", 0xFFE2, len(one) + 14) + b"ICC_PROFILE\0" + one for one in profiles]
    place = data.index(bytes([0xFF, before]))
    return data[:place] + b"".join(segments) + data[place:]


def test_a_profile_of_a_jpeg_counts_wherever_browsers_find_it() -> None:
    """They look at every segment before the pixels, Pillow at those before the frame's header alone."""
    red = encoded(Image.new("RGB", (32, 32), (200, 30, 30)), quality=95)
    profile = swapped_profile()
    whole, half = b"\1\1" + profile, len(profile) // 2
    parts = [b"\2\2" + profile[half:], b"\1\2" + profile[:half]]
    shown_green = {
        "before the frame": _jpeg_with(red, whole, before=0xC0),
        "behind the frame": _jpeg_with(red, whole, before=0xDA),
        "on both sides": _jpeg_with(_jpeg_with(red, parts[0], before=0xC0), parts[1], before=0xDA),
        "beside a segment too short to be one": _jpeg_with(red, whole, b"\2", before=0xC0),
    }
    for case, data in shown_green.items():
        assert decode_rgb(open_image(data, LIMITS)).getpixel((16, 16))[1] > 180, case
    as_it_is = {
        "one twice": _jpeg_with(red, whole, whole, before=0xC0),
        "one twice, counted as two": _jpeg_with(red, *[b"\1\2" + profile] * 2, before=0xC0),
        "two counts": _jpeg_with(red, b"\1\2" + profile[:half], b"\2\3" + profile[half:], before=0xC0),
        "one that is missing": _jpeg_with(red, b"\1\2" + profile, before=0xDA),
        "none": _jpeg_with(red, b"\0\1" + profile, before=0xDA),
    }
    for case, data in as_it_is.items():
        assert decode_rgb(open_image(data, LIMITS)).getpixel((16, 16))[0] > 180, case
    assert failure(_jpeg_with(red, b"", whole, before=0xC0)).code is FailureCode.DECODE, "Pillow ends at such a one"


def test_profiles_of_any_number_and_size_are_kept_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, 64 of them were, each of up to the 16 MB that a file may hold: a gigabyte in every worker."""
    kept: RecentlyUsed[Any] = RecentlyUsed(KEPT_TRANSFORM_BYTES)
    monkeypatch.setattr("udfs.images.decode._transforms", kept)
    built: list[int] = []

    def build(profile: bytes, _: str) -> object:
        built.append(len(profile))
        return object()

    monkeypatch.setattr("udfs.images.decode._built_transform", build)
    noise = np.random.default_rng(4)
    for size in [500, 3000, *[2_000_000] * 20, 16_000_000, 500]:
        profile = noise.bytes(size)
        assert _srgb_transform(profile, "RGB") is _srgb_transform(profile, "RGB"), "built once"
        assert kept._weight <= max(KEPT_TRANSFORM_BYTES, 5 * size + 2**20)
        assert sum(len(key) for key in kept._entries) < 2000, "the profiles themselves are not kept"
    assert len(built) == 24
    assert _srgb_transform(profile, "RGB") is not _srgb_transform(profile, "CMYK")


def test_profiles_that_change_nothing_are_remembered_at_next_to_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: RecentlyUsed[Any] = RecentlyUsed(KEPT_TRANSFORM_BYTES)
    monkeypatch.setattr("udfs.images.decode._transforms", kept)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile", b"another"):
        assert _srgb_transform(profile, "RGB") is None
    assert len(kept._entries) == 3
    assert kept._weight < 1000


def test_the_error_survives_pickling_so_that_a_worker_can_report_it() -> None:
    error = ImageError(FailureCode.BOMB, "too much")
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.detail, str(again)) == (FailureCode.BOMB, "too much", "bomb: too much")
