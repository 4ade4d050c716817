"""What follows from the sightings: the state of a URL, and which images are live since when.

Pure functions of the facts, so that a date may be re-run, back-filled or forced in any order: a night recomputes them
for what it touched, from all of that URL's or image's sightings, never from what it believed before.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from schemas.tables import URL_STATE
from udfs.cleaning import tokens_udf


def url_states(sightings: DataFrame) -> DataFrame:
    """Sightings -> rows of `url_state`: the last conclusive sighting of each URL in date order.

    Within one date a withdrawal wins, then an accepted sighting, then the first in key order.
    """
    conclusive = sightings.where((f.col("state_effect") != "none") & f.col("url_id").isNotNull())
    rank = f.when(f.col("state_effect") == "withdrawal", 0).when(f.col("outcome") == "accepted", 1).otherwise(2)
    # min_by needs one orderable value: days before 9999-12-31 turn "latest date first" into "smallest first".
    days_left = f.datediff(f.lit("9999-12-31").cast("date"), "ingest_date")
    order = f.struct(days_left, rank, "source_file", "row_number")
    facts = [name for name in URL_STATE.column_names if name not in {"url_id", "image_id"}]
    image = f.when(f.col("state_effect") == "content", f.col("image_id")).alias("image_id")
    row = f.struct(*facts, image)
    last = conclusive.groupBy("url_id").agg(f.min_by(row, order).alias("row"))
    return last.select("url_id", "row.*").select(*URL_STATE.column_names)


def shown_images(url_state: DataFrame) -> DataFrame:
    """Rows of `url_state` -> `image_id` of what some URL shows now as accepted, distinct."""
    return url_state.where("outcome = 'accepted' and state_effect = 'content'").select("image_id").distinct()


def first_accepted(sightings: DataFrame) -> DataFrame:
    """Sightings -> one row for each image with an accepted one: `image_id, first_seen`, and the facts that the feed
    takes from the first of them in key order: `url, page_url, title, text_id, language, tokens, attributes`, the masks
    `has_title, has_alt_text, has_description, has_tags`.
    """
    accepted = sightings.where("outcome = 'accepted'")
    facts = f.struct(
        "url",
        "page_url",
        "title",
        "text_id",
        "language",
        "alt_text",
        "description",
        "tags",
        "attributes",
        _given("title").alias("has_title"),
        _given("alt_text").alias("has_alt_text"),
        _given("description").alias("has_description"),
        (f.coalesce(f.size("tags"), f.lit(0)) > 0).alias("has_tags"),
    )
    order = f.struct("ingest_date", "source_file", "row_number")
    firsts = (
        accepted.groupBy("image_id")
        .agg(f.min("ingest_date").alias("first_seen"), f.min_by(facts, order).alias("facts"))
        .select("image_id", "first_seen", "facts.*")
    )
    tokens = tokens_udf()("title", "alt_text", "description", "tags").alias("tokens")
    return firsts.select("*", tokens).drop("alt_text", "description", "tags")


def _given(name: str) -> Column:
    return f.coalesce(f.length(f.trim(name)) > 0, f.lit(False))


def live_images(shown: DataFrame, first: DataFrame, images: DataFrame, embedded: DataFrame) -> DataFrame:
    """Images that are live: shown by some URL, with pixels and a vector.

    `shown`: image_id; `first`: of `first_accepted`; `images`: rows of `images` (pixels not needed); `embedded`:
    image_id of those with a vector of the current model. Result: image_id, first_seen, source_pixels.
    """
    return (
        shown.join(first.select("image_id", "first_seen"), "image_id")
        .join(embedded.select("image_id").distinct(), "image_id", "left_semi")
        .join(
            images.select(
                "image_id",
                (f.col("source_width").cast("bigint") * f.col("source_height")).alias("source_pixels"),
            ),
            "image_id",
        )
    )
