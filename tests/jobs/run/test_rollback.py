"""What going back to a run means, as far as the ledger tells."""

import datetime as dt
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jobs.config.errors import UsageError
from jobs.run.rollback import described, find_earlier
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Event, Ledger

DAYS = [dt.date(2026, 3, day) for day in range(1, 8)]


class Story:
    """A ledger of published runs."""

    def __init__(self) -> None:
        landing = SimpleNamespace(storage=SimpleNamespace(root="/warehouse"))
        self.ledger = Ledger(cast("Landing", landing), 1)

    def published(self, run_id: str, job: str, *days: int, **more: Any) -> None:
        dates, seq = tuple(DAYS[day - 1] for day in days), len(self.ledger.events) + 1
        self.ledger.events.append(Event(run_id, job, "published", dates, 1, seq, **more))

    def night(self, run_id: str, day: int, sightings: int = 10) -> None:
        counts = {"sightings": sightings, "urls": sightings}
        self.published(run_id, "nightly", day, counts=counts, inputs_digest=f"of {run_id}")

    def refetch(self, run_id: str, *days: int) -> None:
        self.published(run_id, "nightly", *days, counts={"urls": 3})

    def decided(self, run_id: str, *days: int) -> None:
        self.published(run_id, "redecide", *days, counts={"changed.sightings": 3})

    def rolled_back(self, run_id: str, to: str) -> None:
        earlier = find_earlier(self.ledger, to)
        days = [DAYS.index(date) + 1 for date in earlier.dates]
        self.published(run_id, "rollback", *days, counts={"sightings": earlier.sightings}, rolled_back_to=to)

    def known(self) -> dict[int, str]:
        """Dates that count as published, and by which run."""
        found = {day: self.ledger.published_for(DAYS[day - 1]) for day in range(1, 8)}
        return {day: event.run_id for day, event in found.items() if event is not None}

    def back(self, to: str) -> tuple[list[int], list[int], int]:
        """Dates dropped, dates restored, sightings of the latter."""
        earlier = find_earlier(self.ledger, to)
        days = [[DAYS.index(date) + 1 for date in dates] for dates in (earlier.dropped, earlier.restored)]
        return days[0], days[1], earlier.sightings


def test_dates_of_nights_refetches_and_rollbacks_since_then_are_taken_back_and_no_decision() -> None:
    story = Story()
    story.night("a", 2)
    story.night("b", 3, sightings=7)
    story.decided("c", 2, 3)
    assert story.back("b") == ([], [], 0)
    story.night("d", 1)
    story.refetch("e", 3)
    story.decided("f", 2)
    story.night("g", 2)
    assert story.back("f") == ([], [2], 10)
    assert story.back("c") == ([1], [2, 3], 17)
    assert story.back("b") == ([1], [2, 3], 17)
    assert story.back("a") == ([1, 3], [2], 10)


def test_what_a_rollback_took_back_counts_as_unpublished_until_it_is_published_again() -> None:
    story = Story()
    story.night("a", 1)
    story.night("b", 2)
    story.night("c", 1)
    assert story.known() == {1: "c", 2: "b"}
    story.rolled_back("back", "a")
    assert story.known() == {1: "a"}
    story.night("d", 2)
    assert story.known() == {1: "a", 2: "d"}


def test_a_rollback_can_be_taken_back_itself_and_what_it_took_back_be_gone_to() -> None:
    story = Story()
    story.night("a", 1)
    story.night("b", 2)
    story.rolled_back("back", "a")
    assert story.back("b") == ([], [2], 10)
    story.rolled_back("forth", "b")
    assert story.known() == {1: "a", 2: "b"}
    story.night("c", 3)
    assert story.back("back") == ([2, 3], [], 0)
    story.rolled_back("again", "back")
    assert story.known() == {1: "a"}


def test_going_back_twice_is_going_back_once() -> None:
    story = Story()
    story.night("a", 1)
    story.night("b", 2)
    story.rolled_back("back", "a")
    story.decided("c", 1)
    assert story.back("a") == ([], [], 0)
    story.night("d", 3)
    assert story.back("a") == ([2, 3], [], 0)


def test_a_run_that_was_not_published_is_no_place_to_go_back_to() -> None:
    story = Story()
    with pytest.raises(UsageError, match="the last of which are none: there is none"):
        story.back("a")
    story.night("a", 1)
    story.ledger.events.append(Event("lost", "nightly", "discarded", (), 1, 9))
    for wrong in ("lost", "unheard-of"):
        expected = rf"--to {wrong}: expected a published run of the warehouse /warehouse, the last of which are a \(n"
        with pytest.raises(UsageError, match=expected):
            story.back(wrong)


def test_dates_are_told_in_words() -> None:
    assert [described(DAYS[:count]) for count in range(3)] == ["none", "2026-03-01", "2 from 2026-03-01 to 2026-03-02"]
