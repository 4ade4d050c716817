"""Crawl and content gate in one fused pass: fetch -> gate -> canonical picture of what is allowed.

Between the three no row is stored: the one thing that is written is this stage's result, in which pixels stand only
beside `decision = allow`. Everything later derives from that staging table, so nothing is fetched twice.
"""

from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from schemas.policy import Policy
from schemas.settings import AssetSettings, CrawlSettings, ImageSettings
from udfs.fetch import FETCHED_DDL, fetch_batches
from udfs.gate import canonical_udf, gate_udf
from udfs.rules import refused_url


def crawl_and_gate(
    requests: DataFrame,
    *,
    policy: Policy,
    detector: AssetSettings,
    gate_batch: int,
    crawl: CrawlSettings,
    images: ImageSettings,
    tasks: int,
    deadline_at: float | None,
) -> DataFrame:
    """Requests (`url_id, url, host`) -> one row a URL: the fetch's evidence, the gate's verdict, the canonical picture.

    Columns: those of udfs.fetch.FETCHED without `body`, those of udfs.gate.GATE (`failure_code` and `failure_detail`
    are the first failure of the three steps) and of udfs.gate.CANONICAL. A host belongs to one task.
    """

    def fetch(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return fetch_batches(batches, crawl, refuse=refused_url(policy), deadline_at=deadline_at)

    fetched = requests.repartition(tasks, "host").select("url_id", "url").mapInArrow(fetch, FETCHED_DDL)
    gate = gate_udf(policy, detector, crawl, gate_batch)
    canonical = canonical_udf(images, crawl)
    judged = fetched.withColumn("gate", gate("body", "content_type"))
    made = judged.withColumn("made", canonical("body", "content_type", "gate.decision"))
    failure = f.coalesce("failure_code", "gate.failure_code", "made.failure_code")
    detail = f.coalesce("failure_detail", "gate.failure_detail", "made.failure_detail")
    evidence = [name for name in fetched.columns if name not in {"body", "failure_code", "failure_detail"}]
    pictures = [field.name for field in made.schema["made"].dataType.fields if not field.name.startswith("failure_")]
    return made.select(
        *evidence,
        failure.alias("failure_code"),
        detail.alias("failure_detail"),
        f.when(f.col("made.failure_code").isNull(), f.col("gate.decision")).alias("decision"),
        f.col("gate.reasons").alias("content_reasons"),
        "gate.scores",
        *[f.col(f"made.{name}").alias(name) for name in pictures],
    )
