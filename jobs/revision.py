"""Stored sightings decided again: under another policy, with what people said, or with what a refetch brought.

A sighting's outcome is a function of its recorded row, of what asking for its URL on that date came to (`fetches`), of
the signals of the content, of the policy and of people's verdicts. All of these are stored, so that any of them may
change later: whatever differs afterwards is written, and what follows from it derived, in one published run.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from jobs import contents
from jobs.derivation import Facts, derive
from jobs.landing import CHANGE
from jobs.stages import audit, outcomes
from jobs.stages.pregate import fetch_requests, judge_rows, recorded_rows
from jobs.work import Work
from schemas.outcomes import TRANSIENT, FailureCode
from schemas.policy import Policy
from schemas.tables import TABLES
from udfs.gate import gate_version
from udfs.rules import refused_url

NOT_FETCHED = "owed: refused by an earlier policy and never fetched"
NOT_SCORED = "owed: lacks a signal that the policy needs"

_KEYS = list(TABLES["sightings"].keys)
_TELLING = ["outcome", "failure_code", "failure_detail", "reasons", "image_id", "state_effect", "text_id", "language"]
"""What of a sighting a decision may change."""


@dataclass
class Revision:
    """The staging of one revision."""

    work: Work

    def decide_again(
        self, concerned: DataFrame, *, embed_errors: DataFrame | None = None, images: DataFrame | None = None
    ) -> None:
        """Decide rows of `sightings` again from what is stored and stage what differs.

        `embed_errors` (`image_id, error`): contents that have no vector, instead of those that are known to have none;
        `images` (`image_id`): those of which everything that follows is worked out again.
        """
        work = self.work
        with work.progress.stage("decide again"):
            rows = work.stage("rows", judge_rows(recorded_rows(concerned), work.policy, work.overrides))
            answers = self._recorded_answers(rows, work.landing.read("fetches"), None)
            errors = _known_embed_errors(concerned) if embed_errors is None else embed_errors
            changed = self._stage_sightings(rows, answers, errors)
            texts = contents.embed_texts_of(work, _accepted(rows, changed))
        nothing = work.landing.read("embeddings").where(f.lit(False)).select("image_id", "vector")
        self._derive(changed, nothing, texts, None, images)

    def refetch(self, selected: DataFrame, deadline_at: float | None) -> None:
        """Ask again for the URLs of `selected` rows of `sightings`, each under its date.

        A content whose pixels or signals are owed must come back as it was: other bytes are `hash_mismatch`. One fetch
        a URL answers for all its dates.
        """
        work = self.work
        with work.progress.stage("golden vectors"):
            contents.make_golden(work)
        with work.progress.stage("refetch and gate"):
            rows = judge_rows(recorded_rows(selected), work.policy, work.overrides)
            owed = f.when(f.col("outcome").isin("accepted", "deferred"), f.col("image_id"))
            expected = selected.groupBy("ingest_date", "url_id").agg(f.min(owed).alias("expected"))
            requests = work.stage("requests", fetch_requests(rows).join(expected, ["ingest_date", "url_id"]))
            asked = requests.select("url_id", "url", "host").dropDuplicates(["url_id"])
            crawled = contents.crawl(work, asked, deadline_at)
            fetches = self._stage_fetches(requests, crawled)
        with work.progress.stage("embed"):
            vectors, embed_errors = contents.embed_pictures(work, crawled)
        with work.progress.stage("outcomes"):
            concerned = work.stage("concerned", self._concerned(fetches))
            rows = work.stage("rows", judge_rows(recorded_rows(concerned), work.policy, work.overrides))
            answers = self._recorded_answers(rows, work.after("fetches", fetches), crawled)
            tried = crawled.where("has_pixels").select("image_id")
            known = _known_embed_errors(concerned).join(tried, "image_id", "left_anti")
            changed = self._stage_sightings(rows, answers, embed_errors.unionByName(known))
            texts = contents.embed_texts_of(work, _accepted(rows, changed))
        with work.progress.stage("audit of what was fetched"):
            audit.check_gate_first(crawled, contents.staged_vectors(work))
        self._derive(changed, vectors.select("image_id", "vector"), texts, crawled)

    # Facts ------------------------------------------------------------------------------------------------------

    def _stage_fetches(self, requests: DataFrame, crawled: DataFrame) -> DataFrame:
        """The evidence of the refetch, in place of what was recorded for the date and URL."""
        work = self.work
        columns = list(TABLES["fetches"].column_names)
        evidence = [name for name in columns if name not in {"ingest_date", "failure_code", "failure_detail"}]
        answered = requests.select("ingest_date", "url_id", "expected").join(
            crawled.select(*evidence, "failure_code", "failure_detail"), "url_id"
        )
        came = f.col("failure_code").isNull() & f.col("image_id").isNotNull()
        other = came & f.col("expected").isNotNull() & (f.col("expected") != f.col("image_id"))
        no_answer = f.col("deferred") | f.coalesce(
            f.col("failure_code").isin(*[c.value for c in TRANSIENT]), f.lit(False)
        )
        # What is owed and could not be had this time stays recorded, and owed.
        kept = answered.where(~(f.col("expected").isNotNull() & no_answer))
        new = kept.select(
            "ingest_date",
            *evidence,
            f.when(other, FailureCode.HASH_MISMATCH.value).otherwise(f.col("failure_code")).alias("failure_code"),
            f.when(other, f.concat(f.lit("refetched; expected "), "expected"))
            .otherwise(f.col("failure_detail"))
            .alias("failure_detail"),
        ).select(*columns)
        keys = ["ingest_date", "url_id"]
        known = work.landing.read("fetches").join(requests.select(*keys), keys, "left_semi").select(*keys)
        change = f.when(f.col("_known"), "update").otherwise("insert").alias(CHANGE)
        marked = new.join(known.withColumn("_known", f.lit(True)), keys, "left").select(*columns, change)
        return work.stage_changed("fetches", marked, _dates(requests))

    def _concerned(self, fetches: DataFrame) -> DataFrame:
        """Sightings of the refetched URLs and dates, and those that waited for the signals of a content now scored."""
        before = self.work.landing.read("sightings")
        scored = self.work.staged("content_signals").select("image_id")
        asked = before.join(fetches.select("ingest_date", "url_id"), ["ingest_date", "url_id"], "left_semi")
        waiting = before.where("outcome = 'deferred'").join(scored, "image_id", "left_semi")
        return asked.unionByName(waiting).dropDuplicates(_KEYS)

    def _recorded_answers(self, rows: DataFrame, fetches: DataFrame, crawled: DataFrame | None) -> DataFrame:
        """`outcomes.ANSWERS` for judged rows from what is recorded; deferred where that does not suffice."""
        work = self.work
        wanted = fetch_requests(rows).select("ingest_date", "url_id")
        recorded = wanted.join(fetches, ["ingest_date", "url_id"], "left")
        image_ids = recorded.where("image_id is not null and failure_code is null").select("image_id")
        judged = contents.verdicts(work, image_ids)
        if crawled is not None:
            fresh = crawled.where("decision is not null").dropDuplicates(["image_id"])
            fresh = fresh.select("image_id", "decision", "content_reasons", "content_halves")
            judged = fresh.unionByName(judged.join(fresh, "image_id", "left_anti"))
        joined = recorded.join(judged, "image_id", "left").withColumn("refused", _refused(work.policy)(f.col("hops")))
        unknown = f.col("deferred").isNull()
        lifted = f.col("blocked_reason").isNotNull() & f.col("refused").isNull()
        judgeable = f.col("image_id").isNotNull() & f.col("failure_code").isNull() & f.col("refused").isNull()
        unscored = judgeable & f.col("decision").isNull()
        why = f.when(unknown | lifted, NOT_FETCHED).when(unscored, NOT_SCORED).otherwise(f.col("failure_detail"))
        return (
            joined.withColumn("failure_detail", why)
            .withColumn("deferred", f.coalesce("deferred", f.lit(False)) | unknown | lifted | unscored)
            .withColumn("blocked_reason", f.col("refused"))
            .select(*outcomes.ANSWERS)
        )

    def _stage_sightings(self, rows: DataFrame, answers: DataFrame, embed_errors: DataFrame) -> "Changed":
        """Decide; stage and plan what differs from the sightings as published."""
        work = self.work
        version = work.versions.policy_version
        decided = outcomes.decide_outcomes(
            rows, answers, embed_errors, policy=work.policy, policy_version=version, run_id=work.run_id
        )
        before = work.landing.read("sightings")
        old = before.select(*_KEYS, f.struct(*_TELLING).alias("_old"))
        differing = decided.join(old, _KEYS).where(~f.col("_old").eqNullSafe(f.struct(*_TELLING)))
        columns = TABLES["sightings"].column_names
        compared = work.stage("compared", differing.select(*columns, f.col("_old.outcome").alias("old_outcome")))
        audit.check_distinct(compared)
        dates = _dates(compared)
        new = compared.select(*columns, f.lit("update").alias(CHANGE))
        staged = work.stage_changed("sightings", new, dates).drop(CHANGE)
        self._log(staged, answers)
        return Changed(staged, before.join(staged.select(*_KEYS), _KEYS, "left_semi"), dates)

    def _log(self, changed: DataFrame, answers: DataFrame) -> None:
        """The audit log: contents of changed sightings as judged now, and every changed sighting that is held back."""
        work = self.work
        judged = answers.select("image_id", "decision", "content_reasons").dropDuplicates(["image_id"])
        version = gate_version(work.config.policy)
        stored = work.landing.read("content_signals").where(f.col("detector_version") == version)
        scores = stored.select("image_id", "scores").join(changed.select("image_id"), "image_id", "left_semi")
        contents_of = judged.join(changed.select("image_id"), "image_id", "left_semi").join(scores, "image_id", "left")
        log = outcomes.decision_rows(changed, contents_of, work.versions.policy_version, work.run_id)
        work.stage("decisions", log)
        work.plan_rows("decisions", "decisions")

    def _derive(
        self,
        changed: "Changed",
        vectors: DataFrame,
        texts: DataFrame,
        crawled: DataFrame | None,
        images: DataFrame | None = None,
    ) -> None:
        work = self.work
        after = work.after("sightings", work.staged("sightings"))
        derive(work, Facts(changed.old, changed.new, after, vectors, texts, crawled, images))
        owed = work.after("refetch_queue", work.staged("refetch_queue")).select("ingest_date", "url_id")
        waiting = changed.new.where("outcome = 'deferred'")
        # What a later sighting has overtaken stays without an answer: no cap is silent.
        work.counts["overtaken"] = waiting.join(owed, ["ingest_date", "url_id"], "left_anti").count()
        work.dates = changed.dates
        work.write_plan()


@dataclass(frozen=True)
class Changed:
    """Sightings that a revision decides otherwise: as they will be (staged), as they were, and their dates."""

    new: DataFrame
    old: DataFrame
    dates: tuple[dt.date, ...]


def flips(work: Work) -> list[tuple[str, str, str, int]]:
    """What a staged revision changes: `(outcome before, outcome after, reasons, sightings)`, most first."""
    changed = work.staged("compared")
    why = f.concat_ws(", ", "reasons", "failure_code", f.when(f.col("outcome") == "deferred", f.col("failure_detail")))
    found = changed.groupBy("old_outcome", "outcome", why.alias("why")).count().orderBy(f.desc("count"), "why")
    return [(row["old_outcome"], row["outcome"], row["why"], row["count"]) for row in found.collect()]


def _accepted(rows: DataFrame, changed: Changed) -> DataFrame:
    """The judged rows of sightings that are accepted now."""
    return rows.join(changed.new.where("outcome = 'accepted'").select(*_KEYS), _KEYS, "left_semi")


def _known_embed_errors(sightings: DataFrame) -> DataFrame:
    """`image_id, error` of contents that gave no vector when they were there: nothing stored says so but the
    outcome."""
    failed = sightings.where(f.col("failure_code") == FailureCode.EMBED_ERROR.value)
    return failed.groupBy("image_id").agg(f.first("failure_detail").alias("error"))


def _refused(policy: Policy) -> Callable[[Column], Column]:
    """A column of URLs (an array, or null) -> the reason why the policy refuses one of them, or null."""
    check = refused_url(policy)

    @f.udf("string", useArrow=True)
    def first_refused(urls: list[str] | None) -> str | None:
        return next((reason for url in urls or () if (reason := check(url)) is not None), None)

    return first_refused


def _dates(rows: DataFrame) -> tuple[dt.date, ...]:
    """The dates that staged rows lie in; there are as many as nights."""
    return tuple(row[0] for row in rows.select("ingest_date").distinct().orderBy("ingest_date").collect())
