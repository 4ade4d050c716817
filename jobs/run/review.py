"""What is under review in a warehouse, and what follows from people's verdicts on it."""

import datetime as dt
from collections.abc import Mapping, Sequence

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from jobs.config.errors import UsageError
from jobs.config.profile import Config
from jobs.config.progress import log
from jobs.run.contents import of_gate
from jobs.run.context import Work
from jobs.run.denylist import judged_by
from jobs.run.lifecycle import Warehouse, check_versions, summary
from jobs.run.overrides import Overrides
from jobs.run.pipelines import REDECISION, stage_run
from jobs.run.redecision import Redecision
from jobs.run.review_file import BETWEEN, COLUMNS, ReviewedRow
from jobs.stages import outcomes
from jobs.stages.outcomes import human_decision_rows
from jobs.stages.review import sighting_id
from jobs.startup.session import open_session
from jobs.warehouse.landing import CHANGE, Landing
from jobs.warehouse.ledger import Ledger, Versions
from schemas.policy import Policy
from schemas.tables import OVERRIDES


def under_review(config: Config, policy: Policy, versions: Versions) -> DataFrame:
    """What people have to decide, as published: `COLUMNS`, one row per content or sighting, the last three empty.

    A content under review holds back all its sightings and stands here once; a sighting stands here for reasons of its
    own only. Raises UsageError where the warehouse is under another policy, or nothing is published.
    """
    spark = open_session(config)
    published = Ledger(Landing(spark, config.warehouse), 0).load().last_published()
    if published is None or published.table_versions is None:
        raise UsageError(f"warehouse {config.warehouse}: no run is published there yet, so nothing is under review")
    check_versions(published, versions)
    landing = _Published(spark, config.warehouse, published.table_versions)
    held_back = landing.read("sightings").where("outcome = 'review'")
    signals = landing.read("content_signals").where(of_gate(config.policy))
    signals = signals.join(held_back.select("image_id").distinct(), "image_id", "left_semi")
    policy = judged_by(policy, landing)
    judged = outcomes.judge_stored(signals, policy, Overrides(landing.read("overrides")).of_contents)
    joined = held_back.join(judged, "image_id", "left").withColumn("subject", sighting_id())
    nothing = f.array().cast("array<string>")
    of_content = f.when(f.col("decision") == "review", f.col("content_reasons")).otherwise(nothing)
    joined = joined.withColumn("of_content", of_content)
    first = f.struct("ingest_date", "source_file", "row_number", "url", "page_url", "title")
    images = (
        joined.where("decision = 'review'")
        .groupBy("image_id")
        .agg(f.first("content_reasons").alias("reasons"), f.min(first).alias("first"))
    )
    images = images.join(signals.select("image_id", "scores"), "image_id", "left").select(
        f.lit("image").alias("subject_kind"), f.col("image_id").alias("subject_id"), "reasons", "first.*", "scores"
    )
    own = joined.withColumn("own", f.array_except("reasons", "of_content")).where("size(own) > 0")
    sightings = own.select(
        f.lit("sighting").alias("subject_kind"),
        f.col("subject").alias("subject_id"),
        f.col("own").alias("reasons"),
        "url",
        "page_url",
        "title",
    )
    pairs = f.transform(f.map_entries("scores"), lambda e: f.concat(e["key"], f.lit("="), f.round(e["value"], 4)))
    empty = [f.lit(None).cast("string").alias(name) for name in ("verdict", "reviewer", "comment")]
    return (
        images.unionByName(sightings, allowMissingColumns=True)
        .withColumn("reasons", f.array_join(f.array_sort("reasons"), BETWEEN))
        .withColumn("scores", f.array_join(f.array_sort(pairs), BETWEEN))
        .select(*COLUMNS[:-3], *empty)
        .orderBy("subject_kind", "subject_id")
    )


class _Published(Landing):
    """The tables at the versions that a published event names, whatever is being applied to them meanwhile."""

    def __init__(self, spark: SparkSession, root: str, versions: Mapping[str, int]) -> None:
        super().__init__(spark, root)
        self._versions = versions

    def version(self, table: str) -> int:
        """The published version; -1 where there is none."""
        return self._versions.get(table, -1)


