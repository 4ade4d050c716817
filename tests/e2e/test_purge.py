"""Promise 2 on disk: what is withdrawn leaves every file that holds it or was made of it, whichever job finds out; and
the tables' logs, which outlive the files, never held a part of a URL or a text."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from demo.pictures import Picture
from jobs import takedown
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Ledger
from lensfeed import changes, changes_to
from lensfeed.snapshot import Snapshot, SnapshotGoneError
from schemas.tables import KEEPING_FILES, PURGED, TABLES, TELLING_TEXTS
from tests.e2e.conftest import World
from tests.e2e.killed import run_killed
from tests.e2e.small import DAYS, SmallWorld, contents_on_disk, small_world

pytestmark = pytest.mark.spark

FIRST, SECOND, _ = DAYS
PLANTED = "Zwölfhundertplanted"


@pytest.fixture
def small(world: World, tmp_path: Path) -> Iterator[SmallWorld]:
    with small_world(tmp_path) as made:
        yield made


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    return tmp_path / "warehouse"


def fill(small: SmallWorld, pictures: tuple[Picture, ...], warehouse: Path) -> tuple[str, str]:
    """A night with three pictures; path and image_id of the one that will be withdrawn."""
    kept, withdrawn, other = [picture for picture in pictures if picture.name == picture.original][:3]
    small.picture(kept, title="An ordinary title")
    path = small.picture(withdrawn, title=PLANTED, description="described as nothing else is")
    small.picture(other)
    assert small.night(FIRST, warehouse) == 0
    assert set(small.outcomes(warehouse).values()) == {"accepted"}
    rows = Snapshot.open(str(warehouse)).rows("sightings", ["title", "image_id"]).to_pylist()
    return path, next(row["image_id"] for row in rows if row["title"] == PLANTED)


def withdraw(small: SmallWorld, path: str) -> None:
    """The page says `noai` from now on."""
    before = small.answers[path]
    small.page(path, lambda date, number: replace(before(date, number), headers=(("X-Robots-Tag", "noai"),)))


def said_in_logs(spark: SparkSession, warehouse: Path) -> str:
    """All that the tables' logs say, each with a checkpoint."""
    said = []
    for name in TABLES:
        java: Any = spark._jvm
        java.org.apache.spark.sql.delta.DeltaLog.forTable(spark._jsparkSession, str(warehouse / name)).checkpoint()
        for path in filter(Path.is_file, (warehouse / name / "_delta_log").rglob("*")):
            is_checkpoint = path.suffix == ".parquet"
            said.append(repr(pq.read_table(path).to_pylist()) if is_checkpoint else path.read_bytes().decode("latin-1"))
    return "".join(said)


