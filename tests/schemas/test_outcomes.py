from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.outcomes import DECISION_MEANINGS, TRANSIENT, WITHDRAWALS, Decision, Outcome, strictest
from schemas.tables import TABLES


def test_the_strictest_of_no_decisions_allows() -> None:
    assert strictest() is Decision.ALLOW


def test_block_is_stricter_than_review_and_review_than_allow_in_any_order() -> None:
    for order in permutations(Decision):
        assert strictest(*order) is Decision.BLOCK
    for order in permutations([Decision.ALLOW, Decision.REVIEW]):
        assert strictest(*order) is Decision.REVIEW


@settings(deadline=None)
@given(st.lists(st.sampled_from(Decision)), st.lists(st.sampled_from(Decision)))
def test_strictness_can_be_taken_in_parts(some: list[Decision], others: list[Decision]) -> None:
    assert strictest(*some, *others) is strictest(strictest(*some), strictest(*others))


def test_a_withdrawal_is_never_asked_again() -> None:
    assert not WITHDRAWALS & TRANSIENT


def test_the_closed_lists_are_the_designs() -> None:
    # Failure codes, each with its kind, are listed in docs/tables.md, which tests/schemas/test_document.py holds.
    assert [str(outcome) for outcome in Outcome] == ["accepted", "review", "blocked", "failed", "deferred"]
    assert {str(code) for code in WITHDRAWALS} == {"opt_out", "robots", "gone"}
    assert list(DECISION_MEANINGS) == list(Decision)


def test_the_tables_constraints_know_every_outcome_and_decision_and_no_other() -> None:
    outcomes = ", ".join(repr(str(outcome)) for outcome in Outcome)
    decisions = ", ".join(repr(str(decision)) for decision in Decision)
    assert TABLES["sightings"].constraints["outcome_known"] == f"outcome in ({outcomes})"
    assert TABLES["decisions"].constraints["decision_known"] == f"decision in ({decisions})"
