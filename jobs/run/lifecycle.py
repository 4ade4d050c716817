"""Carrying a run through the ledger: started, staged, audited, prepared, applied, published; or left alone.

Shared by every job that changes a warehouse. All of it runs under the warehouse's lease, and finishes or discards first
whatever an earlier run left.
"""

import datetime as dt
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from jobs.config.causes import cause_of
from jobs.config.errors import RunError, UsageError
from jobs.config.profile import Config
from jobs.config.progress import Progress
from jobs.manifests.files import ManifestFiles
from jobs.run import ahead
from jobs.run.context import Work, new_run_id
from jobs.run.denylist import in_force
from jobs.run.expectations import NOTHING, Accepted, Expectations, UnexpectedError, earlier_nights
from jobs.run.ingest import Night, inputs_digest, manifest_rows
from jobs.run.names import BLOCKED, FAILED, Count, Metric, changed
from jobs.run.pipelines import NIGHT, REFETCH, stage_run
from jobs.run.reading import Reading
from jobs.run.redecision import Refetch
from jobs.stages import queue
from jobs.startup.session import under_way
from jobs.warehouse.fencing import check_fenced, lease_files
from jobs.warehouse.landing import Landing
from jobs.warehouse.lease import Lease
from jobs.warehouse.ledger import TEXTS_ERASED, Event, Ledger, Versions
from schemas.policy import Policy
from schemas.tables import PURGED, TELLING_TEXTS
from udfs.credentials import redact_text
from udfs.gate.content import missing_signals
from udfs.gate.takedowns import Takedown, with_takedowns

DECIDING = {"policy_version": "another policy", "gate_version": "other detectors"}
"""Versions under which what is stored may be decided again (jobs.redecide), in words."""
SWITCHED = {
    "model_version": "embedding model",
    "text_model_version": "text model",
    "alignment_version": "alignment of images and texts",
}
"""Versions that a feed may be switched to (jobs.reembed), in words."""
MOST_CODES = 3
"""Failure codes, and reasons of blocked rows, that the last line of a night counts."""


