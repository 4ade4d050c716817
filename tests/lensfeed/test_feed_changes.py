"""Changes between two published runs are net, whatever happened in between and whatever is left of it on disk."""

from typing import Any

import numpy as np
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lensfeed import Snapshot, SnapshotError, SnapshotGoneError
from lensfeed.feed_changes import Changes, ChangesGoneError, changes, changes_to
from schemas.tables import INDEX_FEED, PUBLISHED
from tests.lensfeed.tiny_warehouse import TinyWarehouse, feed_row, unit_vector


def told(found: Changes) -> tuple[list[int], list[int], list[int]]:
    return found.inserted.tolist(), found.updated.tolist(), found.deleted.tolist()


def upserts(found: Changes, columns: list[str] | None = None) -> list[dict[str, Any]]:
    rows = [row for batch in found.upserts(columns) for row in batch.to_pylist()]
    return sorted(rows, key=lambda row: int(row.get("feed_id", 0)))


def other(number: int, title: str, **given: Any) -> dict[str, Any]:
    """Row `number` with other contents."""
    return feed_row(number, title=title, row_digest=f"digest {number} {title}", **given)


@pytest.fixture
def night(warehouse: TinyWarehouse) -> TinyWarehouse:
    """One published run with five rows in the feed, in two files."""
    warehouse.write("index_feed", [feed_row(n) for n in (1, 2, 3)])
    warehouse.write("index_feed", [feed_row(n) for n in (4, 5)])
    warehouse.event("first", "published")
    return warehouse


def test_upserts_and_deletes_of_a_night_are_told_with_their_rows(night: TinyWarehouse) -> None:
    night.merge("index_feed", deleted=[1], changed=[other(4, "new", vector=unit_vector(40, 8))])
    night.write("index_feed", [feed_row(6)])
    night.event("second", "published")
    found = changes(night.root, "first")
    assert told(found) == ([6], [4], [1])
    assert (len(found), found.upserted.tolist()) == (3, [4, 6])
    assert (found.since.run_id if found.since else None, found.snapshot.run_id) == ("first", "second")
    rows = upserts(found)
    assert [(row["feed_id"], row["title"]) for row in rows] == [(4, "new"), (6, "picture 6")]
    assert rows[0]["vector"] == unit_vector(40, 8)
    assert list(rows[0]) == list(INDEX_FEED.column_names)


def test_only_the_columns_asked_for_are_told(night: TinyWarehouse) -> None:
    night.write("index_feed", [feed_row(6)])
    night.event("second", "published")
    found = changes(night.root, "first")
    assert upserts(found, ["title", "member_count"]) == [{"title": "picture 6", "member_count": 1}]
    with pytest.raises(SnapshotError, match=r"index_feed has no column \['colour'\]"):
        found.upserts(["colour"])


def test_what_came_and_went_and_what_compaction_moved_is_no_change(night: TinyWarehouse) -> None:
    night.merge("index_feed", deleted=[5], changed=[other(3, "for now")])
    night.write("index_feed", [feed_row(7)])
    night.compact("index_feed")
    night.event("second", "published")
    night.merge("index_feed", deleted=[7], changed=[other(3, "in the end")])
    night.write("index_feed", [feed_row(5)])
    night.compact("index_feed")
    night.event("third", "published")
    found = changes(night.root, "first")
    assert told(found) == ([], [3, 5], [])  # 5 as it was before: nothing is kept that would tell
    assert [row["title"] for row in upserts(found)] == ["in the end", feed_row(5)["title"]]
    assert told(changes(night.root, "second")) == ([5], [3], [7])


def test_only_what_lies_between_the_two_runs_counts(night: TinyWarehouse) -> None:
    night.write("index_feed", [feed_row(6)])
    night.event("second", "published")
    night.write("index_feed", [feed_row(7)])
    night.event("third", "published")
    night.write("index_feed", [feed_row(8)])
    night.event("fourth", "prepared")
    assert told(changes(night.root, "first")) == ([6, 7], [], [])
    assert told(changes(Snapshot.open(night.root, "second"), "first")) == ([6], [], [])
    assert told(changes(night.root, "third")) == ([], [], [])
    assert upserts(changes(night.root, "third")) == []


