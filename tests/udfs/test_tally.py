"""What tasks tell while they run, and that it never gets in their way."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from udfs import tally
from udfs.tally import Listener, Told, telling

KEY = "0123456789abcdef"


class Task:
    """A task's place, as Spark has it."""

    def partitionId(self) -> int:  # noqa: N802 -- Spark's name
        return 3

    def taskAttemptId(self) -> int:  # noqa: N802 -- Spark's name
        return 17


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, Listener]]:
    monkeypatch.setattr("udfs.tally.TaskContext.get", Task)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiving:
        receiving.bind(("127.0.0.1", 0))
        receiving.settimeout(5)
        yield receiving, Listener("127.0.0.1", receiving.getsockname()[1], KEY)


def test_a_task_tells_what_it_has_counted_from_time_to_time_and_at_its_end(
    listening: tuple[socket.socket, Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiving, listener = listening
    monkeypatch.setattr(tally, "SEND_EVERY_S", 0.0)
    results = telling([1, 2], listener, "fetch", lambda number: {"failed": number})
    assert list(results) == [1, 2]
    told = [Told.of_bytes(receiving.recv(4096), KEY) for _ in range(3)]
    assert told == [Told("fetch", 3, 17, {"failed": count}) for count in (1, 3, 3)]


def test_a_task_that_fails_tells_what_it_had_counted(listening: tuple[socket.socket, Listener]) -> None:
    receiving, listener = listening

    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("the task")

    with pytest.raises(ValueError, match="the task"):
        list(telling(broken(), listener, "fetch", lambda number: {"failed": number}))
    assert Told.of_bytes(receiving.recv(4096), KEY) == Told("fetch", 3, 17, {"failed": 1})


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "300.1.1.1"])
def test_nobody_who_listens_and_nothing_that_can_be_counted_are_no_matter(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("udfs.tally.TaskContext.get", Task)
    monkeypatch.setattr(tally, "SEND_EVERY_S", 0.0)

    def count(number: int) -> dict[str, int]:
        return {"failed": 1 // (number - 2)}

    assert list(telling(range(50), Listener(host, 9, KEY), "fetch", count)) == list(range(50))


def test_nothing_is_counted_outside_of_a_task_or_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(number: int) -> dict[str, int]:
        counted.append(number)
        return {}

    counted: list[int] = []
    assert list(telling([1], Listener("127.0.0.1", 9, KEY), "fetch", count)) == [1]
    monkeypatch.setattr("udfs.tally.TaskContext.get", Task)
    assert list(telling([1], None, "fetch", count)) == [1]
    assert not counted


@pytest.mark.parametrize("datagram", [b"", b"x", KEY[:-1].encode() + b'["fetch", 0, 1, {}]', b'["fetch", 0, 1, {}]'])
def test_what_comes_without_the_key_is_nothing(datagram: bytes) -> None:
    assert Told.of_bytes(datagram, KEY) is None


def test_counting_costs_next_to_nothing_a_row() -> None:
    """Of a batch of 256 rows, the two that are made of Arrow and of pandas: microseconds a row would be too much."""
    import pandas as pd

    from udfs.crawl.fetch import FETCHED, fetched_so_far
    from udfs.gate import content

    rows = 256
    columns: dict[str, Any] = {field.name: pa.nulls(rows, field.type) for field in FETCHED}
    columns |= {"deferred": pa.array([False] * rows), "not_modified": pa.array([True, False] * (rows // 2))}
    columns["failure_code"] = pa.array([None, "gone"] * (rows // 2), pa.string())
    batch = pa.RecordBatch.from_pydict(columns, schema=FETCHED)
    assert fetched_so_far(batch) == {"fetched": 0, "unchanged": 128, "blocked": 0, "failed": 128, "deferred": 0}
    failures = [None, None, None, "gate_error"] * 64
    judged = pd.DataFrame({"decision": ["allow", "review", "block", None] * 64, "failure_code": failures}, dtype=object)
    made = pd.DataFrame({"pixels": [b"x", None, None, None] * 64, "failure_code": failures}, dtype=object)
    assert content._judged_so_far(judged) == {"review": 64, "blocked": 64, "failed": 64, "fetched": -192}
    assert content._made_so_far(made) == {"allowed": 64, "failed": 64, "fetched": -128}
    begun = time.process_time()
    for _ in range(20):
        fetched_so_far(batch)
        content._judged_so_far(judged)
        content._made_so_far(made)
    assert (time.process_time() - begun) / (20 * rows) < 50e-6
