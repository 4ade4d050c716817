"""What is stored is enough to decide by, and says the same as often as it is asked."""

import datetime as dt
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from demo.site import Answer, show
from demo.summary import image_id
from jobs import redecide
from jobs.run import contents
from jobs.run.redecision import NOT_STORED
from jobs.stages.embed import embed_images
from lensfeed.snapshot import Snapshot
from schemas.settings import EmbeddingSettings
from schemas.tables import PUBLISHED
from tests.e2e.conftest import World
from tests.e2e.small import DAYS, SmallWorld, small_world
from tests.e2e.whatif import feed_shown, flips_shown, flips_told
from udfs.embedding.golden import Golden
from udfs.urls import url_id

pytestmark = pytest.mark.spark

FIRST, SECOND, _ = DAYS
SECRET = "s3cretw0rd"
NESTED = f"http://user:{SECRET}@h.example/"
PLAIN, MOVED = "/img//logo@2x.png", "/c"
IN_QUERY, ENCODED, BUSY = f"/a?url={NESTED}", f"/b?url={quote(NESTED, safe='')}", f"/busy?url={NESTED}"
MARKS = ["/", "//", "@", "%40", "%2F%2F", ":", "%3A%2F%2F", "logo@2x.png", "u:p@h", "http://", "?", "&x=", "#",
         "..",          "\u00e4", "%", "\\", " "]  # fmt: skip


def rules(at: float, *refused: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"id": "nsfw", "kind": "nsfw", "action": "block", "reason": "nsfw", "at_least": at}]
    listed = {"id": "listed", "kind": "url", "action": "block", "reason": "listed", "urls": list(refused)}
    return [*found, listed] if refused else found


def sightings(warehouse: Path) -> list[dict[str, Any]]:
    """All that is stored of them but by which run."""
    rows = Snapshot.open(str(warehouse)).rows("sightings").to_pylist()
    kept = [{name: value for name, value in row.items() if name not in {"run_id", "policy_version"}} for row in rows]
    return sorted(kept, key=lambda row: (row["ingest_date"], row["row_number"]))


def decide(small: SmallWorld, warehouse: Path, policy: str) -> None:
    assert redecide.main(small.arguments(warehouse, policy)) == 0


def table_files(warehouse: Path) -> set[Path]:
    """What lies below the tables that runs publish; the ledger notes who has held the warehouse."""
    return {path for table in PUBLISHED for path in (warehouse / table).rglob("*")}


def holders(warehouse: Path) -> set[tuple[str, str]]:
    """Tables and columns that hold the secret in any file below the warehouse."""
    found = set()
    for path in warehouse.rglob("*"):
        table = path.relative_to(warehouse).parts[0]
        if path.suffix == ".parquet":
            for name, column in pq.ParquetFile(path).read().to_pydict().items():
                found |= {(table, name)} if SECRET in str(column) else set()
        elif path.is_file() and SECRET.encode() in path.read_bytes():
            found.add((table, path.name))
    return found


@dataclass(frozen=True)
class Published:
    """A warehouse after the first night, with what was stored."""

    small: SmallWorld
    warehouse: Path
    lenient: str
    before: list[dict[str, Any]]


