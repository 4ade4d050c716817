"""What history holds of a run's keys, however many they are, without any of history being exchanged."""

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from jobs.warehouse import history
from jobs.warehouse.history import Staged, near
from jobs.warehouse.landing import Landing, StagedTable
from schemas.tables import TABLES
from tests.jobs.frames import frame

HISTORY = [(f"key {number % 50}", number % 7, number) for number in range(200)]


@pytest.fixture
def past(spark: SparkSession) -> DataFrame:
    return frame(spark, "name string, place int, row int", HISTORY)


def rows_of(found: DataFrame) -> list[int]:
    return sorted(row.row for row in found.collect())


@pytest.mark.parametrize(("named", "sent", "hashed"), [(10, 10, 10), (1, 10, 10), (1, 1, 10), (1, 1, 1)])
def test_rows_near_keys_are_those_with_such_a_key(
    spark: SparkSession, past: DataFrame, named: int, sent: int, hashed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_NAMED", named)
    monkeypatch.setattr(history, "MOST_SENT", sent)
    monkeypatch.setattr(history, "MOST_HASHED", hashed)
    keys = Staged(frame(spark, "name string", [("key 3",), ("key 40",), ("no such key",)]), 3)
    wanted = [row for name, _, row in HISTORY if name in {"key 3", "key 40"}]
    assert rows_of(near(past, keys)) == rows_of(near(past, keys, sorted_by="name")) == wanted
    assert near(past, keys).columns == past.columns
    renamed = past.withColumnRenamed("name", "other")
    assert rows_of(near(renamed, keys, "other")) == rows_of(near(renamed, keys, "other", sorted_by="other")) == wanted
    pairs = Staged(frame(spark, "name string, place int", [("key 3", 3), ("key 3", 4), ("key 4", None)]), 3)
    wanted = [row for name, place, row in HISTORY if name == "key 3" and place in {3, 4}]
    assert rows_of(near(past, pairs)) == rows_of(near(past, pairs, sorted_by="name")) == wanted


def test_a_number_is_sent_as_it_is_where_a_hash_of_another_key_would_be(
    spark: SparkSession, past: DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_SENT", 1)
    numbered = past.withColumn("number", f.col("place").cast("bigint"))
    for keys, is_hashed in ((frame(spark, "number bigint", [(3,), (4,)]), False), (past.select("name"), True)):
        found = near(numbered, Staged(keys, 2))
        assert ("xxhash64" in plan_of(found)) == is_hashed
    wanted = [row for _, place, row in HISTORY if place in {3, 4}]
    assert rows_of(near(numbered, Staged(frame(spark, "number bigint", [(3,), (4,)]), 2))) == wanted


def test_no_keys_are_near_nothing_and_history_is_not_read(spark: SparkSession, past: DataFrame) -> None:
    found = near(past, Staged(frame(spark, "name string", []), 0))
    assert found.collect() == []
    assert plan_of(found).startswith("LocalTableScan <empty>")


@pytest.mark.parametrize("sent", [10, 1])
def test_history_is_narrowed_before_any_exchange(
    spark: SparkSession, past: DataFrame, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MOST_SENT", sent)
    keys = Staged(frame(spark, "name string", [("key 3",), ("key 4",)]), 2)
    lines = plan_of(near(past, keys)).splitlines()
    scan = next(number for number, line in enumerate(lines) if "Scan" in line)  # the left side's comes first
    above = [line.strip(" :+-*()0123456789") for line in lines[:scan]]
    joined = next(number for number, line in reversed(list(enumerate(above))) if line.startswith("BroadcastHashJoin"))
    assert not [line for line in above[joined:] if line.startswith("Exchange")]


def test_few_rows_of_a_sorted_table_are_read_without_the_rest(
    spark: SparkSession, landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    landing.ensure_tables(["embeddings"])
    vector = f.transform(f.sequence(f.lit(0), f.lit(511)), lambda place: (f.rand(7) + place).cast("float"))
    rows = spark.range(20_000).select(f.sha2(f.col("id").cast("string"), 256).alias("image_id"), vector.alias("vector"))
    versions = rows.withColumn("model_version", f.lit("m")).withColumn("run_id", f.lit("r"))
    landing.stage("r", "vectors", versions.repartition(1))
    landing.write_plan("r", [StagedTable("embeddings", "vectors", 20_000)])
    landing.apply("r")
    ids = [hashlib.sha256(str(number).encode()).hexdigest() for number in (5, 7_000, 19_999)]
    keys = Staged(frame(spark, "image_id string", [(image_id,) for image_id in ids]), 3)
    table = landing.read("embeddings").select("image_id", "vector")
    size = sum(path.stat().st_size for path in Path(landing.path("embeddings")[5:]).rglob("*.parquet"))

    def bytes_read(found: DataFrame) -> int:
        before = _bytes_read(spark)
        assert sorted(row.image_id for row in found.collect()) == sorted(ids)
        return _bytes_read(spark) - before

    assert bytes_read(near(table, keys, sorted_by=TABLES["embeddings"].sorted_by)) < size / 4
    assert bytes_read(near(table, keys)) > size * 0.9


def test_pages_are_small_where_single_rows_are_looked_for_and_whole_where_files_are_read(
    spark: SparkSession, landing: Landing
) -> None:
    landing.ensure_tables(["clusters", "lsh_bands"])
    rows = {
        "clusters": """sha2(cast(id as string), 256) image_id, 'r' rule_version, 'h' representative_id, 1 hamming,
            1 hamming256, 'g' group_id, date'2024-01-01' first_seen, 1L source_pixels""",
        "lsh_bands": """id group_number, 0 hash_number, 0 view, id phash64, array(xxhash64(id)) band_keys,
            'r' rule_version""",
    }
    spark.range(0, 5_000, 1, 1).createOrReplaceTempView("numbers")
    for name, columns in rows.items():
        landing.stage("r", name, spark.sql(f"select {columns} from numbers"))
    landing.write_plan("r", [StagedTable(name, name, 5_000) for name in rows])
    landing.apply("r")
    assert _pages(spark, landing, "clusters", "image_id") == 5_000 / 250
    assert _pages(spark, landing, "lsh_bands", "phash64") == 1


def _pages(spark: SparkSession, landing: Landing, table: str, column: str) -> int:
    """Pages of a column in the table's one file."""
    (file,) = landing.read(table).inputFiles()
    jvm: Any = spark._jvm
    path = jvm.org.apache.hadoop.fs.Path(unquote(file))
    opened = jvm.org.apache.parquet.hadoop.util.HadoopInputFile.fromPath(path, spark._jsc.hadoopConfiguration())  # type: ignore[attr-defined]
    reader = jvm.org.apache.parquet.hadoop.ParquetFileReader.open(opened)
    (group,) = reader.getFooter().getBlocks()
    (chunk,) = [one for one in group.getColumns() if one.getPath().toDotString() == column]
    return int(reader.readOffsetIndex(chunk).getPageCount())


def _bytes_read(spark: SparkSession) -> int:
    """Bytes that this JVM has read of local files."""
    files = spark._jvm.org.apache.hadoop.fs.FileSystem  # type: ignore[union-attr]  # a session has a JVM
    return int(files.getGlobalStorageStatistics().get("file").getLong("bytesRead"))


def plan_of(frame: DataFrame) -> str:
    return str(frame._jdf.queryExecution().executedPlan().toString())
