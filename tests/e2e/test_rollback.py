"""What a rollback leaves is what there was, under what holds now; dates that it took back can be published again."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from demo.pictures import ORIGINAL, Picture
from demo.site import Answer, show
from jobs import rollback, takedown
from jobs.config.progress import log
from lensfeed.snapshot import Snapshot
from tests.e2e.conftest import World
from tests.e2e.small import DAYS, SmallWorld, contents_on_disk, small_world

pytestmark = pytest.mark.spark

FIRST, SECOND, THIRD = DAYS
Digest = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="module")
def originals(world: World) -> list[Picture]:
    """Images that have nothing to do with each other."""
    return [p for p in world.pictures if p.variant == ORIGINAL][:75:15]


@pytest.fixture
def small(originals: list[Picture], tmp_path: Path) -> Iterator[SmallWorld]:
    """Two dates with one URL in common; on the first a page that fails, too; each has an image of its own."""
    with small_world(tmp_path / "world") as made:
        made.settings = ["crawl.retries=0"]
        made.page("/both.jpg", show(originals[0]))
        made.page("/ill.jpg", Answer(500))
        made.page("/second.jpg", show(originals[1]))
        made.row(FIRST, "/both.jpg", title="Seen first")
        made.page("/first.jpg", show(originals[4]))
        made.row(FIRST, "/ill.jpg", title="Ill")
        made.row(FIRST, "/first.jpg", title="The first")
        made.row(SECOND, "/both.jpg", title="Seen again")
        made.row(SECOND, "/second.jpg", title="The second")
        yield made


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    (tmp_path / "world").mkdir()
    return tmp_path


def roll_back(small: SmallWorld, warehouse: Path, run_id: str, *more: str) -> int:
    return rollback.main([*small.arguments(warehouse), "--to", run_id, *more])


def newest(warehouse: Path) -> str:
    return Snapshot.open(str(warehouse)).run_id


def test_dates_that_came_since_are_taken_back_and_can_be_published_again(
    spark: SparkSession, small: SmallWorld, tmp_path: Path, digest_of: Digest, caplog: pytest.LogCaptureFixture
) -> None:
    warehouse = tmp_path / "warehouse"
    assert small.night(FIRST, warehouse) == 0
    first, of_first = newest(warehouse), digest_of(warehouse)
    assert small.night(SECOND, warehouse) == 0
    second, of_both = newest(warehouse), digest_of(warehouse)
    assert of_both != of_first

    assert roll_back(small, warehouse, first, "--dry-run") == 0
    assert newest(warehouse) == second
    assert digest_of(warehouse) == of_both
    assert roll_back(small, warehouse, "20260101T000000-00000000") == 2
    assert newest(warehouse) == second

    assert roll_back(small, warehouse, first) == 0
    assert digest_of(warehouse) == of_first
    back = newest(warehouse)
    log.propagate = True
    assert roll_back(small, warehouse, first) == 0
    assert "nothing was brought since" in caplog.text
    assert newest(warehouse) == back
    kept = set(Snapshot.open(str(warehouse)).rows("images", ["image_id"])["image_id"].to_pylist())
    assert contents_on_disk(warehouse) == kept

    assert small.night(SECOND, warehouse) == 0
    assert digest_of(warehouse) == of_both


@pytest.mark.slow  # the random sequences go there, too
def test_what_was_taken_back_can_be_gone_to(
    spark: SparkSession, small: SmallWorld, tmp_path: Path, digest_of: Digest
) -> None:
    warehouse = tmp_path / "warehouse"
    assert small.night(FIRST, warehouse) == 0
    first = newest(warehouse)
    assert small.night(SECOND, warehouse) == 0
    second, of_both = newest(warehouse), digest_of(warehouse)
    assert roll_back(small, warehouse, first) == 0
    assert roll_back(small, warehouse, second) == 0
    assert small.outcomes(warehouse)[str(SECOND), "/second.jpg"] == "accepted"
    small.site.date = SECOND
    assert small.night(FIRST, warehouse) == 0  # published: only what is owed is asked for
    assert digest_of(warehouse) == of_both


def test_dates_done_again_get_what_they_had_under_what_holds_now(
    spark: SparkSession, small: SmallWorld, originals: list[Picture], tmp_path: Path, digest_of: Digest
) -> None:
    warehouse, plain = tmp_path / "warehouse", tmp_path / "plain"
    assert small.night(FIRST, warehouse) == 0
    assert small.night(SECOND, warehouse) == 0
    target = newest(warehouse)
    # Both again, with other bytes and another row; what failed is there by now; an image is not wanted.
    small.page("/both.jpg", show(originals[2]))
    small.page("/first.jpg", show(originals[2]))
    small.page("/ill.jpg", show(originals[3]))
    small.row(FIRST, "/second.jpg", title="Not of that day")
    assert small.night(FIRST, warehouse, "--force") == 0
    assert small.night(SECOND, warehouse, "--force") == 0
    asked = ["--url", small.site.url("/second.jpg"), "--reference", "CASE-1"]
    assert takedown.main([*small.arguments(warehouse), *asked]) == 0
    assert small.outcomes(warehouse)[str(FIRST), "/ill.jpg"] == "accepted"

    assert roll_back(small, warehouse, target) == 0
    assert small.outcomes(warehouse) == {
        (str(FIRST), "/both.jpg"): "accepted",
        (str(FIRST), "/ill.jpg"): "failed http_5xx",
        (str(FIRST), "/first.jpg"): "accepted",
        (str(SECOND), "/both.jpg"): "accepted",
        (str(SECOND), "/second.jpg"): "blocked",
    }
    # The first date was forced by what it had recorded of the URL that a later date has, too; the pixels of the other
    # image are gone.
    snapshot = Snapshot.open(str(warehouse))
    assert [row["title"] for row in snapshot.rows("index_feed", ["title"]).to_pylist()] == ["Seen first"]
    assert snapshot.rows("refetch_queue", ["url"])["url"].to_pylist() == [small.site.url("/first.jpg")]
    small.rows[FIRST].pop()
    small.page("/both.jpg", show(originals[0]))
    small.page("/first.jpg", show(originals[4]))
    small.page("/ill.jpg", Answer(500))
    assert small.night(SECOND, warehouse) == 0  # asks for what is owed

    assert small.night(FIRST, plain) == 0
    assert small.night(SECOND, plain) == 0
    assert takedown.main([*small.arguments(plain), *asked]) == 0
    assert digest_of(warehouse) == digest_of(plain)


@pytest.mark.slow
def test_rows_that_have_left_the_disk_are_not_gone_back_to_and_nothing_changes(
    spark: SparkSession, small: SmallWorld, tmp_path: Path, digest_of: Digest, caplog: pytest.LogCaptureFixture
) -> None:
    warehouse = tmp_path / "warehouse"
    assert small.night(FIRST, warehouse) == 0
    first = newest(warehouse)
    assert small.night(SECOND, warehouse) == 0
    second = newest(warehouse)
    small.row(FIRST, "/second.jpg", title="Came later")
    assert small.night(FIRST, warehouse, "--force") == 0
    shown = Snapshot.open(str(warehouse)).rows("clusters", ["image_id"])["image_id"].to_pylist()
    # Erases what was said of it, and with it every older file of `sightings`.
    assert takedown.main([*small.arguments(warehouse), "--image", shown[0], "--reference", "CASE-1"]) == 0
    last, before = newest(warehouse), digest_of(warehouse)
    log.propagate = True
    assert roll_back(small, warehouse, second) == 1
    assert "of the table sightings has left the disk" in caplog.text
    assert str(FIRST) in caplog.text
    assert newest(warehouse) == last
    assert digest_of(warehouse) == before
    assert roll_back(small, warehouse, first) == 1
