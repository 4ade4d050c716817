"""From changed sightings to everything that follows from them: state of URLs, live images, duplicates, feed, queue.

What changes in derived tables is computed for what the run touches: its URLs, their images, the groups of
duplicates that these or a flip among them reach, the feed rows of those. The keys of each are staged, and history is
read by them alone (`jobs.warehouse.history`). Whoever changes sightings, a night or a re-decision, ends with these
steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs.run import contents, freeing
from jobs.run.context import Work, merged
from jobs.run.duplicates import stage_afresh, stage_duplicates
from jobs.run.names import Count, Dataset
from jobs.stages import dedup, feed, queue, state
from jobs.warehouse.history import Staged, near
from jobs.warehouse.landing import CHANGE, changes
from schemas.tables import ADDED_SEQ, GONE_SEQ, INDEX_FEED, SIGHTINGS, TABLES
from udfs.embedding.alignment import Alignment, alignment_for
from udfs.embedding.text import text_dimension


@dataclass(frozen=True)
class Facts:
    """What a run changes among the facts. All lazily read but what is staged."""

    old: DataFrame
    """Of the rows of `sightings` that the run replaces: `url_id, outcome, image_id, text_id`."""
    new: DataFrame
    """Rows of `sightings` that it puts in their place (staged)."""
    before: DataFrame
    """`sightings` as published."""
    kept: Callable[[DataFrame], DataFrame]
    """Of rows of `before` those that the run leaves."""
    embeddings: DataFrame
    """New vectors: `image_id, vector` (staged)."""
    texts: DataFrame
    """New text vectors: `text_id, vector` (staged)."""
    crawled: DataFrame | None
    """What the run has fetched (the staged dataset `crawl`), if it has fetched anything."""
    images: DataFrame | None = None
    """`image_id` of images of which something follows otherwise although no sighting changes."""

    def after(self, keys: Staged) -> DataFrame:
        """Rows of `sightings` as they will be, of staged keys."""
        past = near(self.before, keys, sorted_by=SIGHTINGS.sorted_by)
        return self.kept(past).unionByName(near(self.new, keys))


@dataclass(frozen=True)
class Touched:
    """What later steps need to know of the facts as they will be."""

    urls: Staged
    """`url_id` of URLs with changed sightings."""
    states_before: DataFrame
    """Their rows of `url_state` as published (staged)."""
    states_changed: DataFrame
    """What changes in `url_state` (staged)."""
    affected: Staged
    """`image_id` of images whose liveness, order or feed facts may have changed."""
    states: DataFrame
    """Rows of `url_state` as they will be that name an affected image (staged)."""
    first: DataFrame
    """Of the affected, what `state.first_accepted` says (staged)."""
    stored_images: DataFrame
    """`images` without pixels as it will be, for the affected."""
    hashes_before: DataFrame
    """Rows of `image_hashes` of the affected as published (staged)."""
    stored: DataFrame
    """The affected that are stored: their rows of `image_hashes` as they will be, whether each `is_live`, and of those
    that are `first_seen` and `source_pixels` (staged)."""


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
    named = facts.new.select("url_id").unionByName(facts.old.select("url_id"))
    urls = work.keys("touched_urls", named.where("url_id is not null"))
    sightings = work.stage("touched_sightings", facts.after(urls).select(*TABLES["url_state"].column_names))
    before = work.stage("url_state_before", work.past("url_state", urls))
    changed = work.stage_changes("url_state", before, state.url_states(sightings))

    accepted = "outcome = 'accepted'"
    seen = facts.new.where(accepted).select("image_id").unionByName(facts.old.where(accepted).select("image_id"))
    shown_before = before.join(changed.select("url_id"), "url_id", "left_semi").select("image_id")
    ids = seen.unionByName(shown_before).unionByName(changed.select("image_id"))
    if facts.crawled is not None:  # images that were owed: their sightings need not have changed
        ids = ids.unionByName(facts.crawled.where("has_pixels").select("image_id"))
    if facts.images is not None:
        ids = ids.unionByName(facts.images)
    affected = work.keys(Dataset.AFFECTED, ids.where("image_id is not null"))

    states = work.stage("affected_states", work.after_near("url_state", changed, affected))
    first = work.stage("first_accepted", state.first_accepted(facts.after(affected)))
    kept = contents.keep_accepted(work, first.select("image_id"), affected, facts.old, facts.after, facts.crawled)
    embedded = kept.embedded.unionByName(facts.embeddings.select("image_id"))
    live = state.live_images(state.shown_images(states), first, kept.stored_images, embedded)
    hashes_before = work.stage("image_hashes_before", work.past("image_hashes", affected))
    hashed = _hashed(work, kept.stored_images, hashes_before).join(live, "image_id", "left")
    stored = work.stage(Dataset.STORED, hashed.withColumn("is_live", f.col("first_seen").isNotNull()))
    run.touched = Touched(urls, before, changed, affected, states, first, kept.stored_images, hashes_before, stored)
    _stage_queue(work, facts, sightings, run.touched)


def _hashed(work: Work, images: DataFrame, before: DataFrame) -> DataFrame:
    """Rows of `image_hashes` of stored images as they will be, those as published being `before`. What is hashed stays
    so: `images` may have hashes of an earlier release's views, which another rule has then had made anew."""
    version = ["image_id", "canonical_version"]
    known = before.join(images.select(*version), version, "left_semi")
    others = images.join(known.select("image_id"), "image_id", "left_anti")
    return known.unionByName(dedup.hash_rows(others, work.config.dedup))


