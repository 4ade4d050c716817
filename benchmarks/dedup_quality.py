"""What the near-duplicate rule finds and what it takes for one, on real pictures and what is done to them on the web.

    python -m benchmarks.dedup_quality [--pictures DIR ...] [--most 120] [--profile conf/local.yaml] [--json FILE]

Pictures: every folder given, and the photographs inside the wheels of scikit-image and scikit-learn. The committed
figures are of Debian's tuxpaint-stamps-default (cut-outs), gnome-backgrounds, mate-backgrounds, lomiri-wallpapers,
xfdesktop4-data and plasma-workspace-wallpapers (`apt-get download`, `dpkg-deb -x`). One of several sizes or lightings
of a picture takes part, and no letters, of which some are others turned round.

Each original is stored as an ingestion run would store it, and in each of `ATTACKS`; `NEGATIVES` are pictures that must
not be merged. Hashes, bands and verification are those of `udfs.images`; clusters are the greedy definition, over files
spread over three dates at random, five times. Rules are compared on one half of the originals, on which the shipped one
was chosen, and reported on the other. Beside it: `imagehash` (imagededup's pHash is the same), PDQ by Meta's own code,
and the cosine of the profile's embedding, which is how imagededup's CNN method and semantic deduplication go about it.
"""

import argparse
import importlib.util
import io
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps, ImageStat

from benchmarks.report import environment, publish
from jobs.config.profile import load
from schemas.settings import FULL_VIEWS, HASHED_VIEWS, CrawlSettings, DedupSettings, HashedView, ImageSettings
from udfs.bits import popcount
from udfs.embedding.embed import Embedder, load_embedder
from udfs.images.canonical import canonicalise
from udfs.images.decode import ImageError
from udfs.images.minhash import Compared, alike, band_keys, hamming256, hash_words, signatures, verified_pairs
from udfs.images.phash import HASH_LAYOUT, oriented_hashes, view_numbers

ORIGINAL = "original"
LONGEST_SIDE = 800
SMALLEST_SIDE = 64
SEEDS = 5
DATES = 3
IMAGEHASH_AT = 10
"""The distance of imagehash's own examples, and of imagededup."""
PDQ_AT = 31
"""The distance that Meta recommends for matching."""
COSINE_AT = 0.9
"""imagededup's least similarity of its CNN method."""

COLOURED = 6.0
"""Levels from grey of the mean chroma, from which on a picture is made in other colours."""

Picture = Image.Image


def encoded(picture: Picture, quality: int = 90, form: str = "JPEG") -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, form, quality=quality)
    return buffer.getvalue()


