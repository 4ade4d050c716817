"""The audit stops a run whose staged result breaks what the tables promise, and says what is wrong."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.config.errors import RunError
from jobs.run.audit import (
    check_accounting,
    check_clusters,
    check_distinct,
    check_gate_first,
    check_rows_read,
    check_urls,
    check_vectors,
    neighbour_overlap,
    outcome_counts,
)
from tests.jobs.frames import frame

pytestmark = pytest.mark.spark

SIGHTING = "ingest_date date, source_file string, row_number bigint"
CRAWLED = "image_id string, decision string, has_pixels boolean"


def vectors(spark: SparkSession, *rows: Sequence[float]) -> DataFrame:
    return frame(spark, "image_id string, vector array<float>", [(str(n), list(row)) for n, row in enumerate(rows)])


def test_rows_are_counted_by_outcome_by_failure_and_by_every_reason_of_those_that_are_blocked(
    spark: SparkSession,
) -> None:
    rows = [
        ("accepted", None, []),
        ("blocked", None, ["nsfw"]),
        ("blocked", None, ["domain", "nsfw"]),
        ("review", None, ["nsfw_maybe"]),
        ("failed", "dns", []),
        ("failed", "dns", None),
        ("failed", "gone", []),
    ]
    assert outcome_counts(frame(spark, "outcome string, failure_code string, reasons array<string>", rows)) == {
        "sightings": 7,
        "outcome.accepted": 1,
        "outcome.blocked": 2,
        "outcome.review": 1,
        "outcome.failed": 3,
        "blocked.nsfw": 2,
        "blocked.domain": 1,
        "failed.dns": 2,
        "failed.gone": 1,
    }


def test_neighbours_are_the_same_under_a_turned_space_and_others_under_one_of_chance() -> None:
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(1100, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    turned = (vectors @ np.linalg.qr(chance.normal(size=(16, 16)))[0]).astype(np.float32)
    other = chance.permutation(vectors)
    assert neighbour_overlap(vectors, turned) == pytest.approx(1, abs=1e-3)
    assert neighbour_overlap(vectors, other) == pytest.approx(10 / 1099, abs=5e-3)
    assert neighbour_overlap(vectors[:2], vectors[:2]) is None
    line = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    assert neighbour_overlap(line, line[:, ::-1].copy()) == 1
    assert neighbour_overlap(line, np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32)) == 0


def test_unit_vectors_of_the_models_dimension_pass(spark: SparkSession) -> None:
    found = check_vectors(vectors(spark, (0.6, 0.8), (1.0, 0.0), (-0.6, 0.8004)), 2)
    assert found == pytest.approx((0.6 + 0.28 - 0.6) / 3, abs=1e-3)
    assert check_vectors(vectors(spark, (0.6, 0.8), (0.6, 0.8)), 2) == pytest.approx(1)
    assert check_vectors(vectors(spark, (0.6, 0.8)), 2) is None


@pytest.mark.parametrize("bad", [(0.6, 0.8, 0.0), (0.6, 0.7), (0.0, 0.0), (math.nan, 1.0), (math.inf, 0.0), ()])
def test_any_other_vector_stops_the_run(spark: SparkSession, bad: tuple[float, ...]) -> None:
    with pytest.raises(RunError, match="embeddings: 1 staged vectors are not unit vectors of dimension 2"):
        check_vectors(vectors(spark, (0.6, 0.8), bad), 2)


def test_pixels_without_an_allow_stop_the_run(spark: SparkSession) -> None:
    allowed = [("a", "allow", True), ("b", "block", False), ("c", None, False)]
    check_gate_first(frame(spark, CRAWLED, allowed), [])
    for decision in ("block", "review", None):
        crawled = frame(spark, CRAWLED, [*allowed, ("d", decision, True)])
        with pytest.raises(RunError, match="gate: 1 staged rows hold pixels without an allow"):
            check_gate_first(crawled, [])


def test_vectors_of_what_is_not_allowed_stop_the_run_whichever_model_made_them(spark: SparkSession) -> None:
    crawled = frame(spark, CRAWLED, [("0", "allow", True), ("1", "block", False)])
    good, stray = vectors(spark, (0.6, 0.8)), vectors(spark, (0.6, 0.8), (0.6, 0.8))
    check_gate_first(crawled, [good, good])
    with pytest.raises(RunError, match="gate: 1 staged vectors belong to images that this run has not allowed"):
        check_gate_first(crawled, [good, stray])


def test_rows_that_are_lost_or_decided_twice_stop_the_run(spark: SparkSession) -> None:
    rows = frame(spark, SIGHTING, [(None, "f", n) for n in range(3)])
    check_accounting(3, rows, {"sightings": 3})
    check_distinct(rows)
    lost, twice = rows.where("row_number < 2"), rows.unionByName(rows.where("row_number = 0"))
    with pytest.raises(RunError, match="the manifest has 3 rows, but there are 2 sightings with 2 distinct keys"):
        check_accounting(3, lost, {"sightings": 2})
    for owed in (3, 4):
        with pytest.raises(RunError, match="there are 4 sightings with 3 distinct keys"):
            check_accounting(owed, twice, {"sightings": 4})
    with pytest.raises(RunError, match="the manifest has 4 rows, but there are 3 sightings with 3 distinct keys"):
        check_accounting(4, rows, {"sightings": 3})
    with pytest.raises(RunError, match="1 sightings were decided more than once"):
        check_distinct(twice)


@pytest.mark.parametrize("read", [2, 4])
def test_rows_that_the_reader_loses_or_makes_up_stop_the_run(read: int) -> None:
    check_rows_read(3, 3)
    with pytest.raises(RunError, match=f"3 rows by an independent count, but {read} were read"):
        check_rows_read(3, read)


def test_a_representative_that_is_a_member_elsewhere_stops_the_run(spark: SparkSession) -> None:
    columns = "image_id string, representative_id string, _change string"
    sound = [("a", "a", "insert"), ("b", "a", "update"), ("c", "b", "delete")]
    check_clusters(frame(spark, columns, sound))
    with pytest.raises(RunError, match="clusters: 1 representatives are members of another cluster"):
        check_clusters(frame(spark, columns, [*sound, ("d", "b", "insert")]))


def test_a_manifest_of_something_else_than_urls_stops_the_run_and_shows_what_it_has(spark: SparkSession) -> None:
    judged = "source_file string, row_number bigint, url string, bad_row string"
    rows = frame(
        spark, judged, [("a.txt", 1, "/b", "url: scheme"), ("a.txt", 0, "/a\x1b[2J" + "x" * 200, "url: scheme")]
    )
    check_urls("m", "url", rows, 1, 2)
    check_urls("m", "url", rows.limit(0), 0, 0)
    with pytest.raises(RunError) as raised:
        check_urls("m", "link", rows, 0, 2)
    said = str(raised.value)
    assert said.startswith("manifest m: none of its 2 rows has a usable URL; the first, 'a.txt row 0' counted from 0, ")
    assert said.isprintable()
    assert len(said) < 330
    assert "(url: scheme). Expected http:// or https:// URLs in 'link'" in said
