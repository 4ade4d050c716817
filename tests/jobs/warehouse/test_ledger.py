"""What whoever starts next owes to runs that did not finish, and what readers go by."""

import datetime as dt
import hashlib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.warehouse.landing import CHANGE, Landing, StagedTable
from jobs.warehouse.lease import LeaseLostError
from jobs.warehouse.ledger import Event, Ledger
from schemas.spark import struct_type
from schemas.tables import PUBLISHED, TABLES
from tests.jobs.frames import frame

pytestmark = pytest.mark.spark

DAY, NEXT_DAY = dt.date(2026, 1, 30), dt.date(2026, 1, 31)


STATE = {
    "url_id": hashlib.sha256(b"url").hexdigest(),
    "ingest_date": DAY,
    "source_file": "list.csv",
    "row_number": 0,
    "outcome": "accepted",
    "state_effect": "content",
    "title": "before any run",
}


@pytest.fixture
def ledger(landing: Landing) -> Ledger:
    landing.ensure_tables(["runs", "url_state"])
    landing.append("url_state", [STATE])
    return Ledger(landing, lease_generation=7).load()


def started(ledger: Ledger, run_id: str, *dates: dt.date) -> Event:
    return ledger.append(Event(run_id, "nightly", "started", dates or (DAY,), 0))


def prepared(ledger: Ledger, event: Event) -> Event:
    """Stage a run that sets the state of one URL to the run's name, and say that it is prepared."""
    schema = struct_type(TABLES["url_state"]).add(CHANGE, "string")
    row = STATE | {"title": event.run_id, CHANGE: "update"}
    values = [row.get(name) for name in schema.fieldNames()]
    ledger.landing.stage(event.run_id, "url_state", frame(ledger.landing.spark, schema, [values]))
    ledger.landing.write_plan(event.run_id, [StagedTable("url_state", "url_state", 1, changes=True)])
    counts, metrics = {"sightings": 3}, {"seconds.crawl": 0.25}
    known = replace(event, event="prepared", counts=counts, metrics=metrics, policy_version="policy")
    return ledger.append(replace(known, inputs_digest="of a manifest"))


def titles(ledger: Ledger) -> list[str]:
    return [row.title for row in ledger.landing.read("url_state").collect()]


def story(ledger: Ledger) -> list[tuple[str, str]]:
    return [(event.run_id, event.event) for event in ledger.events]


def next_driver(spark: SparkSession, warehouse: Path) -> Ledger:
    """What a driver that starts afterwards reads."""
    return Ledger(Landing(spark, str(warehouse)), lease_generation=8).load()


def test_events_are_numbered_and_come_back_as_they_were_written(
    spark: SparkSession, ledger: Ledger, warehouse: Path
) -> None:
    ledger.publish(prepared(ledger, started(ledger, "run", DAY, NEXT_DAY)))
    read = next_driver(spark, warehouse)
    assert [event.seq for event in read.events] == [1, 2, 3]
    assert [event.event for event in read.events] == ["started", "prepared", "published"]
    assert [replace(event, at=None) for event in read.events] == [replace(event, at=None) for event in ledger.events]
    first, *_, last = read.events
    assert (first.ingest_dates, first.lease_generation, first.counts) == ((DAY, NEXT_DAY), 7, None)
    assert (last.counts, last.metrics, last.policy_version) == ({"sightings": 3}, {"seconds.crawl": 0.25}, "policy")
    assert last.table_versions is not None
    assert last.table_versions.keys() == set(PUBLISHED)
    assert last.table_versions["url_state"] == ledger.landing.version("url_state") == 2
    assert all(event.at is not None and event.at.year >= 2026 for event in read.events)


def test_the_next_driver_discards_the_unprepared_and_rolls_the_prepared_forward_in_their_order(
    spark: SparkSession, ledger: Ledger, warehouse: Path
) -> None:
    crashed = started(ledger, "crashed")
    ledger.landing.stage("crashed", "rows", spark.range(1).toDF("id"))
    late, early = started(ledger, "late"), started(ledger, "early")
    prepared(ledger, early)
    prepared(ledger, late)
    given_up = started(ledger, "given up")
    ledger.append(replace(given_up, event="discarded"))

    following = next_driver(spark, warehouse)
    written = following.recover()
    assert [(event.run_id, event.event) for event in written] == [
        ("crashed", "discarded"),
        ("early", "published"),
        ("late", "published"),
    ]
    assert titles(following) == ["late"]
    assert {event.lease_generation for event in written} == {8}
    assert [replace(event, at=None) for event in following.events] == [
        replace(event, at=None) for event in next_driver(spark, warehouse).events
    ]
    for event in (crashed, late, early):
        assert not following.landing.storage.exists("_staging", event.run_id)
    assert list(next_driver(spark, warehouse).recover()) == []


def test_a_run_killed_between_apply_and_published_is_rolled_forward_to_the_same(
    spark: SparkSession, ledger: Ledger, warehouse: Path
) -> None:
    event = prepared(ledger, started(ledger, "run"))
    ledger.landing.apply(event.run_id)
    following = next_driver(spark, warehouse)
    (published,) = following.recover()
    assert titles(following) == ["run"]
    assert published.table_versions is not None
    assert published.table_versions["url_state"] == following.landing.version("url_state")


def test_once_a_newer_holder_has_the_ledger_an_older_one_appends_nothing_and_is_told(
    spark: SparkSession, ledger: Ledger, warehouse: Path
) -> None:
    event = started(ledger, "run")
    following = next_driver(spark, warehouse).take()
    assert following.recorded_generation() == 8
    for kind in ("prepared", "discarded", "published"):
        with pytest.raises(
            LeaseLostError, match=r"generation 7 of the lease no longer writes .* has seen generation 8"
        ):
            ledger.append(replace(event, event=kind))
    assert story(next_driver(spark, warehouse)) == [("run", "started")]
    following.recover()
    started(following, "next")
    with pytest.raises(LeaseLostError):
        ledger.append(replace(event, event="prepared"))
    told = [("run", "started"), ("run", "discarded"), ("next", "started")]
    assert story(next_driver(spark, warehouse)) == story(following) == told
    assert story(ledger) == [("run", "started")]


