"""What could not be had one night: asked for again by `--retry-failed` or by the next night, and nothing else with
it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo.site import Answer, show
from lensfeed.snapshot import Snapshot
from tests.e2e.conftest import World
from tests.e2e.small import DAYS, SmallWorld, small_world

pytestmark = pytest.mark.spark

FIRST, SECOND, THIRD = DAYS


@pytest.fixture
def small(world: World, tmp_path: Path) -> Iterator[SmallWorld]:
    with small_world(tmp_path) as made:
        made.settings = ["crawl.retries=0"]
        yield made


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    return tmp_path / "warehouse"


@pytest.mark.slow
def test_only_what_failed_for_now_is_asked_for_again(
    world: World, small: SmallWorld, warehouse: Path, digest_of: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    good, ill, other, last = world.pictures[:4]
    small.picture(good)
    small.page("/gone.jpg", Answer(404))
    small.page("/ill.jpg", Answer(500))
    small.page("/moves-on.jpg", Answer(500))
    for path in ("/gone.jpg", "/ill.jpg", "/moves-on.jpg"):
        small.row(FIRST, path)
    assert small.night(FIRST, warehouse) == 0
    assert small.outcomes(warehouse) == {
        (str(FIRST), f"/{good.file_name}"): "accepted",
        (str(FIRST), "/gone.jpg"): "failed gone",
        (str(FIRST), "/ill.jpg"): "failed http_5xx",
        (str(FIRST), "/moves-on.jpg"): "failed http_5xx",
    }
    # The next night sees one of the two healed: what the other date would get now is that later date's answer.
    small.page("/moves-on.jpg", show(last))
    small.row(SECOND, "/moves-on.jpg")
    small.picture(other, [SECOND])
    assert small.night(SECOND, warehouse) == 0
    small.page("/ill.jpg", show(ill))
    small.site.requests.clear()
    assert small.night(FIRST, warehouse, "--retry-failed") == 0
    assert {url.removeprefix(small.site.url("")) for url in small.site.requests_on(FIRST)} == {"/ill.jpg"}
    outcomes = small.outcomes(warehouse)
    assert outcomes[str(FIRST), "/ill.jpg"] == "accepted"
    assert outcomes[str(FIRST), "/moves-on.jpg"] == "failed http_5xx"
    assert outcomes[str(FIRST), "/gone.jpg"] == "failed gone"
    # It is as if the page had been well all along.
    clean = tmp_path / "clean"
    small.page("/moves-on.jpg", lambda date, _: show(last) if date >= SECOND else Answer(500))
    assert small.night(FIRST, clean) == 0
    assert small.night(SECOND, clean) == 0
    assert digest_of(clean) == digest_of(warehouse)
    # And once more there is nothing to ask for.
    small.site.requests.clear()
    before = Snapshot.open(str(warehouse)).run_id
    assert small.night(FIRST, warehouse, "--retry-failed") == 0
    assert not small.site.requests
    assert Snapshot.open(str(warehouse)).run_id == before


@pytest.mark.slow
def test_what_a_deadline_left_is_taken_up_by_the_next_night(
    world: World, small: SmallWorld, warehouse: Path, digest_of: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    quick, late, other = world.pictures[:3]
    small.picture(quick)
    small.page("/late.jpg", Answer(body=late.data, content_type=late.content_type, delay_s=60))
    small.row(FIRST, "/late.jpg", title="A late answer")
    assert small.night(FIRST, warehouse, settings=["crawl.deadline_s=15"]) == 0
    assert small.outcomes(warehouse)[str(FIRST), "/late.jpg"] == "deferred"
    assert [row["owed"] for row in Snapshot.open(str(warehouse)).rows("refetch_queue").to_pylist()] == ["answer"]
    # What is owed has a time of its own: it takes none of the date's.
    small.picture(other, [SECOND])
    assert small.night(SECOND, warehouse, settings=["crawl.deadline_s=30", "crawl.drain_deadline_s=2"]) == 0
    assert small.outcomes(warehouse)[str(FIRST), "/late.jpg"] == "deferred"
    assert small.outcomes(warehouse)[str(SECOND), f"/{other.file_name}"] == "accepted"
    small.page("/late.jpg", show(late))
    small.picture(quick, [THIRD])
    assert small.night(THIRD, warehouse) == 0
    assert small.outcomes(warehouse)[str(FIRST), "/late.jpg"] == "accepted"
    assert Snapshot.open(str(warehouse)).rows("refetch_queue").num_rows == 0
    clean = tmp_path / "clean"
    for date in DAYS:
        assert small.night(date, clean) == 0
    assert digest_of(clean) == digest_of(warehouse)


def test_a_date_that_was_never_run_cannot_be_retried(small: SmallWorld, world: World, warehouse: Path) -> None:
    small.picture(world.pictures[0])
    assert small.night(FIRST, warehouse, "--retry-failed") == 1
