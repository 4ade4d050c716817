"""Upkeep of a warehouse: small files put together, old ones deleted, what nothing needs collected; the feed stays."""

import datetime as dt
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs.config.errors import RunError
from jobs.config.progress import log
from jobs.config.texts import plain
from jobs.run import ahead, contents, duplicates
from jobs.run.context import Work
from jobs.run.lifecycle import Warehouse
from jobs.stages import state
from jobs.warehouse.lease import POLL_S
from jobs.warehouse.storage import Storage
from lensfeed.pins import FOLDER, Pin
from schemas.tables import KEEPING_FILES, PUBLISHED, RUNS, TABLES

MOST_BYTES = 16 * 2**30
"""Of small files that one run puts together, a table that has more of them aside: minutes, after which the warehouse is
let go for whoever waits for it."""
MOST_COLLECTED = 500_000
"""Images of which one run takes pixels and vectors, for the same reason: some 10 GB of pixels."""
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
    collect: bool = False
    """Whether pixels, vectors and hashes go that nothing which is live needs."""


@dataclass(frozen=True)
class Garbage:
    """Rows that nothing which is live needs; all lazily read."""

    unshown: DataFrame
    """`image_id` of contents with pixels or a vector that no URL shows any more."""
    other_vectors: DataFrame
    """`image_id, model_version` of the others' vectors of models that are not in use."""
    other_texts: DataFrame
    """`text_id, text_model_version`, likewise."""


@dataclass
class Upkeep:
    """What was done."""

    collected: int = 0
    """Contents whose pixels and vectors were taken out, vectors of other models, and of texts."""
    put_together: int = 0
    """Small files."""
    deleted: int = 0
    """Files."""
    freed: int = 0
    """Bytes."""

    def __str__(self) -> str:
        collected = f"{self.collected} contents and vectors collected; " if self.collected else ""
        return (
            f"{collected}{self.put_together} small files put together; {self.deleted} files deleted, "
            f"{self.freed / 1e6:.1f} MB"
        )


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
    """Collect what is asked for, put small files together and publish the new versions; only then delete what no kept
    version needs.

    What is collected or put together goes through the ledger as rows do: a run that is killed is finished by whoever
    comes next, so that nothing is deleted which the last published run names.
    """
    done = Upkeep()
    while plan.collect and _collect(hold, done):
        time.sleep(1.5 * POLL_S)
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
            *(hours, plain(oldest.by), plain(oldest.run_id), f"{oldest.until:%Y-%m-%d %H:%M} UTC"),
        )
    return hours


def survey(warehouse: Warehouse, plan: UpkeepPlan) -> Iterator[TableFiles]:
    """The files of each table, and what would be done about them."""
    for name in TABLES:
        crowded, _ = warehouse.landing.crowded(name, plan.most_small)
        yield TableFiles(name, *warehouse.landing.storage.size(name), crowded if name in PUBLISHED else 0)


def find_garbage(work: Work) -> Garbage:
    """What nothing that is live needs, of the whole warehouse.

    A content that no URL shows any more comes back with its pixels where it is shown again: a URL that is asked brings
    them. Where nobody asks, as a date is forced or taken back, it is owed a fetch first.
    """
    images, vectors, texts = (work.landing.read(name) for name in ("images", "embeddings", "text_embeddings"))
    shown = state.shown_images(work.landing.read("url_state"))
    held = images.select("image_id").unionByName(vectors.select("image_id")).distinct()
    other = vectors.where(~f.col("model_version").isin(contents.model_versions(work)))
    return Garbage(
        held.join(shown, "image_id", "left_anti"),
        other.select("image_id", "model_version").join(shown, "image_id", "left_semi"),
        texts.where(~contents.of_text_model(work)).select("text_id", "text_model_version"),
    )


def _collect(hold: Hold, done: Upkeep) -> bool:
    """Publish a run that takes out garbage, where there is some; whether there may be more."""
    with hold() as warehouse:
        if warehouse.ledger.last_published() is None:
            return False
        work = warehouse.work()

        def stage() -> None:
            garbage = find_garbage(work)
            # By their order, in which they are stored: few files are rewritten.
            some = garbage.unshown.orderBy("image_id").limit(MOST_COLLECTED)
            for name, keys, tables in (
                ("unshown", some, ("images", "embeddings", "image_hashes")),
                ("other_vectors", garbage.other_vectors, ("embeddings",)),
                ("other_texts", garbage.other_texts, ("text_embeddings",)),
            ):
                counted = f"collected.{name}"
                work.stage(name, keys, None, **{counted: f.expr("true")})
                work.counts[counted] = work.rows(name).rows
                for table in tables:
                    work.plan_removal(table, name, counted, "true")
            left = duplicates.groups_left_by(work, work.staged("unshown"))
            work.stage("left_groups", left, None, groups=f.expr("true"))
            work.plan_removal("lsh_bands", "left_groups", "groups", "true")
            # Nothing says later that such a content was here: it must not lie in a file as a dead row.
            for name in KEEPING_FILES:
                work.plan_rewrite(name)
            work.write_plan()

        if warehouse.publish(work, stage, keep=lambda: any(work.counts.values())) is None:
            return False
        done.collected += sum(work.counts.values())
        told = ", ".join(f"{count} {name.removeprefix('collected.')}" for name, count in work.counts.items())
        log.info("maintain: collected %s", told)
        return work.counts["collected.unshown"] >= MOST_COLLECTED


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
