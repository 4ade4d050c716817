"""Dates that are fetched and embedded before the warehouse is held for them: what comes of it is the same."""

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from demo.pictures import make_pictures
from jobs.backfill import main as backfill
from jobs.run import ahead
from jobs.run.nights import open_job, prepare_ahead, stage_ahead
from jobs.takedown import main as takedown
from jobs.warehouse.storage import Storage
from lensfeed.snapshot import Snapshot
from tests.e2e.small import DAYS, SmallWorld, small_world

FIRST, SECOND, THIRD = DAYS


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SmallWorld]:
    """Each date shows a picture of its own, one that all show, and a page that is gone; the last two share another."""
    with small_world(tmp_path) as small:
        small.settings = ["crawl.retries=0"]
        pictures = make_pictures()
        small.picture(pictures[0], DAYS, title="a picture of every day")
        small.picture(pictures[1], DAYS[1:], title="a picture of two days")
        for picture, date in zip(pictures[2:], DAYS, strict=False):
            small.picture(picture, [date], title=f"a picture of {date}")
            small.row(date, "/gone")
            small.write_manifest(date)
        small.site.date = FIRST
        yield small


def run(small: SmallWorld, warehouse: Path, *more: str) -> int:
    return backfill([*small.arguments(warehouse), "--start", str(FIRST), "--end", str(THIRD), *more])


def fetched_ahead(warehouse: Path) -> dict[dt.date, int]:
    """By date of the published nights."""
    events = Snapshot.open(str(warehouse)).rows("runs", ["event", "ingest_dates", "counts"]).to_pylist()
    return {
        event["ingest_dates"][0]: dict(event["counts"]).get("fetched_ahead", 0)
        for event in events
        if event["event"] == "published" and event["ingest_dates"]
    }


def requests(small: SmallWorld) -> Counter[str]:
    """How often each page was asked for so far."""
    return Counter(small.site.requests_on(FIRST))


def test_dates_fetched_in_parallel_come_out_as_one_by_one(
    world: SmallWorld, spark: SparkSession, tmp_path: Path, digest_of: Callable[[Path], dict[str, str]]
) -> None:
    one_by_one, parallel = tmp_path / "one_by_one", tmp_path / "parallel"
    assert run(world, one_by_one) == 0
    before = requests(world)
    assert run(world, parallel, "--parallel", "3") == 0
    assert digest_of(parallel) == digest_of(one_by_one)
    # The first date was run at once; of the others all was there, and nothing was asked for twice.
    assert fetched_ahead(parallel) == {FIRST: 0, SECOND: 4, THIRD: 4}
    assert requests(world) - before == before
    # What two dates have both embedded is stored once.
    stored = Snapshot.open(str(parallel)).rows("embeddings", ["image_id"]).column(0).to_pylist()
    assert len(stored) == len(set(stored)) == 5
    assert Storage(spark, str(parallel)).names(ahead.FOLDER) == []


def test_what_was_taken_down_meanwhile_is_not_taken_from_what_was_fetched_before(
    world: SmallWorld, spark: SparkSession, tmp_path: Path
) -> None:
    warehouse = tmp_path / "warehouse"
    arguments = world.arguments(warehouse)
    opened = open_job(arguments[1], arguments[3::2], crawlers=2)
    prepare_ahead(opened, "test")
    stage_ahead(opened, FIRST, force=False)
    storage = Storage(spark, str(warehouse))
    (kept,) = storage.names(ahead.FOLDER)
    stage_ahead(opened, FIRST, force=False)  # it is there already
    assert storage.names(ahead.FOLDER) == [kept]

    (path, *_) = world.answers
    assert takedown([*arguments, "--url", world.site.url(path), "--reference", "a letter"]) == 0
    assert storage.names(ahead.FOLDER) == []  # it holds pixels of what is to leave the disk
    before = requests(world)
    assert world.night(FIRST, warehouse) == 0
    assert fetched_ahead(warehouse) == {FIRST: 0}
    assert world.outcomes(warehouse)[str(FIRST), path] == "blocked"
    assert requests(world)[world.site.url(path)] == before[world.site.url(path)]
    assert storage.names(ahead.FOLDER) == []


def test_more_dates_than_connections_to_a_host_are_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--profile", "conf/local.yaml", "--start", str(FIRST), "--end", str(THIRD)]
    assert backfill([*given, "--parallel", "9"]) == 2
    assert "crawl.per_host_concurrency allows 8" in capsys.readouterr().err
    assert backfill([*given, "--parallel", "0"]) == 2
    assert "--parallel 0: expected 1 or more dates at a time" in capsys.readouterr().err
