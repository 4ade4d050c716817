"""Another rule of what near-duplicates are, over what is stored: as if the nights had been under it."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from demo.pictures import make_pictures
from jobs import rededup
from jobs.digest import table_digests
from jobs.stages.crawl import crawl_and_gate
from jobs.warehouse.landing import Landing
from lensfeed.snapshot import Snapshot
from tests.e2e.small import DAYS, SmallWorld, small_world
from udfs.images.phash import HASH_BYTES, VIEWS_REVISION

pytestmark = pytest.mark.spark

FIRST, SECOND, _ = DAYS
STRICT = ("dedup.max_hamming=0", "dedup.max_hamming256=0", "dedup.bands=4")
"""Only equal hashes are duplicates; other bands, too."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWorld]:
    """Images with copies: some near, some not by the strict rule; one date, or two."""
    with small_world(tmp_path_factory.mktemp("world")) as made:
        made.settings = ["crawl.retries=0"]
        for number, picture in enumerate(make_pictures()[:8]):
            made.picture(picture, [FIRST, SECOND] if number % 3 else [SECOND], title=f"Number {number}")
        yield made


def members(warehouse: Path) -> int:
    """Images that stand behind another one."""
    rows = Snapshot.open(str(warehouse)).rows("clusters", ["image_id", "representative_id"]).to_pylist()
    return sum(row["image_id"] != row["representative_id"] for row in rows)


def switch(small: SmallWorld, warehouse: Path, *settings: str) -> int:
    return rededup.main(small.arguments(warehouse, *settings))


@pytest.mark.slow  # with the next
def test_a_switched_warehouse_is_as_if_it_had_always_been_under_the_rule(
    spark: SparkSession, small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loose, strict = tmp_path / "loose", tmp_path / "strict"
    assert small.night(FIRST, loose) == 0
    assert small.night(FIRST, strict, settings=STRICT) == 0
    was = table_digests(Landing(spark, str(loose)))
    wanted = table_digests(Landing(spark, str(strict)))
    assert members(loose) > members(strict)

    assert small.night(SECOND, loose, settings=STRICT) == 2
    assert "python -m jobs.rededup" in capsys.readouterr().err
    assert table_digests(Landing(spark, str(loose))) == was

    assert switch(small, loose, *STRICT) == 0
    assert table_digests(Landing(spark, str(loose))) == wanted
    run_id = Snapshot.open(str(loose)).run_id
    assert switch(small, loose, *STRICT) == 0
    assert Snapshot.open(str(loose)).run_id == run_id

    # Nights go on under it, and back is as good as never gone.
    assert small.night(SECOND, strict, settings=STRICT) == 0
    assert small.night(SECOND, loose, settings=STRICT) == 0
    assert table_digests(Landing(spark, str(loose))) == table_digests(Landing(spark, str(strict)))


def test_images_that_an_earlier_release_hashed_are_hashed_anew_of_their_pixels(
    spark: SparkSession, small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if all had been hashed by this one; `images` keeps the old hashes, which nothing goes by any more."""

    def digests(warehouse: Path) -> dict[str, str]:
        found = table_digests(Landing(spark, str(warehouse)))
        del found["images"]
        return found

    def hashed_of_old(*given: Any, **named: Any) -> DataFrame:
        """Whatever there is to see, of each view all hashes are equal."""
        one = partial(f.substring, len=1)
        return crawl_and_gate(*given, **named).withColumn(
            "view_hashes", f.transform("view_hashes", lambda view: f.concat(one(view, 1), f.lit(bytes(HASH_BYTES - 1))))
        )

    older, newer = tmp_path / "older", tmp_path / "newer"
    with pytest.MonkeyPatch.context() as release:
        release.setattr("udfs.images.phash.VIEWS_REVISION", VIEWS_REVISION - 1)
        release.setattr("jobs.run.contents.VIEWS_REVISION", VIEWS_REVISION - 1)
        release.setattr("jobs.run.contents.crawl_and_gate", hashed_of_old)
        assert small.night(FIRST, older) == 0
    assert small.night(FIRST, newer) == 0
    assert members(older) > members(newer)
    stored = Snapshot.open(str(older)).rows("images", ["views_revision"])["views_revision"].to_pylist()
    assert set(stored) == {VIEWS_REVISION - 1}

    assert small.night(SECOND, older) == 2
    assert "python -m jobs.rededup" in capsys.readouterr().err
    assert switch(small, older) == 0
    assert digests(older) == digests(newer)
    for warehouse in (older, newer):  # with images of the first night that are looked at again
        assert small.night(SECOND, warehouse) == 0
    assert digests(older) == digests(newer)


@pytest.mark.slow
def test_back_is_as_if_never_gone(spark: SparkSession, small: SmallWorld, tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse"
    assert small.night(FIRST, warehouse) == 0
    was = table_digests(Landing(spark, str(warehouse)))
    assert switch(small, warehouse, *STRICT) == 0
    assert table_digests(Landing(spark, str(warehouse))) != was
    assert switch(small, warehouse) == 0
    assert table_digests(Landing(spark, str(warehouse))) == was


def test_there_is_nothing_to_group_where_nothing_was_published(
    small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert switch(small, tmp_path / "none") == 1
    assert "no published run" in capsys.readouterr().err
