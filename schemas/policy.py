"""The policy file as data: an ordered list of rules, each with an id, an action, a reason code and a comment.

Sighting rules (licence, domain, text) need no pixels and run before the fetch; content rules (nsfw) run in the gate.
The verdict of either is the strictest action of the rules that match; what no rule mentions is allowed, but content
without a finite score is never allowed (fail closed). `udfs.rules` evaluates, `jobs.config` reads the file.
"""

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from schemas.settings import Settings

ReasonCode = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,63}$")]
TextField = Literal["title", "alt_text", "description", "tags", "url", "page_url"]

_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


def _comparable_host(value: str) -> str:
    """Any other spelling would never match the host of a normalised URL, and let through what it was meant to stop."""
    is_name = _HOST.fullmatch(value) and not value.rpartition(".")[2].isdigit()
    if is_name or _is_address(value):
        return value
    raise ValueError(
        "expected a host name in lower case and ASCII (xn--... for others), without scheme, port, path or outer dots"
    )


def _is_address(value: str) -> bool:
    try:
        return str(ipaddress.ip_address(value)) == value
    except ValueError:
        return False


def _visible(value: str) -> str:
    """A word without anything to see would match every text."""
    if not any(character.isprintable() and not character.isspace() for character in value):
        raise ValueError("expected at least one visible character")
    return value


Host = Annotated[str, AfterValidator(_comparable_host)]
Phrase = Annotated[str, AfterValidator(_visible)]


class Rule(Settings):
    """What every rule has."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,63}$")]
    action: Literal["review", "block"]
    reason: ReasonCode
    comment: str = Field(min_length=1)


class LicenceRule(Rule):
    """Matches a sighting whose licence is not in `allow`, or is in `deny`, without case and outer white space."""

    kind: Literal["licence"]
    allow: tuple[Phrase, ...] = ()
    deny: tuple[Phrase, ...] = ()
    missing: Literal["allow", "match"] = "allow"
    """Whether a row without a licence matches."""

    @model_validator(mode="after")
    def _one_list(self) -> "LicenceRule":
        if bool(self.allow) == bool(self.deny):
            raise ValueError(f"rule {self.id}: give either allow or deny, and not an empty list")
        return self


class DomainRule(Rule):
    """Matches a sighting whose URL's host, or any redirect target's host, is one of `domains` or below one."""

    kind: Literal["domain"]
    domains: tuple[Host, ...] = Field(min_length=1)


class TextRule(Rule):
    """Matches a sighting one of whose fields holds one of `words` as a whole word or phrase, without case."""

    kind: Literal["text"]
    words: tuple[Phrase, ...] = Field(min_length=1)
    fields: tuple[TextField, ...] = Field(default=("title", "alt_text", "description", "tags"), min_length=1)


class NsfwRule(Rule):
    """Matches content whose worst NSFW score over all views is at least `at_least`."""

    kind: Literal["nsfw"]
    at_least: float = Field(ge=0, le=1)


class ContentHalf(Settings):
    """What a combined rule asks of the content."""

    detector: str = "nsfw"
    label: str | None = None
    at_least: float = Field(ge=0, le=1)


class TextHalf(Settings):
    """What a combined rule asks of the sighting's text."""

    words: tuple[Phrase, ...] = Field(min_length=1)
    fields: tuple[TextField, ...] = Field(default=("title", "alt_text", "description", "tags"), min_length=1)


class CombinedRule(Rule):
    """Matches a sighting whose text and whose content both match their halves."""

    kind: Literal["combined"]
    content: ContentHalf
    text: TextHalf


AnyRule = Annotated[LicenceRule | DomainRule | TextRule | NsfwRule | CombinedRule, Field(discriminator="kind")]


class Policy(Settings):
    """The whole file."""

    name: str = Field(min_length=1)
    rules: tuple[AnyRule, ...]

    @model_validator(mode="after")
    def _sound(self) -> "Policy":
        ids = [rule.id for rule in self.rules]
        repeated = sorted({rule_id for rule_id in ids if ids.count(rule_id) > 1})
        if repeated:
            raise ValueError(f"rule ids must be unique; repeated: {repeated}")
        if not any(rule.kind == "nsfw" and rule.action == "block" for rule in self.rules):
            raise ValueError("no rule on nsfw blocks: the gate would let everything through")
        return self

    @property
    def version(self) -> str:
        """`policy_version`: digest over everything but the comments, which decide nothing."""
        bare = self.model_copy(update={"rules": tuple(rule.model_copy(update={"comment": "-"}) for rule in self.rules)})
        return bare.digest()[:16]
