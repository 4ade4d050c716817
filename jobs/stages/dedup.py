"""Near-duplicates: groups of equal hashes, their MinHash-LSH bands, and what is verified in the bands' buckets.

Images with the same hashes of all views are one group and are worked on once: equal hashes of the whole do not imply
equal views. Flat images (no structure for a pHash to speak of) are groups of their own that get no bands: only
identical bytes, which are one image_id already, are duplicates there.

Two groups are near-duplicates where a hash of one, of any view, and a hash of a full view of the other
(`schemas.settings.FULL_VIEWS`) share a bucket and are near by both distances. Who is asked about whom, and when, does
not matter: all hashes of both are in the index.

Pairs are compared inside their bucket, and what is kept of them is few rows per group, however many groups are alike: a
crowd of k variants must not leave k * k pairs.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from schemas.settings import DedupSettings
from schemas.tables import IMAGE_HASHES, LSH_BANDS
from udfs.images.buckets import BLOCK_DDL, MET_DDL, meet, pack, parts_for
from udfs.images.minhash import (
    Compared,
    alike,
    band_keys,
    close_pairs,
    hamming64,
    hamming256,
    hash_words,
    signatures,
    verified_pairs,
)
from udfs.images.phash import (
    FAR_BYTES,
    FULL_VIEW_NUMBERS,
    HUE_BYTES,
    NEAR_BYTES,
    SHADES_BYTES,
    VIEW_BYTES,
    hash_pixels,
    read_hashes,
    view_numbers,
)

MOST_EARLIER = 8
"""Earlier undecided neighbours that a group is told of in a bucket."""

_HASHED_DDL = "image_id string, canonical_version string, flatness double, sharpness double, view_hashes array<binary>"
_BANDS_DDL = "group_number bigint, hash_number int, view int, phash64 bigint, band_keys array<bigint>"
_EARLIER_DDL = "group_id string, earlier_id string"
_HEADS_DDL = "group_id string, head_group string, hamming int, hamming256 int"

_COMPARED = ("bucket", "group_id", "group_number", "phash64", "phash256", "hue", "shades", "is_full", "is_head")

_Buckets = Callable[[pa.Table], Iterator[pa.RecordBatch]]
"""Rows of whole buckets, sorted by bucket -> what is found in them."""


def hash_rows(images: DataFrame, settings: DedupSettings) -> DataFrame:
    """Rows of `images` (pixels not needed) -> rows of `image_hashes`."""
    flat = f.col("flatness") < settings.flat_below
    numbers = view_numbers(settings.views)
    hashes = f.filter("view_hashes", lambda one: _view(one).isin(*numbers))
    digest = f.array_join(f.transform(hashes, f.hex), ",")
    group = f.when(flat, f.concat(f.lit("flat:"), f.col("image_id"))).otherwise(digest)
    named = {"flat": flat, "hashes": hashes, "group_id": f.substring(f.sha2(group, 256), 1, 32)}
    return images.withColumns(named).select(*IMAGE_HASHES.column_names)


def hash_anew(images: DataFrame) -> DataFrame:
    """Rows of `images` with pixels -> what `hash_rows` takes of them, their `view_hashes` made again of the pixels."""
    given = images.select("image_id", "canonical_version", "flatness", "sharpness", "pixels")

    def make(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            named = zip(batch.column("image_id").to_pylist(), batch.column("pixels").to_pylist(), strict=True)
            made = [list(_hashes_of(image_id, pixels)) for image_id, pixels in named]
            kept = batch.select(batch.schema.names[:-1])
            yield pa.RecordBatch.from_arrays(
                [*kept.columns, pa.array(made, pa.list_(pa.binary()))], names=[*kept.schema.names, "view_hashes"]
            )

    return given.mapInArrow(make, _HASHED_DDL)


def _hashes_of(image_id: str, pixels: bytes) -> tuple[bytes, ...]:
    try:
        return hash_pixels(pixels).view_hashes
    except OSError as error:
        raise ValueError(f"the stored pixels of image {image_id} cannot be decoded: {error}") from error


def _view(one: Column) -> Column:
    """The number of the view that a stored hash (`udfs.images.phash.ViewHash`) is of; 0 is the whole."""
    return _number(f.substring(one, 1, VIEW_BYTES))


def _number(some_bytes: Column) -> Column:
    return f.conv(f.hex(some_bytes), 16, 10).cast("int")


def each_hash(groups: DataFrame) -> DataFrame:
    """A row for each of the `hashes` of groups, instead of these: `hash_number, view, phash64, phash256, hue,
    shades`."""
    rows = groups.select("*", f.posexplode("hashes").alias("hash_number", "_hash")).drop("hashes")
    hue = VIEW_BYTES + NEAR_BYTES + FAR_BYTES + 1
    parts = {
        "view": _view(f.col("_hash")),
        "phash64": f.conv(f.hex(f.substring("_hash", VIEW_BYTES + 1, NEAR_BYTES)), 16, -10).cast("bigint"),
        "phash256": f.substring("_hash", VIEW_BYTES + NEAR_BYTES + 1, FAR_BYTES),
        "hue": _number(f.substring("_hash", hue, HUE_BYTES)),
        "shades": _number(f.substring("_hash", hue + HUE_BYTES, SHADES_BYTES)),
    }
    return rows.withColumns(parts).drop("_hash")


def is_full() -> Column:
    """Whether a hash is of a full view: without one of these no two hashes are compared."""
    return f.col("view").isin(*FULL_VIEW_NUMBERS).alias("is_full")


def bytes_of_bands(settings: DedupSettings) -> int:
    """About what a row of `lsh_bands` takes on disk: its keys, and its 64 bits."""
    return 8 * (settings.bands + 1)


def group_number() -> Column:
    """`group_id` as the index names it. Two groups with one number (a chance of 3 % that there are such among 1e9) meet
    whom either meets, and are then told apart by their hashes; but not one another, and where one comes as the other
    changes, in one run, the latter is not looked up."""
    return f.conv(f.substring("group_id", 1, 16), 16, -10).cast("bigint").alias("group_number")


def band_rows(groups: DataFrame, settings: DedupSettings, rule_version: str) -> DataFrame:
    """Groups (`group_id, hashes`, not flat) -> rows of `lsh_bands`, one for each of their hashes."""

    def sign(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            lists = batch.column("hashes")
            times = lists.value_lengths().to_numpy(zero_copy_only=False)
            hashes = read_hashes(lists.flatten())
            near = hashes["phash64"].copy().view(">i8").reshape(-1).astype(np.int64)
            keys = band_keys(signatures(near, settings), settings)
            number = np.arange(len(hashes)) - np.repeat(np.cumsum(times) - times, times)
            ends = np.arange(len(hashes) + 1, dtype=np.int32) * settings.bands
            columns = {
                "group_number": np.repeat(batch.column("group_number").to_numpy(), times),
                "hash_number": number.astype(np.int32),
                "view": hashes["view"].astype(np.int32),
                "phash64": near,
                "band_keys": pa.ListArray.from_arrays(pa.array(ends), pa.array(keys.reshape(-1))),
            }
            yield pa.RecordBatch.from_arrays([pa.array(one) for one in columns.values()], names=list(columns))

    signed = groups.select(group_number(), "hashes").mapInArrow(sign, _BANDS_DDL)
    return signed.withColumn("rule_version", f.lit(rule_version)).select(*LSH_BANDS.column_names)


def each_band(hashes: DataFrame) -> DataFrame:
    """Rows of `lsh_bands` -> a row for each of their bands, with its `band_key` in place of all of them."""
    return hashes.select("*", f.explode("band_keys").alias("band_key")).drop("band_keys")


def meeting_rows(new: DataFrame, old: DataFrame, settings: DedupSettings, expected: float) -> DataFrame:
    """Of the hashes that share a bucket those whose 64 bits are near another group's there, one of the two being new,
    and one of a full view: `bucket, group_number, hash_number`. What is far from all of them (beyond `outer_hamming`)
    ends here.

    `new`: rows of `lsh_bands`; `old`: of `each_band`, those that share a bucket with a new one; `expected`: about how
    many rows the buckets have in all. A `bucket` is what is left of one, or of several that have the same hashes: two
    hashes that met in 42 bands are told of once.
    """
    columns = ["group_number", "hash_number", "phash64", "band_keys", "is_full", "is_new"]
    known = old.withColumns({"band_keys": f.array("band_key"), "is_full": is_full(), "is_new": f.lit(False)})
    asked = new.withColumns({"is_full": is_full(), "is_new": f.lit(True)})
    rows = known.select(*columns).unionByName(asked.select(*columns))
    parts = parts_for(expected)
    blocks = rows.mapInArrow(lambda batches: pack(batches, parts), BLOCK_DDL)
    of_one_part = blocks.repartition("part").sortWithinPartitions("part")
    met = of_one_part.mapInArrow(lambda batches: meet(batches, settings.outer_hamming), MET_DDL)
    return met.distinct() if parts > 1 else met


def earlier_neighbours(rows: DataFrame, settings: DedupSettings) -> DataFrame:
    """Of each undecided group the verified neighbours that come before it and may stand for it: `group_id, earlier_id`.

    Every head, and in each bucket the first `MOST_EARLIER` of the undecided; where there are more of these, one
    `earlier_id` is null. `rows`: of buckets, as `meeting_rows` gives them, with what `each_hash` says of the hash,
    whether the group `is_head` (else it is undecided), and its place in the order (`first_seen, source_pixels,
    image_id`).
    """

    def find(table: pa.Table) -> Iterator[pa.RecordBatch]:
        keys, hashes, is_head = _integers(table, "bucket"), _compared(table), _flags(table, "is_head")
        number = _integers(table, "group_number")
        told = np.zeros(table.num_rows, dtype=np.int64)
        found = [np.empty((2, 0), dtype=np.int64)]
        for pairs in close_pairs(keys, hashes.phash64, settings.outer_hamming, is_full=_flags(table, "is_full")):
            before, group = pairs
            # Who has been told of enough is not compared any further: a crowd costs little more than its size.
            asks = ~is_head[group] & (is_head[before] | (told[group] <= MOST_EARLIER))
            asks &= number[before] != number[group]
            before, group = before[asks], group[asks]
            edges = alike(hashes, before, group, settings)
            before, group = before[edges], group[edges]
            wanted = is_head[before]
            wanted[~wanted] = _count_up(group[~wanted], told) < MOST_EARLIER
            found.append(np.stack((group[wanted], before[wanted])))
        asking, earlier = np.concatenate(found, axis=1)
        more = np.flatnonzero(told > MOST_EARLIER)
        groups = table.column("group_id").combine_chunks()
        missing = pa.nulls(len(more), pa.string())
        yield pa.RecordBatch.from_arrays(
            [
                pa.concat_arrays([groups.take(pa.array(asking)), groups.take(pa.array(more))]),
                pa.concat_arrays([groups.take(pa.array(earlier)), missing]),
            ],
            names=["group_id", "earlier_id"],
        )

    order = [f.col("bucket"), f.col("first_seen"), f.desc("source_pixels"), f.col("image_id")]
    place = ["first_seen", "source_pixels", "image_id"]
    sorted_rows = (
        rows.withColumn("is_full", is_full())
        .select(*_COMPARED, *place)
        .repartition("bucket")
        .sortWithinPartitions(*order)
    )
    return sorted_rows.mapInArrow(_in_buckets(find), _EARLIER_DDL).distinct()


def neighbouring_heads(rows: DataFrame, settings: DedupSettings) -> DataFrame:
    """Verified pairs of a group and a head: `group_id, head_group, hamming, hamming256`, the least distances of their
    hashes. Of groups that were asked about with every head, of the others with heads that have newly risen.

    `rows`: of buckets, with what `each_hash` says of the hash, and `is_head`, `is_risen`, `is_asked`.
    """

    def find(table: pa.Table) -> Iterator[pa.RecordBatch]:
        keys, hashes, is_head = _integers(table, "bucket"), _compared(table), _flags(table, "is_head")
        is_risen, is_asked = _flags(table, "is_risen"), _flags(table, "is_asked")
        groups, number = table.column("group_id").combine_chunks(), _integers(table, "group_number")
        flags = {"is_full": _flags(table, "is_full"), "is_new": is_head}
        for pairs in verified_pairs(keys, hashes, settings, **flags):
            for ends in (np.stack(pairs), np.stack(pairs[::-1])):
                wanted = is_head[ends[1]] & (is_asked[ends[0]] | is_risen[ends[1]])
                wanted &= number[ends[0]] != number[ends[1]]
                group, head = ends[:, wanted]
                yield pa.RecordBatch.from_arrays(
                    [
                        groups.take(pa.array(group)),
                        groups.take(pa.array(head)),
                        pa.array(hamming64(hashes.phash64[group], hashes.phash64[head]).astype(np.int32)),
                        pa.array(hamming256(hashes.phash256[group], hashes.phash256[head]).astype(np.int32)),
                    ],
                    names=["group_id", "head_group", "hamming", "hamming256"],
                )

    columns = [*_COMPARED, "is_risen", "is_asked"]
    sorted_rows = rows.withColumn("is_full", is_full()).select(*columns).repartition("bucket")
    sorted_rows = sorted_rows.sortWithinPartitions("bucket")
    found = sorted_rows.mapInArrow(_in_buckets(find), _HEADS_DDL)
    least = found.groupBy("group_id", "head_group").agg(f.min(f.struct("hamming256", "hamming")).alias("least"))
    return least.select("group_id", "head_group", "least.hamming", "least.hamming256")


def _in_buckets(find: _Buckets) -> Callable[[Iterable[pa.RecordBatch]], Iterable[pa.RecordBatch]]:
    """Rows sorted by bucket -> what `find` gives for whole buckets; at any time one batch and the bucket it cuts are
    held."""

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        held: list[pa.RecordBatch] = []
        for batch in batches:
            if batch.num_rows == 0:
                continue
            keys = batch.column("bucket").to_numpy()
            last_bucket = int(np.searchsorted(keys, keys[-1]))
            if last_bucket or (held and held[-1].column("bucket")[-1].as_py() != keys[0]):
                yield from whole([*held, batch.slice(0, last_bucket)])
                held = []
            held.append(batch.slice(last_bucket))
        yield from whole(held)

    def whole(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = pa.Table.from_batches(batches).combine_chunks() if batches else None
        if rows is not None and rows.num_rows > 1:
            yield from find(rows)

    return run


def _integers(table: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(table.column(name), dtype=np.int64)


def _compared(table: pa.Table) -> Compared:
    hues, shades = (np.asarray(table.column(name), dtype=np.uint8) for name in ("hue", "shades"))
    return Compared(_integers(table, "phash64"), hash_words(table.column("phash256")), hues, shades)


def _flags(table: pa.Table, name: str) -> NDArray[np.bool_]:
    return np.asarray(table.column(name), dtype=np.bool_)


def _count_up(rows: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each of `rows` came before, by `counts` and further left; `counts` is brought up to date."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(rows) else ordered
    lengths = np.diff(np.r_[starts, len(rows)])
    before = np.empty(len(rows), dtype=np.int64)
    before[order] = counts[ordered] + np.arange(len(rows)) - np.repeat(starts, lengths)
    counts[ordered[starts]] += lengths
    return before
