"""What people decided about contents and sightings under review, as far as it bears on verdicts."""

from dataclasses import dataclass
from functools import cached_property

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from udfs.gate.overrides import HumanVerdict, People


@dataclass
class Overrides:
    """Rows of `overrides`, in the forms in which verdicts take account of them."""

    rows: DataFrame

    @cached_property
    def of_contents(self) -> People:
        """By image_id. There are as many as people had time to decide: they fit on the driver and go with the tasks."""
        wanted = self.rows.where("subject_kind = 'image'").select("subject_id", "verdict", "cleared")
        found = wanted.toArrow().to_pylist()
        return {row["subject_id"]: HumanVerdict(row["verdict"] == "block", frozenset(row["cleared"])) for row in found}

    def on_sightings(self, rows: DataFrame) -> DataFrame:
        """Rows with `ingest_date, source_file, row_number` -> the same with `cleared array<string>` and
        `reviewer_block boolean`."""
        mine = self.rows.where("subject_kind = 'sighting'").select(
            f.col("subject_id").alias("_subject"), "cleared", (f.col("verdict") == "block").alias("reviewer_block")
        )
        joined = rows.withColumn("_subject", sighting_id()).join(f.broadcast(mine), "_subject", "left")
        nothing = f.array().cast("array<string>")
        return (
            joined.drop("_subject")
            .withColumn("cleared", f.coalesce("cleared", nothing))
            .withColumn("reviewer_block", f.coalesce("reviewer_block", f.lit(False)))
        )


def sighting_id() -> Column:
    """The key of a sighting as one text."""
    return f.concat_ws("/", "ingest_date", "source_file", f.col("row_number").cast("string"))
