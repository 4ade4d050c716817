"""Small warehouses of real pictures, canonical, embedded and described by the job's own code, without Spark."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from jobs.config.profile import load
from jobs.warehouse.golden import golden_of_images, golden_of_texts
from jobs.warehouse.storage import Storage
from schemas.settings import CrawlSettings
from tests.lensfeed.tiny_warehouse import TinyWarehouse, feed_row, image_row, member_row
from tests.pictures import encoded, photograph
from udfs.embedding.embed import embed_batches, model_version
from udfs.embedding.text import embed_text_batches, text_model_version
from udfs.images.canonical import canonical_version, canonicalise

ASSETS = Path(__file__).parents[2] / ".assets"
_CONFIG = load("conf/local.yaml")
SIDE = 128

SUBJECTS = {
    "astronaut.png": "an astronaut in an orange suit",
    "chelsea.png": "a tabby cat",
    "coffee.png": "a cup of coffee",
    "rocket.jpg": "a rocket on its launch pad",
    "china.jpg": "a temple in China",
    "flower.jpg": "a red flower",
}


@dataclass(frozen=True)
class Shown:
    """A picture of the warehouse, as a page shows it."""

    file: bytes
    title: str
    pixels: bytes
    vector: list[float]
    text_vector: list[float]

    @property
    def image_id(self) -> str:
        return sha256(self.file).hexdigest()

    @property
    def feed_id(self) -> int:
        return int(self.image_id[:16], 16) >> 1


@cache
def pictures() -> tuple[Shown, ...]:
    """Four squares of each photograph, embedded as the job embeds."""
    files, titles = [], []
    for name, subject in SUBJECTS.items():
        image = photograph(name)
        for number in range(4):
            left, top = (number % 2) * SIDE + 40, (number // 2) * SIDE
            files.append(encoded(image.crop((left, top, left + SIDE, top + SIDE)), "PNG"))
            titles.append(f"{subject}, part {number}")
    pixels = [canonicalise(file, _CONFIG.images, CrawlSettings()).pixels for file in files]
    ids = [str(number) for number in range(len(files))]
    batch = pa.RecordBatch.from_pydict({"image_id": ids, "pixels": pa.array(pixels, pa.binary())})
    texts = pa.RecordBatch.from_pydict({"text_id": ids, "text": titles})
    vectors = [v for b in embed_batches([batch], _CONFIG.embedding) for v in b.column("vector").to_pylist()]
    spoken = [v for b in embed_text_batches([texts], _CONFIG.text) for v in b.column("vector").to_pylist()]
    return tuple(Shown(*row) for row in zip(files, titles, pixels, vectors, spoken, strict=True))


def versions() -> dict[str, str]:
    """Of what embeds, as a run is published under them."""
    canonical = canonical_version(_CONFIG.images)
    return {
        "canonical_version": canonical,
        "model_version": model_version(_CONFIG.embedding, canonical),
        "text_model_version": text_model_version(_CONFIG.text),
    }


def row(shown: Shown, **given: Any) -> dict[str, Any]:
    """The picture's row of `index_feed`; its digest is that of what is given."""
    made = {name: version for name, version in versions().items() if name != "canonical_version"} | {
        "feed_id": shown.feed_id,
        "image_id": shown.image_id,
        "vector": shown.vector,
        "text_vector": shown.text_vector,
        "has_text": True,
        "title": shown.title,
    }
    digest = sha256(repr((shown.feed_id, sorted(given.items()))).encode()).hexdigest()
    return feed_row(0, **made | {"row_digest": digest} | given)


def write(warehouse: TinyWarehouse, shown: Sequence[Shown]) -> None:
    """Insert pictures, with what stands behind their rows, and what the models are."""
    warehouse.write("index_feed", [row(one) for one in shown])
    warehouse.write("images", [image_row(0) | {"image_id": one.image_id, "pixels": one.pixels} for one in shown])
    url = "https://pictures.example/{}.png".format
    ids = {"representative_id": "", "image_id": ""}
    warehouse.write(
        "feed_members", [member_row(0, 0, url(one.feed_id)) | dict.fromkeys(ids, one.image_id) for one in shown]
    )
    storage = cast("Storage", _Files(warehouse.root))
    golden_of_images(storage, _CONFIG.embedding, versions()["model_version"])
    golden_of_texts(storage, _CONFIG.text, versions()["text_model_version"])


@dataclass(frozen=True)
class _Files:
    """What `jobs.warehouse.golden` needs of a storage, without Spark."""

    root: Path

    def exists(self, *place: str) -> bool:
        return self.root.joinpath(*place).exists()

    def read_text(self, *place: str) -> str:
        return self.root.joinpath(*place).read_text()

    def create_text(self, text: str, *place: str) -> None:
        self.root.joinpath(*place).parent.mkdir(exist_ok=True)
        self.root.joinpath(*place).write_text(text)
