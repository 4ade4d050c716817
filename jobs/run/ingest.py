"""One date, from its manifest to staged facts: the steps of `pipelines.NIGHT` that are a night's own."""

import datetime as dt
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs.manifests.count import count_rows
from jobs.manifests.files import ManifestFiles
from jobs.manifests.rows import column_names, read_manifest
from jobs.run import ahead, audit, contents
from jobs.run.ahead import Ahead
from jobs.run.context import Work
from jobs.run.derived import Facts, Touched
from jobs.run.expectations import Expectations
from jobs.run.introduction import check_hosts
from jobs.run.names import Count, Dataset
from jobs.run.reading import Reading
from jobs.stages import outcomes
from jobs.stages.pregate import fetch_requests, judge_rows
from schemas.tables import TABLES


@dataclass
class Night:
    """The staging of one date."""

    work: Work
    date: dt.date
    published_before: bool
    """Whether the date has a published run already: then it is done again."""
    manifest: ManifestFiles
    most_s: float | None
    expectations: Expectations
    owed_rows: int = 0
    """Rows of the manifest by an independent count."""
    inputs: str | None = None
    """Digest of the manifest's rows."""
    touched: Touched | None = None
    ahead: Ahead | None = None
    """What was fetched and embedded before, and is not again."""

    def read(self) -> None:
        """The manifest's rows, numbered and judged as far as that goes without pixels, and counted a second way."""
        work = self.work
        usable = {Count.USABLE_URLS: f.col("url_id").isNotNull()}
        rows = work.stage(Dataset.ROWS, manifest_rows(work, self.date, self.manifest), None, **usable)
        self.owed_rows = count_rows(work.spark, self.manifest)
        staged = work.rows(Dataset.ROWS)
        audit.check_rows_read(self.owed_rows, staged.rows)
        named = column_names(work.config.manifest)["url"]
        audit.check_urls(self.manifest.root, named, rows, staged.counted[Count.USABLE_URLS], self.owed_rows)
        # Of what the rows tell alone: before days are spent on asking for them.
        self.expectations.check({Count.SIGHTINGS: self.owed_rows}, complete=False)
        self.inputs = inputs_digest(rows)

    def crawl(self) -> None:
        """What was fetched, with pixels; what will be recorded of it; and what asking for each URL of the date came to
        (`outcomes.ANSWERS`)."""
        work, rows = self.work, self.work.staged(Dataset.ROWS)
        self.ahead = ahead.find(work, self.date, self.inputs or "", accepting=bool(self.expectations.accepted.names))
        requests = fetch_requests(rows)
        check_hosts(work.config.crawl, requests)
        recorded = self._recorded_before()
        asked = requests.drop("ingest_date").join(self._overtaken(recorded), "url_id", "left_anti")
        crawled = contents.crawl(work, contents.validators(work, self.date, asked), self.most_s, self._crawled_ahead())
        columns = list(TABLES["fetches"].column_names)
        fresh = crawled.withColumn("ingest_date", f.lit(self.date)).select(*columns)
        carried = recorded.join(rows.select("url_id"), "url_id", "left_semi").join(asked, "url_id", "left_anti")
        fetches = work.stage(Dataset.FETCHES, fresh.unionByName(carried.select(*columns)), {"fetches": "true"})
        work.plan_rows("fetches", Dataset.FETCHES, dates=(self.date,))
        contents.recorded_answers(work, requests, fetches, crawled)

    def embed(self) -> None:
        """Vectors of the images and of the texts of rows that are allowed, where there are none yet. Images and texts
        have nothing to do with each other."""
        work = self.work
        allowed = work.staged(Dataset.ANSWERS).where("decision = 'allow'").select("url_id")
        wanted = work.staged(Dataset.ROWS).where("decision != 'block'").join(allowed, "url_id", "left_semi")
        with ThreadPoolExecutor(1) as beside:
            known = self.ahead
            reading = beside.submit(contents.embed_texts_of, work, wanted, known.texts if known else None)
            vectors = known.vectors if known else contents.NOTHING_AHEAD
            contents.embed_new_images(work, work.staged(Dataset.CRAWL), vectors)
            reading.result()

    def decide(self) -> None:
        """One outcome a row, and the log of what was decided."""
        work = self.work
        tried = work.staged(Dataset.CRAWL).where("has_pixels").select("image_id")
        answers = contents.with_failures(work.staged(Dataset.ANSWERS), contents.without_vector(work), tried)
        contents.record_failures(work, work.staged(Dataset.FETCHES), answers)
        version = work.versions.policy_version
        decided = outcomes.decide_outcomes(
            work.staged(Dataset.ROWS), answers, policy=work.policy, policy_version=version, run_id=work.run_id
        )
        speaks = (f.col("outcome") == "accepted") & f.col("text_id").isNotNull()
        sightings = work.stage(Dataset.SIGHTINGS, decided, {"sightings": "true"}, **{Count.WITH_TEXT: speaks})
        work.counts[Count.WITH_TEXT] = work.rows(Dataset.SIGHTINGS).counted[Count.WITH_TEXT]
        work.counts |= audit.outcome_counts(sightings)
        work.plan_rows("sightings", Dataset.SIGHTINGS, dates=(self.date,))
        log = outcomes.decision_rows(sightings, work.staged(Dataset.CONTENT_SIGNALS), version, work.run_id)
        work.stage("decisions", log, {"decisions": "true"})
        work.plan_rows("decisions", "decisions")

    def facts(self) -> Facts:
        """The date's sightings in place of those that it had."""
        work, before = self.work, self.work.landing.read("sightings")
        of_date = f.col("ingest_date") == f.lit(self.date)
        return Facts(
            # Known to be none where there are none: nothing then looks at history for what they leave behind.
            old=before.where(of_date & f.lit(self.published_before)),
            new=work.staged(Dataset.SIGHTINGS),
            before=before,
            kept=lambda rows: rows.where(~of_date),
            embeddings=contents.new_vectors(work),
            texts=contents.new_text_vectors(work),
            crawled=work.staged(Dataset.CRAWL),
        )

    def audit(self) -> None:
        """Every row has one outcome, nothing passed by the gate, no representative is a member elsewhere; and the whole
        looks as expected."""
        work = self.work
        audit.check_accounting(self.owed_rows, work.staged(Dataset.SIGHTINGS), work.counts)
        audit.check_gate_first(work.staged(Dataset.CRAWL), contents.staged_vectors(work))
        audit.check_clusters(work.staged(Dataset.CLUSTERS))
        work.remark = self.expectations.check(work.counts | work.metrics)

    def _crawled_ahead(self) -> DataFrame | None:
        if self.ahead is None:
            return None
        self.work.progress.say("takes what was fetched ahead of time")
        return self.ahead.crawled

    def _recorded_before(self) -> DataFrame:
        """Rows of `fetches` of an earlier run of this date. What is not asked for again now stands as it was recorded,
        and is judged by the policy of now; so does what no row may be fetched for now, for another policy's sake."""
        fetches = self.work.landing.read("fetches").where(f.col("ingest_date") == f.lit(self.date))
        return fetches if self.published_before else fetches.where(f.lit(False))

    def _overtaken(self, recorded: DataFrame) -> DataFrame:
        """`url_id` of those that have a later conclusive sighting: asking again would answer for that later date."""
        keys = self.work.keys("recorded_urls", recorded.select("url_id"))
        later = self.work.past("url_state", keys, columns=["url_id", "ingest_date"])
        return later.where(f.col("ingest_date") > f.lit(self.date)).select("url_id")


def manifest_rows(work: Reading, date: dt.date, manifest: ManifestFiles) -> DataFrame:
    """The rows of a date's manifest, numbered and judged without pixels."""
    raw = read_manifest(work.spark, work.config.manifest, manifest, lambda frame: work.stage("lines", frame))
    return judge_rows(raw.withColumn("ingest_date", f.lit(date)), work.policy, work.overrides.rows)


def inputs_digest(rows: DataFrame) -> str:
    """Digest of the pre-gated rows' manifest columns, independent of the order in which they are read."""
    names = [name for name in rows.columns if name in {"source_file", "row_number", "bad_row", "url", "url_id"}]
    names += ["page_url", "title", "alt_text", "description", "license", "expected_sha256", "tags"]
    text = f.to_json(f.struct(*names, f.map_entries("attributes").alias("attributes")))
    total = rows.select(f.xxhash64(text).cast("decimal(38,0)").alias("hash")).agg(f.sum("hash"), f.count("*")).first()
    return hashlib.sha256(f"{total[0]} {total[1]}".encode()).hexdigest() if total else ""
