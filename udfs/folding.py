"""Texts as the policy's rules compare them."""

import unicodedata
from urllib.parse import unquote


def folded(text: str) -> str:
    """Text as caseless comparison has it, after toNFKC_Casefold (Unicode, section 3.13): compatibility forms made one,
    case folded, invisible format characters dropped, so that a soft hyphen hides no word."""
    if text.isascii():
        return text.lower()
    visible = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())


def folded_text(text: str) -> str:
    """The same of a whole text, every run of white space being one space: RE2's own white space is ASCII's alone."""
    return " ".join(folded(text).split())


def folded_url(url: str) -> str:
    """The same of a URL, percent-encoding undone."""
    return folded_text(unquote(url))
