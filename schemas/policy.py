"""The policy as data: an ordered list of rules, each with an id, an action, a reason code and a comment.

Sighting rules (licence, domain, url, text) need no pixels and run before the fetch; content rules (sha256, perceptual,
nsfw, detector) run in the gate; a combined rule asks both sides of one sighting. The verdict is the strictest action of
the rules that match; what no rule mentions is allowed, but content without a finite score is never allowed (fail
closed). `udfs.gate.rules` evaluates. `jobs.config.profile` reads the file, in which the entries of a rule may also come
from a list (`file: hashes.txt`); here they are all in the rule.
"""

import hashlib
import ipaddress
import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, ValidatorFunctionWrapHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from schemas.hosts import is_number
from schemas.settings import Settings

ReasonCode = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,63}$")]
TextField = Literal["title", "alt_text", "description", "tags", "url", "page_url"]
HashKind = Literal["phash256", "pdq"]

NSFW = "nsfw"
"""The name of open_nsfw, the detector that is always there."""
TAKEN_DOWN = "taken_down"
"""The reason of what somebody asked to be taken down (udfs.gate.takedowns); no rule of a policy file may have it."""
TAKEN_DOWN_ID = "taken-down-"
"""How ids of the rules begin that come of takedowns."""
HASH_BYTES = 32
"""Of a SHA-256, a 256-bit pHash and a PDQ hash alike."""
LIST_FIELDS = {"domain": "domains", "url": "urls", "sha256": "hashes", "perceptual": "hashes"}
"""By kind of rule: the field whose entries may also come from a list, one a line."""
_LANGUAGE_CODES = """
af am an ar as az be bg bn br bs ca cs cy da de dz el en eo es et eu fa fi fo fr ga gl gu he hi hr ht hu hy id is it ja
jv ka kk km kn ko ku ky la lb lo lt lv mg mk ml mn mr ms mt ne nl no oc or pa pl ps pt qu ro ru rw se si sk sl sq sr sv
sw ta te th tl tr ug uk ur vi vo wa xh zh zu
"""
LANGUAGES = frozenset(_LANGUAGE_CODES.split())
"""ISO 639-1 codes that `udfs.gate.language` can tell apart; a rule for another would never see its language."""

_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")


def _comparable_host(value: str) -> str:
    """Any other spelling would never match the host of a normalised URL, and let through what it was meant to stop."""
    is_name = _HOST.fullmatch(value) and not is_number(value.rpartition(".")[2])
    if is_name or _is_address(value):
        return value
    raise ValueError(
        "expected a host name in lower case and ASCII (xn--... for others), without scheme, port, path or outer dots"
    )


def _is_address(value: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return str(address) == value and getattr(address, "ipv4_mapped", None) is None


def _visible(value: str) -> str:
    """A word without anything to see would match every text."""
    if not any(character.isprintable() and not character.isspace() for character in value):
        raise ValueError("expected at least one visible character")
    return value


def _known_language(value: str) -> str:
    if value not in LANGUAGES:
        raise ValueError(f"expected a language that can be detected, one of {' '.join(sorted(LANGUAGES))}")
    return value


Host = Annotated[str, AfterValidator(_comparable_host)]
Phrase = Annotated[str, AfterValidator(_visible)]
Language = Annotated[str, AfterValidator(_known_language)]
Hex256 = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
ScoreName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,30}$")]