@dataclass(frozen=True)
class Warehouse:
    """A warehouse that this process holds: nobody else writes to it."""

    spark: SparkSession
    config: Config
    policy: Policy
    """As the policy file has it; what runs judge by has the takedowns as well (`judging`)."""
    versions: Versions
    job: str
    landing: Landing
    ledger: Ledger
    progress: Progress
    crawlers: int = 1
    """As of `jobs.run.context.Work`."""

    def work(self) -> Work:
        """A new run."""
        run_id = new_run_id()
        progress = Progress(self.progress.prefix, run_id, self.progress.look)
        policy = self.judging(in_force(self.landing))
        versions, crawlers = self.versions, self.crawlers
        work = Work(self.spark, self.landing, self.config, policy, versions, run_id, progress, crawlers=crawlers)
        work.number = self.ledger.next_seq  # of its event `started`, if it gets one: what only looks has a number, too
        return work

    def judging(self, takedowns: Sequence[Takedown]) -> Policy:
        """The policy under takedowns. Raises UsageError where the gate does not make a hash that one of them needs."""
        policy = with_takedowns(self.policy, takedowns)
        if missing := missing_signals(policy, self.config.policy):
            raise UsageError(f"what is taken down in the warehouse {self.landing.storage.root}: {'; '.join(missing)}")
        return policy

    def last_published(self, purpose: str) -> Event:
        """The last published run. Raises RunError where there is none, and so nothing to do for that purpose."""
        published = self.ledger.last_published()
        if published is None:
            raise RunError(
                f"the warehouse {self.landing.storage.root} has no published run: there is nothing to {purpose}"
            )
        return published

    def publish(
        self,
        work: Work,
        stage: Callable[[], str | None],
        *,
        keep: Callable[[], bool] = lambda: True,
        versions: Versions | None = None,
        rolled_back_to: str | None = None,
    ) -> Event | None:
        """Stage a run by `stage` (its result is the digest of the run's inputs, if it has some) and publish it.

        None where `keep` says afterwards that there is nothing to publish; the run then leaves no trace but its events.
        `versions` are what the warehouse is under afterwards, where that is not what the run works with;
        `rolled_back_to` is the run whose state this one goes back to.
        """
        begun = time.monotonic()
        digest = self.config.contents_digest()
        started = self.ledger.append(
            Event(
                work.run_id,
                self.job,
                "started",
                work.dates,
                self.ledger.lease_generation,
                config_digest=digest,
                rolled_back_to=rolled_back_to,
            )
        )
        work.number = started.seq
        try:
            inputs = stage()
        except Exception as error:
            why = redact_text(cause_of(error))[:500]
            self.ledger.append(replace(started, event="discarded", detail=why))
            self.landing.discard(work.run_id)
            raise
        if not keep():
            self.ledger.append(replace(started, event="discarded", detail="nothing changes"))
            self.landing.discard(work.run_id)
            return None
        work.metrics[Metric.STAGING_SECONDS] = time.monotonic() - begun
        prepared = self.ledger.append(
            replace(
                started,
                event="prepared",
                ingest_dates=work.dates,
                counts=work.counts,
                metrics=work.metrics,
                inputs_digest=inputs,
                detail=work.remark,
                **asdict(versions or self.versions),
            )
        )
        with self.progress.stage("apply and publish"):
            published = self.ledger.publish(prepared, keep_staging=self.config.run.keep_staging)
        self.purge()
        return published

    def purge(self) -> None:
        """Delete from disk what published runs have taken out of the tables; nothing where nothing is owed.

        What is owed was in the ledger before those runs were published, and is until this is done. It beats every
        reader's pin: who reads an older version of these tables is told that it is gone. Raises RunError where it
        fails; whoever holds the warehouse next tries again.
        """
        owing = self.ledger.owing()
        if not owing:
            return
        with self.progress.stage("purge"):
            try:
                self._discard(event.run_id for event in self.ledger.events if event.event == "published")
                ahead.sweep(self.landing, self.versions)
                erased = any((event.counts or {}).get(TEXTS_ERASED) for event in owing)
                self.landing.purge((*PURGED, *TELLING_TEXTS) if erased else PURGED)
            except RunError:
                raise
            except Exception as error:
                named = ", ".join(event.run_id for event in owing)
                raise RunError(
                    f"what the published runs {named} took out could not be deleted from disk ({cause_of(error)}); it "
                    "stays owed, and the next job tries again"
                ) from error
            for event in owing:
                self.ledger.append(replace(event, event="purged", table_versions=None))

    def sweep_staging(self) -> None:
        """Delete the staging folders that no unfinished run owns: they hold pixels that nobody answers for.

        Also of runs that never came into the ledger. Published runs' are kept where the profile says so. So is for a
        time what was fetched ahead, and may still be used.
        """
        ahead.sweep(self.landing)
        kept = {event.run_id for event in self.ledger.unfinished()}
        if self.config.run.keep_staging:
            kept |= {event.run_id for event in self.ledger.events if event.event == "published"}
        self._discard(run_id for run_id in self.landing.staged_runs() if run_id not in kept)

    def _discard(self, run_ids: Iterable[str]) -> None:
        there = set(self.landing.staged_runs())
        for run_id in there.intersection(run_ids):
            self.landing.discard(run_id)


@contextmanager
def held(
    spark: SparkSession,
    config: Config,
    policy: Policy,
    versions: Versions,
    *,
    job: str,
    what: str,
    may_differ: tuple[str, ...] = (),
    crawlers: int = 1,
) -> Iterator[Warehouse]:
    """Hold the warehouse for a job, its tables made and its unfinished runs settled.

    `crawlers`: see `jobs.run.context.Work`. `may_differ` names versions in which the job may differ from the last
    published run. Raises UsageError where another one does, or where its storage keeps nobody apart; RunError when
    somebody else holds the warehouse, and LeaseLostError where somebody else has taken it over meanwhile.
    """
    progress = Progress(what, look=partial(under_way, spark))
    landing = Landing(spark, config.warehouse)
    run, context = config.run, spark.sparkContext
    check_fenced(landing.storage.root, lambda key: context.getConf().get(key), single_driver=run.single_driver)
    known = Ledger(landing, 0).load()
    check_versions(known.last_published(), versions, may_differ)
    with Lease(
        lease_files(spark, landing.storage, single_driver=run.single_driver),
        f"{job} {what}",
        run.lease_ttl_s,
        run.lease_wait_s,
        above=known.recorded_generation,
        on_lost=context.cancelAllJobs,
    ) as lease:
        landing.check_held = lease.check
        landing.ensure_tables()
        ledger = Ledger(landing, lease.generation).take()
        warehouse = Warehouse(spark, config, policy, versions, job, landing, ledger, progress, crawlers)
        for event in ledger.recover():
            progress.say(f"run {event.run_id} ({event.job}) is now {event.event}")
        warehouse.sweep_staging()
        warehouse.purge()
        ledger.compact()
        check_versions(ledger.last_published(), versions, may_differ)  # which a run rolled forward may have changed
        yield warehouse


