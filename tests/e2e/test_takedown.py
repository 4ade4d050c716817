"""Promise 7: what is taken down leaves every table, file and later run; what is not named stays."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from demo.pictures import ORIGINAL
from demo.site import Answer
from jobs import takedown
from jobs.config.progress import log
from lensfeed.snapshot import Snapshot
from tests.e2e.conftest import World
from tests.e2e.small import DAYS, SmallWorld, contents_on_disk, small_world
from tests.e2e.test_purge import said_in_logs

pytestmark = pytest.mark.spark

FIRST, SECOND, _ = DAYS
TITLE, DESCRIPTION = "Zwölfhundertplanted", "described as nothing else is"
SAID = {"title": TITLE, "description": DESCRIPTION, "alt_text": "seen", "attributes": {"camera": "planted-too"}}


@pytest.fixture(scope="module")
def small(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWorld]:
    """A picture with a copy, and another at two URLs of which one is also redirected to."""
    with small_world(tmp_path_factory.mktemp("takedown")) as made:
        made.settings = ["policy.hashes=[pdq]", "crawl.retries=0"]
        copy = next(p for p in world.pictures if p.variant == "jpeg50")
        original = next(p for p in world.pictures if p.variant == ORIGINAL and p.original == copy.original)
        other = next(p for p in world.pictures if p.variant == ORIGINAL and p.original != copy.original)
        made.picture(original, [FIRST, SECOND], **SAID)
        made.picture(copy, [FIRST, SECOND], title="A copy")
        made.picture(other, title="Stays")
        made.page("/again.jpg", made.answers[f"/{other.file_name}"])
        made.page("/leads.jpg", Answer(302, headers=(("Location", f"/{other.file_name}"),)))
        made.row(FIRST, "/again.jpg")
        made.row(SECOND, "/leads.jpg")
        yield made


@pytest.fixture(scope="module")
def paths(small: SmallWorld) -> tuple[str, str, str]:
    """Of the picture, of its copy, of the other."""
    original, copy, other, *_ = small.answers
    return original, copy, other


def take_down(small: SmallWorld, warehouse: Path, *what: str) -> int:
    return takedown.main([*small.arguments(warehouse), "--reference", "CASE-1", *what])


def read(warehouse: Path, table: str, *columns: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = Snapshot.open(str(warehouse)).rows(table, columns or None).to_pylist()
    return rows


def shown(small: SmallWorld, warehouse: Path) -> dict[str, str]:
    """Path -> path of the representative, of all that the feed's members show."""
    members = [row | {"path": row["url"].removeprefix(small.site.url(""))} for row in read(warehouse, "feed_members")]
    heads = {
        row["image_id"]: min(one["path"] for one in members if one["image_id"] == row["image_id"]) for row in members
    }
    return {row["path"]: heads[row["representative_id"]] for row in members}


def image_at(small: SmallWorld, warehouse: Path, path: str) -> str:
    rows = read(warehouse, "sightings", "url", "image_id")
    return next(row["image_id"] for row in rows if row["url"] == small.site.url(path))


def test_a_content_goes_with_all_that_was_said_of_it_and_no_night_brings_it_back(
    spark: SparkSession,
    small: SmallWorld,
    paths: tuple[str, str, str],
    tmp_path: Path,
    digest_of: Callable[[Path], dict[str, str]],
) -> None:
    original, copy, other = paths
    warehouse = tmp_path / "warehouse"
    assert small.night(FIRST, warehouse) == 0
    stays = {other: "/again.jpg", "/again.jpg": "/again.jpg"}
    assert shown(small, warehouse) == {original: original, copy: original, **stays}
    image = image_at(small, warehouse, original)

    assert take_down(small, warehouse, "--image", image) == 0
    assert shown(small, warehouse) == {copy: copy, **stays}  # the copy is an image of its own
    assert image not in contents_on_disk(warehouse)
    (kept,) = [row for row in read(warehouse, "sightings") if row["image_id"] == image]
    assert (kept["outcome"], kept["reasons"], kept["url"]) == ("blocked", ["taken_down"], small.site.url(original))
    nothing_said(spark, warehouse)

    after = digest_of(warehouse)
    assert small.night(FIRST, warehouse, "--force") == 0
    assert digest_of(warehouse) == after
    assert small.night(SECOND, warehouse) == 0
    assert small.outcomes(warehouse)[str(SECOND), original] == "blocked"
    nothing_said(spark, warehouse)