@pytest.fixture(scope="module")
def published(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder, chance = tmp_path_factory.mktemp("urls"), random.Random(11)
    with small_world(folder) as small:
        small.settings = ["crawl.retries=0"]
        lenient = small.policy("lenient", rules(1.0))
        pages = {
            PLAIN: show(world.pictures[0]),
            IN_QUERY: show(world.pictures[1]),
            ENCODED: show(world.pictures[2]),
            MOVED: Answer(302, headers=(("Location", f"/d?url={NESTED}"),)),
            f"/d?url={NESTED}": show(world.pictures[3]),
            BUSY: Answer(500),
        }
        for path, answer in pages.items():
            small.page(quote(unquote_to_bytes(path)), answer)
        texts = {"title": f"see {NESTED}", "tags": [NESTED], "attributes": {"from": NESTED}, "page_url": NESTED}
        for path in (PLAIN, IN_QUERY, ENCODED, MOVED, BUSY):
            small.row(FIRST, path, **texts)
        origin = small.site.url("")
        small.rows[FIRST].append({"url": origin.replace("//", f"//user:{SECRET}@") + "/e"})
        for _ in range(60):
            rest = "".join(chance.choices(MARKS, k=chance.randint(0, 6)))
            small.row(FIRST, f"/{rest}", title=rest, page_url=origin + rest)
        warehouse = folder / "warehouse"
        assert small.night(FIRST, warehouse, settings=[lenient]) == 0
        yield Published(small, warehouse, lenient, sightings(warehouse))


def test_any_url_is_decided_again_as_it_was_and_shows_no_password(
    published: Published,
    digest_of: Callable[[Path], dict[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small, warehouse, before = published.small, published.warehouse, published.before
    assert [row["outcome"] for row in before[:6]] == ["accepted"] * 4 + ["failed"] * 2
    assert [row["failure_code"] for row in before[4:6]] == ["http_5xx", "bad_row"]
    assert before[0]["url"] == small.site.url(PLAIN)
    assert before[1]["url_id"] == url_id(small.site.url(IN_QUERY))
    digest = digest_of(warehouse)
    decide(small, warehouse, published.lenient)
    assert sightings(warehouse) == before
    assert digest_of(warehouse) == digest
    assert holders(warehouse) == set()

    # What another policy would do is shown in a file, and nothing of it is done.
    run, files, page = Snapshot.open(str(warehouse)).run_id, table_files(warehouse), tmp_path / "whatif.html"
    arguments = small.arguments(warehouse, small.policy("stricter", rules(0.0)))
    capsys.readouterr()
    assert redecide.main([*arguments, "--dry-run", "--html", str(page)]) == 0
    told, html = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert Snapshot.open(str(warehouse)).run_id == run
    assert table_files(warehouse) == files
    assert not any(path.is_file() for path in (warehouse / "_staging").rglob("*"))
    assert SECRET not in html + told
    assert flips_shown(html) == flips_told(told) == [("accepted", "blocked", 4, "nsfw")]
    heads = Snapshot.open(str(warehouse)).rows("index_feed").num_rows
    assert feed_shown(html) == {"insert": 0, "update": 0, "delete": heads}
    assert html.count('<details class="veil">') == html.count("<img") == 4 + heads
    assert "Nothing would enter." in html
    assert "4 images would leave the index" in html


@pytest.mark.slow
def test_what_is_owed_and_was_fetched_with_a_password_fails_until_its_manifest_is_read_again(
    published: Published, digest_of: Callable[[Path], dict[str, str]]
) -> None:
    small, warehouse, lenient = published.small, published.warehouse, published.lenient
    digest = digest_of(warehouse)
    decide(small, warehouse, small.policy("strict", rules(0.0)))
    assert {row["outcome"] for row in sightings(warehouse)[:4]} == {"blocked"}
    decide(small, warehouse, lenient)
    assert small.night(FIRST, warehouse, settings=[lenient]) == 0
    drained = sightings(warehouse)
    assert [row["outcome"] for row in drained[:4]] == ["accepted", "failed", "failed", "accepted"]
    assert {(row["failure_code"], row["failure_detail"]) for row in drained[1:3]} == {("bad_row", NOT_STORED)}
    assert Snapshot.open(str(warehouse)).rows("refetch_queue").num_rows == 0
    assert small.night(FIRST, warehouse, "--retry-failed", settings=[lenient]) == 0
    assert sightings(warehouse)[4]["failure_detail"] == NOT_STORED
    retried = digest_of(warehouse)
    decide(small, warehouse, lenient)
    assert digest_of(warehouse) == retried
    assert small.night(FIRST, warehouse, "--force", settings=[lenient]) == 0
    assert sightings(warehouse) == published.before
    assert digest_of(warehouse) == digest
    assert holders(warehouse) == set()


@dataclass(frozen=True)
class Overtaken:
    """A warehouse of two nights: the second has overtaken every URL of the first."""

    small: SmallWorld
    warehouse: Path
    one: str
    """The policy of the nights, which refuses a redirect's target."""
    two: str
    """Refuses another one's instead."""
    victim: str
    """`image_id` of the picture that there is no vector for."""

    def outcomes(self) -> list[str]:
        """Of the first night's rows."""
        found = self.small.outcomes(self.warehouse)
        return [found[str(FIRST), path] for path in ("/moved", "/kept", "/fails")]

    def force(self, policy: str) -> None:
        """The first date again."""
        assert self.small.night(FIRST, self.warehouse, "--force", settings=[policy]) == 0


@pytest.fixture(scope="module")
def overtaken(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overtaken]:
    folder = tmp_path_factory.mktemp("overtaken")
    redirected, other, failing, later = [one for one in world.pictures if one.name == one.original][:4]
    victim = image_id(failing)

    def embed(
        pixels: DataFrame, settings: EmbeddingSettings, tasks: int, golden: Golden | None, only: DataFrame
    ) -> DataFrame:
        """The embedding stage, with a fault injected: there is no vector for one picture."""
        made = embed_images(pixels, settings, tasks, golden, only)
        fails = f.col("image_id") == victim
        return made.withColumn("vector", f.when(~fails, f.col("vector"))).withColumn(
            "error", f.when(fails, "injected").otherwise(f.col("error"))
        )

    with pytest.MonkeyPatch.context() as patched, small_world(folder) as small:
        patched.setattr(contents, "embed_images", embed)
        for path, onward in {"/moved": "/one.jpg", "/kept": "/two.jpg"}.items():
            small.page(path, by_date(Answer(302, headers=(("Location", onward),)), show(later)))
        small.page("/one.jpg", show(redirected))
        small.page("/two.jpg", show(other))
        small.page("/fails", by_date(show(failing), show(later)))
        one, two = (
            small.policy(name, rules(1.0, small.site.url(path)))
            for name, path in (("one", "/two.jpg"), ("two", "/one.jpg"))
        )
        warehouse = folder / "warehouse"
        for date in (FIRST, SECOND):
            for path in ("/moved", "/kept", "/fails"):
                small.row(date, path)
            assert small.night(date, warehouse, settings=[one]) == 0
        yield Overtaken(small, warehouse, one, two, victim)


@pytest.mark.slow  # the random sequences force dates under every policy
def test_a_forced_date_takes_what_is_carried_over_by_the_policy_of_now(
    overtaken: Overtaken, digest_of: Callable[[Path], dict[str, str]]
) -> None:
    assert overtaken.outcomes() == ["accepted", "blocked", "failed embed_error"]
    decide(overtaken.small, overtaken.warehouse, overtaken.two)
    # The second was never fetched, and its URL has shown something else since: nobody can say any more.
    assert overtaken.outcomes() == ["blocked", "deferred", "failed embed_error"]
    decided = digest_of(overtaken.warehouse)
    overtaken.force(overtaken.two)
    assert overtaken.outcomes() == ["blocked", "deferred", "failed embed_error"]
    assert digest_of(overtaken.warehouse) == decided


@pytest.mark.slow
def test_a_failed_embedding_is_known_after_policies_that_refused_the_content(overtaken: Overtaken) -> None:
    small, warehouse = overtaken.small, overtaken.warehouse
    decide(small, warehouse, small.policy("nothing", rules(0.0)))
    assert overtaken.outcomes() == ["blocked", "deferred", "blocked"]
    decide(small, warehouse, overtaken.one)
    assert small.night(SECOND, warehouse, settings=[overtaken.one]) == 0  # brings what is shown, and was taken out
    assert overtaken.outcomes() == ["accepted", "blocked", "failed embed_error"]
    # A promise in the manifest that what was fetched then does not keep.
    small.rows[FIRST][0]["expected_sha256"] = overtaken.victim
    overtaken.force(overtaken.one)
    assert overtaken.outcomes() == ["failed hash_mismatch", "blocked", "failed embed_error"]


def by_date(first: Answer, later: Answer) -> Callable[[dt.date, int], Answer]:
    """A page that answers otherwise after the first of the dates."""
    return lambda date, _: first if date == FIRST else later
