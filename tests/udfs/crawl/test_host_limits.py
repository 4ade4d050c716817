"""A host's limits, divided among the tasks that may meet it."""

import multiprocessing
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.crawl.host_limits import MachineSlots, Share, share_of


@given(limit=st.integers(1, 64), tasks=st.integers(1, 64), data=st.data())
def test_the_shares_of_all_tasks_are_no_more_than_the_whole(limit: int, tasks: int, data: st.DataObject) -> None:
    shards = data.draw(st.integers(1, min(limit, tasks)))
    own, foreign = share_of(limit, tasks, shards), share_of(limit, tasks, None)
    assert own.connections >= 1
    assert foreign.connections >= 1
    assert shards * own.fraction + (tasks - shards) * foreign.fraction <= 1 + 1e-9
    assert tasks * foreign.fraction <= 1 + 1e-9
    if tasks - 1 <= limit // 2:
        assert shards * own.connections + (tasks - shards) * foreign.connections <= limit


@pytest.mark.parametrize(
    ("shards", "share"),
    [(1, Share(6, 0.75)), (2, Share(4, 0.5)), (None, Share(2, 0.25, is_own=False))],
)
def test_half_of_a_host_is_kept_for_tasks_that_meet_it_by_a_redirect(shards: int | None, share: Share) -> None:
    assert share_of(8, 2, shards) == share


@pytest.mark.parametrize("shards", [1, None])
def test_a_task_that_is_alone_has_all_of_a_host(shards: int | None) -> None:
    assert share_of(5, 1, shards) == Share(5, 1.0)


@pytest.fixture(autouse=True)
def lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def hold(host: str, count: int, pipe: Connection) -> None:
    """In another process: takes `count` slots of three, says how many it got, and keeps them."""
    with MachineSlots(3) as slots:
        pipe.send(sum(slots.take(host) is not None for _ in range(count)))
        pipe.recv()


@pytest.fixture
def neighbour() -> Iterator[BaseProcess]:
    """Another process, which holds two of the three connections to a.example."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=hold, args=("a.example", 2, theirs))
    process.start()
    assert ours.recv() == 2
    yield process
    process.kill()
    process.join()


@pytest.mark.usefixtures("neighbour")
def test_connections_are_counted_over_the_processes_of_a_machine() -> None:
    with MachineSlots(3) as slots:
        mine = slots.take("a.example")
        assert mine is not None
        assert slots.take("a.example") is None
        assert [slots.take("b.example") is None for _ in range(4)] == [False, False, False, True]
        slots.release(mine)
        assert slots.take("a.example") is not None


def test_a_process_that_is_killed_gives_its_connections_back(neighbour: BaseProcess) -> None:
    neighbour.kill()
    neighbour.join()
    with MachineSlots(3) as slots:
        assert [slots.take("a.example") is None for _ in range(4)] == [False, False, False, True]