def check_versions(published: Event | None, versions: Versions, may_differ: tuple[str, ...] = ()) -> None:
    """Two versions of one thing never mix: UsageError names what differs from the last published run's."""
    if published is None:
        return
    differing = {
        field.name: f"{field.name} {getattr(published, field.name)} -> {getattr(versions, field.name)}"
        for field in fields(versions)
        if getattr(published, field.name) != getattr(versions, field.name) and field.name not in may_differ
    }
    if differing and differing.keys() <= DECIDING.keys():
        what = " and ".join(DECIDING[name] for name in differing)
        raise UsageError(
            f"the warehouse is under {what} ({'; '.join(differing.values())}): run python -m jobs.redecide --policy "
            "FILE first, or name what it is under"
        )
    if differing and differing.keys() <= SWITCHED.keys():
        what = " and ".join(SWITCHED[name] for name in differing)
        raise UsageError(
            f"the feed is under another {what} ({'; '.join(differing.values())}): run python -m jobs.reembed first, or "
            "name what it is under"
        )
    if list(differing) == ["rule_version"]:
        raise UsageError(
            f"the warehouse is under other dedup settings ({differing['rule_version']}): run python -m jobs.rededup "
            "first, or go back to those"
        )
    if differing:
        raise UsageError(
            "the warehouse was published under other settings than these "
            f"({'; '.join(differing.values())}): go back to those, or use another warehouse"
        )


def run_date(
    warehouse: Warehouse,
    date: dt.date,
    manifest: ManifestFiles,
    *,
    force: bool,
    most_s: float | None,
    accepted: Accepted = NOTHING,
) -> Event | None:
    """Bring the date to `published`; the published event, or None where the date was published before and is left.
    Raises RunError where the night is not as expected and that is not `accepted`."""
    earlier = warehouse.ledger.published_for(date)
    work = warehouse.work()
    work.dates = (date,)
    night = new_night(work, warehouse.ledger, date, manifest, most_s, accepted)
    storage = warehouse.landing.storage
    if earlier is not None and not force:
        ahead.forget(storage, date)
        _report_skipped(work, date, earlier, manifest)
        return None

    def stage() -> str | None:
        try:
            stage_run(night, NIGHT)
        except UnexpectedError:
            if night.inputs is not None:  # it was fetched: whoever accepts the breach need not ask again
                ahead.keep(work, date, night.inputs, unexpected=True)
            raise
        return night.inputs

    published = warehouse.publish(work, stage)
    ahead.forget(storage, date)
    return published


def new_night(
    work: Work, ledger: Ledger, date: dt.date, manifest: ManifestFiles, most_s: float | None, accepted: Accepted
) -> Night:
    """The staging of a date, of which nothing is done yet."""
    run = work.config.run
    before = earlier_nights(ledger.nights(), date, run.expectation_nights)
    expectations = Expectations(run.expectations, before, accepted)
    return Night(work, date, ledger.published_for(date) is not None, manifest, most_s, expectations)


def drain_queue(warehouse: Warehouse, most_s: float | None) -> Event | None:
    """Ask again for what `refetch_queue` holds, each under its own date; None where there was nothing, or nothing
    new."""
    work = warehouse.work()
    owed = work.keys("owed", work.landing.read("refetch_queue").select("ingest_date", "url_id"))
    return _refetch(warehouse, work, work.past("sightings", owed), most_s, "queued")


