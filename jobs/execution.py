"""Carrying one date through the ledger: started, staged, audited, prepared, applied, published; or left alone.

Shared by every job that works on dates. All of it runs under the warehouse's lease.
"""

import datetime as dt
import time
import uuid
from dataclasses import asdict, fields, replace

from pyspark.sql import SparkSession

from jobs.config import Config
from jobs.errors import UsageError
from jobs.landing import Landing
from jobs.lease import Lease
from jobs.ledger import Event, Ledger, Versions
from jobs.pipeline import DateRun, inputs_digest
from jobs.progress import Progress
from jobs.stages.manifest import ManifestFiles, read_manifest
from jobs.stages.pregate import judge_rows
from schemas.policy import Policy


def run_date(
    spark: SparkSession,
    config: Config,
    policy: Policy,
    versions: Versions,
    date: dt.date,
    manifest: ManifestFiles,
    *,
    job: str,
    force: bool,
) -> Event | None:
    """Bring the date to `published`; the published event, or None where the date was published before and is left.

    Finishes or discards first whatever an earlier run left. Raises UsageError when the warehouse was made under other
    versions, RunError when the run breaks an expectation or somebody else holds the warehouse.
    """
    progress = Progress(date.isoformat())
    landing = Landing(spark, config.warehouse)
    check_versions(Ledger(landing, 0).load().last_published(), versions)
    run_id = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
    with Lease(landing.storage, f"{job} {date} {run_id}", config.run.lease_ttl_s) as lease:
        landing.ensure_tables()
        ledger = Ledger(landing, lease.generation).load()
        for event in ledger.recover():
            progress.say(f"run {event.run_id} of {', '.join(map(str, event.ingest_dates))} is now {event.event}")
        earlier = ledger.published_for(date)
        work = DateRun(spark, landing, config, policy, versions, date, run_id, progress, earlier is not None)
        if earlier is not None and not force:
            _report_skipped(work, earlier, manifest)
            return None
        started = ledger.append(
            Event(run_id, job, "started", (date,), lease.generation, config_digest=config.contents_digest())
        )
        try:
            deadline = time.time() + config.crawl.deadline_s if config.crawl.deadline_s else None
            staged = work.stage_all(manifest, deadline)
        except Exception as error:
            ledger.append(replace(started, event="discarded", detail=f"{type(error).__name__}: {error}"[:500]))
            landing.discard(run_id)
            raise
        prepared = ledger.append(
            replace(
                started,
                event="prepared",
                counts=staged.counts,
                metrics=staged.metrics,
                inputs_digest=staged.inputs_digest,
                **asdict(versions),
            )
        )
        with progress.stage("apply and publish"):
            return ledger.publish(prepared, keep_staging=config.run.keep_staging)


def check_versions(published: Event | None, versions: Versions) -> None:
    """Two versions of one thing never mix: UsageError names what differs from the last published run's."""
    if published is None:
        return
    differing = [
        f"{field.name} {getattr(published, field.name)} -> {getattr(versions, field.name)}"
        for field in fields(versions)
        if getattr(published, field.name) != getattr(versions, field.name)
    ]
    if differing:
        raise UsageError(
            "the warehouse was published under other settings than these "
            f"({'; '.join(differing)}): go back to those, or use another warehouse"
        )


def _report_skipped(work: DateRun, earlier: Event, manifest: ManifestFiles) -> None:
    """Say that the date was left as published, and whether it would come out differently now."""
    work.progress.say(f"already published by run {earlier.run_id}: nothing to do (--force does it again)")
    raw = read_manifest(
        work.spark, work.config.manifest, manifest, lambda frame: work.landing.stage(work.run_id, "lines", frame)
    )
    now = inputs_digest(judge_rows(raw, work.policy))
    work.landing.discard(work.run_id)
    if now != earlier.inputs_digest:
        work.progress.say("stale: its manifest has changed since; --force would take the new one")
    if work.config.contents_digest() != earlier.config_digest:
        work.progress.say("stale: the configuration has changed since; --force would apply the new one")


def summary(event: Event) -> str:
    """The funnel of a published date in one line."""
    counts = event.counts or {}
    outcomes = ", ".join(
        f"{counts[key]} {key.removeprefix('outcome.')}" for key in sorted(counts) if key.startswith("outcome.")
    )
    return f"published run {event.run_id}: {counts.get('sightings', 0)} sightings ({outcomes})"
