"""Evaluation of the policy: sightings before the fetch, contents in the gate. Pure functions of facts and policy."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from schemas.outcomes import Decision, strictest
from schemas.policy import (
    NSFW,
    CombinedRule,
    DetectorRule,
    DomainRule,
    LicenceRule,
    NsfwRule,
    PerceptualRule,
    Policy,
    Rule,
    Sha256Rule,
    TextRule,
    TextTest,
    UrlRule,
)
from udfs.credentials import redact_url
from udfs.folding import folded_text, folded_urls
from udfs.gate.hash_lists import any_within, hash_index, is_listed
from udfs.gate.patterns import any_of, comparable_word
from udfs.urls import host_of, matches_domain

_SHA256 = re.compile("[0-9a-f]{64}")
_URL_FIELDS = frozenset({"url", "page_url"})


@dataclass(frozen=True)
class Verdict:
    """A decision with its reason codes, sorted: see `sighting_judge` and `judge_content` for whose."""

    decision: Decision
    reasons: tuple[str, ...] = ()
    withdraws: bool = False
    """Whether the URL itself is withdrawn (licence, domain, URL), rather than this one sighting (text)."""
    halves: tuple[str, ...] = ()
    """Ids of the combined rules whose half on this side matches, in the policy's order."""


@dataclass(frozen=True)
class ContentSignals:
    """What the rules on contents look at, as `content_signals` stores it."""

    image_id: str
    """SHA-256 hex of the bytes."""
    scores: Mapping[str, float]
    """Probabilities by `nsfw:<view>` and `<detector>.<label>:<view>`."""
    phash256s: bytes | None = None
    pdqs: bytes | None = None
    """Hashes in the eight orientations, 8 x 32 bytes; None where the gate made none."""
    pdq_quality: int | None = None
    """0 to 100: how much there is to hash, of either kind."""


@dataclass(frozen=True)
class SightingFacts:
    """What the rules on sightings look at."""

    host: str
    licence: str | None
    text: Mapping[str, str]
    """Text by field name (schemas.policy.TextField); absent and empty fields left out. `url` is the normalised one,
    without credentials."""
    language: str | None = None
    """ISO 639-1; None where it is not clear."""
    shown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By field name, the plain texts that its text may be shown as (udfs.cleaning): rules look into all of them."""


class SightingJudge(Protocol):
    """A sighting's verdict, passing over review rules whose reason a person has cleared."""

    def __call__(self, facts: SightingFacts, cleared: frozenset[str] = frozenset()) -> Verdict: ...


class MissingScore(Exception):  # noqa: N818 - an outcome of a content, not a fault of the program
    """A signal that a rule needs is absent or unusable; the gate fails closed on it."""


def sighting_judge(policy: Policy) -> SightingJudge:
    """The rules that need no pixels, made ready once: the verdict of a sighting, with the reasons of all that match.

    Raises udfs.gate.patterns.PatternError for a regular expression that cannot be used.
    """
    matchers = [(rule, matcher) for rule in policy.rules if (matcher := _sighting_matcher(rule)) is not None]
    halves = [(rule.id, _text_matcher(rule.text)) for rule in policy.rules if isinstance(rule, CombinedRule)]

    def judge(facts: SightingFacts, cleared: frozenset[str] = frozenset()) -> Verdict:
        comparable = _Comparable(facts)
        matched = [rule for rule, matches in matchers if not _is_cleared(rule, cleared) and matches(comparable)]
        return Verdict(
            strictest(*(Decision(rule.action) for rule in matched)),
            tuple(sorted({rule.reason for rule in matched})),
            any(not isinstance(rule, TextRule) and rule.action == "block" for rule in matched),
            tuple(rule_id for rule_id, matches in halves if matches(comparable)),
        )

    return judge


def judge_content(policy: Policy, signals: ContentSignals, cleared: frozenset[str] = frozenset()) -> Verdict:
    """Verdict of the rules on content, with the reasons of the strictest that match; the worst view decides.

    Review rules whose reason is in `cleared` are passed over, for a person has cleared it. Raises MissingScore where a
    rule needs a score that is absent in every view, or not a probability in one, or a hash that is not there: what
    cannot be judged by every rule is not judged at all. An NSFW score is always needed.
    """
    matchers, halves = _content_matchers(_ById(policy))
    # Every rule is asked, cleared or not, so that none of its signals can be missing unnoticed.
    matched = [rule for rule, matches in matchers if matches(signals)]
    matched = [rule for rule in matched if not _is_cleared(rule, cleared)]
    decision = strictest(*(Decision(rule.action) for rule in matched))
    deciding = (rule for rule in matched if Decision(rule.action) is decision)
    return Verdict(
        decision,
        tuple(sorted({rule.reason for rule in deciding})),
        halves=tuple(rule.id for rule, matches in halves if matches(signals)),
    )


def refused_url(policy: Policy) -> Callable[[str], str | None]:
    """A check of one normalised URL (a redirect's target, say): the reason code of the first blocking rule on domains
    or URLs that it falls under."""
    rules = [
        (rule.reason, matcher)
        for rule in policy.rules
        if rule.action == "block" and (matcher := _address_matcher(rule)) is not None
    ]

    def check(url: str) -> str | None:
        host = host_of(url)
        return next((reason for reason, matches in rules if matches(host, url)), None)

    return check


def _is_cleared(rule: Rule, cleared: frozenset[str]) -> bool:
    return rule.action == "review" and rule.reason in cleared


