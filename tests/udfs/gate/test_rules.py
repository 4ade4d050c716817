import math
import string
import zlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from schemas.outcomes import STRICTNESS, Decision
from schemas.policy import AnyRule, DomainRule, LicenceRule, NsfwRule, Policy, TextRule, UrlRule
from udfs.gate.rules import (
    ContentSignals,
    MissingScore,
    SightingFacts,
    Verdict,
    judge_content,
    refused_url,
    sighting_judge,
)

RULE: TypeAdapter[AnyRule] = TypeAdapter(AnyRule)
NEVER = NsfwRule(kind="nsfw", id="certain", action="block", reason="nsfw_certain", comment="required", at_least=1.0)
"""Lets every score below 1 through; a policy must have a rule that blocks by score."""


IMAGE = "ab" * 32


def rule(kind: str, action: str = "block", reason: str = "matched", **fields: Any) -> AnyRule:
    """A rule whose id follows from what it says, so that rules of one policy differ in it."""
    name = f"rule-{zlib.crc32(repr((kind, action, reason, sorted(fields.items()))).encode())}"
    return RULE.validate_python(
        {"kind": kind, "id": name, "action": action, "reason": reason, "comment": "why"} | fields
    )


def policy(*rules: AnyRule) -> Policy:
    return Policy(name="test", rules=(*rules, NEVER))


def sighting(host: str = "pictures.example", licence: str | None = None, **text: str) -> SightingFacts:
    return SightingFacts(host, licence, text)


def judged(facts: SightingFacts, *rules: AnyRule) -> Verdict:
    return sighting_judge(policy(*rules))(facts)


def content_verdict(whole: Policy, scores: Mapping[str, float], **signals: Any) -> Verdict:
    cleared = signals.pop("cleared", frozenset())
    return judge_content(whole, ContentSignals(**{"image_id": IMAGE, "scores": scores} | signals), cleared)


def matches(facts: SightingFacts, one: AnyRule) -> bool:
    verdict = judged(facts, one)
    assert (verdict.decision is not Decision.ALLOW) == bool(verdict.reasons)
    return bool(verdict.reasons)


# Licence --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("licence", "matched"),
    [("cc-by-nd", True), ("CC-BY-ND", True), ("  cc-by-nd\t", True), ("cc-by", False), ("cc-by-nd-4.0", False)],
)
def test_a_denied_licence_matches_whatever_its_case_and_outer_white_space(licence: str, matched: bool) -> None:
    assert matches(sighting(licence=licence), rule("licence", deny=["cc-by-nd"])) is matched


@pytest.mark.parametrize(("licence", "matched"), [("CC0-1.0", False), (" cc0-1.0 ", False), ("cc-by", True)])
def test_with_an_allow_list_every_other_licence_matches(licence: str, matched: bool) -> None:
    assert matches(sighting(licence=licence), rule("licence", allow=["cc0-1.0"])) is matched


def test_lists_of_licences_are_read_without_case_and_outer_white_space_too() -> None:
    assert matches(sighting(licence="cc-by-nd"), rule("licence", deny=[" CC-BY-ND "]))


@pytest.mark.parametrize("licence", [None, "", "  "])
@pytest.mark.parametrize("listed", [{"allow": ["cc0-1.0"]}, {"deny": ["cc-by-nd"]}])
@pytest.mark.parametrize(("missing", "matched"), [("allow", False), ("match", True)])
def test_a_row_without_a_licence_is_what_the_rule_says_of_missing_ones(
    licence: str | None, listed: Mapping[str, Any], missing: str, matched: bool
) -> None:
    assert matches(sighting(licence=licence), rule("licence", missing=missing, **listed)) is matched


