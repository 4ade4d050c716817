"""The lease that keeps two drivers apart: one holder a warehouse, renewed while it works, taken over when it stops.

A lease is a file `_lease/{generation}.json`, made by an atomic create: of two drivers that want generation n + 1 one
gets it. The holder rewrites its file while it lives; a holder that has been silent for the lease's time to live, or
whose process is gone from this very machine, has lost it. How long it has been silent is told by the storage's clock
alone: by when its file was written, and when a file that is written now was. No two hosts' clocks are compared.

A holder cannot know in time that it has lost its lease: it may have been stopped. So the lease is only half of it; the
other half is that what an older generation writes has no effect (jobs.warehouse.ledger, jobs.warehouse.landing).
`check` keeps a holder that has lost from trying.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from jobs.config.errors import RunError
from jobs.config.progress import log
from jobs.warehouse.storage import Files

_FOLDER = "_lease"
POLL_S = 2.0
"""Between two looks of a job that waits."""
_RENEWALS = 4
"""In a time to live."""
_RETRIES = 40
"""Tries to renew in a time to live, where they fail."""


class LeaseLostError(RunError):
    """Another driver has, or may have, taken the warehouse over: nothing may be written any more."""


def _elapsed() -> float:
    """Seconds on a clock of this machine that nobody sets; it goes on while the machine sleeps, where it can."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _this_machine() -> str | None:
    """Names what a pid belongs to: this boot of a kernel, and a namespace of pids in it; null where it has no name.

    A host's name does not: two containers may both be called `driver`.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _process(pid: int) -> tuple[str, int] | None:
    """A process's state, and when it began, in ticks since the machine's boot; null where none can be seen."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return state, int(numbers[18])


def _own_start() -> int | None:
    found = _process(os.getpid())
    return found and found[1]


def _is_gone(pid: int, started: int | None) -> bool:
    """Whether there is no such process any more; pids are used again, so when it began counts too."""
    found = _process(pid)
    if found is None:
        try:
            os.kill(pid, 0)  # sends nothing; processes may be hidden from this user's /proc
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False
    state, began = found
    return state in {"Z", "X"} or began != started  # a zombie only waits to be asked how it ended


