"""What is owed a fetch: a pure function of sightings, URL states and stored images, so that a re-run or another order
of nights and re-decisions leaves the same queue.
"""

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from schemas.outcomes import TRANSIENT
from schemas.tables import REFETCH_QUEUE


def owed_pixels(showing: DataFrame, stored: DataFrame) -> DataFrame:
    """Rows of `refetch_queue` for pixels that are owed to what is accepted and not stored.

    `showing`: rows of `url_state` that show the images looked at; `stored`: `image_id` of those that are stored.
    """
    shown = showing.where("outcome = 'accepted' and state_effect = 'content'")
    missing = shown.join(stored, "image_id", "left_anti")
    # One URL is asked for a content: if it has other bytes by now, its state changes, and the next one's turn comes.
    first = f.struct("ingest_date", "url_id", "url", "host")
    pixels = missing.groupBy("image_id").agg(f.min(first).alias("first")).select("image_id", "first.*")
    return pixels.withColumn("owed", f.lit("pixels")).select(*REFETCH_QUEUE.column_names)


def owed_rows(sightings: DataFrame, states: DataFrame, pixels: DataFrame) -> DataFrame:
    """Rows of `refetch_queue`: answers owed to deferred sightings, and the rows of `owed_pixels`.

    `sightings` of the URLs looked at, those of `pixels` among them, and `states`, their `url_state`.
    """
    columns = REFETCH_QUEUE.column_names
    answers = still_open(sightings.where("outcome = 'deferred'"), states).withColumn("owed", f.lit("answer"))
    rows = pixels.unionByName(answers.select(*columns))
    return rows.groupBy("ingest_date", "url_id").agg(
        *[f.min(name).alias(name) for name in columns if name not in {"ingest_date", "url_id"}]
    )


def transient(sightings: DataFrame) -> DataFrame:
    """Sightings worth asking again, unless they are overtaken: failed with a transient code, or deferred."""
    codes = [code.value for code in TRANSIENT]
    failed = f.col("failure_code").isin(*codes)
    return sightings.where(f.col("url_id").isNotNull() & ((f.col("outcome") == "deferred") | failed))


def still_open(sightings: DataFrame, states: DataFrame) -> DataFrame:
    """Sightings whose URL has no later conclusive sighting: asking again would answer for that later date."""
    later = states.select("url_id", f.col("ingest_date").alias("_state_date"))
    joined = sightings.where("url_id is not null").join(later, "url_id", "left")
    overtaken = f.coalesce(f.col("_state_date") > f.col("ingest_date"), f.lit(False))
    return joined.where(~overtaken).drop("_state_date")
