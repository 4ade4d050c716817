"""From changed sightings to everything that follows from them: state of URLs, live images, duplicates, feed, queue.

What changes in derived tables is computed for what the run touches: its URLs, their images, the connected components of
their duplicates, the feed rows of those. Whoever changes sightings, a night or a re-decision, ends with these steps.
"""

from dataclasses import dataclass
from typing import Protocol

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs.run import contents
from jobs.run.context import Work
from jobs.run.names import Count, Dataset, Metric
from jobs.stages import clusters, dedup, feed, queue, state
from jobs.warehouse.landing import CHANGE
from schemas.tables import TABLES
from udfs.embedding.alignment import alignment_for
from udfs.embedding.text import text_dimension


@dataclass(frozen=True)
class Facts:
    """What a run changes among the facts. All lazily read but what is staged."""

    old: DataFrame
    """Rows of `sightings` that the run replaces."""
    new: DataFrame
    """Rows of `sightings` that it puts in their place (staged)."""
    after: DataFrame
    """All of `sightings` as they will be."""
    embeddings: DataFrame
    """New vectors: `image_id, vector` (staged)."""
    texts: DataFrame
    """New text vectors: `text_id, vector` (staged)."""
    crawled: DataFrame | None
    """What the run has fetched (the staged dataset `crawl`), if it has fetched anything."""
    images: DataFrame | None = None
    """`image_id` of images of which something follows otherwise although no sighting changes."""


@dataclass(frozen=True)
class Touched:
    """What later steps need to know of the facts as they will be."""

    url_state: DataFrame
    """All of `url_state` as it will be."""
    urls: DataFrame
    """`url_id` of URLs with changed sightings."""
    affected: DataFrame
    """`image_id` of images whose liveness, order or feed facts may have changed (staged)."""
    pictures: DataFrame
    """`images` without pixels as it will be, for the affected."""
    live: DataFrame
    """The affected that are live, with `image_hashes` columns, `first_seen` and `source_pixels` (staged)."""


class ChangesFacts(Protocol):
    """A run that changes facts, whichever kind it is."""

    work: Work
    touched: Touched | None
    """What `find_live_images` hands on."""

    def facts(self) -> Facts:
        """What it changes, once that is staged."""


def find_live_images(run: ChangesFacts) -> None:
    """State of the URLs whose sightings change, what that means for their images, and what is owed a fetch."""
    work, facts = run.work, run.facts()
    urls = facts.new.select("url_id").unionByName(facts.old.select("url_id")).where("url_id is not null").distinct()
    mine = work.landing.read("url_state").join(urls, "url_id", "left_semi")
    states = state.url_states(facts.after.join(urls, "url_id", "left_semi"))
    state_changes = work.stage_changes("url_state", mine, states)
    shown_before = mine.join(state_changes.select("url_id"), "url_id", "left_semi").select("image_id")
    seen = (
        facts.new.where("outcome = 'accepted'")
        .select("image_id")
        .unionByName(facts.old.where("outcome = 'accepted'").select("image_id"))
    )
    ids = seen.unionByName(shown_before).unionByName(state_changes.select("image_id"))
    if facts.crawled is not None:  # pictures that were owed: their sightings need not have changed
        ids = ids.unionByName(facts.crawled.where("has_pixels").select("image_id"))
    if facts.images is not None:
        ids = ids.unionByName(facts.images)
    affected = work.stage(Dataset.AFFECTED, ids.where("image_id is not null").distinct())
    url_state = work.after("url_state", state_changes)
    first = state.first_accepted(facts.after.join(affected, "image_id", "left_semi"))
    pictures = contents.keep_accepted(work, first.select("image_id"), affected, facts.old, facts.after, facts.crawled)
    embedded = contents.embedded_before(work).select("image_id").unionByName(facts.embeddings.select("image_id"))
    live = state.live_images(
        state.shown_images(url_state.join(affected, "image_id", "left_semi")),
        first,
        pictures,
        embedded.join(affected, "image_id", "left_semi"),
    )
    hashed = dedup.hash_rows(live, work.config.dedup).join(
        live.select("image_id", "first_seen", "source_pixels"), "image_id"
    )
    run.touched = Touched(url_state, urls, affected, pictures, work.stage(Dataset.LIVE, hashed))
    _stage_queue(work, facts, run.touched)


