"""Another embedding model for what is stored: its vectors beside the old ones, then the feed in one published run.

    python -m jobs.reembed --profile conf/local.yaml [--model NAME] [--batch 100000] [--no-switch]

`NAME` is the model of the profile's `embedding` (the default) or `embedding_beside`. Every live image without a vector
of that model gets one, in batches that are published one by one: a job that is stopped goes on where it was. When none
is missing the feed is switched to the model, and to the alignment that the profile names for it, in one run. While both
are configured, nights embed with both, so that switching back misses nothing. After a switch, name the model under
`embedding` in the profile: nights under the other are refused.
Exit codes as for every job.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from jobs import contents
from jobs.assets import local_assets
from jobs.command import add_config_arguments, run_command
from jobs.config import Config, load
from jobs.errors import RunError, UsageError
from jobs.execution import Warehouse, held
from jobs.landing import Landing
from jobs.preflight import check
from jobs.progress import log
from jobs.revision import Revision
from jobs.session import open_session
from jobs.stages import audit
from jobs.work import Work
from udfs.embed import dimension

SWITCHED = ("model_version", "alignment_version")
"""In which a run of this job may differ from the one before."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="jobs.reembed", description="Fill another model's vectors, switch the feed.")
    add_config_arguments(parser)
    parser.add_argument("--model", metavar="NAME", help="the model of embedding (the default) or embedding_beside")
    parser.add_argument("--batch", type=int, default=100_000, metavar="IMAGES", help="images embedded by one run")
    parser.add_argument("--no-switch", action="store_true", help="only fill; leave the feed with its model")
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    if options.batch < 1:
        raise UsageError(f"--batch {options.batch}: expected one image or more")
    config = towards(local_assets(load(options.profile, options.set)), options.model)
    policy, versions = check(config)
    spark = open_session(config)
    with held(spark, config, policy, versions, job="reembed", what="reembed", may_differ=SWITCHED) as warehouse:
        reembed(warehouse, batch=options.batch, switch=not options.no_switch)


def towards(config: Config, model: str | None) -> Config:
    """The configuration with that model as `embedding`, the other beside it. UsageError where neither is that model."""
    beside = config.embedding_beside
    if model in {None, config.embedding.model}:
        return config
    if beside is None or beside.model != model:
        known = [config.embedding.model] + ([beside.model] if beside else [])
        raise UsageError(
            f"--model {model}: neither embedding nor embedding_beside is that; they are {', '.join(known)}"
        )
    return config.model_copy(update={"embedding": beside, "embedding_beside": config.embedding})


def reembed(warehouse: Warehouse, *, batch: int, switch: bool) -> None:
    """Fill the model's vectors, then switch the feed to it. Raises RunError where nothing was ever published."""
    published = warehouse.ledger.last_published()
    if published is None or published.model_version is None:
        raise RunError(
            f"the warehouse {warehouse.landing.storage.root} has no published run: there is nothing to embed"
        )
    model, version = warehouse.config.embedding.model, warehouse.versions.model_version
    before = replace(
        warehouse.versions,
        model_version=published.model_version,
        alignment_version=published.alignment_version,
    )
    count = missing_vectors(warehouse.landing, version).count()
    parts = -(-count // batch)
    for number in range(parts):
        work = warehouse.work()
        stage = partial(_fill, work, f.pmod(f.xxhash64("image_id"), f.lit(parts)) == number)
        warehouse.publish(work, stage, versions=before)
        log.info("reembed part %d of %d: %d images embedded", number + 1, parts, work.counts["embedded"])
    if switch and before != warehouse.versions:
        work = warehouse.work()
        warehouse.publish(work, partial(_switch, work))
        log.info("reembed: the feed is under %s and its alignment now; name it under embedding in the profile", model)
    else:
        log.info("reembed: what %s can embed is embedded; the feed stays as it is", model)


def missing_vectors(landing: Landing, model_version: str) -> DataFrame:
    """`image_id` of live images without a vector of that model."""
    embedded = landing.read("embeddings").where(f.col("model_version") == model_version)
    return landing.read("clusters").select("image_id").join(embedded, "image_id", "left_anti")


def _fill(work: Work, chosen: Column) -> None:
    missing = missing_vectors(work.landing, work.versions.model_version).where(chosen)
    pixels = work.landing.read("images").select("image_id", "pixels").join(missing, "image_id", "left_semi")
    with work.progress.stage("embed"):
        vectors, _ = contents.embed(work, pixels, work.config.embedding, work.versions.model_version, "vectors")
        audit.check_vectors(vectors, dimension(work.config.embedding))
    work.counts["embedded"] = work.rows("vectors").counted["embedded"]
    work.plan_rows("embeddings", "vectors", where="error is null")
    work.write_plan()


def _switch(work: Work) -> None:
    """Every live image is worked out again under the run's model; what it gives no vector for is an `embed_error`."""
    failed = missing_vectors(work.landing, work.versions.model_version).withColumn(
        "error", f.lit(f"no vector of {work.config.embedding.model}")
    )
    failed = work.stage("without_vector", failed)
    work.counts["without_vector"] = work.rows("without_vector").rows
    sightings = work.landing.read("sightings").join(failed, "image_id", "left_semi")
    live = work.landing.read("clusters").select("image_id")
    Revision(work).decide_again(sightings, embed_errors=failed, images=live)


if __name__ == "__main__":
    sys.exit(main())
