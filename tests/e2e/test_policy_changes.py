"""Re-decisions and verdicts of people: whatever the order of nights and decisions, what is left is what the policy
says."""

import csv
import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.site import Answer, show
from jobs import redecide, review
from jobs.config.errors import UsageError
from jobs.run.review_file import COLUMNS, read_verdicts
from lensfeed.snapshot import Snapshot
from tests.e2e.conftest import World
from tests.e2e.killed import run_killed
from tests.e2e.small import DAYS, SmallWorld, contents_on_disk, small_world
from tests.e2e.whatif import feed_shown, flips_shown, flips_told, section_of

pytestmark = pytest.mark.spark

FIRST, SECOND, _ = DAYS
PICTURES = 14


def rules(block_at: float, refused: str, doubtful: str, licence: str) -> list[dict[str, Any]]:
    return [
        {"id": "nsfw", "kind": "nsfw", "action": "block", "reason": "nsfw", "at_least": block_at},
        {"id": "words", "kind": "text", "action": "block", "reason": "text_refused", "words": [refused]},
        {"id": "doubtful", "kind": "text", "action": "review", "reason": "text_doubtful", "words": [doubtful]},
        {"id": "licence", "kind": "licence", "action": "block", "reason": "licence", "deny": [licence]},
    ]


@pytest.fixture(scope="module")
def small(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWorld]:
    with small_world(tmp_path_factory.mktemp("policies")) as made:
        titles = ["", "", "badword here", "maybe this", "newword here", "", "", "", "", "badword", "newword", "maybe"]
        licences = {5: "reserved", 6: "cc-by"}
        originals = [picture for picture in world.pictures if picture.name == picture.original]
        for number, picture in enumerate(originals[:: len(originals) // PICTURES][:PICTURES]):
            title = titles[number] if number < len(titles) else ""
            dates = [FIRST] if number < 9 else [SECOND]
            made.picture(picture, dates, title=title, license=licences.get(number))
        # The same URL on a later date, with another title: a rule on texts concerns the one sighting only.
        made.rows[SECOND] += [{**made.rows[FIRST][4], "title": "A plain title"}, dict(made.rows[FIRST][0])]
        yield made


@pytest.fixture(scope="module")
def old(small: SmallWorld) -> str:
    return small.policy("old", rules(0.9, "badword", "maybe", "reserved"))


@pytest.fixture(scope="module")
def under_old(small: SmallWorld, old: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nights under the old policy."""
    warehouse = tmp_path_factory.mktemp("old") / "warehouse"
    for date in (FIRST, SECOND):
        assert small.night(date, warehouse, settings=[old]) == 0
    return warehouse


@pytest.fixture(scope="module")
def new(small: SmallWorld, under_old: Path) -> str:
    """A policy under which a fifth of the contents is blocked by score, and other words and licences than before."""
    scores = sorted(
        max(dict(row["scores"]).values()) for row in Snapshot.open(str(under_old)).rows("content_signals").to_pylist()
    )
    return small.policy("new", rules(scores[-max(2, len(scores) // 5)], "newword", "unheard of", "cc-by"))


@pytest.fixture(scope="module")
def under_new(
    small: SmallWorld, new: str, tmp_path_factory: pytest.TempPathFactory, digest_of: Callable[[Path], dict[str, str]]
) -> dict[str, str]:
    """Digest of two nights that only ever knew the new policy."""
    warehouse = tmp_path_factory.mktemp("new") / "warehouse"
    for date in (FIRST, SECOND):
        assert small.night(date, warehouse, settings=[new]) == 0
    return digest_of(warehouse)


def decide(small: SmallWorld, warehouse: Path, policy: str, *more: str) -> int:
    return redecide.main([*small.arguments(warehouse, policy), *more])


def drain(small: SmallWorld, warehouse: Path, policy: str, date: dt.date = SECOND) -> None:
    """A night that finds its own date published still takes up what is owed."""
    assert small.night(date, warehouse, settings=[policy]) == 0
    assert Snapshot.open(str(warehouse)).rows("refetch_queue").num_rows == 0


def row_by_feed_id(warehouse: Path) -> dict[int, str]:
    """Digests of the feed's rows."""
    rows = Snapshot.open(str(warehouse)).rows("index_feed", ["feed_id", "row_digest"]).to_pylist()
    return {row["feed_id"]: row["row_digest"] for row in rows}


def changes_between(was: dict[int, str], is_now: dict[int, str]) -> dict[str, int]:
    """How many rows of the feed came, changed and went."""
    changed = [feed_id for feed_id in was.keys() & is_now.keys() if was[feed_id] != is_now[feed_id]]
    return {
        "insert": len(is_now.keys() - was.keys()),
        "update": len(changed),
        "delete": len(was.keys() - is_now.keys()),
    }


def accepted(warehouse: Path) -> set[str]:
    rows = Snapshot.open(str(warehouse)).rows("sightings", ["outcome", "image_id"]).to_pylist()
    return {row["image_id"] for row in rows if row["outcome"] == "accepted"}


@pytest.mark.slow  # as the next; the random sequences decide again in every order
def test_there_and_back_again(
    small: SmallWorld,
    old: str,
    new: str,
    under_old: Path,
    under_new: dict[str, str],
    digest_of: Callable[[Path], dict[str, str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, run = digest_of(under_old), Snapshot.open(str(under_old)).run_id
    page = tmp_path / "whatif.html"
    assert decide(small, under_old, new, "--dry-run", "--html", str(page)) == 0
    told, html = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert "accepted -> blocked (nsfw)" in told
    assert "blocked -> deferred" in told
    assert flips_shown(html) == flips_told(told)
    left = [count for before, _, count, _ in flips_told(told) if before == "accepted"]
    leaving, entering = (section_of(html, name) for name in ("leaves", "enters"))
    assert leaving.count("<img") == leaving.count('<details class="veil">') == sum(left)
    assert "no image stored" not in leaving
    assert "<img" not in entering  # what is held back is not stored
    assert Snapshot.open(str(under_old)).run_id == run
    assert digest_of(under_old) == before

    rows = Snapshot.open(str(under_old)).rows("sightings").num_rows
    was = row_by_feed_id(under_old)
    assert decide(small, under_old, new) == 0
    assert feed_shown(html) == changes_between(was, row_by_feed_id(under_old))
    assert small.night(SECOND, under_old, settings=[old]) == 2  # the warehouse is under another policy now
    snapshot = Snapshot.open(str(under_old))
    assert snapshot.rows("sightings").num_rows == rows
    outcomes = small.outcomes(under_old)
    assert "deferred" in outcomes.values()
    blocked = [row for row in snapshot.rows("sightings").to_pylist() if row["reasons"] == ["nsfw"]]
    assert len(blocked) >= 2
    assert contents_on_disk(under_old) <= accepted(under_old)
    for table in ("images", "embeddings", "image_hashes", "clusters", "index_feed", "feed_members"):
        held = set(snapshot.rows(table, ["image_id"]).column("image_id").to_pylist())
        assert held, table
        assert not held & {row["image_id"] for row in blocked}, table
    drain(small, under_old, new)
    assert digest_of(under_old) == under_new

    assert decide(small, under_old, old) == 0
    drain(small, under_old, old)
    assert digest_of(under_old) == before
    assert contents_on_disk(under_old) == accepted(under_old)


@pytest.mark.slow
def test_a_decision_between_two_nights(
    small: SmallWorld,
    old: str,
    new: str,
    under_new: dict[str, str],
    tmp_path: Path,
    digest_of: Callable[[Path], dict[str, str]],
) -> None:
    warehouse = tmp_path / "warehouse"
    assert small.night(FIRST, warehouse, settings=[old]) == 0
    before = digest_of(warehouse)
    # Killed after it was prepared: half a decision does not show, and whoever comes next finishes it.
    run_killed("redecide", small.arguments(warehouse, new), "jobs.warehouse.landing", "Landing.versions")
    assert digest_of(warehouse) == before
    assert decide(small, warehouse, new) == 0
    assert contents_on_disk(warehouse) <= accepted(warehouse)
    assert small.night(SECOND, warehouse, settings=[new]) == 0  # drains what the first night is owed, then its own date
    assert digest_of(warehouse) == under_new


@pytest.mark.slow
def test_what_is_owed_must_come_back_as_it_was(world: World, tmp_path: Path) -> None:
    warehouse = tmp_path / "warehouse"
    with small_world(tmp_path) as small:
        strict, lenient = (
            small.policy(name, rules(at, "a", "b", "c")) for name, at in (("strict", 0.0), ("open", 1.0))
        )
        same, changed, away, other = world.pictures[:4]
        paths = [small.picture(picture) for picture in (same, changed, away)]
        assert small.night(FIRST, warehouse, settings=[strict]) == 0
        assert set(small.outcomes(warehouse).values()) == {"blocked"}
        assert decide(small, warehouse, lenient) == 0
        assert Snapshot.open(str(warehouse)).rows("refetch_queue").num_rows == 3
        small.page(paths[1], show(other))
        small.page(paths[2], Answer(500))
        assert small.night(FIRST, warehouse, settings=[lenient, "crawl.retries=0"]) == 0
        outcomes = small.outcomes(warehouse)
        assert [outcomes[str(FIRST), path] for path in paths] == ["accepted", "failed hash_mismatch", "accepted"]
        # The last could not be had this time: it stays decided, is not live, and is still owed.
        snapshot = Snapshot.open(str(warehouse))
        assert snapshot.rows("index_feed").num_rows == 1
        assert [row["owed"] for row in snapshot.rows("refetch_queue").to_pylist()] == ["pixels"]
        assert len(contents_on_disk(warehouse)) == 1


def fill_in(path: Path, verdict: str) -> list[dict[str, str]]:
    """Give every row of an exported file the same verdict; the rows."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({**row, "verdict": verdict, "reviewer": "reviewer-7"} for row in rows)
    return rows


@pytest.mark.slow
def test_people_clear_what_they_saw_and_may_take_it_back(
    small: SmallWorld, new: str, tmp_path: Path, digest_of: Callable[[Path], dict[str, str]]
) -> None:
    warehouse, file = tmp_path / "warehouse", tmp_path / "review.csv"
    grey = {"id": "grey", "kind": "nsfw", "action": "review", "reason": "nsfw_grey", "at_least": 0.0}
    policy = small.policy("grey", [*rules(0.9, "badword", "maybe", "reserved"), grey])
    assert small.night(FIRST, warehouse, settings=[policy]) == 0
    before = digest_of(warehouse)
    assert Snapshot.open(str(warehouse)).rows("index_feed").num_rows == 0
    arguments = small.arguments(warehouse, policy)
    assert review.main(["export", *arguments, "--into", str(file)]) == 0
    rows = fill_in(file, "allow")
    assert {row["subject_kind"] for row in rows} == {"image", "sighting"}
    assert all(row["url"].startswith("http") and row["reasons"] for row in rows)
    assert review.main(["import", *arguments, str(file)]) == 0
    assert "review" not in small.outcomes(warehouse).values()
    drain(small, warehouse, policy, FIRST)
    feed = Snapshot.open(str(warehouse)).rows("index_feed").num_rows
    assert feed >= 5
    assert contents_on_disk(warehouse) == accepted(warehouse)
    human = [row for row in Snapshot.open(str(warehouse)).rows("decisions").to_pylist() if row["source"] == "human"]
    assert {row["reference"] for row in human} == {"reviewer-7"}
    # A block that comes later holds in the face of what a person cleared; a re-decision back keeps the verdicts.
    stricter = small.policy("stricter", [*rules(0.0, "badword", "maybe", "reserved"), grey])
    assert decide(small, warehouse, stricter) == 0
    assert Snapshot.open(str(warehouse)).rows("index_feed").num_rows == 0
    assert decide(small, warehouse, policy) == 0
    drain(small, warehouse, policy, FIRST)
    assert Snapshot.open(str(warehouse)).rows("index_feed").num_rows == feed
    fill_in(file, "withdraw")
    assert review.main(["import", *arguments, str(file)]) == 0
    assert digest_of(warehouse) == before
    assert contents_on_disk(warehouse) == set()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("image,abc,nsfw,maybe,me", "verdict must be allow, block or withdraw, found 'maybe'"),
        ("picture,abc,nsfw,allow,me", "subject_kind must be image or sighting"),
        ("image,abc,nsfw,allow,", "reviewer is required"),
        ("image,abc,,allow,me", "an allow clears the reasons in its row"),
    ],
)
def test_unusable_verdicts_are_refused_by_row(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "verdicts.csv"
    file.write_text(f"subject_kind,subject_id,reasons,verdict,reviewer\n{line}\n")
    with pytest.raises(UsageError, match=message) as error:
        read_verdicts(file)
    assert "row 1" in str(error.value)
