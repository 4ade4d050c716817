"""A night that is not as expected: nothing of it is published, until somebody accepts that."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from demo.pictures import make_pictures
from jobs.nightly import main
from lensfeed.snapshot import Snapshot, SnapshotError
from tests.e2e.small import DAYS, small_world

EXPECTED = (
    "run.expectations=[{name: few, counts: [sightings], at_most: 9},"
    " {name: failed, counts: [outcome.failed], of: [sightings], at_most: 0.25}]"
)


@pytest.mark.slow
def test_a_night_that_is_not_as_expected_is_published_when_somebody_says_why(
    tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_world(tmp_path) as world:
        world.settings = ["crawl.retries=0", EXPECTED]
        world.picture(make_pictures()[0])
        world.row(DAYS[0], "/gone")
        warehouse = tmp_path / "warehouse"
        assert world.night(DAYS[0], warehouse) == 1
        assert (
            "not as expected: failed: outcome.failed of sightings is 0.5; at most 0.25 is expected"
            in capsys.readouterr().err
        )
        with pytest.raises(SnapshotError):
            Snapshot.open(str(warehouse))
        assert not list((warehouse / "_staging").glob("*"))
        # Who accepts it need not ask again; who does not asks anew, for the host may be well by now.
        asked = world.site.requests_on(DAYS[0])
        assert world.night(DAYS[0], warehouse) == 1
        assert world.site.requests_on(DAYS[0]) == {url: 2 * count for url, count in asked.items()}
        assert world.night(DAYS[0], warehouse, "--accept-breach", "failed", "--why", "the host is\nmoving") == 0
        events = Snapshot.open(str(warehouse)).rows("runs", ["event", "detail"]).to_pylist()
        (said,) = [event["detail"] for event in events if event["event"] == "published"]
        assert said.startswith("accepted though not as expected: failed: ")
        assert said.endswith("(the host is moving)")
        assert world.site.requests_on(DAYS[0]) == {url: 2 * count for url, count in asked.items()}
        assert not (warehouse / "_ahead").exists() or not list((warehouse / "_ahead").iterdir())


def test_what_the_rows_tell_alone_ends_a_night_before_anything_is_fetched(
    tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_world(tmp_path) as world:
        world.settings = ["crawl.retries=0", EXPECTED]
        for number in range(10):
            world.row(DAYS[0], f"/{number}")
        asked = len(world.site.requests)
        assert world.night(DAYS[0], tmp_path / "warehouse") == 1
        assert "not as expected: few: sightings is 10; at most 9 is expected" in capsys.readouterr().err
        assert len(world.site.requests) == asked
        arguments = [*world.arguments(tmp_path / "warehouse"), "--date", DAYS[0].isoformat()]
        assert main([*arguments, "--accept-breach", "many", "--why", "x"]) == 2
        assert "expected a name of run.expectations (few, failed)" in capsys.readouterr().err
