"""A warehouse as many nights would have left it, written straight into its tables: no night is run for it.

All that a night reads of history is there, and fits together as if it had been ingested: each image has one URL, one
sighting and one text; one in twenty is a near-duplicate of the one before. What is in the rows is made from their
number alone, so that equal sizes give equal warehouses. Pixels are bytes that only begin like a JPEG, since no night
decodes them again. The audit log (`decisions`), which no night reads, stays empty.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql import types as t

from jobs.config.profile import Config
from jobs.stages import dedup
from jobs.stages.feed import row_digest, row_ids
from jobs.warehouse.golden import golden_of_images, golden_of_texts
from jobs.warehouse.landing import PAGE_ROWS, Landing, set_pages
from jobs.warehouse.ledger import Event, Ledger, Versions
from schemas.tables import ADDED_SEQ, CHANGED_SEQ, INDEX_FEED, ROW_ID, SIGHTINGS, TABLES
from udfs.embedding.embed import dimension
from udfs.embedding.text import text_dimension
from udfs.gate.content import gate_version

FIRST = dt.date(2025, 1, 1)
DATES = 20
"""Dates that history is spread over; each has left one file a table."""

PORT = 18473
"""Where the pictures of history were, and are asked for again. Fixed: digests of the URLs are in the warehouse."""

HOSTS = 200
ALIKE_EVERY = 20
"""The last of so many images is a near-duplicate of the one before; the first of them has none."""

RUN_ID = "synthetic"

_HEX, _HEX_XOR_1, _HEX_XOR_3 = "0123456789abcdef", "1032547698badcfe", "32107654ba98fedc"
"""Digits, and the same with the last bit or the last two changed."""

_VECTOR, _TEXT_VECTOR, _PIXELS = range(3)
"""Streams of random numbers."""


def host(number: int) -> str:
    """The host of a page, which has the number of its image."""
    return f"127.0.1.{number % HOSTS + 1}"


def url(number: int) -> str:
    """Where history has seen an image; `_numbered` says the same in SQL."""
    return f"http://{host(number)}:{PORT}/old/{number}.jpg"


def title(number: int) -> str:
    """What it was called there: plain text, which is its own cleaned text. `_numbered` says the same in SQL."""
    return f"Synthetic picture {number}"


def write_history(spark: SparkSession, config: Config, versions: Versions, images: int, pixels: int) -> None:
    """Write a warehouse of so many live images, with so many bytes of pixels each, and its one published run.

    The models' golden vectors are put there too: making them is the first night's, and has nothing to do with history.
    """
    landing = Landing(spark, config.warehouse)
    landing.ensure_tables()
    golden_of_texts(landing.storage, config.text, versions.text_model_version)
    golden_of_images(landing.storage, config.embedding, versions.model_version)
    if images == 0:
        return
    ledger = Ledger(landing, lease_generation=1).load()
    dates = tuple(FIRST + dt.timedelta(days=number) for number in range(DATES))
    started = Event(RUN_ID, "nightly", "started", dates, 1, config_digest=config.contents_digest())
    prepared = replace(started, event="prepared", inputs_digest=RUN_ID, **asdict(versions))
    ledger.append(started)
    for name, rows in _tables(spark, config, versions, images, pixels).items():
        complete, table = _complete(name, rows), TABLES[name]
        spark.conf.unset(PAGE_ROWS)
        set_pages(spark, table)
        if table.sorted_by:  # as Landing does
            complete = complete.sortWithinPartitions(*table.partition_by, table.sorted_by)
        complete.write.format("delta").mode("append").save(landing.path(name))
    _check_groups(landing)
    ledger.append(prepared)
    ledger.append(replace(prepared, event="published", table_versions=landing.versions()))


def feed_rows(spark: SparkSession, rows: int, dimension: int, text_dimension: int = 384) -> DataFrame:
    """So many rows of `index_feed`, each an image of its own, with visual vectors of that many floats."""
    named = ("model_version", "text_model_version")
    numbered = _numbered(spark, rows).withColumns({name: f.lit(name) for name in named})
    vectors = {"vector": (_VECTOR, dimension), "text_vector": (_TEXT_VECTOR, text_dimension)}
    return _digested(_with_noise(numbered, vectors))


def sighting_rows(spark: SparkSession, rows: int) -> DataFrame:
    """So many rows of `sightings`, each of a page of its own, all of the date `FIRST`."""
    told = {"run_id": RUN_ID, "policy_version": "policy_version"}
    numbered = _numbered(spark, rows).withColumns({name: f.lit(value) for name, value in told.items()})
    return _complete(SIGHTINGS.name, numbered.withColumn("ingest_date", f.lit(FIRST)))


def _complete(table: str, rows: DataFrame) -> DataFrame:
    """The table's columns; null those that the rows have not."""
    columns = [
        f.col(column.name) if column.name in rows.columns else f.lit(None).cast(column.type).alias(column.name)
        for column in TABLES[table].columns
    ]
    return rows.select(*columns)


