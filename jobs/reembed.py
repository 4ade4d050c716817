"""Another embedding model for what is stored: its vectors beside the old ones, then the feed in one published run.

    python -m jobs.reembed --profile conf/local.yaml [--model NAME] [--batch 1000000] [--no-switch] [--most-failed 0.01]

`NAME` is the model of the profile's `embedding` (the default) or `embedding_beside`. Every live image without a vector
of that model gets one, and every accepted text one of the profile's text model, in parts that are published one by one:
a job that is stopped goes on where it was, and nights may come in between. When none is missing the feed is switched to
these models, and to the alignment that the profile names for them, in one run. While both visual models are configured,
nights embed with both. After a switch, name the model under `embedding` in the profile: nights under the other are
refused. What one model has no vector for, the other is asked about at the switch: it is owed a fetch, for its pixels
were not kept. Exit codes as for every job.
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
from typing import TypeVar

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs import contents
from jobs.assets import local_assets
from jobs.command import add_config_arguments, run_command
from jobs.config import Config, load
from jobs.errors import RunError, UsageError
from jobs.execution import SWITCHED, Warehouse, held
from jobs.landing import Landing
from jobs.ledger import Versions
from jobs.preflight import check
from jobs.progress import log
from jobs.revision import Revision
from jobs.session import open_session
from jobs.stages.pregate import judge_rows, recorded_rows
from jobs.work import Work
from schemas.outcomes import FailureCode

Place = TypeVar("Place")

_PAUSE = 0.05, 10.0
"""Between two parts, for a night that waits: this share of what the part took, in seconds at most."""


@dataclass(frozen=True)
class Plan:
    """What the job is asked for."""

    batch: int
    """Images, or texts, embedded by one run."""
    switch: bool
    most_failed: float
    """Share of the live images that may have no vector of the new model."""


@dataclass
class Tried:
    """What this process has asked the models about: what they have no vector for now, they will have none for then."""

    files: set[str] = field(default_factory=set)
    dates: set[dt.date] = field(default_factory=set)


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
        help="of the live images that may have no vector of the model for the feed to be switched (0.01)",
    )
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options))


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
        share, most = _PAUSE
        time.sleep(min(share * (time.monotonic() - begun), most))


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
    files, images = _next_files(work, batch, tried)
    if files:
        warehouse.publish(work, partial(_fill_images, work, files), versions=before)
        tried.files.update(files)
        log.info("reembed: %d images embedded, %d more to go", work.counts["embedded"], images)
        return True
    dates, texts = _next_dates(work, batch, tried)
    if dates:
        warehouse.publish(work, partial(_fill_texts, work, dates), versions=before)
        tried.dates.update(dates)
        log.info("reembed: %d texts embedded, at most %d more to go", work.counts["texts_embedded"], texts)
        return True
    return False


def missing_vectors(landing: Landing, model_version: str) -> DataFrame:
    """`image_id` of live images without a vector of that model."""
    embedded = landing.read("embeddings").where(f.col("model_version") == model_version)
    return landing.read("clusters").select("image_id").join(embedded, "image_id", "left_anti")


def _next_files(work: Work, batch: int, tried: Tried) -> tuple[list[str], int]:
    """Files of `images` that hold about as many images without a vector as a part takes, and how many are left then.

    By files, so that filling reads each picture once however many parts it takes.
    """
    lying = work.landing.files("images").select("image_id", "file")
    missing = missing_vectors(work.landing, work.versions.model_version)
    counted = lying.join(missing, "image_id", "left_semi").groupBy("file").count().orderBy("file").collect()
    waiting = [(row["file"], row["count"]) for row in counted if row["file"] not in tried.files]
    return _part(waiting, batch)


def _next_dates(work: Work, batch: int, tried: Tried) -> tuple[list[dt.date], int]:
    """The same of dates and accepted texts without a vector of the text model."""
    counted = _without_text_vector(work).groupBy("ingest_date").count().orderBy("ingest_date").collect()
    waiting = [(row["ingest_date"], row["count"]) for row in counted if row["ingest_date"] not in tried.dates]
    return _part(waiting, batch)


def _part(waiting: Sequence[tuple[Place, int]], batch: int) -> tuple[list[Place], int]:
    """The first places, until they hold `batch`, one at least; and what the others hold."""
    held = sum(total <= batch for total in accumulate(count for _, count in waiting))
    chosen = max(held, 1)
    return [place for place, _ in waiting[:chosen]], sum(count for _, count in waiting[chosen:])


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
        contents.embed_texts_of(work, judge_rows(recorded_rows(sightings), work.policy, work.overrides))
    work.write_plan()


# Switching ------------------------------------------------------------------------------------------------------------


def _switch(work: Work, other_model: bool, most_failed: float) -> None:
    """Every live image is worked out again under the run's models; what has no vector of the visual one is an
    `embed_error`, and what was one for the visual model before is decided as if nobody knew."""
    images = work.landing.read("clusters").select("image_id")
    failed = missing_vectors(work.landing, work.versions.model_version).withColumn(
        "error", f.lit(f"no vector of {work.config.embedding.model}")
    )
    failed = work.stage("without_vector", failed)
    count, live = work.rows("without_vector").rows, images.count()
    work.counts["without_vector"] = count
    if count > most_failed * live:
        raise RunError(
            f"{count} of {live} live images have no vector of {work.config.embedding.model}, more than the share of "
            f"{most_failed:g} that --most-failed allows: the feed stays as it is"
        )
    sightings = work.landing.read("sightings")
    concerned = sightings.join(failed, "image_id", "left_semi")
    if other_model:
        concerned = concerned.unionByName(
            sightings.where(f.col("failure_code") == FailureCode.EMBED_ERROR.value).select(*concerned.columns)
        )
    Revision(work).decide_again(concerned, embed_errors=failed if other_model else None, images=images)


if __name__ == "__main__":
    sys.exit(main())
