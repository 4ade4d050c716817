"""Contents: fetched, judged, made canonical, turned into vectors; and which of them are kept.

Used by whatever decides sightings: a night, a re-decision, the refetching of what older dates are owed. Facts of
contents only; what they mean for sightings is `jobs.stages.outcomes`.
"""

import datetime as dt
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from types import MappingProxyType

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from jobs.run import audit
from jobs.run.context import Work
from jobs.run.names import Count, Dataset, Metric
from jobs.stages import outcomes
from jobs.stages.crawl import crawl_and_gate, lost_decoders
from jobs.stages.embed import embed_images, embed_texts
from jobs.startup.tally import Tally, tally
from jobs.warehouse.golden import golden_of_images, golden_of_texts
from jobs.warehouse.history import Staged
from jobs.warehouse.landing import CHANGE
from jobs.warehouse.ledger import REMOVED
from schemas.policy import Policy
from schemas.settings import EmbeddingSettings, GateSettings
from schemas.tables import TABLES
from udfs.embedding.embed import dimension, model_version
from udfs.embedding.golden import Golden
from udfs.gate.content import gate_version
from udfs.gate.rules import refused_url
from udfs.images.phash import VIEWS_REVISION
from udfs.tally import Listener

NOTHING_AHEAD: Mapping[str, DataFrame] = MappingProxyType({})

NOT_FETCHED = "owed: refused by an earlier policy and never fetched"
NOT_SCORED = "owed: lacks a signal that the policy needs"


def crawl(work: Work, requests: DataFrame, most_s: float | None, ahead: DataFrame | None = None) -> DataFrame:
    """Requests (`url_id, url, host`, and what `validators` adds where there is some) -> the one staging table from
    which everything else derives; new signals are planned for storing.

    `most_s`: seconds from now that asking may take, None for no end; what is left then is deferred. `ahead`: such a
    table of an earlier run: what it answers is not asked for again.
    """
    decoders = work.versions.canonical_version
    listed = work.landing.read("quarantine").where(f.col("canonical_version") == decoders).select("image_id", "detail")
    with tally(work.spark) if work.progress.look else nullcontext(Tally()) as so_far:
        if so_far.listener:
            work.progress.outcomes = so_far.counts
        if ahead is None:
            crawled = _asked(work, requests, listed, most_s, so_far.listener)
        else:
            crawled = _answering(ahead, requests)
            answered = work.keys("fetched_ahead", crawled.select("url_id"))
            asked = work.counted("asked_now", requests.join(answered.frame, "url_id", "left_anti"))
            if asked.rows:
                crawled = crawled.unionByName(_asked(work, asked.frame, listed, most_s, so_far.listener))
            work.counts[Count.FETCHED_AHEAD] = answered.rows
        staged = work.stage(
            Dataset.CRAWL,
            crawled.withColumn("run_id", f.lit(work.run_id)),
            {"images": "has_pixels"},
            **{Count.NOT_MODIFIED: f.col("not_modified"), Count.LOST_DECODERS: lost_decoders()},
        )
    found = work.rows(Dataset.CRAWL)
    work.counts[Count.URLS] = found.rows
    work.counts |= {name: found.counted[name] for name in (Count.NOT_MODIFIED, Count.LOST_DECODERS)}
    if work.counts[Count.LOST_DECODERS]:
        work.progress.say(f"{work.counts[Count.LOST_DECODERS]} images crashed or hung their decoder: see quarantine")
        _remember(work, staged.where(lost_decoders()).join(listed, "image_id", "left_anti"))
    version = gate_version(work.config.policy)
    scored = staged.where("scores is not null").dropDuplicates(["image_id"])
    ids = work.keys("scored", scored.select("image_id"))
    known = work.past("content_signals", ids, columns=["image_id"], where=of_gate(work.config.policy))
    signals = (
        scored.join(known, "image_id", "left_anti")
        .withColumn("detector_version", f.lit(version))
        .select("decision", "content_reasons", "content_halves", *TABLES["content_signals"].column_names)
    )
    work.stage(Dataset.CONTENT_SIGNALS, signals, {"content_signals": "true"})
    work.plan_rows("content_signals", Dataset.CONTENT_SIGNALS)
    return staged