def _check_groups(landing: Landing) -> None:
    """Raise RuntimeError where the groups of `clusters`, which are worked out here, are not those that dedup makes."""
    keys = ["image_id", "group_id"]
    hashes, clusters = (landing.read(name).select(*keys) for name in ("image_hashes", "clusters"))
    if not hashes.join(clusters, keys, "left_anti").isEmpty():
        raise RuntimeError("the groups of equal hashes are not those of jobs.stages.dedup.hash_rows")


def _tables(spark: SparkSession, config: Config, versions: Versions, images: int, pixels: int) -> dict[str, DataFrame]:
    """Rows by table. None is shuffled, so that each of the partitions, which are dates, becomes a file."""
    visual, textual = dimension(config.embedding), text_dimension(config.text)
    rows = _numbered(spark, images).withColumns(
        {
            "run_id": f.lit(RUN_ID),
            "policy_version": f.lit(versions.policy_version),
            "canonical_version": f.lit(versions.canonical_version),
            "rule_version": f.lit(versions.rule_version),
            "model_version": f.lit(versions.model_version),
            "text_model_version": f.lit(versions.text_model_version),
            "alignment_version": f.lit(versions.alignment_version).cast("string"),
            "detector_version": f.lit(gate_version(config.policy)),
        }
    )
    heads = rows.where("not is_alike")
    return {
        "sightings": rows,
        "fetches": rows,
        "url_state": rows,
        "content_signals": rows,
        "images": _with_noise(rows, {"pixels": (_PIXELS, pixels)}),
        "embeddings": _with_noise(rows, {"vector": (_VECTOR, visual)}),
        "text_embeddings": _with_noise(rows, {"vector": (_TEXT_VECTOR, textual)}),
        "image_hashes": dedup.hash_rows(rows, config.dedup),
        "lsh_bands": dedup.band_rows(rows, config.dedup, versions.rule_version),
        "clusters": rows,
        "feed_members": rows,
        "index_feed": _digested(
            _with_noise(heads, {"vector": (_VECTOR, visual), "text_vector": (_TEXT_VECTOR, textual)})
        ),
        "feed_ids": heads,
    }