class _Packed:
    """Hexadecimal hashes, kept as one run of bytes: a million take 32 MB, here and on the way to each executor."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            _pack,
            handler.generate_schema(Annotated[tuple[Hex256, ...], Field(min_length=1)]),
            serialization=core_schema.plain_serializer_function_ser_schema(_digest),
        )


def _pack(value: Any, listed: ValidatorFunctionWrapHandler) -> bytes:
    """Sorted, each once, `HASH_BYTES` each; what is packed already is left as it is."""
    if isinstance(value, bytes):
        return value
    return b"".join(sorted({bytes.fromhex(entry) for entry in listed(value)}))


def _digest(packed: bytes) -> str:
    return hashlib.sha256(packed).hexdigest()


Hashes = Annotated[bytes, _Packed]


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
    def _one_list(self) -> Self:
        if bool(self.allow) == bool(self.deny):
            raise ValueError(f"rule {self.id}: give either allow or deny, and not an empty list")
        return self


class DomainRule(Rule):
    """Matches a sighting whose URL's host, or any redirect target's host, is one of `domains` or below one."""

    kind: Literal["domain"]
    domains: tuple[Host, ...] = Field(min_length=1)


class UrlRule(Rule):
    """Matches a sighting whose URL, or any redirect target, is one of `urls`, normalised on both sides.

    `udfs.urls` normalises, which this module may not import; `jobs.config.profile` does it for the file's URLs.
    """

    kind: Literal["url"]
    urls: tuple[Phrase, ...] = Field(min_length=1)


class TextTest(Settings):
    """What is asked of a sighting's text: that one of `fields` holds one of `words` or of `patterns`.

    Texts are compared without case, compatibility variants and invisible characters, every run of white space being
    one space, and percent-encoding undone in URLs, whose hosts are looked at in punycode and in their own script. A
    text that holds markup is looked at as given, as a browser shows it, and with every tag for white space.
    """

    words: tuple[Phrase, ...] = Field(default=(), min_length=1)
    """Whole words or phrases."""
    patterns: tuple[Phrase, ...] = Field(default=(), min_length=1)
    """Regular expressions of RE2, which takes time linear in the text whatever the pattern (`udfs.gate.patterns`)."""
    languages: tuple[Language, ...] = Field(default=(), min_length=1)
    """ISO 639-1 codes: for words that are harmless in other languages. A sighting whose language is not clear may be in
    any of them, so that it matches. Without, every language."""
    fields: tuple[TextField, ...] = Field(default=("title", "alt_text", "description", "tags"), min_length=1)

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.words and not self.patterns:
            raise ValueError("give words, patterns or both")
        return self


class TextRule(Rule, TextTest):
    """Matches a sighting by its text."""

    kind: Literal["text"]


class Sha256Rule(Rule):
    """Matches content whose bytes have one of these SHA-256 digests."""

    kind: Literal["sha256"]
    hashes: Hashes


class PerceptualRule(Rule):
    """Matches content of which any of the eight orientations is within `max_distance` of a listed hash."""

    kind: Literal["perceptual"]
    hash: HashKind
    """It must be one of `policy.hashes` in the profile, which says what the gate makes and stores."""
    hashes: Hashes
    max_distance: int = Field(ge=0, le=63)
    """Differing bits of 256. PDQ's authors take 31; 63 is half of what unrelated images are apart."""
    min_quality: int = Field(default=50, ge=0, le=100)
    """Images with less to hash (PDQ's measure) are not compared: the hashes of flat ones are noise, and alike. 50 is
    the authors' own floor."""


class NsfwRule(Rule):
    """Matches content whose worst NSFW score over all views is at least `at_least`."""

    kind: Literal["nsfw"]
    at_least: Share


class DetectorRule(Rule):
    """Matches content to which another detector gives a label, in its worst view, with at least `at_least`."""

    kind: Literal["detector"]
    name: ScoreName
    label: ScoreName
    at_least: Share

    @property
    def score(self) -> str:
        return f"{self.name}.{self.label}"


class ContentHalf(Settings):
    """What a combined rule asks of the content: a score of `nsfw`, or of a detector's label."""

    detector: ScoreName = NSFW
    label: ScoreName | None = None
    at_least: Share

    @model_validator(mode="after")
    def _names_a_score(self) -> Self:
        if (self.detector == NSFW) != (self.label is None):
            raise ValueError(f"label: expected one for every detector but {NSFW}, which has none")
        return self

    @property
    def score(self) -> str:
        return f"{self.detector}.{self.label}" if self.label else self.detector


class CombinedRule(Rule):
    """Matches a sighting whose text and whose content both match their halves."""

    kind: Literal["combined"]
    content: ContentHalf
    text: TextTest


AnyRule = Annotated[
    LicenceRule
    | DomainRule
    | UrlRule
    | TextRule
    | Sha256Rule
    | PerceptualRule
    | NsfwRule
    | DetectorRule
    | CombinedRule,
    Field(discriminator="kind"),
]


class Policy(Settings):
    """The whole policy, lists included."""

    name: str = Field(min_length=1)
    rules: tuple[AnyRule, ...]

    @model_validator(mode="after")
    def _sound(self) -> Self:
        ids = [rule.id for rule in self.rules]
        repeated = sorted({rule_id for rule_id in ids if ids.count(rule_id) > 1})
        if repeated:
            raise ValueError(f"rule ids must be unique; repeated: {repeated}")
        for rule in self.rules:
            if rule.reason == TAKEN_DOWN or rule.id.startswith(TAKEN_DOWN_ID):
                raise ValueError(
                    f"rule {rule.id}: the reason {TAKEN_DOWN} and ids {TAKEN_DOWN_ID}... are those of takedowns "
                    "(jobs.takedown); take others"
                )
        if not any(rule.kind == "nsfw" and rule.action == "block" for rule in self.rules):
            raise ValueError("no rule on nsfw blocks: the gate would let everything through")
        return self

    @property
    def version(self) -> str:
        """`policy_version`: digest over everything but the comments and the order of a rule's
        entries, which decide nothing; over the entries of a list, not over where it lies."""
        canonical = {"name": self.name, "rules": [_unordered(rule.model_dump(mode="json")) for rule in self.rules]}
        for rule in canonical["rules"]:
            rule["comment"] = "-"
        return hashlib.sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def _unordered(value: Any) -> Any:
    """JSON with every list sorted, each entry once."""
    if isinstance(value, dict):
        return {name: _unordered(member) for name, member in value.items()}
    return sorted(set(value)) if isinstance(value, list) else value
