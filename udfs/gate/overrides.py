"""What people decided about contents, brought together with what the policy says of them."""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.outcomes import Decision
from schemas.policy import Policy
from udfs.gate.rules import ContentSignals, Verdict, judge_content

REVIEWER_BLOCKED = "reviewer_blocked"
"""Reason code of what a person blocked."""


@dataclass(frozen=True)
class HumanVerdict:
    """What a person decided: block, or allow in the face of the review reasons in `cleared`."""

    block: bool
    cleared: frozenset[str]


People = Mapping[str, HumanVerdict]
"""Verdicts of people by image_id."""


def judge_with_people(policy: Policy, signals: ContentSignals, people: People) -> Verdict:
    """The policy's verdict, less the review reasons that a person cleared; a person's block joins whatever it says.

    Raises MissingScore as `judge_content` does.
    """
    person = people.get(signals.image_id)
    if person is None:
        return judge_content(policy, signals)
    verdict = judge_content(policy, signals, person.cleared)
    if not person.block:
        return verdict
    also = verdict.reasons if verdict.decision is Decision.BLOCK else ()
    return Verdict(Decision.BLOCK, tuple(sorted({REVIEWER_BLOCKED, *also})), halves=verdict.halves)
