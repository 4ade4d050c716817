"""What somebody asked to be taken down: in force for every run, and what follows from asking and from lifting."""

import datetime as dt
from collections.abc import Mapping, Sequence

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from jobs.config.errors import UsageError
from jobs.config.progress import log
from jobs.run import ahead, contents
from jobs.run.context import Work
from jobs.run.lifecycle import Warehouse, summary
from jobs.run.names import changed
from jobs.run.pipelines import REDECISION, stage_run
from jobs.run.redecision import Redecision, tell_flips
from jobs.warehouse.history import Staged
from jobs.warehouse.landing import CHANGE
from schemas.outcomes import Decision
from schemas.policy import Policy
from schemas.tables import SIGHTINGS, TAKEDOWNS
from udfs.gate.rules import ContentSignals, MissingScore, judge_content
from udfs.gate.takedowns import MIN_QUALITY, PERCEPTUAL, Takedown, taken_down_alone
from udfs.urls import hosts_named

Known = Mapping[tuple[str, str], tuple[Takedown, bool]]
"""By kind and subject what was ever asked for, and whether it is in force."""


def take_down(
    warehouse: Warehouse, requests: Sequence[Takedown], *, reference: str, lift: bool = False, dry_run: bool = False
) -> None:
    """Publish what follows from taking down, or from lifting what was; `dry_run`: only say what would.

    A request for what the warehouse has never seen is in force all the same. Raises UsageError for lifting what nobody
    asked for.
    """
    known = _known(warehouse)
    asked = _standing(requests, known) if lift else [one for one in requests if known.get(_key(one)) != (one, True)]
    if not asked:
        log.info("takedown: all of this is %s already: nothing to do", "lifted" if lift else "in force")
        return
    work = warehouse.work()

    def stage() -> None:
        after = {**known, **{_key(one): (one, not lift) for one in asked}}
        work.policy = warehouse.judging(sorted(one for one, stands in after.values() if stands))
        work.stage_changed("takedowns", _rows(work, asked, known, reference, in_force=not lift))
        stage_run(Redecision(work, _concerned(work, asked)), REDECISION)

    word = "lifted" if lift else "taken down"
    if dry_run:
        stage()
        tell_flips(f"would flip if these were {word}: {', '.join(map(str, asked))}", work)
        warehouse.landing.discard(work.run_id)
        return
    event = warehouse.publish(work, stage)
    ahead.sweep_all(warehouse.landing.storage)  # what is taken down may have been fetched for a date to come
    if event is not None:
        log.info("takedown: %d %s (%s); %s", work.counts[changed("takedowns")], word, reference, summary(event))


def near_copies(warehouse: Warehouse, image_id: str, max_distance: int) -> Takedown:
    """The takedown of whatever looks like a content that the warehouse has judged, by the first of the hashes that its
    gate makes. Raises UsageError where there is no such hash, or too little to hash."""
    hashes = warehouse.config.policy.hashes
    if not hashes:
        raise UsageError("--near: expected a hash among policy.hashes, found none: the gate makes none to compare")
    column = {"phash256": "phash256s", "pdq": "pdqs"}[hashes[0]]
    signals = warehouse.landing.read("content_signals").where(contents.of_gate(warehouse.config.policy))
    found = signals.where(f.col("image_id") == image_id).select(column, "pdq_quality").first()
    if found is None or found[0] is None:
        raise UsageError(f"--near: image {image_id} has no {hashes[0]} here: expected one that this gate has judged")
    near = Takedown(hashes[0], bytes(found[0][:32]).hex(), max_distance)
    if found[1] < MIN_QUALITY:
        raise UsageError(
            f"--near: image {image_id} has too little to hash (quality {found[1]}, expected {MIN_QUALITY}): whatever "
            "else is flat would be near it; name the copies by --image"
        )
    return near


def _known(warehouse: Warehouse) -> Known:
    rows = warehouse.landing.read("takedowns").select("kind", "subject", "max_distance", "in_force")
    return {
        (kind, subject): (Takedown(kind, subject, distance), stands)
        for kind, subject, distance, stands in rows.collect()
    }


def _key(one: Takedown) -> tuple[str, str]:
    return one.kind, one.subject