def test_from_before_there_was_a_feed_everything_is_an_insert(warehouse: TinyWarehouse) -> None:
    warehouse.event("first", "published")
    warehouse.write("index_feed", [feed_row(1)])
    warehouse.event("second", "published")
    assert told(changes(warehouse.root, "first")) == ([1], [], [])


def test_backwards_and_unpublished_runs_are_refused_in_words(night: TinyWarehouse) -> None:
    night.write("index_feed", [feed_row(6)])
    night.event("second", "published")
    night.event("third", "started")
    with pytest.raises(SnapshotError, match=r"forwards only: run 'second' .* comes after run 'first'"):
        changes(Snapshot.open(night.root, "first"), "second")
    with pytest.raises(SnapshotError, match="'third' is not published"):
        changes(night.root, "third")
    with pytest.raises(SnapshotError, match="'nonsense' is unknown"):
        changes(night.root, "nonsense")
    with pytest.raises(SnapshotError, match="since_run: expected the id of a published run, found None"):
        changes(night.root, None)  # type: ignore[arg-type]


def test_changes_are_told_when_all_that_was_before_is_gone(night: TinyWarehouse) -> None:
    night.merge("index_feed", deleted=[1], changed=[other(2, "new")])
    night.event("second", "published")
    night.merge("index_feed", deleted=[4])
    night.event("third", "published")
    night.vacuum("index_feed")
    log = night.root / "index_feed" / "_delta_log"
    DeltaTable(str(night.root / "index_feed")).create_checkpoint()
    for commit in sorted(log.glob("*.json"))[:-1]:
        commit.unlink()
    found = changes(night.root, "first")
    assert told(found) == ([], [2], [1, 4])
    assert [row["title"] for row in upserts(found)] == ["new"]


def test_what_an_earlier_release_published_has_to_be_taken_anew(night: TinyWarehouse) -> None:
    versions = [(name, 0) for name in PUBLISHED if name != "feed_tombstones"]
    night.event("earlier", "published", table_versions=versions)
    night.write("index_feed", [feed_row(6, added_seq=None, changed_seq=None)])  # staged by it, published by this one
    night.event("second", "published")
    night.merge("index_feed", deleted=[6, 1], changed=[other(2, "new")])
    night.event("third", "published")
    with pytest.raises(ChangesGoneError, match=r"'earlier' is not known.*earlier release.*Take a new snapshot"):
        changes(night.root, "earlier")
    assert told(changes(night.root, "second")) == ([], [2], [1, 6])


def test_only_files_that_may_hold_a_change_are_read(night: TinyWarehouse) -> None:
    before = set((night.root / "index_feed").glob("*.parquet"))
    night.kill("index_feed", [2])
    night.write("index_feed", [feed_row(6), feed_row(7)])
    night.event("second", "published")
    found = Snapshot.open(night.root).portion_above("index_feed", "changed_seq", 1)
    assert (found.rows, found.of_rows, len(found.paths), found.of_files) == (2, 6, 1, 3)
    for file in before:
        file.write_bytes(b"no Parquet any more")
    told_of = changes(night.root, "first")
    assert told(told_of) == ([6, 7], [], [2])
    assert [row["feed_id"] for row in upserts(told_of)] == [6, 7]


def test_rows_that_are_removed_before_they_are_read_say_so(night: TinyWarehouse) -> None:
    night.merge("index_feed", changed=[other(1, "new")])
    night.event("second", "published")
    rows = changes(night.root, "first").upserts()
    night.merge("index_feed", deleted=[1, 2, 3])
    night.vacuum("index_feed")
    with pytest.raises(SnapshotGoneError, match="open the newest run"):
        list(rows)


def test_rows_that_died_in_files_that_stay_are_told(night: TinyWarehouse) -> None:
    night.kill("index_feed", [1, 2])
    night.write("index_feed", [other(2, "anew")])
    night.kill("index_feed", [3])
    night.event("second", "published")
    found = changes(night.root, "first")
    assert told(found) == ([], [2], [1, 3])
    assert [row["title"] for row in upserts(found)] == ["anew"]
    night.kill("index_feed", [5])
    night.event("third", "published")
    assert told(changes(night.root, "second")) == ([], [], [5])
    night.write("index_feed", [], overwrite=True)  # files with dead rows go
    night.event("fourth", "published")
    assert told(changes(night.root, "third")) == ([], [], [2, 4])
    assert told(changes(night.root, "first")) == ([], [], [1, 2, 3, 4, 5])


