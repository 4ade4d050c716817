"""Another embedding model for what is stored: its vectors beside the old ones, then the feed in one published run.

    python -m jobs.reembed --profile conf/local.yaml [--model NAME] [--batch 1000000] [--no-switch] [--most-failed 0.01]

`NAME` is the model of the profile's `embedding` (the default) or `embedding_beside`. Every stored picture without a
vector of that model gets one, and every accepted text one of the profile's text model, in parts that are published one
by one: a job that is stopped goes on where it was, and nights may come in between. When none is missing the feed is
switched to these models, and to the alignment that the profile names for them, in one run. While both visual models are
configured, nights embed with both. After a switch, name the model under `embedding` in the profile: nights under the
other are refused. What one model has no vector for, the other is asked about at the switch: it is owed a fetch, for its
pixels were not kept. Exit codes as for every job.
"""

import argparse
import datetime as dt
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs.config.command import add_config_arguments, run_command
from jobs.config.errors import RunError, UsageError
from jobs.config.profile import Config, load
from jobs.config.progress import log
from jobs.run import contents
from jobs.run.context import Work
from jobs.run.lifecycle import SWITCHED, Warehouse, held
from jobs.run.redecision import Revision
from jobs.stages.pregate import judge_sightings
from jobs.startup.assets import local_assets
from jobs.startup.preflight import check
from jobs.startup.session import open_session
from jobs.warehouse.landing import Landing
from jobs.warehouse.lease import POLL_S
from jobs.warehouse.ledger import Versions
from schemas.outcomes import FailureCode
from schemas.tables import SIGHTINGS

Place = TypeVar("Place")

_SHARE, _MOST_PAUSE_S = 0.05, 10.0
"""Between two parts, for a night that waits to look: this share of what the part took, so many seconds at most."""


@dataclass(frozen=True)
class Plan:
    """What the job is asked for."""

    batch: int
    """Images, or texts, embedded by one run."""
    switch: bool
    most_failed: float
    """Share of the stored pictures that may have no vector of the new model."""


Waiting = dict[Place, tuple[int, int]]
"""By file or date, what has no vector there yet: how many, and a hash of which."""


@dataclass
class Tried:
    """What the models had no vector for when this process asked: asking again would not help."""

    files: Waiting[str] = field(default_factory=dict)
    dates: Waiting[dt.date] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="jobs.reembed", description="Fill another model's vectors, switch the feed.")
    add_config_arguments(parser)
    parser.add_argument("--model", metavar="NAME", help="the model of embedding (the default) or embedding_beside")
    parser.add_argument(
        "--batch", type=int, default=1_000_000, metavar="N", help="images, or texts, embedded by one run (1000000)"
    )
    parser.add_argument("--no-switch", action="store_true", help="only fill; leave the feed with its model")
    parser.add_argument(
        "--most-failed",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of the pictures that may have no vector of the model for the feed to be switched (0.01)",
    )
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options), debug=options.debug)


def _run(options: argparse.Namespace) -> None:
    if options.batch < 1:
        raise UsageError(f"--batch {options.batch}: expected one image or more")
    if not 0 <= options.most_failed <= 1:
        raise UsageError(f"--most-failed {options.most_failed}: expected a share between 0 and 1")
    config = towards(local_assets(load(options.profile, options.set)), options.model)
    policy, versions = check(config)
    hold = partial(
        held, open_session(config), config, policy, versions, job="reembed", what="reembed", may_differ=tuple(SWITCHED)
    )
    reembed(hold, Plan(options.batch, not options.no_switch, options.most_failed))


def towards(config: Config, model: str | None) -> Config:
    """The configuration with that model as `embedding`, the other beside it. UsageError where neither is that model, or
    both are."""
    beside = config.embedding_beside
    if model is None:
        return config
    if beside is not None and beside.model == config.embedding.model == model:
        raise UsageError(
            f"--model {model}: embedding and embedding_beside both are; name the wanted one under embedding, and leave "
            "--model out"
        )
    if config.embedding.model == model:
        return config
    if beside is None or beside.model != model:
        known = [config.embedding.model] + ([beside.model] if beside else [])
        raise UsageError(
            f"--model {model}: neither embedding nor embedding_beside is that; they are {', '.join(known)}"
        )
    return config.model_copy(update={"embedding": beside, "embedding_beside": config.embedding})


def reembed(hold: Callable[[], AbstractContextManager[Warehouse]], plan: Plan) -> None:
    """Fill what the models lack, holding the warehouse for one part at a time; switch the feed where nothing is left.

    Raises RunError where nothing was ever published, and where too much has no vector of the model to switch to it.
    """
    tried = Tried()
    while True:
        begun = time.monotonic()
        with hold() as warehouse:
            if not _fill_part(warehouse, plan.batch, tried):
                _finish(warehouse, plan)
                return
        time.sleep(min(max(_SHARE * (time.monotonic() - begun), 1.5 * POLL_S), _MOST_PAUSE_S))


def _finish(warehouse: Warehouse, plan: Plan) -> None:
    before, model = _before(warehouse), warehouse.config.embedding.model
    if not plan.switch or before == warehouse.versions:
        log.info("reembed: what %s can embed is embedded; the feed stays as it is", model)
        return
    work = warehouse.work()
    other_model = before.model_version != warehouse.versions.model_version
    warehouse.publish(work, partial(_switch, work, other_model, plan.most_failed))
    log.info("reembed: the feed is under %s and its alignment now; name it under embedding in the profile", model)


