"""One holder a warehouse: refused while somebody lives, taken over when nobody does, one winner of a race; a holder
that has lost its lease finds out before it writes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.config.errors import RunError
from jobs.warehouse.fencing import S3Files
from jobs.warehouse.lease import Lease, LeaseLostError, LeaseRecord
from jobs.warehouse.storage import Storage
from tests.jobs.warehouse.s3 import s3_server

pytestmark = pytest.mark.spark

TTL = 120.0


@pytest.fixture
def storage(spark: SparkSession, warehouse: Path) -> Storage:
    return Storage(spark, str(warehouse))


def left_behind(warehouse: Path, silent_for: float = 0, **given: Any) -> Path:
    """The lease file that a driver of this very process would have left, but for what is given."""
    file = warehouse / "_lease" / "5.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(asdict(LeaseRecord(5, "nightly", TTL)) | given))
    written = file.stat().st_mtime - silent_for
    os.utime(file, (written, written))
    return file


def finished_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.fixture
def zombie() -> Iterator[int]:
    """A process that has ended, and that nobody has asked how."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        give_up = time.monotonic() + 60
        while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < give_up
            time.sleep(0.01)
        yield process.pid


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
    monkeypatch.setattr("jobs.warehouse.lease.POLL_S", 0.05)
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


def test_generations_go_on_above_what_the_warehouse_has_seen_where_the_files_are_gone(storage: Storage) -> None:
    with Lease(storage, "nightly", TTL, above=lambda: 41) as lease:
        assert lease.generation == 42
    with Lease(storage, "nightly", TTL, above=lambda: 7) as lease:
        assert lease.generation == 43


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda: {"pid": finished_process()}, id="its process is gone"),
        pytest.param(lambda: {"process_started": 1}, id="another process has its pid"),
        pytest.param(lambda: {"machine": "elsewhere", "silent_for": TTL + 1}, id="silent for its ttl"),
        pytest.param(lambda: {"silent_for": TTL + 1}, id="silent for its ttl, though its process lives"),
        pytest.param(lambda: {"released": True}, id="released"),
    ],
)
def test_a_lease_is_taken_over_when(storage: Storage, warehouse: Path, given: Callable[[], dict[str, Any]]) -> None:
    left_behind(warehouse, **given())
    with Lease(storage, "backfill", TTL) as lease:
        assert lease.generation == 6


def test_a_process_that_only_waits_to_be_reaped_holds_nothing(storage: Storage, warehouse: Path, zombie: int) -> None:
    started = int(Path(f"/proc/{zombie}/stat").read_text().rpartition(")")[2].split()[19])
    left_behind(warehouse, pid=zombie, process_started=started)
    with Lease(storage, "backfill", TTL) as lease:
        assert lease.generation == 6


@pytest.mark.parametrize("machine", ["elsewhere", None, "another namespace of pids"])
def test_a_process_of_another_machine_is_believed_until_its_ttl_is_over(
    storage: Storage, warehouse: Path, machine: str | None
) -> None:
    """Also where that machine goes by this one's name: two containers often do, and see each other's pids nowhere."""
    if machine == "another namespace of pids":
        machine = str(LeaseRecord(1, "", TTL).machine).rpartition("[")[0] + "[1]"
    left_behind(warehouse, silent_for=TTL / 2, machine=machine, pid=finished_process())
    with pytest.raises(RunError, match=f"on {socket.gethostname()}"), Lease(storage, "backfill", TTL):
        pass


@pytest.mark.parametrize("off", [-86400.0, 86400.0])
def test_no_clock_but_the_storages_is_asked(
    storage: Storage, warehouse: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + off)
    file = left_behind(warehouse, machine="elsewhere")
    with pytest.raises(RunError, match="held by nightly"), Lease(storage, "backfill", TTL):
        pass
    os.utime(file, (file.stat().st_mtime - TTL - 1,) * 2)
    with Lease(storage, "backfill", TTL) as lease:
        assert lease.generation == 6
    assert sorted(path.name for path in (warehouse / "_lease").iterdir()) == ["5.json", "6.json"]


OLD_RELEASE = {
    "generation": 5,
    "holder": "n",
    "host": "h",
    "pid": 1,
    "process_started": 1.5,
    "renewed_at": 1.5,
    "ttl_s": 9,
}


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ('{"generation": 5, "hol', "just taking"),
        ("[]", "just taking"),
        ("{}", "just taking"),
        ("", "just taking"),
        (json.dumps(OLD_RELEASE | {"ttl_s": TTL}), "held by n"),
    ],
    ids=["half written", "a list", "nothing known", "empty", "of an older release"],
)
def test_a_file_that_says_nothing_is_respected_for_a_ttl_and_then_taken_over(
    storage: Storage, warehouse: Path, text: str, refusal: str
) -> None:
    file = left_behind(warehouse)
    file.write_text(text)
    with pytest.raises(RunError, match=refusal), Lease(storage, "backfill", TTL):
        pass
    os.utime(file, (file.stat().st_mtime - TTL - 1,) * 2)
    with Lease(storage, "backfill", TTL) as lease:
        assert lease.generation == 6