# Domain ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "matched"),
    [
        ("blocked.example", True),
        ("a.b.blocked.example", True),
        ("notblocked.example", False),
        ("blocked.example.org", False),
        ("example", False),
        ("10.0.0.1", True),
        ("10.0.0.10", False),
        ("2001:db8::1", True),
    ],
)
def test_a_domain_covers_itself_and_what_is_below_it_and_nothing_else(host: str, matched: bool) -> None:
    listed = rule("domain", domains=["blocked.example", "10.0.0.1", "2001:db8::1"])
    assert matches(sighting(host), listed) is matched


LABELS = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=8).filter(
    lambda label: not label.isdigit()
)


@settings(deadline=None)
@given(st.lists(LABELS, min_size=1, max_size=3), st.lists(LABELS, max_size=3))
def test_every_subdomain_of_a_listed_domain_matches(domain: list[str], below: list[str]) -> None:
    listed = rule("domain", domains=[".".join(domain)])
    assert matches(sighting(".".join([*below, *domain])), listed)
    assert not matches(sighting("x" + ".".join(domain)), listed)


def test_redirect_targets_are_refused_by_blocking_rules_on_domains_and_urls_alone_with_the_first_ones_reason() -> None:
    check = refused_url(
        policy(
            rule("domain", "review", "looked_at", domains=["review.example"]),
            rule("domain", reason="tracker", domains=["ads.example"]),
            rule("url", "review", "looked_at", urls=["https://elsewhere.org/review.jpg"]),
            rule("url", reason="listed", urls=["https://elsewhere.org/listed.jpg"]),
            rule("domain", reason="asked_not_to", domains=["example"]),
        )
    )
    assert check("https://x.ads.example:8443/pixel?a=b") == "tracker"
    assert check("https://other.example/") == "asked_not_to"
    assert check("https://review.example/") == "asked_not_to"
    assert check("https://elsewhere.org/ads.example") is None
    assert check("https://elsewhere.org/listed.jpg") == "listed"
    assert check("https://elsewhere.org/review.jpg") is None


# Text -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "matched"),
    [
        ("gore", True),
        ("Gore!", True),
        ("so much GORE, really", True),
        ("#gore", True),
        ("gory", False),
        ("Gorey", False),
        ("fangore", False),
        ("gore2", False),
        ("gore_pics", False),
        ("Al Gore's", True),
        ("ｇｏｒｅ", True),
        ("go\xadre", True),
        ("g\u200bo\u2060re", True),
        ("", False),
    ],
)  # fmt: skip
def test_a_word_is_found_whole_whatever_its_case_width_and_invisible_characters(text: str, matched: bool) -> None:
    assert matches(sighting(title=text), rule("text", words=["gore"])) is matched


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("straße", "Hauptstrasse STRASSE"),
        ("STRASSE", "straße"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("cafe\u0301", "Café au lait"),
        ("ﬁsh", "FISH"),
        ("c++", "learn C++ now"),
        ("a.b", "see a.b here"),
    ],
)
def test_words_are_compared_by_what_unicode_calls_the_same(word: str, text: str) -> None:
    assert matches(sighting(title=text), rule("text", words=[word]))


def test_a_words_punctuation_is_no_pattern() -> None:
    assert not matches(sighting(title="axb"), rule("text", words=["a.b"]))


@pytest.mark.parametrize(
    ("text", "matched"),
    [("child  abuse", True), ("Child\n\tAbuse.", True), ("child, abuse", False), ("childabuse", False),
     ("grandchild abuse", False)],
)  # fmt: skip
def test_a_phrase_is_its_words_in_order_with_white_space_between(text: str, matched: bool) -> None:
    assert matches(sighting(title=text), rule("text", words=["child abuse"])) is matched


def test_only_the_named_fields_are_looked_at() -> None:
    in_titles = rule("text", words=["gore"], fields=["title", "page_url"])
    assert matches(sighting(title="gore"), in_titles)
    assert matches(sighting(page_url="https://gore.example/"), in_titles)
    assert not matches(sighting(alt_text="gore", url="https://gore.example/"), in_titles)


def test_addresses_are_not_looked_at_unless_named() -> None:
    assert not matches(sighting(url="https://gore.example/gore.jpg"), rule("text", words=["gore"]))