@dataclass(frozen=True)
class LeaseRecord:
    """What a lease file holds."""

    generation: int
    holder: str
    ttl_s: float
    host: str = field(default_factory=socket.gethostname)
    """For people; names are not unique."""
    machine: str | None = field(default_factory=_this_machine)
    """What `pid` belongs to."""
    pid: int = field(default_factory=os.getpid)
    process_started: int | None = field(default_factory=_own_start)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tells the holder's own file from another's."""
    renewals: int = 0
    released: bool = False

    @property
    def is_over(self) -> bool:
        """Whether its holder let go, or is known to be dead: one of this machine."""
        here = self.machine is not None and self.machine == _this_machine()
        return self.released or (here and _is_gone(self.pid, self.process_started))


def newest_record(storage: Files) -> LeaseRecord | None:
    """The lease of the newest generation, whether it is over or not, to look at; None where there is none that can be
    read."""
    generations = _generations(storage)
    try:
        return _read_record(storage, max(generations)) if generations else None
    except FileNotFoundError:  # another job has taken it over and cleaned up at this moment
        return None


def _generations(storage: Files) -> list[int]:
    names = [name.removesuffix(".json") for name in storage.names(_FOLDER)]
    return [int(name) for name in names if name.isdigit()]


def _read_record(storage: Files, generation: int) -> LeaseRecord | None:
    """The record; None where there is none that can be read, for the file is being written, was left half-written, or
    is of another release of this program. FileNotFoundError where there is no file."""
    known = {one.name for one in fields(LeaseRecord)}
    try:
        found: dict[str, Any] = json.loads(storage.read_text(_FOLDER, f"{generation}.json"))
        given = {name: value for name, value in found.items() if name in known}
        return LeaseRecord(**({"machine": None, "process_started": None} | given))
    except (ValueError, TypeError, AttributeError):
        return None


class Lease:
    """Context manager; raises RunError when somebody else holds the warehouse for longer than `wait_s` seconds, and
    LeaseLostError where it was lost meanwhile and something went wrong for that.

    `above` tells the highest generation that the warehouse has seen, where no file does (somebody deleted them).
    `on_lost` is called, in a thread, as soon as the holder finds out that it has lost: to stop what is under way.
    """

    def __init__(
        self,
        storage: Files,
        holder: str,
        ttl_s: float,
        wait_s: float = 0,
        *,
        above: Callable[[], int] = lambda: 0,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._storage = storage
        self._wait_s = wait_s
        self._above = above
        self._on_lost = on_lost
        self._record = LeaseRecord(0, holder, ttl_s)
        self._renewed = _elapsed()
        self._lost: str | None = None
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

    # Taking -----------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        """One try. Raises RunError where it is another's."""
        generations = _generations(self._storage)
        newest = max(generations, default=0)
        if newest:
            self._check_free(newest)
        self._renewed = _elapsed()
        self._record = replace(self._record, generation=(newest or self._above()) + 1)
        # A taker that was slow may create a name anew that others have taken, released and cleaned up since.
        if not self._create() or max(_generations(self._storage)) > self.generation:
            raise self._overtaken()
        for generation in sorted(generations)[:-1]:
            self._storage.delete(_FOLDER, f"{generation}.json")

    def _create(self) -> bool:
        """Whether this lease's file is ours now: also where an answer was lost and the storage was asked twice."""
        return self._storage.create_text(self._text(), _FOLDER, self._name()) or self._is_ours()

    def _is_ours(self) -> bool:
        found = self._read(self.generation)
        return found is not None and found.token == self._record.token

    def _check_free(self, generation: int) -> None:
        """Raise RunError where the lease of that generation is held."""
        held = self._read(generation)
        if held is not None and held.is_over:
            return
        ttl = self._record.ttl_s if held is None else held.ttl_s
        if self._silent_for(generation) > ttl:
            return
        if held is None:
            raise RunError(f"another driver is just taking the warehouse {self._storage.root}; try again")
        raise RunError(
            f"the warehouse {self._storage.root} is held by {held.holder} (pid {held.pid} on {held.host}); "
            f"wait for it to end, or {held.ttl_s:.0f} s after it stopped"
        )

    def _silent_for(self, generation: int) -> float:
        """Seconds since that lease's file was written, by the storage's clock."""
        probe = f"now-{uuid.uuid4().hex}"
        self._storage.write_text("", _FOLDER, probe)
        try:
            now = self._storage.modified_at(_FOLDER, probe)
        finally:
            self._storage.delete(_FOLDER, probe)
        try:
            return now - self._storage.modified_at(_FOLDER, f"{generation}.json")
        except FileNotFoundError:
            raise self._overtaken() from None

    def _read(self, generation: int) -> LeaseRecord | None:
        try:
            return _read_record(self._storage, generation)
        except FileNotFoundError:
            raise self._overtaken() from None

    def _overtaken(self) -> RunError:
        return RunError(f"another driver took the warehouse {self._storage.root} at this very moment; try again")

    # Holding ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise LeaseLostError where this lease is no longer held: to be asked before everything that writes."""
        if self._lost is None:
            self._look()
        if self._lost is not None:
            raise LeaseLostError(self._lost)

    def _look(self) -> None:
        silent = _elapsed() - self._renewed
        if silent > self._record.ttl_s:
            self._lose(f"it was not renewed for {silent:.0f} s, longer than run.lease_ttl_s={self._record.ttl_s:g}")
            return
        newest = max(_generations(self._storage), default=0)
        if newest > self.generation:
            self._lose(f"another driver has taken it over (generation {newest}, this one had {self.generation})")

    def _lose(self, why: str) -> None:
        if self._lost is None:
            self._lost = (
                f"{self._record.holder} no longer holds the warehouse {self._storage.root}: {why}. Nothing more was "
                "written; whoever holds it finishes or discards this run, else the next job does"
            )
            self._on_lost()

    def _renew(self) -> None:
        """Until it is stopped or lost. A try that fails is repeated, for as long as the lease lasts."""
        pause = self._record.ttl_s / _RENEWALS
        while self._lost is None and not self._stop.wait(pause):
            begun = _elapsed()
            try:
                self._look()
                if self._lost is None:
                    self._record = replace(self._record, renewals=self._record.renewals + 1)
                    self._storage.write_text(self._text(), _FOLDER, self._name())
                    self._renewed = begun
                pause = self._record.ttl_s / _RENEWALS
            except Exception as error:  # noqa: BLE001 -- whatever ails the storage, it may pass; if not, `_look` says so
                log.warning("lease: could not be renewed, trying again: %s", " ".join(str(error).split())[:300])
                pause = self._record.ttl_s / _RETRIES

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._renewer.join(self._record.ttl_s)  # which may hang in a storage that does not answer
        if error is not None and not isinstance(error, LeaseLostError):
            # What another driver does to the files of a run that is no longer ours shows as any error.
            self._say_lost(error)
        if self._lost is None:
            self._record = replace(self._record, released=True)
            try:
                self._storage.write_text(self._text(), _FOLDER, self._name())
            except Exception as failure:  # noqa: BLE001 -- the work is done, or has failed for another reason
                log.warning("lease: could not be given back, others wait %g s for it: %s", self._record.ttl_s, failure)

    def _say_lost(self, error: BaseException) -> None:
        try:
            self.check()
        except LeaseLostError as lost:
            raise lost from error
        except Exception as failure:  # noqa: BLE001 -- the error that is under way says more
            log.debug("lease: could not be looked at: %s", failure)

    def _name(self) -> str:
        return f"{self.generation}.json"

    def _text(self) -> str:
        return json.dumps(asdict(self._record))