def _asked(
    work: Work, requests: DataFrame, listed: DataFrame, most_s: float | None, listener: Listener | None
) -> DataFrame:
    """Requests, asked for now -> rows of the staging table, but for the run."""
    config = work.config
    crawled = crawl_and_gate(
        requests,
        policy=work.policy,
        gate=config.policy,
        people=work.overrides.of_contents,
        crawl=config.crawl,
        images=config.images,
        tasks=config.spark.crawl_tasks,
        deadline_at=None if most_s is None else time.time() + most_s,
        quarantine=listed,
        crawlers=work.crawlers,
        listener=listener,
    )
    return (
        crawled.withColumn("source_bytes", f.col("bytes"))
        .withColumn("has_pixels", f.col("pixels").isNotNull())  # asked often, and then without reading them
        .withColumn("canonical_version", f.lit(work.versions.canonical_version))
        .withColumn("views_revision", f.lit(VIEWS_REVISION))
        # Of `fetches`; found out later, when what is staged here is embedded.
        .withColumns({name: f.lit(None).cast("string") for name in ("embed_error", "embed_model")})
    )


def _answering(ahead: DataFrame, requests: DataFrame) -> DataFrame:
    """Rows of an earlier run's staging table that answer requests of this one.

    One that says "not modified" answers where the URL still stands for the content that it was asked about.
    """
    shown = f.col("image_id") if "image_id" in requests.columns else f.lit(None).cast("string")
    wanted = requests.select("url_id", shown.alias("_shown"))
    found = ahead.drop("run_id").join(wanted, "url_id")
    return found.where(~f.col("not_modified") | f.col("image_id").eqNullSafe(f.col("_shown"))).drop("_shown")


def _remember(work: Work, lost: DataFrame) -> None:
    """Plan that contents which decoders crashed or hung over are put into quarantine."""
    rows = lost.withColumn("detail", f.col("failure_detail")).select(*TABLES["quarantine"].column_names)
    work.stage("quarantine", rows.dropDuplicates(["image_id"]))
    work.plan_rows("quarantine", "quarantine")


def verdicts(work: Work, image_ids: DataFrame) -> DataFrame:
    """`image_id` -> `outcomes.VERDICTS` from stored signals, under the run's policy; contents that lack a signal which
    the policy needs are left out."""
    ids = work.keys("judged", image_ids.where("image_id is not null"))
    stored = work.past("content_signals", ids, where=of_gate(work.config.policy))
    return outcomes.judge_stored(stored, work.policy, work.overrides.of_contents)


def recorded_answers(
    work: Work, requests: DataFrame, fetches: DataFrame, crawled: DataFrame | None = None
) -> DataFrame:
    """What asking for each of `requests` (`ingest_date, url_id`) came to, by the run's policy -> `outcomes.ANSWERS`,
    staged.

    The one way from evidence to answers, whether rows of `fetches` were made by this run or long ago under another
    policy: a redirect is held against the policy as it is now, a content is judged by its stored signals, unless
    `crawled` (the staged dataset) has its verdict. What the evidence does not suffice for is deferred. That a content
    got no vector counts where it was the run's model that gave none.
    """
    recorded = requests.select("ingest_date", "url_id").join(fetches, ["ingest_date", "url_id"], "left")
    seen = recorded.where("image_id is not null and failure_code is null").select("image_id")
    if crawled is None:
        judged = verdicts(work, seen)
    else:
        fresh = crawled.where("decision is not null").dropDuplicates(["image_id"])
        fresh = fresh.select("image_id", "decision", "content_reasons", "content_halves")
        judged = fresh.unionByName(verdicts(work, seen.join(fresh, "image_id", "left_anti")))
    joined = recorded.join(judged, "image_id", "left").withColumn("refused", refused(work.policy)(f.col("hops")))
    unknown = f.col("deferred").isNull()
    lifted = f.col("blocked_reason").isNotNull() & f.col("refused").isNull()
    judgeable = f.col("image_id").isNotNull() & f.col("failure_code").isNull() & f.col("refused").isNull()
    unscored = judgeable & f.col("decision").isNull()
    why = f.when(unknown | lifted, NOT_FETCHED).when(unscored, NOT_SCORED).otherwise(f.col("failure_detail"))
    answers = (
        joined.withColumn("failure_detail", why)
        .withColumn("deferred", f.coalesce("deferred", f.lit(False)) | unknown | lifted | unscored)
        .withColumn("blocked_reason", f.col("refused"))
        .withColumn("embed_error", _embed_error(work))
        .select(*outcomes.ANSWERS)
    )
    return work.stage(Dataset.ANSWERS, answers)


