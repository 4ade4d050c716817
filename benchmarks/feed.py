"""How fast an index builder gets the feed's vectors, and on how much disk they lie: the layout that the job writes,
beside others and raw `.npy` as the limit.

    python -m benchmarks.feed [--rows 1000000] [--dimension 512] [--folder DIR] [--json FILE]

Made-up rows of `index_feed` are put through `Landing`'s own write into a warehouse per layout. Of each layout: seconds
of that write, bytes per row on disk, files and row groups; then vectors per second, the best of three passes, into one
numpy array (`lensfeed.feed_vectors`), into torch tensors (`lensfeed.loaders.feed_loader`, petastorm below it, batches
of 4,096), and into Arrow (`Snapshot.batches`), all by one process; the same of numbers and flags alone, without the
vectors; and of the first layout once more with a row in a thousand dead in files that stay. Files are in the page
cache.

`raw`: the same vectors as one `.npy` file, read whole, and mapped and copied in blocks of 4,096: the limit. `bytes`:
Parquet whose vectors are binary values of a fixed length, by pyarrow alone, which no table of ours has: what giving up
`array<float>` would bring.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from benchmarks.report import environment, publish
from benchmarks.synthetic_warehouse import feed_rows
from jobs.config.profile import load
from jobs.startup.session import open_session
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Event, Ledger, Versions
from lensfeed import feed_vectors, open_feed
from lensfeed.loaders import feed_loader
from lensfeed.snapshot import Snapshot
from schemas.tables import INDEX_FEED

LAYOUTS: Mapping[str, Mapping[str, str]] = {
    "as the job writes it": {},
    "snappy": {"spark.sql.parquet.compression.codec": "snappy"},
    "uncompressed": {"spark.sql.parquet.compression.codec": "uncompressed"},
    "no dictionaries": {"parquet.enable.dictionary": "false"},
    "uncompressed, no dictionaries": {
        "spark.sql.parquet.compression.codec": "uncompressed",
        "parquet.enable.dictionary": "false",
    },
    "row groups of 128 MB, pages of 20,000 rows": {
        "parquet.block.size": str(128 * 2**20),
        "parquet.page.row.count.limit": "20000",
    },
}
"""By name: what a session is told before it writes."""

BATCH = 4096
NARROW = ("feed_id", "width", "height", "sharpness", "has_text")
PASSES = 3
VERSIONS = Versions("policy", "gate", "model", "text model", "rule", "canonical")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="benchmarks.feed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--folder", type=Path, help="where the warehouses lie meanwhile; 3 kB a row and layout")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args()
    spark = open_session(load("conf/local.yaml"))
    packages = ("pyarrow", "deltalake", "petastorm", "torch", "pyspark", "delta-spark")
    report: dict[str, Any] = {
        "environment": environment(*packages),
        "rows": options.rows,
        "dimension": options.dimension,
        "layouts": {},
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        staged, root = Path(folder) / "staged", Path(folder) / "warehouse"
        feed_rows(spark, options.rows, options.dimension).write.parquet(str(staged))
        for name, told in LAYOUTS.items():
            shutil.rmtree(root, ignore_errors=True)
            report["layouts"][name] = measured(spark, staged, root, told)
            print(name, report["layouts"][name], flush=True)
            if not told:
                report["one row in a thousand dead"] = with_dead_rows(spark, root)
                print("dead", report["one row in a thousand dead"], flush=True)
        vectors = feed_vectors(open_feed(root))[1]
        report["raw"] = raw(vectors, Path(folder))
        report["bytes"] = as_bytes(vectors, Path(folder))
    publish(report, options.json)


def measured(spark: SparkSession, staged: Path, root: Path, told: Mapping[str, str]) -> dict[str, Any]:
    """Write staged rows of the feed in a layout, as a published run; what that took, and how fast it is read."""
    session = spark.newSession()
    for key, value in told.items():
        session.conf.set(key, value)
    landing = Landing(session, str(root))
    landing.ensure_tables(["runs", INDEX_FEED.name])
    begun = time.perf_counter()
    landing._write(INDEX_FEED, session.read.parquet(str(staged)))
    wrote = time.perf_counter() - begun
    publish_feed(landing, "run")
    snapshot = open_feed(root)
    files = [Path(path) for path in snapshot.files(INDEX_FEED.name)]
    count = snapshot.row_count(INDEX_FEED.name)
    metadata = [pq.ParquetFile(path).metadata for path in files]
    return {
        "write_s": round(wrote, 2),
        "bytes_per_row": round(sum(path.stat().st_size for path in files) / count),
        "files": len(files),
        "row_groups": sum(one.num_row_groups for one in metadata),
        "encoding": sorted({e for one in metadata for e in vector_column(one).encodings}),
        "codec": vector_column(metadata[0]).compression,
        **rates(snapshot),
    }


def rates(snapshot: Snapshot) -> dict[str, int]:
    """Rows a second, with vectors and without."""
    count = snapshot.row_count(INDEX_FEED.name)
    found = {"numpy_per_s": rate(count, lambda: len(feed_vectors(snapshot)[0]))}
    for kind, columns in (("", ("feed_id", "vector")), ("narrow_", NARROW)):
        found[f"{kind}arrow_per_s"] = rate(count, partial(scanned, snapshot, columns))
        found[f"{kind}torch_per_s"] = rate(count, partial(loaded, snapshot, columns))
    return found


def with_dead_rows(spark: SparkSession, root: Path) -> dict[str, Any]:
    """Mark one row in a thousand as dead, as a night does it, and publish that; how fast the others are read."""
    landing = Landing(spark, str(root))
    DeltaTable.forPath(spark, landing.path(INDEX_FEED.name)).delete("feed_id % 1000 = 0")
    publish_feed(landing, "next")
    snapshot = open_feed(root)
    return {"dead": len(snapshot.dead_row_ids(INDEX_FEED.name)), **rates(snapshot)}


def publish_feed(landing: Landing, run_id: str) -> None:
    """Say in the ledger that the feed is published as it is."""
    ledger, versions = Ledger(landing, lease_generation=1).load(), {INDEX_FEED.name: landing.version(INDEX_FEED.name)}
    event = Event(run_id, "nightly", "published", (), 1, table_versions=versions, **asdict(VERSIONS))
    ledger.append(replace(event, counts={}, metrics={}))


def vector_column(metadata: pq.FileMetaData) -> pq.ColumnChunkMetaData:
    """What a file says of its first row group's vectors."""
    group = metadata.row_group(0)
    columns = (group.column(number) for number in range(group.num_columns))
    return next(column for column in columns if column.path_in_schema.startswith("vector."))


