"""The feed: a row a live representative with what an index takes, and its members with the URLs that show them."""

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from jobs.warehouse.landing import CHANGE
from schemas.tables import ADDED_SEQ, CHANGED_SEQ, FEED_MEMBERS, GONE_SEQ, INDEX_FEED, ROW_ID
from udfs.embedding.alignment import Alignment, cosine_udf


def member_rows(clusters: DataFrame, url_state: DataFrame) -> DataFrame:
    """Rows of `clusters` and `url_state` -> rows of `feed_members`."""
    shown = url_state.where("outcome = 'accepted' and state_effect = 'content'")
    joined = clusters.select("representative_id", "image_id", "hamming").join(shown, "image_id")
    return joined.withColumn("domain", f.col("host")).select(*FEED_MEMBERS.column_names)


def feed_rows(
    clusters: DataFrame,
    members: DataFrame,
    first: DataFrame,
    images: DataFrame,
    spoken: DataFrame,
    feed_ids: DataFrame,
    *,
    model_version: str,
    text_model_version: str,
    alignment: Alignment | None,
) -> DataFrame:
    """Rows of `index_feed`, without what `with_vectors` adds, for the representatives among `clusters`.

    `clusters` and `members` are whole clusters; `first`: of jobs.stages.state.first_accepted; `spoken`: `text_id` of
    those with a vector of the text model; `feed_ids` (`image_id, feed_id`); `alignment`: how images and texts are
    compared, null where they are not.
    """
    by_size = f.struct(-f.col("source_pixels"), "image_id")
    sizes = clusters.groupBy("representative_id").agg(
        f.count("*").alias("member_count"), f.min_by("image_id", by_size).alias("largest_image_id")
    )
    urls = members.groupBy("representative_id").agg(
        f.count("*").alias("url_count"), f.countDistinct("domain").alias("domain_count")
    )
    facts = images.select("image_id", "width", "height", "sharpness")
    calibration = alignment.calibration if alignment else None
    rows = (
        sizes.join(urls, "representative_id")
        .withColumnRenamed("representative_id", "image_id")
        .join(first, "image_id")
        .join(facts, "image_id")
        .join(feed_ids.select("image_id", "feed_id"), "image_id")
        .join(spoken.select("text_id", f.lit(True).alias("_spoken")), "text_id", "left")
        .withColumn("has_text", f.col("_spoken").isNotNull())
        .withColumn("image_text_mean", f.lit(calibration.mean if calibration else None).cast("double"))
        .withColumn("image_text_deviation", f.lit(calibration.deviation if calibration else None).cast("double"))
        .withColumn("alignment_version", f.lit(alignment.version if alignment else None).cast("string"))
        .withColumn("model_version", f.lit(model_version))
        .withColumn("text_model_version", f.lit(text_model_version))
    )
    return rows.select(*DESCRIBED, row_digest().alias("row_digest"))


OF_VECTORS = ("vector", "text_vector", "image_text_cosine")
"""Columns that are functions of (image_id, model_version), of (text_id, text_model_version), and of both with
alignment_version: naming those in the row's digest is enough, and no vector is read for a row that stays."""
DESCRIBED = [c.name for c in INDEX_FEED.columns if not c.volatile and c.name not in {*OF_VECTORS, "row_digest"}]
"""The others, which the digest is made of, but for what runs number."""


def row_digest() -> Column:
    """Of a row of `index_feed`: its contents, by which a row that changes is known."""
    return f.sha2(f.to_json(f.struct(*DESCRIBED), {"ignoreNullFields": "false"}), 256)


def with_seqs(changed: DataFrame, run_number: int) -> DataFrame:
    """Changes of `index_feed`, with the `added_seq` of the row that each is of -> with what says which run did it.

    So consumers are told what happened since a run without a trace of the rows before (`lensfeed.changes`). `gone_seq`
    is of rows that leave, which are rows of `feed_tombstones` then.
    """
    number = f.lit(run_number).cast("bigint")
    return (
        changed.withColumn(ADDED_SEQ, f.when(f.col(CHANGE) == "insert", number).otherwise(f.col(ADDED_SEQ)))
        .withColumn(CHANGED_SEQ, number)
        .withColumn(GONE_SEQ, f.when(f.col(CHANGE) == "delete", number))
    )