def take_verdicts(warehouse: Warehouse, verdicts: Sequence[ReviewedRow]) -> None:
    """Publish what follows from people's verdicts. Raises UsageError for a subject that the warehouse does not have."""
    work = warehouse.work()
    landing = warehouse.landing
    said = warehouse.spark.createDataFrame(
        pa.table(
            {
                "subject_kind": [v.subject_kind for v in verdicts],
                "subject_id": [v.subject_id for v in verdicts],
                "said": [v.verdict for v in verdicts],
                "seen": pa.array([list(v.reasons) for v in verdicts], pa.list_(pa.string())),
                "said_by": [v.reviewer for v in verdicts],
                "said_why": pa.array([v.comment for v in verdicts], pa.string()),
            }
        )
    )
    images = said.where("subject_kind = 'image'").select(f.col("subject_id").alias("image_id"))
    subjects = said.where("subject_kind = 'sighting'").select("subject_id")
    sightings = landing.read("sightings").withColumn("subject_id", sighting_id())
    of_images = sightings.join(images, "image_id", "left_semi")
    concerned = of_images.unionByName(sightings.join(subjects, "subject_id", "left_semi"))
    concerned = concerned.dropDuplicates(["subject_id"])
    _require_known(said, of_images, sightings)

    def stage() -> None:
        old = landing.read("overrides").join(said, ["subject_kind", "subject_id"], "left_semi")
        work.overrides = Overrides(work.after("overrides", work.stage_changed("overrides", _changed(said, old, work))))
        human = human_decision_rows(said, work.versions.policy_version, work.run_id)
        work.stage("human_decisions", human, {"decisions": "true"})
        work.plan_rows("decisions", "human_decisions")
        stage_run(Redecision(work, concerned.drop("subject_id")), REDECISION)

    event = warehouse.publish(work, stage)
    if event is not None:
        log.info("review: %d verdicts taken; %s", len(verdicts), summary(event))


def _changed(said: DataFrame, old: DataFrame, work: Work) -> DataFrame:
    """What people said, as changes of `overrides`. What one allow cleared stays cleared by the next."""
    before = old.select("subject_kind", "subject_id", f.col("verdict").alias("was"), f.col("cleared").alias("had"))
    joined = said.join(before, ["subject_kind", "subject_id"], "left")
    nothing = f.array().cast("array<string>")
    earlier = f.when(f.col("was") == "allow", f.col("had")).otherwise(nothing)
    cleared = f.when(f.col("said") == "allow", f.array_sort(f.array_union(f.coalesce(earlier, nothing), "seen")))
    change = f.when(f.col("said") == "withdraw", "delete").when(f.col("was").isNull(), "insert").otherwise("update")
    columns = {
        "verdict": f.when(f.col("said") == "withdraw", "allow").otherwise(f.col("said")),
        "cleared": f.coalesce(cleared, nothing),
        "reviewer": f.col("said_by"),
        "comment": f.col("said_why"),
        "decided_at": f.lit(dt.datetime.now(dt.UTC)),
        "run_id": f.lit(work.run_id),
    }
    rows = joined.select(
        "subject_kind", "subject_id", *[value.alias(name) for name, value in columns.items()], change.alias(CHANGE)
    )
    return rows.select(*OVERRIDES.column_names, CHANGE)


def _require_known(said: DataFrame, of_images: DataFrame, sightings: DataFrame) -> None:
    images = of_images.select(f.lit("image").alias("subject_kind"), f.col("image_id").alias("subject_id"))
    known = images.unionByName(sightings.select(f.lit("sighting").alias("subject_kind"), "subject_id"))
    unknown = said.join(known, ["subject_kind", "subject_id"], "left_anti").limit(3).collect()
    if unknown:
        named = ", ".join(f"{row['subject_kind']} {row['subject_id']}" for row in unknown)
        raise UsageError(f"verdicts on what this warehouse has never seen: {named}")
