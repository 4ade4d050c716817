"""Takedowns as rules: what a person writes, what it then matches, and what can match nothing."""

import pytest

from schemas.outcomes import Decision
from schemas.policy import Policy
from udfs.credentials import redact_url
from udfs.gate.rules import ContentSignals, SightingFacts, judge_content, refused_url, sighting_judge
from udfs.gate.takedowns import Takedown, TakedownError, named, taken_down_alone, with_takedowns
from udfs.urls import host_of, normalise_url

POLICY = Policy.model_validate(
    {
        "name": "test",
        "rules": [
            {"id": "nsfw", "kind": "nsfw", "action": "block", "reason": "nsfw", "comment": "-", "at_least": 0.9},
            {"id": "words", "kind": "text", "action": "review", "reason": "words", "comment": "-", "words": ["odd"]},
        ],
    }
)
IMAGE = "ab" * 32
HASH = bytes(range(32))
SIGNED = "https://cdn.example/https://user:secret@example.net/b.jpg"
"""A URL as it is fetched; it is stored, and judged, without the password."""


def reasons(policy: Policy, url: str) -> tuple[str, ...]:
    address = redact_url(normalise_url(url))
    return sighting_judge(policy)(SightingFacts(host_of(address), None, {"url": address})).reasons


@pytest.mark.parametrize(
    ("kind", "written", "url"),
    [
        ("url", "https://Example.net:443/a/../b.jpg#top", "https://example.net/b.jpg"),
        ("url", SIGNED, SIGNED),
        ("url", "https://cdn.example/https://example.net/b.jpg", SIGNED),
        ("domain", "Example.NET.", "https://a.b.example.net/x"),
        ("domain", "bücher.example", "https://xn--bcher-kva.example/x"),
        ("domain", "127.0.0.1", "http://127.0.0.1:8080/x"),
        ("domain", "2001:DB8::1", "http://[2001:db8:0::1]/x"),
        ("domain", "[2001:db8::1]", "http://[2001:db8::1]/x"),
        ("domain", "93.184.216.34", "http://[::ffff:5db8:d822]/x"),
        ("domain", "::ffff:93.184.216.34", "http://0x5db8d822/x"),
    ],
)
def test_an_address_matches_however_it_is_written(kind: str, written: str, url: str) -> None:
    policy = with_takedowns(POLICY, [named(kind, written)])
    assert reasons(policy, url) == ("taken_down",)
    assert refused_url(policy)(redact_url(normalise_url(url))) == "taken_down"
    address = redact_url(normalise_url(url))
    assert sighting_judge(policy)(SightingFacts(host_of(address), None, {"url": address})).withdraws
    for other in ("https://example.org/b.jpg", "https://notexample.net/b.jpg", "http://[2001:db8::2]/x"):
        assert reasons(policy, other) == ()


def test_no_password_of_a_url_is_kept() -> None:
    assert "secret" not in named("url", SIGNED).subject


def test_a_content_is_blocked_by_its_digest_and_by_what_it_looks_like() -> None:
    signals = ContentSignals(IMAGE, {"nsfw:center": 0.1}, pdqs=HASH + bytes(7 * 32), pdq_quality=80)
    assert judge_content(POLICY, signals).decision is Decision.ALLOW
    near = bytes([HASH[0] ^ 0b111]) + HASH[1:]
    for one in (named("image", IMAGE.upper()), named("pdq", HASH.hex(), 0), named("pdq", near.hex(), 3)):
        verdict = judge_content(with_takedowns(POLICY, [one]), signals)
        assert (verdict.decision, verdict.reasons) == (Decision.BLOCK, ("taken_down",)), one
        assert judge_content(taken_down_alone([one]), signals).decision is Decision.BLOCK
    for one in (named("image", "cd" * 32), named("pdq", near.hex(), 2)):
        assert judge_content(with_takedowns(POLICY, [one]), signals).decision is Decision.ALLOW


def test_without_takedowns_the_policy_is_what_it_was_and_rules_come_behind_its_own() -> None:
    assert with_takedowns(POLICY, []) is POLICY
    many = [named("url", "http://a.example/"), named("domain", "b.example"), named("image", IMAGE)]
    many += [named("pdq", HASH.hex(), distance) for distance in (5, 31)] + [named("phash256", HASH.hex(), 31)]
    policy = with_takedowns(POLICY, many)
    assert policy.rules[: len(POLICY.rules)] == POLICY.rules
    assert len({rule.id for rule in policy.rules}) == len(POLICY.rules) + 6


@pytest.mark.parametrize(
    ("kind", "subject", "distance", "told"),
    [
        ("page", "x", None, "expected one of url, domain, image, phash256, pdq, found 'page'"),
        ("url", "ftp://example.net/", None, "url: expected one that could be fetched"),
        ("url", "", None, "url: expected one that could be fetched"),
        ("domain", "", None, "domain: expected a host name"),
        ("domain", "https://example.net", None, "domain: expected a host name"),
        ("domain", "example.net/a", None, "domain: expected a host name"),
        ("domain", "example.net:80", None, "domain: expected a host name"),
        ("domain", "*.example.net", None, "domain: expected a host name"),
        ("domain", ".example.net", None, "domain: expected a host name"),
        ("image", "abc", None, "image: expected 64 hexadecimal digits, found 'abc'"),
        ("pdq", "zz" * 32, 31, "pdq: expected 64 hexadecimal digits"),
        ("pdq", "ab" * 32, 64, "pdq: expected a distance from 0 to 63 bits, found 64"),
        ("pdq", "ab" * 32, None, "pdq: a distance goes with phash256 and pdq"),
        ("image", "ab" * 32, 3, "image: a distance goes with phash256 and pdq"),
    ],
)
def test_what_can_match_nothing_is_refused_in_words(kind: str, subject: str, distance: int | None, told: str) -> None:
    with pytest.raises(TakedownError) as error:
        named(kind, subject, distance)
    assert told in str(error.value)


def test_a_policy_may_not_speak_for_takedowns() -> None:
    for field, value in (("reason", "taken_down"), ("id", "taken-down-url")):
        rule = {"id": "own", "kind": "domain", "action": "block", "reason": "own", "comment": "-", "domains": ["a.b"]}
        with pytest.raises(ValueError, match="are those of takedowns"):
            Policy.model_validate({"name": "test", "rules": [POLICY.rules[0].model_dump(), rule | {field: value}]})


def test_a_takedown_says_what_it_is() -> None:
    assert str(Takedown("domain", "a.example")) == "domain a.example"
    assert str(Takedown("pdq", "ab", 31)) == "pdq ab within 31 bits"
