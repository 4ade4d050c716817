"""A range of dates in one session: what is published is left, what fails is told, and the rest goes on."""

import datetime as dt
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from demo.pictures import make_pictures
from jobs import backfill as plans
from jobs.backfill import Clock, main
from jobs.config.errors import RunError
from jobs.config.progress import log
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Ledger
from tests.e2e.killed import run_killed
from tests.e2e.small import DAYS, SmallWorld, small_world

FIRST, SECOND, THIRD = DAYS


class Said(logging.Handler):
    """What the job said since it was last asked."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def since(self, prefix: str = "") -> list[str]:
        """The lines that begin with the prefix, without run ids; all lines are forgotten."""
        lines, self.lines = self.lines, []
        return [re.sub(r"run [\w-]+", "run X", line) for line in lines if line.startswith(prefix)]


@pytest.fixture
def said() -> Iterator[Said]:
    handler = Said()
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SmallWorld]:
    """A picture on each of three dates; the second date has no manifest yet."""
    with small_world(tmp_path) as small:
        for picture, date in zip(make_pictures(), DAYS, strict=False):
            small.picture(picture, [date])
        small.site.date = FIRST
        for date in (FIRST, THIRD):
            small.write_manifest(date)
        yield small


def backfill(small: SmallWorld, warehouse: Path, *more: str, start: dt.date = FIRST, end: dt.date = THIRD) -> int:
    return main([*small.arguments(warehouse), "--start", str(start), "--end", str(end), *more])


@pytest.mark.spark
@pytest.mark.slow
def test_a_range_is_run_oldest_first_and_goes_on_where_it_was(
    world: SmallWorld, said: Said, landing: Landing, warehouse: Path, digest_of: Callable[[Path], dict[str, str]]
) -> None:
    def published() -> list[dt.date]:
        ledger = Ledger(landing, 0).load()
        return [event.ingest_dates[0] for event in ledger.events if event.event == "published"]

    # A plan touches nothing, and says by its exit code whether it can be carried out.
    assert backfill(world, warehouse, "--dry-run") == 1
    missing = f"manifest.path {world.folder}/manifests/{SECOND}.jsonl: there is no such file or folder for {SECOND}"
    assert said.since("plan") == [
        f"plan {FIRST} run: not published yet",
        f"plan {SECOND} fail: {missing}",
        f"plan {THIRD} run: not published yet",
        "plan of 3 dates: 1 fail, 2 run",
    ]
    assert not warehouse.exists()

    # Killed between prepared and published, and started again: the first date is rolled forward and not run anew, the
    # second is told, the third is run.
    arguments = [*world.arguments(warehouse), "--start", str(FIRST), "--end", str(THIRD)]
    run_killed("backfill", arguments, "jobs.warehouse.landing", "Landing.versions")
    assert published() == []
    assert backfill(world, warehouse) == 1
    lines = said.since()
    summary = [re.sub(r": 1 sightings.*", "", line) for line in lines if line.startswith("summary")]
    assert summary == [
        "summary of 3 dates: 1 failed, 1 published, 1 skipped",
        f"summary {FIRST} skipped: was published in the meantime",
        f"summary {SECOND} failed: {missing}",
        f"summary {THIRD} published: published run X",
    ]
    assert lines[-1] == f"failed: 1 of 3 dates failed or were not tried: {SECOND}; start again to try them"
    progress = [line for line in lines if line.startswith("backfill 2 of 3 dates: ")]
    assert progress[0].endswith(" gone, 1 left to run")
    assert published() == [FIRST, THIRD]

    # Started again with all manifests there, only what is missing is run; another manifest is told and left alone.
    world.write_manifest(SECOND)
    world.rows[THIRD][0]["title"] = "another title"
    world.write_manifest(THIRD)
    assert backfill(world, warehouse) == 0
    assert said.since("summary")[0] == "summary of 3 dates: 1 published, 1 skipped, 1 stale"
    assert published() == [FIRST, THIRD, SECOND]
    before = digest_of(warehouse)
    (world.folder / "manifests" / f"{FIRST}.jsonl").unlink()
    assert backfill(world, warehouse, "--dry-run") == 0
    gone = missing.replace(str(SECOND), str(FIRST))
    assert said.since("plan") == [
        f"plan {FIRST} skip: published by run X; what it was made from is gone ({gone})",
        f"plan {SECOND} skip: published by run X from the same inputs",
        f"plan {THIRD} stale: published by run X; its manifest changed since",
        "plan of 3 dates: 2 skip, 1 stale",
    ]
    assert landing.storage.names("_staging") == []
    assert digest_of(warehouse) == before

    # Forced, a date is done again.
    assert backfill(world, warehouse, "--force", start=THIRD) == 0
    assert said.since("summary")[0] == "summary of 1 dates: 1 published"
    assert published() == [FIRST, THIRD, SECOND, THIRD]
    assert backfill(world, warehouse, "--dry-run", start=THIRD) == 0
    assert said.since("plan")[0] == f"plan {THIRD} skip: published by run X from the same inputs"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("2026-02-30", "2026-03-01", "--start 2026-02-30: not a date; expected YYYY-MM-DD"),
        ("2026-03-01", "soon", "--end soon: not a date; expected YYYY-MM-DD"),
        ("2026-03-02", "2026-03-01", "--end 2026-03-01 lies before --start 2026-03-02"),
    ],
)
def test_a_range_that_is_none_is_bad_usage(start: str, end: str, expected: str, said: Said) -> None:
    assert main(["--profile", "conf/local.yaml", "--start", start, "--end", end]) == 2
    assert said.since("error")[0].startswith(f"error: {expected}")


def test_a_plan_with_a_date_that_cannot_be_run_is_told_whole_and_then_fails(
    said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    actions = {FIRST: "run", SECOND: "fail", THIRD: "skip"}
    monkeypatch.setattr(
        plans, "look_at", lambda _, date, **_given: SimpleNamespace(date=date, action=actions[date], why="x")
    )
    with pytest.raises(RunError, match=f"1 of 3 dates cannot be run: {SECOND}; the plan says why"):
        plans._say_plan(None, DAYS, force=False)  # type: ignore[arg-type]
    assert said.since("plan")[-1] == "plan of 3 dates: 1 fail, 1 run, 1 skip"
    plans._say_plan(None, [FIRST, THIRD], force=False)  # type: ignore[arg-type]


def test_time_left_is_told_by_the_dates_that_were_run() -> None:
    clock = Clock(set(DAYS))
    assert clock.says() == "0:00:00 gone, 3 left to run"
    clock.count(FIRST, 3600.0)
    assert re.fullmatch(r"0:00:00 gone, 2 left to run, about 2:00:00, until \d{4}-\d\d-\d\d \d\d:\d\d", clock.says())
    clock.count(SECOND, None)
    assert "1 left to run, about 1:00:00, until 20" in clock.says()
    clock.count(THIRD, 1800.0)
    assert clock.says() == "0:00:00 gone, none left to run"
