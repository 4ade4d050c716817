"""Opens images of the open web safely: what the bytes are, whether they may be decoded, and their pixels as sRGB.

The header is judged before any pixel is decoded; the declared type, the magic bytes and the decoder must agree; every
way a decoder can fail ends as an `ImageError` that carries a `FailureCode`.

Sources: WHATWG MIME Sniffing (https://mimesniff.spec.whatwg.org), GIF89a (https://www.w3.org/Graphics/GIF/spec-gif89a.txt).
"""

import hashlib
import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import IO, Any

import numpy as np
from PIL import AvifImagePlugin, ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from schemas.outcomes import FailureCode
from schemas.settings import CrawlSettings
from udfs import media_types
from udfs.bounded import RecentlyUsed

# A filter at import, since warnings.catch_warnings is not safe in the threads that decode.
warnings.filterwarnings("ignore", module=r"PIL\.")
# One task has one core: libavif would start a thread a core.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

MAX_PNG_METADATA = 16 * 2**20
"""Bytes that a PNG's colour profile, and all its texts together, may unpack to. Profiles of printing presses have some
3 MB; prompts and editing histories that tools leave in texts, several."""

# Pillow's own limit of 1 MiB would refuse sound images. It now concerns profiles alone: texts do not get there.
PngImagePlugin.MAX_TEXT_CHUNK = MAX_PNG_METADATA

MAX_EXIF = 16 * 2**20
"""Bytes that the values of EXIF data may have together: as many as all of them have, but where they overlap."""

MAX_EXIF_SEGMENTS = 400
"""Of a JPEG: as many as 25 MB fill. Pillow puts them together in time quadratic in their number."""

MAX_SEGMENTS = 10_000
"""Of a JPEG before its pixels: Pillow keeps each, and millions fit into a small file. Sound ones have some dozen, or
hundreds where a profile is large."""

MAX_PNG_CHUNKS = 200_000
"""The same of a PNG, texts not counted. Sound ones have some thousand: encoders write pixels in pieces of kilobytes."""


class _Rationed:
    """A file of which not much more than `MAX_EXIF` bytes can be read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = MAX_EXIF
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """Raises ImageError, `BOMB`, where too much was read already."""
        if self._left < 0:
            raise ImageError(FailureCode.BOMB, f"exif: values of more than {MAX_EXIF} bytes")
        data = self._file.read(size)
        self._left -= len(data)
        return data


class _Directory(TiffImagePlugin.ImageFileDirectory_v2):
    """Pillow's, which reads each value of EXIF data: thousands of entries may all stand for the same megabytes."""

    def load(self, fp: IO[bytes]) -> None:
        """Raises ImageError, `BOMB`, where the values are too much together."""
        rationed: Any = _Rationed(fp)
        super().load(rationed)


# Pillow opens JPEG and AVIF with a look at their EXIF data, so that it has to be its own.
setattr(TiffImagePlugin, "ImageFileDirectory_v2", _Directory)  # noqa: B010 - to mypy a class is no variable

PILLOW_FORMATS: dict[str, str] = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "avif": "AVIF"}
"""The accepted formats by their names here, and Pillow's name of the only decoder that may touch each."""

MAX_JPEG_SCANS = 100
"""Each scan of a progressive JPEG walks over all blocks, so a small file of many scans costs minutes; real ones have
about ten (https://libjpeg-turbo.org/pmwiki/uploads/About/TwoIssueswiththeJPEGStandard.pdf)."""

_MEDIA_TYPES: dict[str, str] = {
    "image/jpeg": "jpeg",
    "image/jpg": "jpeg",
    "image/pjpeg": "jpeg",
    "image/png": "png",
    "image/x-png": "png",
    "image/apng": "png",
    "image/vnd.mozilla.apng": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
    "image/avif-sequence": "avif",
}