@pytest.mark.slow  # the random sequences force dates, and look into every file
def test_a_date_that_is_forced_after_a_page_withdrew_leaves_nothing_of_it(
    spark: SparkSession, world: World, small: SmallWorld, warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    purges: list[str] = []
    purge = Landing.purge

    def counted(landing: Landing, *tables: Any) -> None:
        purges.append("purge")
        purge(landing, *tables)

    def looked(*_: Any) -> None:
        raise AssertionError("staged rows were read a second time")

    monkeypatch.setattr(Landing, "purge", counted)
    monkeypatch.setattr(Landing, "_check_rows", looked)
    path, image = fill(small, world.pictures, warehouse)
    assert purges == []  # a night that takes nothing out pays nothing
    before = Snapshot.open(str(warehouse))
    assert image in contents_on_disk(warehouse)
    consumed = before.rows("index_feed", ["feed_id", "row_digest"])
    text = next(row["text_id"] for row in before.rows("sightings").to_pylist() if row["image_id"] == image)
    assert text in before.rows("text_embeddings").column("text_id").to_pylist()

    withdraw(small, path)
    assert small.night(FIRST, warehouse, "--force") == 0
    assert small.outcomes(warehouse)[str(FIRST), path] == "failed opt_out"
    assert purges == ["purge"]
    assert len(contents_on_disk(warehouse)) == 2
    assert image not in contents_on_disk(warehouse)
    for file in warehouse.rglob("*.parquet"):
        held = pq.ParquetFile(file).read().to_pylist() if "_delta_log" not in file.parts else []
        table = file.relative_to(warehouse).parts[0]
        assert table != "_staging"
        if table in PURGED:
            assert not [row for row in held if image in row.values() or text in row.values()], file
            assert PLANTED not in repr(held), file
    # No log ever had a beginning of what was said or where it was seen, not even of what stays.
    logs = said_in_logs(spark, warehouse)
    for planted in (PLANTED[:8], "An ordin", "described", path[:8], small.site.url("")):
        assert planted not in logs
    # Who still reads the night before is told so.
    with pytest.raises(SnapshotGoneError, match=r"index_feed at version .* taken out for good"):
        before.rows("index_feed")
    assert Snapshot.open(str(warehouse)).rows("index_feed").num_rows == 2
    # Who has an index of it is told what to take out all the same.
    now = Snapshot.open(warehouse)
    live = now.rows("index_feed", ["feed_id"])["feed_id"].to_pylist()
    held = changes_to(now, consumed["feed_id"].to_numpy(), consumed["row_digest"].to_numpy())
    since = changes(warehouse, before.run_id)
    assert since.deleted.tolist() == sorted({*consumed["feed_id"].to_pylist()} - {*live}) != []
    assert [ids.tolist() for ids in (since.inserted, since.updated, since.deleted)] == [
        ids.tolist() for ids in (held.inserted, held.updated, held.deleted)
    ]
    ledger = Ledger(Landing(spark, str(warehouse)), 0).load()
    assert [event.event for event in ledger.events[-4:]] == ["started", "prepared", "published", "purged"]
    assert ledger.events[-2].table_versions == ledger.landing.versions()


def test_what_lies_dead_in_files_that_stay_leaves_the_disk_and_costs_no_other_file(
    world: World, small: SmallWorld, warehouse: Path
) -> None:
    """A row that is written anew, or goes, stays, dead, in the file that it was in. What is taken down later may lie
    there, too: of a URL that has no sighting any more there alone, and the sighting that is left may say nothing."""
    path, image = fill(small, world.pictures, warehouse)
    small.page("/again", small.answers[path](FIRST, 0))
    small.row(SECOND, "/again")
    fresh = next(one for one in reversed(world.pictures) if one.name == one.original)
    small.picture(fresh, dates=[SECOND])
    assert small.night(SECOND, warehouse) == 0
    before = Snapshot.open(warehouse)
    (row,) = before.rows("index_feed", ["url_count", "feed_id"], pc.field("image_id") == image).to_pylist()
    assert row["url_count"] == 2
    assert len(before.dead_row_ids("index_feed")) == 1
    small.rows[FIRST] = [one for one in small.rows[FIRST] if not one["url"].endswith(path)]
    assert small.night(FIRST, warehouse, "--force") == 0
    before = Snapshot.open(warehouse)
    assert PLANTED not in before.rows("url_state", ["title"])["title"].to_pylist()
    assert PLANTED in said_in_files(warehouse, "url_state")  # which is evidence; the other tables' files are freed
    assert all(PLANTED not in said_in_files(warehouse, table) for table in KEEPING_FILES if table != "url_state")
    held = {
        path: pq.read_table(path, columns=["feed_id"])["feed_id"].to_pylist() for path in before.files("index_feed")
    }
    known = {one["feed_id"]: one["row_digest"] for one in before.rows("index_feed").to_pylist()}

    assert takedown.main([*small.arguments(warehouse), "--reference", "CASE", "--image", image]) == 0
    now = Snapshot.open(warehouse)
    files = set((warehouse / "index_feed").glob("*.parquet"))
    for table in {*KEEPING_FILES, *TELLING_TEXTS}:
        said = said_in_files(warehouse, table)
        assert PLANTED not in said, table
        assert table in TELLING_TEXTS or image not in said, table
    assert {Path(path) for path, ids in held.items() if row["feed_id"] not in ids} <= files
    assert image not in contents_on_disk(warehouse)
    assert len(now.dead_row_ids("index_feed")) == 0
    assert known.pop(row["feed_id"])
    assert {one["feed_id"]: one["row_digest"] for one in now.rows("index_feed").to_pylist()} == known


def said_in_files(warehouse: Path, table: str) -> str:
    """All that lies in the table's files, but for vectors."""
    names = [column.name for column in TABLES[table].columns if not column.type.startswith("array<float")]
    files = (warehouse / table).rglob("part-*.parquet")
    return repr([row for file in files for row in pq.read_table(file, columns=names).to_pylist()])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "calls"),
    [("Landing.purge", 1), ("Landing.discard", 2)],  # the first is of the folder in which nothing owed was found
)
def test_a_night_that_is_killed_before_the_purge_leaves_it_to_the_next_job(
    world: World, small: SmallWorld, warehouse: Path, target: str, calls: int
) -> None:
    path, image = fill(small, world.pictures, warehouse)
    withdraw(small, path)
    arguments = [*small.arguments(warehouse), "--date", FIRST.isoformat(), "--force"]
    run_killed("nightly", arguments, "jobs.warehouse.landing", target, calls)
    assert small.outcomes(warehouse)[str(FIRST), path] == "failed opt_out"  # it was published
    assert image in contents_on_disk(warehouse)
    small.row(SECOND, path)
    assert small.night(SECOND, warehouse) == 0
    assert image not in contents_on_disk(warehouse)
    assert not (warehouse / "_staging").exists() or not list((warehouse / "_staging").iterdir())
