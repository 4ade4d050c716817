"""The one door to history: what a table holds of the keys that a run touches.

A run touches few of the rows that lie in the warehouse. So the keys go to the rows: they are staged once, sent whole to
every executor, and dropped upon one scan, before anything else is joined; a few of them are looked up in files that are
sorted by them. No row of history that the run does not touch is exchanged. The other way round, a small left side
against all of a table, Spark has to exchange the table.
"""

from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

MOST_NAMED = 500
"""Keys that are named in the plan where files are sorted by them: of such a file Parquet opens the pages alone that may
hold one. Spark's `parquet.pushdown.inFilterThreshold` has to allow as many (jobs.startup.session)."""
MOST_SENT = 1_000_000
"""Keys (hex ids) that are sent to every executor as they are: some 200 MB there."""
MOST_HASHED = 20_000_000
"""Keys of which a 64-bit hash is sent, some 24 bytes each: what passes is then joined by its key. A key that is a
64-bit number is sent itself."""


@dataclass(frozen=True)
class Staged:
    """A staged dataset, with how many rows it has."""

    frame: DataFrame
    rows: int


def near(past: DataFrame, keys: Staged, *by: str, sorted_by: str | None = None) -> DataFrame:
    """Rows of `past` whose key is among `keys` (staged, distinct; all of its columns are the key).

    `by`: the key's columns as `past` names them, where it names them otherwise. Keys that are null are near nothing.
    `sorted_by`: a column by which the files of `past` are sorted.
    """
    if keys.rows == 0:
        return past.where(f.lit(False))
    named = keys.frame.toDF(*by) if by else keys.frame
    on = named.columns
    if keys.rows <= MOST_NAMED and sorted_by in on:
        values = [row[0] for row in named.select(sorted_by).distinct().collect()]
        past = past.where(f.col(sorted_by).isin([value for value in values if value is not None]))
        if on == [sorted_by]:
            return past
    is_number = len(on) == 1 and dict(named.dtypes)[on[0]] == "bigint"
    if keys.rows <= (MOST_HASHED if is_number else MOST_SENT):
        return past.join(f.broadcast(named), on, "left_semi")
    if keys.rows <= MOST_HASHED:
        hashes = named.select(f.xxhash64(*on).alias("_hash")).distinct()
        past = past.join(f.broadcast(hashes), f.xxhash64(*on) == f.col("_hash"), "left_semi")
    return past.join(named, on, "left_semi")
