"""Opt-outs that a server states in response headers, read before the body is.

Sources: X-Robots-Tag (https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag, with the `noai` and
`noimageai` tokens that DeviantArt introduced) and the W3C community report on TDMRep, section 6.1
(https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/): `tdm-reservation: 1`.
"""

import re
from collections.abc import Iterable

_WORDS = re.compile(r"""([^\s,;|=:"'()\[\]{}]+)(?:\s*(:)(?!\d))?""")
"""A word, and the colon that makes it the name of a crawler or of a rule; none of a time of day, nor of `:5`."""
_EVERYBODY = frozenset({"*", "all", "robots", "xrobotstag"})
_NAMES_A_CRAWLER = "useragent"
_RULES = frozenset(
    {"all", "archive", "follow", "index", "imageindex", "indexifembedded", "snippet", "translate", "unavailableafter"}
)
_RULES_BEGIN = ("no", "max")
"""What names of rules are, or begin with: before a colon they are no crawler's."""
_MEANINGS = {"none": frozenset({"noindex", "nofollow"})}


def robots_tag_opt_out(values: Iterable[str], agent: str, tokens: Iterable[str]) -> str | None:
    """The first token of `tokens` that the X-Robots-Tag headers state for everybody or for `agent`, else null.

    Read as it is written in the wild: rules are separated by commas, semicolons or spaces, may be quoted, may have a
    value (`notranslate: x`, `noai=1`), and are compared without case, hyphens and underscores (`no-ai`). What stands
    as a word of its own where everybody or we are spoken to counts, the value of another rule as well.

    Args:
        values: the header's values, one a header line.
        agent: our product token, lower-case. `agent: noai, noindex` scopes all that follows it in its line, up to the
            next name.
        tokens: lower-case rules that are an opt-out; `none` counts as `noindex`.
    """
    refused = {_compared(token): token for token in tokens}
    ours = _EVERYBODY | {_compared(agent)}
    for value in values:
        applies = True
        named = False
        for match in _WORDS.finditer(value):
            word = _compared(match[1].partition("/")[0])
            stated = refused.get(word)
            if stated is None and _MEANINGS.get(word, frozenset()) & refused.keys():
                stated = word
            is_rule = stated is not None or word in _RULES or word.startswith(_RULES_BEGIN)
            if named or (match[2] and (word in ours or not is_rule)):
                named = word == _NAMES_A_CRAWLER
                applies = word in ours
            elif applies and stated:
                return stated
    return None


def tdm_opt_out(values: Iterable[str]) -> bool:
    """Whether a `tdm-reservation` header reserves the rights of text and data mining (its value is 1)."""
    return any(word[1] == "1" for value in values for word in _WORDS.finditer(value))


def _compared(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "").strip(".")
