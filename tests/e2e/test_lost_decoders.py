"""A decoder that really dies, inside a night: it costs its row, is remembered, and is not met again."""

import datetime as dt
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from pyspark.sql import SparkSession

from demo.site import Answer
from lensfeed.snapshot import Snapshot
from tests.e2e.conftest import World
from tests.e2e.small import DAYS, SmallWorld, small_world

# Slow, until it is known why it failed once: see "Missed, and left" in docs/measurements.md.
pytestmark = [pytest.mark.spark, pytest.mark.slow]

FIRST = DAYS[0]
DEADLY = "/deadly.jpg"
DETAIL = "decoder lost: SIGSEGV"


@pytest.fixture
def small(world: World, tmp_path: Path) -> Iterator[SmallWorld]:
    with small_world(tmp_path) as made:
        yield made


@pytest.fixture
def deadly_decoder(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the executors' Python find `tests/deadly_decoder` first: planted pictures then end whoever decodes them."""
    folder = Path(__file__).parent.parent / "deadly_decoder"
    monkeypatch.setitem(spark.sparkContext.environment, "PYTHONPATH", f"{folder}{os.pathsep}{Path.cwd()}")


def test_a_picture_that_kills_its_decoder_costs_its_row_and_not_the_night(
    deadly_decoder: None,
    world: World,
    small: SmallWorld,
    tmp_path: Path,
    digest_of: Callable[[Path], dict[str, str]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    del deadly_decoder
    warehouse = tmp_path / "warehouse"
    good = small.picture(world.pictures[0], [FIRST])
    planted = io.BytesIO()
    Image.new("RGB", (200, 100), "teal").save(planted, "JPEG", comment=b"PLANTED: crash")
    small.page(DEADLY, Answer(body=planted.getvalue()))
    small.row(FIRST, DEADLY)
    assert small.night(FIRST, warehouse) == 0
    assert small.outcomes(warehouse) == {(str(FIRST), good): "accepted", (str(FIRST), DEADLY): "failed decode"}
    assert details(warehouse) == {str(FIRST): DETAIL}
    (kept,) = Snapshot.open(str(warehouse)).rows("quarantine", ["image_id", "detail"]).to_pylist()
    assert kept["detail"] == DETAIL
    assert asked(small, DEADLY) == {FIRST: 2}, "by the attempt that died, and by the one that isolated"

    # Whoever meets it again does not show it to a decoder.
    small.site.requests.clear()
    before = digest_of(warehouse)
    assert small.night(FIRST, warehouse, "--force") == 0
    assert digest_of(warehouse) == before
    assert details(warehouse) == {str(FIRST): DETAIL}
    assert asked(small, DEADLY) == {FIRST: 1}
    assert len(Snapshot.open(str(warehouse)).rows("quarantine", ["image_id"]).to_pylist()) == 1
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "\tat org.apache.spark" not in said


def details(warehouse: Path) -> dict[str, str]:
    rows = Snapshot.open(str(warehouse)).rows("sightings", ["ingest_date", "url", "failure_detail"]).to_pylist()
    return {str(row["ingest_date"]): row["failure_detail"] for row in rows if row["url"].endswith(DEADLY)}


def asked(small: SmallWorld, path: str) -> dict[dt.date, int]:
    return {date: count for (date, url), count in small.site.requests.items() if url.endswith(path)}
