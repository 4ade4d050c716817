"""One date, from its manifest to a staged run: composes the stages and writes the plan that `jobs.landing` applies.

Every dataset that more than one stage reads is staged once. What changes in derived tables is computed for what the
date touches: its URLs, their images, the connected components of their duplicates, the feed rows of those.
"""

import datetime as dt
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as f

from jobs.config import Config
from jobs.landing import CHANGE, Landing, StagedRows, StagedTable, changes
from jobs.ledger import Versions
from jobs.progress import Progress
from jobs.stages import audit, clusters, dedup, feed, outcomes, state
from jobs.stages.crawl import crawl_and_gate
from jobs.stages.embed import embed_images, embed_texts
from jobs.stages.manifest import ManifestFiles, read_manifest
from jobs.stages.pregate import fetch_requests, judge_rows
from schemas.policy import Policy
from schemas.tables import TABLES
from udfs.embed import dimension
from udfs.nsfw import detector_version
from udfs.text import text_dimension


@dataclass
class StagedRun:
    """What a staged date amounts to."""

    counts: dict[str, int]
    metrics: dict[str, float]
    inputs_digest: str


@dataclass
class DateRun:
    """The state of staging one date; `stage_all` is the one way through it."""

    spark: SparkSession
    landing: Landing
    config: Config
    policy: Policy
    versions: Versions
    date: dt.date
    run_id: str
    progress: Progress
    published_before: bool
    """Whether the date has a published run already: then it is done again."""
    plan: list[StagedTable] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def stage_all(self, manifest: ManifestFiles, deadline_at: float | None) -> StagedRun:
        """Run every stage, audit the result, write the plan. Nothing of the live tables is touched."""
        begun = time.monotonic()
        with self.progress.stage("manifest and pre-gate"):
            rows = self.stage_rows(manifest)
        with self.progress.stage("crawl and gate"):
            crawled = self.stage_crawl(rows, deadline_at)
        # Pictures and texts have nothing to do with each other.
        with self.progress.stage("embed"), ThreadPoolExecutor(1) as beside:
            reading = beside.submit(self.stage_texts, rows, crawled)
            embeddings, embed_errors = self.stage_embeddings(crawled)
            texts = reading.result()
        with self.progress.stage("outcomes"):
            sightings = self.stage_sightings(rows, crawled, embed_errors)
        with self.progress.stage("liveness"):
            touched = self.stage_liveness(sightings, embeddings)
        with self.progress.stage("dedup"):
            self.stage_duplicates(touched)
        with self.progress.stage("feed"):
            self.stage_feed(touched, embeddings, texts)
        with self.progress.stage("audit"):
            self.audit(rows, crawled, sightings, embeddings)
        self.landing.write_plan(self.run_id, self.plan)
        self.metrics["seconds.staging"] = time.monotonic() - begun
        self.metrics |= {f"seconds.{name}": seconds for name, seconds in self.progress.seconds.items()}
        return StagedRun(self.counts, self.metrics, inputs_digest(rows))

    # Rows, crawl ------------------------------------------------------------------------------------------------

    def stage_rows(self, manifest: ManifestFiles) -> DataFrame:
        """The manifest's rows, numbered and judged as far as that goes without pixels."""
        raw = read_manifest(self.spark, self.config.manifest, manifest, lambda frame: self._stage("lines", frame))
        return self._stage("rows", judge_rows(raw, self.policy))

    def stage_crawl(self, rows: DataFrame, deadline_at: float | None) -> DataFrame:
        """Fetch, gate, canonical picture: the one staging table from which everything else derives."""
        requests = fetch_requests(rows)
        carried = self._carried_over(requests)
        crawled = crawl_and_gate(
            requests.join(carried, "url_id", "left_anti"),
            policy=self.policy,
            detector=self.config.policy.detector,
            gate_batch=self.config.policy.batch_size,
            crawl=self.config.crawl,
            images=self.config.images,
            tasks=self.config.spark.crawl_tasks,
            deadline_at=deadline_at,
        )
        everything = crawled.unionByName(carried, allowMissingColumns=True)
        staged = self._stage(
            "crawl",
            everything.withColumn("ingest_date", f.lit(self.date))
            .withColumn("run_id", f.lit(self.run_id))
            .withColumn("source_bytes", f.col("bytes"))
            .withColumn("canonical_version", f.lit(self.versions.canonical_version)),
        )
        self.counts["urls"] = self._rows("crawl").rows
        self._plan("fetches", "crawl", dates=(self.date.isoformat(),))
        scored = staged.where("scores is not null").dropDuplicates(["image_id"])
        known = self.landing.read("content_signals").where(f.col("detector_version") == self._detector_version)
        signals = (
            scored.join(known.select("image_id"), "image_id", "left_anti")
            .withColumn("detector_version", f.lit(self._detector_version))
            .select("decision", "content_reasons", *TABLES["content_signals"].column_names)
        )
        self._stage("content_signals", signals)
        self._plan("content_signals", "content_signals")
        return staged

    @property
    def _detector_version(self) -> str:
        return detector_version(self.config.policy.detector)

    def _carried_over(self, requests: DataFrame) -> DataFrame:
        """Crawl results of an earlier run of this date, for URLs that have a later conclusive sighting since: asking
        again would answer for a later date, so what was recorded then stands (judged by the current policy)."""
        nothing = f.lit(True) if self.published_before else f.lit(False)
        later = (
            self.landing.read("url_state")
            .where(nothing)
            .where(f.col("ingest_date") > f.lit(self.date))
            .select("url_id")
        )
        recorded = self.landing.read("fetches").where(f.col("ingest_date") == f.lit(self.date))
        mine = recorded.join(later, "url_id", "left_semi").join(requests.select("url_id"), "url_id", "left_semi")
        signals = self.landing.read("content_signals").where(f.col("detector_version") == self._detector_version)
        judged = outcomes.judge_stored(signals.join(mine.select("image_id").distinct(), "image_id"), self.policy)
        return mine.drop("ingest_date", "run_id").join(judged, "image_id", "left")

    # Vectors ----------------------------------------------------------------------------------------------------

    def stage_embeddings(self, crawled: DataFrame) -> tuple[DataFrame, DataFrame]:
        """New images and new vectors; the staged vectors and the failures (`image_id, error`)."""
        pictured = crawled.where("pixels is not null")
        sources = pictured.groupBy("image_id").agg(f.min("url_id").alias("url_id"))
        stored = self.landing.read("images").select("image_id")
        self._stage("new_images", sources.join(stored, "image_id", "left_anti").select("url_id"))
        self._plan("images", "crawl", only="new_images")
        embedded = self._embedded_before().select("image_id")
        missing = self._stage("missing_vectors", sources.join(embedded, "image_id", "left_anti").select("url_id"))
        pixels = pictured.join(missing, "url_id", "left_semi").select("image_id", "pixels")
        result = embed_images(pixels, self.config.embedding, self.config.spark.embed_tasks)
        vectors = self._stage(
            "vectors",
            result.withColumn("model_version", f.lit(self.versions.model_version)).withColumn(
                "run_id", f.lit(self.run_id)
            ),
            embedded=f.col("error").isNull(),
        )
        good = vectors.where("error is null")
        self.counts["embedded"] = self._rows("vectors").counted["embedded"]
        self._plan("embeddings", "vectors", where="error is null")
        return good, vectors.where("error is not null").select("image_id", "error")

    def _embedded_before(self) -> DataFrame:
        version = self.versions.model_version
        return self.landing.read("embeddings").where(f.col("model_version") == version)

    def stage_texts(self, rows: DataFrame, crawled: DataFrame) -> DataFrame:
        """Vectors of the texts of allowed rows, once a distinct text."""
        allowed = crawled.where("decision = 'allow'").select("url_id")
        wanted = rows.where("text_id is not null and decision != 'block'").join(allowed, "url_id", "left_semi")
        known = self._texts_before().select("text_id")
        texts = wanted.groupBy("text_id").agg(f.first("text").alias("text")).join(known, "text_id", "left_anti")
        result = embed_texts(texts, self.config.text)
        staged = self._stage(
            "texts",
            result.withColumn("text_model_version", f.lit(self.versions.text_model_version)).withColumn(
                "run_id", f.lit(self.run_id)
            ),
            embedded=f.col("error").isNull(),
        )
        good = staged.where("error is null")
        self.counts["texts_embedded"] = self._rows("texts").counted["embedded"]
        self.counts["texts_failed"] = self._rows("texts").rows - self.counts["texts_embedded"]
        self._plan("text_embeddings", "texts", where="error is null")
        return good

    def _texts_before(self) -> DataFrame:
        version = self.versions.text_model_version
        return self.landing.read("text_embeddings").where(f.col("text_model_version") == version)

    # Outcomes, liveness -----------------------------------------------------------------------------------------

    def stage_sightings(self, rows: DataFrame, crawled: DataFrame, embed_errors: DataFrame) -> DataFrame:
        """One outcome a row, and the log of what was decided."""
        decided = outcomes.decide_outcomes(
            rows,
            crawled,
            embed_errors,
            date=self.date,
            policy_version=self.versions.policy_version,
            run_id=self.run_id,
        )
        sightings = self._stage("sightings", decided)
        self.counts |= audit.outcome_counts(sightings)
        self._plan("sightings", "sightings", dates=(self.date.isoformat(),))
        signals = self.landing.staged(self.run_id, "content_signals")
        log = outcomes.decision_rows(sightings, signals, self.versions.policy_version, self.run_id)
        self._stage("decisions", log)
        self._plan("decisions", "decisions")
        return sightings

    def stage_liveness(self, sightings: DataFrame, embeddings: DataFrame) -> "Touched":
        """State of the URLs that the date names or named, and what that means for their images."""
        before = self.landing.read("sightings")
        of_date = before.where(f.col("ingest_date") == f.lit(self.date))
        after = before.where(f.col("ingest_date") != f.lit(self.date)).unionByName(sightings)
        urls = sightings.select("url_id").unionByName(of_date.select("url_id")).where("url_id is not null").distinct()
        old_state = self.landing.read("url_state")
        mine = old_state.join(urls, "url_id", "left_semi")
        state_changes = self._stage_changes(
            "url_state", mine, state.url_states(after.join(urls, "url_id", "left_semi"))
        )
        shown_before = mine.join(state_changes.select("url_id"), "url_id", "left_semi").select("image_id")
        seen = (
            sightings.where("outcome = 'accepted'")
            .select("image_id")
            .unionByName(of_date.where("outcome = 'accepted'").select("image_id"))
        )
        ids = seen.unionByName(shown_before).unionByName(state_changes.select("image_id"))
        affected = self._stage("affected", ids.where("image_id is not null").distinct())
        url_state = self._after("url_state", state_changes)
        first = state.first_accepted(after.join(affected, "image_id", "left_semi"))
        pictured = self.landing.read("images").drop("pixels", "run_id").join(affected, "image_id", "left_semi")
        new_pictures = (
            self.landing.staged(self.run_id, "crawl")
            .join(self.landing.staged(self.run_id, "new_images"), "url_id", "left_semi")
            .select(*pictured.columns)
        )
        embedded = self._embedded_before().select("image_id").unionByName(embeddings.select("image_id"))
        live = state.live_images(
            state.shown_images(url_state.join(affected, "image_id", "left_semi")),
            first,
            pictured.unionByName(new_pictures),
            embedded.join(affected, "image_id", "left_semi"),
        )
        hashed = dedup.hash_rows(live, self.config.dedup).join(
            live.select("image_id", "first_seen", "source_pixels"), "image_id"
        )
        return Touched(after, url_state, affected, self._stage("live", hashed))

    # Duplicates -------------------------------------------------------------------------------------------------

    def stage_duplicates(self, touched: "Touched") -> None:
        """Hash groups, bands, edges and clusters of what became live, stopped being live, or moved in the order."""
        rule = self.versions.rule_version
        old_clusters = self.landing.read("clusters")
        mine = old_clusters.join(touched.affected, "image_id", "left_semi")
        self._stage_changes(
            "image_hashes",
            self.landing.read("image_hashes").join(touched.affected, "image_id", "left_semi"),
            touched.live.select(*TABLES["image_hashes"].column_names),
        )
        place = ["group_id", "first_seen", "source_pixels"]
        members_now = touched.live.select("image_id", *place)
        kept = old_clusters.join(touched.affected, "image_id", "left_anti").select("image_id", *place)
        members = kept.unionByName(members_now)
        before = mine.select("image_id", *[f.col(name).alias(f"old_{name}") for name in place])
        both = before.join(members_now, "image_id", "full")
        same = f.lit(True)
        for name in place:
            same &= f.col(f"old_{name}").eqNullSafe(f.col(name))
        moved = self._stage("moved", both.where(~same).select("image_id", "old_group_id", "group_id"))
        groups = self._stage("groups", self._moved_groups(moved, old_clusters, members))
        fresh, dead = groups.where("fresh").select("group_id"), groups.where("dead").select("group_id")

        hashes = touched.live.where("not flat").join(fresh, "group_id", "left_semi").dropDuplicates(["group_id"])
        signed = dedup.band_rows(hashes, self.config.dedup, rule)
        old_bands = self.landing.read("lsh_bands").join(dead, "group_id", "left_anti")
        band_numbers = f.explode(f.sequence(f.lit(0), f.lit(self.config.dedup.bands - 1))).alias("band")
        band_changes = self._stage_derived(
            "lsh_bands",
            signed.withColumn(CHANGE, f.lit("insert")).unionByName(
                dead.select("group_id", band_numbers, f.lit("delete").alias(CHANGE)), allowMissingColumns=True
            ),
        )
        new_bands = band_changes.where(f.col(CHANGE) == "insert")

        old_edges = self.landing.read("duplicate_edges")
        ends = dedup.touching(old_edges, dead)
        new_edges = dedup.verified_edges(new_bands, old_bands, self.config.dedup, rule)
        edge_changes = self._stage_derived(
            "duplicate_edges",
            new_edges.withColumn(CHANGE, f.lit("insert")).unionByName(ends.withColumn(CHANGE, f.lit("delete"))),
        )
        self.counts["new_edges"] = self._rows("duplicate_edges").counted["inserts"]

        adjacent = clusters.neighbours(self._after("duplicate_edges", edge_changes))
        orphans = (
            clusters.neighbours(ends).join(dead, "group_id", "left_semi").select(f.col("other_id").alias("group_id"))
        )
        seeds = groups.where("not dead").select("group_id").unionByName(orphans.join(dead, "group_id", "left_anti"))
        labels, rounds = clusters.touched_components(seeds, adjacent, self._checkpoint("component"))
        self.metrics["dedup.component_rounds"] = float(rounds)
        assigned = clusters.assign(
            members.join(labels, "group_id", "left_semi"), adjacent.join(labels, "group_id", "left_semi"), labels, rule
        )
        images_before = moved.select("image_id").unionByName(
            old_clusters.join(labels, "group_id", "left_semi").select("image_id")
        )
        self._stage_changes("clusters", old_clusters.join(images_before.distinct(), "image_id", "left_semi"), assigned)

    def _moved_groups(self, moved: DataFrame, old_clusters: DataFrame, members: DataFrame) -> DataFrame:
        """Groups of moved images: `group_id, fresh` (live from now on), `dead` (no live image left)."""
        named = moved.select(f.col("old_group_id").alias("group_id")).unionByName(moved.select("group_id"))
        named = named.where("group_id is not null").distinct()
        had = old_clusters.join(named, "group_id", "left_semi").select("group_id", f.lit(True).alias("had")).distinct()
        has = members.join(named, "group_id", "left_semi").select("group_id", f.lit(True).alias("has")).distinct()
        joined = named.join(had, "group_id", "left").join(has, "group_id", "left")
        return joined.select(
            "group_id",
            (f.col("had").isNull() & f.col("has").isNotNull()).alias("fresh"),
            f.col("has").isNull().alias("dead"),
        )

    # Feed -------------------------------------------------------------------------------------------------------

    def stage_feed(self, touched: "Touched", embeddings: DataFrame, texts: DataFrame) -> None:
        """Feed rows and members of every cluster that the date touched."""
        old_clusters = self.landing.read("clusters")
        cluster_changes = self.landing.staged(self.run_id, "clusters")
        new_clusters = self._after("clusters", cluster_changes)
        images = touched.affected.unionByName(cluster_changes.select("image_id")).distinct()
        both = old_clusters.select("image_id", "representative_id").unionByName(
            new_clusters.select("image_id", "representative_id")
        )
        heads = both.join(images, "image_id", "left_semi").select("representative_id").distinct()
        heads = self._stage("touched_representatives", heads)
        whole = self._stage("touched_clusters", new_clusters.join(heads, "representative_id", "left_semi"))
        members = self._stage_changes(
            "feed_members",
            self.landing.read("feed_members").join(heads, "representative_id", "left_semi"),
            feed.member_rows(whole, touched.url_state),
        )
        members_now = self._after("feed_members", members).join(heads, "representative_id", "left_semi")
        representatives = whole.where("image_id = representative_id").select("image_id")
        ids = self.landing.read("feed_ids")
        granted = feed.new_feed_ids(representatives, ids, self.run_id)
        new_ids = self._stage("feed_ids", granted, collided=f.col("collided"))
        self.counts["feed_id_collisions"] = self._rows("feed_ids").counted["collided"]
        self._plan("feed_ids", "feed_ids")
        stored = self.landing.read("images").select("image_id", "width", "height", "sharpness")
        pictures = stored.unionByName(
            self.landing.staged(self.run_id, "crawl")
            .join(self.landing.staged(self.run_id, "new_images"), "url_id", "left_semi")
            .select(*stored.columns)
        )
        rows = feed.feed_rows(
            whole,
            members_now,
            state.first_accepted(touched.sightings.join(representatives, "image_id", "left_semi")),
            pictures,
            self._embedded_before().select("image_id", "vector").unionByName(embeddings.select("image_id", "vector")),
            self._texts_before().select("text_id", "vector").unionByName(texts.select("text_id", "vector")),
            ids.select("image_id", "feed_id").unionByName(new_ids.select("image_id", "feed_id")),
            model_version=self.versions.model_version,
            text_model_version=self.versions.text_model_version,
            text_dimension=text_dimension(self.config.text),
        )
        image_ids = heads.select(f.col("representative_id").alias("image_id"))
        old_rows = self.landing.read("index_feed").join(image_ids, "image_id", "left_semi")
        self._stage_changes("index_feed", old_rows, rows)

    # Audit ------------------------------------------------------------------------------------------------------

    def audit(self, rows: DataFrame, crawled: DataFrame, sightings: DataFrame, embeddings: DataFrame) -> None:
        """Expectations on what was staged; RunError stops the run before it is prepared."""
        audit.check_accounting(rows, sightings, self.counts)
        audit.check_gate_first(crawled, embeddings)
        audit.check_vectors(embeddings, dimension(self.config.embedding))
        audit.check_clusters(self.landing.staged(self.run_id, "clusters"))

    # Staging ----------------------------------------------------------------------------------------------------

    def _stage(self, name: str, frame: DataFrame, **counted: Column) -> DataFrame:
        return self.landing.stage(self.run_id, name, frame, **counted)

    def _stage_changes(self, table: str, old: DataFrame, new: DataFrame) -> DataFrame:
        """Stage what turns the rows `old` of a derived table into `new`, and put it into the plan."""
        return self._stage_derived(table, changes(old, new, TABLES[table]))

    def _stage_derived(self, table: str, changed: DataFrame) -> DataFrame:
        staged = self._stage(table, changed, inserts=f.col(CHANGE) == "insert")
        self.counts[f"changed.{table}"] = self._rows(table).rows
        self._plan(table, table)
        return staged

    def _after(self, table: str, staged: DataFrame) -> DataFrame:
        """A derived table as it will be once the staged changes are applied."""
        keys = list(TABLES[table].keys)
        names = TABLES[table].column_names
        kept = self.landing.read(table).join(staged.select(*keys), keys, "left_anti")
        return kept.select(*names).unionByName(staged.where(f"{CHANGE} != 'delete'").select(*names))

    def _checkpoint(self, name: str) -> clusters.Checkpoint:
        """Stages each intermediate result of an iteration under a name of its own."""
        rounds = iter(range(1_000_000))
        return lambda frame: self._stage(f"{name}_{next(rounds)}", frame)

    def _plan(
        self,
        table: str,
        source: str,
        *,
        only: str | None = None,
        where: str | None = None,
        dates: tuple[str, ...] = (),
    ) -> None:
        staged = self._rows(source)
        rows = self._rows(only).rows if only else staged.rows
        inserts_only = TABLES[table].kind == "derived" and staged.counted["inserts"] == staged.rows
        self.plan.append(StagedTable(table, source, rows, only, where, dates, inserts_only))

    def _rows(self, name: str) -> StagedRows:
        return self.landing.staged_rows(self.run_id, name)


@dataclass(frozen=True)
class Touched:
    """What later stages need to know of the facts after the date: all lazily read but the staged ones."""

    sightings: DataFrame
    """All sightings as they will be."""
    url_state: DataFrame
    """All of `url_state` as it will be."""
    affected: DataFrame
    """`image_id` of images whose liveness, order or feed facts may have changed (staged)."""
    live: DataFrame
    """Those of them that are live, with `image_hashes` columns, `first_seen` and `source_pixels` (staged)."""


def inputs_digest(rows: DataFrame) -> str:
    """Digest of the pre-gated rows' manifest columns, independent of the order in which they are read."""
    names = [name for name in rows.columns if name in {"source_file", "row_number", "bad_row", "url"}]
    names += ["page_url", "title", "alt_text", "description", "license", "expected_sha256", "tags"]
    text = f.to_json(f.struct(*names, f.map_entries("attributes").alias("attributes")))
    total = rows.select(f.xxhash64(text).cast("decimal(38,0)").alias("hash")).agg(f.sum("hash"), f.count("*")).first()
    return hashlib.sha256(f"{total[0]} {total[1]}".encode()).hexdigest() if total else ""