WORDS = st.text(string.ascii_letters + string.digits + "äßΣиé", min_size=1, max_size=10)


@settings(deadline=None)
@given(WORDS, st.text(max_size=20), st.text(max_size=20))
def test_a_word_between_anything_but_word_characters_is_found(word: str, before: str, after: str) -> None:
    assert matches(sighting(title=f"{before} {word} {after}"), rule("text", words=[word]))


@settings(deadline=None)
@given(WORDS, WORDS)
def test_a_word_inside_a_longer_one_is_not_found(word: str, more: str) -> None:
    assert not matches(sighting(title=f"{more}q{word}"), rule("text", words=[f"q{word}"]))
    assert not matches(sighting(title=f"{word}q{more}"), rule("text", words=[f"{word}q"]))


# Patterns and languages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "text", "matched"),
    [
        ("n[u4]de", "so N4DE", True),
        ("N[u4]de", "so n4de", True),
        ("a b", "a \u2003\n b", True),
        ("[\\pL]été", "l'aété", True),
        ("été", "un ÉTÉ", True),
        ("fish", "ﬁsh", True),
        ("^gore$", "gore and more", False),
        ("g.re", "goore", False),
    ],
)
def test_a_pattern_is_searched_in_the_folded_text(pattern: str, text: str, matched: bool) -> None:
    assert matches(sighting(title=text), rule("text", patterns=[pattern])) is matched


def test_words_and_patterns_of_one_rule_are_alternatives() -> None:
    either = rule("text", words=["gore"], patterns=["x{3}"])
    assert matches(sighting(title="gore"), either)
    assert matches(sighting(title="axxxb"), either)
    assert not matches(sighting(title="gory"), either)


def test_a_pattern_that_would_take_for_ever_to_backtrack_takes_linear_time() -> None:
    text = "a" * 100_000
    assert not matches(sighting(title=text), rule("text", patterns=["(?:a|aa)+(?:a|aa)+b"]))


def test_percent_encoding_hides_nothing_in_addresses() -> None:
    in_addresses = rule("text", words=["été"], patterns=["g.re"], fields=["url", "page_url"])
    assert matches(sighting(url="https://a.example/%C3%A9t%C3%A9/1"), in_addresses)
    assert matches(sighting(page_url="https://a.example/%67ore"), in_addresses)


@pytest.mark.parametrize("word", ["été", "xn--t-9fab"])
@pytest.mark.parametrize("field", ["url", "page_url"])
def test_a_host_is_found_by_its_name_in_its_own_script_and_in_punycode(word: str, field: str) -> None:
    in_addresses = rule("text", words=[word], fields=["url", "page_url"])
    for url in ("https://xn--t-9fab.example/1", "https://a.XN--T-9FAB/", "https://xn%2D-t-9fab.example/"):
        assert matches(sighting(**{field: url}), in_addresses)


@pytest.mark.parametrize(("language", "matched"), [("fr", True), ("de", True), ("en", False), (None, True)])
def test_a_rule_for_languages_matches_in_those_and_where_the_language_is_not_clear(
    language: str | None, matched: bool
) -> None:
    facts = SightingFacts("pictures.example", None, {"title": "nu"}, language)
    assert matches(facts, rule("text", words=["nu"], languages=["fr", "de"])) is matched
    assert matches(facts, rule("text", words=["nu"]))


# Sightings together ---------------------------------------------------------------------------------------------------


def test_what_no_rule_mentions_is_allowed_without_reasons() -> None:
    facts = sighting(title="a cat", licence="cc-by")
    assert judged(facts, rule("licence", deny=["cc-by-nd"]), rule("text", words=["gore"])) == Verdict(Decision.ALLOW)


