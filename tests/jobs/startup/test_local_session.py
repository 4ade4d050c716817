"""What a session on one machine does otherwise than a cluster's."""

from pathlib import Path

from pyspark.sql import SparkSession


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
