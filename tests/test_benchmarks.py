"""What benchmarks make by themselves stays what the job would make."""

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from benchmarks.synthetic_warehouse import write_history
from jobs.config.profile import load
from jobs.startup.preflight import check
from lensfeed import open_feed


@pytest.mark.spark
def test_a_synthetic_history_has_the_hashes_and_groups_of_the_job(spark: SparkSession, tmp_path: Path) -> None:
    config = load("conf/demo.yaml", [f"warehouse={tmp_path / 'warehouse'}", "manifest.path=none"])
    write_history(spark, config, check(config)[1], images=40, pixels=64)  # which holds the groups against dedup's
    snapshot = open_feed(tmp_path / "warehouse")
    assert [snapshot.row_count(name) for name in ("sightings", "images", "clusters", "index_feed")] == [40, 40, 40, 38]