def test_the_strictest_matching_rule_decides_and_every_matching_one_gives_its_reason() -> None:
    verdict = judged(
        sighting("blocked.example", title="gore"),
        rule("text", "review", "text_sensitive", words=["gore"]),
        rule("domain", "block", "domain_blocked", domains=["blocked.example"]),
        rule("text", "review", "text_sensitive", words=["gore", "more"]),
    )
    assert verdict == Verdict(Decision.BLOCK, ("domain_blocked", "text_sensitive"), withdraws=True)


@pytest.mark.parametrize(
    ("one", "withdraws"),
    [
        (rule("licence", deny=["l"]), True),
        (rule("domain", domains=["pictures.example"]), True),
        (rule("url", urls=["https://pictures.example/1"]), True),
        (rule("text", words=["gore"]), False),
        (rule("licence", "review", deny=["l"]), False),
        (rule("domain", "review", domains=["pictures.example"]), False),
    ],
)
def test_a_url_is_withdrawn_by_a_block_of_licence_or_domain_and_never_by_a_text_of_one_row(
    one: AnyRule, withdraws: bool
) -> None:
    verdict = judged(sighting(licence="l", title="gore", url="https://pictures.example/1"), one)
    assert verdict.reasons
    assert verdict.withdraws is withdraws


def test_a_text_rule_beside_a_licence_that_is_only_reviewed_withdraws_nothing() -> None:
    verdict = judged(
        sighting(licence="l", title="gore"), rule("licence", "review", deny=["l"]), rule("text", words=["gore"])
    )
    assert verdict.decision is Decision.BLOCK
    assert not verdict.withdraws


FEW_WORDS = st.lists(st.sampled_from(["gore", "nude", "cat", "child abuse"]), min_size=1, max_size=2)
ACTIONS = st.sampled_from(["review", "block"])
REASONS = st.sampled_from(["one", "two", "three"])
MISSING = st.sampled_from(["allow", "match"])
RULES = st.one_of(
    st.builds(rule, st.just("text"), ACTIONS, REASONS, words=FEW_WORDS),
    st.builds(rule, st.just("domain"), ACTIONS, REASONS, domains=st.sampled_from([["example"], ["a.example"]])),
    st.builds(rule, st.just("url"), ACTIONS, REASONS, urls=st.just(["https://a.example/x"])),
    st.builds(rule, st.just("licence"), ACTIONS, REASONS, deny=st.sampled_from([["x"], ["x", "y"]])),
    st.builds(rule, st.just("licence"), ACTIONS, REASONS, allow=st.sampled_from([["x"], ["z"]]), missing=MISSING),
    st.builds(rule, st.just("nsfw"), ACTIONS, REASONS, at_least=st.floats(0, 1)),
)  # fmt: skip
POLICIES = st.lists(RULES, max_size=6, unique_by=lambda one: one.id)
FACTS = st.builds(
    SightingFacts,
    st.sampled_from(["example", "a.example", "b.a.example", "elsewhere.org"]),
    st.sampled_from([None, "x", "Y", "z"]),
    st.dictionaries(
        st.sampled_from(["title", "tags", "url"]),
        st.sampled_from(["gore", "a nude cat", "child abuse", "dog", "https://a.example/x"]),
    ),
)
SCORES = st.dictionaries(
    st.sampled_from(["nsfw:center", "nsfw:full", "nsfw:left"]), st.floats(0, 1), min_size=1, max_size=3
)


def oracle(facts: SightingFacts, one: AnyRule) -> bool:
    """Whether a rule of RULES matches facts of FACTS, said as simply as those few values allow."""
    if isinstance(one, DomainRule):
        return any(facts.host == domain or facts.host.endswith(f".{domain}") for domain in one.domains)
    if isinstance(one, UrlRule):
        return facts.text.get("url") in one.urls
    if isinstance(one, TextRule):
        texts = [text for field, text in facts.text.items() if field in one.fields]
        return any(f" {word} " in f" {text} " for word in one.words for text in texts)
    if isinstance(one, LicenceRule):
        if facts.licence is None:
            return one.missing == "match"
        return facts.licence.lower() in one.deny if one.deny else facts.licence.lower() not in one.allow
    return False