@pytest.mark.slow
def test_it_does_not_matter_when_it_was_asked_for_and_lifting_brings_back_what_was_there(
    small: SmallWorld,
    paths: tuple[str, str, str],
    tmp_path: Path,
    digest_of: Callable[[Path], dict[str, str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    original, *_ = paths
    warehouse, foreseen = tmp_path / "warehouse", tmp_path / "foreseen"
    for date in (FIRST, SECOND):
        assert small.night(date, warehouse) == 0
    image, before = image_at(small, warehouse, original), digest_of(warehouse)
    assert take_down(small, warehouse, "--image", image, "--dry-run") == 0
    assert "accepted -> blocked (taken_down)" in capsys.readouterr().out
    assert digest_of(warehouse) == before
    assert take_down(small, warehouse, "--image", image) == 0
    run = Snapshot.open(str(warehouse)).run_id
    assert take_down(small, warehouse, "--image", image) == 0
    assert Snapshot.open(str(warehouse)).run_id == run  # asked twice, it is in force once

    assert take_down(small, foreseen, "--image", image) == 0
    for date in (SECOND, FIRST):
        assert small.night(date, foreseen) == 0
    assert digest_of(foreseen) == digest_of(warehouse)

    assert take_down(small, warehouse, "--image", image, "--lift") == 0
    assert small.outcomes(warehouse)[str(SECOND), original] == "accepted"
    assert read(warehouse, "refetch_queue", "image_id") == [{"image_id": image}]
    for date in (FIRST, SECOND):  # the first of them asks for what is owed
        assert small.night(date, warehouse, "--force") == 0
    after = digest_of(warehouse)
    assert {name for name in before if after[name] != before[name]} == {"takedowns", "all"}
    assert [(row["in_force"], row["reference"]) for row in read(warehouse, "takedowns")] == [(False, "CASE-1")]


def nothing_said(spark: SparkSession, warehouse: Path) -> None:
    """No file below the warehouse, live or not, holds what was said of the content, nor does any log."""
    for file in warehouse.rglob("*.parquet"):
        if "_delta_log" not in file.parts:
            held = repr(pq.ParquetFile(file).read().to_pylist())
            assert not [said for said in (TITLE, DESCRIPTION, "planted-too") if said in held], file
    logs = said_in_logs(spark, warehouse)
    assert not [said for said in (TITLE[:8], DESCRIPTION[:8], "planted") if said in logs]
    staging = warehouse / "_staging"
    assert not staging.exists() or not list(staging.iterdir())


@pytest.mark.slow
def test_addresses_are_withdrawn_and_what_else_shows_an_image_stays(
    small: SmallWorld,
    paths: tuple[str, str, str],
    tmp_path: Path,
    digest_of: Callable[[Path], dict[str, str]],
) -> None:
    original, _, other = paths
    warehouse = tmp_path / "warehouse"
    for date in (FIRST, SECOND):
        assert small.night(date, warehouse) == 0
    before = digest_of(warehouse)
    image = image_at(small, warehouse, other)

    assert take_down(small, warehouse, "--url", small.site.url(other)) == 0
    outcomes = small.outcomes(warehouse)
    assert {place: outcome for place, outcome in outcomes.items() if outcome != "accepted"} == {
        (str(FIRST), other): "blocked",
        (str(SECOND), "/leads.jpg"): "blocked",  # which was redirected there
    }
    assert [path for path, head in shown(small, warehouse).items() if head == "/again.jpg"] == ["/again.jpg"]
    assert image in contents_on_disk(warehouse)
    (entry,) = [row for row in read(warehouse, "index_feed") if row["image_id"] == image]
    assert (entry["url_count"], entry["title"]) == (1, None)  # the title was said where it is not seen any more

    # What is near a content goes with it; a host takes everything.
    file = tmp_path / "requests.csv"
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows(
            [("kind", "subject"), ("domain", "127.0.0.1"), ("url", small.site.url("/never.jpg"))]
        )
    assert take_down(small, warehouse, "--image", image_at(small, warehouse, original), "--near") == 0
    assert set(shown(small, warehouse)) == {"/again.jpg"}
    assert take_down(small, warehouse, "--file", str(file)) == 0
    assert shown(small, warehouse) == {}
    assert contents_on_disk(warehouse) == set()
    small.site.requests.clear()
    assert small.night(SECOND, warehouse, "--force") == 0
    assert small.site.requests_on(SECOND) == {}  # not even asked for

    known = {row["subject"] for row in read(warehouse, "takedowns") if row["kind"] == "image"}
    lifted = [part for subject in known for part in ("--image", subject)]
    assert take_down(small, warehouse, "--file", str(file), "--url", small.site.url(other), "--lift") == 0
    assert take_down(small, warehouse, *lifted, "--lift") == 0
    (near,) = [row["subject"] for row in read(warehouse, "takedowns") if row["kind"] == "pdq" and row["in_force"]]
    assert take_down(small, warehouse, "--hash", f"pdq:{near}", "--lift") == 0
    for date in (FIRST, SECOND):
        assert small.night(date, warehouse, "--force") == 0
    after = digest_of(warehouse)
    assert {name for name in before if after[name] != before[name]} == {"takedowns", "all"}


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ([], "nothing to take down: expected --url, --domain, --image, --hash or --file"),
        (["--image", "abc"], "--image: image: expected 64 hexadecimal digits, found 'abc'"),
        (["--domain", "https://example.net/"], "--domain: domain: expected a host name"),
        (["--hash", "pdq:12"], "--hash: pdq: expected 64 hexadecimal digits"),
        (["--hash", "12" * 32], f"--hash {'12' * 32}: expected phash256:HEX or pdq:HEX"),
        (["--file", "/no/such.csv"], "/no/such.csv: cannot be read as CSV"),
    ],
)
def test_a_request_that_can_match_nothing_is_refused_before_anything_is_touched(
    small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: list[str], told: str
) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "error", lambda template, *values: said.append(template % values))
    assert take_down(small, tmp_path / "warehouse", *what) == 2
    (line,) = said
    assert told in line
    assert not (tmp_path / "warehouse").exists()