def _stage_queue(work: Work, facts: Facts, touched: Touched) -> None:
    """What is owed a fetch, among the URLs and images touched."""
    before = work.landing.read("refetch_queue")
    shown = touched.url_state.join(touched.urls, "url_id", "left_semi").select("image_id")
    images = shown.where("image_id is not null").unionByName(touched.affected).distinct()
    urls = touched.urls.unionByName(before.join(images, "image_id", "left_semi").select("url_id")).distinct()
    mine = before.join(urls, "url_id", "left_semi").unionByName(
        before.join(urls, "url_id", "left_anti").join(images, "image_id", "left_semi")
    )
    stored = work.landing.read("images").select("image_id").join(touched.affected, "image_id", "left_anti")
    pictured = stored.unionByName(touched.pictures.select("image_id"))
    owed = queue.owed_rows(
        facts.after.join(urls, "url_id", "left_semi"),
        touched.url_state.join(urls, "url_id", "left_semi"),
        touched.url_state.join(images, "image_id", "left_semi"),
        pictured.join(images, "image_id", "left_semi"),
    )
    changed = work.stage_changes("refetch_queue", mine, owed)
    waiting = facts.new.where("outcome = 'deferred'")
    queued = work.after("refetch_queue", changed).select("ingest_date", "url_id")
    # What a later sighting has overtaken stays without an answer: no cap is silent.
    work.counts[Count.OVERTAKEN] = waiting.join(queued, ["ingest_date", "url_id"], "left_anti").count()


def group_duplicates(run: ChangesFacts) -> None:
    """Duplicates among what became live or stopped being so."""
    touched = _touched(run)
    stage_duplicates(run.work, touched.affected, touched.live)


def _touched(run: ChangesFacts) -> Touched:
    if run.touched is None:
        raise ValueError("what a run touches is found by its step of liveness, which comes before this one")
    return run.touched


def stage_duplicates(work: Work, affected: DataFrame, live: DataFrame) -> None:
    """Hash groups, bands, edges and clusters of what became live, stopped being live, or moved in the order."""
    rule = work.versions.rule_version
    old_clusters = work.landing.read("clusters")
    mine = old_clusters.join(affected, "image_id", "left_semi")
    work.stage_changes(
        "image_hashes",
        work.landing.read("image_hashes").join(affected, "image_id", "left_semi"),
        live.select(*TABLES["image_hashes"].column_names),
    )
    place = ["group_id", "first_seen", "source_pixels"]
    members_now = live.select("image_id", *place)
    kept = old_clusters.join(affected, "image_id", "left_anti").select("image_id", *place)
    members = kept.unionByName(members_now)
    before = mine.select("image_id", *[f.col(name).alias(f"old_{name}") for name in place])
    both = before.join(members_now, "image_id", "full")
    same = f.lit(True)
    for name in place:
        same &= f.col(f"old_{name}").eqNullSafe(f.col(name))
    moved = work.stage("moved", both.where(~same).select("image_id", "old_group_id", "group_id"))
    groups = work.stage("groups", _moved_groups(moved, old_clusters, members))
    fresh, dead = groups.where("fresh").select("group_id"), groups.where("dead").select("group_id")

    hashes = live.where("not flat").join(fresh, "group_id", "left_semi").dropDuplicates(["group_id"])
    signed = dedup.band_rows(hashes, work.config.dedup, rule)
    old_bands = work.landing.read("lsh_bands").join(dead, "group_id", "left_anti")
    band_numbers = f.explode(f.sequence(f.lit(0), f.lit(work.config.dedup.bands - 1))).alias("band")
    band_changes = work.stage_changed(
        "lsh_bands",
        signed.withColumn(CHANGE, f.lit("insert")).unionByName(
            dead.select("group_id", band_numbers, f.lit("delete").alias(CHANGE)), allowMissingColumns=True
        ),
    )
    new_bands = band_changes.where(f.col(CHANGE) == "insert")

    old_edges = work.landing.read("duplicate_edges")
    ends = dedup.touching(old_edges, dead)
    new_edges = dedup.verified_edges(new_bands, old_bands, work.config.dedup, rule)
    edge_changes = work.stage_changed(
        "duplicate_edges",
        new_edges.withColumn(CHANGE, f.lit("insert")).unionByName(ends.withColumn(CHANGE, f.lit("delete"))),
    )
    work.counts[Count.NEW_EDGES] = work.rows("duplicate_edges").counted[Count.INSERTS]

    adjacent = clusters.neighbours(work.after("duplicate_edges", edge_changes))
    orphans = clusters.neighbours(ends).join(dead, "group_id", "left_semi").select(f.col("other_id").alias("group_id"))
    seeds = groups.where("not dead").select("group_id").unionByName(orphans.join(dead, "group_id", "left_anti"))
    labels, rounds = clusters.touched_components(seeds, adjacent, work.checkpoint("component"))
    work.metrics[Metric.COMPONENT_ROUNDS] = float(rounds)
    assigned = clusters.assign(
        members.join(labels, "group_id", "left_semi"), adjacent.join(labels, "group_id", "left_semi"), labels, rule
    )
    images_before = moved.select("image_id").unionByName(
        old_clusters.join(labels, "group_id", "left_semi").select("image_id")
    )
    work.stage_changes("clusters", old_clusters.join(images_before.distinct(), "image_id", "left_semi"), assigned)


