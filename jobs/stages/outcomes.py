"""Outcomes: every manifest row gets exactly one, from its own verdict, its URL's fetch, and its content's verdict."""

import datetime as dt

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from schemas.outcomes import WITHDRAWALS
from schemas.policy import Policy
from schemas.tables import DECISIONS, SIGHTINGS
from udfs.rules import judge_content


def decide_outcomes(
    rows: DataFrame, crawled: DataFrame, embed_errors: DataFrame, *, date: dt.date, policy_version: str, run_id: str
) -> DataFrame:
    """Pre-gated rows, crawl results (a row a URL), failed embeddings (`image_id, error`) -> rows of `sightings`.

    The strictest of a sighting's and its content's verdicts decides; failures come before verdicts, for what was not
    seen cannot be judged. `state_effect`: see docs/decisions/0006-state-of-a-url.md.
    """
    fetched = crawled.select(
        f.col("url_id").alias("asked_id"),
        "deferred",
        "blocked_reason",
        "not_modified",
        "image_id",
        f.col("failure_code").alias("fetch_failure"),
        f.col("failure_detail").alias("fetch_detail"),
        f.col("decision").alias("content_decision"),
        "content_reasons",
    )
    failed_vectors = embed_errors.select("image_id", f.col("error").alias("embed_error"))
    # A blocked row was not asked for: what another row's fetch of the same URL came to is none of its facts.
    pre_blocked = f.col("decision") == "block"
    asked = rows.withColumn("asked_id", f.when(~pre_blocked, f.col("url_id")))
    joined = asked.join(fetched, "asked_id", "left").join(failed_vectors, "image_id", "left")

    fetched_whole = f.col("fetch_failure").isNull() & f.col("content_decision").isNotNull()
    mismatch = fetched_whole & f.col("expected_sha256").isNotNull() & (f.lower("expected_sha256") != f.col("image_id"))
    failure = (
        f.when(f.col("bad_row").isNotNull(), f.lit("bad_row"))
        .when(pre_blocked | f.col("blocked_reason").isNotNull() | f.coalesce("deferred", f.lit(False)), None)
        .when(f.col("fetch_failure").isNotNull(), f.col("fetch_failure"))
        .when(f.col("content_decision").isNull(), f.lit("internal"))
        .when(mismatch, f.lit("hash_mismatch"))
        .when((f.col("content_decision") == "allow") & f.col("embed_error").isNotNull(), f.lit("embed_error"))
    )
    detail = (
        f.when(f.col("bad_row").isNotNull(), f.col("bad_row"))
        .when(pre_blocked | f.col("blocked_reason").isNotNull(), None)
        .when(f.col("fetch_detail").isNotNull(), f.col("fetch_detail"))
        .when(mismatch, f.concat(f.lit("expected "), f.lower("expected_sha256")))
        .when(f.col("content_decision") == "allow", f.col("embed_error"))
    )
    staged = joined.withColumn("failure_code", failure).withColumn("failure_detail", detail)
    held_back = (
        f.when(pre_blocked, "blocked")
        .when(f.col("blocked_reason").isNotNull(), "blocked")
        .when(f.col("failure_code").isNotNull(), "failed")
        .when(f.col("deferred"), "deferred")
        .when(f.col("content_decision") == "block", "blocked")
        .when((f.col("content_decision") == "review") | (f.col("decision") == "review"), "review")
    )
    decided = staged.withColumn(
        "outcome", f.when(f.col("bad_row").isNotNull(), "failed").otherwise(f.coalesce(held_back, f.lit("accepted")))
    )
    result = decided.select(
        f.lit(date).alias("ingest_date"),
        "source_file",
        "row_number",
        "url",
        "page_url",
        "title",
        "alt_text",
        "description",
        "tags",
        "license",
        "attributes",
        "expected_sha256",
        "url_id",
        "host",
        "outcome",
        "failure_code",
        "failure_detail",
        f.when(f.col("outcome").isin("blocked", "review"), _all_reasons()).otherwise(_none()).alias("reasons"),
        "image_id",
        f.coalesce("not_modified", f.lit(False)).alias("not_modified"),
        _state_effect().alias("state_effect"),
        "text_id",
        f.lit(policy_version).alias("policy_version"),
        f.lit(run_id).alias("run_id"),
    )
    return result.select(*SIGHTINGS.column_names)


def _none() -> Column:
    return f.array().cast("array<string>")


def _all_reasons() -> Column:
    """Reasons of every rule that held it back, whichever side they come from, sorted."""
    own = f.coalesce("reasons", _none())
    redirect = f.when(f.col("blocked_reason").isNotNull(), f.array("blocked_reason")).otherwise(_none())
    content = f.coalesce("content_reasons", _none())
    return f.array_sort(f.array_distinct(f.concat(own, redirect, content)))


def _state_effect() -> Column:
    """What the sighting means for its URL: a withdrawal, content that it showed, or nothing."""
    withdrawn = f.col("withdraws") | f.col("blocked_reason").isNotNull()
    withdrawn |= f.col("failure_code").isin(*[code.value for code in WITHDRAWALS])
    own_text_only = (f.col("decision") != "allow") & (f.col("content_decision") == "allow")
    showed_content = f.col("outcome").isin("accepted", "review", "blocked") & f.col("content_decision").isNotNull()
    return (
        f.when(f.col("url_id").isNull(), "none")
        .when(withdrawn, "withdrawal")
        .when(showed_content & ~own_text_only, "content")
        .otherwise("none")
    )


def judge_stored(signals: DataFrame, policy: Policy) -> DataFrame:
    """Rows of `content_signals` -> `image_id, decision, content_reasons, scores` by the policy, from stored scores."""

    @f.udf("decision string, reasons array<string>", useArrow=True)
    def judge(scores: dict[str, float]) -> tuple[str, list[str]]:
        verdict = judge_content(policy, dict(scores))
        return verdict.decision.value, list(verdict.reasons)

    judged = signals.withColumn("verdict", judge("scores"))
    return judged.select(
        "image_id",
        f.col("verdict.decision").alias("decision"),
        f.col("verdict.reasons").alias("content_reasons"),
        "scores",
    )


def decision_rows(sightings: DataFrame, signals: DataFrame, policy_version: str, run_id: str) -> DataFrame:
    """The audit log of a run: a row for every content first judged in it, and for every sighting held back.

    `signals`: new rows of `content_signals` with `decision` and `content_reasons`.
    """
    contents = signals.select(
        f.lit("image").alias("subject_kind"),
        f.col("image_id").alias("subject_id"),
        "decision",
        f.coalesce("content_reasons", _none()).alias("reasons"),
        "scores",
    )
    held = sightings.where("outcome in ('blocked', 'review')").select(
        f.lit("sighting").alias("subject_kind"),
        f.concat_ws("/", "ingest_date", "source_file", f.col("row_number").cast("string")).alias("subject_id"),
        f.when(f.col("outcome") == "blocked", "block").otherwise("review").alias("decision"),
        "reasons",
        f.lit(None).cast("map<string,double>").alias("scores"),
    )
    rows = contents.unionByName(held).select(
        "*",
        f.lit(policy_version).alias("policy_version"),
        f.lit("automatic").alias("source"),
        f.lit(None).cast("string").alias("reference"),
        f.current_timestamp().alias("decided_at"),
        f.lit(run_id).alias("run_id"),
    )
    return rows.where("decision is not null").select(*DECISIONS.column_names)
