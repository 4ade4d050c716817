"""The lease that keeps two drivers apart: one holder a warehouse, renewed while it works, taken over when it stops.

A lease is a file `_lease/{generation}.json`, made by an atomic create: of two drivers that want generation n + 1 one
gets it. The holder rewrites its file while it lives; a holder that has been silent for the lease's time to live, or
whose process is gone from this very machine, has lost it.
"""

import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from types import TracebackType

import psutil

from jobs.errors import RunError
from jobs.storage import Storage

_FOLDER = "_lease"
POLL_S = 2.0
"""Between two looks of a job that waits."""


@dataclass(frozen=True)
class LeaseRecord:
    """What a lease file holds."""

    generation: int
    holder: str
    host: str
    pid: int
    process_started: float
    """Creation time of the process (epoch seconds): pids are used again."""
    renewed_at: float
    ttl_s: float
    released: bool = False

    def is_free(self, now: float) -> bool:
        """Whether somebody else may take it."""
        if self.released or now - self.renewed_at > self.ttl_s:
            return True
        return self.host == socket.gethostname() and not _alive(self.pid, self.process_started)


def _alive(pid: int, started: float) -> bool:
    try:
        return abs(psutil.Process(pid).create_time() - started) < 1.0
    except psutil.NoSuchProcess:
        return False


class Lease:
    """Context manager; raises RunError when somebody else holds the warehouse for longer than `wait_s` seconds."""

    def __init__(self, storage: Storage, holder: str, ttl_s: float, wait_s: float = 0) -> None:
        self._storage = storage
        self._wait_s = wait_s
        me = psutil.Process()
        self._record = LeaseRecord(0, holder, socket.gethostname(), os.getpid(), me.create_time(), time.time(), ttl_s)
        self._stop = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)

    @property
    def generation(self) -> int:
        """The number of this lease: later leases have larger ones."""
        return self._record.generation

    def __enter__(self) -> "Lease":
        until = time.monotonic() + self._wait_s
        while True:
            try:
                self._take()
            except RunError:
                left = until - time.monotonic()
                if left <= 0:
                    raise
                time.sleep(min(POLL_S, left))
            else:
                self._renewer.start()
                return self

    def _take(self) -> None:
        """One try. Raises RunError where it is another's."""
        generations = self._generations()
        newest = max(generations, default=0)
        if newest:
            self._check_free(newest)
        self._record = replace(self._record, generation=newest + 1, renewed_at=time.time())
        # A taker that was slow may create a name anew that others have taken, released and cleaned up since.
        if not self._storage.create_text(self._text(), _FOLDER, self._name()) or max(self._generations()) > newest + 1:
            raise RunError(f"another driver took the warehouse {self._storage.root} at this very moment; try again")
        for generation in sorted(generations)[:-1]:
            self._storage.delete(_FOLDER, f"{generation}.json")

    def _generations(self) -> list[int]:
        names = [name.removesuffix(".json") for name in self._storage.names(_FOLDER)]
        return [int(name) for name in names if name.isdigit()]

    def _check_free(self, generation: int) -> None:
        """Raise RunError where the lease of that generation is held."""
        held = self._read(generation)
        if held is None:
            age = time.time() - self._storage.modified_at(_FOLDER, f"{generation}.json")
            if age <= self._record.ttl_s:
                raise RunError(f"another driver is just taking the warehouse {self._storage.root}; try again")
        elif not held.is_free(time.time()):
            raise RunError(
                f"the warehouse {self._storage.root} is held by {held.holder} (pid {held.pid} on {held.host}); "
                f"wait for it to end, or {held.ttl_s:.0f} s after it stopped"
            )

    def _read(self, generation: int) -> LeaseRecord | None:
        """The record; None where there is none (yet), for the file is being written or was left half-written."""
        try:
            return LeaseRecord(**json.loads(self._storage.read_text(_FOLDER, f"{generation}.json")))
        except ValueError:
            return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._renewer.join()
        self._record = replace(self._record, released=True)
        self._storage.write_text(self._text(), _FOLDER, self._name())

    def _renew(self) -> None:
        while not self._stop.wait(self._record.ttl_s / 4):
            self._record = replace(self._record, renewed_at=time.time())
            self._storage.write_text(self._text(), _FOLDER, self._name())

    def _name(self) -> str:
        return f"{self.generation}.json"

    def _text(self) -> str:
        return json.dumps(asdict(self._record))
