"""What people decided about sightings under review, beside the sightings that it is about."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f


def with_overrides(sightings: DataFrame, overrides: DataFrame) -> DataFrame:
    """Rows with `ingest_date, source_file, row_number`, rows of `overrides` -> the first with `cleared array<string>`
    and `reviewer_block boolean`."""
    mine = overrides.where("subject_kind = 'sighting'").select(
        f.col("subject_id").alias("_subject"), "cleared", (f.col("verdict") == "block").alias("reviewer_block")
    )
    joined = sightings.withColumn("_subject", sighting_id()).join(f.broadcast(mine), "_subject", "left")
    nothing = f.array().cast("array<string>")
    return (
        joined.drop("_subject")
        .withColumn("cleared", f.coalesce("cleared", nothing))
        .withColumn("reviewer_block", f.coalesce("reviewer_block", f.lit(False)))
    )


def sighting_id() -> Column:
    """The key of a sighting as one text."""
    return f.concat_ws("/", "ingest_date", "source_file", f.col("row_number").cast("string"))
