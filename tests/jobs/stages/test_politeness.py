"""Politeness as servers see it, with two Spark tasks at work: never more to one host than configured."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from jobs.stages.crawl import spread_by_host
from schemas.arrow import ddl
from schemas.settings import CrawlSettings
from tests.crawling import SETTINGS, lookup
from tests.hostile_server import HostileServer
from tests.jobs.frames import frame
from udfs.crawl.fetch import FETCHED, fetch_batches
from udfs.urls import host_of, url_id

pytestmark = pytest.mark.spark

TASKS = 2
ROWS = 40
# How fast a page comes is not the point here, and a machine may be busy with other things.
PATIENT = SETTINGS.model_copy(update={"connect_timeout_s": 60, "request_timeout_s": 60, "row_deadline_s": 600})


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer() as running:
        yield running


def crawl(spark: SparkSession, urls: list[str], settings: CrawlSettings) -> list[dict[str, Any]]:
    """Fetches as the nightly job does, and says beside each row which task had it."""

    def fetch(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return fetch_batches(batches, settings, lookup=lookup, foreign_host_shards=TASKS)

    rows = [(url_id(url), url, host_of(url)) for url in urls]
    requests = spread_by_host(
        frame(spark, "url_id string, url string, host string", rows), TASKS, settings.per_host_concurrency
    )
    fetched = requests.mapInArrow(fetch, ddl(FETCHED))
    found = fetched.selectExpr("url", "failure_code", "body is not null fetched", "spark_partition_id() task").collect()
    assert Counter(row["url"] for row in found) == Counter(urls)
    return [row.asDict() for row in found]


def tasks_of(rows: list[dict[str, Any]], part: str) -> set[int]:
    """The tasks that fetched a picture from a URL that has this in it."""
    return {row["task"] for row in rows if part in row["url"] and row["fetched"]}


def pages(server: HostileServer) -> dict[str, list[str]]:
    """URLs of a host with most of all rows, of one that others redirect to, and of one for which both is so."""
    return {
        "hot.example": [server.url("hot.example", f"slow-picture?{i}") for i in range(3 * ROWS)],
        "cdn.example": [server.url(f"from{i}.example", f"onward/cdn.example/slow-picture?{i}") for i in range(ROWS)],
        "both.example": [
            *(server.url("both.example", f"slow-picture?own{i}") for i in range(ROWS // 2)),
            *(server.url(f"via{i}.example", f"onward/both.example/slow-picture?{i}") for i in range(ROWS // 2)),
        ],
    }


@pytest.mark.parametrize("limit", [4, 1])
def test_no_host_sees_more_requests_at_once_than_configured(
    spark: SparkSession, server: HostileServer, limit: int
) -> None:
    by_host = pages(server)
    settings = PATIENT.model_copy(update={"per_host_concurrency": limit})
    rows = crawl(spark, [url for urls in by_host.values() for url in urls], settings)
    assert all(row["fetched"] for row in rows), Counter(row["failure_code"] for row in rows)
    assert {host: server.most_at_once[host] for host in by_host if server.most_at_once[host] > limit} == {}
    # That several tasks were at each of them is what makes this a test; one connection is one task's.
    for part in ("onward/cdn.example", "both.example", *(["hot.example"] if limit > 1 else [])):
        assert tasks_of(rows, part) == {0, 1}


def test_no_host_sees_more_requests_a_second_than_configured(spark: SparkSession, server: HostileServer) -> None:
    by_host = {host: urls[::2] for host, urls in pages(server).items()}
    settings = PATIENT.model_copy(update={"per_host_rate": 20.0})
    rows = crawl(spark, [url for urls in by_host.values() for url in urls], settings)
    assert all(row["fetched"] for row in rows), Counter(row["failure_code"] for row in rows)
    for host in by_host:
        times = [at for at, _ in server.requests_to(host, robots=True)]
        assert len(times) > ROWS // 2
        # Each task keeps to its share of the rate; their first requests may fall together, and each may come late.
        most = max(sum(start <= at < start + 0.5 for at in times) for start in times)
        assert most <= 20 * 0.5 + TASKS, host
    for part in ("onward/cdn.example", "both.example", "hot.example"):
        assert tasks_of(rows, part) == {0, 1}


SIZES = {"small.example": 2, "hot.example": 40}
"""URLs of a host."""


def test_crawls_that_go_on_together_divide_a_hosts_limits(spark: SparkSession) -> None:
    rows = [(url_id(f"http://{host}/{i}"), f"http://{host}/{i}", host) for host, n in SIZES.items() for i in range(n)]
    requests = frame(spark, "url_id string, url string, host string", rows)

    def shards(crawlers: int) -> dict[str, set[int]]:
        found = spread_by_host(requests, TASKS, 4, crawlers).selectExpr("parse_url(url, 'HOST') host", "host_shards")
        rows = found.distinct().collect()
        return {host: {row["host_shards"] for row in rows if row["host"] == host} for host in SIZES}

    alone = shards(1)
    assert alone["small.example"] == {1}
    assert alone["hot.example"] == {TASKS}
    assert shards(2) == {"small.example": {2}, "hot.example": {2 * min(TASKS, 2)}}
    assert shards(4) == {"small.example": {4}, "hot.example": {4}}
