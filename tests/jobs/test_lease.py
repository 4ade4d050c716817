"""One holder a warehouse: refused while somebody lives, taken over when nobody does, one winner of a race."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyspark.sql import SparkSession

from jobs.errors import RunError
from jobs.lease import Lease, LeaseRecord
from jobs.storage import Storage

pytestmark = pytest.mark.spark

TTL = 120.0


@pytest.fixture
def storage(spark: SparkSession, warehouse: Path) -> Storage:
    return Storage(spark, str(warehouse))


def left_behind(warehouse: Path, **given: Any) -> None:
    """The lease file that a driver of this very process would have left, but for what is given."""
    me = psutil.Process()
    record = LeaseRecord(5, "nightly", socket.gethostname(), os.getpid(), me.create_time(), time.time(), TTL)
    (warehouse / "_lease").mkdir(parents=True)
    (warehouse / "_lease" / "5.json").write_text(json.dumps(asdict(record) | given))


def finished_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_second_holder_is_refused_while_the_first_lives_and_is_told_who_that_is(storage: Storage) -> None:
    with (
        Lease(storage, "nightly 2026-01-31", TTL) as lease,
        pytest.raises(RunError, match=rf"held by nightly 2026-01-31 \(pid {os.getpid()} on "),
        Lease(storage, "backfill", TTL),
    ):
        pass
    with Lease(storage, "backfill", TTL) as later:
        assert later.generation == lease.generation + 1


def test_who_waits_gets_the_warehouse_as_soon_as_it_is_let_go_and_gives_up_in_time(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.lease.POLL_S", 0.05)
    first = Lease(storage, "reembed", TTL).__enter__()
    begun = time.monotonic()
    with pytest.raises(RunError, match="held by reembed"), Lease(storage, "nightly", TTL, wait_s=0.5):
        pass
    assert 0.5 <= time.monotonic() - begun < 5
    threading.Timer(0.3, first.__exit__, (None, None, None)).start()
    with Lease(storage, "nightly", TTL, wait_s=60) as lease:
        assert lease.generation == first.generation + 1
    assert time.monotonic() - begun < 30


def test_generations_grow_and_old_files_do_not_pile_up(storage: Storage, warehouse: Path) -> None:
    generations = []
    for _ in range(4):
        with Lease(storage, "nightly", TTL) as lease:
            generations.append(lease.generation)
    assert generations == [1, 2, 3, 4]
    assert sorted(path.name for path in (warehouse / "_lease").iterdir()) == ["3.json", "4.json"]


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda: {"pid": finished_process()}, id="its process is gone"),
        pytest.param(lambda: {"process_started": 1.0}, id="another process has its pid"),
        pytest.param(lambda: {"host": "elsewhere", "renewed_at": time.time() - TTL - 1}, id="silent for its ttl"),
        pytest.param(lambda: {"released": True}, id="released"),
    ],
)
def test_a_lease_is_taken_over_when(storage: Storage, warehouse: Path, given: Callable[[], dict[str, Any]]) -> None:
    left_behind(warehouse, **given())
    with Lease(storage, "backfill", TTL) as lease:
        assert lease.generation == 6


def test_a_process_of_another_machine_is_believed_until_its_ttl_is_over(storage: Storage, warehouse: Path) -> None:
    left_behind(warehouse, host="elsewhere", pid=finished_process(), renewed_at=time.time() - TTL / 2)
    with pytest.raises(RunError, match="on elsewhere"), Lease(storage, "backfill", TTL):
        pass


def test_a_file_left_half_written_is_respected_for_a_ttl_and_then_taken_over(storage: Storage, warehouse: Path) -> None:
    left_behind(warehouse)
    file = warehouse / "_lease" / "5.json"
    file.write_text(file.read_text()[:40])
    with pytest.raises(RunError, match="just taking"), Lease(storage, "backfill", TTL):
        pass
    os.utime(file, (time.time() - TTL - 1,) * 2)
    with Lease(storage, "backfill", TTL) as lease:
        assert lease.generation == 6


def test_a_holder_renews_its_lease_and_a_reader_never_sees_half_of_it(storage: Storage, warehouse: Path) -> None:
    with Lease(storage, "nightly", 0.2) as lease:
        file = warehouse / "_lease" / f"{lease.generation}.json"
        seen: set[float] = set()
        give_up = time.monotonic() + 60
        while len(seen) < 4 and time.monotonic() < give_up:
            seen.add(json.loads(file.read_text())["renewed_at"])
    assert len(seen) >= 4
    assert json.loads(file.read_text())["released"] is True


def test_of_racing_takers_exactly_one_wins(storage: Storage) -> None:
    takers = 6
    for round_number in range(1, 6):
        barrier, won, lost = threading.Barrier(takers), [], []
        everybody_tried = threading.Barrier(takers)

        def take(
            barrier: threading.Barrier, everybody_tried: threading.Barrier, won: list[int], lost: list[str]
        ) -> None:
            barrier.wait()
            try:
                with Lease(storage, "nightly", TTL) as lease:
                    won.append(lease.generation)
                    everybody_tried.wait()
            except RunError as error:
                lost.append(str(error))
                everybody_tried.wait()

        threads = [threading.Thread(target=take, args=(barrier, everybody_tried, won, lost)) for _ in range(takers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [round_number]
        assert len(lost) == takers - 1


class SlowStorage(Storage):
    """Lets others pass between looking at the files and creating one's own."""

    spark: SparkSession

    def create_text(self, text: str, *parts: str) -> bool:
        for _ in range(3):
            with Lease(Storage(self.spark, self.root), "quicker", TTL):
                pass
        return super().create_text(text, *parts)


def test_a_taker_overtaken_while_it_looked_does_not_hold_the_warehouse(
    spark: SparkSession, storage: Storage, warehouse: Path
) -> None:
    with Lease(storage, "first", TTL):
        pass
    slow = SlowStorage(spark, str(warehouse))
    slow.spark = spark
    with pytest.raises(RunError, match="at this very moment"), Lease(slow, "slow", TTL):
        pass
    with Lease(storage, "next", TTL) as lease:
        assert lease.generation > 3
