"""Who says that a snapshot is being read, for how long, and how it is written down."""

import datetime as dt
import json
import os
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensfeed import SnapshotError, open_feed, pinned
from lensfeed.pins import FOLDER, Pin
from lensfeed.snapshot import Snapshot
from tests.lensfeed.tiny_warehouse import TinyWarehouse, feed_row

THEN = dt.datetime(2026, 1, 31, 3, 0, tzinfo=dt.UTC)
PIN = Pin("run", THEN, "an index", THEN + dt.timedelta(hours=6))


@pytest.fixture
def snapshot(warehouse: TinyWarehouse) -> Snapshot:
    warehouse.write("index_feed", [feed_row(1)])
    warehouse.event("first", "published")
    return open_feed(warehouse.root)


def files(snapshot: Snapshot) -> list[Path]:
    return sorted((Path(snapshot.warehouse) / FOLDER).iterdir())


def test_a_pin_stands_while_its_block_runs_and_no_longer_whatever_ends_it(snapshot: Snapshot) -> None:
    begun = dt.datetime.now(dt.UTC)
    with pinned(snapshot, by="an index", hours=6) as pin, pinned(snapshot, by="another", hours=1):
        written = [Pin.of_json(path.read_text()) for path in files(snapshot)]
        assert pin in written
        assert sorted(one.by for one in written) == ["an index", "another"]
        assert (pin.run_id, pin.published_at) == ("first", snapshot.published_at)
        assert dt.timedelta(hours=5.9) < pin.until - begun < dt.timedelta(hours=6.1)
    assert files(snapshot) == []
    with pytest.raises(ZeroDivisionError), pinned(snapshot, by="an index", hours=6):
        raise ZeroDivisionError
    assert files(snapshot) == []


def test_a_pin_whose_time_was_over_may_be_gone_by_the_end(snapshot: Snapshot) -> None:
    with pinned(snapshot, by="an index", hours=0.001):
        for path in files(snapshot):
            path.unlink()


def test_a_storage_that_fails_at_the_end_does_not_hide_what_came_of_the_block(snapshot: Snapshot) -> None:
    with pinned(snapshot, by="an index", hours=0.001):
        (path,) = files(snapshot)
        path.unlink()
        path.mkdir()  # which cannot be deleted as a file


def test_what_a_killed_pin_left_goes_with_the_next_one_once_nobody_can_be_writing_it(snapshot: Snapshot) -> None:
    folder = Path(snapshot.warehouse) / FOLDER
    folder.mkdir()
    names = (".first-0a1b2c3d.json", ".second-0a1b2c3d.json", ".nfs0000", ".first-0a1b2c3d.json.bak", "first-a.json")
    for name in names:
        (folder / name).write_text("{")
    for name in names[1:]:
        os.utime(folder / name, (0, 0))
    with pinned(snapshot, by="an index", hours=1):
        assert {names[0], *names[2:]} < {path.name for path in files(snapshot)}
        assert not (folder / names[1]).exists()


def test_a_pin_that_cannot_be_written_leaves_nothing(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lensfeed.pins.uuid.uuid4", lambda: uuid.UUID(int=0))
    folder = Path(snapshot.warehouse) / FOLDER
    (folder / "first-00000000.json/in its place").mkdir(parents=True)
    with pytest.raises(SnapshotError, match="cannot be written to"), pinned(snapshot, by="x", hours=1):
        pass
    assert [path.name for path in files(snapshot)] == ["first-00000000.json"]


@pytest.mark.parametrize("hours", [0, -1, 721, float("nan"), float("inf")])
def test_nobody_pins_for_ever_or_for_no_time(snapshot: Snapshot, hours: float) -> None:
    with (
        pytest.raises(SnapshotError, match="hours: expected more than 0 and at most 720"),
        pinned(snapshot, by="x", hours=hours),
    ):
        pass


@pytest.mark.parametrize("hours", ["3", None, True])
def test_hours_that_are_no_number_are_refused_by_their_name(snapshot: Snapshot, hours: Any) -> None:
    with (
        pytest.raises(SnapshotError, match=re.escape(f"hours: expected a number, found {hours!r}")),
        pinned(snapshot, by="x", hours=hours),
    ):
        pass


def test_hours_of_numpys_are_hours(snapshot: Snapshot) -> None:
    for hours in (np.float32(1), np.int64(1)):
        with pinned(snapshot, by="x", hours=hours):
            assert len(files(snapshot)) == 1


def test_who_may_not_write_there_is_told_so(snapshot: Snapshot) -> None:
    (Path(snapshot.warehouse) / FOLDER).write_text("a file where the folder of pins should be")
    with pytest.raises(SnapshotError, match="cannot be written to"), pinned(snapshot, by="x", hours=1):
        pass


def test_what_is_written_is_read_back() -> None:
    assert Pin.of_json(PIN.as_json()) == PIN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        json.dumps({"run_id": "run", "by": "x", "published_at": "yesterday", "until": "tomorrow"}),
        json.dumps({"run_id": "run", "by": "x", "published_at": 3, "until": 4}),
        PIN.as_json().replace("+00:00", ""),
        PIN.as_json()[:-1],
        "[" * 100_000,
    ],
)
def test_what_is_no_pin_is_told_from_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|Expecting|Invalid|delimiter"):
        Pin.of_json(text)
