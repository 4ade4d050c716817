"""A published warehouse with pictures, and with what hostile pages would put into a report."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.config.profile import Config, load
from tests.lensfeed.tiny_warehouse import DAY, TinyWarehouse, feed_row, image_id, image_row, member_row
from udfs.gate.content import gate_version

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    'x" onload="alert(1)" y=\'',
    "</title></style><h1>owned</h1>",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "invoice\u202egnp.exe \u2066\u200f\x00\x1b[2J",
    "javascript:alert(1)//http://pictures.example/",
    "&lt;b&gt; &amp; <b>bold</b>",
)
"""Titles of the images from 0; their URLs and hosts hold them too."""
LIVE, WITHDRAWN = 20, 20
"""Images from 0 to LIVE - 1 are in the feed or behind a representative there; the one after them is stored only."""


def colour(number: int) -> tuple[int, int, int]:
    """Of an image's picture: the withdrawn one's is like no other's."""
    return (250, 0, 250) if number == WITHDRAWN else (20 + 10 * number, 220 - 10 * number, 40)


def jpeg(number: int) -> bytes:
    """A plain picture in the image's colour."""
    data = io.BytesIO()
    Image.new("RGB", (96, 64), colour(number)).save(data, "JPEG", quality=95)
    return data.getvalue()


def title(number: int) -> str:
    """What the image is called."""
    return HOSTILE[number] if number < len(HOSTILE) else f"picture {number}"


def url(number: int) -> str:
    """Where the image is shown."""
    return f"https://pictures.example/{number}?{title(number)}"


def sighting_row(number: int, **given: Any) -> dict[str, Any]:
    """A row of `sightings`, accepted."""
    row = {
        "ingest_date": DAY,
        "source_file": "a.jsonl",
        "row_number": number,
        "url": url(number),
        "title": title(number),
        "url_id": hashlib.sha256(url(number).encode()).hexdigest(),
        "host": "pictures.example" if number % 2 else f"h{number}.{title(number)}",
        "outcome": "accepted",
        "failure_code": None,
        "reasons": [],
        "image_id": image_id(number),
        "not_modified": False,
        "state_effect": "content",
        "policy_version": "policy-1",
        "run_id": "run",
    }
    return row | given


def cluster_row(head: int, number: int) -> dict[str, Any]:
    """A row of `clusters`."""
    return {
        "image_id": image_id(number),
        "rule_version": "rule-1",
        "representative_id": image_id(head),
        "hamming": number - head,
        "hamming256": 10 * (number - head),
        "group_id": f"{number:032x}",
        "first_seen": DAY,
        "source_pixels": 1024 * 768,
    }


def head_of(number: int) -> int:
    """Clusters of four: the first of each stands for the others."""
    return number - number % 4


@pytest.fixture
def settings(tmp_path: Path) -> Callable[[], Config]:
    """The configuration under which the warehouse is read."""
    return lambda: load("conf/local.yaml", [f"warehouse={tmp_path / 'warehouse'}"])


@pytest.fixture
def filled(tmp_path: Path, settings: Callable[[], Config]) -> TinyWarehouse:
    """Two published nights; the second one's images 12 to 19 came in files of their own."""
    warehouse = TinyWarehouse(tmp_path / "warehouse")
    gate = gate_version(settings().policy)
    for first, last in ((0, 12), (12, LIVE)):
        numbers = range(first, last)
        heads = [number for number in numbers if head_of(number) == number]
        warehouse.write("images", [image_row(number) | {"pixels": jpeg(number)} for number in numbers])
        warehouse.write("sightings", [sighting_row(number) for number in numbers])
        warehouse.write(
            "index_feed",
            [feed_row(n, title=title(n), language="en" if n else "it", tokens=[], member_count=4) for n in heads],
        )
        warehouse.write(
            "feed_members",
            [
                member_row(head_of(n), n, url(n), title=title(n), domain=title(n), hamming=n - head_of(n))
                for n in numbers
            ],
        )
        warehouse.write("clusters", [cluster_row(head_of(number), number) for number in numbers])
        scores = [[("nsfw:center", number / 20), ("nsfw:plain", 0.01)] for number in numbers]
        warehouse.write(
            "content_signals",
            [
                {"image_id": image_id(n), "detector_version": gate, "scores": score, "run_id": "run"}
                for n, score in zip(numbers, scores, strict=True)
            ],
        )
        if first:
            warehouse.write("images", [image_row(WITHDRAWN) | {"pixels": jpeg(WITHDRAWN)}])
            held_back = {"outcome": "blocked", "reasons": ["nsfw"], "image_id": image_id(WITHDRAWN)}
            warehouse.write("sightings", [sighting_row(WITHDRAWN, **held_back)])
        warehouse.event(
            f"run-{first}",
            "published",
            inputs_digest="digest",
            counts=[
                ("sightings", 10),
                ("urls", 9),
                ("embedded", 7),
                ("outcome.accepted", 8),
                ("outcome.failed", 2),
                ("failed.dns", 1),
                ("failed.gone", 1),
                ("changed.index_feed", 3),
            ],
            metrics=[("seconds.crawl and gate", 4.5), ("seconds.embed", 0.5), ("seconds.staging", 6.0)],
        )
    return warehouse
