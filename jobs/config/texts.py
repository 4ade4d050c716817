"""Texts from the web, made fit to be shown to a person: on a page, in a terminal."""

import unicodedata

LONGEST = 160
"""Characters of a text that are shown."""

_UNSHOWABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of characters that would be invisible, or turn the direction of what is around them."""
_JOINERS = "\u200c\u200d"
"""Which scripts and emoji need, and which turn nothing."""


def plain(text: str | None, longest: int = LONGEST) -> str:
    """A text on one line, cut to a length, with a visible sign for every character that would be invisible, turn the
    direction of the text around it, or control a terminal."""
    if not text:
        return ""
    line = " ".join(text.split())
    kept = line if len(line) <= longest else line[: longest - 1]  # a text may have millions of characters
    return "".join(map(_visible, kept)) + "…" * (len(line) > longest)


def _visible(character: str) -> str:
    is_shown = character in _JOINERS or unicodedata.category(character) not in _UNSHOWABLE
    return character if is_shown else "\ufffd"