def _moved_groups(moved: DataFrame, old_clusters: DataFrame, members: DataFrame) -> DataFrame:
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


def update_feed(run: ChangesFacts) -> None:
    """Feed rows and members of every cluster that the run touched."""
    work, facts, touched = run.work, run.facts(), _touched(run)
    old_clusters = work.landing.read("clusters")
    cluster_changes = work.staged(Dataset.CLUSTERS)
    new_clusters = work.after("clusters", cluster_changes)
    images = touched.affected.unionByName(cluster_changes.select("image_id")).distinct()
    both = old_clusters.select("image_id", "representative_id").unionByName(
        new_clusters.select("image_id", "representative_id")
    )
    heads = both.join(images, "image_id", "left_semi").select("representative_id").distinct()
    heads = work.stage("touched_representatives", heads)
    whole = work.stage("touched_clusters", new_clusters.join(heads, "representative_id", "left_semi"))
    members = work.stage_changes(
        "feed_members",
        work.landing.read("feed_members").join(heads, "representative_id", "left_semi"),
        feed.member_rows(whole, touched.url_state),
    )
    members_now = work.after("feed_members", members).join(heads, "representative_id", "left_semi")
    representatives = whole.where("image_id = representative_id").select("image_id")
    ids = work.landing.read("feed_ids")
    granted = feed.new_feed_ids(representatives, ids, work.run_id)
    new_ids = work.stage("feed_ids", granted, {"feed_ids": "true"}, **{Count.COLLIDED: f.col("collided")})
    work.counts[Count.FEED_ID_COLLISIONS] = work.rows("feed_ids").counted[Count.COLLIDED]
    work.plan_rows("feed_ids", "feed_ids")
    columns = ["image_id", "width", "height", "sharpness"]
    stored = work.landing.read("images").select(*columns).join(touched.affected, "image_id", "left_anti")
    rows = feed.feed_rows(
        whole,
        members_now,
        state.first_accepted(facts.after.join(representatives, "image_id", "left_semi")),
        stored.unionByName(touched.pictures.select(*columns)),
        contents.embedded_before(work)
        .select("image_id", "vector")
        .unionByName(facts.embeddings.select("image_id", "vector")),
        contents.texts_before(work).select("text_id", "vector").unionByName(facts.texts.select("text_id", "vector")),
        ids.select("image_id", "feed_id").unionByName(new_ids.select("image_id", "feed_id")),
        model_version=work.versions.model_version,
        text_model_version=work.versions.text_model_version,
        text_dimension=text_dimension(work.config.text),
        alignment=alignment_for(work.config.embedding, work.versions.model_version, work.versions.text_model_version),
    )
    image_ids = heads.select(f.col("representative_id").alias("image_id"))
    old_rows = work.landing.read("index_feed").join(image_ids, "image_id", "left_semi")
    work.stage_changes("index_feed", old_rows, rows)
