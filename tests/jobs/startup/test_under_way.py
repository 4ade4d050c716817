"""What Spark says of the stages that run."""

import threading
import time
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs.config.live import UnderWay
from jobs.startup.session import under_way

pytestmark = pytest.mark.spark


def slowly(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        time.sleep(1.5)
        yield batch


def test_the_tasks_of_a_running_stage_are_counted(spark: SparkSession) -> None:
    rows = spark.range(0, 40, 1, 6).mapInArrow(slowly, "id bigint")
    ended = threading.Event()

    def run() -> None:
        try:
            assert rows.count() == 40
        finally:
            ended.set()

    job = threading.Thread(target=run)
    seen: list[UnderWay] = []
    job.start()
    while not ended.wait(0.1):
        now = under_way(spark)
        if now is not None:
            seen.append(now)
    job.join()
    slow = [one for one in seen if one.tasks == 6]
    assert slow
    assert [one.done for one in slow] == sorted(one.done for one in slow)
    assert slow[0].done < 6
    assert len({one.stages for one in slow}) == 1


def test_nothing_is_under_way_where_nothing_runs(spark: SparkSession) -> None:
    deadline = time.monotonic() + 20
    while under_way(spark) is not None and time.monotonic() < deadline:
        time.sleep(0.05)  # the listener that the store goes by is a moment behind
    assert under_way(spark) is None
