"""Pre-gate: everything about a sighting that needs no pixels, before anything is fetched."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from schemas.policy import Policy
from schemas.tables import MANIFEST_COLUMNS
from udfs.pregate import pregate

PREGATED = ", ".join(
    [
        "source_file string, row_number bigint",
        *(f"{name} {kind}" for name, kind in MANIFEST_COLUMNS.items() if name != "url"),
        "url string, normalised_url string, url_id string, host string, bad_row string",
        "decision string, reasons array<string>, withdraws boolean, text string, text_id string",
    ]
)


def judge_rows(manifest: DataFrame, policy: Policy) -> DataFrame:
    """Manifest rows (jobs.stages.manifest) -> `PREGATED`: bad rows marked, URLs normalised, sighting rules applied."""
    return manifest.mapInArrow(pregate(policy), PREGATED)


def fetch_requests(rows: DataFrame) -> DataFrame:
    """Pre-gated rows -> `url_id, url, host`: every URL some row may be fetched for, once."""
    wanted = rows.where(f.col("url_id").isNotNull() & (f.col("decision") != "block"))
    return wanted.select("url_id", f.col("normalised_url").alias("url"), "host").dropDuplicates(["url_id"])