def _before(warehouse: Warehouse) -> Versions:
    """The versions that the feed is under until it is switched. Raises RunError where nothing was ever published."""
    published = warehouse.ledger.last_published()
    if published is None or published.model_version is None:
        raise RunError(
            f"the warehouse {warehouse.landing.storage.root} has no published run: there is nothing to embed"
        )
    kept = {one.name: getattr(published, one.name) for one in fields(Versions) if one.name in SWITCHED}
    return replace(warehouse.versions, **kept)


# Filling --------------------------------------------------------------------------------------------------------------


def _fill_part(warehouse: Warehouse, batch: int, tried: Tried) -> bool:
    """Embed and publish the next part of what is missing; False where nothing is."""
    before, work = _before(warehouse), warehouse.work()
    files, left = _part(_waiting_images(work), tried.files, batch)
    if files:
        warehouse.publish(work, partial(_fill_images, work, files), versions=before)
        log.info("reembed: %d images embedded, %d more to go", work.counts["embedded"], left)
        if work.counts["embedded"] < work.rows("vectors").rows:
            tried.files |= _of(_waiting_images(warehouse.work()), files)
        return True
    dates, left = _part(_waiting_texts(work), tried.dates, batch)
    if dates:
        warehouse.publish(work, partial(_fill_texts, work, dates), versions=before)
        log.info("reembed: %d texts embedded, at most %d more to go", work.counts["texts_embedded"], left)
        if work.counts["texts_failed"]:
            tried.dates |= _of(_waiting_texts(warehouse.work()), dates)
        return True
    return False


def missing_vectors(landing: Landing, model_version: str) -> DataFrame:
    """`image_id` of stored pictures without a vector of that model, live or not: what is shown may change."""
    embedded = landing.read("embeddings").where(f.col("model_version") == model_version)
    return landing.read("images").select("image_id").join(embedded, "image_id", "left_anti")


def _waiting_images(work: Work) -> Waiting[str]:
    """By files of `images`, so that filling reads each picture once however many parts it takes."""
    lying = work.landing.files("images").select("image_id", "file")
    missing = missing_vectors(work.landing, work.versions.model_version)
    return _counted(lying.join(missing, "image_id", "left_semi"), "file", "image_id")


def _waiting_texts(work: Work) -> Waiting[dt.date]:
    return _counted(_without_text_vector(work), "ingest_date", "text_id")


def _counted(rows: DataFrame, place: str, key: str) -> Waiting[Any]:
    which = f.sum(f.xxhash64(key).cast("decimal(38,0)")).alias("which")
    counted = rows.groupBy(place).agg(f.count("*").alias("rows"), which).orderBy(place).collect()
    return {row[place]: (row["rows"], int(row["which"])) for row in counted}


def _part(waiting: Waiting[Place], tried: Waiting[Place], batch: int) -> tuple[list[Place], int]:
    """The first places where not just what was tried is waiting, until they hold `batch`, one at least; and how many
    wait at the others."""
    untried = [(place, count) for place, (count, which) in waiting.items() if tried.get(place) != (count, which)]
    chosen = max(1, sum(total <= batch for total in accumulate(count for _, count in untried)))
    return [place for place, _ in untried[:chosen]], sum(count for _, count in untried[chosen:])


def _of(waiting: Waiting[Place], places: Sequence[Place]) -> Waiting[Place]:
    return {place: waiting[place] for place in places if place in waiting}


def _without_text_vector(work: Work) -> DataFrame:
    accepted = work.landing.read("sightings").where("outcome = 'accepted' and text_id is not null")
    return accepted.join(contents.texts_before(work).select("text_id"), "text_id", "left_anti")


def _fill_images(work: Work, files: Sequence[str]) -> None:
    missing = missing_vectors(work.landing, work.versions.model_version)
    pixels = work.landing.read_files("images", files).select("image_id", "pixels")
    with work.progress.stage("embed"):
        contents.embed(work, pixels, missing, work.config.embedding, work.versions.model_version, "vectors")
    work.counts["embedded"] = work.rows("vectors").counted["embedded"]
    work.plan_rows("embeddings", "vectors", where="error is null")
    work.write_plan()


def _fill_texts(work: Work, dates: Sequence[dt.date]) -> None:
    sightings = _without_text_vector(work).where(f.col("ingest_date").isin(*dates))
    with work.progress.stage("embed texts"):
        contents.embed_texts_of(work, judge_sightings(sightings, work.policy, work.overrides))
    work.write_plan()


# Switching ------------------------------------------------------------------------------------------------------------


def _switch(work: Work, other_model: bool, most_failed: float) -> None:
    """Every live image is worked out again under the run's models; what has no vector of the visual one is an
    `embed_error`, and what was one for the visual model before is decided as if nobody knew."""
    live = work.landing.read("clusters").select("image_id")
    failed = missing_vectors(work.landing, work.versions.model_version).withColumn(
        "error", f.lit(f"no vector of {work.config.embedding.model}")
    )
    failed = work.stage("without_vector", failed)
    count, stored = work.rows("without_vector").rows, work.landing.read("images").count()
    work.counts["without_vector"] = count
    if count > most_failed * stored:
        raise RunError(
            f"{count} of {stored} pictures have no vector of {work.config.embedding.model}, more than the share of "
            f"{most_failed:g} that --most-failed allows: the feed stays as it is"
        )
    sightings = work.landing.read("sightings")
    concerned = sightings.join(failed, "image_id", "left_semi")
    if other_model:
        known = sightings.where(f.col("failure_code") == FailureCode.EMBED_ERROR.value)
        concerned = concerned.unionByName(known.select(*concerned.columns)).dropDuplicates(list(SIGHTINGS.keys))
    Revision(work).decide_again(concerned, embed_errors=failed if other_model else None, images=live)


if __name__ == "__main__":
    sys.exit(main())
