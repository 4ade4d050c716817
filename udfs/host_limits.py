"""Politeness towards one host: how many requests at once, how often, and when to leave it alone.

All of it lives on one event loop, and counts in that loop's clock (seconds).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from schemas.settings import CrawlSettings
from udfs.bounded import Budget

RETRIES_ALWAYS_ALLOWED = 10
RETRIES_PER_REQUEST = 0.2
"""A host's budget of retries: ten, and one for every five requests, so that an outage is not multiplied by it."""


class HostUnavailableError(Exception):
    """The host is left alone; `reason` is `circuit_open` or `host_pause`, and its rows are deferred."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class HostGate:
    """Admits requests to one host. `shards` is the number of tasks that share the host: each takes its part."""

    __slots__ = (  # there is one a host
        "_breaker_failures",
        "_crawl_delay",
        "_failures_in_a_row",
        "_max_pause",
        "_next_start",
        "_not_before",
        "_own_interval",
        "_requests",
        "_retries",
        "_shards",
        "_slots",
        "waiting",
    )

    def __init__(self, settings: CrawlSettings, shards: int = 1) -> None:
        self._shards = max(1, shards)
        self._slots = asyncio.Semaphore(max(1, settings.per_host_concurrency // self._shards))
        rate = settings.per_host_rate
        self._own_interval = self._shards / rate if rate is not None else 0.0
        self._crawl_delay = 0.0
        self._max_pause = settings.max_host_pause_s
        self._breaker_failures = settings.circuit_breaker_failures
        self._next_start = 0.0
        self._not_before = 0.0
        self._failures_in_a_row = 0
        self._requests = 0
        self._retries = 0
        self.waiting = 0

    def set_crawl_delay(self, seconds: float) -> None:
        """Obey a Crawl-delay from the next request on."""
        self._crawl_delay = seconds * self._shards

    def pause(self, seconds: float) -> None:
        """Send nothing for so long (Retry-After)."""
        self._not_before = max(self._not_before, asyncio.get_running_loop().time() + seconds)

    def succeeded(self) -> None:
        """The host answered; whatever the status."""
        self._failures_in_a_row = 0

    def failed(self) -> None:
        """A connection-level failure: name, connection, TLS, time-out."""
        self._failures_in_a_row += 1

    def may_retry(self) -> bool:
        """Takes one retry from the host's budget; false when it is spent."""
        if self._retries >= RETRIES_ALWAYS_ALLOWED + RETRIES_PER_REQUEST * self._requests:
            return False
        self._retries += 1
        return True

    def check(self) -> None:
        """Raises `HostUnavailableError` when a row must not wait for this host."""
        if self._failures_in_a_row >= self._breaker_failures:
            raise HostUnavailableError("circuit_open")
        now = asyncio.get_running_loop().time()
        asked_by_host = max(self._not_before, self._next_start if self._crawl_delay > self._own_interval else 0.0)
        if asked_by_host - now > self._max_pause:
            raise HostUnavailableError("host_pause")

    @asynccontextmanager
    async def slot(self, task_slots: Budget, *, urgent: bool) -> AsyncIterator[None]:
        """Holds one of the host's slots and one of the task's, entered no earlier than the host's rate allows.

        The task's slot is taken last and never held while waiting: a hot host must not starve the others. `urgent`
        requests take theirs before others do.

        Raises:
            HostUnavailableError: see `check`.
        """
        self.waiting += 1
        try:
            async with self._slots:
                await self._await_turn(task_slots, urgent)
                try:
                    yield
                finally:
                    task_slots.release(1)
        finally:
            self.waiting -= 1

    async def _await_turn(self, task_slots: Budget, urgent: bool) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self.check()
            wait = max(self._next_start, self._not_before) - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            await task_slots.acquire(1, urgent=urgent)
            now = loop.time()
            if now < max(self._next_start, self._not_before):
                task_slots.release(1)
                continue
            self._requests += 1
            self._next_start = now + max(self._own_interval, self._crawl_delay)
            return
