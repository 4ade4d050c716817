"""What the ledger tells of runs."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

import pytest

from jobs.config.errors import RunError, UsageError
from jobs.reporting.runs import (
    SHOWN_RUNS,
    Failure,
    Run,
    chosen_runs,
    drift,
    failures,
    funnel,
    published_runs,
    step_costs,
)

FIRST = dt.date(2026, 1, 1)


def run(number: int, *, is_night: bool = True, **counts: int) -> Run:
    """The run of the date that is `number` days after the first; `a__b` stands for `a.b` in the names of counts."""
    return Run(
        run_id=f"run-{number}",
        job="nightly" if is_night else "redecide",
        seq=number,
        ingest_dates=(FIRST + dt.timedelta(days=number),),
        published_at=dt.datetime(2026, 2, 1, tzinfo=dt.UTC),
        is_night=is_night,
        counts={name.replace("__", "."): count for name, count in counts.items()},
        metrics={"seconds.crawl and gate": 2.0, "seconds.odd step": 1.0, "seconds.staging": 4.0, "dedup.rounds": 1.0},
        table_versions={},
    )


def event(run_id: str, name: str, **given: Any) -> Mapping[str, Any]:
    own = {"run_id": run_id, "job": "nightly", "event": name, "seq": 1, "ingest_dates": [FIRST], "at": None}
    return own | {"inputs_digest": None, "counts": {}, "metrics": {}, "table_versions": {}} | given


def test_published_runs_are_taken_and_nights_told_from_the_others() -> None:
    events = [event("a", "started"), event("a", "published", inputs_digest="x"), event("b", "published")]
    assert [(run.run_id, run.is_night) for run in published_runs(events)] == [("a", True), ("b", False)]


def test_a_night_that_was_taken_back_is_none_any_more() -> None:
    nights = [event(name, "published", inputs_digest="x") for name in ("a", "b")]
    runs = published_runs([*nights, event("back", "published", rolled_back_to="a")])
    assert [(run.run_id, run.is_night) for run in runs] == [("a", True), ("b", False), ("back", False)]


def test_a_run_is_chosen_by_its_id_its_date_or_because_it_is_the_newest() -> None:
    again = run(1)
    runs = [run(0), run(1), run(3), run(1, is_night=False), again]
    assert chosen_runs(runs) == [again]
    assert chosen_runs(runs, run_id="run-0") == runs[:1]
    assert chosen_runs(runs, dates=(FIRST, FIRST)) == runs[:1]
    assert chosen_runs(runs, dates=(FIRST, FIRST + dt.timedelta(days=9))) == [runs[0], again, runs[2]]


def test_nothing_to_choose_from_is_said() -> None:
    with pytest.raises(RunError, match="no run is published yet"):
        chosen_runs([])
    with pytest.raises(UsageError, match="dates that are: none"):
        chosen_runs([run(0, is_night=False)], dates=(FIRST, FIRST))
    with pytest.raises(UsageError, match="the newest published ones: \\['run-0'\\]"):
        chosen_runs([run(0)], run_id="other")


def test_the_funnel_adds_up_runs_and_is_empty_where_no_row_ended() -> None:
    night = {"outcome__accepted": 6, "outcome__failed": 2, "urls": 7, "embedded": 5, "changed__index_feed": 4}
    assert [stage.count for stage in funnel([run(0, **night), run(1, **night)])] == [16, 14, 12, 10, 8]
    assert funnel([run(0, is_night=False, changed__index_feed=3)]) == []


def test_failures_come_most_frequent_first_with_their_meaning() -> None:
    found = failures([run(0, failed__dns=1, failed__gone=3, failed__new_code=2, failed__tls=0)])
    assert found == [
        Failure("gone", 3, "404 or 410", False),
        Failure("new_code", 2, "", False),
        Failure("dns", 1, "the host's name does not resolve", True),
    ]


def test_seconds_are_summed_by_step_and_divided_by_what_it_worked_through() -> None:
    crawl, odd = step_costs([run(0, urls=1000, sightings=5), run(1, urls=1000)])
    assert (crawl.name, crawl.seconds, crawl.worked_through, crawl.each_ms) == ("crawl and gate", 4.0, 2000, 2.0)
    assert crawl.hours_for_a_billion == pytest.approx(555.56, abs=0.01)
    assert (odd.name, odd.seconds, odd.each_ms) == ("odd step", 2.0, 400.0)
    assert step_costs([run(0)])[0].each_ms is None


def test_drift_is_against_the_median_of_the_nights_before() -> None:
    shares = [50, 90, 60, 60]
    runs = [run(n, outcome__accepted=share, outcome__failed=100 - share) for n, share in enumerate(shares)]
    nights = drift([*runs, run(9, is_night=False), run(10)], {"run-2"})
    assert [night.beside_earlier for night in nights] == [None, 40.0, -10.0, 0.0]
    assert [night.is_reported for night in nights] == [False, False, True, False]
    assert nights[0].row_ms == 40.0


def test_of_many_nights_the_newest_are_shown_and_compared_with_all_before() -> None:
    runs = [run(n, outcome__accepted=1, outcome__failed=int(n >= SHOWN_RUNS)) for n in range(2 * SHOWN_RUNS)]
    nights = drift(runs, set())
    assert [night.run.run_id for night in nights] == [f"run-{n}" for n in range(SHOWN_RUNS, 2 * SHOWN_RUNS)]
    assert nights[0].beside_earlier == -50.0
