"""The driver's end of what tasks tell while they run (udfs.tally)."""

import contextlib
import secrets
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from jobs.config.progress import log
from udfs.tally import Listener, Told

_LARGEST = 4096
"""Bytes of a datagram that is looked at."""


class Tally:
    """Counts of all tasks, as far as they have come."""

    def __init__(self, listener: Listener | None = None) -> None:
        self.listener = listener
        """None where nothing comes."""
        self._told: dict[tuple[str, int], Told] = {}
        self._lock = threading.Lock()

    def take(self, told: Told) -> None:
        """What a task has counted, in place of what it said before.

        Of a partition its newest attempt counts alone: a task that is tried again begins anew, and what an attempt
        before it has counted is not counted twice. (Of two attempts at the same time, as of speculative execution, that
        is the one begun last, whichever wins.)
        """
        place = told.place, told.partition
        with self._lock:
            known = self._told.get(place)
            if known is None or told.attempt >= known.attempt:
                self._told[place] = told

    def counts(self) -> dict[str, int]:
        """Of all partitions, what there is any of. A few seconds old, and of each function of a task as old as its last
        datagram: one may have taken rows from another that has not told of them yet."""
        total: Counter[str] = Counter()
        with self._lock:
            for told in self._told.values():
                total.update(told.counts)
        return {name: count for name, count in total.items() if count > 0}


@contextmanager
def tally(spark: SparkSession) -> Iterator[Tally]:
    """Listen to tasks; to none where no port can be had for it, which is no reason to fail."""
    conf = spark.sparkContext.getConf()
    host = (conf.get("spark.driver.host") or "127.0.0.1").strip("[]")
    try:
        receiving = _bound((conf.get("spark.driver.bindAddress") or host).strip("[]"))
    except (OSError, ValueError) as error:
        log.debug("no running counts: %r", error)
        yield Tally()
        return
    listener = Listener(host, receiving.getsockname()[1], secrets.token_hex(16))
    made, ended = Tally(listener), threading.Event()
    threading.Thread(target=_receive, args=(receiving, listener.key, made, ended), name="tally", daemon=True).start()
    try:
        yield made
    finally:
        ended.set()


def _bound(host: str) -> socket.socket:
    """A socket with a port of its own, at which datagrams come in. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)[0]
    receiving = socket.socket(family, kind, protocol)
    try:
        receiving.settimeout(0.2)
        receiving.bind(address)
    except OSError:
        receiving.close()
        raise
    return receiving


def _receive(receiving: socket.socket, key: str, made: Tally, ended: threading.Event) -> None:
    with receiving:
        while not ended.is_set():
            with contextlib.suppress(OSError, ValueError, TypeError):  # none came in time, or none of ours
                told = Told.of_bytes(receiving.recv(_LARGEST), key)
                if told is not None and not ended.is_set():  # a later job's may come while this one waits
                    made.take(told)
