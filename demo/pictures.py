"""Real pictures with known relations: tiles of photographs that do not overlap, and near-duplicates made of them.

The photographs are those inside the wheels of scikit-image and scikit-learn. Left out are the second picture of the
stereo pair (a near-duplicate by nature), drawings and patterns, and the retina, whose skin tones a nudity detector
rightly finds hard. Bytes are the same on every run with the same Pillow.
"""

import importlib.util
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from udfs.images.phash import hash_small, oriented_hashes

TILE_SIDE = 256
"""Shorter side of a tile in pixels: the photographs are too small for 150 tiles of that size, so tiles are enlarged."""

MIN_CONTRAST = 12.0
"""Standard deviation of the luminance in grey levels; skies and walls are below."""

MIN_GRADIENT = 30
"""`udfs.images.phash.OrientedHashes.quality`; blurred backgrounds are below, and have hardly anything to hash."""

ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Photograph:
    """A picture file of an installed package, and the grid it is cut along."""

    package: str
    file: str
    columns: int
    rows: int
    name: str
    subject: str
    tags: tuple[str, ...]

    def open(self) -> Image.Image:
        """The whole photograph as RGB. Raises FileNotFoundError where the package is not installed."""
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:
            raise FileNotFoundError(f"package {self.package} is not installed: the demo takes {self.file} from it")
        with Image.open(Path(found.origin).parent / self.file) as image:
            return image.convert("RGB")

    def boxes(self, size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """The grid's cells (left, top, right, bottom) on a picture of this width and height: they share no pixel."""
        width, height = size[0] // self.columns, size[1] // self.rows
        corners = [(column * width, row * height) for row in range(self.rows) for column in range(self.columns)]
        return [(left, top, left + width, top + height) for left, top in corners]


PHOTOGRAPHS = (
    Photograph("skimage", "data/astronaut.png", 4, 4, "astronaut", "Portrait of an astronaut", ("people", "space")),
    Photograph("skimage", "data/brick.png", 3, 3, "brick", "Brick wall", ("texture", "building")),
    Photograph("skimage", "data/camera.png", 4, 4, "cameraman", "Man with a film camera", ("people", "lawn")),
    Photograph("skimage", "data/chelsea.png", 3, 2, "cat", "Chelsea the cat", ("animal", "cat")),
    Photograph("skimage", "data/coffee.png", 4, 3, "coffee", "Cup of espresso", ("drink", "table")),
    Photograph("skimage", "data/coins.png", 3, 2, "coins", "Ancient coins", ("museum", "coins")),
    Photograph("skimage", "data/grass.png", 3, 3, "grass", "Grass seen from above", ("texture", "plants")),
    Photograph("skimage", "data/gravel.png", 3, 3, "gravel", "Gravel seen from above", ("texture", "stone")),
    Photograph("skimage", "data/hubble_deep_field.jpg", 5, 4, "galaxies", "Hubble deep field", ("space", "galaxies")),
    Photograph("skimage", "data/ihc.png", 4, 4, "tissue", "Stained tissue under a microscope", ("medicine",)),
    Photograph("skimage", "data/motorcycle_left.png", 5, 4, "motorcycle", "Motorcycle in a garage", ("vehicle",)),
    Photograph("skimage", "data/rocket.jpg", 4, 3, "rocket", "Rocket on its launch pad", ("space", "night")),
    Photograph(
        "sklearn", "datasets/images/china.jpg", 4, 3, "palace", "Summer Palace in Beijing", ("building", "china")
    ),
    Photograph("sklearn", "datasets/images/flower.jpg", 4, 3, "dahlia", "Dahlia in a garden", ("plants", "flower")),
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One file as a web server would hold it, and where it comes from: the ground truth of deduplication.

    Attributes:
        name: unique; the original's name, with the variant's behind it.
        original: name of the picture it is a copy of; its own where it is an original.
        variant: `ORIGINAL` or a key of `VARIANTS`.
        data: the file.
        content_type: its media type.
        caption: what it shows.
        tags: further words.
    """

    name: str
    original: str
    variant: str
    data: bytes
    content_type: str
    caption: str
    tags: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """The name with the ending that its type has."""
        return f"{self.name}.{self.content_type.removeprefix('image/').replace('jpeg', 'jpg')}"


def encode(image: Image.Image, media_type: str = "image/jpeg", quality: int = 92) -> bytes:
    """The image as a file of this type; `quality` (1 to 100) is for JPEG and WebP."""
    options = {} if media_type == "image/png" else {"quality": quality}
    buffer = io.BytesIO()
    image.save(buffer, media_type.removeprefix("image/"), **options)
    return buffer.getvalue()


def _half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def _captioned(image: Image.Image) -> Image.Image:
    """A bar of text over the lowest eighth, as sites that share pictures add."""
    bar = image.height // 8
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    draw.rectangle((0, image.height - bar, image.width, image.height), fill="black")
    font = ImageFont.load_default(bar * 0.6)
    draw.text((bar // 2, image.height - bar // 2), "found on pictures.example", "white", font, anchor="lm")
    return drawn


VARIANTS: dict[str, tuple[Callable[[Image.Image], bytes], str]] = {
    "jpeg30": (lambda image: encode(image, quality=30), "image/jpeg"),
    "half": (lambda image: encode(_half(image)), "image/jpeg"),
    "grey": (lambda image: encode(ImageOps.grayscale(image)), "image/jpeg"),
    "jpeg50": (lambda image: encode(image, quality=50), "image/jpeg"),
    "brighter": (lambda image: encode(ImageEnhance.Brightness(image).enhance(1.15)), "image/jpeg"),
    "mirrored": (lambda image: encode(ImageOps.mirror(image)), "image/jpeg"),
    "jpeg70": (lambda image: encode(image, quality=70), "image/jpeg"),
    "png": (lambda image: encode(image, "image/png"), "image/png"),
    "darker": (lambda image: encode(ImageEnhance.Brightness(image).enhance(0.87)), "image/jpeg"),
    "webp": (lambda image: encode(image, "image/webp", 80), "image/webp"),
    "captioned": (lambda image: encode(_captioned(image)), "image/jpeg"),
    "jpeg90": (lambda image: encode(image, quality=90), "image/jpeg"),
}
"""How near-duplicates are made of an original's pixels, and of what media type they are."""

HARD_VARIANTS = frozenset({"captioned"})
"""Variants whose fate is reported; all others are near-duplicates that must be found."""

_VARIANTS_IN_TURN = (2, 1, 2, 0)
"""Variants that an original gets, over and over: some have none, so that not everything is a cluster."""


@cache
def make_pictures() -> tuple[Picture, ...]:
    """All pictures: originals, each followed by its variants."""
    kinds = list(VARIANTS)
    pictures: list[Picture] = []
    made = 0
    for position, (name, tile, photograph) in enumerate(_tiles()):
        wanted = _VARIANTS_IN_TURN[position % len(_VARIANTS_IN_TURN)]
        chosen = [kinds[(made + step) % len(kinds)] for step in range(wanted)]
        made += wanted
        caption = f"{photograph.subject}, detail {name.rpartition('-')[2]}"
        pictures.append(Picture(name, name, ORIGINAL, encode(tile), "image/jpeg", caption, photograph.tags))
        for kind in chosen:
            make, media_type = VARIANTS[kind]
            pictures.append(
                Picture(f"{name}-{kind}", name, kind, make(tile), media_type, f"{caption} ({kind})", photograph.tags)
            )
    return tuple(pictures)


def _tiles() -> Iterator[tuple[str, Image.Image, Photograph]]:
    """Every tile with something to see, its name and its photograph; tiles share no pixel."""
    for photograph in PHOTOGRAPHS:
        whole = photograph.open()
        for number, box in enumerate(photograph.boxes(whole.size)):
            tile = _enlarged(whole.crop(box))
            if _has_content(tile):
                yield f"{photograph.name}-{number:02d}", tile, photograph


def _enlarged(tile: Image.Image) -> Image.Image:
    scale = max(1.0, TILE_SIDE / min(tile.size))
    return tile.resize((round(tile.width * scale), round(tile.height * scale)), Image.Resampling.BICUBIC)


def _has_content(tile: Image.Image) -> bool:
    gradient = oriented_hashes(tile, ("phash256",)).quality
    assert gradient is not None
    return hash_small(tile.convert("L")).flatness >= MIN_CONTRAST and gradient >= MIN_GRADIENT