def refused(policy: Policy) -> Callable[[Column], Column]:
    """A column of URLs (an array, or null) -> the reason why the policy refuses one of them, or null."""
    check = refused_url(policy)

    @f.udf("string", useArrow=True)
    def first_refused(urls: list[str] | None) -> str | None:
        return next((reason for url in urls or () if (reason := check(url)) is not None), None)

    return first_refused


def _embed_error(work: Work) -> Column:
    """Of rows of `fetches`: why the content has no vector of the run's model."""
    return f.when(f.col("embed_model") == work.versions.model_version, f.col("embed_error"))


def with_failures(answers: DataFrame, failed: DataFrame, tried: DataFrame | None = None) -> DataFrame:
    """`outcomes.ANSWERS` with what the run found out about vectors: contents that failed (`image_id, error`); `tried`
    (`image_id`): those of which no earlier failure counts any more."""
    found = answers.join(failed.select("image_id", f.col("error").alias("_failed")), "image_id", "left")
    recorded = f.col("embed_error")
    if tried is not None:
        again = tried.distinct().withColumn("_tried", f.lit(True))
        found = found.join(again, "image_id", "left")
        recorded = f.when(f.col("_tried").isNull(), recorded)
    return found.withColumn("embed_error", f.coalesce("_failed", recorded)).select(*outcomes.ANSWERS)


def record_failures(work: Work, fetches: DataFrame, answers: DataFrame) -> None:
    """Plan that `fetches` (as they will be) remember of their contents what `answers` say about vectors: the sighting
    forgets it as soon as another policy refuses the content."""
    keys = ["ingest_date", "url_id"]
    now = answers.select(*keys, f.col("embed_error").alias("_now"))
    known = fetches.select(*keys, _embed_error(work).alias("_known"))
    differing = work.stage("embed_news", known.join(now, keys).where(~f.col("_now").eqNullSafe(f.col("_known"))))
    if work.rows("embed_news").rows == 0:
        return
    changed = (
        fetches.join(differing.select(*keys, "_now"), keys)
        .withColumn("embed_error", f.col("_now"))
        .withColumn("embed_model", f.when(f.col("_now").isNotNull(), f.lit(work.versions.model_version)))
        .withColumn(CHANGE, f.lit("update"))
        .select(*TABLES["fetches"].column_names, CHANGE)
    )
    staged = work.stage(Dataset.EMBED_FAILURES, changed, {"fetches": "true"}, **{Count.INSERTS: f.lit(False)})
    found = staged.select("ingest_date").distinct().orderBy("ingest_date").collect()
    work.plan_changes("fetches", Dataset.EMBED_FAILURES, tuple(row[0] for row in found))


