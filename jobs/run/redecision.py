"""Stored sightings decided again: under another policy, with what people said, or with what a refetch brought.

A sighting's outcome is a function of its recorded row, of what asking for its URL on that date came to (`fetches`), of
the signals of the content, of the policy and of people's verdicts. All of these are stored, so that any of them may
change later: whatever differs afterwards is written, and what follows from it derived, in one published run.
"""

import sys
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from jobs.run import audit, contents
from jobs.run.context import Work, dates_of
from jobs.run.derived import Facts, Touched
from jobs.run.freeing import says
from jobs.run.introduction import check_hosts
from jobs.run.names import Dataset
from jobs.stages import outcomes
from jobs.stages.pregate import fetch_requests, judge_sightings
from jobs.warehouse.history import Staged
from jobs.warehouse.landing import CHANGE
from jobs.warehouse.ledger import TEXTS_ERASED
from schemas.outcomes import TRANSIENT, FailureCode
from schemas.tables import TABLES

NOT_STORED = "url: its credentials are not stored; --force asks for it by its manifest"
"""Of a row that is owed a fetch whose URL had credentials in its path or query."""

_KEYS = list(TABLES["sightings"].keys)
_TELLING = ["outcome", "failure_code", "failure_detail", "reasons", "image_id", "state_effect", "text_id", "language"]
"""What of a sighting a decision may change."""
_OLD = ["outcome", "image_id", "text_id"]
"""What of a sighting as it was something else may follow from."""
_TOLD = ["reasons", "failure_code"]
"""What else of a sighting as it was is told before a re-decision is published."""


@dataclass
class Redecision:
    """The staging of a re-decision: rows of `sightings` decided again from what is stored."""

    work: Work
    concerned: DataFrame
    """The rows of `sightings`."""
    embed_errors: DataFrame | None = None
    """Contents that have no vector (`image_id, error`), beside those that are known to have none."""
    images: DataFrame | None = None
    """Those (`image_id`) of which everything that follows is worked out again."""
    touched: Touched | None = None

    def decide(self) -> None:
        """Stage what differs, with the vectors of texts that it needs."""
        work = self.work
        rows = work.stage(Dataset.ROWS, judge_sightings(self.concerned, work.policy, work.overrides.rows))
        fetches = work.past("fetches", _fetches_of(work, rows))
        answers = contents.recorded_answers(work, fetch_requests(rows), fetches)
        if self.embed_errors is not None:
            answers = contents.with_failures(answers, self.embed_errors)
            contents.record_failures(work, fetches, answers)
        stage_differing(work, rows, answers)

    def facts(self) -> Facts:
        """The sightings that are decided otherwise; no image gets a vector by it."""
        return changed_facts(self.work, contents.no_vectors(self.work), images=self.images)