def with_vectors(
    rows: DataFrame,
    vectors: DataFrame,
    text_vectors: DataFrame,
    *,
    text_dimension: int,
    alignment: Alignment | None,
    run_number: int,
) -> DataFrame:
    """Rows of `feed_rows` that went through `with_seqs`, with the columns `OF_VECTORS` and a `row_id`; a row without
    `has_text` gets zeros for the text's vector. To be evaluated once: another time the ids of rows are others.

    `vectors` (`image_id, vector`) and `text_vectors` (`text_id, vector`) of the current models.
    """
    texts = text_vectors.select("text_id", f.col("vector").alias("_text_vector"))
    cosine = cosine_udf(alignment)("vector", "_text_vector") if alignment else f.lit(None).cast("double")
    zeros = f.array_repeat(f.lit(0.0).cast("float"), text_dimension)
    joined = rows.join(vectors.select("image_id", "vector"), "image_id", "left").join(texts, "text_id", "left")
    made = joined.withColumn("image_text_cosine", cosine).withColumn(
        "text_vector", f.when(f.col("has_text"), f.col("_text_vector")).otherwise(zeros)
    )
    made = made.withColumn(ROW_ID, row_ids(run_number))
    others = [name for name in rows.columns if name not in INDEX_FEED.column_names]
    return made.select(*INDEX_FEED.column_names, *others)


_RUN_BITS, _PARTITION_BITS, _ROW_BITS = 20, 17, 25
"""Of a row's id, with one for `moved`: a million runs, 131,072 partitions, 33 million rows in each."""


def row_ids(run_number: int, *, moved: bool = False) -> Column:
    """An id for each row of a frame that is evaluated once: ascending with the run, whose number is its alone.

    `moved` tells the two frames apart that a run may have. Raises ValueError for a number that is no number of a run.
    """
    if not 0 <= run_number < 2**_RUN_BITS:
        raise ValueError(f"number of a run: expected 0 to {2**_RUN_BITS - 1}, found {run_number}")
    place = f.monotonically_increasing_id()  # partition << 33 | row
    partition = f.shiftleft(f.shiftright(place, 33), _ROW_BITS)
    of_run = (run_number << 1 | moved) << _PARTITION_BITS + _ROW_BITS
    return f.lit(of_run) + partition + place.bitwiseAND(2**33 - 1)


def natural_feed_ids(image_ids: DataFrame) -> DataFrame:
    """`image_id` -> `image_id, feed_id`: the first 63 bits of the id."""
    high = f.conv(f.substring("image_id", 1, 8), 16, 10).cast("bigint")
    low = f.conv(f.substring("image_id", 9, 8), 16, 10).cast("bigint")
    first_63 = f.shiftleft(high, 31) + f.shiftright(low, 1)
    return image_ids.select("image_id", first_63.alias("feed_id"))


def new_feed_ids(image_ids: DataFrame, taken: DataFrame, run_id: str, near_taken: DataFrame | None = None) -> DataFrame:
    """Ids for images that have none yet: the natural one, or where that is taken the next free one above.

    `taken`: rows of `feed_ids`; `near_taken`: of them, those of these images and those that have one of their natural
    ids, all where it is not given. Among images that want the same id the smallest image_id gets it. The rows that lost
    (about none at a billion images) are settled one after the other; rows come out as `image_id, feed_id, collided,
    run_id`.
    """
    near_taken = taken if near_taken is None else near_taken
    wanted = natural_feed_ids(image_ids.join(near_taken, "image_id", "left_anti"))
    rivals = wanted.groupBy("feed_id").agg(f.min("image_id").alias("image_id"))
    free = rivals.join(near_taken.select("feed_id"), "feed_id", "left_anti").select("image_id", "feed_id")
    granted = free.withColumn("collided", f.lit(False))
    losers = wanted.join(free, "image_id", "left_anti").orderBy("image_id").collect()
    settled: dict[int, str] = {}
    for loser in losers:
        candidate = loser["feed_id"]
        while candidate in settled or not _is_free(candidate, taken, free):
            candidate = (candidate + 1) % 2**63
        settled[candidate] = loser["image_id"]
    if settled:
        # Through Arrow, for a frame made of Python objects would start a Python worker to unpack it.
        rows = pa.table({"image_id": list(settled.values()), "feed_id": list(settled)})
        late = image_ids.sparkSession.createDataFrame(rows).withColumn("collided", f.lit(True))
        granted = granted.unionByName(late)
    return granted.withColumn("run_id", f.lit(run_id))


def _is_free(feed_id: int, taken: DataFrame, granted: DataFrame) -> bool:
    used = taken.select("feed_id").unionByName(granted.select("feed_id"))
    return used.where(f.col("feed_id") == feed_id).isEmpty()