def embed_new_images(work: Work, crawled: DataFrame, ahead: Mapping[str, DataFrame] = NOTHING_AHEAD) -> None:
    """Stage vectors of images that have none yet (`new_vectors`, `without_vector`).

    Where another model is kept beside the feed's, it gets its vectors too; what it fails on is missing there, no more.
    `ahead`: what an earlier run has staged of such vectors, which are not made again.
    """
    with_pixels = crawled.where("has_pixels")
    sources = with_pixels.groupBy("image_id").agg(f.min("url_id").alias("url_id"))
    ids = work.keys("with_pixels", with_pixels.select("image_id"))
    for name, (settings, version) in _models(work).items():
        embedded = work.past("embeddings", ids, columns=["image_id"], where=f.col("model_version") == version)
        wanted = sources.join(embedded, "image_id", "left_anti")
        known = ahead[name].join(wanted, "image_id", "left_semi") if name in ahead else None
        if known is not None:
            wanted = wanted.join(known, "image_id", "left_anti")
        missing = work.counted(f"missing_{name}", wanted.select("url_id"))
        only = missing.frame if known is None or missing.rows else None
        embed(work, with_pixels, only, settings, version, name, known)
    work.counts[Count.EMBEDDED] = work.rows(Dataset.VECTORS).counted[Count.EMBEDDED]


def new_vectors(work: Work, name: str = Dataset.VECTORS) -> DataFrame:
    """What the run has embedded by a model, the feed's where none is named: rows of `embeddings`."""
    return work.staged(name).where("error is null")


def without_vector(work: Work) -> DataFrame:
    """`image_id, error` of what the feed's model failed on in this run."""
    return work.staged(Dataset.VECTORS).where("error is not null").select("image_id", "error")


def new_text_vectors(work: Work) -> DataFrame:
    """Texts that the run has embedded: rows of `text_embeddings`."""
    return work.staged(Dataset.TEXTS).where("error is null")


def embed(
    work: Work,
    pixels: DataFrame,
    only: DataFrame | None,
    settings: EmbeddingSettings,
    version: str,
    name: str,
    known: DataFrame | None = None,
) -> None:
    """`image_id, pixels` of the rows that `only` chooses (one column; None for none) -> vectors and failures, staged
    under `name`; with them what is `known` of others.

    Raises RunError where a vector is none.
    """
    golden = golden_of_images(work.landing.storage, settings, version)
    made = None
    if only is not None:
        made = embed_images(pixels, settings, work.config.spark.embed_tasks, golden, only)
    work.stage(
        name,
        _with_known(made, known).withColumn("model_version", f.lit(version)).withColumn("run_id", f.lit(work.run_id)),
        {"embeddings": "error is null"},
        **{Count.EMBEDDED: f.col("error").isNull()},
    )
    alike = audit.check_vectors(new_vectors(work, name), dimension(settings))
    if name == Dataset.VECTORS and alike is not None:
        work.metrics[Metric.MEAN_COSINE] = alike


def _with_known(made: DataFrame | None, known: DataFrame | None) -> DataFrame:
    """What models have made of what is missing, where they were asked, with what an earlier run has staged."""
    if made is None or known is None:
        found = known if made is None else made
        if found is None:
            raise ValueError("neither vectors that are made nor any that are known")
        return found
    return made.unionByName(known.select(*made.columns))


def staged_vectors(work: Work) -> list[DataFrame]:
    """What the run has embedded, by model."""
    return [new_vectors(work, name) for name in _models(work)]


def _models(work: Work) -> dict[Dataset, tuple[EmbeddingSettings, str]]:
    """The visual models that the run keeps up to date, with their versions, by what their vectors are staged under."""
    models = {Dataset.VECTORS: (work.config.embedding, work.versions.model_version)}
    beside = work.config.embedding_beside
    if beside is not None:
        models[Dataset.VECTORS_BESIDE] = (beside, model_version(beside, work.versions.canonical_version))
    return models


def model_versions(work: Work) -> list[str]:
    """Versions of the visual models that are in use."""
    return [version for _, version in _models(work).values()]


