"""Takedowns as rules: what was asked to be taken down is blocked by everything that blocks by policy.

A request names a URL, a domain, a content, or a perceptual hash and what is near it. In force, requests join the policy
as rules of their own: the pre-gate, every redirect, the gate and every later decision obey them without knowing of
them. They are data of the warehouse, not of the policy file: `policy_version` does not change by them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.policy import (
    HASH_BYTES,
    TAKEN_DOWN,
    TAKEN_DOWN_ID,
    AnyRule,
    DomainRule,
    PerceptualRule,
    Policy,
    Sha256Rule,
    UrlRule,
)
from udfs.credentials import redact_url
from udfs.urls import BadUrl, host_spelt, named_host, normalise_url

KINDS = ("url", "domain", "image", "phash256", "pdq")
"""What a takedown may name."""
PERCEPTUAL = ("phash256", "pdq")
MOST_DISTANCE = 63
"""Of 256 bits; see `schemas.policy.PerceptualRule`."""
MIN_QUALITY = 50
"""Contents with less to hash are near nothing; see there."""


class TakedownError(ValueError):
    """What is named can match nothing. Says what was expected and found."""


@dataclass(frozen=True, order=True)
class Takedown:
    """What is taken down: `named` makes one of what a person wrote."""

    kind: str
    subject: str
    """A normalised URL without credentials, a host, an image_id, or a 256-bit hash in lower-case hex."""
    max_distance: int | None = None
    """Of perceptual hashes: differing bits of 256 up to which a content is the same; None for the others."""

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}" + (f" within {self.max_distance} bits" if self.max_distance else "")


def named(kind: str, subject: str, max_distance: int | None = None) -> Takedown:
    """The takedown of what a person wrote; TakedownError where that could match nothing."""
    subject = subject.strip()
    if kind not in KINDS:
        raise TakedownError(f"expected one of {', '.join(KINDS)}, found {kind!r}")
    if (max_distance is not None) != (kind in PERCEPTUAL):
        raise TakedownError(f"{kind}: a distance goes with {' and '.join(PERCEPTUAL)}, and with nothing else")
    if max_distance is not None and not 0 <= max_distance <= MOST_DISTANCE:
        raise TakedownError(f"{kind}: expected a distance from 0 to {MOST_DISTANCE} bits, found {max_distance}")
    if kind == "url":
        return Takedown(kind, redact_url(_normalised(subject)))
    if kind == "domain":
        return Takedown(kind, _host(subject))
    return Takedown(kind, _hash_of(kind, subject), max_distance)


def with_takedowns(policy: Policy, takedowns: Sequence[Takedown]) -> Policy:
    """The policy, and rules that block what is taken down."""
    if not takedowns:
        return policy
    return policy.model_copy(update={"rules": (*policy.rules, *_rules(takedowns))})


def taken_down_alone(takedowns: Sequence[Takedown]) -> Policy:
    """Nothing but rules that block what is taken down: for what is asked of addresses and of hashes, not of scores."""
    return Policy.model_construct(name=TAKEN_DOWN, rules=tuple(_rules(takedowns)))


def _rules(takedowns: Sequence[Takedown]) -> list[AnyRule]:
    def subjects(kind: str, distance: int | None = None) -> tuple[str, ...]:
        return tuple(one.subject for one in takedowns if (one.kind, one.max_distance) == (kind, distance))

    def rule(name: str) -> dict[str, str]:
        return {
            "id": f"{TAKEN_DOWN_ID}{name}", "action": "block", "reason": TAKEN_DOWN, "comment": "asked for by somebody"
        }  # fmt: skip

    rules: list[AnyRule] = []
    if urls := subjects("url"):
        rules.append(UrlRule.model_validate(rule("url") | {"kind": "url", "urls": urls}))
    if domains := subjects("domain"):
        rules.append(DomainRule.model_validate(rule("domain") | {"kind": "domain", "domains": domains}))
    if images := subjects("image"):
        rules.append(Sha256Rule.model_validate(rule("image") | {"kind": "sha256", "hashes": images}))
    near = {(one.kind, one.max_distance) for one in takedowns if one.max_distance is not None}
    for kind, distance in sorted(near):
        asked = {"kind": "perceptual", "hash": kind, "hashes": subjects(kind, distance), "max_distance": distance}
        asked["min_quality"] = MIN_QUALITY
        rules.append(PerceptualRule.model_validate(rule(f"{kind}-{distance}") | asked))
    return rules


def _normalised(url: str) -> str:
    try:
        return normalise_url(url)
    except BadUrl as error:
        raise TakedownError(f"url: expected one that could be fetched ({error}), found {redact_url(url)!r}") from None


def _host(domain: str) -> str:
    """The host as URLs have it, whatever its case or script."""
    told = f"domain: expected a host name, without scheme, port, path and wildcards, found {domain!r}"
    if "*" in domain or domain.rpartition("]")[2].count(":") == 1:
        raise TakedownError(told)
    try:
        host = named_host(host_spelt(domain))
        _rules([Takedown("domain", host)])
    except ValueError:  # of both, a URL that is none and a host that no rule could name
        raise TakedownError(told) from None
    return host


def _hash_of(kind: str, text: str) -> str:
    try:
        packed = bytes.fromhex(text)
    except ValueError:
        packed = b""
    if len(packed) != HASH_BYTES:
        raise TakedownError(f"{kind}: expected {2 * HASH_BYTES} hexadecimal digits, found {text!r}")
    return packed.hex()
