"""What a session on one machine does otherwise than a cluster's."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as f


def test_local_files_have_no_files_of_checksums_beside_them(spark: SparkSession, tmp_path: Path) -> None:
    spark.range(2).write.format("delta").save(str(tmp_path / "table"))
    spark.range(2).write.parquet(str(tmp_path / "files"))
    hidden = [path.name for path in tmp_path.rglob(".*.crc")]
    assert hidden == []


def test_buffers_of_object_stores_find_the_local_file_system_that_they_expect(
    spark: SparkSession, tmp_path: Path
) -> None:
    """S3A buffers what it writes in files that it makes by this class."""
    configuration = spark._jsc.hadoopConfiguration()
    configuration.set("test.buffers", str(tmp_path))
    allocator = spark._jvm.org.apache.hadoop.fs.LocalDirAllocator("test.buffers")  # type: ignore[union-attr]
    made = allocator.createTmpFileForWrite("buffer", 1, configuration)
    assert Path(str(made)).parent == tmp_path


def test_the_catalog_leaves_no_folder_in_the_working_directory(spark: SparkSession) -> None:
    assert spark.sql("SHOW TABLES").count() == 0
    assert not Path("spark-warehouse").exists()
    assert str(spark.conf.get("spark.sql.warehouse.dir")).startswith("file:/")


def test_what_a_night_says_to_the_jvm_is_said_without_asking_what_it_means(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    assert spark._jvm is not None
    client = spark._jvm._gateway_client
    send = client.send_command

    def listen(command: str, *args: object, **options: object) -> object:
        said.append(command)
        return send(command, *args, **options)

    monkeypatch.setattr(client, "send_command", listen)
    compared = f.col("a") == f.lit(2)
    assert str(compared) == "Column<'=(a, 2)'>"
    asked = [command for command in said if command.startswith("r")]
    assert asked == [], "py4j's reflection command: what does this name stand for?"
    assert len(said) < 12, said
