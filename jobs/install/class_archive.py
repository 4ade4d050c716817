"""Set-up: a class-data archive of Spark and Delta, so that a local session's JVM starts in a fraction of its CPU time.

    python -m jobs.install.class_archive --into .assets/spark.jsa

Opens one session, does once what a night does (tables, staging, append, merge, joins, Python stages), and lets the JVM
write down the classes it loaded and verified (JEP 350, dynamic CDS archives). A JVM that does not fit the archive
(another version, other jars) ignores it.
"""

import argparse
import datetime as dt
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from jobs.config.output_file import written_whole
from jobs.digest import table_digests
from jobs.startup.session import local_builder
from jobs.warehouse.landing import CHANGE, Landing, StagedTable, changes
from jobs.warehouse.ledger import Event, Ledger
from schemas.tables import TABLES


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="jobs.install.class_archive", description="Write the class archive of a local session."
    )
    parser.add_argument("--jars", type=Path, default=Path(".assets/jars"), help="folder of Delta's jars")
    parser.add_argument("--into", type=Path, required=True, metavar="FILE", help="archive to write")
    options = parser.parse_args(arguments)
    scratch = tempfile.mkdtemp(prefix="lensfeed-")
    written = Path(scratch) / "spark.jsa"
    try:
        builder = local_builder("local[2]", options.jars, f"-XX:ArchiveClassesAtExit={written}")
        # The archive is of the JVM's classes: its Python workers need none of our libraries.
        builder = builder.config("spark.python.daemon.module", "pyspark.daemon")
        spark = builder.getOrCreate()
        spark.sparkContext.setLogLevel("OFF")
        exercise(spark, f"{scratch}/warehouse")
        gateway: Any = spark.sparkContext._gateway
        process = gateway.proc
        spark.stop()
        process.stdin.close()  # the gateway's JVM ends with its input, and archives on its way out
        process.wait(timeout=300)
        if not written.is_file():
            sys.stderr.write("error: the JVM ended without an archive of its classes\n")
            return 1
        with written_whole(options.into) as draft:  # the scratch folder may be on another file system
            shutil.copyfile(written, draft)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def exercise(spark: SparkSession, root: str) -> None:
    """A night's kinds of work, on a handful of rows."""
    landing = Landing(spark, root)
    landing.ensure_tables()
    ledger = Ledger(landing, 1).load()
    rows = _url_states(spark.range(40))
    date = dt.date(2000, 1, 1)
    for run, share in (("one", rows.where("url_id < '3'")), ("two", rows.where("url_id > '2'"))):
        old = landing.read("url_state")
        staged = landing.stage(run, "url_state", changes(old.where("url_id < '5'"), share, TABLES["url_state"]))
        landing.stage(run, "python", _through_python(staged))
        landing.write_plan(run, [StagedTable("url_state", "url_state", 2, inserts=2 - (run == "two"), changes=True)])
        prepared = ledger.append(Event(run, "class_archive", "prepared", (date,), 1))
        ledger.publish(prepared, keep_staging=True)
    table_digests(landing)


def _url_states(ids: DataFrame) -> DataFrame:
    return ids.select(
        f.sha2(f.col("id").cast("string"), 256).alias("url_id"),
        f.lit(dt.date(2000, 1, 1)).alias("ingest_date"),
        f.lit("file").alias("source_file"),
        f.col("id").alias("row_number"),
        f.lit("accepted").alias("outcome"),
        f.lit("content").alias("state_effect"),
        f.sha2(f.col("id").cast("string"), 256).alias("image_id"),
        *[f.lit("text").alias(name) for name in ("url", "host", "page_url", "title")],
    )


def _through_python(frame: DataFrame) -> DataFrame:
    def same(batches: Iterable[pa.RecordBatch]) -> Iterable[pa.RecordBatch]:
        return batches

    passed = (
        frame.select("url_id", "row_number")
        .repartition(2, "url_id")
        .mapInArrow(same, "url_id string, row_number bigint")
    )
    counted = passed.groupBy("url_id").agg(
        f.count("*").alias("rows"), f.min_by("row_number", f.struct("url_id")).alias("first")
    )
    return frame.select("url_id", CHANGE).join(counted, "url_id", "left").distinct()


if __name__ == "__main__":
    sys.exit(main())
