"""Crawl and content gate in one fused pass: fetch -> gate -> canonical image of what is allowed.

Between the three no row is stored: the one thing that is written is this stage's result, in which pixels stand only
beside `decision = allow`. Everything later derives from that staging table, so nothing is fetched twice.
"""

import functools
from collections.abc import Iterable, Iterator

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as f

from jobs.stages.devices import device_for
from schemas.arrow import ddl
from schemas.outcomes import LOST_DECODER, FailureCode
from schemas.policy import Policy
from schemas.settings import CrawlSettings, GateSettings, ImageSettings
from udfs.crawl.fetch import FETCHED, fetch_batches, fetched_so_far
from udfs.gate.content import canonical_udf, gate_udf
from udfs.gate.overrides import People
from udfs.gate.rules import refused_url
from udfs.tally import Listener, telling


def crawl_and_gate(
    requests: DataFrame,
    *,
    policy: Policy,
    gate: GateSettings,
    people: People,
    crawl: CrawlSettings,
    images: ImageSettings,
    tasks: int,
    deadline_at: float | None,
    quarantine: DataFrame | None = None,
    crawlers: int = 1,
    listener: Listener | None = None,
) -> DataFrame:
    """Requests (`url_id, url, host`; optionally `validated_url, etag, last_modified, image_id`) -> one output row per
    URL: the fetch's evidence, the gate's verdict, the canonical image.

    Columns: those of udfs.crawl.fetch.FETCHED without `body`, those of udfs.gate.content.GATE (`failure_code` and
    `failure_detail` are the first failure of the three steps) and of udfs.gate.content.CANONICAL.

    `quarantine` (`image_id, detail`): contents that no decoder is shown; they fail as `decode` with that detail.
    `crawlers`: how many crawls may ask hosts at the same time, this one included: it keeps to its part of their limits.
    `listener`: who is told, while it goes on, what came of the URLs so far.
    """

    def fetch(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        fetched = fetch_batches(
            batches, crawl, refuse=refused_url(policy), deadline_at=deadline_at, foreign_host_shards=tasks * crawlers
        )
        return telling(fetched, listener, "fetch", fetched_so_far)

    fetched = spread_by_host(requests, tasks, crawl.per_host_concurrency, crawlers).mapInArrow(fetch, ddl(FETCHED))
    judge = gate_udf(policy, gate, crawl, people, device_for(requests.sparkSession, "auto"), listener)
    canonical = canonical_udf(images, crawl, gate, listener)
    known = _held_back(fetched, quarantine)
    judged = known.withColumn("gate", judge("body", "content_type", "image_id"))
    made = judged.withColumn("made", canonical("body", "content_type", "gate.decision"))
    failure = f.coalesce("failure_code", "gate.failure_code", "made.failure_code")
    detail = f.coalesce("failure_detail", "gate.failure_detail", "made.failure_detail")
    evidence = [name for name in fetched.columns if name not in {"body", "failure_code", "failure_detail"}]
    canonical_columns = [name for name in made.select("made.*").columns if not name.startswith("failure_")]
    return made.select(
        *evidence,
        failure.alias("failure_code"),
        detail.alias("failure_detail"),
        f.when(f.col("made.failure_code").isNull(), f.col("gate.decision")).alias("decision"),
        f.col("gate.reasons").alias("content_reasons"),
        f.col("gate.halves").alias("content_halves"),
        *[f"gate.{name}" for name in ("scores", "phash256s", "pdqs", "pdq_quality")],
        *[f.col(f"made.{name}").alias(name) for name in canonical_columns],
    )


def _held_back(fetched: DataFrame, quarantine: DataFrame | None) -> DataFrame:
    """Fetched rows without the bodies of what is in quarantine, which is its failure."""
    if quarantine is None:
        return fetched
    listed = quarantine.select("image_id", f.col("detail").alias("_listed"))
    # Broadcast: no row is stored between fetch and gate. A quarantine known to be empty is no join at all.
    return fetched.join(f.broadcast(listed), "image_id", "left").select(
        *[f.col(name) for name in fetched.columns if name not in {"body", "failure_code", "failure_detail"}],
        f.when(f.col("_listed").isNull(), f.col("body")).alias("body"),
        f.when(f.col("_listed").isNull(), f.col("failure_code"))
        .otherwise(FailureCode.DECODE.value)
        .alias("failure_code"),
        f.coalesce("_listed", "failure_detail").alias("failure_detail"),
    )


def lost_decoders() -> Column:
    """Whether a row of this stage is a content that a decoder crashed or hung over."""
    return (f.col("failure_code") == FailureCode.DECODE.value) & f.col("failure_detail").startswith(LOST_DECODER)


def spread_by_host(requests: DataFrame, tasks: int, per_host_concurrency: int, crawlers: int = 1) -> DataFrame:
    """Requests in `tasks` partitions, with `host_shards`: how many of them hold URLs of the row's host, times the
    crawls that go on at the same time.

    A host belongs to one task, so that its limits can be kept there. Only a host with more than a task's fair share of
    the URLs is spread over several, which then divide its limits among them.
    """
    most_shards = max(1, min(tasks, per_host_concurrency // crawlers))  # each of them holds one connection at least
    sizes = requests.groupBy("host").agg(f.count("*").alias("urls"))
    fair_share = f.greatest(f.lit(1), f.ceil(f.sum("urls").over(Window.partitionBy()) / tasks))
    shards = f.least(f.lit(most_shards), f.ceil(f.col("urls") / fair_share)).cast("int")
    hosts = sizes.select("host", shards.alias("host_shards"))
    own = f.pmod(f.xxhash64("host"), f.lit(tasks))
    shard = f.pmod(f.xxhash64("url_id"), f.col("host_shards"))
    task = f.pmod(own + shard, f.lit(tasks)).cast("int")
    keys = f.array(*[f.lit(key) for key in _partition_keys(requests.sparkSession, tasks)])
    placed = requests.join(f.broadcast(hosts), "host").withColumn("_task", f.element_at(keys, task + 1))
    conditional = [name for name in ("validated_url", "etag", "last_modified", "image_id") if name in requests.columns]
    shared = (f.col("host_shards") * f.lit(crawlers)).alias("host_shards")
    return placed.repartition(tasks, "_task").select("url_id", "url", shared, *conditional)


@functools.cache
def _partition_keys(spark: SparkSession, tasks: int) -> list[int]:
    """For each of `tasks` partitions a number that Spark's hash partitioning puts there."""
    numbers = spark.range(tasks * 64).select(f.col("id").cast("int").alias("key"))
    placed = numbers.groupBy(f.pmod(f.hash("key"), f.lit(tasks)).alias("task")).agg(f.min("key").alias("key"))
    keys = {row["task"]: row["key"] for row in placed.collect()}
    return [keys[task] for task in range(tasks)]