def test_what_a_consumer_holds_is_brought_up_to_date_whatever_was_removed(night: TinyWarehouse) -> None:
    held = Snapshot.open(night.root).rows("index_feed", ["feed_id", "row_digest"])
    night.merge("index_feed", deleted=[1, 4], changed=[other(3, "new")])
    night.write("index_feed", [feed_row(6)])
    night.event("second", "published")
    night.vacuum("index_feed")
    found = changes_to(Snapshot.open(night.root), held["feed_id"].to_numpy(), held["row_digest"].to_pylist())
    assert told(found) == ([6], [3], [1, 4])
    assert found.since is None
    assert [row["title"] for row in upserts(found, ["title", "feed_id"])] == ["new", "picture 6"]
    assert told(changes_to(found.snapshot, np.empty(0, np.int64), [])) == ([2, 3, 5, 6], [], [])


@pytest.mark.parametrize(("ids", "digests"), [([1, 1], ["a", "b"]), ([1, 2], ["a"]), ([[1]], [["a"]])])
def test_holdings_that_make_no_sense_are_refused(night: TinyWarehouse, ids: list[Any], digests: list[Any]) -> None:
    with pytest.raises(SnapshotError, match="expected different feed_ids"):
        changes_to(Snapshot.open(night.root), np.array(ids), digests)


def test_holdings_that_are_no_ids_or_digests_are_refused(night: TinyWarehouse) -> None:
    snapshot = Snapshot.open(night.root)
    for ids in ([1.0, 2.0], [1.5, 2], ["1", "2"]):
        with pytest.raises(SnapshotError, match="feed_ids: expected whole numbers, found"):
            changes_to(snapshot, np.array(ids), ["a", "b"])  # type: ignore[arg-type]
    with pytest.raises(SnapshotError, match="row_digests: expected hex digits, found 'é'"):
        changes_to(snapshot, np.array([1, 2]), ["é", "b"])


STATES = st.dictionaries(st.integers(0, 7), st.integers(0, 2), max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    states=st.lists(STATES, min_size=2, max_size=5),
    compacted=st.integers(0, 5),
    keeping=st.lists(st.booleans(), min_size=5, max_size=5),
    data=st.data(),
)
def test_the_old_feed_with_the_changes_is_the_new_feed(
    tmp_path_factory: pytest.TempPathFactory,
    states: list[dict[int, int]],
    compacted: int,
    keeping: list[bool],
    data: st.DataObject,
) -> None:
    """Whether a night rewrites files, or marks rows as dead (`keeping`); and of what was changed there and back it may
    be told that it changed."""
    warehouse = TinyWarehouse(tmp_path_factory.mktemp("w") / "a%20 b")
    now: dict[int, int] = {}
    warehouse.write("index_feed", [])
    for number, state in enumerate(states):
        row = {key: other(key, str(value)) for key, value in state.items()}
        gone, changed = now.keys() - state.keys(), {key for key in now.keys() & state.keys() if now[key] != state[key]}
        written = state.keys() - now.keys()
        if keeping[number]:
            warehouse.kill("index_feed", gone | changed)
            written = written | changed
        else:
            warehouse.merge("index_feed", deleted=sorted(gone), changed=[row[key] for key in sorted(changed)])
        warehouse.write("index_feed", [row[key] for key in sorted(written)])
        if number == compacted:
            warehouse.compact("index_feed")
        now = state
        warehouse.event(str(number), "published")
    start = data.draw(st.integers(0, len(states) - 1))
    end = data.draw(st.integers(start, len(states) - 1))
    found = changes(Snapshot.open(warehouse.root, str(end)), str(start))
    before, after = states[start], states[end]
    inserted, updated, deleted = map(set, told(found))
    assert inserted == after.keys() - before.keys()
    assert deleted == before.keys() - after.keys()
    other_since = {
        key for key in before.keys() & after.keys() if len({s.get(key) for s in states[start : end + 1]}) > 1
    }
    assert updated == other_since
    assert {row["feed_id"]: row["title"] for row in upserts(found)} == {
        key: str(after[key]) for key in found.upserted.tolist()
    }
