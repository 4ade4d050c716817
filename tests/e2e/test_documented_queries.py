"""The SQL of docs/queries.md runs on Spark over the demo's nights, by the views that the page makes, and finds rows.

What it finds is held against other engines in tests/test_queries.py, on a warehouse whose rows are known.
"""

import pytest
from pyspark.sql import SparkSession

from tests.e2e.conftest import Nights
from tests.test_queries import FIRST, QUERIED, SECTIONS

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def reading(spark: SparkSession, in_order: Nights) -> SparkSession:
    """A session with the page's views."""
    session = spark.newSession()
    (block,) = [text for kind, text in SECTIONS[FIRST] if kind == "python" and "createOrReplaceTempView" in text]
    named = block.replace('WAREHOUSE = "demo-output/warehouse"', f"WAREHOUSE = {str(in_order.warehouse)!r}")
    assert named != block
    exec(compile(named, "docs/queries.md", "exec"), {"spark": session})
    return session


@pytest.mark.parametrize("name", QUERIED)
def test_the_pages_sql_runs_on_spark_and_finds_rows(reading: SparkSession, name: str) -> None:
    (sql,) = [text for kind, text in SECTIONS[name] if kind == "sql"]
    (some,) = reading.sql("SELECT min(feed_id) FROM index_feed").first() or ()
    sql = sql.replace("feed_id = 42", f"feed_id = {some}")  # "42 stands for yours"
    assert reading.sql(sql).count() > 0