def retry_failed(warehouse: Warehouse, first: dt.date, last: dt.date, most_s: float | None) -> Event | None:
    """Ask again for what failed for now or was deferred on the dates from `first` to `last`, and only for that.

    Raises RunError where one of them was never published: it has nothing that could be tried again.
    """
    published = warehouse.ledger.published_dates()
    for number in range((last - first).days + 1):
        date = first + dt.timedelta(days=number)
        if date not in published:
            raise RunError(f"--retry-failed: {date} was never published; run it first")
    work = warehouse.work()
    of_dates = work.landing.read("sightings").where(f.col("ingest_date").between(f.lit(first), f.lit(last)))
    failed = work.stage("failed", queue.transient(of_dates))
    states = work.past(
        "url_state", work.keys("failed_urls", failed.select("url_id")), columns=["url_id", "ingest_date"]
    )
    return _refetch(warehouse, work, queue.still_open(failed, states), most_s, "failed or deferred")


def _refetch(warehouse: Warehouse, work: Work, selected: DataFrame, most_s: float | None, which: str) -> Event | None:
    staged = work.stage("selected", selected)
    count = work.rows("selected").rows
    if count == 0:
        warehouse.progress.say(f"no {which} rows to ask for again")
        warehouse.landing.discard(work.run_id)
        return None
    warehouse.progress.say(f"asking again for {count} {which} rows")
    run = Refetch(work, staged, most_s)
    return warehouse.publish(work, lambda: stage_run(run, REFETCH), keep=lambda: changes_something(work))


def changes_something(work: Work) -> bool:
    """Whether a refetch changes anything beyond its own evidence."""
    return any(line.rows > 0 for line in work.plan if line.table not in {"fetches", "decisions"})


def _report_skipped(work: Work, date: dt.date, earlier: Event, manifest: ManifestFiles) -> None:
    """Say that the date was left as published, and whether it would come out differently now."""
    work.progress.say(f"already published by run {earlier.run_id}: nothing to do (--force does it again)")
    changed = changed_since(work, date, earlier, manifest)
    work.landing.discard(work.run_id)
    for what in changed:
        work.progress.say(f"stale: {what} has changed since; --force would take the new one")


def changed_since(work: Reading, date: dt.date, earlier: Event, manifest: ManifestFiles) -> list[str]:
    """What a published date would come out differently for now: `its manifest`, `the configuration`, or neither."""
    is_other = {
        "its manifest": inputs_digest(manifest_rows(work, date, manifest)) != earlier.inputs_digest,
        "the configuration": work.config.contents_digest() != earlier.config_digest,
    }
    return [what for what, differs in is_other.items() if differs]


def summary(event: Event) -> str:
    """The funnel of a published run in one line, with why most rows were blocked or have failed."""
    counts = event.counts or {}
    outcomes = ", ".join(
        f"{counts[key]} {key.removeprefix('outcome.')}" for key in sorted(counts) if key.startswith("outcome.")
    )
    overtaken = f", {counts[Count.OVERTAKEN]} left without an answer" if counts.get(Count.OVERTAKEN) else ""
    if not outcomes:
        otherwise = counts.get(changed("sightings"), 0)
        return f"published run {event.run_id}: {otherwise} sightings decided otherwise{overtaken}"
    remark = f"; {event.detail}" if event.detail else ""
    said = f"published run {event.run_id}: {counts.get(Count.SIGHTINGS, 0)} sightings ({outcomes}){overtaken}"
    return f"{said}{_commonest(counts, BLOCKED)}{_commonest(counts, FAILED)}{remark}"


def _commonest(counts: Mapping[str, int], kind: str) -> str:
    """Why most of the failed rows have failed, as `; failed: 12 gone, 3 timeout`, or most of the blocked ones are
    blocked; empty where none is."""
    codes = [(count, name.removeprefix(kind)) for name, count in counts.items() if name.startswith(kind) and count]
    common = [f"{count} {code}" for count, code in sorted(codes, key=lambda one: (-one[0], one[1]))]
    more = ", ..." if len(common) > MOST_CODES else ""
    return f"; {kind.removesuffix('.')}: {', '.join(common[:MOST_CODES])}{more}" if common else ""
