"""What a task holds does not grow with the rows behind it: a row that has ended holds nothing, however it ended."""

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pytest

from tests.crawling import SETTINGS, batch_of, lookup
from tests.hostile_server import HANDLERS, HostileServer, answer, reset
from udfs.crawl.crawler import _Row
from udfs.crawl.exchange import _BodyReader
from udfs.crawl.fetch import SUBMIT_ROWS, fetch_batches

ONE_SUBMISSION = SETTINGS.model_copy(update={"lookahead_rows": 1, "circuit_breaker_failures": 10_000})
"""The next rows are asked for once those before have all ended."""

SUBMISSIONS = 6
MOST_BYTES_A_ROW = 500


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    robots = {"resetting.example": reset, "broken.example": answer(500)}
    with HostileServer(robots=robots) as running:
        yield running


@contextmanager
def uncollected() -> Iterator[None]:
    """Reference cycles stay: bodies that hang on one would stay until a collection, which bytes do not bring about."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def fetch_between(submissions: list[list[str]], look: Callable[[], None]) -> int:
    """Fetches lists of `SUBMIT_ROWS` URLs, one after another's end, with a `look` after each; the rows that came."""

    def batches() -> Iterator[pa.RecordBatch]:
        for urls in submissions:
            assert len(urls) == SUBMIT_ROWS
            yield batch_of(urls)
            look()

    return sum(batch.num_rows for batch in fetch_batches(batches(), ONE_SUBMISSION, lookup=lookup))


def test_a_row_that_has_ended_holds_nothing_however_it_ended(server: HostileServer) -> None:
    ended = [server.url(f"{path}.example", f"{path}/1") for path in HANDLERS if path != "onward"]
    ended += [server.url(host, "onward/unknown.example/picture") for host in ("a.example", "b.example")]
    ended += [server.url(host, "picture") for host in ("resetting.example", "broken.example", "unknown.example")]
    ended += [f"http://dead-{number}.example:1/picture" for number in range(10)]
    ended += ["http://10.0.0.1/", "http://[half", *(server.url("fine.example", f"picture?{n}") for n in range(256))]
    held: list[list[str]] = []

    def look() -> None:
        held.append([repr(thing) for thing in gc.get_objects() if isinstance(thing, _Row | _BodyReader)])

    with uncollected():
        assert fetch_between([ended[:SUBMIT_ROWS]], look) == SUBMIT_ROWS
    assert held == [[]]


def test_nothing_stays_for_a_row_but_what_is_known_of_its_host(server: HostileServer) -> None:
    paths = ("missing", "html", "noai", "empty", "to-metadata", "picture")
    submissions = [
        [server.url("one.example", f"{paths[row % len(paths)]}?{turn}-{row}") for row in range(SUBMIT_ROWS)]
        for turn in range(SUBMISSIONS)
    ]
    traced: list[int] = []

    def look() -> None:
        server.requests.clear()
        server.counts.clear()
        gc.collect()
        traced.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        fetch_between(submissions, look)
    finally:
        tracemalloc.stop()
    # The least of each half: how many rows wait to be handed on just then, and how many connections, differs.
    half = SUBMISSIONS // 2
    assert min(traced[half:]) - min(traced[:half]) < MOST_BYTES_A_ROW * half * SUBMIT_ROWS


def test_bodies_handed_on_are_let_go_of_before_others_take_their_place(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HANDLERS, "large", answer(200, bytes(100 * 2**10)))
    monkeypatch.setattr("udfs.crawl.fetch.BATCH_BYTES", 2**20)
    pending = 16 * 2**20
    settings = SETTINGS.model_copy(update={"concurrency": 4, "max_pending_bytes": pending})
    batches = fetch_batches(
        [batch_of([server.url("one.example", f"large?{row}") for row in range(400)])], settings, lookup=lookup
    )
    tracemalloc.start()
    try:
        for _ in batches:
            time.sleep(0.05)  # the consumer is slow: whatever there is room for is fetched in the meantime
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 1.2 * pending