# Sightings ------------------------------------------------------------------------------------------------------------


class _Comparable:
    """`SightingFacts` with its texts made comparable."""

    def __init__(self, facts: SightingFacts) -> None:
        self.facts = facts
        self.url = facts.text.get("url", "")
        self.texts = {
            name: folded_urls(text) if name in _URL_FIELDS else {*map(folded_text, (text, *facts.shown.get(name, ())))}
            for name, text in facts.text.items()
        }


_SightingMatcher = Callable[[_Comparable], bool]


def _sighting_matcher(rule: Rule) -> _SightingMatcher | None:
    """None for a rule that is not on sightings."""
    if isinstance(rule, LicenceRule):
        return _licence_matcher(rule)
    if isinstance(rule, TextRule):
        return _text_matcher(rule)
    matches_address = _address_matcher(rule)
    if matches_address is None:
        return None
    return lambda sighting: matches_address(sighting.facts.host, sighting.url)


def _address_matcher(rule: Rule) -> Callable[[str, str], bool] | None:
    """Of a host and the normalised URL that it is of; None for a rule that is on neither."""
    if isinstance(rule, DomainRule):
        domains = frozenset(rule.domains)
        return lambda host, _: matches_domain(host, domains) is not None
    if isinstance(rule, UrlRule):
        # Without credentials on both sides: as such URLs are stored, and judged again.
        urls = frozenset(map(redact_url, rule.urls))
        return lambda _, url: redact_url(url) in urls
    return None


def _licence_matcher(rule: LicenceRule) -> _SightingMatcher:
    listed = frozenset(_licence_name(name) for name in rule.allow or rule.deny)

    def matches(sighting: _Comparable) -> bool:
        name = _licence_name(sighting.facts.licence or "")
        if not name:
            return rule.missing == "match"
        return (name not in listed) if rule.allow else (name in listed)

    return matches


def _licence_name(name: str) -> str:
    return folded_text(name)


def _text_matcher(test: TextTest) -> _SightingMatcher:
    """A language that is not clear may be any: the test is not passed over for it."""
    words = _word_pattern(test.words) if test.words else None
    any_pattern = any_of(test.patterns)

    def found_in(text: str) -> bool:
        return (words is not None and words.search(text) is not None) or any_pattern(text)

    def matches(sighting: _Comparable) -> bool:
        language = sighting.facts.language
        if test.languages and language is not None and language not in test.languages:
            return False
        return any(found_in(text) for name in test.fields for text in sighting.texts.get(name, ()))

    return matches


def _word_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the words as a whole: neither side continues it with a letter, a digit or an underscore."""
    alternatives = "|".join(r"\s+".join(map(re.escape, comparable_word(word).split())) for word in words)
    return re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)")


# Contents -------------------------------------------------------------------------------------------------------------

_ContentMatcher = Callable[[ContentSignals], bool]


class _ById:
    """A policy as a key of a cache: by identity, since hashing its lists for every image would cost more than judging
    it."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __hash__(self) -> int:
        return id(self.policy)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.policy is self.policy


@functools.lru_cache(maxsize=4)
def _content_matchers(
    key: _ById,
) -> tuple[list[tuple[Rule, _ContentMatcher]], list[tuple[CombinedRule, _ContentMatcher]]]:
    """The rules on content, and the combined ones, each with its test."""
    rules = key.policy.rules
    return (
        [(rule, matcher) for rule in rules if (matcher := _content_matcher(rule)) is not None],
        [(rule, _score_matcher(rule.content.score, rule.content.at_least)) for rule in rules
         if isinstance(rule, CombinedRule)],
    )  # fmt: skip


def _content_matcher(rule: Rule) -> _ContentMatcher | None:
    """None for a rule that is not on content."""
    if isinstance(rule, NsfwRule):
        return _score_matcher(NSFW, rule.at_least)
    if isinstance(rule, DetectorRule):
        return _score_matcher(rule.score, rule.at_least)
    if isinstance(rule, Sha256Rule):
        return functools.partial(_has_listed_digest, rule.hashes)
    if isinstance(rule, PerceptualRule):
        return _perceptual_matcher(rule)
    return None


def _score_matcher(name: str, at_least: float) -> _ContentMatcher:
    prefix = f"{name}:"

    def matches(signals: ContentSignals) -> bool:
        views = [score for view, score in signals.scores.items() if view.startswith(prefix)]
        if not views or not all(0 <= score <= 1 for score in views):  # of NaN neither holds
            raise MissingScore(f"no usable score {name} among {dict(signals.scores)}")
        return max(views) >= at_least

    return matches


def _has_listed_digest(packed: bytes, signals: ContentSignals) -> bool:
    if not _SHA256.fullmatch(signals.image_id):
        raise MissingScore(f"image_id: expected 64 hexadecimal digits, found {signals.image_id!r}")
    return is_listed(packed, bytes.fromhex(signals.image_id))


def _perceptual_matcher(rule: PerceptualRule) -> _ContentMatcher:
    index = hash_index(rule.hashes)

    def matches(signals: ContentSignals) -> bool:
        hashes = signals.pdqs if rule.hash == "pdq" else signals.phash256s
        if not hashes or signals.pdq_quality is None:
            raise MissingScore(f"no {rule.hash} hashes, which rule {rule.id} needs")
        return signals.pdq_quality >= rule.min_quality and any_within(index, hashes, rule.max_distance)

    return matches
