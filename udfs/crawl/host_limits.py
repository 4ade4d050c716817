"""Politeness towards one host: how many requests at once, how often, and when to leave it alone.

All of it lives on one event loop, and counts in that loop's clock (seconds). Tasks that may meet the same host divide
its limits among them (`share_of`); those of one machine also hold each connection under a lock that they all see
(`MachineSlots`), since a connection cannot be divided.
"""

import asyncio
import fcntl
import os
import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Self

from schemas.settings import CrawlSettings
from udfs.bounded import Budget

RETRIES_ALWAYS_ALLOWED = 10
RETRIES_PER_REQUEST = 0.2
"""A host's budget of retries: ten, and one for every five requests, so that an outage is not multiplied by it."""

LOOK_AGAIN_S = 0.02
"""How long to wait for other tasks of the machine to give a connection back; there is nobody to tell us."""


class HostUnavailableError(Exception):
    """The host is left alone; `reason` is `circuit_open` or `host_pause`, and its rows are deferred."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Share:
    """A task's part of a host's limits: connections at once, and the fraction of the rate."""

    connections: int
    fraction: float
    is_own: bool = True
    """Whether the task has URLs of the host, or met it by a redirect."""


def share_of(limit: int, tasks: int, shards: int | None) -> Share:
    """A task's share of a host that allows `limit` connections at once.

    Args:
        tasks: how many tasks may meet the host.
        shards: how many of them have URLs of the host, this one included; null where this one has none, and met it by
            a redirect. Half of the limits at most is kept for such tasks.

    The fractions of all tasks come to one at most. So do the connections to `limit`, unless there are more tasks than
    connections: each task needs one.
    """
    if tasks == 1 and shards is None:
        return Share(limit, 1.0)
    connections, fraction = max(1, limit // (2 * tasks)), 1 / (2 * tasks)
    if shards is None:
        return Share(connections, fraction, is_own=False)
    others = max(0, tasks - shards)
    kept = min(others * connections, limit // 2)
    return Share(max(1, (limit - kept) // shards), (1 - others * fraction) / shards)


class MachineSlots:
    """Connections that are counted over all tasks of a machine, whatever they are to each other: locks on single bytes
    of one file, a few for each host. A process that ends, ends its locks. Use as a context manager.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: set[int] = set()

    def __enter__(self) -> Self:
        path = Path(tempfile.gettempdir(), f"lensfeed-hosts-{os.getuid()}.lock")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def take(self, host: str) -> int | None:
        """One of the host's slots, to be given back to `release`; null where all are taken."""
        first = int.from_bytes(blake2b(host.encode(), digest_size=6).digest(), "big") << 14
        for slot in range(first, first + self._limit):
            # The lock alone would not do: it is the process's, and would be granted to it again.
            if slot not in self._held:
                try:
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
                except (BlockingIOError, PermissionError):  # POSIX allows either
                    continue
                self._held.add(slot)
                return slot
        return None

    def release(self, slot: int) -> None:
        """Gives a slot back."""
        self._held.remove(slot)
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)


class HostGate:
    """Admits requests to one host, within a task's share of its limits and those of the machine."""

    __slots__ = (  # there is one a host
        "_breaker_failures",
        "_connections",
        "_crawl_delay",
        "_failures_in_a_row",
        "_fraction",
        "_host",
        "_is_own",
        "_machine_slots",
        "_max_pause",
        "_next_start",
        "_not_before",
        "_rate",
        "_requests",
        "_retries",
        "_slots",
        "waiting",
    )

    def __init__(self, settings: CrawlSettings, host: str, share: Share, machine_slots: MachineSlots) -> None:
        self._host = host
        self._machine_slots = machine_slots
        self._connections = share.connections
        self._fraction = share.fraction
        self._is_own = share.is_own
        self._slots = asyncio.Semaphore(share.connections)
        self._rate = settings.per_host_rate
        self._crawl_delay = 0.0
        self._max_pause = settings.max_host_pause_s
        self._breaker_failures = settings.circuit_breaker_failures
        self._next_start = 0.0
        self._not_before = 0.0
        self._failures_in_a_row = 0
        self._requests = 0
        self._retries = 0
        self.waiting = 0

    def widen(self, share: Share) -> None:
        """Take over a larger share: a host that was met by a redirect turns out to be one of the task's own."""
        for _ in range(self._connections, share.connections):
            self._slots.release()
        self._connections = max(self._connections, share.connections)
        self._fraction = max(self._fraction, share.fraction)
        self._is_own = self._is_own or share.is_own

    def set_crawl_delay(self, seconds: float) -> None:
        """Obey a Crawl-delay from the next request on."""
        self._crawl_delay = seconds

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
        is_asked = self._crawl_delay > self._own_interval()
        # What the host asks for, and not what that comes to for one of several tasks: they would defer all of its rows,
        # every night. What a redirect led here may wait for another one.
        between = (self._next_start - now) * (self._fraction if self._is_own else 1.0)
        if max(self._not_before - now, between if is_asked else 0.0) > self._max_pause:
            raise HostUnavailableError("host_pause")

    @asynccontextmanager
    async def slot(self, task_slots: Budget, *, urgent: bool) -> AsyncIterator[None]:
        """Holds one of the host's slots and one of the task's, entered no earlier than the host's rate allows.

        The task's slot is never held while waiting: a hot host must not starve the others. `urgent` requests take
        theirs before others do.

        Raises:
            HostUnavailableError: see `check`.
        """
        self.waiting += 1
        try:
            async with self._slots:
                machine_slot = await self._await_turn(task_slots, urgent)
                try:
                    yield
                finally:
                    task_slots.release(1)
                    self._machine_slots.release(machine_slot)
        finally:
            self.waiting -= 1

    def _own_interval(self) -> float:
        return 1 / self._rate if self._rate is not None else 0.0

    async def _await_turn(self, task_slots: Budget, urgent: bool) -> int:
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
            machine_slot = self._machine_slots.take(self._host)
            if machine_slot is None:
                task_slots.release(1)
                await asyncio.sleep(random.uniform(0.5, 1.5) * LOOK_AGAIN_S)
                continue
            self._requests += 1
            self._next_start = now + max(self._own_interval(), self._crawl_delay) / self._fraction
            return machine_slot
