"""The policy file as data: an ordered list of rules, each with an id, an action, a reason code and a comment.

Sighting rules (licence, domain, text) need no pixels and run before the fetch; content rules (nsfw) run in the gate.
The verdict of either is the strictest action of the rules that match; what no rule mentions is allowed, but content
without a finite score is never allowed (fail closed). `udfs.rules` evaluates, `jobs.config` reads the file.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.settings import Settings

ReasonCode = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,63}$")]
TextField = Literal["title", "alt_text", "description", "tags", "url", "page_url"]


class Rule(Settings):
    """What every rule has."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,63}$")]
    action: Literal["review", "block"]
    reason: ReasonCode
    comment: str = Field(min_length=1)


class LicenceRule(Rule):
    """Matches a sighting whose licence is not in `allow` (compared without case and outer white space)."""

    on: Literal["licence"]
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    missing: Literal["allow", "match"] = "allow"
    """Whether a row without a licence matches."""

    @model_validator(mode="after")
    def _one_list(self) -> "LicenceRule":
        if bool(self.allow) == bool(self.deny):
            raise ValueError(f"rule {self.id}: give either allow or deny, and not an empty list")
        return self


class DomainRule(Rule):
    """Matches a sighting whose URL's host, or any redirect target's host, is one of `domains` or below one."""

    on: Literal["domain"]
    domains: tuple[str, ...] = Field(min_length=1)


class TextRule(Rule):
    """Matches a sighting one of whose fields holds one of `words` as a whole word or phrase, without case."""

    on: Literal["text"]
    words: tuple[str, ...] = Field(min_length=1)
    fields: tuple[TextField, ...] = ("title", "alt_text", "description", "tags")


class NsfwRule(Rule):
    """Matches content whose worst NSFW score over all views is at least `at_least`."""

    on: Literal["nsfw"]
    at_least: float = Field(ge=0, le=1)


AnyRule = Annotated[LicenceRule | DomainRule | TextRule | NsfwRule, Field(discriminator="on")]


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
        if not any(rule.on == "nsfw" and rule.action == "block" for rule in self.rules):
            raise ValueError("no rule on nsfw blocks: the gate would let everything through")
        return self

    @property
    def version(self) -> str:
        """`policy_version`: digest over everything but the comments, which decide nothing."""
        bare = self.model_copy(update={"rules": tuple(rule.model_copy(update={"comment": "-"}) for rule in self.rules)})
        return bare.digest()[:16]
