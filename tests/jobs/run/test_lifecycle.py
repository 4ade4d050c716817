"""What a run owes to the disk is in the ledger before it is published, and repeated until it is done; nobody's staging
stays."""

import datetime as dt
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs.config.errors import RunError
from jobs.config.profile import load
from jobs.config.progress import log
from jobs.run.context import Work
from jobs.run.lifecycle import Warehouse, held
from jobs.run.upkeep import UpkeepPlan, maintain, standing_pins, survey
from jobs.warehouse.landing import Landing, StagedTable
from jobs.warehouse.ledger import Event, Ledger, Versions
from lensfeed import SnapshotGoneError, open_feed, pinned
from lensfeed.pins import FOLDER, Pin
from schemas.policy import Policy
from tests.jobs.frames import frame, table_frame

pytestmark = pytest.mark.spark

TEXTS = ["0" * 64, "1" * 64, "2" * 64]
VERSIONS = Versions("policy", "gate", "model", "text model", "rule", "canonical")
_RULE = {"id": "nsfw", "kind": "nsfw", "action": "block", "reason": "nsfw", "at_least": 0.9, "comment": "test"}
POLICY = Policy.model_validate({"name": "test", "rules": [_RULE]})

Holding = Callable[..., AbstractContextManager[Warehouse]]


@pytest.fixture(scope="module")
def _few_tables() -> Iterator[None]:
    """The ledger and one table of vectors: making the others would only take time."""
    made = Landing.ensure_tables
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Landing, "ensure_tables", lambda landing: made(landing, ["runs", "text_embeddings"]))
        yield


