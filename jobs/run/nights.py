"""What a night is, for the jobs that run nights: one of them (jobs.nightly), or one after the other (jobs.backfill)."""

import datetime as dt
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from pyspark.sql import SparkSession

from jobs.config.errors import UsageError
from jobs.config.profile import Config, load
from jobs.manifests.discovery import find_manifest
from jobs.manifests.files import ManifestFiles
from jobs.run.denylist import judged_by
from jobs.run.expectations import NOTHING, Accepted, check_names
from jobs.run.introduction import check_agent
from jobs.run.lifecycle import Warehouse, changed_since, check_versions, drain_queue, held, run_date
from jobs.run.overrides import Overrides
from jobs.run.reading import Look
from jobs.startup.assets import local_assets
from jobs.startup.preflight import check
from jobs.startup.session import open_session
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Event, Ledger, Versions
from schemas.policy import Policy


@dataclass(frozen=True)
class OpenedJob:
    """A checked configuration and the session that was opened for it; nothing is held or written yet."""

    spark: SparkSession
    config: Config
    policy: Policy
    versions: Versions
    accepted: Accepted = NOTHING
    """Expectations that nights may break."""

    def held(self, job: str, what: str) -> AbstractContextManager[Warehouse]:
        """The warehouse, held for a job; raises as `jobs.run.lifecycle.held`."""
        return held(self.spark, self.config, self.policy, self.versions, job=job, what=what)

    def ledger(self) -> Ledger:
        """The ledger as it is now, to look at. Raises UsageError where the warehouse is under other versions."""
        ledger = Ledger(Landing(self.spark, self.config.warehouse), 0).load()
        check_versions(ledger.last_published(), self.versions)
        return ledger


def open_job(profile: str, overrides: list[str], accepted: Accepted = NOTHING) -> OpenedJob:
    """Read and check the configuration, bring its assets, open the session. Raises UsageError for anything wrong."""
    settings = load(profile, overrides)
    check_names(accepted, settings.run.expectations)
    check_agent(settings.crawl)
    config = local_assets(settings)
    policy, versions = check(config)
    return OpenedJob(open_session(config), config, policy, versions, accepted)


def find_manifest_of(opened: OpenedJob, date: dt.date) -> ManifestFiles:
    """The date's manifest. Raises UsageError where there is none, or none that can be read."""
    return find_manifest(opened.spark, opened.config.manifest, date)


def run_night(
    opened: OpenedJob, date: dt.date, manifest: ManifestFiles, *, job: str, force: bool
) -> tuple[Event | None, Event | None]:
    """Hold the warehouse, ask again for what earlier nights are owed, then bring the date to `published`.

    The published events of the two; None for what there was nothing to do for.
    """
    crawl = opened.config.crawl
    with opened.held(job, date.isoformat()) as warehouse:
        return (
            drain_queue(warehouse, crawl.drain_deadline_s or crawl.deadline_s),
            run_date(warehouse, date, manifest, force=force, most_s=crawl.deadline_s, accepted=opened.accepted),
        )


# Looking ahead --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outlook:
    """What is to be done about a date, and why."""

    date: dt.date
    action: Literal["run", "skip", "stale", "fail"]
    """`stale`: it would come out differently now, and is left as it is unless forced. `fail`: it cannot be run."""
    why: str
    manifest: ManifestFiles | None = None


def look_at(opened: OpenedJob, date: dt.date, *, force: bool) -> Outlook:
    """What a night of the date would do. Holds nothing and writes nothing; reads the manifest of a published date."""
    ledger = opened.ledger()
    earlier = ledger.published_for(date)
    try:
        manifest = find_manifest_of(opened, date)
    except UsageError as error:
        if earlier is None or force:
            return Outlook(date, "fail", str(error))
        return Outlook(date, "skip", f"published by run {earlier.run_id}; what it was made from is gone ({error})")
    if earlier is None:
        return Outlook(date, "run", "not published yet", manifest)
    if force:
        return Outlook(date, "run", f"published by run {earlier.run_id}, and to be done again", manifest)
    reading = look(opened, ledger)
    try:
        changed = " and ".join(changed_since(reading, date, earlier, manifest))
    finally:
        reading.release()
    if changed:
        return Outlook(date, "stale", f"published by run {earlier.run_id}; {changed} changed since", manifest)
    return Outlook(date, "skip", f"published by run {earlier.run_id} from the same inputs", manifest)


def look(opened: OpenedJob, ledger: Ledger) -> Look:
    """Reading as a night would, by what people have decided and had taken down so far; to be released."""
    policy = judged_by(opened.policy, ledger.landing)
    return Look(opened.spark, opened.config, policy, Overrides(ledger.landing.read("overrides")))
