"""What is kept of a date that was fetched ahead, for whom, and for how long."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.config.profile import load
from jobs.config.progress import Progress
from jobs.run import ahead
from jobs.run.context import Work, is_older, new_run_id
from jobs.run.names import Dataset
from jobs.warehouse.landing import Landing
from tests.jobs.frames import frame
from tests.jobs.run.test_lifecycle import POLICY, VERSIONS

pytestmark = pytest.mark.spark

DATE = dt.date(2026, 3, 1)
LATER = DATE + dt.timedelta(days=1)

Working = Callable[..., Work]


@pytest.fixture
def working(spark: SparkSession, warehouse: Path) -> Working:
    """A run on the test's warehouse."""

    def work(*settings: str, staging: str = "_staging", run_id: str | None = None) -> Work:
        config = load("conf/demo.yaml", ["manifest.path=none", f"warehouse={warehouse}", *settings])
        landing = Landing(spark, str(warehouse), staging=staging)
        return Work(spark, landing, config, POLICY, VERSIONS, run_id or new_run_id(), Progress("test"))

    return work


def fetch(work: Work, *, unexpected: bool = False) -> str:
    """Stage a run's datasets and keep them; its id."""
    for name in ("rows", Dataset.CRAWL, Dataset.VECTORS, Dataset.TEXTS):
        work.stage(name, frame(work.spark, "name string", [[str(name)]]))
    ahead.keep(work, DATE, "inputs", unexpected=unexpected)
    return work.run_id


@pytest.mark.parametrize("staging", ["_staging", ahead.FOLDER])
def test_what_a_run_would_come_to_as_well_is_found(working: Working, staging: str) -> None:
    run_id = fetch(working(staging=staging))
    found = ahead.find(working(), DATE, "inputs")
    assert found is not None
    assert found.crawled.first() == ("crawl",)
    assert found.texts.first() == ("texts",)
    assert list(found.vectors) == [Dataset.VECTORS]
    # Rows of the manifest, which may hold passwords, are not kept.
    assert working().landing.storage.names(ahead.FOLDER, run_id) == ["crawl", "stamp.json", "texts", "vectors"]


def test_nothing_is_found_where_a_run_may_come_to_something_else(working: Working) -> None:
    fetch(working())
    assert ahead.find(working(), LATER, "inputs") is None
    assert ahead.find(working(), DATE, "other inputs") is None
    assert ahead.find(working("dedup.max_hamming=2"), DATE, "inputs") is None
    other = working()
    other.versions = replace(VERSIONS, policy_version="another")
    assert ahead.find(other, DATE, "inputs") is None
    other.landing.ensure_tables(["takedowns"])
    assert ahead.find(working(), DATE, "inputs") is None
    # Whoever holds the warehouse deletes it then.
    ahead.sweep(other.landing)
    assert other.landing.storage.names(ahead.FOLDER) == []


def test_what_was_not_as_expected_is_for_those_who_accept_it(working: Working) -> None:
    fetch(working(), unexpected=True)
    assert ahead.find(working(), DATE, "inputs") is None
    assert ahead.find(working(), DATE, "inputs", accepting=True) is not None


def test_another_policy_overtakes_what_was_judged_by_the_one_before(working: Working) -> None:
    fetch(working())
    landing = working().landing
    ahead.sweep(landing, VERSIONS)
    assert len(landing.storage.names(ahead.FOLDER)) == 1
    ahead.sweep(landing, replace(VERSIONS, policy_version="another"))
    assert landing.storage.names(ahead.FOLDER) == []


def test_it_is_kept_until_its_date_is_published_or_it_is_old(working: Working) -> None:
    kept = fetch(working())
    old = fetch(working(run_id="20260101T000000-0badcafe"))
    work, storage = working(), working().landing.storage
    half = working(staging=ahead.FOLDER)  # still being fetched
    half.stage(Dataset.CRAWL, frame(half.spark, "name string", [["half"]]))
    ahead.sweep(work.landing)
    ahead.sweep(work.landing, VERSIONS)
    assert sorted(storage.names(ahead.FOLDER)) == sorted([kept, half.run_id])
    assert old not in storage.names(ahead.FOLDER)
    ahead.forget(storage, LATER)
    assert kept in storage.names(ahead.FOLDER)
    ahead.forget(storage, DATE)
    assert storage.names(ahead.FOLDER) == [half.run_id]
    ahead.sweep_all(storage)
    assert storage.names(ahead.FOLDER) == []


def test_runs_say_in_their_names_when_they_were_begun() -> None:
    hour = dt.timedelta(hours=1)
    assert not is_older(new_run_id(), hour)
    assert is_older("20260101T000000-0badcafe", hour)
    assert is_older("whatever", hour)