@settings(deadline=None)
@given(POLICIES, FACTS)
def test_a_verdict_is_the_strictest_action_and_all_reasons_of_the_rules_that_match(
    rules: list[AnyRule], facts: SightingFacts
) -> None:
    matching = [one for one in rules if oracle(facts, one)]
    actions = {one.action for one in matching}
    expected = "block" if "block" in actions else "review" if actions else "allow"
    verdict = judged(facts, *rules)
    assert verdict.decision == expected
    assert verdict.reasons == tuple(sorted({one.reason for one in matching}))


@settings(deadline=None)
@given(POLICIES, RULES, FACTS, SCORES)
def test_one_more_rule_never_allows_more(
    rules: list[AnyRule], added: AnyRule, facts: SightingFacts, scores: dict[str, float]
) -> None:
    fewer, more = policy(*rules), policy(*rules, added.model_copy(update={"id": "the-added-one"}))
    for before, after in (
        (sighting_judge(fewer)(facts), sighting_judge(more)(facts)),
        (content_verdict(fewer, scores), content_verdict(more, scores)),
    ):
        assert STRICTNESS[after.decision] >= STRICTNESS[before.decision]
        assert after.withdraws >= before.withdraws


@settings(deadline=None)
@given(POLICIES, FACTS, SCORES, st.randoms())
def test_the_order_of_rules_decides_nothing(
    rules: list[AnyRule], facts: SightingFacts, scores: dict[str, float], random: Any
) -> None:
    shuffled = random.sample(rules, len(rules))
    assert judged(facts, *shuffled) == judged(facts, *rules)
    assert content_verdict(policy(*shuffled), scores) == content_verdict(policy(*rules), scores)


# Content --------------------------------------------------------------------------------------------------------------

BANDS = policy(rule("nsfw", "review", "nsfw_grey", at_least=0.35), rule("nsfw", "block", "nsfw", at_least=0.8))


@pytest.mark.parametrize(
    ("score", "verdict"),
    [
        (0.0, Verdict(Decision.ALLOW)),
        (0.3499, Verdict(Decision.ALLOW)),
        (0.35, Verdict(Decision.REVIEW, ("nsfw_grey",))),
        (0.7999, Verdict(Decision.REVIEW, ("nsfw_grey",))),
        (0.8, Verdict(Decision.BLOCK, ("nsfw",))),
        (1.0, Verdict(Decision.BLOCK, ("nsfw", "nsfw_certain"))),
    ],
)
def test_a_score_falls_into_the_band_that_begins_at_or_below_it(score: float, verdict: Verdict) -> None:
    assert content_verdict(BANDS, {"nsfw:center": score}) == verdict


@settings(deadline=None)
@given(SCORES)
def test_the_worst_view_decides(scores: dict[str, float]) -> None:
    assert content_verdict(BANDS, scores) == content_verdict(BANDS, {"nsfw:worst": max(scores.values())})


@settings(deadline=None)
@given(SCORES, st.floats(0, 1))
def test_one_more_view_never_allows_more(scores: dict[str, float], another: float) -> None:
    before, after = content_verdict(BANDS, scores), content_verdict(BANDS, scores | {"nsfw:another": another})
    assert STRICTNESS[after.decision] >= STRICTNESS[before.decision]


NOT_PROBABILITIES = st.floats().filter(lambda score: not 0 <= score <= 1)


@settings(deadline=None)
@given(SCORES, NOT_PROBABILITIES)
def test_one_view_without_a_probability_is_no_score_whatever_the_others_say(
    scores: dict[str, float], broken: float
) -> None:
    with pytest.raises(MissingScore, match="no usable score nsfw"):
        content_verdict(BANDS, scores | {"nsfw:broken": broken})