def test_a_holder_renews_its_lease_and_a_reader_never_sees_half_of_it(
    storage: Storage, warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.warehouse.lease._RENEWALS", 4 * TTL)
    with Lease(storage, "nightly", TTL) as lease:
        file = warehouse / "_lease" / f"{lease.generation}.json"
        seen: set[int] = set()
        give_up = time.monotonic() + 60
        while len(seen) < 4 and time.monotonic() < give_up:
            seen.add(json.loads(file.read_text())["renewals"])
            lease.check()
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


class FaultyStorage(Storage):
    """Fails as it is told to."""

    failing: Callable[[], bool] = staticmethod(lambda: False)
    failures = 0

    def write_text(self, text: str, *parts: str) -> None:
        if self.failing():
            self.failures += 1
            raise OSError("the storage does not answer")
        super().write_text(text, *parts)

    def create_text(self, text: str, *parts: str) -> bool:
        """The answer is lost; asked again, the storage says that the file is there."""
        return super().create_text(text, *parts) and False

    def read_text(self, *parts: str) -> str:
        """Somebody cleans up just now."""
        if self.failing():
            raise FileNotFoundError(parts[-1])
        return super().read_text(*parts)


@pytest.fixture
def faulty(spark: SparkSession, warehouse: Path) -> FaultyStorage:
    return FaultyStorage(spark, str(warehouse))


def test_renewals_that_fail_are_repeated_and_the_lease_is_kept(
    faulty: FaultyStorage, warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.warehouse.lease._RENEWALS", 4 * TTL)
    monkeypatch.setattr("jobs.warehouse.lease._RETRIES", 10 * TTL)
    with Lease(faulty, "nightly", TTL) as lease:
        faulty.failing = lambda: faulty.failures < 4
        give_up = time.monotonic() + 60
        while not json.loads((warehouse / "_lease" / "1.json").read_text())["renewals"]:
            assert time.monotonic() < give_up
            lease.check()
            time.sleep(0.05)
    assert faulty.failures == 4


def test_a_lease_that_cannot_be_renewed_for_its_ttl_is_lost_and_what_is_under_way_is_stopped(
    faulty: FaultyStorage, warehouse: Path
) -> None:
    stopped = threading.Event()

    def work() -> None:
        with Lease(faulty, "nightly", 1, on_lost=stopped.set) as lease:
            faulty.failing = lambda: True
            assert stopped.wait(60)
            with pytest.raises(LeaseLostError):
                lease.check()
            raise OSError("whatever the job made of that")

    with pytest.raises(LeaseLostError, match=r"nightly no longer holds .*: it was not renewed for \d+ s"):
        work()
    assert json.loads((warehouse / "_lease" / "1.json").read_text())["released"] is False


def test_what_goes_wrong_under_a_lease_that_is_held_is_told_as_it_is(storage: Storage) -> None:
    with pytest.raises(OSError, match="something else"), Lease(storage, "nightly", TTL):
        raise OSError("something else")


def test_a_file_that_goes_while_it_is_looked_at_is_no_error(faulty: FaultyStorage, warehouse: Path) -> None:
    left_behind(warehouse)
    faulty.failing = lambda: True
    with pytest.raises(RunError, match="at this very moment"), Lease(faulty, "backfill", TTL):
        pass


# Two processes ------------------------------------------------------------------------------------------------------

WRITER = """
import sys
from jobs.warehouse.fencing import S3Files
from jobs.warehouse.lease import Lease, LeaseLostError

files = S3Files(sys.argv[1], **eval(sys.argv[2]))
try:
    with Lease(files, "stopped", 15.0) as lease:
        for number in range(100_000):
            sys.stdin.readline()  # a write that was begun before it was stopped is none that it makes when it is woken
            lease.check()
            files.write_text(str(number), "written")
            print("written", flush=True)
except LeaseLostError as lost:
    print(lost, file=sys.stderr)
    sys.exit(1)
"""


def test_a_process_stopped_past_its_ttl_and_woken_writes_nothing_more_on_s3() -> None:
    with s3_server() as options:
        root = "s3a://bucket/warehouse"
        files = S3Files(root, **options)
        arguments = [sys.executable, "-c", WRITER, root, repr(options)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(arguments, text=True, **pipes) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def go_on() -> None:
                process.stdin.write("\n")
                process.stdin.flush()

            for _ in range(10):
                go_on()
                assert process.stdout.readline() == "written\n"
            with pytest.raises(RunError, match="held by stopped"), Lease(files, "next", 1.0):
                pass
            process.send_signal(signal.SIGSTOP)
            with Lease(files, "next", 30.0, wait_s=60) as lease:
                before = files.read_text("written"), files.modified_at("written")
                go_on()
                process.send_signal(signal.SIGCONT)
                _, said = process.communicate(timeout=60)
                assert process.returncode == 1
                assert "stopped no longer holds the warehouse s3a://bucket/warehouse: " in said
                assert (files.read_text("written"), files.modified_at("written")) == before
                lease.check()
                assert files.names("_lease") == ["1.json", "2.json"]
            assert '"released": false' in files.read_text("_lease", "1.json")
