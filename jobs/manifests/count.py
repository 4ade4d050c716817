"""How many rows a date's manifest has, counted in another way than `jobs.manifests.rows` reads them.

What is lost in reading is in no staged row, so that no comparison of staged rows could find it. Parquet: the footers,
read without Spark. Delta: the log's own count of the pinned version, which opens no file that has statistics. Text and
JSON lines: the non-blank lines, split in another way (at LF first, then at CR) and not numbered. CSV: a scanner of
quotes over lines that Spark has split, without Python's `csv`. What is text is read a second time for it.
"""

from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from jobs.manifests.files import ManifestFiles, lines, whole_files
from jobs.manifests.rows import delta_rows
from udfs.csv_scan import count_csv_records


def count_rows(spark: SparkSession, manifest: ManifestFiles) -> int:
    """The manifest's rows: as many sightings are owed."""
    if manifest.format == "parquet":
        return sum(footer.rows for footer in manifest.footers)
    if manifest.format == "delta":
        return delta_rows(spark, manifest).count()
    if not manifest.files:
        return 0
    counted = _csv_records(spark, manifest) if manifest.format == "csv" else _lines(spark, manifest)
    found = counted.agg(f.sum("records").alias("records")).first()
    return int(found["records"] or 0) if found else 0


def _csv_records(spark: SparkSession, manifest: ManifestFiles) -> DataFrame:
    return whole_files(spark, manifest.files).mapInArrow(count_csv_records, "_file string, records bigint")


def _lines(spark: SparkSession, manifest: ManifestFiles) -> DataFrame:
    """Split at LF, and what that leaves together at CR; the other way round where files have no LF."""
    pieces = f.expr(r"size(filter(split(cast(value as string), '[\r\n]'), piece -> piece rlike '\\S'))")
    return reduce(
        DataFrame.union,
        [
            lines(spark, files, line_end).select(pieces.cast("bigint").alias("records"))
            for line_end, files in manifest.by_line_end().items()
        ],
    )
