"""The audit: expectations on a staged run. A run that breaks one is never prepared."""

from collections.abc import Iterable, Mapping

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs.config.errors import RunError
from schemas.tables import SIGHTINGS


def outcome_counts(sightings: DataFrame) -> dict[str, int]:
    """Rows by outcome (`outcome.accepted`, ...) and by failure code (`failed.timeout`, ...), and `sightings` in all."""
    counts: dict[str, int] = {"sightings": 0}
    for row in sightings.groupBy("outcome", "failure_code").count().collect():
        counts["sightings"] += row["count"]
        key = f"outcome.{row['outcome']}"
        counts[key] = counts.get(key, 0) + row["count"]
        if row["failure_code"]:
            counts[f"failed.{row['failure_code']}"] = row["count"]
    return counts


def check_rows_read(owed: int, read: int) -> None:
    """Promise 1, before anything is fetched: `owed` rows were counted in the manifest in a way of its own
    (`jobs.manifests.count`), and as many were read. Raises RunError."""
    if owed != read:
        raise RunError(
            f"accounting: the manifest has {owed} rows by an independent count, but {read} were read of it; it changed "
            "in between, or its reader loses or makes up rows"
        )


def check_accounting(owed: int, sightings: DataFrame, counts: Mapping[str, int]) -> None:
    """Promise 1: as many sightings as rows were counted in the manifest, and every key once. Raises RunError."""
    distinct = sightings.select(*SIGHTINGS.keys).distinct().count()
    if not owed == counts["sightings"] == distinct:
        raise RunError(
            f"accounting: the manifest has {owed} rows, but there are {counts['sightings']} sightings "
            f"with {distinct} distinct keys"
        )


def check_distinct(sightings: DataFrame) -> None:
    """Promise 1 for what is decided again: every key once. Raises RunError."""
    repeated = sightings.groupBy(*SIGHTINGS.keys).count().where("count > 1").count()
    if repeated:
        raise RunError(f"accounting: {repeated} sightings were decided more than once")


def check_gate_first(crawled: DataFrame, embeddings: Iterable[DataFrame]) -> None:
    """Promise 2, on what was staged: pixels only beside an allow, vectors, of whichever model, only of images allowed.
    Raises RunError."""
    leaked = crawled.where(f.col("has_pixels") & ~f.col("decision").eqNullSafe("allow")).count()
    if leaked:
        raise RunError(f"gate: {leaked} staged rows hold pixels without an allow")
    allowed = crawled.where("decision = 'allow'").select("image_id")
    for vectors in embeddings:
        stray = vectors.join(allowed, "image_id", "left_anti").count()
        if stray:
            raise RunError(f"gate: {stray} staged vectors belong to images that this run has not allowed")


def check_vectors(embeddings: DataFrame, dimension: int) -> None:
    """Every staged vector has the model's dimension and unit norm (within 1e-3). Raises RunError."""
    norm = f.sqrt(f.aggregate("vector", f.lit(0.0), lambda total, x: total + x * x))
    bad = embeddings.where((f.size("vector") != dimension) | (f.abs(norm - 1) > 1e-3) | f.isnan(norm)).count()
    if bad:
        raise RunError(f"embeddings: {bad} staged vectors are not unit vectors of dimension {dimension}")


def check_clusters(changes: DataFrame) -> None:
    """Every staged member stands behind a representative, never behind another member. Raises RunError."""
    written = changes.where("_change != 'delete'")
    members = written.where("image_id != representative_id").select(f.col("representative_id").alias("image_id"))
    chained = written.where("image_id != representative_id").join(members, "image_id", "left_semi").count()
    if chained:
        raise RunError(f"clusters: {chained} representatives are members of another cluster")
