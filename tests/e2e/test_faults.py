"""Promises 3 and 5 under faults: a driver killed anywhere, a run that fails its audit, a second driver."""

import datetime as dt
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame

from demo.manifests import ManifestFile, write_manifests
from demo.site import DATES
from jobs.nightly import main
from jobs.run import audit, contents, ingest
from jobs.warehouse.landing import Landing
from jobs.warehouse.lease import Lease
from jobs.warehouse.ledger import Ledger
from lensfeed.snapshot import Snapshot, SnapshotError
from tests.e2e.conftest import PROFILE, World
from tests.e2e.killed import HANGS_AFTER_S, run_killed, stopped

pytestmark = pytest.mark.spark

ROWS = 24


@pytest.fixture(scope="module")
def small(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests of a few rows a night: the faults are the point here, not the pictures."""
    folder = tmp_path_factory.mktemp("small")
    write_manifests(folder, [ManifestFile(file.date, file.name, file.rows[:ROWS]) for file in world.files])
    return folder


@pytest.fixture(scope="module")
def clean(
    world: World,
    small: Path,
    tmp_path_factory: pytest.TempPathFactory,
    digest_of: Callable[[Path], dict[str, str]],
) -> dict[dt.date, dict[str, str]]:
    """Digests after each of two nights that nothing went wrong in."""
    warehouse = tmp_path_factory.mktemp("clean") / "warehouse"
    digests = {}
    for date in DATES[:2]:
        assert world.night(date, warehouse, folder=small) == 0
        digests[date] = digest_of(warehouse)
    return digests


def killed_night(world: World, date: dt.date, warehouse: Path, folder: Path, module: str, target: str) -> None:
    """Run a night in a process of its own that kills itself with SIGKILL where `module.target` would be called."""
    world.site.date = date
    run_killed("nightly", world.arguments(date, warehouse, folder), module, target)


@pytest.mark.slow  # the random sequences are killed at commit points, in process
@pytest.mark.parametrize(
    ("module", "target", "last_event"),
    [
        pytest.param("jobs.run.derived", "stage_duplicates", "started", id="in staging"),
        pytest.param("jobs.warehouse.landing", "Landing.versions", "prepared", id="between prepared and published"),
    ],
)
def test_a_killed_night_run_again_leaves_what_one_clean_night_leaves(
    module: str,
    target: str,
    last_event: str,
    world: World,
    small: Path,
    clean: dict[dt.date, dict[str, str]],
    warehouse: Path,
    landing: Landing,
    digest_of: Callable[[Path], dict[str, str]],
) -> None:
    first, second = DATES[:2]
    assert world.night(first, warehouse, folder=small) == 0
    killed_night(world, second, warehouse, small, module, target)
    ledger = Ledger(landing, 0).load()
    assert ledger.events[-1].event == last_event
    # Half a run does not show: readers and digest still see the night before.
    assert Snapshot.open(str(warehouse)).ingest_dates == (first,)
    assert digest_of(warehouse) == clean[first]
    assert world.night(second, warehouse, folder=small) == 0
    assert digest_of(warehouse) == clean[second]
    assert [event.event for event in Ledger(landing, 0).load().events].count("published") == 2


def test_a_run_that_fails_its_audit_never_shows(
    world: World, small: Path, warehouse: Path, landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise audit.RunError("an expectation is broken")

    monkeypatch.setattr(audit, "check_accounting", broken)
    assert world.night(DATES[0], warehouse, folder=small) == 1
    with pytest.raises(SnapshotError, match="no run is published"):
        Snapshot.open(str(warehouse))
    assert [event.event for event in Ledger(landing, 0).load().events] == ["started", "discarded"]
    assert landing.read("sightings").isEmpty()
    assert landing.storage.names("_staging") == []


LOSSES = {"loses a row": "row_number != 1", "loses a file": "source_file != 'b.txt'"}


@pytest.mark.parametrize("loss", [*LOSSES, "makes up rows"])
def test_a_reader_that_does_not_give_what_the_manifest_holds_stops_the_run(
    loss: str, warehouse: Path, landing: Landing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "manifest"
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(f"http://127.0.0.1:9/{name}/1\nhttp://127.0.0.1:9/{name}/2\n")
    sound = ingest.read_manifest

    def lossy(*given: Any) -> DataFrame:
        rows = sound(*given)
        return rows.where(LOSSES[loss]) if loss in LOSSES else rows.unionByName(rows.where("row_number = 0"))

    monkeypatch.setattr(ingest, "read_manifest", lossy)
    # Nobody may be asked for anything that the run would then not account for.
    monkeypatch.setattr(contents, "crawl", lambda *_: pytest.fail("something was fetched"))
    settings = [f"manifest.path={folder}", f"warehouse={warehouse}"]
    overrides = [part for setting in settings for part in ("--set", setting)]
    assert main(["--profile", PROFILE, "--date", "2026-01-29", *overrides]) == 1
    assert [event.event for event in Ledger(landing, 0).load().events] == ["started", "discarded"]
    assert landing.read("sightings").isEmpty()


def test_a_second_driver_is_turned_away(world: World, small: Path, warehouse: Path, landing: Landing) -> None:
    with Lease(landing.storage, "somebody else", ttl_s=60):
        world.site.date = DATES[0]
        assert main(world.arguments(DATES[0], warehouse, small)) == 1
    assert not landing.storage.exists("runs")


RUN = ("started", "prepared", "published")
LEASE = ["--set", "run.lease_ttl_s=15", "--set", "run.lease_wait_s=300"]


@pytest.mark.parametrize(
    ("module", "target", "calls", "events"),
    [
        pytest.param(
            "jobs.warehouse.landing",
            "Landing._merge",
            1,
            [("first", event) for event in RUN],
            id="writing a live table",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "jobs.warehouse.ledger",
            "Ledger._append",
            3,  # after the one that takes the ledger over, and `started`
            [*(("first", event) for event in ("started", "discarded")), *(("next", event) for event in RUN)],
            id="about to say that it is prepared",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_driver_stopped_past_its_lease_and_woken_writes_nothing_more_and_says_why(
    module: str,
    target: str,
    calls: int,
    events: list[tuple[str, str]],
    world: World,
    small: Path,
    clean: dict[dt.date, dict[str, str]],
    warehouse: Path,
    landing: Landing,
    digest_of: Callable[[Path], dict[str, str]],
) -> None:
    """The first is past its check when it stops in a table: there the application ids of its writes have to hold."""
    first, second = DATES[:2]
    assert world.night(first, warehouse, folder=small) == 0
    before = len(Ledger(landing, 0).load().events)
    world.site.date = second
    arguments = [*world.arguments(second, warehouse, small), *LEASE]
    with stopped("nightly", arguments, module, target, calls) as process:
        assert world.night(second, warehouse, *LEASE, folder=small) == 0
        assert digest_of(warehouse) == clean[second]
        versions, files = landing.versions(), contents_of(warehouse)
        os.killpg(process.pid, signal.SIGCONT)
        _, said = process.communicate(timeout=HANGS_AFTER_S)
    assert process.returncode == 1
    assert re.search(r"failed: nightly \S+ no longer holds the warehouse", said), said
    ledger = Ledger(landing, 0).load()
    names = dict(zip(dict.fromkeys(event.run_id for event in ledger.events[before:]), ("first", "next"), strict=False))
    assert [(names[event.run_id], event.event) for event in ledger.events[before:]] == events
    assert landing.versions() == versions
    assert contents_of(warehouse) == files
    assert digest_of(warehouse) == clean[second]


def contents_of(warehouse: Path) -> set[str]:
    """Files of the warehouse that anybody reads: commits, what they name, staged runs."""
    found = {str(path.relative_to(warehouse)) for path in warehouse.rglob("*") if path.is_file()}
    commits = {name for name in found if "/_delta_log/" in name and name.endswith(".json")}
    return commits | {name for name in found if name.startswith(("_staging/", "_lease/"))}
