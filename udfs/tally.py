"""What tasks have counted so far, told while they still run: for people who watch, and for nothing else.

Spark's accumulators reach the driver as a task ends; a crawl is a few tasks, which all end with it. So each task sends
what it has counted in a datagram from time to time. It waits for no answer; one that is lost is made good by the next,
which has the whole count again.
"""

import contextlib
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pyspark import TaskContext

SEND_EVERY_S = 2.0

Counted = TypeVar("Counted")


@dataclass(frozen=True)
class Listener:
    """Where counts are sent to."""

    host: str
    port: int
    key: str
    """By which the counts of this crawl are told from whatever else comes there."""


@dataclass(frozen=True)
class Told:
    """What a datagram says."""

    place: str
    """Which function of a task has counted; several may."""
    partition: int
    attempt: int
    """Greater than those of earlier attempts at the partition."""
    counts: Mapping[str, int]

    def to_bytes(self, key: str) -> bytes:
        """The datagram."""
        return (key + json.dumps([self.place, self.partition, self.attempt, self.counts])).encode()

    @classmethod
    def of_bytes(cls, datagram: bytes, key: str) -> "Told | None":
        """What a datagram says; None where it does not have the key."""
        said = datagram.removeprefix(key.encode())
        return cls(*json.loads(said)) if len(said) < len(datagram) else None


def telling(
    results: Iterable[Counted], listener: Listener | None, place: str, count: Callable[[Counted], Mapping[str, int]]
) -> Iterator[Counted]:
    """`results` as they come, of which a task's listener is told what `count` makes of them. Whatever goes wrong with
    that, the results are the same."""
    task = TaskContext.get()
    if listener is None or task is None:
        yield from results
        return
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        sending: socket.socket | None = None
        with contextlib.suppress(OSError, ValueError):  # a host may have a name that is none
            sending = stack.enter_context(_connected(listener))

        def tell() -> None:
            told = Told(place, task.partitionId(), task.taskAttemptId(), counts)
            if sending is not None:
                with contextlib.suppress(OSError):
                    sending.send(told.to_bytes(listener.key))

        stack.callback(tell)
        due = time.monotonic() + SEND_EVERY_S
        for result in results:
            with contextlib.suppress(Exception):  # nobody's night ends for want of a number on a screen
                counts.update(count(result))
            if time.monotonic() >= due:
                tell()
                due = time.monotonic() + SEND_EVERY_S
            yield result


def _connected(listener: Listener) -> socket.socket:
    """A socket that sends to the listener, and never waits. Raises OSError where its name is not known."""
    family, kind, protocol, _, address = socket.getaddrinfo(listener.host, listener.port, type=socket.SOCK_DGRAM)[0]
    sending = socket.socket(family, kind, protocol)
    sending.setblocking(False)
    sending.connect(address)
    return sending
