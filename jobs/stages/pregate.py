"""Pre-gate: everything about a sighting that needs no pixels, before anything is fetched."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs.stages.review import with_overrides
from schemas.arrow import ddl
from schemas.outcomes import FailureCode
from schemas.policy import Policy
from schemas.tables import MANIFEST_COLUMNS
from udfs.gate.pregate import JUDGED, judge_recorded, pregate

_GIVEN = {"ingest_date": "date", "source_file": "string", "row_number": "bigint"} | {
    name: kind for name, kind in MANIFEST_COLUMNS.items() if name != "url"
}
_DECIDED_BY_PEOPLE = {"cleared": "array<string>", "reviewer_block": "boolean"}

PREGATED = ", ".join([*(f"{name} {kind}" for name, kind in (_GIVEN | _DECIDED_BY_PEOPLE).items()), ddl(JUDGED)])


def judge_rows(manifest: DataFrame, policy: Policy, overrides: DataFrame) -> DataFrame:
    """Manifest rows (jobs.manifests.rows, with their `ingest_date`) -> `PREGATED`: bad rows marked, URLs
    normalised, sighting rules applied, with what people decided about the sighting."""
    rows = with_overrides(manifest, overrides).select(*_GIVEN, "url", "malformed", *_DECIDED_BY_PEOPLE)
    return rows.mapInArrow(pregate(policy), PREGATED)


def judge_sightings(sightings: DataFrame, policy: Policy, overrides: DataFrame) -> DataFrame:
    """Rows of `sightings` -> `PREGATED` as `judge_rows` made it of the manifest's rows, but for what policy and people
    say by now. Ids and URLs are those that are stored."""
    bad = (f.col("failure_code") == FailureCode.BAD_ROW.value) & f.col("url_id").isNull()
    rows = with_overrides(sightings, overrides).select(
        *_GIVEN,
        "url",
        f.when(f.col("url_id").isNotNull(), f.coalesce("normalised_url", "url")).alias("normalised_url"),
        "url_id",
        "host",
        f.when(bad, f.col("failure_detail")).alias("bad_row"),
        *_DECIDED_BY_PEOPLE,
    )
    return rows.mapInArrow(judge_recorded(policy), PREGATED)


def fetch_requests(rows: DataFrame) -> DataFrame:
    """Pre-gated rows -> `ingest_date, url_id, url, normalised_url, host`: every URL that some row may be fetched for,
    once a date.

    `url` is what to ask for: null where credentials were taken out of the stored one, for what is left names another
    resource.
    """
    wanted = rows.where(f.col("url_id").isNotNull() & (f.col("decision") != "block") & ~f.col("reviewer_block"))
    named = wanted.select("ingest_date", "url_id", f.col("fetch_url").alias("url"), "normalised_url", "host")
    return named.dropDuplicates(["ingest_date", "url_id"])