_PREFIXES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"8BPS", "psd"),
    (b"%!PS", "eps"),
    (b"\xc5\xd0\xd3\xc6", "eps"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
    (b"\x00\x00\x01\x00", "ico"),
    (b"\x00\x00\x00\x0cjP  ", "jpeg2000"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
    (b"\x00\x00\x00\x0cJXL ", "jpegxl"),
    (b"\xff\x0a", "jpegxl"),
    (b"%PDF-", "pdf"),
    (b"\x1f\x8b", "gzip"),
    (b"BM", "bmp"),
)
_HTML_OPENINGS = (b"<!doctype html", b"<html", b"<head", b"<body", b"<script", b"<title", b"<!--")

_UPRIGHT: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings each EXIF orientation upright (Exif 2.32, tag 0x0112)."""


class ImageError(Exception):
    """An image that cannot be had from these bytes.

    `code` is one of `BAD_TYPE`, `DECODE`, `BOMB`, `TOO_SMALL`; `detail` is a short text without image content.
    """

    def __init__(self, code: FailureCode, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


def sniff(data: bytes) -> str:
    """The format of `data` by its magic bytes.

    Returns a name of `PILLOW_FORMATS` for what is accepted; for what is not: "svg", "html", "xml", "psd", "eps",
    "tiff", "bmp", "ico", "heic", "jpeg2000", "jpegxl", "pdf", "gzip", "empty" or "unknown".
    """
    if not data:
        return "empty"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return _sniff_isobmff(data)
    for prefix, name in _PREFIXES:
        if data.startswith(prefix):
            return name
    return _sniff_markup(data)


def _sniff_isobmff(data: bytes) -> str:
    """AVIF and HEIF share one container (ISO/IEC 14496-12): the brands of the file type box tell them apart."""
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    brands = {box[start : start + 4] for start in range(0, len(box), 4)}
    if brands & {b"avif", b"avis"}:
        return "avif"
    if brands & {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}:
        return "heic"
    return "unknown"


def _sniff_markup(data: bytes) -> str:
    head = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head.startswith(b"<"):
        return "unknown"
    # An HTML page may hold an <svg> of its own, so its opening is asked first; a comment may precede either.
    if head.startswith(_HTML_OPENINGS) and not (head.startswith(b"<!--") and b"<svg" in head):
        return "html"
    if b"<svg" in head:
        return "svg"
    if b"<html" in head:
        return "html"
    return "xml" if head.startswith(b"<?xml") else "unknown"


def open_image(data: bytes, limits: CrawlSettings, declared_type: str | None = None, min_side: int = 1) -> Image.Image:
    """Open `data` without decoding a pixel, so that the caller may still ask the decoder for a smaller image.

    Args:
        data: the bytes as fetched.
        limits: `max_pixels` and `max_frames` are held against the header.
        declared_type: the Content-Type as it came; see `udfs.media_types.declared_type`.
        min_side: least width and height, pixels.

    Raises:
        ImageError: `BAD_TYPE` where the bytes are no accepted format or not the declared one, `BOMB` where the header
            (or what is packed into it) is over a limit, `TOO_SMALL`, and `DECODE` for a broken header.
    """
    name = sniff(data)
    if name not in PILLOW_FORMATS:
        accepted = ", ".join(PILLOW_FORMATS)
        raise ImageError(FailureCode.BAD_TYPE, f"the bytes are {name}; accepted are {accepted}")
    _check_declared(declared_type, name)
    if name == "png":
        data = _as_browsers_read(data)
    if name == "jpeg":
        _check_segments(data)
    # Pillow has a limit of its own: it refuses twice as many pixels, also of a frame that turns out to be larger.
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    with decoding(name):
        frames, data = _gif_frames(data, limits.max_frames + 1) if name == "gif" else (0, data)
        image = Image.open(io.BytesIO(data), formats=[PILLOW_FORMATS[name]])
        frames = frames if name == "gif" else getattr(image, "n_frames", 1)
    if name == "png":
        _check_transparent_colour(data, image)
    if name == "jpeg":
        image.info["icc_profile"] = _jpeg_profile(getattr(image, "applist", ()))
    check_size(image.size, limits)
    if frames > limits.max_frames:
        raise ImageError(FailureCode.BOMB, f"more than {limits.max_frames} frames")
    if min(image.size) < min_side:
        width, height = image.size
        raise ImageError(FailureCode.TOO_SMALL, f"{width} x {height} has a side shorter than {min_side}")
    return image


def _check_declared(declared_type: str | None, name: str) -> None:
    media_type = media_types.declared_type(declared_type)
    if media_type is not None and _MEDIA_TYPES.get(media_type) != name:
        raise ImageError(FailureCode.BAD_TYPE, f"declared {media_type[:64]}, but the bytes are {name}")


def check_size(size: tuple[int, int], limits: CrawlSettings) -> None:
    """Raises ImageError, `BOMB`, where width times height are over `limits.max_pixels`."""
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageError(FailureCode.BOMB, f"{width} x {height} is over {limits.max_pixels} pixels")


@contextmanager
def decoding(name: str | None) -> Iterator[None]:
    """Turn whatever a decoder raises into an `ImageError`, around all that is done with an image whose bytes may be
    broken: decoders find that out late, and Pillow raises whatever comes of it. Messages that differ from run to run
    are replaced.

    `name`: of the format, as Pillow has it.
    """
    name = (name or "image").lower()
    try:
        yield
    except ImageError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise ImageError(FailureCode.BOMB, f"the {name} decoder ran out of its memory limits") from error
    except UnidentifiedImageError as error:
        raise ImageError(FailureCode.DECODE, f"the {name} header cannot be read") from error
    except Exception as error:
        # Pillow has no class of its own for compressed PNG chunks that unpack to too much.
        is_bomb = isinstance(error, ValueError) and "MAX_TEXT" in str(error)
        code = FailureCode.BOMB if is_bomb else FailureCode.DECODE
        raise ImageError(code, f"{name}: {type(error).__name__}: {error}"[:200]) from error


def _check_transparent_colour(data: bytes, image: Image.Image) -> None:
    """Raises ImageError, `DECODE`, for a PNG one colour of which is transparent, and not to Pillow: that keeps 8 bits
    of 16, and compares the colour with levels that it has spread from 2 or 4 bits to 8.

    Browsers would show another image: dots of a grey and the next, of which one is transparent, are all one grey here.
    """
    depth, colour_type, key = data[24], data[25], image.info.get("transparency")
    if key is None or colour_type not in {0, 2}:  # grey, or red, green and blue
        return
    # Of the fewer bits black is found, and white is white on white.
    if depth == 16 or (depth in {2, 4} and key not in {0, 2**depth - 1}):
        raise ImageError(FailureCode.DECODE, f"png: one colour of {depth} bits is transparent, which is not decoded")


_PNG_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_TEXT_PIECE = 2**16


_PNG_ONCE = frozenset({b"IHDR", b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"eXIf", b"acTL"})
_PNG_BEFORE_PIXELS = frozenset({b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"acTL"})


def _as_browsers_read(data: bytes) -> bytes:
    """A PNG without chunks that browsers pass over and Pillow does not.

    These are texts, which say nothing about pixels: whatever their keyword is called (`transparency`, `exif`,
    `icc_profile`), to Pillow it stands for the real thing. And what says how pixels are shown, behind them. Of two that
    say it, browsers go by the first and Pillow by the last, or by neither.

    Raises:
        ImageError: `DECODE` for what may be there once and is there twice, and where the header does not come first,
            `BOMB` for texts that unpack to too much, and more than `MAX_PNG_CHUNKS` of the others.
    """
    kept: list[bytes] = []
    seen: set[bytes] = set()
    begin, position, unpacked, chunks = 0, 8, 0, 0
    if data[12:16] != b"IHDR":
        raise ImageError(FailureCode.DECODE, "png: it does not begin with its header")
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        after = position + 12 + length
        if kind in _PNG_TEXTS or (kind in _PNG_BEFORE_PIXELS and b"IDAT" in seen):
            kept.append(data[begin:position])
            begin = after
        elif kind in _PNG_ONCE and kind in seen:
            raise ImageError(FailureCode.DECODE, f"png: more than one {kind.decode()}")
        seen.add(kind)
        chunks += kind not in _PNG_TEXTS
        if chunks > MAX_PNG_CHUNKS:
            raise ImageError(FailureCode.BOMB, f"png: more than {MAX_PNG_CHUNKS} chunks")
        if kind in _PNG_TEXTS:
            unpacked += _unpacked_size(kind, data[position + 8 : after - 4], MAX_PNG_METADATA - unpacked + 1)
            if unpacked > MAX_PNG_METADATA:
                raise ImageError(FailureCode.BOMB, f"png: texts of more than {MAX_PNG_METADATA} bytes")
        elif kind == b"IEND":
            break
        position = after
    return b"".join([*kept, data[begin:]]) if kept else data


def _unpacked_size(kind: bytes, chunk: bytes, limit: int) -> int:
    """Bytes of a text chunk when it is unpacked, counted up to `limit` (PNG, third edition, section 11.3.3)."""
    keyword_end = chunk.find(b"\0")
    packed = chunk[keyword_end + 2 :] if kind == b"zTXt" else b""
    if kind == b"iTXt" and chunk[keyword_end + 1 : keyword_end + 2] == b"\1":
        packed = chunk[keyword_end + 3 :].split(b"\0", 2)[-1]
    if not packed:
        return min(len(chunk), limit)
    inflater, unpacked = zlib.decompressobj(), 0
    try:
        while unpacked < limit and (piece := inflater.decompress(packed, _TEXT_PIECE)):
            unpacked += len(piece)
            packed = inflater.unconsumed_tail
    except zlib.error:
        # How much was unpacked before it broke is not told, and took its time: deflate makes 1032 of a byte at most.
        unpacked += min(_TEXT_PIECE, 1032 * len(packed))
    return min(unpacked, limit)


_ICC_SEGMENT = b"ICC_PROFILE\0"


def _jpeg_profile(segments: Iterable[tuple[str, bytes]]) -> bytes | None:
    """The colour profile of a JPEG by its application segments, (name, contents), as browsers put it together.

    They look at all segments before the pixels, where Pillow looks at those before the frame's header; and a profile
    counts for nothing of which a part is missing, there twice or counted otherwise (ICC.1:2022, B.4; libjpeg-turbo's
    `jpeg_read_icc_profile`).
    """
    parts: dict[int, bytes] = {}
    counts, found, start = set(), 0, len(_ICC_SEGMENT) + 2
    for name, segment in segments:
        if name == "APP2" and segment.startswith(_ICC_SEGMENT) and len(segment) >= start:
            parts[segment[start - 2]] = segment[start:]
            counts.add(segment[start - 1])
            found += 1
    whole = counts == {found} and sorted(parts) == list(range(1, found + 1))
    return b"".join(parts[number] for number in sorted(parts)) if whole else None


_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\x01\xd0-\xd7]")
"""A marker that is followed by a segment or ends something (ITU-T T.81, table B.1): not a stuffed byte, not the filling
before a marker, not a restart."""


def _check_segments(data: bytes) -> None:
    """Counts what a JPEG says before its pixels.

    Raises:
        ImageError: `BOMB` for more than `MAX_SEGMENTS`, or than `MAX_EXIF_SEGMENTS` of EXIF data.
    """
    segments, of_exif, position = 0, 0, 2
    while (found := _JPEG_MARKER.search(data, position)) is not None:
        position, marker = found.end(), found[0][1]
        if marker == 0xDA:
            return
        if marker in {0xD8, 0xD9}:  # which Pillow passes over
            continue
        segments += 1
        of_exif += marker == 0xE1 and data.startswith(b"Exif\0\0", position + 2)
        if segments > MAX_SEGMENTS or of_exif > MAX_EXIF_SEGMENTS:
            raise ImageError(FailureCode.BOMB, f"jpeg: {segments} segments before the pixels, {of_exif} of exif")
        position += int.from_bytes(data[position : position + 2], "big")


def _check_scans(data: memoryview) -> None:
    """Counts the scans of the JPEG at the start of `data` as a decoder comes upon them: two equal bytes inside a
    segment are none.

    Raises:
        ImageError: `BOMB` for more than `MAX_JPEG_SCANS`.
    """
    scans, position = 0, 2
    while (found := _JPEG_MARKER.search(data, position)) is not None:
        position, marker = found.end(), found[0][1]
        if marker in {0xD8, 0xD9}:  # the end; or another image's start, at which decoders end with an error
            return
        if marker == 0xDA:
            scans += 1
            if scans > MAX_JPEG_SCANS:
                raise ImageError(FailureCode.BOMB, f"more than {MAX_JPEG_SCANS} scans in a jpeg")
        position += int.from_bytes(data[position : position + 2], "big")


def _gif_frames(data: bytes, limit: int) -> tuple[int, bytes]:
    """Count the frames of a GIF up to `limit` by its block structure; and the GIF without comments up to there.

    Pillow's `n_frames` walks the whole file whatever the limit, and 20 MB hold more than a million frames. To put the
    pieces of comments together, it takes time quadratic in their number.
    """
    position = 13 + _colour_table_size(data[10])
    frames, begin = 0, 0
    kept: list[bytes] = []
    while frames < limit and position < len(data):
        block = data[position]
        if block == 0x2C:  # image descriptor: 9 bytes, an optional colour table, the LZW code size, data
            if position + 9 >= len(data):
                break
            frames += 1
            position = _after_sub_blocks(data, position + 11 + _colour_table_size(data[position + 9]))
        elif block == 0x21:  # extension: its label, then data
            after = _after_sub_blocks(data, position + 2)
            if data[position + 1 : position + 2] == b"\xfe":
                kept += [data[begin:position]] if begin < position else []
                begin = after
            position = after
        elif block == 0x3B:
            break
        else:
            position += 1
    return frames, b"".join([*kept, data[begin:]]) if begin else data


def _colour_table_size(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _after_sub_blocks(data: bytes, position: int) -> int:
    while position < len(data) and data[position]:
        position += data[position] + 1
    return position + 1


def load(image: Image.Image) -> None:
    """Decode the pixels of an opened image (its first frame).

    Raises:
        ImageError: `DECODE` for truncated or broken data, `BOMB` where it unpacks beyond the decoder's limits.
    """
    with decoding(image.format):
        for tile in getattr(image, "tile", ()):  # not yet decoded; of an MPO, where its present frame begins
            if tile.codec_name == "jpeg" and isinstance(file := getattr(image, "fp", None), io.BytesIO):
                _check_scans(memoryview(file.getvalue())[tile.offset :])
        image.load()


def decode_rgb(image: Image.Image) -> Image.Image:
    """The opened image's first frame at full size: mode RGB, sRGB, upright, alpha composited on white.

    Raises:
        ImageError: as `load`.
    """
    load(image)
    return upright(to_rgb(image), orientation(image))


def orientation(image: Image.Image) -> int:
    """EXIF orientation of a loaded image, 1 (upright) to 8; 1 where there is none or the EXIF data are broken.

    As in browsers, nothing else turns an image: Pillow's `getexif` goes by XMP too.
    """
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif") or b"")
        value = exif.get(ExifTags.Base.Orientation, 1)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, SyntaxError, struct.error):
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def upright(image: Image.Image, turn: int) -> Image.Image:
    """The image turned so that EXIF orientation `turn` (1 to 8) becomes 1."""
    return image.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else image


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image of any mode as RGB in sRGB, alpha composited on white; `image` itself where nothing changes.

    An ICC profile that cannot be used (broken, or of other channels than the image) is ignored.

    Raises:
        ImageError: `DECODE` where Pillow cannot convert the mode.
    """
    profile = image.info.get("icc_profile")
    with decoding(image.format):
        alpha = None
        if image.mode.startswith("I"):
            image = _high_byte(image)
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            alpha = image.getchannel("A")
            image = image.convert("RGB")
        image = _to_srgb(image, profile)
        return image if alpha is None else _on_white(image, alpha)


def _high_byte(image: Image.Image) -> Image.Image:
    """16-bit grey to 8-bit: Pillow's own conversion clips at 255 instead of scaling."""
    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))