def _stage_queue(work: Work, facts: Facts, sightings: DataFrame, touched: Touched) -> None:
    """What is owed a fetch, among the URLs touched, which have these sightings, and the images touched."""
    affected = touched.affected
    states = merged("url_state", touched.states_before, touched.states_changed)
    shown = states.select("image_id").where("image_id is not null")
    others = work.keys("shown_unaffected", shown.join(affected.frame, "image_id", "left_anti"))
    showing = touched.states.unionByName(work.after_near("url_state", touched.states_changed, others))
    stored = touched.stored_images.select("image_id").unionByName(work.past("images", others, columns=["image_id"]))
    pixels = work.stage("owed_pixels", queue.owed_pixels(showing, stored))
    # An image may be owed by a URL that the run has not touched: all that is owed by that one is looked at then.
    owing = [work.past("refetch_queue", keys, columns=["url_id", "image_id"]) for keys in (affected, others)]
    named = owing[0].unionByName(owing[1]).select("url_id").unionByName(pixels.select("url_id"))
    more = work.keys("owing_urls", named.join(touched.urls.frame, "url_id", "left_anti"))
    found = work.past("refetch_queue", touched.urls).unionByName(work.past("refetch_queue", more))
    before = work.stage("refetch_queue_before", found)
    owed = queue.owed_rows(
        sightings.unionByName(facts.after(more).select(*sightings.columns)),
        states.unionByName(work.after_near("url_state", touched.states_changed, more)),
        pixels,
    )
    changed = work.stage_changes("refetch_queue", before, owed)
    waiting = facts.new.where("outcome = 'deferred'")
    queued = merged("refetch_queue", before, changed).select("ingest_date", "url_id")
    # What a later sighting has overtaken stays without an answer: no cap is silent.
    work.counts[Count.OVERTAKEN] = waiting.join(queued, ["ingest_date", "url_id"], "left_anti").count()


def group_duplicates(run: ChangesFacts) -> None:
    """Duplicates among what became live or stopped being so."""
    touched = _touched(run)
    stage_duplicates(run.work, touched.affected, touched.hashes_before, touched.stored)


def group_all(run: ChangesFacts) -> None:
    """Duplicates among all live images, under another rule."""
    touched = _touched(run)
    stage_afresh(run.work, touched.affected, touched.stored)


def _touched(run: ChangesFacts) -> Touched:
    if run.touched is None:
        raise ValueError("what a run touches is found by its step of liveness, which comes before this one")
    return run.touched


def update_feed(run: ChangesFacts) -> None:
    """Feed rows and members of every cluster that the run touched."""
    work, touched = run.work, _touched(run)
    changed = work.staged(Dataset.CLUSTERS)
    past = work.staged(Dataset.CLUSTERS_BEFORE).unionByName(
        work.staged(Dataset.REGROUPED).join(changed.select("image_id"), "image_id", "left_semi")
    )
    both = past.select("representative_id").unionByName(changed.select("representative_id"))
    heads = work.keys("touched_representatives", both.where("representative_id is not null"))
    whole = work.stage("touched_clusters", work.after_near("clusters", changed, heads))
    others = work.keys(
        "unaffected_members", whole.select("image_id").join(touched.affected.frame, "image_id", "left_anti")
    )
    states = touched.states.unionByName(work.after_near("url_state", touched.states_changed, others))
    members = work.stage("touched_members", feed.member_rows(whole, states))
    work.stage_changes("feed_members", work.past("feed_members", heads), members)

    rows = _feed_rows(run, whole, members)
    of_heads = work.past("index_feed", heads, "image_id", columns=["feed_id", "image_id", "row_digest", ADDED_SEQ])
    numbered = feed.with_seqs(changes(of_heads, rows, INDEX_FEED, kept=[ADDED_SEQ]), work.number)
    left = f"{GONE_SEQ} is not null"
    found = work.stage("feed_changes", numbered, {"feed_tombstones": left}, **{Count.LEFT_FEED: f.expr(left)})
    work.counts[Count.LEFT_FEED] = work.rows("feed_changes").counted[Count.LEFT_FEED]
    if work.counts[Count.LEFT_FEED]:
        work.plan_rows("feed_tombstones", "feed_changes", where=left)
    work.stage_changed("index_feed", _with_vectors(run, found.drop(GONE_SEQ)))
    freeing.free_files(work, touched.urls, run.facts().old, found)