def _standing(requests: Sequence[Takedown], known: Known) -> list[Takedown]:
    """Of the requests those that are in force, as they are."""
    if unknown := [str(one) for one in requests if _key(one) not in known]:
        raise UsageError(f"--lift: never asked for here: {', '.join(unknown[:3])}; the table takedowns says what was")
    found = [known[_key(one)] for one in requests]
    return [one for one, stands in found if stands]


def _rows(work: Work, asked: Sequence[Takedown], known: Known, reference: str, *, in_force: bool) -> DataFrame:
    """What is asked, as changes of `takedowns`."""
    now = dt.datetime.now(dt.UTC)
    rows = pa.table(
        {
            "kind": [one.kind for one in asked],
            "subject": [one.subject for one in asked],
            "max_distance": pa.array([one.max_distance for one in asked], pa.int32()),
            "in_force": [in_force] * len(asked),
            "reference": [reference] * len(asked),
            "decided_at": pa.array([now] * len(asked), pa.timestamp("us", "UTC")),
            "run_id": [work.run_id] * len(asked),
            CHANGE: ["update" if _key(one) in known else "insert" for one in asked],
        }
    )
    return work.spark.createDataFrame(rows).select(*TAKEDOWNS.column_names, CHANGE)


# What is concerned ---------------------------------------------------------------------------------------------------


def _concerned(work: Work, asked: Sequence[Takedown]) -> DataFrame:
    """Rows of `sightings` that may be decided otherwise by these: of their addresses, of redirects to these, and of
    their contents.

    Each is one pass over one or two columns of a table: what a takedown costs is in proportion to history, what it
    writes is not.
    """
    sightings = work.landing.read("sightings")
    alone = taken_down_alone(asked)
    found = [sightings.where(_is_at(asked))]
    if any(one.kind in {"url", "domain"} for one in asked):
        refused = contents.refused(alone)
        through = work.landing.read("fetches").where("size(hops) > 0").where(refused(f.col("hops")).isNotNull())
        found.append(work.past("sightings", work.keys("redirected", through.select("ingest_date", "url_id"))))
    work.taken_down = _images(work, asked, alone)
    if images := work.taken_down:
        found.append(work.past("sightings", images, "image_id"))
    together = found[0]
    for more in found[1:]:
        together = together.unionByName(more)
    return together.dropDuplicates(list(SIGHTINGS.keys))


def _is_at(asked: Sequence[Takedown]) -> Column:
    """Of rows of `sightings`: whether their URL is one of these, or of one of these domains."""
    urls = [one.subject for one in asked if one.kind == "url"]
    domains = [host for one in asked if one.kind == "domain" for host in hosts_named(one.subject)]
    parts = f.split("host", r"\.")
    above = f.transform(
        f.sequence(f.lit(1), f.size(parts)), lambda n: f.array_join(f.slice(parts, n, f.size(parts)), ".")
    )
    at_url = f.coalesce("normalised_url", "url").isin(urls) if urls else f.lit(False)
    of_domain = f.arrays_overlap(above, f.array(*map(f.lit, domains))) if domains else f.lit(False)
    return f.coalesce(at_url | of_domain, f.lit(False))


def _images(work: Work, asked: Sequence[Takedown], alone: Policy) -> Staged | None:
    """`image_id` of the contents that are named, and of those that are near a hash that is."""
    named = [one.subject for one in asked if one.kind == "image"]
    frames = []
    if named:
        frames.append(work.spark.createDataFrame(pa.table({"image_id": named})))
    if any(one.kind in PERCEPTUAL for one in asked):

        @f.udf("boolean", useArrow=True)
        def is_near(image_id: str, phash256s: bytes | None, pdqs: bytes | None, quality: int | None) -> bool:
            try:
                signals = ContentSignals(image_id, {}, phash256s, pdqs, quality)
                return judge_content(alone, signals).decision is Decision.BLOCK
            except MissingScore:
                return False

        signals = work.landing.read("content_signals").where(contents.of_gate(work.config.policy))
        near = is_near("image_id", "phash256s", "pdqs", "pdq_quality")
        frames.append(signals.where(near).select("image_id"))
    if not frames:
        return None
    together = frames[0] if len(frames) == 1 else frames[0].unionByName(frames[1])
    return work.keys("taken_images", together)
