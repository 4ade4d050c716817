"""The audit: expectations on a staged run. A run that breaks one is never prepared."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs.config.errors import RunError
from jobs.run.names import BLOCKED, FAILED, outcome
from schemas.outcomes import Outcome
from schemas.tables import SIGHTINGS
from udfs.credentials import redact_text

_LONGEST = 100
"""Characters that are shown of what a manifest has in place of a URL."""


def outcome_counts(sightings: DataFrame) -> dict[str, int]:
    """Rows by outcome (`outcome.accepted`, ...), by failure code (`failed.timeout`, ...) and, of those that are
    blocked, by reason (`blocked.nsfw`, ...), and `sightings` in all. A row counts for each of its reasons."""
    counts = Counter({"sightings": 0})
    why = f.when(f.col("outcome") == Outcome.BLOCKED, f.col("reasons")).alias("why")
    for row in sightings.groupBy("outcome", "failure_code", why).count().collect():
        keys = ["sightings", outcome(row["outcome"]), *(f"{BLOCKED}{reason}" for reason in row["why"] or ())]
        if row["failure_code"]:
            keys.append(f"{FAILED}{row['failure_code']}")
        counts.update(dict.fromkeys(keys, row["count"]))
    return dict(counts)


def check_rows_read(owed: int, read: int) -> None:
    """Promise 1, before anything is fetched: `owed` rows were counted in the manifest in a way of its own
    (`jobs.manifests.count`), and as many were read. Raises RunError."""
    if owed != read:
        raise RunError(
            f"accounting: the manifest has {owed} rows by an independent count, but {read} were read of it; it changed "
            "in between, or its reader loses or makes up rows"
        )


def check_urls(manifest: str, column: str, rows: DataFrame, usable: int, owed: int) -> None:
    """A manifest of something else than URLs is told at once, and not as a night in which all rows failed.

    `usable`: how many of its `owed` rows, as the pre-gate judged them, have a URL. Raises RunError where there are rows
    and none has one.
    """
    if usable or not owed:
        return
    first = rows.orderBy("source_file", "row_number").select("source_file", "row_number", "url", "bad_row").first()
    example = ""
    if first is not None:
        found = redact_text(first["url"] or "")
        shown = found if len(found) <= _LONGEST else f"{found[: _LONGEST - 1]}…"
        place = redact_text(f"{first['source_file']} row {first['row_number']}")
        example = f"; the first, {place!r} counted from 0, has {shown!r} ({first['bad_row']})"
    raise RunError(
        f"manifest {manifest}: none of its {owed} rows has a usable URL{example}. Expected http:// or https:// URLs in "
        f"{column!r}. Nothing was fetched"
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


def check_vectors(embeddings: DataFrame, dimension: int) -> float | None:
    """Every staged vector has the model's dimension and unit norm (within 1e-3). Raises RunError.

    The mean cosine of two of them; None where there are not two. It follows from their sum: the cosines of all pairs,
    those of a vector with itself included, add up to its square.
    """

    def add_up(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows, sound, total = 0, 0, np.zeros(dimension)
        for batch in batches:
            vectors = batch.column("vector")
            whole = vectors.filter(pc.equal(pc.list_value_length(vectors), dimension))
            values = whole.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension).astype(np.float64)
            units = values[np.abs(np.linalg.norm(values, axis=1) - 1) <= 1e-3]
            rows, sound, total = rows + batch.num_rows, sound + len(units), total + units.sum(axis=0)
        yield pa.RecordBatch.from_pydict({"rows": [rows], "sound": [sound], "total": [total]})

    parts = embeddings.select("vector").mapInArrow(add_up, "rows bigint, sound bigint, total array<double>").collect()
    rows, sound = sum(part["rows"] for part in parts), sum(part["sound"] for part in parts)
    if rows > sound:
        raise RunError(f"embeddings: {rows - sound} staged vectors are not unit vectors of dimension {dimension}")
    if sound < 2:
        return None
    total = np.sum([part["total"] for part in parts], axis=0)
    return float((total @ total - sound) / (sound * (sound - 1)))


def neighbour_overlap(before: NDArray[np.float32], after: NDArray[np.float32], most: int = 10) -> float | None:
    """The mean share of the nearest neighbours of a row that two matrices have in common.

    `before` (N, D), `after` (N, E): unit vectors of the same N things. Of each the `most` others of highest cosine are
    its neighbours, or half of the others where there are fewer. None for less than three things.
    """
    count = len(before)
    most = min(most, (count - 1) // 2)
    if most < 1:
        return None
    shared = 0
    for start in range(0, count, 512):
        rows = np.arange(start, min(start + 512, count))
        nearest = []
        for vectors in (before, after):
            cosines = vectors[rows] @ vectors.T
            cosines[np.arange(len(rows)), rows] = -np.inf
            nearest.append(np.argpartition(-cosines, most - 1, axis=1)[:, :most])
        shared += sum(len(np.intersect1d(*pair)) for pair in zip(*nearest, strict=True))
    return shared / (count * most)


def check_clusters(changes: DataFrame) -> None:
    """Every staged member stands behind a representative, never behind another member. Raises RunError."""
    written = changes.where("_change != 'delete'")
    members = written.where("image_id != representative_id").select(f.col("representative_id").alias("image_id"))
    chained = written.where("image_id != representative_id").join(members, "image_id", "left_semi").count()
    if chained:
        raise RunError(f"clusters: {chained} representatives are members of another cluster")