def test_an_event_whose_commit_another_has_put_its_own_over_counts_as_not_written(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = ledger.landing.storage
    read = storage.read_text
    monkeypatch.setattr(storage, "read_text", lambda *parts: read(*parts).replace('"appId":"runs"', '"appId":"other"'))
    with pytest.raises(LeaseLostError):
        started(ledger, "run")


def say(ledger: Ledger, event: Event, seq: int, generation: int) -> None:
    """Append an event as a driver did whom nothing kept from it."""
    written = replace(event, seq=seq, lease_generation=generation, at=dt.datetime.now(dt.UTC))
    ledger.landing.append("runs", [asdict(written) | {"ingest_dates": list(written.ingest_dates)}])


def test_what_a_driver_said_of_a_run_after_it_was_settled_does_not_count(
    spark: SparkSession, ledger: Ledger, warehouse: Path
) -> None:
    run = started(ledger, "woken")
    discarded = ledger.append(replace(run, event="discarded"))
    say(ledger, replace(run, event="prepared"), discarded.seq, 6)
    say(ledger, replace(run, event="prepared"), discarded.seq + 1, 6)
    following = next_driver(spark, warehouse).take()
    assert following.unfinished() == []
    assert list(following.recover()) == []
    assert started(following, "next").seq == discarded.seq + 2


def test_files_of_events_are_put_together_and_an_older_holder_still_writes_nothing(
    spark: SparkSession, ledger: Ledger, warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.warehouse.ledger.MOST_FILES", 4)
    run = started(ledger, "run")
    assert not ledger.compact()
    for _ in range(4):
        ledger.append(replace(run, event="discarded"))
    told = next_driver(spark, warehouse).events
    assert ledger.compact()
    assert len(ledger.landing.read("runs").inputFiles()) == 1
    assert next_driver(spark, warehouse).events == told
    following = next_driver(spark, warehouse).take()
    with pytest.raises(LeaseLostError):
        started(ledger, "late")
    assert started(following, "next").seq == told[-1].seq + 1


@pytest.mark.parametrize("applied", [False, True], ids=["never applied", "applied"])
def test_a_prepared_run_whose_plan_is_gone_leaves_what_was_published(
    spark: SparkSession, ledger: Ledger, warehouse: Path, applied: bool
) -> None:
    ledger.publish(prepared(ledger, started(ledger, "published")))
    event = prepared(ledger, started(ledger, "lost"))
    if applied:
        ledger.landing.apply(event.run_id)
        assert titles(ledger) == ["lost"]
    ledger.landing.discard(event.run_id)
    following = next_driver(spark, warehouse).take()
    (discarded,) = following.recover()
    assert (discarded.run_id, discarded.event) == ("lost", "discarded")
    assert discarded.detail is not None
    assert ("url_state" in discarded.detail) is applied
    assert titles(following) == ["published"]
    following.publish(prepared(following, started(following, "next")))
    assert titles(following) == ["next"]


def test_a_driver_that_lost_its_lease_neither_writes_nor_deletes(ledger: Ledger) -> None:
    event = prepared(ledger, started(ledger, "run"))
    landing, files = ledger.landing, ledger.landing.storage.names("_staging", event.run_id)
    versions = {name: landing.version(name) for name in ("runs", "url_state")}

    def lost() -> None:
        raise LeaseLostError("taken over")

    landing.check_held = lost
    for write in (
        lambda: ledger.append(event),
        lambda: landing.apply(event.run_id),
        lambda: landing.stage(event.run_id, "more", landing.spark.range(1).toDF("id")),
        lambda: landing.write_plan(event.run_id, []),
        lambda: landing.discard(event.run_id),
        landing.purge,
        lambda: landing.ensure_tables(["clusters"]),
        ledger.take,
    ):
        with pytest.raises(LeaseLostError, match="taken over"):
            write()
    assert {name: landing.version(name) for name in versions} == versions
    assert landing.storage.names("_staging", event.run_id) == files
    assert landing.version("clusters") == -1


def test_readers_go_by_the_last_published_run_and_a_date_by_its_own(
    spark: SparkSession, ledger: Ledger, warehouse: Path
) -> None:
    assert ledger.last_published() is None
    for run_id, dates in (("first", (DAY,)), ("both", (DAY, NEXT_DAY)), ("again", (DAY,))):
        ledger.publish(prepared(ledger, started(ledger, run_id, *dates)))
    prepared(ledger, started(ledger, "not published", NEXT_DAY))
    started(ledger, "not prepared", NEXT_DAY)
    read = next_driver(spark, warehouse)
    for known in (ledger, read):
        last, today, tomorrow = known.last_published(), known.published_for(DAY), known.published_for(NEXT_DAY)
        assert last is not None
        assert today is not None
        assert tomorrow is not None
        assert (last.run_id, today.run_id, tomorrow.run_id) == ("again", "again", "both")
        assert known.published_for(dt.date(2026, 2, 1)) is None
    assert [event.run_id for event in read.unfinished()] == ["not published", "not prepared"]
    assert story(read) == story(ledger)


def test_staging_is_kept_where_the_profile_says_so(ledger: Ledger) -> None:
    event = prepared(ledger, started(ledger, "run"))
    ledger.publish(event, keep_staging=True)
    assert ledger.landing.storage.exists("_staging", "run", "plan.json")