def no_vectors(work: Work) -> DataFrame:
    """What a run tells of new vectors (`image_id, vector`) that makes none."""
    return work.landing.read("embeddings").where(f.lit(False)).select("image_id", "vector")


def embedded_before(work: Work) -> DataFrame:
    """Rows of `embeddings` under the run's model."""
    return work.landing.read("embeddings").where(of_model(work))


def missing_vectors(work: Work) -> DataFrame:
    """`image_id` of stored images without a vector of the run's model, live or not: what is shown may change."""
    return work.landing.read("images").select("image_id").join(embedded_before(work), "image_id", "left_anti")


def embed_texts_of(work: Work, rows: DataFrame, ahead: DataFrame | None = None) -> None:
    """Judged rows -> vectors of their texts, staged and planned, once a distinct text that has none yet. `ahead`: what
    an earlier run has staged of such vectors, which are not made again."""
    given = rows.where("text_id is not null")
    ids = work.keys("given_texts", given.select("text_id"))
    known = work.past("text_embeddings", ids, columns=["text_id"], where=of_text_model(work))
    wanted = given.groupBy("text_id").agg(f.first("text").alias("text"))
    missing = wanted.join(known, "text_id", "left_anti")
    made, settings, tasks = None, work.config.text, work.config.spark.text_tasks
    if ahead is None:
        made = embed_texts(missing, settings, tasks, text_golden(work))
    else:
        ahead = ahead.join(missing, "text_id", "left_semi")
        rest = work.counted("missing_texts", missing.join(ahead, "text_id", "left_anti"))
        if rest.rows:
            made = embed_texts(rest.frame, settings, tasks, text_golden(work))
    work.stage(
        Dataset.TEXTS,
        _with_known(made, ahead)
        .withColumn("text_model_version", f.lit(work.versions.text_model_version))
        .withColumn("run_id", f.lit(work.run_id)),
        {"text_embeddings": "error is null"},
        **{Count.EMBEDDED: f.col("error").isNull()},
    )
    found = work.rows(Dataset.TEXTS)
    work.counts[Count.TEXTS_EMBEDDED] = found.counted[Count.EMBEDDED]
    work.counts[Count.TEXTS_FAILED] = found.rows - found.counted[Count.EMBEDDED]
    work.plan_rows("text_embeddings", Dataset.TEXTS, where="error is null")


def make_golden(work: Work) -> None:
    """Golden vectors of all the models of the run, where they are new: a model that is none, or that has no vector for
    them, is found out before anything is fetched."""
    text_golden(work)
    for settings, version in _models(work).values():
        golden_of_images(work.landing.storage, settings, version)


def text_golden(work: Work) -> Golden:
    """The golden vectors of the run's text model. Where they are new this loads the model on the driver, which must not
    happen beside another thread that loads one: their libraries do not bear being imported twice at once."""
    return golden_of_texts(work.landing.storage, work.config.text, work.versions.text_model_version)


def texts_before(work: Work) -> DataFrame:
    """Rows of `text_embeddings` under the run's text model."""
    return work.landing.read("text_embeddings").where(of_text_model(work))


def of_gate(gate: GateSettings) -> Column:
    """Of rows of `content_signals`: whether this gate's detectors made them."""
    return f.col("detector_version") == gate_version(gate)


def of_model(work: Work) -> Column:
    """Of rows of `embeddings`: whether they are the run's model's."""
    return f.col("model_version") == work.versions.model_version


def of_text_model(work: Work) -> Column:
    """Of rows of `text_embeddings`: whether they are the run's text model's."""
    return f.col("text_model_version") == work.versions.text_model_version


@dataclass(frozen=True)
class Kept:
    """What the tables of contents will hold of some images."""

    stored_images: DataFrame
    """Their rows of `images` as they will be, without pixels."""
    embedded: DataFrame
    """`image_id` of those of them that the run's model had a vector for before the run."""