@pytest.mark.parametrize("scores", [{}, {"quality": 0.1}, {"nsfw:center": math.nan}, {"nsfw": 0.1}])
def test_content_without_an_nsfw_score_is_never_judged(scores: dict[str, float]) -> None:
    with pytest.raises(MissingScore):
        content_verdict(BANDS, scores)


def test_scores_of_other_detectors_are_not_taken_for_nsfw() -> None:
    assert content_verdict(BANDS, {"nsfw:center": 0.1, "cats": 0.99}).decision is Decision.ALLOW


@settings(deadline=None)
@given(POLICIES, FACTS)
def test_content_is_judged_by_rules_on_content_alone_and_sightings_by_the_others(
    rules: list[AnyRule], facts: SightingFacts
) -> None:
    on_content = [one for one in rules if isinstance(one, NsfwRule)]
    on_sightings = [one for one in rules if not isinstance(one, NsfwRule)]
    assert content_verdict(policy(*rules), {"nsfw:center": 0.5}) == content_verdict(
        policy(*on_content), {"nsfw:center": 0.5}
    )
    assert judged(facts, *rules) == judged(facts, *on_sightings)
    assert judged(facts, *on_content) == Verdict(Decision.ALLOW)


# Lists of content -----------------------------------------------------------------------------------------------------


def differing(packed: bytes, bits: int) -> bytes:
    """The first hash with so many of its first bits the other way; the rest as they are."""
    first = int.from_bytes(packed[:32], "big") ^ (((1 << bits) - 1) << (256 - bits))
    return first.to_bytes(32, "big") + packed[32:]


LISTED = "0123456789abcdef" * 4
HASHES = bytes.fromhex("5a" * 32) * 7
"""Of the seven other orientations."""
SAFE = {"nsfw:center": 0.0}


@pytest.mark.parametrize(("image_id", "decision"), [("cd" * 32, "block"), ("ce" * 32, "allow")])
def test_content_is_refused_by_its_digest(image_id: str, decision: str) -> None:
    listed = policy(rule("sha256", hashes=["CD" * 32, "00" * 32]))
    assert content_verdict(listed, SAFE, image_id=image_id).decision == decision


def test_without_a_digest_no_list_of_digests_is_passed() -> None:
    with pytest.raises(MissingScore, match="image_id"):
        content_verdict(policy(rule("sha256", hashes=["cd" * 32])), SAFE, image_id="")


@pytest.mark.parametrize("kind", ["phash256", "pdq"])
@pytest.mark.parametrize("orientation", range(8))
@pytest.mark.parametrize(("bits", "quality", "decision"), [(31, 50, "block"), (32, 50, "allow"), (0, 49, "allow")])
def test_any_orientation_within_the_distance_of_a_listed_hash_matches_unless_there_is_too_little_to_hash(
    kind: str, orientation: int, bits: int, quality: int, decision: str
) -> None:
    near = differing(bytes.fromhex(LISTED), bits)
    turned = HASHES[: 32 * orientation] + near + HASHES[32 * orientation :]
    stored = {"pdqs" if kind == "pdq" else "phash256s": turned, "pdq_quality": quality}
    listed = policy(rule("perceptual", hash=kind, hashes=[LISTED], max_distance=31))
    assert content_verdict(listed, SAFE, **stored).decision == decision


@pytest.mark.parametrize(
    "stored",
    [{}, {"phash256s": bytes(256), "pdq_quality": 90}, {"pdqs": b"", "pdq_quality": 90}, {"pdqs": bytes(256)}],
)
def test_content_without_the_hashes_of_a_rule_is_never_judged(stored: dict[str, Any]) -> None:
    listed = policy(rule("perceptual", hash="pdq", hashes=[LISTED], max_distance=31))
    with pytest.raises(MissingScore, match="no pdq hashes"):
        content_verdict(listed, SAFE, **stored)


# Other detectors, and both sides together -----------------------------------------------------------------------------

WEAPON = rule("detector", name="hands", label="weapon", at_least=0.5)


