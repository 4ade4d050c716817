"""Politeness towards one host: how many requests at once, how often, and when to leave it alone.

All of it lives on one event loop, and counts in that loop's clock (seconds).
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import islice

from schemas.settings import CrawlSettings

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
    async def slot(self, task_slots: asyncio.Semaphore) -> AsyncIterator[None]:
        """Holds one of the host's slots and one of the task's, entered no earlier than the host's rate allows.

        The task's slot is taken last and never held while waiting: a hot host must not starve the others.

        Raises:
            HostUnavailableError: see `check`.
        """
        self.waiting += 1
        try:
            async with self._slots:
                await self._await_turn(task_slots)
                try:
                    yield
                finally:
                    task_slots.release()
        finally:
            self.waiting -= 1

    async def _await_turn(self, task_slots: asyncio.Semaphore) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self.check()
            wait = max(self._next_start, self._not_before) - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
                continue
            await task_slots.acquire()
            now = loop.time()
            if now < max(self._next_start, self._not_before):
                task_slots.release()
                continue
            self._requests += 1
            self._next_start = now + max(self._own_interval, self._crawl_delay)
            return


class HostGates:
    """The gates of the hosts met lately; idle ones beyond `capacity` are forgotten, so that memory stays bounded."""

    def __init__(self, make: Callable[[int], HostGate], capacity: int = 20_000) -> None:
        self._make = make
        self._capacity = capacity
        self._gates: OrderedDict[str, HostGate] = OrderedDict()

    def gate(self, key: str, shards: int) -> HostGate:
        """The gate of `key`, made with `shards` on first sight."""
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = self._make(shards)
            self._forget_idle()
        else:
            self._gates.move_to_end(key)
        return gate

    def _forget_idle(self) -> None:
        if len(self._gates) <= self._capacity:
            return
        # A tenth at a time: the scan is then paid once in many hosts.
        idle = (key for key, gate in self._gates.items() if gate.waiting == 0)
        for key in list(islice(idle, self._capacity // 10 + 1)):
            del self._gates[key]