@dataclass
class Refetch:
    """The staging of a refetch: the URLs of rows of `sightings` asked for again, each under its date.

    A content whose pixels or signals are owed must come back as it was: other bytes are `hash_mismatch`. One fetch of a
    URL answers for all its dates. A URL that is not stored as it was fetched, for it had credentials, is not asked for:
    its rows fail for good.
    """

    work: Work
    selected: DataFrame
    """The rows of `sightings`."""
    most_s: float | None
    touched: Touched | None = None

    def crawl(self) -> None:
        """What was fetched, and what will be recorded of it."""
        work = self.work
        rows = judge_sightings(self.selected, work.policy, work.overrides.rows)
        owed = f.when(f.col("outcome").isin("accepted", "deferred"), f.col("image_id"))
        expected = self.selected.groupBy("ingest_date", "url_id").agg(f.min(owed).alias("expected"))
        requests = work.stage(Dataset.REQUESTS, fetch_requests(rows).join(expected, ["ingest_date", "url_id"]))
        asked = requests.where("url is not null").select("url_id", "url", "host").dropDuplicates(["url_id"])
        check_hosts(work.config.crawl, asked)
        self._stage_fetches(requests, contents.crawl(work, asked, self.most_s))

    def embed(self) -> None:
        """Vectors of the images that have none yet."""
        contents.embed_new_images(self.work, self.work.staged(Dataset.CRAWL))

    def decide(self) -> None:
        """Decide again whatever the answers concern; stage what differs, with the vectors of texts that it needs."""
        work, crawled = self.work, self.work.staged(Dataset.CRAWL)
        fetches = work.staged(Dataset.FETCHES)
        concerned = work.stage(Dataset.CONCERNED, self._concerned(fetches))
        rows = work.stage(Dataset.ROWS, judge_sightings(concerned, work.policy, work.overrides.rows))
        after = work.stage(Dataset.KNOWN_FETCHES, work.after_near("fetches", fetches, _fetches_of(work, rows)))
        answers = contents.recorded_answers(work, fetch_requests(rows), after, crawled)
        tried = crawled.where("has_pixels").select("image_id")
        answers = contents.with_failures(answers, contents.without_vector(work), tried)
        contents.record_failures(work, after, answers)
        stage_differing(work, rows, answers)
        # Also those whose sightings stay as they were: what is recorded of asking for them does not.
        work.dates = tuple(sorted({*work.dates, *dates_of(fetches)}))

    def audit(self) -> None:
        """Nothing passed by the gate."""
        audit.check_gate_first(self.work.staged(Dataset.CRAWL), contents.staged_vectors(self.work))

    def facts(self) -> Facts:
        """The sightings that are decided otherwise, with what was fetched."""
        vectors = contents.new_vectors(self.work).select("image_id", "vector")
        return changed_facts(self.work, vectors, crawled=self.work.staged(Dataset.CRAWL))

    def _stage_fetches(self, requests: DataFrame, crawled: DataFrame) -> None:
        """The evidence of the refetch, in place of what was recorded for the date and URL."""
        work = self.work
        columns = list(TABLES["fetches"].column_names)
        evidence = [name for name in columns if name not in {"ingest_date", "failure_code", "failure_detail"}]
        answered = requests.select("ingest_date", "url_id", "expected").join(
            crawled.select(*evidence, "failure_code", "failure_detail"), "url_id"
        )
        not_asked = requests.where("url is null").select(
            "ingest_date",
            "url_id",
            "expected",
            f.col("normalised_url").alias("url"),
            f.lit(False).alias("deferred"),
            f.lit(False).alias("not_modified"),
            f.lit(FailureCode.BAD_ROW.value).alias("failure_code"),
            f.lit(NOT_STORED).alias("failure_detail"),
            f.lit(work.run_id).alias("run_id"),
        )
        answered = answered.unionByName(not_asked, allowMissingColumns=True)
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
        known = work.past("fetches", Staged(requests.select(*keys), work.rows(Dataset.REQUESTS).rows), columns=keys)
        change = f.when(f.col("_known"), "update").otherwise("insert").alias(CHANGE)
        marked = new.join(known.withColumn("_known", f.lit(True)), keys, "left").select(*columns, change)
        work.stage_changed("fetches", marked, dates_of(requests))

    def _concerned(self, fetches: DataFrame) -> DataFrame:
        """Sightings of the refetched URLs and dates, and those that waited for the signals of a content now scored."""
        work = self.work
        asked = work.keys("asked_again", fetches.select("ingest_date", "url_id"))
        scored = work.keys("scored_now", work.staged(Dataset.CONTENT_SIGNALS).select("image_id"))
        waiting = work.past("sightings", scored, where=f.col("outcome") == "deferred")
        return work.past("sightings", asked).unionByName(waiting).dropDuplicates(_KEYS)


def _fetches_of(work: Work, rows: DataFrame) -> Staged:
    """Keys of the rows of `fetches` that tell of judged sightings."""
    return work.keys("fetches_of_rows", rows.where("url_id is not null").select("ingest_date", "url_id"))


