"""User names and passwords out of URLs, before anything is stored, logged or shown.

Only what stands between a URL's slashes and its host is one (RFC 3986 section 3.2.1): of the URL itself, and of URLs
inside its path or query, or inside a text, percent-encoded however many times. An `@` anywhere else is left alone.
What is fetched is the URL as given; its `url_id` is that one's.
"""

import re
from typing import NamedTuple

from udfs.urls import BadUrl, normalise_url

_AT = r"(?:@|%(?:25)*40)"
_HAS_AT = re.compile(_AT)
_OWN = re.compile(r"(\s*[a-zA-Z][a-zA-Z0-9+.-]*:[/\\]{2,}|\s*//)[^/?#\\]*@")
"""From the start of a URL to the end of its user information."""
_UP_TO_LAST_AT = re.compile(rf"^(\s*[a-zA-Z][a-zA-Z0-9+.-]*:[/\\]+)?.*{_AT}", re.DOTALL)
_SLASH = r"(?:[/\\]|%(?:25)*(?:2[Ff]|5[Cc]))"
_ALONE = r"(?<![^\s\"'(<=])"
"""Nothing before it that could be part of the same word: where a URL without a scheme may begin."""


class _Nested(NamedTuple):
    """One way in which URLs stand inside of something. Each pattern matches from the same place on."""

    start: re.Pattern[str]
    """What stays."""
    run: re.Pattern[str]
    """The start, and all that could be user information."""
    whole: re.Pattern[str]
    """The start, and what is user information."""


def _nested(stop: str) -> tuple[_Nested, ...]:
    """URLs inside of something, up to the end of their user information.

    `stop`: what ends a URL besides its own delimiters. An `&` ends one where `name=` follows. Each pattern takes what
    follows it too, as long as that could be taken for user information once the first is gone: redacting twice changes
    nothing.
    """
    parameter = rf"&(?![^=&/@%\\{stop}]*=)"
    literal = rf"(?:[^/?#\\&{stop}]|{parameter})*"
    delimiter = r"(?:2[Ff]|3[Ff]|23|5[Cc])"
    coded = rf"(?:(?!%(?P=depth){delimiter})[^/?#\\&{stop}]|{parameter})*"
    starts = {
        literal: (
            r":(?:[/\\]|%5[Cc]){2,}+",
            # Without a scheme there is a colon between name and password, or `//logo@2x.png` would be one.
            rf"{_ALONE}[/\\]{{2,}}+(?=[^/?#\\&@{stop}]*:)",
        ),
        coded: (
            rf"%(?P<depth>(?:25)*)3[Aa]{_SLASH}{{2,}}+",
            rf":%(?P<depth>(?:25)*)2[Ff]{_SLASH}++",
            rf"{_ALONE}%(?P<depth>(?:25)*)2[Ff]{_SLASH}++"
            rf"(?=(?:(?!%(?P=depth){delimiter})[^/?#\\&@{stop}])*?%(?P=depth)3[Aa])",
        ),
    }
    return tuple(
        _Nested(*map(re.compile, (start, start + run, rf"{start}{run}{_AT}(?:{_SLASH}*+{run}{_AT})*")))
        for run, some in starts.items()
        for start in some
    )


_IN_URL = _nested("")
_IN_TEXT = _nested(r"\s")


def redact_text(text: str) -> str:
    """The text without the credentials of URLs in it; idempotent."""
    return _removed(_IN_TEXT, text) if _HAS_AT.search(text) else text


def redact_url(url: str) -> str:
    """The URL, raw or normalised, without the credentials in it; idempotent. Of a raw one that is not sound, nothing
    is left that could be a password."""
    if not _HAS_AT.search(url):
        return url
    own = _OWN.match(url)
    start, rest = (own[1], url[own.end() :]) if own else ("", url)
    redacted = start + _removed(_IN_URL, rest)
    try:
        normalise_url(redacted)
    except BadUrl:
        return _UP_TO_LAST_AT.sub(r"\1", url)
    return redacted


_MOST_ROUNDS = 4
"""What is taken out may have kept an earlier pattern from matching. Two are enough for all that was ever found; a text
that is made to need more costs no more than these."""


def _removed(nested: tuple[_Nested, ...], text: str) -> str:
    for _ in range(_MOST_ROUNDS):
        before = text
        for one in nested:
            text = _removed_of(one, text)
        if text == before:
            break
    return text


def _removed_of(nested: _Nested, text: str) -> str:
    kept: list[str] = []
    taken = at = 0
    # By depth, up to where no start finds user information: each looking for itself would take quadratic time.
    in_vain: dict[str, int] = {}
    while (start := nested.start.search(text, at)) is not None:
        at = start.end()
        depth = "".join(start.groups())
        if at <= in_vain.get(depth, 0):
            continue
        whole = nested.whole.match(text, start.start())
        if whole is not None:
            kept += (text[taken : start.start()], start[0])
            taken = at = whole.end()
        elif (run := nested.run.match(text, start.start())) is not None:
            in_vain[depth] = run.end()
    return "".join((*kept, text[taken:]))
