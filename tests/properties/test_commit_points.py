"""A run that is killed at any of its commit points, one after the other, and run again ends in one state; readers see
the state before it until it is published."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from demo.pictures import make_pictures
from demo.site import show
from jobs import maintain, nightly, redecide, rollback
from jobs.digest import table_digests
from jobs.warehouse.landing import Landing
from lensfeed.snapshot import Snapshot
from tests.e2e.small import DAYS, SmallWorld, small_world
from tests.properties.killer import Killed, Killer

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(5400)]

FIRST, SECOND, _ = DAYS

PARTS = 6
"""Tests that share out the points: each can be run, and is told of, by itself (`-k "night and 0"`)."""


@dataclass(frozen=True)
class Run:
    """A job, the warehouse with a published run that it begins with, and how its world looks to it."""

    start: Path
    job: Any
    arguments: Callable[[Path], list[str]]

    def __call__(self, warehouse: Path) -> int:
        return int(self.job.main(self.arguments(warehouse)))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWorld]:
    """Two dates: an image with its copy, one that goes on the second date, one that comes then, and a URL that shows
    another one then."""
    with small_world(tmp_path_factory.mktemp("world")) as made:
        made.settings = ["crawl.retries=0"]
        pictures = make_pictures()
        for picture in pictures[:2]:
            made.picture(picture, [FIRST, SECOND], title="Seen on both")
        made.picture(pictures[20], [FIRST], title="Seen once")
        made.picture(pictures[40], [SECOND], title="Seen late")
        made.page("/changes.jpg", lambda day, _: show(pictures[60 if day == FIRST else 80]))
        for day in (FIRST, SECOND):
            made.row(day, "/changes.jpg", title="Changes")
        yield made


@pytest.fixture(scope="module")
def published(spark: SparkSession, small: SmallWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with the first date."""
    warehouse = tmp_path_factory.mktemp("published") / "warehouse"
    assert small.night(FIRST, warehouse) == 0
    return warehouse


@pytest.fixture(scope="module")
def both(small: SmallWorld, published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with both dates."""
    warehouse = copied(published, tmp_path_factory.mktemp("both") / "warehouse")
    assert small.night(SECOND, warehouse) == 0
    return warehouse


@pytest.fixture(scope="module", params=["night", "re-decision", "rollback", "collection"])
def run(request: pytest.FixtureRequest, small: SmallWorld, published: Path) -> Run:
    """The second date; a policy that refuses an image of the first, so that rows, pixels and vectors go; the second
    date taken back; or what nothing shows since the second date taken out, with small files put together."""
    small.write_manifest(SECOND)
    if request.param in {"rollback", "collection"}:
        both = request.getfixturevalue("both")
        if request.param == "rollback":
            back = ["--to", Snapshot.open(str(published)).run_id]
            return Run(both, rollback, lambda warehouse: [*small.arguments(warehouse), *back])
        collect = ["--collect", "--most-small", "1", "--retention-hours", "0"]
        return Run(both, maintain, lambda warehouse: [*small.arguments(warehouse), *collect])
    if request.param == "night":
        small.site.date = SECOND
        return Run(published, nightly, lambda warehouse: [*small.arguments(warehouse), "--date", SECOND.isoformat()])
    image = Snapshot.open(str(published)).rows("clusters", ["image_id"]).column(0)[0].as_py()
    rule = {"id": "listed", "kind": "sha256", "action": "block", "reason": "listed", "hashes": [image]}
    gate = {"id": "nsfw", "kind": "nsfw", "action": "block", "reason": "nsfw", "at_least": 0.999}
    policy = small.policy("refusing", [gate, rule])
    return Run(published, redecide, lambda warehouse: small.arguments(warehouse, policy))


def state_of(spark: SparkSession, warehouse: Path) -> dict[str, str]:
    """What is published: the digests, which tell of what is live, and all contents that have pixels."""
    stored = sorted(Snapshot.open(str(warehouse)).rows("images", ["image_id"])["image_id"].to_pylist())
    return table_digests(Landing(spark, str(warehouse))) | {"stored": " ".join(stored)}


def copied(warehouse: Path, folder: Path) -> Path:
    """A warehouse like it, at a place of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(warehouse, folder))


def killed_everywhere(
    run: Run, start: Path, end: dict[str, str], spark: SparkSession, folder: Path, points: Iterable[int]
) -> int:
    """Kill the run, from `start` on, at each of these commit points as far as it has them, each time in a new copy, and
    run it again; the last point that there was."""
    before = state_of(spark, start)
    run_before = Snapshot.open(str(start)).run_id
    last = 0
    for point in points:
        warehouse = copied(start, folder / "killed")
        killer = Killer(point)
        with killer.around():
            run(warehouse)
        if not killer.dead:
            assert state_of(spark, warehouse) == end
            return last
        seen = state_of(spark, warehouse)
        assert seen == (before if Snapshot.open(str(warehouse)).run_id == run_before else end), f"point {point}"
        assert run(warehouse) == 0, f"point {point}"
        assert state_of(spark, warehouse) == end, f"point {point}"
        assert not list((warehouse / "_staging").glob("*")), f"point {point}"
        last = point
    return last


@pytest.mark.parametrize("part", range(PARTS))
def test_a_run_killed_at_each_of_its_commit_points_ends_as_if_it_had_not_been(
    spark: SparkSession, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    whole = copied(run.start, tmp_path / "whole")
    assert run(whole) == 0
    end = state_of(spark, whole)
    assert end != state_of(spark, run.start)
    # Before it is prepared: `started`, the plan and `prepared`, before and after each.
    early = range(1 + part, 7, PARTS)
    assert killed_everywhere(run, run.start, end, spark, tmp_path, early) == max(early, default=0)
    prepared = copied(run.start, tmp_path / "prepared")
    monkeypatch.setattr(Landing, "apply", _die)
    with pytest.raises(Killed):
        run(prepared)
    monkeypatch.undo()
    # From then on it can only go forward: all of its points, and then those of the job that finds it done.
    last = killed_everywhere(run, prepared, end, spark, tmp_path, count(1 + part, PARTS))
    assert last > 2 * len(_planned(prepared)) - PARTS


def _die(*_: object) -> None:
    raise Killed


def _planned(warehouse: Path) -> list[dict[str, Any]]:
    """What the one run that is prepared there writes into tables."""
    (folder,) = (warehouse / "_staging").iterdir()
    return [line for line in json.loads((folder / "plan.json").read_text()) if line["rows"]]