def cut(left: float, top: float, right: float, bottom: float, picture: Picture) -> Picture:
    """Without these shares of the sides."""
    width, height = picture.size
    return picture.crop(
        (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    )


def framed(share: float, colour: str, picture: Picture) -> Picture:
    """In a border of this share of the shorter side."""
    return ImageOps.expand(picture, round(share * min(picture.size)), colour)


def captioned(
    share: float, ground: str, ink: str, above: bool, picture: Picture, text: str = "When it is Monday again"
) -> Picture:
    """With a strip of writing, of this share of the height, added above or below."""
    width, height = picture.size
    bar = max(12, round(share * height))
    made = Image.new("RGB", (width, height + bar), ground)
    made.paste(picture, (0, bar if above else 0))
    draw, size = ImageDraw.Draw(made), bar * 0.6
    while draw.textlength(text, ImageFont.load_default(size)) > 0.9 * width and size > 5:
        size *= 0.9
    draw.text((width / 2, bar / 2 if above else height + bar / 2), text, ink, ImageFont.load_default(size), anchor="mm")
    return made


def written_over(picture: Picture) -> Picture:
    """With a bar of writing over its lowest eighth."""
    made, bar = picture.copy(), picture.height // 8
    draw = ImageDraw.Draw(made)
    draw.rectangle((0, made.height - bar, made.width, made.height), fill="black")
    font = ImageFont.load_default(max(6, bar * 0.6))
    draw.text((bar // 2, made.height - bar // 2), "found on pictures.example", "white", font, anchor="lm")
    return made


def signed(picture: Picture) -> Picture:
    """With a name in a corner."""
    made, size = picture.copy(), max(8, min(picture.size) * 0.06)
    place, font = (made.width - size / 2, made.height - size / 2), ImageFont.load_default(size)
    ImageDraw.Draw(made).text(
        place, "pictures.example", "white", font, anchor="rb", stroke_width=1, stroke_fill="black"
    )
    return made


def noisy(picture: Picture) -> Picture:
    """With noise of 8 grey levels."""
    noise = np.random.default_rng(1).normal(0, 8, (picture.height, picture.width, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def balanced(shares: tuple[float, float, float], picture: Picture) -> Picture:
    """With more or less of red, green and blue."""
    return Image.fromarray(np.clip(np.asarray(picture) * shares, 0, 255).astype(np.uint8))


def recoloured(degrees: int, picture: Picture) -> Picture:
    """With all hues turned, the lightness kept: the same thing in another colour."""
    light, blue, red = (np.asarray(band, dtype=float) for band in picture.convert("YCbCr").split())
    turn = np.exp(1j * math.radians(degrees)) * ((blue - 128) + 1j * (red - 128))
    bands = (light, turn.real + 128, turn.imag + 128)
    made = [Image.fromarray(np.clip(band, 0, 255).astype(np.uint8)) for band in bands]
    return Image.merge("YCbCr", made).convert("RGB")


def straightened(degrees: float, picture: Picture) -> Picture:
    """Turned by some degrees, and cut to what is picture."""
    width, height = picture.size
    lost = abs(math.tan(math.radians(degrees))) / 2
    turned = picture.rotate(degrees, Image.Resampling.BICUBIC)
    return turned.crop(
        (round(lost * height), round(lost * width), round(width - lost * height), round(height - lost * width))
    )


def scaled(across: float, down: float, picture: Picture) -> Picture:
    """At another size."""
    return picture.resize((round(picture.width * across), round(picture.height * down)), Image.Resampling.LANCZOS)


ATTACKS: dict[str, Callable[[Picture], bytes]] = {
    "JPEG 30": partial(encoded, quality=30),
    "JPEG 10": partial(encoded, quality=10),
    "WebP 50": partial(encoded, quality=50, form="WEBP"),
    "half the size": lambda picture: encoded(scaled(0.5, 0.5, picture)),
    "squeezed to 85 %": lambda picture: encoded(scaled(0.85, 1, picture)),
    "grey": lambda picture: encoded(ImageOps.grayscale(picture)),
    "brighter": lambda picture: encoded(ImageEnhance.Brightness(picture).enhance(1.2)),
    "less contrast": lambda picture: encoded(ImageEnhance.Contrast(picture).enhance(0.75)),
    "warmer": lambda picture: encoded(balanced((1.1, 1, 0.85), picture)),
    "sepia": lambda picture: encoded(ImageOps.colorize(ImageOps.grayscale(picture), "black", "white", (160, 120, 80))),
    "blurred": lambda picture: encoded(picture.filter(ImageFilter.GaussianBlur(min(picture.size) / 200))),
    "noise": lambda picture: encoded(noisy(picture)),
    "mirrored": lambda picture: encoded(ImageOps.mirror(picture)),
    "turned by 90": lambda picture: encoded(picture.transpose(Image.Transpose.ROTATE_90)),
    "turned by 180": lambda picture: encoded(picture.transpose(Image.Transpose.ROTATE_180)),
    "cropped 2 %": lambda picture: encoded(cut(0.02, 0.02, 0.02, 0.02, picture)),
    "cropped 5 %": lambda picture: encoded(cut(0.05, 0.05, 0.05, 0.05, picture)),
    "cropped 10 %": lambda picture: encoded(cut(0.1, 0.1, 0.1, 0.1, picture)),
    "mirrored, cropped 5 %": lambda picture: encoded(ImageOps.mirror(cut(0.05, 0.05, 0.05, 0.05, picture))),
    "cropped 10 % on the left": lambda picture: encoded(cut(0.1, 0, 0, 0, picture)),
    "cropped unevenly, 2 to 8 %": lambda picture: encoded(cut(0.03, 0.06, 0.08, 0.02, picture)),
    "border 5 %, white": lambda picture: encoded(framed(0.05, "white", picture)),
    "border 5 %, black": lambda picture: encoded(framed(0.05, "black", picture)),
    "border 10 %, grey": lambda picture: encoded(framed(0.1, "grey", picture)),
    "letterboxed": lambda picture: encoded(ImageOps.expand(picture, (0, picture.height // 8), "black")),
    "caption below, on white": lambda picture: encoded(captioned(0.12, "white", "black", False, picture)),
    "caption above, on black": lambda picture: encoded(captioned(0.18, "black", "white", True, picture)),
    "writing over the lowest eighth": lambda picture: encoded(written_over(picture)),
    "a name in a corner": lambda picture: encoded(signed(picture)),
    "turned by 2 degrees": lambda picture: encoded(straightened(2, picture)),
}

_WORDS = (
    "the",
    "picture",
    "that",
    "a",
    "search",
    "finds",
    "is",
    "one",
    "of",
    "many",
    "which",
    "look",
    "alike",
    "today",
)


def page(seed: int) -> Picture:
    """A page of text: the same layout, other words."""
    chance, made = random.Random(seed), Image.new("RGB", (480, 640), "white")
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(14)
    draw.text((40, 30), " ".join(chance.choices(_WORDS, k=3)).title(), "black", ImageFont.load_default(26))
    for line in range(26):
        draw.text((40, 80 + 20 * line), " ".join(chance.choices(_WORDS, k=9))[:60], "black", font)
    return made


def screen(seed: int) -> Picture:
    """A screen of one application: the same frame and buttons, other text."""
    chance, made = random.Random(seed), Image.new("RGB", (360, 640), (245, 245, 248))
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(16)
    draw.rectangle((0, 0, 360, 60), fill=(40, 90, 200))
    draw.rectangle((0, 580, 360, 640), fill=(220, 220, 228))
    draw.text((20, 20), "Messages", "white", ImageFont.load_default(22))
    for row in range(6):
        top = 80 + 80 * row
        draw.rectangle((16, top, 344, top + 66), fill="white")
        draw.ellipse((26, top + 10, 72, top + 56), fill=(160, 170, 190))
        draw.text((86, top + 10), " ".join(chance.choices(_WORDS, k=2)).title(), "black", font)
        draw.text((86, top + 36), " ".join(chance.choices(_WORDS, k=6))[:32], (110, 110, 110), font)
    return made


def negatives(pictures: Sequence[Picture]) -> Iterator[tuple[str, int, Picture]]:
    """Kind, family, and pictures that are near others of their family and must not be merged with them."""
    for seed in range(8):
        yield "pages of text", 0, page(seed)
        yield "screens of one application", 0, screen(seed)
    for level in range(0, 256, 32):
        yield "flat", 0, Image.new("RGB", (300, 200), (level, 255 - level, level))
    for family, picture in enumerate(pictures):
        if picture.width >= 320:
            half = picture.width // 2
            for left in (0, picture.width - half):
                yield "regions of one picture", family, picture.crop((left, 0, left + half, picture.height))
        blue, red = (mean - 128 for mean in ImageStat.Stat(picture.convert("YCbCr")).mean[1:])
        if math.hypot(blue, red) >= COLOURED:
            for degrees in (0, 90, 180, 270):
                yield "one thing in four colours", family, recoloured(degrees, picture)
        for text in ("When it is Monday again", "Nobody told me about this", "My face at the dentist"):
            yield "one picture, other captions", family, captioned(0.2, "white", "black", True, picture, text)


@dataclass(frozen=True)
class File:
    """A file as it is stored: `original` numbers what it is one of; `hashes` as they are stored; `plain` is
    imagehash's; `jpeg` is what is embedded."""

    original: int
    kind: str
    pixels: int
    flat: bool
    hashes: tuple[bytes, ...]
    upright: bytes
    plain: int
    pdq: bytes
    jpeg: bytes


def stored(original: int, kind: str, data: bytes) -> File:
    """What an ingestion run keeps of a file."""
    made = canonicalise(data, ImageSettings(), CrawlSettings())
    picture = Image.open(io.BytesIO(data))
    plain, pdq = imagehash.phash(picture), oriented_hashes(picture.convert("RGB"), ("pdq",)).pdqs
    assert pdq is not None
    return File(
        original,
        kind,
        made.source_width * made.source_height,
        made.flatness < DedupSettings().flat_below,
        made.view_hashes,
        b"\0" + made.phash64.to_bytes(8, "big", signed=True) + made.phash256 + b"\0\0",
        int(str(plain), 16),
        pdq[:32],
        made.pixels,
    )


def opened(path: Path) -> Picture | None:
    """The picture on white, at most `LONGEST_SIDE`; None where it is too small, or flat."""
    with Image.open(path) as image:
        image.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
        if image.has_transparency_data:
            seen = image.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
        else:
            picture = image.convert("RGB")
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    is_flat = np.asarray(picture.convert("L")).std() < DedupSettings().flat_below
    return None if min(picture.size) < SMALLEST_SIDE or is_flat else picture


def versions(numbered: tuple[int, Path]) -> list[File]:
    """The original and what is done to it; nothing where it cannot take part."""
    number, path = numbered
    picture = opened(path)
    if picture is None:
        return []
    try:
        files = [stored(number, ORIGINAL, encoded(picture, 92))]
        return files + [stored(number, name, attack(picture)) for name, attack in ATTACKS.items()]
    except ImageError:  # too small once it is cropped
        return []


def paths_in(folders: Sequence[Path], most: int) -> list[Path]:
    """Pictures, at most so many a folder; one of several sizes or lightings."""
    found: list[Path] = []
    for folder in folders:
        named: dict[tuple[str, str], Path] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() not in {".jpg", ".jpeg", ".png", ".webp"} or path.is_symlink():
                continue
            if {"alphabets", "images_dark"} & set(path.parts) or path.stem in {"screenshot", "preview"}:
                continue
            if re.fullmatch(r"\d+x\d+", path.stem):  # one wallpaper in many sizes
                named.setdefault(("sizes", str(path.parent)), path)
            elif not path.stem.endswith(("_mirror", "_flip", "-d")):
                named.setdefault((str(path.parent), re.sub(r"(_\d+x\d+|-l)$", "", path.stem)), path)
        chosen = list(named.values())
        random.Random(1).shuffle(chosen)
        found += sorted(chosen[:most])
    return found


def wheels() -> list[Path]:
    """The photographs inside wheels that are installed for tests."""
    names = {
        "skimage/data": [
            *("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "rocket.jpg"),
            *("hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "retina.jpg"),
        ],
        "sklearn/datasets/images": ["china.jpg", "flower.jpg"],
    }
    found = []
    for folder, files in names.items():
        package, _, inside = folder.partition("/")
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found += [Path(spec.origin).parent / inside / name for name in files]
    return found


Edges = NDArray[np.int64]
"""(E, 4): two file numbers, the smaller first, and the 256-bit and 64-bit distance."""


def entries(
    files: Sequence[File], views: Sequence[HashedView], upright: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], Compared]:
    """Of each hash that takes part: the number of its file (H,), that of its view (H,), and what is compared."""
    numbers = view_numbers(views)
    pairs = [
        (number, one)
        for number, file in enumerate(files)
        if not file.flat
        for one in ([file.upright] if upright else file.hashes)
        if one[0] in numbers
    ]
    rows = np.frombuffer(b"".join(one for _, one in pairs), HASH_LAYOUT)
    near = rows["phash64"].copy().view(">u8").astype(np.uint64).ravel()
    compared = Compared(near, hash_words([one.tobytes() for one in rows["phash256"]]), rows["hue"], rows["shades"])
    return np.array([number for number, _ in pairs], dtype=np.int64), rows["view"].astype(np.int64), compared


def edges_of(
    files: Sequence[File],
    rule: DedupSettings,
    upright: bool = False,
    exact: bool = False,
    full_views: Sequence[HashedView] = FULL_VIEWS,
) -> Edges:
    """Verified pairs of files: those that share a bucket, or, where `exact`, all there are. One of two hashes is of
    `full_views`."""
    owner, views, hashes = entries(files, rule.views, upright)
    near, far = hashes.phash64, hashes.phash256
    full = np.isin(views, view_numbers(full_views))
    found = [np.empty((2, 0), dtype=np.int64)]
    if exact:
        fulls = np.flatnonzero(full)
        for start in range(0, len(near), 512):
            apart = popcount(near[start : start + 512, None] ^ near[None, fulls])
            first, second = np.nonzero(apart <= rule.outer_hamming)
            first, second = first + start, fulls[second]
            joined = alike(hashes, first, second, rule)
            found.append(np.stack((first[joined], second[joined])))
    else:
        keys = band_keys(signatures(near, rule), rule).ravel()
        order = np.argsort(keys, kind="stable")
        rows = order // rule.bands
        pairs = verified_pairs(keys[order], hashes.take(rows), rule, is_full=full[rows])
        found += [np.unique(np.sort(rows[np.stack(pair)], axis=0), axis=1) for pair in pairs]
    first, second = np.unique(np.concatenate(found, axis=1), axis=1)
    apart = (hamming256(far[first], far[second]), popcount(near[first] ^ near[second]))
    return _least(owner[first], owner[second], *(one.astype(np.int64) for one in apart))


def edges_of_imagehash(files: Sequence[File]) -> Edges:
    """Pairs within `IMAGEHASH_AT` of `imagehash.phash`, whatever they show."""
    plain = np.array([file.plain for file in files], dtype=np.uint64)
    first, second = _pairs(len(plain), lambda some: popcount(plain[some, None] ^ plain[None]) <= IMAGEHASH_AT)
    apart = popcount(plain[first] ^ plain[second]).astype(np.int64)
    return _least(first, second, apart, apart)


def edges_of_pdq(files: Sequence[File]) -> Edges:
    """Pairs within `PDQ_AT` of PDQ, upright."""
    words = hash_words([file.pdq for file in files])
    first, second = _pairs(len(words), lambda some: hamming256(words[some, None], words[None]) <= PDQ_AT)
    apart = hamming256(words[first], words[second]).astype(np.int64)
    return _least(first, second, apart, apart)


def edges_by_cosine(files: Sequence[File], embedder: Embedder) -> Edges:
    """Pairs whose embeddings' cosine is `COSINE_AT` or more; the nearest have the least distance."""
    vectors = vectors_of(files, embedder)
    first, second = _pairs(len(vectors), lambda some: vectors[some] @ vectors.T >= COSINE_AT)
    apart = np.round(1e6 * (1 - (vectors[first] * vectors[second]).sum(axis=1))).astype(np.int64)
    return _least(first, second, apart, apart)


def edges_with_a_witness(
    files: Sequence[File], rule: DedupSettings, speaks: Callable[[Edges], NDArray[np.bool_]]
) -> Edges:
    """Edges of `rule` (E, 4): all those within `max_hamming`, and of those beyond it the ones that it `speaks` for."""
    inner, all_of_them = (edges_of(files, one) for one in (_inner(rule), rule))
    known = set(map(tuple, inner[:, :2].tolist()))
    is_inner = np.array([pair in known for pair in map(tuple, all_of_them[:, :2].tolist())], dtype=np.bool_)
    return all_of_them[is_inner | speaks(all_of_them)]


def _inner(rule: DedupSettings) -> DedupSettings:
    return rule.model_copy(update={"outer_bits": 0})


def _cosines(files: Sequence[File], edges: Edges, embedder: Embedder) -> NDArray[np.float32]:
    vectors = vectors_of(files, embedder)
    return np.asarray((vectors[edges[:, 0]] * vectors[edges[:, 1]]).sum(axis=1))


def witnesses(embedder: Embedder) -> dict[str, Callable[[Sequence[File]], Edges]]:
    """What may speak for a pair beyond `max_hamming`, each alone, at 8 and at 10 bits."""
    found: dict[str, Callable[[Sequence[File]], Edges]] = {
        "shipped views, inner distance alone": partial(edges_of, rule=_inner(DedupSettings()))
    }
    for distance in (8, 10):
        bare = DedupSettings(outer_bits=distance - DedupSettings().max_hamming, outer_shades=0, outer_hue_apart=50)
        shades, hues = (bare.model_copy(update=one) for one in ({"outer_shades": 6}, {"outer_hue_apart": 20}))
        both = shades.model_copy(update={"outer_hue_apart": 20})
        found |= {
            f"{name}, at {distance}": partial(edges_of, rule=one)
            for name, one in (("nothing", bare), ("shades", shades), ("hues", hues), ("shades and hues", both))
        }
        for most in (40, 48):
            found[f"256 bits within {most}, at {distance}"] = partial(
                edges_with_a_witness, rule=bare, speaks=partial(lambda edges, most: edges[:, 2] <= most, most=most)
            )
        found[f"cosine of {COSINE_AT}, at {distance}"] = lambda files, bare=bare: edges_with_a_witness(  # type: ignore[misc]
            files, bare, lambda edges: _cosines(files, edges, embedder) >= COSINE_AT
        )
    return found


def vectors_of(files: Sequence[File], embedder: Embedder) -> NDArray[np.float32]:
    """Unit vectors (N, dimension)."""
    made: list[NDArray[np.float32]] = []
    for start in range(0, len(files), 64):
        some = embedder.embed([embedder.decode(file.jpeg) for file in files[start : start + 64]])
        for one in some:
            assert one.vector is not None, one.error
            made.append(np.asarray(one.vector, np.float32))
    return np.stack(made)


def _pairs(count: int, near: Callable[[slice], NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Numbers (2, P) of rows that are near one another; `near` says of a slice of the rows which rows (S, N) are."""
    found = []
    for start in range(0, count, 256):
        first, second = np.nonzero(near(slice(start, start + 256)))
        found.append(np.stack((first + start, second)))
    return np.concatenate(found, axis=1)


def _least(
    first: NDArray[np.int64], second: NDArray[np.int64], far: NDArray[np.int64], near: NDArray[np.int64]
) -> Edges:
    other = first != second
    rows = np.stack((np.minimum(first, second), np.maximum(first, second), far, near), axis=1)[other]
    rows = rows[np.lexsort(rows.T[::-1])]
    starts = np.r_[True, (rows[1:, :2] != rows[:-1, :2]).any(axis=1)] if len(rows) else np.empty(0, bool)
    return rows[starts]


def clusters(files: Sequence[File], edges: Edges, seed: int) -> NDArray[np.int64]:
    """The representative of each file, by the greedy definition, over dates drawn at random."""
    dates = np.random.default_rng(seed).integers(0, DATES, len(files))
    order = sorted(range(len(files)), key=lambda number: (dates[number], -files[number].pixels, files[number].upright))
    place = np.empty(len(files), dtype=np.int64)
    place[order] = np.arange(len(files))
    earlier: list[list[tuple[int, int, int, int]]] = [[] for _ in files]
    for one, other, far, near in edges.tolist():
        before, after = (one, other) if place[one] < place[other] else (other, one)
        earlier[after].append((far, near, int(place[before]), before))
    chosen = np.full(len(files), -1)
    for number in order:
        heads = [offer for offer in earlier[number] if chosen[offer[3]] == offer[3]]
        chosen[number] = min(heads)[3] if heads else number
    return chosen


def quality(files: Sequence[File], edges: Edges) -> dict[str, float]:
    """Of pairs that are edges, and of pairs in one cluster."""
    original = np.array([file.original for file in files])
    sizes = Counter(original.tolist())
    wanted = sum(size * (size - 1) // 2 for size in sizes.values())
    right = original[edges[:, 0]] == original[edges[:, 1]]
    report = {"edge precision": right.mean(), "edge recall": right.sum() / wanted}
    rows = []
    for seed in range(SEEDS):
        heads = clusters(files, edges, seed)
        together = Counter(heads.tolist())
        both = Counter(zip(heads.tolist(), original.tolist(), strict=True))
        merged, true = (sum(n * (n - 1) // 2 for n in counts.values()) for counts in (together, both))
        rows.append((true / max(1, merged), true / wanted, len(together) / len(sizes)))
    precision, found, feed = np.mean(rows, axis=0)
    report |= {"precision": precision, "recall": found, "F1": 2 * precision * found / (precision + found)}
    return {name: round(float(value), 4) for name, value in report.items()} | {
        "feed rows an original": round(float(feed), 2)
    }


def by_attack(files: Sequence[File], edges: Edges) -> dict[str, float]:
    """Share of the originals that have an edge to their version of that kind."""
    found: Counter[str] = Counter()
    for one, other, *_ in edges.tolist():
        kinds = {files[one].kind, files[other].kind}
        if files[one].original == files[other].original and ORIGINAL in kinds:
            found.update(kinds - {ORIGINAL})
    count = sum(file.kind == ORIGINAL for file in files)
    return {kind: round(found[kind] / count, 3) for kind in ATTACKS}


def false_merges(made: Sequence[tuple[int, File]], edges_by: Callable[[Sequence[File]], Edges]) -> dict[str, str]:
    """Of pictures that look alike: how many pairs of one family are edges, and how many pairs of different ones."""
    report = {}
    for kind in dict.fromkeys(file.kind for _, file in made):
        own = [(family, file) for family, file in made if file.kind == kind]
        families = np.array([family for family, _ in own])
        edges = edges_by([file for _, file in own])
        inside = int((families[edges[:, 0]] == families[edges[:, 1]]).sum())
        pairs = sum(n * (n - 1) // 2 for n in Counter(families.tolist()).values())
        report[kind] = f"{inside} of {pairs} pairs; with others {len(edges) - inside}"
    return report


OLD = DedupSettings(views=("whole",), max_hamming=8, max_hue_apart=180, outer_bits=0, bands=45, rows=9)
"""The first rule: upright wholes alone."""
FEWER_VIEWS: tuple[HashedView, ...] = tuple(view for view in HASHED_VIEWS if view != "inner2")
CANDIDATES: dict[str, tuple[HashedView, ...]] = {
    "whole": ("whole",),
    "whole, trimmed": ("whole", "trimmed"),
    "whole, inside": ("whole", "inner2", "inner5", "inner10"),
    "all but object": ("whole", "trimmed", "inner2", "inner5", "inner10"),
    "all but inner2": FEWER_VIEWS,
    "all": HASHED_VIEWS,
}
PAIRINGS: dict[str, tuple[HashedView, ...]] = {
    "with a whole": ("whole",),
    "with a whole or trimmed": ("whole", "trimmed"),
    "with a full view": FULL_VIEWS,
    "any two": HASHED_VIEWS,
}
"""What one of two hashes that are compared has to be of."""
COLOUR_BLIND = DedupSettings(max_hue_apart=180, outer_hue_apart=180)
COMMON = frozenset(ATTACKS) - {
    *("cropped 10 % on the left", "cropped unevenly, 2 to 8 %", "border 10 %, grey", "writing over the lowest eighth"),
    *("a name in a corner", "letterboxed"),
}
"""What is done to most copies: re-encoding, resizing, colour, blur, flips, quarter turns, even crops, borders of 5 %,
captions, small rotations. What is left out looks at nothing of the original's own from one side, or covers it."""


def main() -> None:
    """Measure, print, and write where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, nargs="*", default=[], help="folders of pictures")
    parser.add_argument("--most", type=int, default=120, help="pictures a folder")
    parser.add_argument("--profile", default="conf/local.yaml", help="whose embedding is compared")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    numbered = list(enumerate([*wheels(), *paths_in(options.pictures, options.most)]))
    with Pool(2) as pool:
        made = [files for files in pool.imap(versions, numbered, chunksize=4) if files]
    random.Random(2).shuffle(made)
    halves = {"tuned on": made[::2], "reported": made[1::2]}
    report: dict[str, Any] = {
        "environment": environment("numpy", "pillow", "imagehash"),
        "originals": {name: len(half) for name, half in halves.items()},
        "files an original": 1 + len(ATTACKS),
    }
    shipped = DedupSettings()
    embedder = load_embedder(load(options.profile).embedding)
    peers: dict[str, Callable[[Sequence[File]], Edges]] = {
        f"imagehash at {IMAGEHASH_AT}": edges_of_imagehash,
        f"PDQ at {PDQ_AT}": edges_of_pdq,
        f"cosine at {COSINE_AT}": partial(edges_by_cosine, embedder=embedder),
    }
    tuned = [file for files in halves["tuned on"] for file in files]
    report["edges without bands, tuned on"] = {
        f"{name}, at {distance}": quality(tuned, edges_of(tuned, _at(distance, views), exact=True))
        for name, views in CANDIDATES.items()
        for distance in (4, 6, 8)
    }
    report["pairs of views without bands, tuned on"] = {
        name: quality(tuned, edges_of(tuned, shipped, exact=True, full_views=views)) for name, views in PAIRINGS.items()
    }
    for name, half in halves.items():
        files = [file for files in half for file in files]
        found = {
            "before": edges_of(files, OLD, upright=True),
            **{name: edges_by(files) for name, edges_by in peers.items()},
            "shipped": edges_of(files, shipped),
            "shipped, without bands": edges_of(files, shipped, exact=True),
            "shipped, inner distance alone": edges_of(files, _inner(shipped)),
            "shipped, without inner2": edges_of(files, _without_inner2(shipped)),
            "shipped, whatever the colours": edges_of(files, COLOUR_BLIND),
        }
        report[name] = {rule: quality(files, edges) for rule, edges in found.items()}
        common = [file for file in files if file.kind in COMMON | {ORIGINAL}]
        report[f"{name}, common versions alone"] = {
            **{name: quality(common, edges_by(common)) for name, edges_by in peers.items()},
            "shipped": quality(common, edges_of(common, shipped)),
            "shipped, without bands": quality(common, edges_of(common, shipped, exact=True)),
            "shipped, inner distance alone": quality(common, edges_of(common, _inner(shipped))),
            "shipped, without inner2": quality(common, edges_of(common, _without_inner2(shipped))),
            "shipped, neither": quality(common, edges_of(common, _inner(_without_inner2(shipped)))),
        }
        attacks = {rule: by_attack(files, edges) for rule, edges in found.items()}
        report[f"{name}, original to version"] = {
            kind: {rule: one[kind] for rule, one in attacks.items()} for kind in ATTACKS
        }
    counts = Counter(HASHED_VIEWS[one[0]] for file in tuned for one in file.hashes)
    report["hashes an image"] = {view: round(counts[view] / len(tuned), 2) for view in HASHED_VIEWS}
    report["hashes an image"]["all"] = round(sum(counts.values()) / len(tuned), 2)
    chosen = [picture for _, path in numbered[:: max(1, len(numbered) // 40)] if (picture := opened(path)) is not None]
    lookalikes = [(family, stored(0, kind, encoded(picture))) for kind, family, picture in negatives(chosen)]
    report["edges between pictures that must not be merged"] = {
        "before": false_merges(lookalikes, partial(edges_of, rule=OLD, upright=True)),
        **{name: false_merges(lookalikes, edges_by) for name, edges_by in peers.items()},
        "whatever the colours": false_merges(lookalikes, partial(edges_of, rule=COLOUR_BLIND)),
        "shipped": false_merges(lookalikes, partial(edges_of, rule=shipped)),
    }
    common = [file for file in tuned if file.kind in COMMON | {ORIGINAL}]
    report["what speaks for a pair beyond 6 bits, tuned on, common versions"] = {
        name: quality(common, edges_by(common)) | {"must not be merged": false_merges(lookalikes, edges_by)}
        for name, edges_by in witnesses(embedder).items()
    }
    publish(report, options.json)


def _at(distance: int, views: Sequence[HashedView]) -> DedupSettings:
    return DedupSettings(views=tuple(views), max_hamming=distance, outer_bits=0)


def _without_inner2(rule: DedupSettings) -> DedupSettings:
    return rule.model_copy(update={"views": FEWER_VIEWS})


if __name__ == "__main__":
    main()
