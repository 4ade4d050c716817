"""Bounds on a night's counts: what breaks them, what is said, and what is accepted."""

import datetime as dt
import json
import math
from pathlib import Path
from typing import cast

import pytest

from jobs import nightly
from jobs.config.errors import RunError, UsageError
from jobs.config.profile import Config, load, load_policy
from jobs.run import health, nights
from jobs.run.expectations import Accepted, Expectations, UnexpectedError, accepted_by, check_names, earlier_nights
from jobs.startup import preflight
from jobs.startup.preflight import check_reasons
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import REMOVED, Event, Ledger
from schemas.counts import COUNTED, changed, outcome
from schemas.outcomes import FailureCode, Outcome
from schemas.settings import Expectation

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
        (
            "[{name: x, counts: [urls], at_most: 1}, {name: x, counts: [embedded], at_most: 1}]",
            "expected different names",
        ),
    ],
)
def test_an_expectation_that_says_nothing_is_refused(given: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load("conf/local.yaml", [f"run.expectations={given}"])


def expecting(*counts: str, of: tuple[str, ...] = (), policy: str = "conf/policy.yaml") -> Config:
    """The local profile with an expectation on these counts."""
    return load("conf/local.yaml", [*expected(*counts, of=of), f"policy.file={policy}"])


def expected(*counts: str, of: tuple[str, ...] = ()) -> list[str]:
    """The same as the command line has it."""
    return [f"run.expectations={json.dumps([{'name': 'x', 'counts': counts, 'of': of, 'at_most': 1}])}"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sighting", "did you mean sightings?"),
        ("outcome.acepted", "did you mean outcome.accepted?"),
        ("failed.time_out", "did you mean failed.timeout?"),
        ("failed.http_404", "did you mean failed.http_4xx?"),
        ("changed.indexfeed", "did you mean changed.index_feed?"),
        ("vectors.mean_cosin", "did you mean vectors.mean_cosine?"),
        ("no such thing", "known here: accepted_with_text, became_live, became_members, blocked.REASON, changed."),
        ("blocked.", "did you mean blocked.REASON?"),
        # What is counted elsewhere, or measured too late, is no count of a night that could be held against anything.
        ("changed.sightings", "did you mean "),
        ("usable_urls", ""),
        ("seconds.staging", ""),
    ],
)
def test_a_count_that_no_night_has_is_refused_with_the_nearest_one_and_its_place(
    tmp_path: Path, name: str, hint: str
) -> None:
    profile = tmp_path / "mine.yaml"
    base = Path("conf/local.yaml").resolve()
    profile.write_text(
        f"extends: {base}\nrun:\n  expectations:\n    - name: x\n      at_most: 1\n      counts:\n"
        f"        - sightings\n        - {name}\n"
    )
    with pytest.raises(UsageError) as refused:
        load(str(profile))
    said = str(refused.value)
    assert said.startswith(f"profile {profile}, line 8: run.expectations.0.counts.1: no night counts this; {hint}")
    assert said.endswith(f"found {name!r}")


def test_a_misspelt_count_is_told_in_a_share_and_on_the_command_line_too() -> None:
    with pytest.raises(UsageError, match=r"^--set .*: run\.expectations\.0\.of\.0: no night counts this; did you mean"):
        expecting("sightings", of=("outcome.acepted",))


def test_all_that_a_night_counts_may_be_expected() -> None:
    tables = ("clusters", "feed_members", "image_hashes", "index_feed", "lsh_bands", "refetch_queue", "url_state")
    names = ["sightings", "urls", "not_modified", "lost_decoders", "embedded", "texts_embedded", "texts_failed"]
    names += ["accepted_with_text", "became_live", "became_members", "overtaken", "fetched_ahead"]
    names += ["feed_id_collisions", "left_feed"]
    names += [*REMOVED, "vectors.mean_cosine", "vectors.neighbour_overlap", "dedup.rounds", "dedup.reached_groups"]
    names += [outcome(one) for one in Outcome] + [f"failed.{code}" for code in FailureCode]
    names += ["blocked.nsfw", "blocked.taken_down", "blocked.reviewer_blocked", *(changed(table) for table in tables)]
    assert set(names) - {name for name in names if name.startswith("blocked.")} == set(COUNTED)
    config = expecting(*names)
    check_reasons(config, load_policy(config.policy))


def test_a_reason_that_no_rule_gives_is_refused_once_the_policy_is_read(tmp_path: Path) -> None:
    said = (
        "run.expectations.0 (x): blocked.nsfv: no rule of the policy file conf/policy.yaml has this reason; "
        "did you mean blocked.nsfw?"
    )
    misspelt = expecting("sightings", "blocked.nsfv")
    with pytest.raises(UsageError) as refused:
        check_reasons(misspelt, load_policy(misspelt.policy))
    assert str(refused.value) == said
    preflight.check(misspelt)  # no takedown waits for it
    with pytest.raises(UsageError, match="no rule of the policy file"):
        nights.open_job("conf/local.yaml", expected("sightings", "blocked.nsfv"))
    with pytest.raises(UsageError, match="no rule of the policy file"):
        list(health.policy(misspelt))
    other = tmp_path / "policy.yaml"
    other.write_text(Path("conf/policy.yaml").read_text().replace("reason: nsfw\n", "reason: nsfv\n"))
    own = expecting("sightings", "blocked.nsfv", policy=str(other))
    check_reasons(own, load_policy(own.policy))


def test_what_production_expects_names_what_runs_count() -> None:
    assert load("conf/production.yaml", ["crawl.user_agent=x/1.0 (+https://example.com)"]).run.expectations
