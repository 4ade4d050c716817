"""One date, from its manifest to a staged run: composes the stages and writes the plan that `jobs.warehouse.landing`
applies."""

import datetime as dt
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs.manifests.count import count_rows
from jobs.manifests.files import ManifestFiles
from jobs.manifests.rows import read_manifest
from jobs.run import contents
from jobs.run.context import Work
from jobs.run.derived import Facts, derive
from jobs.stages import audit, outcomes
from jobs.stages.pregate import fetch_requests, judge_rows
from schemas.tables import TABLES


@dataclass
class DateRun:
    """The staging of one date; `stage_all` is the one way through it."""

    work: Work
    date: dt.date
    published_before: bool
    """Whether the date has a published run already: then it is done again."""

    def stage_all(self, manifest: ManifestFiles, deadline_at: float | None) -> str:
        """Run every stage, audit the result, write the plan; the digest of the inputs. No live table is touched."""
        work = self.work
        with work.progress.stage("manifest and pre-gate"):
            rows = self.stage_rows(manifest)
            owed = count_rows(work.spark, manifest)
            audit.check_rows_read(owed, work.rows("rows").rows)  # before anything is fetched
        with work.progress.stage("golden vectors"):
            contents.make_golden(work)
        with work.progress.stage("crawl and gate"):
            crawled, answers = self.stage_crawl(rows, deadline_at)
        # Pictures and texts have nothing to do with each other.
        with work.progress.stage("embed"), ThreadPoolExecutor(1) as beside:
            reading = beside.submit(self.stage_texts, rows, answers)
            vectors, embed_errors = contents.embed_pictures(work, crawled)
            texts = reading.result()
        with work.progress.stage("outcomes"):
            answers = contents.with_failures(answers, embed_errors, crawled.where("has_pixels").select("image_id"))
            contents.record_failures(work, work.staged("fetches"), answers)
            sightings = self.stage_sightings(rows, answers)
        before = work.landing.read("sightings")
        of_date = f.col("ingest_date") == f.lit(self.date)
        after = before.where(~of_date).unionByName(sightings)
        # Known to be none where there are none: nothing then looks at history for what they leave behind.
        old = before.where(of_date & f.lit(self.published_before))
        derive(work, Facts(old, sightings, after, vectors, texts, crawled))
        with work.progress.stage("audit"):
            audit.check_accounting(owed, sightings, work.counts)
            audit.check_gate_first(crawled, contents.staged_vectors(work))
            audit.check_clusters(work.staged("clusters"))
        work.write_plan()
        return inputs_digest(rows)

    def stage_rows(self, manifest: ManifestFiles) -> DataFrame:
        """The manifest's rows, numbered and judged as far as that goes without pixels."""
        return self.work.stage("rows", manifest_rows(self.work, self.date, manifest))

    def stage_crawl(self, rows: DataFrame, deadline_at: float | None) -> tuple[DataFrame, DataFrame]:
        """What was fetched, with pixels; and what asking for each URL of the date came to (`outcomes.ANSWERS`)."""
        work = self.work
        requests = fetch_requests(rows)
        recorded = self._recorded_before()
        asked = requests.drop("ingest_date").join(self._overtaken(recorded), "url_id", "left_anti")
        crawled = contents.crawl(work, contents.validators(work, self.date, asked), deadline_at)
        columns = list(TABLES["fetches"].column_names)
        fresh = crawled.withColumn("ingest_date", f.lit(self.date)).select(*columns)
        carried = recorded.join(rows.select("url_id"), "url_id", "left_semi").join(asked, "url_id", "left_anti")
        fetches = work.stage("fetches", fresh.unionByName(carried.select(*columns)), {"fetches": "true"})
        work.plan_rows("fetches", "fetches", dates=(self.date,))
        return crawled, contents.recorded_answers(work, requests, fetches, crawled)

    def _recorded_before(self) -> DataFrame:
        """Rows of `fetches` of an earlier run of this date. What is not asked for again now stands as it was recorded,
        and is judged by the policy of now; so does what no row may be fetched for now, for another policy's sake."""
        fetches = self.work.landing.read("fetches").where(f.col("ingest_date") == f.lit(self.date))
        return fetches if self.published_before else fetches.where(f.lit(False))

    def _overtaken(self, recorded: DataFrame) -> DataFrame:
        """`url_id` of those that have a later conclusive sighting: asking again would answer for that later date."""
        later = self.work.landing.read("url_state").where(f.col("ingest_date") > f.lit(self.date))
        return recorded.join(later, "url_id", "left_semi").select("url_id")

    def stage_texts(self, rows: DataFrame, answers: DataFrame) -> DataFrame:
        """Vectors of the texts of rows that are allowed."""
        allowed = answers.where("decision = 'allow'").select("url_id")
        wanted = rows.where("decision != 'block'").join(allowed, "url_id", "left_semi")
        return contents.embed_texts_of(self.work, wanted)

    def stage_sightings(self, rows: DataFrame, answers: DataFrame) -> DataFrame:
        """One outcome a row, and the log of what was decided."""
        work = self.work
        version = work.versions.policy_version
        decided = outcomes.decide_outcomes(
            rows, answers, policy=work.policy, policy_version=version, run_id=work.run_id
        )
        sightings = work.stage("sightings", decided, {"sightings": "true"})
        work.counts |= audit.outcome_counts(sightings)
        work.plan_rows("sightings", "sightings", dates=(self.date,))
        log = outcomes.decision_rows(sightings, work.staged("content_signals"), version, work.run_id)
        work.stage("decisions", log, {"decisions": "true"})
        work.plan_rows("decisions", "decisions")
        return sightings


def manifest_rows(work: Work, date: dt.date, manifest: ManifestFiles) -> DataFrame:
    """The rows of a date's manifest, numbered and judged without pixels."""
    raw = read_manifest(work.spark, work.config.manifest, manifest, lambda frame: work.stage("lines", frame))
    return judge_rows(raw.withColumn("ingest_date", f.lit(date)), work.policy, work.overrides)


def inputs_digest(rows: DataFrame) -> str:
    """Digest of the pre-gated rows' manifest columns, independent of the order in which they are read."""
    names = [name for name in rows.columns if name in {"source_file", "row_number", "bad_row", "url", "url_id"}]
    names += ["page_url", "title", "alt_text", "description", "license", "expected_sha256", "tags"]
    text = f.to_json(f.struct(*names, f.map_entries("attributes").alias("attributes")))
    total = rows.select(f.xxhash64(text).cast("decimal(38,0)").alias("hash")).agg(f.sum("hash"), f.count("*")).first()
    return hashlib.sha256(f"{total[0]} {total[1]}".encode()).hexdigest() if total else ""
