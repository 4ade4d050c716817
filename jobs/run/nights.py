"""What a night is, for the jobs that run nights: one of them (jobs.nightly), or one after the other (jobs.backfill)."""

import datetime as dt
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from pyspark.sql import SparkSession

from jobs.config.errors import RunError, UsageError
from jobs.config.profile import Config, load
from jobs.config.progress import Progress
from jobs.manifests.discovery import find_manifest
from jobs.manifests.files import ManifestFiles
from jobs.run import ahead, contents
from jobs.run.context import Work, new_run_id
from jobs.run.denylist import judged_by
from jobs.run.expectations import NOTHING, Accepted, check_names
from jobs.run.introduction import check_agent
from jobs.run.lifecycle import Warehouse, changed_since, check_versions, drain_queue, held, new_night, run_date
from jobs.run.overrides import Overrides
from jobs.run.pipelines import AHEAD, take_steps
from jobs.run.reading import Look
from jobs.startup.assets import local_assets
from jobs.startup.preflight import check, check_reasons
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
    crawlers: int = 1
    """How many dates may be asked for at the same time."""

    def held(self, job: str, what: str) -> AbstractContextManager[Warehouse]:
        """The warehouse, held for a job; raises as `jobs.run.lifecycle.held`."""
        return held(self.spark, self.config, self.policy, self.versions, job=job, what=what, crawlers=self.crawlers)

    def ledger(self) -> Ledger:
        """The ledger as it is now, to look at. Raises UsageError where the warehouse is under other versions."""
        ledger = Ledger(Landing(self.spark, self.config.warehouse), 0).load()
        check_versions(ledger.last_published(), self.versions)
        return ledger


def open_job(profile: str, overrides: list[str], accepted: Accepted = NOTHING, crawlers: int = 1) -> OpenedJob:
    """Read and check the configuration, bring its assets, open the session. Raises UsageError for anything wrong."""
    settings = load(profile, overrides)
    if crawlers > settings.crawl.per_host_concurrency:
        raise UsageError(
            f"{crawlers} dates are to be asked for at the same time, and each needs a connection to a host, but "
            f"crawl.per_host_concurrency allows {settings.crawl.per_host_concurrency}"
        )
    check_names(accepted, settings.run.expectations)
    check_agent(settings.crawl)
    config = local_assets(settings)
    policy, versions = check(config)
    check_reasons(config, policy)  # a takedown, and what mends the policy, must not be kept waiting by it
    return OpenedJob(open_session(config), config, policy, versions, accepted, crawlers)


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


def prepare_ahead(opened: OpenedJob, job: str) -> None:
    """What has to be there before dates are staged ahead (`stage_ahead`): tables, and the models' golden vectors."""
    with opened.held(job, "prepares") as warehouse:
        contents.make_golden(warehouse.work())


def stage_ahead(opened: OpenedJob, date: dt.date, *, force: bool) -> None:
    """Fetch and embed what a night of the date will ask for, the warehouse not being held (jobs.run.ahead); nothing
    where there is no night to be run, or where this was done before.

    The tables and the models' golden vectors have to be there. Raises what a night raises.
    """
    outlook = look_at(opened, date, force=force)
    if outlook.action != "run" or outlook.manifest is None:
        return
    spark, config, versions = opened.spark, opened.config, opened.versions
    landing = Landing(spark, config.warehouse, staging=ahead.FOLDER)
    run_id = new_run_id()
    progress = Progress(f"{date} ahead", run_id)
    before = ahead.deciding(landing)
    policy = judged_by(opened.policy, landing)
    work = Work(spark, landing, config, policy, versions, run_id, progress, (date,), crawlers=opened.crawlers)
    night = new_night(work, opened.ledger(), date, outlook.manifest, config.crawl.deadline_s, opened.accepted)
    try:
        take_steps(night, AHEAD[:1])
        if ahead.find(work, date, night.inputs or "") is not None:
            progress.say("was fetched before")
            landing.discard(run_id)
            return
        take_steps(night, AHEAD[1:])
        if ahead.deciding(landing) != before:
            raise RunError("verdicts or takedowns have come meanwhile: what was fetched ahead does not count")
        ahead.keep(work, date, night.inputs or "")
    except BaseException:
        landing.discard(run_id)
        raise


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
