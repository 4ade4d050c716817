"""Evaluation of the policy: sightings before the fetch, contents in the gate. Pure functions of facts and policy."""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from schemas.outcomes import Decision, strictest
from schemas.policy import DomainRule, LicenceRule, NsfwRule, Policy, TextRule
from udfs.urls import host_of, matches_domain


@dataclass(frozen=True)
class Verdict:
    """A decision with the reason codes of every rule that matched, sorted."""

    decision: Decision
    reasons: tuple[str, ...] = ()
    withdraws: bool = False
    """Whether the URL itself is withdrawn (licence, domain), rather than this one sighting (text)."""


@dataclass(frozen=True)
class SightingFacts:
    """What the rules on sightings look at."""

    host: str
    licence: str | None
    text: Mapping[str, str]
    """Text by field name (schemas.policy.TextField); absent and empty fields left out."""


class MissingScore(Exception):
    """The content has no finite score that the policy could go by; the gate fails closed on it."""


def judge_sighting(policy: Policy, facts: SightingFacts) -> Verdict:
    """Verdict of the rules that need no pixels."""
    matched = [rule for rule in policy.rules if rule.on != "nsfw" and _matches(rule, facts)]
    return Verdict(
        strictest(*(Decision(rule.action) for rule in matched)),
        tuple(sorted({rule.reason for rule in matched})),
        any(rule.on != "text" and rule.action == "block" for rule in matched),
    )


def judge_content(policy: Policy, scores: Mapping[str, float]) -> Verdict:
    """Verdict of the rules on content; the worst view decides.

    `scores` maps `nsfw:<view>` to a probability in [0, 1]. Raises MissingScore when there is none or one is not
    finite or not a probability: no score, no admission.
    """
    views = [score for view, score in scores.items() if view.startswith("nsfw:")]
    if not views or not all(math.isfinite(score) and 0 <= score <= 1 for score in views):
        raise MissingScore(f"no usable NSFW score among {dict(scores)}")
    worst = max(views)
    matched = [rule for rule in policy.rules if isinstance(rule, NsfwRule) and worst >= rule.at_least]
    decision = strictest(*(Decision(rule.action) for rule in matched))
    deciding = (rule for rule in matched if Decision(rule.action) is decision)
    return Verdict(decision, tuple(sorted({rule.reason for rule in deciding})))


def refused_url(policy: Policy) -> Callable[[str], str | None]:
    """A check of one URL (a redirect's target, say): the reason code of the first blocking domain rule it falls under."""
    rules = [rule for rule in policy.rules if isinstance(rule, DomainRule) and rule.action == "block"]

    def check(url: str) -> str | None:
        host = host_of(url)
        return next((rule.reason for rule in rules if matches_domain(host, frozenset(rule.domains))), None)

    return check


def _matches(rule: LicenceRule | DomainRule | TextRule | NsfwRule, facts: SightingFacts) -> bool:
    if isinstance(rule, LicenceRule):
        return _licence_matches(rule, facts.licence)
    if isinstance(rule, DomainRule):
        return matches_domain(facts.host, frozenset(rule.domains)) is not None
    if isinstance(rule, TextRule):
        pattern = _word_pattern(rule.words)
        return any(pattern.search(_folded(facts.text[field])) for field in rule.fields if field in facts.text)
    return False


def _licence_matches(rule: LicenceRule, licence: str | None) -> bool:
    if licence is None or not licence.strip():
        return rule.missing == "match"
    name = licence.strip().casefold()
    if rule.allow:
        return name not in {allowed.casefold() for allowed in rule.allow}
    return name in {denied.casefold() for denied in rule.deny}


@lru_cache(maxsize=64)
def _word_pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Any of the words as a whole: neither side continues it with a letter, a digit or an underscore."""
    alternatives = "|".join(r"\s+".join(map(re.escape, _folded(word).split())) for word in words)
    return re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)")


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