def _numbered(spark: SparkSession, images: int) -> DataFrame:
    """A row an image, with what the tables take from it by the names of their columns; in `DATES` partitions."""
    near, far = "left(sha2(concat('near ', original), 256), 16)", "sha2(concat('far ', original), 256)"
    first_63 = "shiftleft(cast(conv(substring(image_id, 1, 8), 16, 10) as bigint), 31)"
    first_63 += " + shiftright(cast(conv(substring(image_id, 9, 8), 16, 10) as bigint), 1)"
    steps: tuple[dict[str, str], ...] = (
        {
            "is_alike": f"id % {ALIKE_EVERY} = {ALIKE_EVERY - 1}",
            "has_alike": f"id % {ALIKE_EVERY} = {ALIKE_EVERY - 2} and id + 1 < {images}",
            "ingest_date": f"date_add(date'{FIRST}', cast(id * {DATES} div {images} as int))",
            "image_id": "sha2(concat('image ', id), 256)",
            "host": f"concat('127.0.1.', id % {HOSTS} + 1)",
            "title": "concat('Synthetic picture ', id)",
        },
        {
            "original": "id - int(is_alike)",
            "url": f"concat('http://', host, ':{PORT}/old/', id, '.jpg')",
            "text_id": "sha2(title, 256)",
            # Half of the near-duplicates are one bit away in the 64-bit hash, half of them two.
            "hamming": f"case when not is_alike then 0 when id % {2 * ALIKE_EVERY} < {ALIKE_EVERY} then 1 else 2 end",
            "hamming256": "if(is_alike, 2, 0)",
        },
        {
            "url_id": "sha2(url, 256)",
            "representative_id": "sha2(concat('image ', original), 256)",
            "near": f"if(hamming = 0, {near}, concat(left({near}, 15), translate(right({near}, 1), '{_HEX}', "
            f"if(hamming = 1, '{_HEX_XOR_1}', '{_HEX_XOR_3}'))))",
            "far": f"if(is_alike, concat(left({far}, 63), translate(right({far}, 1), '{_HEX}', '{_HEX_XOR_3}')), "
            f"{far})",
        },
        {
            "phash64": "cast(conv(near, 16, -10) as bigint)",
            "phash256": "unhex(far)",
            "view_hashes": "array(unhex(concat('00', near, far, '0000')))",
            "hashes": "array(unhex(concat('00', near, far, '0000')))",
            "group_id": "left(sha2(upper(concat('00', near, far, '0000')), 256), 32)",
        },
        {
            **{"source_file": "'part-0.jsonl'", "row_number": "id", "outcome": "'accepted'"},
            **{"reasons": "cast(array() as array<string>)", "state_effect": "'content'", "not_modified": "false"},
            **{"status": "200", "final_url": "url", "content_type": "'image/jpeg'", "attempts": "1", "redirects": "0"},
            **{"etag": "concat('\"', left(image_id, 32), '\"')", "hops": "cast(array() as array<string>)"},
            **{"fetched_at": "cast(ingest_date as timestamp)", "duration_ms": "1.0d", "deferred": "false"},
            **{"scores": "map('nsfw:center', 0.01d, 'nsfw:plain', 0.01d)", "bytes": "60000L"},
            # A near-duplicate is smaller, and so comes after its original in the order of the same date.
            **{"width": "512", "height": "384", "source_width": "if(is_alike, 600, 640)", "source_height": "480"},
            **{"source_format": "'jpeg'", "source_bytes": "60000L", "flatness": "50d", "sharpness": "100d"},
            **{"source_pixels": "bigint(if(is_alike, 600, 640)) * 480", "first_seen": "ingest_date"},
            # Of a cluster the original is the largest.
            **{"domain": "host", "feed_id": first_63, "collided": "false", "largest_image_id": "representative_id"},
            **{"has_text": "true", "has_title": "true", "has_alt_text": "false", "has_description": "false"},
            **{"has_tags": "false", "tokens": "split(lower(title), ' ')"},
            **dict.fromkeys(("member_count", "url_count", "domain_count"), "1L + int(has_alike)"),
        },
    )
    rows = spark.range(0, images, 1, DATES)
    for step in steps:
        rows = rows.withColumns({name: f.expr(text) for name, text in step.items()})
    return rows


def _digested(feed: DataFrame) -> DataFrame:
    """Feed rows with their digest as jobs.stages.feed makes it: a night that meets one finds it unchanged."""
    complete = _complete(INDEX_FEED.name, feed)
    seqs = dict.fromkeys((ADDED_SEQ, CHANGED_SEQ), f.lit(0).cast("bigint"))
    return complete.withColumns({"row_digest": row_digest(), ROW_ID: row_ids(0), **seqs})


def _with_noise(rows: DataFrame, wanted: Mapping[str, tuple[int, int]]) -> DataFrame:
    """Rows with more columns, by `(stream, length)`: unit vectors, or bytes that begin like a JPEG. Made from stream
    and number, so that two tables can hold the same."""

    def make(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            numbers = batch.column("id").to_pylist()
            made = [_noise(numbers, stream, length) for stream, length in wanted.values()]
            yield pa.RecordBatch.from_arrays([*batch.columns, *made], names=[*batch.schema.names, *wanted])

    types = {
        name: t.BinaryType() if stream == _PIXELS else t.ArrayType(t.FloatType())
        for name, (stream, _) in wanted.items()
    }
    fields = [*rows.schema.fields, *[t.StructField(name, kind) for name, kind in types.items()]]
    return rows.mapInArrow(make, t.StructType(fields))


def _noise(numbers: list[int], stream: int, length: int) -> pa.Array:
    sources = [np.random.default_rng((stream, number)) for number in numbers]
    if stream == _PIXELS:
        return pa.array([b"\xff\xd8" + source.bytes(length - 2) for source in sources], pa.binary())
    values = np.zeros((len(numbers), length), dtype=np.float32)
    for row, source in zip(values, sources, strict=True):
        source.standard_normal(dtype=np.float32, out=row)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * length
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))
