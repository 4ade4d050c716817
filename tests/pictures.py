"""Real photographs for tests: those inside the wheels of scikit-image and scikit-learn."""

import importlib.util
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import Image

PHOTOGRAPHS = {
    "skimage": [
        *("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png"),
        *("retina.jpg", "rocket.jpg", "camera.png", "coins.png", "brick.png", "gravel.png", "page.png"),
    ],
    "sklearn": ["china.jpg", "flower.jpg"],
}
_FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}


@cache
def photograph(name: str) -> Image.Image:
    """One photograph by file name, RGB; not to be changed in place."""
    package = next(package for package, names in PHOTOGRAPHS.items() if name in names)
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    with Image.open(Path(found.origin).parent / _FOLDERS[package] / name) as image:
        return image.convert("RGB")


def names() -> list[str]:
    """The file names of all photographs."""
    return [name for group in PHOTOGRAPHS.values() for name in group]


def crops(side: int) -> Iterator[Image.Image]:
    """All photographs cut into squares of `side` pixels that do not overlap."""
    for name in names():
        image = photograph(name)
        for top in range(0, image.height - side + 1, side):
            for left in range(0, image.width - side + 1, side):
                yield image.crop((left, top, left + side, top + side))


def encoded(image: Image.Image, image_format: str = "JPEG", **options: object) -> bytes:
    """The image as a file of this format."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
