"""Near-duplicates: groups of equal hashes, MinHash-LSH bands over them, verified edges. History is met through bands.

Equal hashes are one group and are worked on once. Flat pictures (no structure for a pHash to speak of) are groups of
their own that get no bands: only identical bytes, which are one image_id already, are duplicates there.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs.warehouse.history import Staged, near
from schemas.settings import DedupSettings
from schemas.tables import IMAGE_HASHES, LSH_BANDS
from udfs.images.minhash import band_keys, hamming64, hamming256, hash_words, signatures, verify_within_buckets

_BANDS_DDL = "group_id string, band int, band_key bigint, phash64 bigint, phash256 binary"
_PAIRS_DDL = "left_id string, right_id string, hamming int, hamming256 int"


def hash_rows(live: DataFrame, settings: DedupSettings) -> DataFrame:
    """Live images (jobs.stages.state.live_images) -> rows of `image_hashes`."""
    flat = f.col("flatness") < settings.flat_below
    hashes = f.concat(f.lpad(f.hex("phash64"), 16, "0"), f.hex("phash256"))
    group = f.when(flat, f.concat(f.lit("flat:"), f.col("image_id"))).otherwise(hashes)
    rows = live.withColumn("flat", flat).withColumn("group_id", f.substring(f.sha2(group, 256), 1, 32))
    return rows.select(*IMAGE_HASHES.column_names)


def band_rows(groups: DataFrame, settings: DedupSettings, rule_version: str) -> DataFrame:
    """Groups (`group_id, phash64, phash256`, not flat) -> rows of `lsh_bands`, `settings.bands` a group."""

    def sign(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows == 0:
                continue
            keys = band_keys(signatures(batch.column("phash64").to_numpy(zero_copy_only=False), settings), settings)
            row = pa.array(np.repeat(np.arange(batch.num_rows), settings.bands))
            repeated = batch.select(["group_id", "phash64", "phash256"]).take(row)
            band = pa.array(np.tile(np.arange(settings.bands, dtype=np.int32), batch.num_rows))
            yield pa.RecordBatch.from_arrays(
                [
                    repeated.column("group_id"),
                    band,
                    pa.array(keys.reshape(-1)),
                    repeated.column("phash64"),
                    repeated.column("phash256"),
                ],
                names=["group_id", "band", "band_key", "phash64", "phash256"],
            )

    signed = groups.select("group_id", "phash64", "phash256").mapInArrow(sign, _BANDS_DDL)
    return signed.withColumn("rule_version", f.lit(rule_version)).select(*LSH_BANDS.column_names)


def verified_edges(new_bands: DataFrame, old_bands: DataFrame, settings: DedupSettings, rule_version: str) -> DataFrame:
    """Edges that the groups of `new_bands` have among themselves and with those of `old_bands`, which are those that
    share a bucket with a new one: all of them are moved.

    Candidates are verified inside their bucket and never shuffled; a bucket is compared losslessly, whatever its size.
    """
    columns = ["band", "band_key", "group_id", "phash64", "phash256"]
    rows = new_bands.select(*columns, f.lit(True).alias("is_new")).unionByName(
        old_bands.select(*columns, f.lit(False).alias("is_new"))
    )
    sorted_rows = rows.repartition("band_key").sortWithinPartitions("band_key")
    pairs = sorted_rows.mapInArrow(_verifier(settings), _PAIRS_DDL).distinct()
    return pairs.select(
        "left_id",
        "right_id",
        f.lit(rule_version).alias("rule_version"),
        "hamming",
        "hamming256",
        f.lit("hash").alias("verified_by"),
    )


def touching(edges: DataFrame, groups: Staged) -> DataFrame:
    """Rows of `duplicate_edges` with one end or both among staged groups (`group_id`)."""
    return near(edges, groups, "left_id").unionByName(near(edges, groups, "right_id")).distinct()


def _verifier(settings: DedupSettings) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    """Rows sorted by bucket -> verified pairs; at any time one batch and the bucket it cuts are held."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        held: list[pa.RecordBatch] = []
        for batch in batches:
            if batch.num_rows == 0:
                continue
            keys = batch.column("band_key").to_numpy()
            last_bucket = int(np.searchsorted(keys, keys[-1]))
            if last_bucket or (held and held[-1].column("band_key")[-1].as_py() != keys[0]):
                yield from _pairs([*held, batch.slice(0, last_bucket)], settings)
                held = []
            held.append(batch.slice(last_bucket))
        yield from _pairs(held, settings)

    return run


def _pairs(batches: list[pa.RecordBatch], settings: DedupSettings) -> Iterator[pa.RecordBatch]:
    rows = pa.Table.from_batches(batches, batches[0].schema).combine_chunks() if batches else None
    if rows is None or rows.num_rows < 2:
        return
    groups = rows.column("group_id").to_numpy(zero_copy_only=False)
    near = rows.column("phash64").to_numpy()
    far = hash_words(rows.column("phash256"))
    left, right = verify_within_buckets(
        rows.column("band_key").to_numpy(),
        near,
        far,
        settings,
        is_new=rows.column("is_new").to_numpy(zero_copy_only=False),
    )
    swap = groups[left] > groups[right]
    first, second = np.where(swap, right, left), np.where(swap, left, right)
    yield pa.RecordBatch.from_arrays(
        [
            pa.array(groups[first], pa.string()),
            pa.array(groups[second], pa.string()),
            pa.array(hamming64(near[first], near[second]).astype(np.int32)),
            pa.array(hamming256(far[first], far[second]).astype(np.int32)),
        ],
        names=["left_id", "right_id", "hamming", "hamming256"],
    )