def keep_accepted(
    work: Work,
    accepted: DataFrame,
    affected: Staged,
    old: DataFrame,
    after: Callable[[Staged], DataFrame],
    crawled: DataFrame | None,
) -> Kept:
    """Pixels and vectors, of images and of texts, are kept only with an accepted sighting: plan what joins and what
    leaves the tables, and count what leaves, which the disk is then owed.

    `accepted`: `image_id` of those among `affected` with an accepted sighting as things will be; `old`: the rows of
    `sightings` that the run replaces (`text_id`); `after`: rows of `sightings` as they will be, of staged keys.
    """
    columns = [name for name in TABLES["images"].column_names if name not in {"pixels", "run_id"}]
    stored = work.stage("stored_images", work.past("images", affected, columns=columns))
    keys = ["image_id", "model_version"]
    vectors = work.stage("stored_vectors", work.past("embeddings", affected, columns=keys))
    kept = stored.join(accepted, "image_id", "left_semi")
    held = stored.select("image_id").unionByName(vectors.select("image_id")).distinct()
    texts = work.keys("left_texts", old.where("text_id is not null").select("text_id"))
    read = after(texts).where("outcome = 'accepted'").select("text_id")
    spoken = work.past("text_embeddings", texts, columns=["text_id"]).distinct().join(read, "text_id", "left_anti")
    gone = held.join(accepted, "image_id", "left_anti").unionByName(spoken, allowMissingColumns=True)
    of_image, of_text = "image_id is not null", "text_id is not null"
    work.stage(Dataset.REMOVED, gone, contents_removed=f.expr(of_image), texts_removed=f.expr(of_text))
    work.counts |= {name: work.rows(Dataset.REMOVED).counted[name] for name in REMOVED}
    for table in ("images", "embeddings"):
        work.plan_removal(table, Dataset.REMOVED, "contents_removed", of_image)
    work.plan_removal("text_embeddings", Dataset.REMOVED, "texts_removed", of_text)
    embedded = vectors.where(of_model(work)).select("image_id")
    if crawled is None:
        return Kept(kept, embedded)
    fresh = crawled.where("has_pixels").join(accepted, "image_id", "left_semi")
    sources = fresh.groupBy("image_id").agg(f.min("url_id").alias("url_id"))
    new = work.stage(Dataset.NEW_IMAGES, sources.join(stored, "image_id", "left_anti").select("url_id"))
    work.plan_rows("images", Dataset.CRAWL, only=Dataset.NEW_IMAGES)
    work.stage(Dataset.KEPT_VECTORS, accepted.select("image_id"))
    for name in _models(work):
        work.plan_rows("embeddings", name, only=Dataset.KEPT_VECTORS, where="error is null")
    return Kept(kept.unionByName(fresh.join(new, "url_id", "left_semi").select(*columns)), embedded)


def validators(work: Work, date: dt.date, requests: DataFrame) -> DataFrame:
    """Requests of a date -> the same with `validated_url, etag, last_modified, image_id`: what their URL showed on an
    earlier published date, where that is live (what is not live has no pixels to fall back on), and what the URL at the
    end of its redirects, `validated_url`, gave with it."""
    asked = work.keys("asked_urls", requests.select("url_id"))
    earlier = (f.col("ingest_date") < f.lit(date)) & (f.col("outcome") == "accepted")
    place = ["ingest_date", "url_id", "image_id"]
    states = work.past("url_state", asked, columns=[*place, "outcome"]).where(earlier).select(*place)
    shown = work.keys("shown_before", states)
    images = Staged(shown.frame.select("image_id").distinct(), shown.rows)
    live = work.past("clusters", images, columns=["image_id"])
    gave = [f.col(name) for name in (*place, "etag", "last_modified")]
    sent = (
        work.past("fetches", shown)
        .where("etag is not null or last_modified is not null")
        .select(*gave, f.col("final_url").alias("validated_url"))
    )
    known = sent.join(live, "image_id", "left_semi").drop("ingest_date")
    return requests.join(known, "url_id", "left")