@pytest.fixture(scope="module")
def filled(spark: SparkSession, _few_tables: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse that a run has put three vectors into."""
    folder = tmp_path_factory.mktemp("filled") / "warehouse"
    with hold(spark, folder) as first:
        work = first.work()
        assert first.publish(work, lambda: add(work, TEXTS)) is not None
        assert not first.ledger.owing()
    assert on_disk(folder) == set(TEXTS)
    return folder


@pytest.fixture
def warehouse(filled: Path, warehouse: Path) -> Path:
    """A copy of it under an odd name."""
    return Path(shutil.copytree(filled, warehouse))


@pytest.fixture
def holding(spark: SparkSession, warehouse: Path) -> Holding:
    """Holds the test's warehouse as a job does; each time from what is on disk alone."""
    return lambda *settings: hold(spark, warehouse, *settings)


def hold(spark: SparkSession, warehouse: Path, *settings: str) -> AbstractContextManager[Warehouse]:
    config = load("conf/demo.yaml", ["manifest.path=none", f"warehouse={warehouse}", *settings])
    return held(spark, config, POLICY, VERSIONS, job="test", what="test")


def add(work: Work, text_ids: list[str]) -> None:
    rows = [{"text_id": one, "text_model_version": "m", "vector": [1.0], "run_id": "r"} for one in text_ids]
    work.stage("texts", table_frame(work.spark, "text_embeddings", rows), {"text_embeddings": "true"})
    work.plan_rows("text_embeddings", "texts")
    work.write_plan()


def remove(work: Work, text_id: str) -> None:
    gone = frame(work.spark, "text_id string, image_id string", [(text_id, None)])
    staged = work.stage("removed", gone)
    work.counts["texts_removed"] = staged.count()
    work.plan.append(StagedTable("text_embeddings", "removed", 1, where="text_id is not null", removes=True))
    work.write_plan()


def remove_one(warehouse: Warehouse) -> Event:
    work = warehouse.work()
    event = warehouse.publish(work, lambda: remove(work, TEXTS[1]))
    assert event is not None
    return event


def story(spark: SparkSession, warehouse: Path, run_id: str) -> list[str]:
    return [event.event for event in Ledger(Landing(spark, str(warehouse)), 0).load().events if event.run_id == run_id]


def on_disk(warehouse: Path) -> set[str]:
    """Texts of which any file below the warehouse holds a vector, staged or live or neither any more."""
    files = [path for path in warehouse.rglob("*.parquet") if {"text_id", "vector"} <= set(pq.read_schema(path).names)]
    return {text for path in files for text in pq.ParquetFile(path).read(columns=["text_id"]).column(0).to_pylist()}


def test_what_a_run_remarks_stays_in_the_ledger(spark: SparkSession, warehouse: Path, holding: Holding) -> None:
    with holding() as first:
        work = first.work()
        work.remark = "accepted: the host is moving"
        event = first.publish(work, lambda: add(work, ["3" * 64]))
        assert event is not None
    events = Ledger(Landing(spark, str(warehouse)), 0).load().events
    assert {one.event: one.detail for one in events if one.run_id == event.run_id} == {
        "started": None,
        "prepared": "accepted: the host is moving",
        "published": "accepted: the host is moving",
    }


class Killed(BaseException):
    """What ends a job at once, as far as a process can do that to itself."""


def after(times: int, target: Any) -> Any:
    """`target`, which is not reached after it was called so many times."""
    left = iter(range(times))

    def call(*arguments: Any, **named: Any) -> Any:
        if next(left, None) is None:
            raise Killed
        return target(*arguments, **named)

    return call


def test_what_a_run_takes_out_leaves_the_disk_and_the_ledger_says_so(
    spark: SparkSession, holding: Holding, warehouse: Path
) -> None:
    with holding() as first:
        added = first.ledger.events[0]
        removed = remove_one(first)
    assert on_disk(warehouse) == {TEXTS[0], TEXTS[2]}
    assert story(spark, warehouse, added.run_id) == ["started", "prepared", "published"]
    assert story(spark, warehouse, removed.run_id) == ["started", "prepared", "published", "purged"]
    ledger = Ledger(Landing(spark, str(warehouse)), 0).load()
    prepared = next(event for event in ledger.events if event.event == "prepared" and event.run_id == removed.run_id)
    assert (prepared.counts or {})["texts_removed"] == 1  # what will be owed is known before it is published
    # Readers go by the run, not by the purge; and the purge made no version that they do not know of.
    assert ledger.last_published() == next(event for event in ledger.events if event.seq == removed.seq)
    assert removed.table_versions == ledger.landing.versions()
    with holding() as second:
        assert not second.ledger.owing()


@pytest.mark.parametrize(
    ("owner", "name", "calls", "last"),
    [
        (Landing, "apply", 0, "prepared"),
        (Landing, "versions", 0, "prepared"),
        (Landing, "discard", 0, "published"),
        (Landing, "purge", 0, "published"),
        (Landing, "_vacuum", 0, "published"),
        (Ledger, "append", 3, "published"),
    ],
    ids=[
        "before it is applied",
        "before published",
        "between published and the deletion of staging",
        "between published and the purge",
        "in the purge",
        "between the purge and its event",
    ],
)
def test_whoever_comes_next_finishes_what_a_killed_run_owes(
    spark: SparkSession,
    holding: Holding,
    warehouse: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    calls: int,
    last: str,
) -> None:
    with holding() as first, monkeypatch.context() as killing:
        killing.setattr(owner, name, after(calls, getattr(owner, name)))
        with pytest.raises(Killed):
            remove_one(first)
    events = Ledger(Landing(spark, str(warehouse)), 0).load().events
    assert events[-1].event == last
    assert on_disk(warehouse) == set(TEXTS) or last == "published"
    with holding():
        pass
    assert on_disk(warehouse) == {TEXTS[0], TEXTS[2]}
    landing = Landing(spark, str(warehouse))
    assert landing.staged_runs() == []
    assert story(spark, warehouse, events[-1].run_id) == ["started", "prepared", "published", "purged"]
    assert not Ledger(landing, 0).load().owing()


def test_a_purge_that_fails_is_said_and_tried_again(
    spark: SparkSession, holding: Holding, warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no such host")

    with monkeypatch.context() as failing, holding() as first:
        failing.setattr(Landing, "_vacuum", full)
        with pytest.raises(
            RunError, match=r"what the published runs \S+ took out could not be deleted from disk .*OSErr"
        ):
            remove_one(first)
        assert [event.event for event in first.ledger.owing()] == ["published"]
        assert on_disk(warehouse) == set(TEXTS)
    with holding():
        assert on_disk(warehouse) == {TEXTS[0], TEXTS[2]}


def test_nobodys_staging_stays(spark: SparkSession, holding: Holding, warehouse: Path) -> None:
    """Of runs that failed, that were killed before the ledger knew them, and that were published, unless asked for."""

    def staged() -> set[str]:
        return set(Landing(spark, str(warehouse)).staged_runs())

    landing = Landing(spark, str(warehouse))
    with holding() as killed:
        for run_id in ("never heard of", "never prepared"):
            landing.stage(run_id, "crawl", spark.range(1).toDF("id"))
        killed.ledger.append(Event("never prepared", "nightly", "started", (), 0))
    with holding("run.keep_staging=true") as first:
        assert staged() == set()
        work = first.work()
        assert first.publish(work, lambda: add(work, ["3" * 64])) is not None
    with holding("run.keep_staging=true"):
        assert staged() == {work.run_id}
    with holding():
        assert staged() == set()
    with holding("run.keep_staging=true") as again:
        landing.stage(work.run_id, "crawl", spark.range(1).toDF("id"))
        remove_one(again)
        assert staged() == set()  # what was taken out is nowhere on disk, whatever the profile says


def test_a_run_with_rows_that_a_table_would_refuse_is_never_prepared(
    spark: SparkSession, holding: Holding, warehouse: Path
) -> None:
    with holding() as first:
        work = first.work()
        with pytest.raises(RunError, match=r"table text_embeddings would refuse .*: 1 break vector_present"):
            first.publish(work, lambda: _add_empty(work))
        assert first.landing.staged_runs() == []
    assert story(spark, warehouse, work.run_id) == ["started", "discarded"]
    assert Landing(spark, str(warehouse)).version("text_embeddings") == 1


def _add_empty(work: Work) -> None:
    row = {"text_id": TEXTS[0], "text_model_version": "m", "vector": [], "run_id": "r"}
    work.stage("texts", table_frame(work.spark, "text_embeddings", [row]), {"text_embeddings": "true"})
    work.plan_rows("text_embeddings", "texts")
    work.write_plan()


# Upkeep -------------------------------------------------------------------------------------------------------------

MORE = ["4" * 64, "5" * 64]


@pytest.fixture
def crowded(holding: Holding, warehouse: Path) -> Path:
    """With two more nights' files."""
    for text in MORE:
        with holding() as held_once:
            work = held_once.work()
            assert held_once.publish(work, lambda work=work, text=text: add(work, [text])) is not None
    return warehouse


def vectors(landing: Landing, version: int | None = None) -> list[str]:
    return sorted(row["text_id"] for row in landing.read("text_embeddings", version).select("text_id").collect())


def files(landing: Landing) -> int:
    return len(landing.read("text_embeddings").inputFiles())


def test_small_files_are_put_together_and_old_ones_stay_for_as_long_as_they_are_asked_for(
    spark: SparkSession, holding: Holding, crowded: Path
) -> None:
    landing = Landing(spark, str(crowded))
    before = landing.version("text_embeddings")
    there = files(landing)
    assert there >= 3
    with holding() as looked:
        found = {one.name: one for one in survey(looked, UpkeepPlan(0, there - 1))}
    assert (found["text_embeddings"].crowded, found["images"].crowded) == (there, 0)
    assert maintain(holding, UpkeepPlan(0, there)).put_together == 0  # not too many

    done = maintain(holding, UpkeepPlan(168, there - 1))
    assert (done.put_together, done.deleted) == (there, 0)
    landing = Landing(spark, str(crowded))
    assert (files(landing), vectors(landing)) == (1, sorted([*TEXTS, *MORE]))
    published = Ledger(landing, 0).load().last_published()
    assert published is not None
    assert published.table_versions == landing.versions()  # readers go by what is put together
    assert vectors(landing, before) == sorted([*TEXTS, *MORE])

    events = len(Ledger(landing, 0).load().events)
    done = maintain(holding, UpkeepPlan(0, 2))
    assert (done.put_together, done.deleted >= there, done.freed > 0) == (0, True, True)
    assert len(Ledger(landing, 0).load().events) == events  # nothing to publish
    table = crowded / "text_embeddings"
    assert len([file for file in table.rglob("*.parquet") if "_delta_log" not in file.parts]) == 1
    assert vectors(Landing(spark, str(crowded))) == sorted([*TEXTS, *MORE])


def test_what_a_reader_has_pinned_stays_while_it_reads(
    holding: Holding, crowded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = open_feed(crowded)
    assert maintain(holding, UpkeepPlan(168, 2)).put_together >= 3  # its files are none of the newest version
    with pinned(snapshot, by="an index", hours=1), holding() as looked:
        (pin,) = standing_pins(looked.landing.storage)
        assert (pin.by, pin.run_id) == ("an index", snapshot.run_id)
    with pinned(snapshot, by="an \x1b[31mindex", hours=1):
        log.addHandler(caplog.handler)
        try:
            with caplog.at_level("INFO", log.name):
                maintain(holding, UpkeepPlan(0, 2))
        finally:
            log.removeHandler(caplog.handler)
        assert f"an \ufffd[31mindex reads run {snapshot.run_id}" in caplog.text
        assert sorted(snapshot.rows("text_embeddings")["text_id"].to_pylist()) == sorted([*TEXTS, *MORE])
    # One that has been forgotten holds back nothing, and goes.
    over = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    (crowded / FOLDER / "over.json").write_text(Pin("run", snapshot.published_at, "an index", over).as_json())
    assert maintain(holding, UpkeepPlan(0, 2)).deleted >= 3
    assert not list((crowded / FOLDER).iterdir())
    with pytest.raises(SnapshotGoneError):
        snapshot.rows("text_embeddings")


def test_a_pin_that_cannot_be_read_stops_upkeep_in_words(holding: Holding, crowded: Path) -> None:
    (crowded / FOLDER).mkdir()
    (crowded / FOLDER / "torn.json").write_text('{"run_id": "a')
    with pytest.raises(RunError, match=r"torn\.json is no pin of a reader: .*; delete it if nobody reads"):
        maintain(holding, UpkeepPlan(0, 100))
    assert len(list((crowded / "text_embeddings").rglob("part-*.parquet"))) >= 3


@pytest.mark.parametrize(("owner", "name"), [(Landing, "put_together"), (Landing, "versions"), (Landing, "vacuum")])
def test_upkeep_that_is_killed_takes_nothing_that_readers_go_by(
    spark: SparkSession, holding: Holding, crowded: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    with monkeypatch.context() as killing:
        killing.setattr(owner, name, after(0, getattr(owner, name)))
        with pytest.raises(Killed):
            maintain(holding, UpkeepPlan(0, 2))
    with holding() as following:
        remove_one(following)  # after which all old files are deleted
    landing = Landing(spark, str(crowded))
    published = Ledger(landing, 0).load().last_published()
    assert published is not None
    assert published.table_versions == landing.versions()
    assert vectors(landing) == sorted({*TEXTS, *MORE} - {TEXTS[1]})
    maintain(holding, UpkeepPlan(0, 2))
    assert files(Landing(spark, str(crowded))) <= 2
    assert vectors(Landing(spark, str(crowded))) == sorted({*TEXTS, *MORE} - {TEXTS[1]})


def test_nothing_is_put_together_where_nothing_is_published(
    spark: SparkSession, holding: Holding, warehouse: Path
) -> None:
    shutil.rmtree(warehouse)
    assert maintain(holding, UpkeepPlan(0, 1)).put_together == 0