@pytest.mark.parametrize(
    ("center", "squash", "decision"), [(0.1, 0.5, "block"), (0.1, 0.4999, "allow"), (0.9, 0.0, "block")]
)
def test_a_detectors_worst_view_decides_by_the_label_alone(center: float, squash: float, decision: str) -> None:
    scores = SAFE | {"hands.weapon:center": center, "hands.weapon:squash": squash, "hands.hand:center": 1.0}
    assert content_verdict(policy(WEAPON), scores).decision == decision


@pytest.mark.parametrize("scores", [{}, {"hands.hand:center": 0.1}, {"hands.weapon:center": math.nan}])
def test_content_that_a_named_detector_has_not_scored_is_never_judged(scores: dict[str, float]) -> None:
    with pytest.raises(MissingScore, match=r"no usable score hands\.weapon"):
        content_verdict(policy(WEAPON), SAFE | scores)


GREY_AND_SUSPICIOUS = rule(
    "combined", "review", content={"at_least": 0.2}, text={"words": ["nude"], "patterns": ["x{3}"], "fields": ["title"]}
)  # fmt: skip


@pytest.mark.parametrize(("title", "score"), [("nude", 0.2), ("nude", 0.1), ("axxxb", 0.1), ("cat", 0.2)])
def test_each_side_of_a_combined_rule_says_only_whether_its_own_half_matches(title: str, score: float) -> None:
    text = judged(sighting(title=title, alt_text="nude"), GREY_AND_SUSPICIOUS)
    content = content_verdict(policy(GREY_AND_SUSPICIOUS), {"nsfw:center": score})
    assert text.decision is content.decision is Decision.ALLOW
    assert text.halves == ((GREY_AND_SUSPICIOUS.id,) if title != "cat" else ())
    assert content.halves == ((GREY_AND_SUSPICIOUS.id,) if score >= 0.2 else ())


def test_half_a_rule_on_a_detector_needs_its_score_too() -> None:
    on_label = rule(
        "combined", content={"detector": "hands", "label": "weapon", "at_least": 0.2}, text={"words": ["knife"]}
    )
    with pytest.raises(MissingScore, match=r"hands\.weapon"):
        content_verdict(policy(on_label), SAFE)
    assert content_verdict(policy(on_label), SAFE | {"hands.weapon:center": 0.3}).halves == (on_label.id,)


# What a person cleared ------------------------------------------------------------------------------------------------

ALL_REASONS = frozenset({"one", "two", "three"})


def test_a_cleared_reason_passes_over_review_rules_and_never_over_blocks() -> None:
    rules = (
        rule("nsfw", "review", "one", at_least=0.3),
        rule("nsfw", "block", "one", at_least=0.7),
        rule("nsfw", "review", "two", at_least=0.5),
    )
    verdicts = [content_verdict(policy(*rules), {"nsfw:c": s}, cleared=frozenset({"one"})) for s in (0.3, 0.5, 0.7)]
    assert verdicts == [Verdict(Decision.ALLOW), Verdict(Decision.REVIEW, ("two",)), Verdict(Decision.BLOCK, ("one",))]


def test_a_cleared_rule_still_needs_its_score() -> None:
    reviewed = policy(WEAPON.model_copy(update={"action": "review", "reason": "one"}))
    with pytest.raises(MissingScore):
        content_verdict(reviewed, SAFE, cleared=ALL_REASONS)


@settings(deadline=None)
@given(POLICIES, FACTS, SCORES, st.frozensets(REASONS))
def test_clearing_reasons_lifts_no_block_and_leaves_the_other_reviews(
    rules: list[AnyRule], facts: SightingFacts, scores: dict[str, float], cleared: frozenset[str]
) -> None:
    left = [one for one in rules if one.action == "block" or one.reason not in cleared]
    assert sighting_judge(policy(*rules))(facts, cleared) == judged(facts, *left)
    assert content_verdict(policy(*rules), scores, cleared=cleared) == content_verdict(policy(*left), scores)
