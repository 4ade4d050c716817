"""Evaluation of the policy: sightings before the fetch, contents in the gate. Pure functions of facts and policy."""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from schemas.outcomes import Decision, strictest
from schemas.policy import CombinedRule, DomainRule, LicenceRule, NsfwRule, Policy, TextRule
from udfs.urls import host_of, matches_domain


@dataclass(frozen=True)
class Verdict:
    """A decision with its reason codes, sorted: see `sighting_judge` and `judge_content` for whose."""

    decision: Decision
    reasons: tuple[str, ...] = ()
    withdraws: bool = False
    """Whether the URL itself is withdrawn (licence, domain), rather than this one sighting (text)."""
    halves: tuple[str, ...] = ()
    """Ids of the combined rules whose half on this side matches."""


@dataclass(frozen=True)
class ContentSignals:
    """What the rules on contents look at."""

    image_id: str
    scores: Mapping[str, float]
    phash256s: bytes | None = None
    pdqs: bytes | None = None
    pdq_quality: int | None = None


@dataclass(frozen=True)
class SightingFacts:
    """What the rules on sightings look at."""

    host: str
    licence: str | None
    text: Mapping[str, str]
    """Text by field name (schemas.policy.TextField); absent and empty fields left out."""


class SightingJudge(Protocol):
    """A sighting's verdict, passing over review rules whose reason a person has cleared."""

    def __call__(self, facts: SightingFacts, cleared: frozenset[str] = frozenset()) -> Verdict: ...


class MissingScore(Exception):  # noqa: N818 - an outcome of a content, not a fault of the program
    """The content has no finite score that the policy could go by; the gate fails closed on it."""


def sighting_judge(policy: Policy) -> "SightingJudge":
    """The rules that need no pixels, made ready once: the verdict of a sighting, with the reasons of all that match."""
    matchers = [
        (rule, _matcher(rule)) for rule in policy.rules if isinstance(rule, LicenceRule | DomainRule | TextRule)
    ]
    halves = [
        (rule.id, _word_pattern(rule.text.words), rule.text.fields)
        for rule in policy.rules
        if isinstance(rule, CombinedRule)
    ]

    def judge(facts: SightingFacts, cleared: frozenset[str] = frozenset()) -> Verdict:
        folded = _Folded(facts.host, facts.licence, {field: _folded(text) for field, text in facts.text.items()})
        matched = [
            rule
            for rule, matches in matchers
            if matches(folded) and not (rule.action == "review" and rule.reason in cleared)
        ]
        return Verdict(
            strictest(*(Decision(rule.action) for rule in matched)),
            tuple(sorted({rule.reason for rule in matched})),
            any(rule.kind != "text" and rule.action == "block" for rule in matched),
            tuple(name for name, words, named in halves if any(words.search(folded.text.get(n, "")) for n in named)),
        )

    return judge


def judge_content(policy: Policy, signals: ContentSignals, cleared: frozenset[str] = frozenset()) -> Verdict:
    """Verdict of the rules on content, with the reasons of the strictest that match; the worst view decides.

    `scores` maps `nsfw:<view>` to a probability in [0, 1]. Raises MissingScore when there is none or one is not
    finite or not a probability: no score, no admission.
    """
    scores = signals.scores
    views = [score for view, score in scores.items() if view.startswith("nsfw:")]
    if not views or not all(math.isfinite(score) and 0 <= score <= 1 for score in views):
        raise MissingScore(f"no usable NSFW score among {dict(scores)}")
    worst = max(views)
    matched = [rule for rule in policy.rules if isinstance(rule, NsfwRule) and worst >= rule.at_least]
    matched = [rule for rule in matched if not (rule.action == "review" and rule.reason in cleared)]
    decision = strictest(*(Decision(rule.action) for rule in matched))
    deciding = (rule for rule in matched if Decision(rule.action) is decision)
    halves = tuple(r.id for r in policy.rules if isinstance(r, CombinedRule) and worst >= r.content.at_least)
    return Verdict(decision, tuple(sorted({rule.reason for rule in deciding})), halves=halves)


def refused_url(policy: Policy) -> Callable[[str], str | None]:
    """A check of one normalised URL (a redirect's target, say): the reason code of the first blocking domain rule that
    its host falls under."""
    rules = [
        (frozenset(rule.domains), rule.reason)
        for rule in policy.rules
        if isinstance(rule, DomainRule) and rule.action == "block"
    ]

    def check(url: str) -> str | None:
        host = host_of(url)
        return next((reason for domains, reason in rules if matches_domain(host, domains)), None)

    return check


@dataclass(frozen=True)
class _Folded:
    """`SightingFacts` with its texts made comparable."""

    host: str
    licence: str | None
    text: Mapping[str, str]


def _matcher(rule: LicenceRule | DomainRule | TextRule) -> Callable[[_Folded], bool]:
    if isinstance(rule, LicenceRule):
        return _licence_matcher(rule)
    if isinstance(rule, DomainRule):
        domains = frozenset(rule.domains)
        return lambda facts: matches_domain(facts.host, domains) is not None
    pattern, fields = _word_pattern(rule.words), rule.fields
    return lambda facts: any(pattern.search(facts.text.get(field, "")) for field in fields)


def _licence_matcher(rule: LicenceRule) -> Callable[[_Folded], bool]:
    listed = frozenset(_licence_name(name) for name in rule.allow or rule.deny)

    def matches(facts: _Folded) -> bool:
        name = _licence_name(facts.licence or "")
        if not name:
            return rule.missing == "match"
        return (name not in listed) if rule.allow else (name in listed)

    return matches


def _licence_name(name: str) -> str:
    return name.strip().casefold()


def _word_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the words as a whole: neither side continues it with a letter, a digit or an underscore."""
    alternatives = "|".join(r"\s+".join(map(re.escape, _folded(word).split())) for word in words)
    return re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)")


def _folded(text: str) -> str:
    """Text as caseless comparison has it, after toNFKC_Casefold (Unicode, section 3.13): compatibility forms made one,
    case folded, invisible format characters dropped, so that a soft hyphen hides no word."""
    if text.isascii():
        return text.lower()
    visible = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())