def stage_differing(work: Work, rows: DataFrame, answers: DataFrame) -> None:
    """Decide judged rows; stage and plan what differs from the sightings as published, the log of it, and vectors of
    the texts that are accepted now."""
    version = work.versions.policy_version
    decided = outcomes.decide_outcomes(rows, answers, policy=work.policy, policy_version=version, run_id=work.run_id)
    before = work.past("sightings", Staged(rows.select(*_KEYS), work.rows(Dataset.ROWS).rows))
    telling = f.struct(*_TELLING, says().alias("says"))
    old = before.select(*_KEYS, telling.alias("_old"))
    differing = decided.join(old, _KEYS).where(~f.col("_old").eqNullSafe(telling))
    columns = TABLES["sightings"].column_names
    told = [f.col(f"_old.{name}").alias(f"old_{name}") for name in (*_OLD, *_TOLD, "says")]
    erased = f.col("old_says") & ~says()
    compared = work.stage(Dataset.COMPARED, differing.select(*columns, *told), texts_erased=erased)
    work.counts[TEXTS_ERASED] = work.rows(Dataset.COMPARED).counted[TEXTS_ERASED]
    audit.check_distinct(compared)
    work.dates = dates_of(compared)
    new = compared.select(*columns, f.lit("update").alias(CHANGE))
    staged = work.stage_changed("sightings", new, work.dates)
    stage_what_follows(work, rows, staged, answers)


def stage_what_follows(work: Work, rows: DataFrame, sightings: DataFrame, answers: DataFrame) -> None:
    """Of judged rows that were decided again (staged `sightings`): the log of it, and vectors of accepted texts."""
    _log(work, sightings, answers)
    accepted = sightings.where("outcome = 'accepted'").select(*_KEYS)
    contents.embed_texts_of(work, rows.join(accepted, _KEYS, "left_semi"))


def _log(work: Work, changed: DataFrame, answers: DataFrame) -> None:
    """Stage the audit log: contents of changed sightings as judged now, and every such sighting that is held back."""
    judged = answers.select("image_id", "decision", "content_reasons").dropDuplicates(["image_id"])
    images = work.keys("changed_images", changed.select("image_id").where("image_id is not null"))
    scores = work.past(
        "content_signals", images, columns=["image_id", "scores"], where=contents.of_gate(work.config.policy)
    )
    contents_of = judged.join(changed.select("image_id"), "image_id", "left_semi").join(scores, "image_id", "left")
    log = outcomes.decision_rows(changed, contents_of, work.versions.policy_version, work.run_id)
    work.stage("decisions", log, {"decisions": "true"})
    work.plan_rows("decisions", "decisions")


def changed_facts(
    work: Work, vectors: DataFrame, crawled: DataFrame | None = None, images: DataFrame | None = None
) -> Facts:
    """Of a run that decides sightings otherwise; `vectors`, `crawled`, `images`: see `Facts`."""
    before, staged = work.landing.read("sightings"), work.staged(Dataset.SIGHTINGS)
    told = [f.col(f"old_{name}").alias(name) for name in _OLD]
    old = work.staged(Dataset.COMPARED).select("url_id", *told)
    texts = contents.new_text_vectors(work)
    return Facts(
        old,
        staged.drop(CHANGE),
        before,
        lambda rows: rows.join(staged.select(*_KEYS), _KEYS, "left_anti"),
        vectors,
        texts,
        crawled,
        images,
    )


def tell_flips(title: str, work: Work) -> None:
    """Say on standard output what a staged re-decision changes: outcomes, reasons and sightings, most first."""
    rows = counted_flips(work.staged(Dataset.COMPARED)).collect()
    sys.stdout.write(f"{sum(count for *_, count in rows)} sightings {title}\n")
    for before, after, reasons, count in rows:
        sys.stdout.write(f"  {count:>8}  {before} -> {after}{f' ({reasons})' if reasons else ''}\n")


def counted_flips(compared: DataFrame) -> DataFrame:
    """Sightings that are decided otherwise -> `old_outcome, outcome, why, count`, most first."""
    counted = compared.groupBy("old_outcome", "outcome", why_decided().alias("why")).count()
    return counted.orderBy(f.desc("count"), "old_outcome", "outcome", "why")


def why_decided() -> Column:
    """Why a sighting came to its outcome, in words; empty where it is accepted."""
    return f.concat_ws(", ", "reasons", "failure_code", f.when(f.col("outcome") == "deferred", f.col("failure_detail")))
