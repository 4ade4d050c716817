"""Counts that come from tasks, on the driver."""

import socket
import threading
import time
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pytest
from pyspark import TaskContext
from pyspark.sql import SparkSession

from jobs.startup.tally import Tally, _receive, tally
from udfs.tally import Told, telling


def test_an_attempt_counts_in_place_of_those_before_it() -> None:
    made = Tally()
    made.take(Told("fetch", 0, 7, {"failed": 5, "unchanged": 2}))
    made.take(Told("fetch", 1, 8, {"failed": 1}))
    made.take(Told("fetch", 0, 9, {"failed": 1}))  # tried again
    made.take(Told("fetch", 0, 7, {"failed": 6, "unchanged": 2}))  # which comes late
    assert made.counts() == {"failed": 2}


def test_functions_of_one_task_count_beside_each_other() -> None:
    made = Tally()
    made.take(Told("gate", 0, 7, {"review": 0, "blocked": 1, "failed": 1, "fetched": -2}))
    assert made.counts() == {"blocked": 1, "failed": 1}
    made.take(Told("fetch", 0, 7, {"fetched": 9, "unchanged": 1, "failed": 1}))
    made.take(Told("canonical", 0, 7, {"allowed": 3, "failed": 1, "fetched": -4}))
    assert made.counts() == {"blocked": 1, "failed": 3, "allowed": 3, "fetched": 3, "unchanged": 1}


def test_what_comes_after_the_end_is_not_counted() -> None:
    made, ended = Tally(), threading.Event()
    receiving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiving.bind(("127.0.0.1", 0))
    receiving.settimeout(5)
    address = receiving.getsockname()
    waiting = threading.Thread(target=_receive, args=(receiving, "key", made, ended), daemon=True)
    waiting.start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as task:
        task.sendto(Told("fetch", 0, 7, {"failed": 20}).to_bytes("key"), address)
        deadline = time.monotonic() + 5
        while not made.counts() and time.monotonic() < deadline:
            time.sleep(0.01)
        ended.set()
        task.sendto(Told("fetch", 0, 9, {"failed": 2}).to_bytes("key"), address)
    waiting.join(10)
    assert not waiting.is_alive()
    assert made.counts() == {"failed": 20}


@pytest.mark.spark
def test_running_tasks_are_heard_each_once_though_it_is_tried_again(spark: SparkSession) -> None:
    with tally(spark) as made:
        listener = made.listener
        assert listener is not None

        def rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in telling(batches, listener, "fetch", lambda batch: {"failed": batch.num_rows}):
                yield batch
                task = TaskContext.get()
                if task is not None and task.partitionId() == 0 and task.attemptNumber() == 0:
                    raise ValueError("the first attempt")

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b'["fetch", 5, 9, {"failed": 1000}]', (listener.host, listener.port))
        assert spark.range(0, 40, 1, 2).mapInArrow(rows, "id bigint").count() == 40
        deadline = time.monotonic() + 20
        while made.counts() != {"failed": 40} and time.monotonic() < deadline:
            time.sleep(0.05)
        assert made.counts() == {"failed": 40}
    spark.range(0, 4, 1, 2).mapInArrow(rows, "id bigint").count()  # nobody listens any more
    assert made.counts() == {"failed": 40}


@pytest.mark.spark
def test_no_port_to_listen_at_is_no_failure(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(host: str) -> socket.socket:
        raise OSError("no port")

    monkeypatch.setattr("jobs.startup.tally._bound", refuse)
    with tally(spark) as made:
        assert made.listener is None
        assert made.counts() == {}
