"""What keeps a long task's memory bounded: a budget that is waited for, a cache that forgets, a heap without holes."""

import asyncio
import ctypes
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")
Failure = TypeVar("Failure", bound=BaseException)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # <malloc.h>
_LARGE_BLOCK = 128 * 2**10
_LARGEST_THRESHOLD = 32 * 2**20
_NEVER_TRIMMED = 2**30


@contextmanager
def heap_without_holes() -> Iterator[None]:
    """Have glibc give every large block back to the system as soon as it is freed; elsewhere without effect.

    By itself glibc raises the size from which it does so with every large block that is freed, up to 32 MB, and gives
    each thread a heap of its own. Buffers of an event loop (256 KiB, most of it unused) beside bodies that live longer
    then leave holes that no other body fits in, and the process grows for as long as it runs. Afterwards the threshold
    is the 32 MB at which glibc would have arrived: a worker's later stages are not slowed down.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)


@contextmanager
def heap_kept() -> Iterator[None]:
    """Have glibc keep what is freed for the next batch; elsewhere without effect. Afterwards it goes back at once.

    A model's activations are tens of megabytes that every batch asks for anew. Given back in between, each of their
    pages is a fault, and zeroed by the kernel, again: measured, a quarter of what an image costs on a CPU.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
    libc.mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIMMED)
    try:
        yield
    finally:
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)  # at which glibc by itself would have arrived
        libc.malloc_trim(0)


def without_frames(error: Failure) -> Failure:
    """`error`, from which its traceback and the exceptions that led to it are taken, whose tracebacks go as well.

    A traceback holds every frame on the way, with all that the frame had read. Where one of these holds the exception
    in turn, all of it stays until Python looks for cycles, and it does so by the number of objects, not by their bytes.
    """
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is not None:
            chain += (link.__cause__, link.__context__)
            link.__traceback__ = link.__cause__ = link.__context__ = None
    return error


@dataclass(frozen=True, slots=True)
class _Waiter:
    count: int
    granted: asyncio.Future[None]


class Budget:
    """A number of units (bytes, slots) that are taken and given back; first come, first served, urgent ones before.

    Belongs to one event loop.
    """

    def __init__(self, total: int) -> None:
        self._free = self._total = total
        self._urgent: deque[_Waiter] = deque()
        self._others: deque[_Waiter] = deque()

    async def acquire(self, count: int, *, urgent: bool = False) -> None:
        """Takes `count` units, waiting until they are free.

        Raises:
            ValueError: `count` can never be free.
        """
        if count > self._total:
            raise ValueError(f"{count} units asked of a budget of {self._total}")
        if count <= self._free and not self._urgent and (urgent or not self._others):
            self._free -= count
            return
        waiter = _Waiter(count, asyncio.get_running_loop().create_future())
        (self._urgent if urgent else self._others).append(waiter)
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.cancelled():
                self._grant()
            else:  # granted in the same turn of the loop
                self.release(count)
            raise

    def release(self, count: int) -> None:
        """Gives `count` units back."""
        self._free += count
        self._grant()

    def _grant(self) -> None:
        for queue in (self._urgent, self._others):
            while queue:
                waiter = queue[0]
                if waiter.granted.done():  # cancelled
                    queue.popleft()
                    continue
                if waiter.count > self._free:
                    return
                queue.popleft()
                self._free -= waiter.count
                waiter.granted.set_result(None)


class RecentlyUsed(Generic[Value]):
    """A mapping that forgets what was used longest ago once the weights of its values exceed `capacity`.

    Values for which `in_use` holds are not forgotten.
    """

    def __init__(self, capacity: int, in_use: Callable[[Value], bool] = lambda _: False) -> None:
        self._capacity = capacity
        self._in_use = in_use
        self._entries: OrderedDict[str, tuple[Value, int]] = OrderedDict()
        self._weight = 0

    def get(self, key: str) -> Value | None:
        """The value of `key`, which counts as a use, or null."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: str, value: Value, weight: int = 1) -> None:
        """Sets the value of `key`, and forgets others as needed."""
        _, replaced = self._entries.pop(key, (None, 0))
        self._weight += weight - replaced
        for _ in range(len(self._entries)):
            if self._weight <= self._capacity:
                break
            oldest, entry = self._entries.popitem(last=False)
            if self._in_use(entry[0]):
                self._entries[oldest] = entry
            else:
                self._weight -= entry[1]
        self._entries[key] = (value, weight)
