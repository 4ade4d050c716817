"""Texts as the policy's rules compare them."""

import re
import unicodedata
from urllib.parse import unquote

INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
)
"""For a character class: Default_Ignorable_Code_Point (Unicode, DerivedCoreProperties.txt; reserved ones included, so
that it is the same in later versions), and the format characters (Cf) beside them."""
CONTROLS = "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
"""For a character class: control characters that are not white space."""

_UNSEEN = re.compile(f"[{INVISIBLE}{CONTROLS}]")
_PUNYCODE = re.compile("(?<![a-z0-9-])xn--([a-z0-9-]{1,59})(?![a-z0-9-])", re.IGNORECASE | re.ASCII)
"""A label of a host (RFC 5890); to decode a longer one takes time quadratic in its length."""
_MOST_MARKS = 30
"""After one letter: what Unicode's Stream-Safe Text Format allows (UAX 15, section 13). Natural text has up to six."""
_SHORT = 1000
"""Characters that may all be marks at the cost of a millisecond."""
_BECOME_MARKS = frozenset("\u0f73\u0f75\u0f81\uff9e\uff9f")
"""Of class 0 themselves, and marks once they are decomposed."""


def folded(text: str) -> str:
    """Text as caseless comparison has it, after toNFKC_Casefold (Unicode, section 3.13): compatibility forms made one,
    case folded, characters that show nothing dropped, so that neither a soft hyphen nor a variation selector hides a
    word."""
    if text.isascii() and text.isprintable():
        return text.lower()
    return unicodedata.normalize("NFKC", compatible(_UNSEEN.sub("", text)).casefold())


def folded_text(text: str) -> str:
    """The same of a whole text, every run of white space being one space: RE2's own white space is ASCII's alone."""
    return " ".join(folded(text).split())


def folded_urls(url: str) -> set[str]:
    """The same of a URL, percent-encoding undone: as it is, and with names in punycode in their own script, as browsers
    show hosts."""
    text = unquote(url)
    return {folded_text(text), folded_text(_PUNYCODE.sub(_in_own_script, text))}


def _in_own_script(label: re.Match[str]) -> str:
    """A name in punycode (RFC 3492) decoded; what is none, as it stands."""
    try:
        decoded = label[1].encode().decode("punycode")
        decoded.encode()  # the decoder lets surrogates through, which no text may hold
    except UnicodeError:
        return label[0]
    return decoded


def compatible(text: str) -> str:
    """Unicode NFKC, in time linear in the text: in a long one, marks upon one letter beyond the 30th are dropped, since
    to bring them into their order takes time quadratic in their number."""
    if len(text) > _SHORT and not text.isascii():
        text = "".join(_with_few_marks(text))
    return unicodedata.normalize("NFKC", text)


def _with_few_marks(text: str) -> list[str]:
    kept = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) or character in _BECOME_MARKS else 0
        if marks <= _MOST_MARKS:
            kept.append(character)
    return kept