def _feed_rows(run: ChangesFacts, whole: DataFrame, members: DataFrame) -> DataFrame:
    """Rows of `index_feed`, without what is made of vectors, for the representatives of whole clusters."""
    work, facts, touched = run.work, run.facts(), _touched(run)
    heads = whole.where("image_id = representative_id").select("image_id")
    known = work.keys("unaffected_representatives", heads.join(touched.affected.frame, "image_id", "left_anti"))
    first = touched.first.unionByName(state.first_accepted(facts.after(known)))
    columns = ["image_id", "width", "height", "sharpness"]
    stored = touched.stored_images.select(*columns).unionByName(work.past("images", known, columns=columns))
    texts = work.keys(
        "touched_texts", first.join(heads, "image_id", "left_semi").select("text_id").where("text_id is not null")
    )
    spoken = work.past("text_embeddings", texts, columns=["text_id"], where=contents.of_text_model(work))
    return feed.feed_rows(
        whole,
        members,
        work.stage("feed_facts", first.join(heads, "image_id", "left_semi")),
        stored,
        spoken.unionByName(facts.texts.select("text_id")),
        _feed_ids(work, heads),
        model_version=work.versions.model_version,
        text_model_version=work.versions.text_model_version,
        alignment=_alignment(work),
    )


def _feed_ids(work: Work, heads: DataFrame) -> DataFrame:
    """Ids of representatives (`image_id, feed_id`); those that are new are planned for storing."""
    wanted = work.keys("wanted_feed_ids", heads)
    known = work.stage("known_feed_ids", work.past("feed_ids", wanted, columns=["image_id", "feed_id"]))
    free = work.keys(
        "natural_feed_ids", feed.natural_feed_ids(heads.join(known, "image_id", "left_anti")).select("feed_id")
    )
    taken = work.past("feed_ids", free).select("image_id", "feed_id").unionByName(known)
    near_taken = work.stage("taken_feed_ids", taken)
    granted = feed.new_feed_ids(heads, work.landing.read("feed_ids"), work.run_id, near_taken)
    new = work.stage("feed_ids", granted, {"feed_ids": "true"}, **{Count.COLLIDED: f.col("collided")})
    work.counts[Count.FEED_ID_COLLISIONS] = work.rows("feed_ids").counted[Count.COLLIDED]
    work.plan_rows("feed_ids", "feed_ids")
    return known.unionByName(new.select("image_id", "feed_id"))


def _with_vectors(run: ChangesFacts, changed: DataFrame) -> DataFrame:
    """Changes of `index_feed` -> the same with the vectors of what is written: history's vectors are read for no other
    row."""
    work, facts = run.work, run.facts()
    written = changed.where(f"{CHANGE} != 'delete'")
    images, texts = facts.embeddings.select("image_id", "vector"), facts.texts.select("text_id", "vector")
    older = work.keys("older_images", written.select("image_id").join(images, "image_id", "left_anti"))
    older_texts = work.keys(
        "older_texts", written.where("has_text").select("text_id").join(texts, "text_id", "left_anti")
    )
    vectors = work.past("embeddings", older, columns=images.columns, where=contents.of_model(work))
    text_vectors = work.past("text_embeddings", older_texts, columns=texts.columns, where=contents.of_text_model(work))
    return feed.with_vectors(
        changed,
        vectors.unionByName(images),
        text_vectors.unionByName(texts),
        text_dimension=text_dimension(work.config.text),
        alignment=_alignment(work),
        run_number=work.number,
    )


def _alignment(work: Work) -> Alignment | None:
    versions = work.versions
    return alignment_for(work.config.embedding, versions.model_version, versions.text_model_version)
