"""Upkeep of a warehouse: small files put together, old ones deleted; no row changes by it."""

import datetime as dt
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from jobs.config.errors import RunError
from jobs.config.progress import log
from jobs.run import ahead
from jobs.run.lifecycle import Warehouse
from jobs.warehouse.lease import POLL_S
from jobs.warehouse.storage import Storage
from lensfeed.pins import FOLDER, Pin
from schemas.tables import PUBLISHED, RUNS, TABLES

MOST_BYTES = 16 * 2**30
"""Of small files that one run puts together, a table that has more of them aside: minutes, after which the warehouse is
let go for whoever waits for it."""
MOST_HELD_S = 600.0
"""After so many seconds of deleting the warehouse is let go, too."""
CLOCKS_APART_HOURS = 0.25
"""Between the clock that published a run and the one that deletes files."""
LEAST_HOURS = 1.0
"""For which the ledger's old files stay, whatever is asked for: whoever reads the newest version is reading it now."""

Hold = Callable[[], AbstractContextManager[Warehouse]]


@dataclass(frozen=True)
class UpkeepPlan:
    """What the job is asked for."""

    retention_hours: float
    """Versions that were the newest within so many hours stay readable."""
    most_small: int
    """Small files that a partition may have without anything being done about them."""


@dataclass
class Upkeep:
    """What was done."""

    put_together: int = 0
    """Small files."""
    deleted: int = 0
    """Files."""
    freed: int = 0
    """Bytes."""

    def __str__(self) -> str:
        return f"{self.put_together} small files put together; {self.deleted} files deleted, {self.freed / 1e6:.1f} MB"


@dataclass(frozen=True)
class TableFiles:
    """A table's files."""

    name: str
    files: int
    """All that lie there, dead ones and the log included."""
    bytes: int
    crowded: int
    """Small ones that would be put together."""


def maintain(hold: Hold, plan: UpkeepPlan) -> Upkeep:
    """Put small files together and publish the new versions; only then delete what no kept version needs.

    What is put together goes through the ledger as rows do: a run that is killed is finished by whoever comes next, so
    that nothing is deleted which the last published run names.
    """
    done = Upkeep()
    while _put_together(hold, plan, done):
        time.sleep(1.5 * POLL_S)
    left = list(TABLES)
    while left:
        if len(left) < len(TABLES):
            time.sleep(1.5 * POLL_S)
        with hold() as warehouse:
            ahead.sweep_all(warehouse.landing.storage)  # it may hold what was taken down while it was fetched
            _delete_old(warehouse, plan, left, done)
    return done


def standing_pins(storage: Storage) -> list[Pin]:
    """What readers have pinned, and still read. Raises RunError for a file that is no pin: whoever wrote it may be
    reading."""
    now = dt.datetime.now(dt.UTC)
    return [pin for pin in _pins(storage).values() if pin.until > now]


def _pins(storage: Storage) -> dict[str, Pin]:
    """All pins by the names of their files."""
    found = {}
    for name in storage.names(FOLDER):
        if name.startswith("."):  # being written
            continue
        try:
            found[name] = Pin.of_json(storage.read_text(FOLDER, name))
        except FileNotFoundError:  # its reader is done
            continue
        except ValueError as error:
            raise RunError(
                f"{storage.path(FOLDER, name)} is no pin of a reader: {error}; delete it if nobody reads"
            ) from error
    return found


def _kept_hours(warehouse: Warehouse, plan: UpkeepPlan) -> float:
    """For how many hours old files are kept: those that a reader has pinned were live when its run was published. Pins
    whose time is over are deleted."""
    now, storage = dt.datetime.now(dt.UTC), warehouse.landing.storage
    found = _pins(storage)
    for name, pin in found.items():
        if pin.until <= now:
            storage.delete(FOLDER, name)
    pins = [pin for pin in found.values() if pin.until > now]
    read = [(now - pin.published_at) / dt.timedelta(hours=1) + CLOCKS_APART_HOURS for pin in pins]
    hours = max([plan.retention_hours, *read])
    if hours > plan.retention_hours:
        oldest = min(pins, key=lambda pin: pin.published_at)
        log.info(
            "maintain: files of the last %.1f hours stay: %s reads run %s until %s",
            *(hours, oldest.by, oldest.run_id, f"{oldest.until:%Y-%m-%d %H:%M} UTC"),
        )
    return hours


def survey(warehouse: Warehouse, plan: UpkeepPlan) -> Iterator[TableFiles]:
    """The files of each table, and what would be done about them."""
    for name in TABLES:
        crowded, _ = warehouse.landing.crowded(name, plan.most_small)
        yield TableFiles(name, *warehouse.landing.storage.size(name), crowded if name in PUBLISHED else 0)


def _put_together(hold: Hold, plan: UpkeepPlan, done: Upkeep) -> bool:
    """Publish a run that puts small files together, where there are too many; whether there are more."""
    with hold() as warehouse:
        if warehouse.ledger.last_published() is None:
            return False
        crowded = {name: warehouse.landing.crowded(name, plan.most_small) for name in PUBLISHED}
        waiting = {name: found for name, found in crowded.items() if found[0]}
        if not waiting:
            return False
        chosen = _chosen({name: size for name, (_, size) in waiting.items()})
        work = warehouse.work()

        def stage() -> None:
            for name in chosen:
                work.plan_files(name, plan.most_small)
                work.counts[f"put_together.{name}"] = waiting[name][0]
            work.write_plan()

        warehouse.publish(work, stage)
        done.put_together += sum(work.counts.values())
        log.info("maintain: small files of %s put together", ", ".join(chosen))
        return len(chosen) < len(waiting)


def _chosen(sizes: Mapping[str, int]) -> list[str]:
    """The tables, smallest first, of one run: as many as fit, at least one."""
    chosen: list[str] = []
    total = 0
    for name in sorted(sizes, key=lambda name: (sizes[name], name)):
        total += sizes[name]
        if chosen and total > MOST_BYTES:
            break
        chosen.append(name)
    return chosen


def _delete_old(warehouse: Warehouse, plan: UpkeepPlan, left: list[str], done: Upkeep) -> None:
    """Go through the tables that are left for as long as the warehouse may be held, at least through one."""
    until = time.monotonic() + MOST_HELD_S
    kept = _kept_hours(warehouse, plan)
    while left:
        name = left.pop(0)
        hours = max(kept, LEAST_HOURS) if name == RUNS.name else kept
        files, size = warehouse.landing.vacuum(name, hours)
        done.deleted, done.freed = done.deleted + files, done.freed + size
        if time.monotonic() > until:
            return