def _on_white(image: Image.Image, alpha: Image.Image) -> Image.Image:
    return Image.composite(image, Image.new("RGB", image.size, "white"), alpha)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    transform = _srgb_transform(profile, image.mode) if profile else None
    if transform is not None:
        converted = ImageCms.applyTransform(image, transform)
        if converted is not None:
            return converted
    return image if image.mode == "RGB" else image.convert("RGB")


KEPT_TRANSFORM_BYTES = 64 * 2**20
"""What the transforms of colour profiles that a process keeps may weigh: all usual ones, or one that is enormous."""

_TRANSFORM_OVERHEAD = 2**20
_TABLE_GROWTH = 4
"""A transform weighs so many times its profile, whose tables it holds unpacked, and something beside."""

_UNCHANGED_WEIGHT = 256

_transforms: RecentlyUsed[tuple[ImageCms.ImageCmsTransform | None]] = RecentlyUsed(KEPT_TRANSFORM_BYTES)
_transforms_lock = threading.Lock()


def _srgb_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from `profile` to sRGB for images of `mode`; None where it is unusable or changes nothing visible.

    It takes longer to build than to apply, and few profiles are in use: they are kept, by their digests.
    """
    key = f"{mode}:{hashlib.sha256(profile).hexdigest()}"
    with _transforms_lock:
        known = _transforms.get(key)
    if known is not None:
        return known[0]
    transform = _built_transform(profile, mode)
    changes = transform is not None
    weight = _TRANSFORM_OVERHEAD + _TABLE_GROWTH * len(profile) if changes else _UNCHANGED_WEIGHT
    with _transforms_lock:
        _transforms.put(key, (transform,), weight)
    return transform


def _built_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """See `_srgb_transform`. Most profiles on the web are sRGB itself: a probe of 729 colours finds those, and saves 3
    ms an image."""
    try:
        transform = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), _srgb_profile(), mode, "RGB")
        if mode == "RGB":
            probe = _probe_colours()
            converted = ImageCms.applyTransform(probe, transform)
            difference = np.asarray(converted, dtype=np.int16) - np.asarray(probe, dtype=np.int16)
            if np.abs(difference).max() <= 2:
                return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return transform


@lru_cache(maxsize=1)
def _srgb_profile() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@lru_cache(maxsize=1)
def _probe_colours() -> Image.Image:
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    return Image.fromarray(cube.reshape(27, 27, 3))
