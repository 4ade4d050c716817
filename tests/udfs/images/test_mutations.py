"""Broken bytes, by the hundred in every run and by the ten thousand where there is time: a picture is seen and stored,
or it fails as one that cannot be decoded. Nothing of it is a fault of the gate."""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
from PIL import Image

from jobs.config.profile import load, load_policy
from schemas.outcomes import FailureCode
from schemas.settings import CrawlSettings, GateSettings, ImageSettings
from tests.pictures import encoded, photograph
from tests.udfs.images.test_decode import swapped_profile
from udfs.gate.content import Given, OwnDecoders, Row, canonical_row, judge_batch
from udfs.gate.detectors import GateDetector, Input, Scores
from udfs.gate.views import View

LIMITS = CrawlSettings(max_pixels=1_000_000)
IMAGES = ImageSettings()
PLAIN = load("conf/local.yaml").policy
EVERYTHING = PLAIN.model_copy(
    update={
        "views": ("center", "plain", "squash", "corners", "tiles", "trimmed", "turned"),
        "frames": "first_middle_last",
        "matte": "white_and_black",
        "hashes": ("phash256", "pdq"),
    }
)
POLICY = load_policy(PLAIN)
OF_BROKEN_BYTES = {FailureCode.DECODE, FailureCode.BAD_TYPE, FailureCode.BOMB, FailureCode.TOO_SMALL}


@cache
def sources() -> dict[str, bytes]:
    """A small file of every format and mode that decoders know, and of one that they do not."""
    small = photograph("coffee.png").resize((90, 60))
    clear = small.convert("RGBA")
    clear.putalpha(small.convert("L"))
    frames = [clear.rotate(20), clear.rotate(40)]
    palette = small.convert("P")
    deep = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    tagged = {"exif": exif, "icc_profile": swapped_profile()}
    opaque = [frame.convert("RGB") for frame in frames]
    flat = [frame.convert("P") for frame in opaque]
    return {
        "jpeg": encoded(small, **tagged),
        "jpeg progressive": encoded(small, progressive=True),
        "jpeg cmyk": encoded(small.convert("CMYK")),
        "jpeg grey": encoded(small.convert("L")),
        "mpo": encoded(small, "MPO", save_all=True, append_images=opaque),
        "png": encoded(small, "PNG", **tagged),
        "png palette": encoded(palette, "PNG", transparency=3),
        "png alpha": encoded(clear, "PNG"),
        "png grey alpha": encoded(clear.convert("LA"), "PNG"),
        "png bits": encoded(small.convert("1"), "PNG"),
        "png 16 bits": encoded(deep, "PNG"),
        "png key colour": encoded(small, "PNG", transparency=(1, 2, 3)),
        "apng": encoded(clear, "PNG", save_all=True, append_images=frames),
        "webp": encoded(small, "WEBP"),
        "webp lossless": encoded(clear, "WEBP", lossless=True, **tagged),
        "webp animation": encoded(clear, "WEBP", save_all=True, append_images=frames),
        "gif": encoded(small, "GIF"),
        "gif animation": encoded(palette, "GIF", save_all=True, append_images=flat, transparency=1, disposal=2),
        "avif": encoded(small, "AVIF", **tagged),
        "avif animation": encoded(clear, "AVIF", save_all=True, append_images=frames),
        "tiff": encoded(small, "TIFF"),
    }


Mutate = Callable[[bytearray, np.random.Generator], bytearray]


def flip_bits(data: bytearray, generator: np.random.Generator) -> bytearray:
    for place in generator.integers(0, len(data), size=generator.integers(1, 16)):
        data[place] ^= 1 << int(generator.integers(0, 8))
    return data


def cut_off(data: bytearray, generator: np.random.Generator) -> bytearray:
    return data[: int(generator.integers(1, len(data)))]


def swap_parts(data: bytearray, generator: np.random.Generator) -> bytearray:
    size = int(generator.integers(1, len(data) // 4))
    first, second = sorted(map(int, generator.integers(0, len(data) - size, size=2)))
    data[first : first + size], data[second : second + size] = (
        data[second : second + size],
        data[first : first + size],
    )
    return data


def break_head(data: bytearray, generator: np.random.Generator) -> bytearray:
    for place in generator.integers(0, min(len(data), 600), size=generator.integers(1, 8)):
        data[place] = int(generator.integers(0, 256))
    return data


def set_sizes(data: bytearray, generator: np.random.Generator) -> bytearray:
    """Numbers of four bytes that are the least and the greatest there are."""
    for place in map(int, generator.integers(0, min(len(data), 600), size=2)):
        data[place : place + 4] = [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1"][generator.integers(0, 4)]
    return data


def leave_out(data: bytearray, generator: np.random.Generator) -> bytearray:
    first, last = sorted(map(int, generator.integers(0, len(data), size=2)))
    return data[:first] + data[last:]


def repeat(data: bytearray, generator: np.random.Generator) -> bytearray:
    first, last = sorted(map(int, generator.integers(0, len(data), size=2)))
    return data[:last] + data[first:]


def go_on_as_another(data: bytearray, generator: np.random.Generator) -> bytearray:
    others = list(sources().values())
    other = others[generator.integers(0, len(others))]
    return data[: int(generator.integers(1, len(data)))] + other[int(generator.integers(0, len(other))) :]


MUTATIONS: tuple[Mutate, ...] = (
    *(flip_bits, cut_off, swap_parts, break_head, set_sizes),
    *(leave_out, repeat, go_on_as_another),
)


def mutants(count: int, seed: int) -> Iterator[bytes]:
    """`count` mutants of each source."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        for source in sources().values():
            mutate = MUTATIONS[generator.integers(0, len(MUTATIONS))]
            yield bytes(mutate(bytearray(source), generator))


def prepare(view: View) -> Input:
    return np.asarray(view.image.resize((4, 4)), dtype=np.float32)


def score(batch: Input) -> Scores:
    return np.zeros((len(batch), 1), dtype=np.float32)


DETECTOR = GateDetector(("nsfw",), prepare, score)


def judged(data: bytes, gate: GateSettings) -> Row:
    (row,) = judge_batch(POLICY, [DETECTOR], gate, LIMITS, [Given(data, None, "a" * 64)], {})
    return row


def check(data: bytes) -> None:
    rows = [judged(data, PLAIN), judged(data, EVERYTHING), canonical_row(data, None, IMAGES, LIMITS, OwnDecoders())]
    for row in rows:
        assert row.get("failure_code") is None or row["failure_code"] in OF_BROKEN_BYTES, row
        assert "0x" not in (row.get("failure_detail") or ""), "an address would differ from run to run"
    gate, _, canonical = rows
    # What the gate has seen can be stored, and what it has not seen cannot.
    if canonical.get("failure_code") != FailureCode.TOO_SMALL:
        assert gate["failure_code"] == canonical.get("failure_code")


def test_no_mutation_is_a_fault_of_the_gate() -> None:
    for data in mutants(20, seed=1):
        check(data)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 10))
def test_no_mutation_of_many_is_a_fault_of_the_gate(seed: int) -> None:
    for data in mutants(120, seed):
        check(data)