def scanned(snapshot: Snapshot, columns: Sequence[str]) -> int:
    """Read columns as Arrow has them; how many rows."""
    return sum(batch.num_rows for batch in snapshot.batches(INDEX_FEED.name, columns))


def loaded(snapshot: Snapshot, columns: Sequence[str]) -> int:
    """Read columns into tensors; how many rows."""
    with feed_loader(snapshot, BATCH, columns) as loader:
        return sum(len(batch["feed_id"]) for batch in loader)


def raw(vectors: np.ndarray[Any, Any], folder: Path) -> dict[str, Any]:
    """The vectors as one file, and read from it."""
    path = folder / "vectors.npy"
    np.save(path, vectors)

    def blocks() -> Iterator[np.ndarray[Any, Any]]:
        mapped = np.load(path, mmap_mode="r")
        return (np.array(mapped[start : start + BATCH]) for start in range(0, len(mapped), BATCH))

    return {
        "bytes_per_row": round(path.stat().st_size / len(vectors)),
        "whole_per_s": rate(len(vectors), lambda: len(np.load(path))),
        "mapped_per_s": rate(len(vectors), lambda: sum(len(block) for block in blocks())),
    }


def as_bytes(vectors: np.ndarray[Any, Any], folder: Path) -> dict[str, Any]:
    """The vectors as binary values of a fixed length in one Parquet file, and read from it."""
    path, width = folder / "vectors.parquet", vectors.shape[1] * vectors.itemsize
    column = pa.Array.from_buffers(pa.binary(width), len(vectors), [None, pa.py_buffer(vectors)])
    pq.write_table(pa.table({"vector": column}), path, compression="none", use_dictionary=False)

    def read() -> int:
        into = np.empty(vectors.shape, np.float32)
        start = 0
        for batch in pq.ParquetFile(path).iter_batches(BATCH):
            block = batch.column(0)
            view = np.frombuffer(block.buffers()[1], np.float32).reshape(-1, vectors.shape[1])
            into[start : start + len(block)] = view[block.offset : block.offset + len(block)]
            start += len(block)
        return start

    return {"bytes_per_row": round(path.stat().st_size / len(vectors)), "numpy_per_s": rate(len(vectors), read)}


def rate(count: int, read: Callable[[], int]) -> int:
    """Vectors a second of the best of some passes. Raises RuntimeError where one does not give all of them."""
    best = float("inf")
    for _ in range(PASSES):
        begun = time.perf_counter()
        found = read()
        best = min(best, time.perf_counter() - begun)
        if found != count:
            raise RuntimeError(f"expected {count} vectors, found {found}")
    return round(count / best)


if __name__ == "__main__":
    main()
