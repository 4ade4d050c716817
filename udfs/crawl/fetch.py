"""The crawl as a function from Arrow batches to Arrow batches, for Spark's `mapInArrow`.

One event loop in one background thread a task fetches; the task's own thread reads input as capacity frees and hands
on results as they complete, in any order, so that no slow row holds back the others and memory stays bounded whatever
the size of the input.
"""

import asyncio
import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from itertools import islice
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from schemas.settings import CrawlSettings
from udfs.bounded import heap_without_holes
from udfs.crawl.addresses import Lookup
from udfs.crawl.crawler import Crawler, Fetched, Refuse, Target
from udfs.credentials import redact_text, redact_url

FETCHED = pa.schema(
    [
        pa.field("url_id", pa.string()),
        pa.field("url", pa.string()),
        pa.field("status", pa.int32()),
        pa.field("final_url", pa.string()),
        pa.field("content_type", pa.string()),
        pa.field("etag", pa.string()),
        pa.field("last_modified", pa.string()),
        pa.field("x_robots_tag", pa.string()),
        pa.field("tdm_reservation", pa.string()),
        pa.field("robots_evidence", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("attempts", pa.int32()),
        pa.field("redirects", pa.int32()),
        pa.field("hops", pa.list_(pa.string())),
        pa.field("fetched_at", pa.timestamp("us", tz="UTC")),
        pa.field("duration_ms", pa.float64()),
        pa.field("failure_code", pa.string()),
        pa.field("failure_detail", pa.string()),
        pa.field("deferred", pa.bool_()),
        pa.field("blocked_reason", pa.string()),
        pa.field("not_modified", pa.bool_()),
        pa.field("image_id", pa.string()),
        pa.field("body", pa.binary()),
    ]
)
"""One row per row of the input, without the credentials of URLs. `url_id` and `url` are the input's; `final_url` is
the last URL requested; `hops` are the redirect targets in order, up to the last; `bytes` is the length of the body;
`attempts` counts tries, not redirects; `duration_ms` leaves out politeness. Exactly one of these holds: `body` and
`image_id` (SHA-256 hex of it), `not_modified` (a 304; `image_id` is the input's), `failure_code`, `deferred`,
`blocked_reason`. Validators that a 304 does not repeat are those that were sent; there are none of a URL that had
credentials, for they could not be told from another's."""

BATCH_ROWS = 256
BATCH_BYTES = 32 * 2**20
LINGER_S = 0.5
"""A batch goes out when it has so many rows or bytes, or when its first row has waited so long."""

SUBMIT_ROWS = 256
"""Rows read from the input before results are looked at again."""

DEADLINE = "deadline"

_URLS = ("url", "final_url", "hops")
_TEXTS = ("content_type", "x_robots_tag", "tdm_reservation", "robots_evidence", "failure_detail")
"""Columns that may hold credentials of URLs, the row's own or those that a server sent."""


def fetch_batches(
    batches: Iterable[pa.RecordBatch],
    settings: CrawlSettings,
    *,
    refuse: Refuse | None = None,
    deadline_at: float | None = None,
    lookup: Lookup | None = None,
    foreign_host_shards: int = 1,
) -> Iterator[pa.RecordBatch]:
    """Fetches every row of `batches`; yields exactly one row of `FETCHED` for each, in any order.

    Args:
        batches: with columns `url_id string, url string`, and optionally `validated_url string, etag string,
            last_modified string, image_id string` (validators, the URL that gave them, and the content that it gave
            them with: that URL is then asked conditionally) and `host_shards int` (how many tasks share the row's host:
            its limits are divided by that; at least one connection remains).
        settings: limits and manners.
        refuse: called on another thread with every URL before it is requested, redirects included; a reason code that
            it returns ends the row as `blocked_reason`.
        deadline_at: epoch seconds; what has no outcome by then is deferred.
        lookup: name resolution, in place of the operating system's.
        foreign_host_shards: how many tasks may meet one host by redirects at the same time: a part of its limits is
            kept for them and divided.

    Raises:
        Whatever iterating `batches` raises. Nothing that a row, a server or the network does.
    """
    targets = _targets(batches)
    crawler = Crawler(settings, refuse=refuse, lookup=lookup, foreign_host_shards=foreign_host_shards)
    with heap_without_holes(), _Engine(crawler, settings, deadline_at) as engine:
        exhausted = False
        while not (exhausted and engine.finished()):
            if not exhausted and engine.wants_rows():
                rows = list(islice(targets, SUBMIT_ROWS))
                exhausted = len(rows) < SUBMIT_ROWS
                engine.submit(rows)
            for completed in _split(engine.collect(rows_left=not exhausted)):
                size = sum(len(row.body) for row in completed if row.body)
                yield _to_batch(completed)
                engine.release(size)


def fetched_so_far(fetched: pa.RecordBatch) -> Mapping[str, int]:
    """What came of rows of `FETCHED`: `fetched` are those with a body, of which the gate will say what comes."""
    return {
        "fetched": fetched.num_rows - fetched.column("body").null_count,
        "unchanged": fetched.column("not_modified").true_count,
        "blocked": fetched.num_rows - fetched.column("blocked_reason").null_count,
        "failed": fetched.num_rows - fetched.column("failure_code").null_count,
        "deferred": fetched.column("deferred").true_count,
    }


def _targets(batches: Iterable[pa.RecordBatch]) -> Iterator[Target]:
    names = [field.name for field in fields(Target)]
    for batch in batches:
        present = [name for name in names if name in batch.schema.names]
        for values in zip(*(batch.column(name).to_pylist() for name in present), strict=True):
            yield Target(**dict(zip(present, values, strict=True)))


def _split(rows: list[Fetched]) -> Iterator[list[Fetched]]:
    """Cuts rows into batches of at most `BATCH_ROWS` rows and, but for a single larger one, `BATCH_BYTES` bytes."""
    batch: list[Fetched] = []
    size = 0
    for row in rows:
        length = len(row.body) if row.body else 0
        if batch and (len(batch) == BATCH_ROWS or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += length
    if batch:
        yield batch


def _to_batch(rows: list[Fetched]) -> pa.RecordBatch:
    """The rows as Arrow has them. Their bodies are taken from them: the batch has copies, and others of the same
    collection are still to be handed on.
    """
    # Hashed here rather than on the loop's thread: SHA-256 lets go of the interpreter lock, so that both run at once.
    computed: dict[str, list[Any]] = {
        "image_id": [hashlib.sha256(row.body).hexdigest() if row.body else row.image_id for row in rows],
        "bytes": [row.size for row in rows],
        # Here, where evidence leaves the crawler: what is fetched and held against the policy is the URL as it is.
        **{name: [_redacted(getattr(row, name), redact_url) for row in rows] for name in _URLS},
        **{name: [_redacted(getattr(row, name), redact_text) for row in rows] for name in _TEXTS},
    }
    # Validators go to the URL that gave them alone: of one that is not kept they are nobody's.
    kept = [row.final_url == shown for row, shown in zip(rows, computed["final_url"], strict=True)]
    for name in ("etag", "last_modified"):
        computed[name] = [getattr(row, name) if is_kept else None for row, is_kept in zip(rows, kept, strict=True)]
    arrays = [
        pa.array(computed.get(field.name) or [getattr(row, field.name) for row in rows], type=field.type)
        for field in FETCHED
    ]
    for row in rows:
        row.body = None
    return pa.RecordBatch.from_arrays(arrays, schema=FETCHED)


def _redacted(value: Any, redact: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [redact(part) for part in value]
    return redact(value) if value is not None else None


class _Engine:
    """The event loop in its thread, and what passes between it and the task's own thread."""

    def __init__(self, crawler: Crawler, settings: CrawlSettings, deadline_at: float | None) -> None:
        self._crawler = crawler
        self._lookahead = settings.lookahead_rows
        self._ripe_bytes = min(BATCH_BYTES, settings.max_pending_bytes // 8)
        self._deadline_at = deadline_at
        self._thread = threading.Thread(target=self._run, name="lensfeed-fetch", daemon=True)
        self._started = threading.Event()
        self._tasks: dict[asyncio.Task[Fetched], Target] = {}
        self._expired = False
        self._changed = threading.Condition()
        # Under the condition's lock:
        self._unfinished = 0
        self._completed: list[Fetched] = []
        self._completed_bytes = 0
        self._oldest = 0.0
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself: its error was raised by collect
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def wants_rows(self) -> bool:
        """Whether more rows should be read ahead."""
        return self._unfinished < self._lookahead

    def finished(self) -> bool:
        """Whether every row submitted has been collected."""
        with self._changed:
            return self._unfinished == 0 and not self._completed

    def submit(self, targets: list[Target]) -> None:
        """Starts rows."""
        with self._changed:
            self._unfinished += len(targets)
        self._loop.call_soon_threadsafe(self._start, targets)

    def release(self, count: int) -> None:
        """Gives back the bytes of rows collected, once they are handed on."""
        self._loop.call_soon_threadsafe(self._crawler.release, count)

    def collect(self, *, rows_left: bool) -> list[Fetched]:
        """The rows completed, once they make a batch or have lingered; none where more can be read ahead first.

        Args:
            rows_left: whether there are more to read: at once where the read-ahead is not full, else when half of it is
                used up. Without, there is nothing to return for but a batch.
        """
        at_once = rows_left and self.wants_rows()
        with self._changed:
            while True:
                if self._error is not None:
                    raise RuntimeError("the fetcher's event loop ended") from self._error
                lingered = time.monotonic() - self._oldest if self._completed else 0.0
                if self._is_ripe() or lingered >= LINGER_S:
                    completed, self._completed, self._completed_bytes = self._completed, [], 0
                    return completed
                if at_once or (rows_left and self._has_room()):
                    return []
                self._changed.wait(LINGER_S - lingered)

    def _is_ripe(self) -> bool:
        return len(self._completed) >= BATCH_ROWS or self._completed_bytes >= self._ripe_bytes or self._unfinished == 0

    def _has_room(self) -> bool:
        return self._unfinished <= self._lookahead // 2

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - raised again by collect, on the task's own thread
            with self._changed:
                self._error = error
                self._changed.notify()
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self._crawler:
            if self._deadline_at is not None:
                self._loop.call_later(max(0.0, self._deadline_at - time.time()), self._expire)
            self._started.set()
            await self._stop.wait()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, targets: list[Target]) -> None:
        for target in targets:
            if self._expired:
                self._finish(_deferred(target))
                continue
            task = self._loop.create_task(self._crawler.fetch(target))
            self._tasks[task] = target
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Fetched]) -> None:
        target = self._tasks.pop(task)
        if not task.cancelled():
            self._finish(task.result())
        elif self._expired:
            self._finish(_deferred(target))

    def _expire(self) -> None:
        self._expired = True
        for task in self._tasks:
            task.cancel()

    def _finish(self, fetched: Fetched) -> None:
        with self._changed:
            if not self._completed:
                self._oldest = time.monotonic()
            self._completed.append(fetched)
            self._completed_bytes += len(fetched.body) if fetched.body else 0
            self._unfinished -= 1
            if self._is_ripe() or self._has_room():
                self._changed.notify()


def _deferred(target: Target) -> Fetched:
    return Fetched(target.url_id, target.url, deferred=True, failure_detail=DEADLINE, fetched_at=datetime.now(UTC))
