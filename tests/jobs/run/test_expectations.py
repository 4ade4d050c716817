"""Bounds on a night's counts: what breaks them, what is said, and what is accepted."""

import datetime as dt
import math
from typing import cast

import pytest

from jobs import nightly
from jobs.config.errors import RunError, UsageError
from jobs.config.profile import load
from jobs.run.expectations import Accepted, Expectations, UnexpectedError, accepted_by, check_names, earlier_nights
from jobs.run.names import Count, Metric
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Event, Ledger
from schemas.outcomes import FailureCode
from schemas.settings import Expectation
from schemas.tables import TABLES

ROWS = Expectation(name="rows", counts=("sightings",), against="earlier", at_least=0.5, at_most=2)
FAILED = Expectation(name="failed", counts=("outcome.failed",), of=("sightings",), at_most=0.25)
BLOCKED = Expectation(
    name="blocked", counts=("outcome.blocked", "outcome.review"), of=("sightings",), against="earlier", at_most=3
)
USUAL = [{"sightings": rows, "outcome.blocked": 1} for rows in (90, 100, 1000)]


def night(day: int, run_id: str | None = None, event: str = "published", inputs: str | None = "digest") -> Event:
    counts = {"sightings": day}
    return Event(
        run_id or f"of-{day}", "nightly", event, (dt.date(2026, 3, day),), 1, counts=counts, inputs_digest=inputs
    )


def test_a_metric_that_was_not_measured_breaks_nothing() -> None:
    alike = Expectation(name="alike", counts=("vectors.mean_cosine",), at_least=0.1, at_most=0.5)
    assert Expectations([alike], []).check({"sightings": 1}) is None
    assert Expectations([alike], []).check({"vectors.mean_cosine": 0.3}) is None
    with pytest.raises(UnexpectedError, match=r"alike: vectors\.mean_cosine is 0\.9; at most 0\.5"):
        Expectations([alike], []).check({"vectors.mean_cosine": 0.9})


@pytest.mark.parametrize("bounds", [{"at_least": 0.1}, {"at_most": 0.5}])
@pytest.mark.parametrize("against", ["itself", "earlier"])
def test_what_is_no_number_breaks_every_bound_and_is_nothing_to_compare_with(
    bounds: dict[str, float], against: str
) -> None:
    given = {"name": "alike", "counts": ["vectors.mean_cosine"], "against": against}
    alike = Expectation.model_validate(given | bounds)
    nights = [{"vectors.mean_cosine": 0.3}] * 3
    with pytest.raises(UnexpectedError, match=r"alike: vectors\.mean_cosine is nan"):
        Expectations([alike], nights).check({"vectors.mean_cosine": math.nan})
    unknown = [{"vectors.mean_cosine": math.nan}] * 3
    assert Expectations([alike], [*unknown, *nights[:2]]).check({"vectors.mean_cosine": 0.9 / 2}) is None


def test_a_night_as_expected_is_told_nothing_of() -> None:
    counts = {"sightings": 100, "outcome.failed": 25, "outcome.blocked": 1, "outcome.review": 2}
    assert Expectations([ROWS, FAILED, BLOCKED], USUAL).check(counts) is None


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"sightings": 49}, "rows: sightings is 49, 0.49 times the median of 3 nights (100); at least 0.5 is expected"),
        ({"sightings": 201}, "rows: sightings is 201, 2.01 times the median of 3 nights (100); at most 2 is expected"),
        (
            {"sightings": 100, "outcome.failed": 26},
            "failed: outcome.failed of sightings is 0.26; at most 0.25 is expected",
        ),
        (
            {"sightings": 100, "outcome.blocked": 2, "outcome.review": 2},
            "blocked: outcome.blocked + outcome.review of sightings is 0.04, 4 times the median of 3 nights (0.01); "
            "at most 3 is expected",
        ),
    ],
)
def test_a_breach_names_the_expectation_the_value_and_the_bound(counts: dict[str, int], said: str) -> None:
    with pytest.raises(RunError) as raised:
        Expectations([ROWS, FAILED, BLOCKED], USUAL).check(counts)
    assert f"not as expected: {said}. Nothing is published." in str(raised.value)


