"""What nothing that is live needs is collected, the feed stays as it is, and what is shown again comes back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from demo.pictures import ORIGINAL
from demo.site import show
from jobs import maintain, nightly, rollback, takedown
from lensfeed.snapshot import Snapshot
from schemas.tables import TABLES
from tests.e2e.conftest import World
from tests.e2e.small import DAYS, SmallWorld, contents_on_disk, small_world

pytestmark = pytest.mark.spark

FIRST, SECOND, THIRD = DAYS
DERIVED = ("clusters", "feed_members", "index_feed", "url_state")


@pytest.fixture
def small(world: World, tmp_path: Path) -> Iterator[SmallWorld]:
    """A URL that shows another image on the second date, and the first one's again on the third; one that stays."""
    stays, before, after = [p for p in world.pictures if p.variant == ORIGINAL][:45:15]
    folder = tmp_path / "world"
    folder.mkdir()
    with small_world(folder) as made:
        made.page("/stays.jpg", show(stays))
        made.page("/changes.jpg", lambda day, _: show(after if day == SECOND else before))
        made.row(FIRST, "/stays.jpg", title="It stays")
        for day in DAYS:
            made.row(day, "/changes.jpg", title="It changes")
        yield made


def rows(warehouse: Path) -> dict[str, list[dict[str, Any]]]:
    snapshot = Snapshot.open(str(warehouse))
    dropped = {name: [c.name for c in TABLES[name].columns if c.volatile] for name in DERIVED}
    read = {name: snapshot.rows(name).drop_columns(dropped[name]).to_pylist() for name in DERIVED}
    return {name: sorted(found, key=repr) for name, found in read.items()}


def contents(warehouse: Path, table: str) -> set[str]:
    return set(Snapshot.open(str(warehouse)).rows(table, ["image_id"])["image_id"].to_pylist())


def test_what_no_url_shows_any_more_is_collected_and_comes_back_with_its_pixels(
    spark: SparkSession, small: SmallWorld, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = tmp_path / "warehouse"
    assert small.night(FIRST, warehouse) == 0
    shown_first = contents(warehouse, "images")
    assert small.night(SECOND, warehouse) == 0
    second = Snapshot.open(str(warehouse)).run_id
    stored, feed = contents(warehouse, "images"), rows(warehouse)
    (superseded,) = stored - {row["image_id"] for row in feed["clusters"]}
    assert superseded in shown_first
    arguments = small.arguments(warehouse)

    assert maintain.main([*arguments, "--retention-hours", "0"]) == 0  # not unasked
    assert contents(warehouse, "images") == stored
    capsys.readouterr()
    assert maintain.main([*arguments, "--collect", "--dry-run"]) == 0
    assert "to collect: 1 contents that no URL shows, 0 vectors of images and 0 of texts" in capsys.readouterr().out
    assert contents(warehouse, "images") == stored

    assert maintain.main([*arguments, "--retention-hours", "0", "--collect"]) == 0
    assert contents(warehouse, "images") == contents(warehouse, "embeddings") == stored - {superseded}
    assert contents_on_disk(warehouse) == stored - {superseded}
    assert rows(warehouse) == feed
    events = Snapshot.open(str(warehouse)).run_id
    assert maintain.main([*arguments, "--retention-hours", "0", "--collect"]) == 0
    assert Snapshot.open(str(warehouse)).run_id == events  # there was nothing left

    # A URL that is asked brings it.
    assert small.night(THIRD, warehouse) == 0
    assert superseded in contents(warehouse, "images") & contents(warehouse, "embeddings")
    assert superseded in {row["image_id"] for row in rows(warehouse)["clusters"]}

    # Where nobody asks, as here where a date is taken back, it is owed; and whoever pays that asks.
    (after,) = contents(warehouse, "images") - shown_first
    assert maintain.main([*arguments, "--collect"]) == 0
    assert after not in contents(warehouse, "images")
    assert rollback.main([*arguments, "--to", second]) == 0
    assert after not in {row["image_id"] for row in rows(warehouse)["clusters"]}
    small.site.date = SECOND
    assert nightly.main([*arguments, "--date", str(FIRST)]) == 0  # published: only what is owed is asked for
    assert rows(warehouse) == feed


def test_what_was_collected_and_is_taken_down_then_leaves_the_disk_with_the_takedown(
    spark: SparkSession, small: SmallWorld, tmp_path: Path
) -> None:
    """It is in no table any more, but for a while in their old files; and nothing was said of it that were erased."""
    for day in DAYS:
        small.rows[day] = [{"url": row["url"]} for row in small.rows[day]]
    warehouse = tmp_path / "warehouse"
    assert small.night(FIRST, warehouse) == small.night(SECOND, warehouse) == 0
    arguments = small.arguments(warehouse)
    (superseded,) = contents(warehouse, "images") - contents(warehouse, "clusters")
    assert maintain.main([*arguments, "--collect"]) == 0
    assert superseded not in contents(warehouse, "images")
    assert superseded in contents_on_disk(warehouse)  # whoever reads an older run goes on
    assert takedown.main([*arguments, "--reference", "CASE", "--image", superseded]) == 0
    assert contents_on_disk(warehouse) == contents(warehouse, "images")
