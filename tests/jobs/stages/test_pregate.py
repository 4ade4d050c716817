"""The pre-gate as a stage: what no row may do to the others."""

import datetime as dt

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from jobs.stages.pregate import judge_rows
from schemas.policy import Policy
from schemas.spark import struct_type
from schemas.tables import MANIFEST_COLUMNS, TABLES
from tests.jobs.frames import frame

pytestmark = pytest.mark.spark

POLICY = Policy.model_validate(
    {
        "name": "test",
        "rules": [
            {"id": "text", "kind": "text", "action": "review", "reason": "text", "words": ["gore"], "comment": "-"},
            {"id": "nsfw", "kind": "nsfw", "action": "block", "reason": "nsfw", "at_least": 0.8, "comment": "-"},
        ],
    }
)
DDL = ", ".join(
    ["ingest_date date", "source_file string", "row_number bigint", "malformed string"]
    + [f"{name} {kind}" for name, kind in MANIFEST_COLUMNS.items()]
)
NO_UTF8 = "no UTF-8"


def test_hostile_rows_cost_themselves_and_never_the_stage(spark: SparkSession) -> None:
    given = [
        {"title": "a cat"},
        {"title": "&#" + "5" * 5000},
        {"url": "http://a.example:" + "0" * 5000 + "/"},
        {"title": NO_UTF8},
        {"description": "<div>" * 200_000, "tags": ["<![", "go<b></b>re"]},
        {"title": "gore"},
    ]
    names = frame(spark, DDL, []).columns
    rows = [
        [(known | extra).get(name) for name in names]
        for number, extra in enumerate(given)
        for known in [
            {"ingest_date": dt.date(2026, 1, 1), "source_file": "f", "row_number": number, "url": "http://a.example/x"}
        ]
    ]
    # As a Parquet file has it whose writer took Latin-1 for UTF-8; Spark takes it as it is.
    latin_1 = f.when(f.col("title") == NO_UTF8, f.expr("cast(X'636166E9' as string)")).otherwise(f.col("title"))
    manifest = frame(spark, DDL, rows).withColumn("title", latin_1)
    nobody = frame(spark, struct_type(TABLES["overrides"]), [])
    found = {row.row_number: row for row in judge_rows(manifest, POLICY, nobody).collect()}
    assert [found[number].bad_row for number in range(6)] == [None, None, "url: port", "title: not UTF-8", None, None]
    assert [found[number].reasons for number in range(6)] == [[], [], [], [], ["text"], ["text"]]
    assert found[1].text == "\ufffd"
    assert found[3].title == "caf\ufffd"
