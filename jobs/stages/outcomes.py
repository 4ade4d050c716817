"""Outcomes: every sighting gets exactly one, from its own verdict, its URL's fetch, and its content's verdict."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from jobs.stages.review import sighting_id
from schemas.outcomes import WITHDRAWALS, Decision, FailureCode, Outcome
from schemas.policy import TAKEN_DOWN, CombinedRule, Policy
from schemas.tables import DECISIONS, ERASED, SIGHTINGS
from udfs.gate.overrides import REVIEWER_BLOCKED, People, judge_with_people
from udfs.gate.rules import ContentSignals, MissingScore, Verdict

ANSWERS = (
    "ingest_date",
    "url_id",
    "deferred",
    "blocked_reason",
    "not_modified",
    "image_id",
    "failure_code",
    "failure_detail",
    "decision",
    "content_reasons",
    "content_halves",
    "embed_error",
)
"""What asking for a URL on a date came to, with the verdict on the content, and why it has no vector where the model
failed: one row per date and URL."""


def decide_outcomes(
    rows: DataFrame, answers: DataFrame, *, policy: Policy, policy_version: str, run_id: str
) -> DataFrame:
    """Judged rows (jobs.stages.pregate), `ANSWERS` -> rows of `sightings`.

    The strictest of a sighting's and its content's verdicts decides; failures come before verdicts, for what was not
    seen cannot be judged. `state_effect`: see docs/decisions/0006-state-of-a-url.md.
    """
    found = answers.select(
        f.col("ingest_date").alias("asked_date"),
        f.col("url_id").alias("asked_id"),
        "deferred",
        "blocked_reason",
        "not_modified",
        "image_id",
        f.col("failure_code").alias("fetch_failure"),
        f.col("failure_detail").alias("fetch_detail"),
        f.col("decision").alias("content_decision"),
        "content_reasons",
        "content_halves",
        "embed_error",
    )
    # A blocked row was not asked for: what another row's fetch of the same URL came to is none of its facts.
    pre_blocked = f.col("reviewer_block") | (f.col("decision") == "block")
    asked = rows.withColumn("asked_id", f.when(~pre_blocked, f.col("url_id"))).withColumn(
        "asked_date", f.col("ingest_date")
    )
    joined = asked.join(found, ["asked_date", "asked_id"], "left")
    combined = [_combined(rule) for rule in policy.rules if isinstance(rule, CombinedRule)]
    joined = joined.withColumn("own_decision", _strictest(_own_decision(), *(verdict for verdict, _ in combined)))
    joined = joined.withColumn("end", _first_of(_ladder(pre_blocked)))
    reasons = _all_reasons([reason for _, reason in combined])
    taken = f.array(f.lit(TAKEN_DOWN))
    return (
        joined.select("*", "end.*")
        .withColumn("reasons", f.when(f.col("outcome").isin("blocked", "review"), reasons).otherwise(_none()))
        # What was said of the content goes with it; the reasons cannot rest on what is not there any more.
        .withColumn(
            "reasons", f.when(shows_taken_down() & (f.col("outcome") == "blocked"), taken).otherwise(f.col("reasons"))
        )
        .withColumns({name: f.when(~shows_taken_down(), f.col(name)) for name in ERASED})
        .withColumn("normalised_url", f.expr("nullif(normalised_url, url)"))
        .withColumn("not_modified", f.coalesce("not_modified", f.lit(False)))
        .withColumn("state_effect", _state_effect())
        .withColumn("policy_version", f.lit(policy_version))
        .withColumn("run_id", f.lit(run_id))
        .select(*SIGHTINGS.column_names)
    )


@dataclass(frozen=True)
class _Rung:
    """How a sighting ends of which `condition` holds and none of the conditions before it."""

    condition: Column
    outcome: Outcome
    failure_code: Column | FailureCode | None = None
    failure_detail: Column | None = None
    effect: Column | str = "none"
    """What it means for the URL, where the row does not withdraw it itself."""


def _ladder(pre_blocked: Column) -> tuple[_Rung, ...]:
    """How sightings end, in the order in which it is decided: what was not seen cannot be judged."""
    bad_row, fetch_failure, embed_error = f.col("bad_row"), f.col("fetch_failure"), f.col("embed_error")
    content, detail = f.col("content_decision"), f.col("fetch_detail")
    expected = f.lower(f.nullif("expected_sha256", f.lit("")))  # an empty text promises nothing
    verdict = _strictest(f.col("own_decision"), f.coalesce("content_decision", f.lit("allow")))
    withdrawn = f.when(fetch_failure.isin(*[code.value for code in WITHDRAWALS]), "withdrawal").otherwise("none")
    # Held back for the row's own text alone, the sighting says nothing against the image, nor for it.
    own_text_only = (f.col("own_decision") != "allow") & (content == "allow")
    shown = f.when(~own_text_only, "content").otherwise("none")
    return (
        _Rung(bad_row.isNotNull(), Outcome.FAILED, FailureCode.BAD_ROW, bad_row),
        _Rung(pre_blocked, Outcome.BLOCKED),
        _Rung(f.col("blocked_reason").isNotNull(), Outcome.BLOCKED, effect="withdrawal"),
        _Rung(f.coalesce("deferred", f.lit(False)), Outcome.DEFERRED, failure_detail=detail),
        _Rung(fetch_failure.isNotNull(), Outcome.FAILED, fetch_failure, detail, withdrawn),
        _Rung(content.isNull(), Outcome.FAILED, FailureCode.INTERNAL, detail),
        _Rung(
            expected != f.col("image_id"),
            Outcome.FAILED,
            FailureCode.HASH_MISMATCH,
            f.concat(f.lit("expected "), expected),
        ),
        _Rung((content == "allow") & embed_error.isNotNull(), Outcome.FAILED, FailureCode.EMBED_ERROR, embed_error),
        _Rung(verdict == "block", Outcome.BLOCKED, effect=shown),
        _Rung(verdict == "review", Outcome.REVIEW, effect=shown),
        _Rung(f.lit(True), Outcome.ACCEPTED, effect=shown),
    )


def _first_of(ladder: Iterable[_Rung]) -> Column:
    """A struct of what the first rung says whose condition holds."""
    names = ("outcome", "failure_code", "failure_detail", "effect")
    end = f.when(f.lit(False), f.lit(None))
    for rung in ladder:
        said = {name: getattr(rung, name) for name in names}
        end = end.when(rung.condition, f.struct(*[_text(value).alias(name) for name, value in said.items()]))
    return end


def _text(value: Column | str | None) -> Column:
    return value if isinstance(value, Column) else f.lit(None if value is None else str(value)).cast("string")


def _none() -> Column:
    return f.array().cast("array<string>")


def shows_taken_down() -> Column:
    """Of answers, and of rows joined with them: whether they showed a content that is taken down itself."""
    return f.coalesce(f.array_contains("content_reasons", TAKEN_DOWN), f.lit(False))


def _own_decision() -> Column:
    return f.when(f.col("reviewer_block"), "block").otherwise(f.col("decision"))


def _strictest(*decisions: Column) -> Column:
    """The strictest of these; null where the first is."""
    order = f.array(*[f.lit(decision.value) for decision in Decision])
    if len(decisions) == 1:
        return decisions[0]
    return f.element_at(order, f.greatest(*[f.array_position(order, decision) for decision in decisions]).cast("int"))


def _combined(rule: CombinedRule) -> tuple[Column, Column]:
    """Decision and reasons (an array) that a combined rule adds: both halves match, and no person has cleared it."""
    matches = f.array_contains("halves", rule.id) & f.array_contains("content_halves", rule.id)
    if rule.action == "review":
        matches &= ~f.array_contains("cleared", rule.reason)
    matches = f.coalesce(matches, f.lit(False))
    return (
        f.when(matches, rule.action).otherwise("allow"),
        f.when(matches, f.array(f.lit(rule.reason))).otherwise(_none()),
    )


def _all_reasons(combined: list[Column]) -> Column:
    """Reasons of every rule that held it back, whichever side they come from, sorted."""
    own = f.coalesce("reasons", _none())
    person = f.when(f.col("reviewer_block"), f.array(f.lit(REVIEWER_BLOCKED))).otherwise(_none())
    redirect = f.when(f.col("blocked_reason").isNotNull(), f.array("blocked_reason")).otherwise(_none())
    content = f.coalesce("content_reasons", _none())
    return f.array_sort(f.array_distinct(f.concat(own, person, redirect, content, *combined)))


def _state_effect() -> Column:
    """What the sighting means for its URL: withdrawal, content that it showed, or none; a rung's `effect` but for what
    the row says itself."""
    return f.when(f.col("url_id").isNull(), "none").when(f.col("withdraws"), "withdrawal").otherwise(f.col("effect"))


VERDICTS = "image_id string, decision string, content_reasons array<string>, content_halves array<string>"


def judge_stored(signals: DataFrame, policy: Policy, people: People) -> DataFrame:
    """Rows of `content_signals` -> `VERDICTS` by the policy, from what is stored; no row where a signal that the policy
    needs is missing.
    """

    def verdict_of(row: dict[str, Any]) -> Verdict | None:
        try:
            return judge_with_people(policy, ContentSignals(**row | {"scores": dict(row["scores"])}), people)
        except MissingScore:
            return None

    def judge(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = batch.to_pylist()
            judged = [(row["image_id"], verdict) for row in rows if (verdict := verdict_of(row)) is not None]
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array([image_id for image_id, _ in judged], pa.string()),
                    pa.array([verdict.decision.value for _, verdict in judged], pa.string()),
                    pa.array([list(verdict.reasons) for _, verdict in judged], pa.list_(pa.string())),
                    pa.array([list(verdict.halves) for _, verdict in judged], pa.list_(pa.string())),
                ],
                names=["image_id", "decision", "content_reasons", "content_halves"],
            )

    return signals.select("image_id", "scores", "phash256s", "pdqs", "pdq_quality").mapInArrow(judge, VERDICTS)


def decision_rows(sightings: DataFrame, contents: DataFrame, policy_version: str, run_id: str) -> DataFrame:
    """The audit log of a run, in the spirit of the statements of reasons of the Digital Services Act (Regulation (EU)
    2022/2065, article 17): a row for every content judged in it, and for every sighting held back.

    `contents`: `image_id, decision, content_reasons, scores`.
    """
    judged = contents.select(
        f.lit("image").alias("subject_kind"),
        f.col("image_id").alias("subject_id"),
        "decision",
        f.coalesce("content_reasons", _none()).alias("reasons"),
        "scores",
    )
    held = sightings.where("outcome in ('blocked', 'review')").select(
        f.lit("sighting").alias("subject_kind"),
        sighting_id().alias("subject_id"),
        f.when(f.col("outcome") == "blocked", "block").otherwise("review").alias("decision"),
        "reasons",
        f.lit(None).cast("map<string,double>").alias("scores"),
    )
    rows = judged.unionByName(held).select(
        "*",
        f.lit(policy_version).alias("policy_version"),
        f.lit("automatic").alias("source"),
        f.lit(None).cast("string").alias("reference"),
        f.current_timestamp().alias("decided_at"),
        f.lit(run_id).alias("run_id"),
    )
    return rows.where("decision is not null").select(*DECISIONS.column_names)


def human_decision_rows(said: DataFrame, policy_version: str, run_id: str) -> DataFrame:
    """What people said (`subject_kind, subject_id, said, seen, said_by`) as rows of the audit log. A verdict withdrawn
    gives its subject back to the policy, which the run's own rows tell of."""
    rows = said.select(
        "subject_kind",
        "subject_id",
        f.lit(policy_version).alias("policy_version"),
        f.when(f.col("said") == "withdraw", "review").otherwise(f.col("said")).alias("decision"),
        f.when(f.col("said") == "withdraw", f.array(f.lit("verdict_withdrawn")))
        .when(f.col("said") == "block", f.array(f.lit(REVIEWER_BLOCKED)))
        .otherwise(f.col("seen"))
        .alias("reasons"),
        f.lit(None).cast("map<string,double>").alias("scores"),
        f.lit("human").alias("source"),
        f.col("said_by").alias("reference"),
        f.current_timestamp().alias("decided_at"),
        f.lit(run_id).alias("run_id"),
    )
    return rows.select(*DECISIONS.column_names)
