"""One Spark session a test run, opened as every job opens it, and an empty warehouse for each test."""

import os
from collections.abc import Callable, Generator, Iterator
from itertools import count
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")  # read when keras is first imported, wherever that happens

import hypothesis
import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.config.profile import load
from jobs.startup.session import LOCAL_JAVA_OPTIONS, open_session
from jobs.warehouse.landing import Landing

# How long an example takes says how busy the machine is, and nothing about what is tested.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

LONGEST = ("properties", "e2e", "demo")
"""Folders whose tests take minutes. They begin: what is short fills what is left, where several processes share."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark whatever uses the session as a Spark test; put the longest first."""
    for item in items:
        if "spark" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("cluster"):
            item.add_marker("spark")
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.relative_to(item.config.rootpath).parts[1], len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """End the test run at a test that ran out of time: it may have been interrupted in the middle of a call of the JVM,
    and from then on every answer is that of the call before."""
    report = yield
    if call.excinfo is not None and "from pytest-timeout" in str(call.excinfo.value):
        item.session.shouldstop = f"{item.nodeid} ran out of time; what it was interrupted in may be left half done"
    return report


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """The local profile's session; tests share it, so what a test sets in its configuration it sets back."""
    config = load("conf/local.yaml")
    properties = config.spark.properties | {
        # A night's JVM is too short-lived for the second compiler; this one lives for half an hour.
        "spark.driver.extraJavaOptions": " ".join(
            option for option in LOCAL_JAVA_OPTIONS if not option.startswith("-XX:TieredStopAtLevel")
        ),
    }
    session = open_session(
        config.model_copy(update={"spark": config.spark.model_copy(update={"properties": properties})})
    )
    yield session
    session.stop()


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    """Where a warehouse may be made; the folder does not exist yet. Its name is one that is easily mistaken for a glob
    pattern, or for a URL, encoded and with a fragment."""
    return tmp_path / "a ware+house [1] 50%20 #2?"


@pytest.fixture
def landing(spark: SparkSession, warehouse: Path) -> Landing:
    """The landing of the test's warehouse, without tables."""
    return Landing(spark, str(warehouse))


@pytest.fixture
def materialise(landing: Landing) -> Callable[[DataFrame], DataFrame]:
    """Writes a frame and gives it back as written, the way a run stages its intermediate results."""
    numbers = count()
    return lambda frame: landing.stage("test", f"step_{next(numbers)}", frame)