def test_all_that_is_broken_is_said_at_once() -> None:
    with pytest.raises(RunError, match=r"rows: .*; failed: "):
        Expectations([ROWS, FAILED], USUAL).check({"sightings": 10, "outcome.failed": 10})


def test_what_is_accepted_is_said_with_its_reason_and_the_rest_still_refused() -> None:
    accepted = Accepted(frozenset({"rows"}), "half the feed is on holiday")
    expectations = Expectations([ROWS, FAILED], USUAL, accepted)
    said = expectations.check({"sightings": 10})
    assert said is not None
    assert said.startswith("accepted though not as expected: rows: sightings is 10, 0.1 times")
    assert said.endswith("(half the feed is on holiday)")
    with pytest.raises(RunError, match="not as expected: failed"):
        expectations.check({"sightings": 10, "outcome.failed": 10})


@pytest.mark.parametrize("earlier", [[], USUAL[:2], [{"sightings": 0}] * 5])
def test_without_enough_earlier_nights_there_is_nothing_to_compare_with(earlier: list[dict[str, int]]) -> None:
    assert Expectations([ROWS], earlier).check({"sightings": 1}) is None


def test_a_share_of_nothing_is_not_expected_to_be_anything() -> None:
    assert Expectations([FAILED, BLOCKED], USUAL).check({"sightings": 0}) is None


def test_at_its_beginning_only_what_the_rows_tell_is_looked_at() -> None:
    accepting = Expectation(name="accepted", counts=("outcome.accepted",), of=("sightings",), at_least=0.5)
    early = Expectations([ROWS, accepting], USUAL)
    assert early.check({"sightings": 100}, complete=False) is None
    with pytest.raises(RunError, match="not as expected: rows"):
        early.check({"sightings": 10}, complete=False)
    with pytest.raises(RunError, match="not as expected: accepted"):
        early.check({"sightings": 100})


def test_earlier_nights_are_other_dates_as_published_last() -> None:
    ledger = Ledger(cast("Landing", None), 0)
    ledger.events = [
        night(1),
        night(2),
        night(3, event="discarded"),
        night(4, inputs=None),  # a re-decision
        night(5),
        night(1, run_id="again"),
        night(6),
    ]
    assert earlier_nights(ledger.nights(), dt.date(2026, 3, 6), 7) == [{"sightings": day} for day in (2, 5, 1)]
    assert earlier_nights(ledger.nights(), dt.date(2026, 3, 6), 2) == [{"sightings": 5}, {"sightings": 1}]


def test_one_option_needs_the_other() -> None:
    parser = nightly.command_line()
    date = ["--profile", "p", "--date", "2026-03-01"]
    given = parser.parse_args([*date, "--accept-breach", "rows", "--accept-breach", "failed", "--why", " a\n b "])
    assert accepted_by(given) == Accepted(frozenset({"rows", "failed"}), "a b")
    for half in (["--accept-breach", "rows"], ["--why", "because"]):
        with pytest.raises(UsageError, match="go together"):
            accepted_by(parser.parse_args([*date, *half]))


def test_what_is_accepted_is_expected_somewhere() -> None:
    with pytest.raises(UsageError, match=r"--accept-breach row: expected a name of run.expectations \(rows, failed\)"):
        check_names(Accepted(frozenset({"row"}), "why"), [ROWS, FAILED])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[{name: x, counts: [sightings]}]", "expected at_least, at_most or both, found neither"),
        ("[{name: x, counts: [], at_most: 1}]", "run.expectations"),
        ("[{name: x, counts: [a], at_most: 1}, {name: x, counts: [b], at_most: 1}]", "expected different names"),
    ],
)
def test_an_expectation_that_says_nothing_is_refused(given: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load("conf/local.yaml", [f"run.expectations={given}"])


def test_what_production_expects_names_what_runs_count() -> None:
    outcomes = {"accepted", "review", "blocked", "failed", "deferred"}
    known = {"sightings", *(f"outcome.{one}" for one in outcomes)}
    known |= {f"failed.{code.value}" for code in FailureCode} | {f"changed.{name}" for name in TABLES} | set(Count)
    known |= set(Metric)
    expected = load("conf/production.yaml", ["crawl.user_agent=x/1.0 (+https://example.com)"]).run.expectations
    assert expected
    for one in expected:
        assert {*one.counts, *one.of} <= known, one.name
