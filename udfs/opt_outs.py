"""Opt-outs that a server states in response headers, read before the body is.

Sources: X-Robots-Tag (https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag, with the `noai` and
`noimageai` tokens that DeviantArt introduced) and the W3C community report on TDMRep, section 6.1
(https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240510/): `tdm-reservation: 1`.
"""

import re
from collections.abc import Iterable

_SCOPED = re.compile(r"\s*([A-Za-z0-9_*.-]+)\s*:(.*)", re.DOTALL)
_VALUED_RULES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
"""Rules that are written `name: value`, and so are no scope."""

_MEANINGS = {"none": frozenset({"noindex", "nofollow"})}


def robots_tag_opt_out(values: Iterable[str], agent: str, tokens: Iterable[str]) -> str | None:
    """The first token of `tokens` that the X-Robots-Tag headers state for everybody or for `agent`, else null.

    Args:
        values: the header's values, one a header line.
        agent: our product token, lower-case. `agent: noai, noindex` scopes all that follows it in its line.
        tokens: lower-case rules that are an opt-out; `none` counts as `noindex`.
    """
    refused = frozenset(tokens)
    for value in values:
        applies = True
        for rule in value.split(","):
            name = rule
            scoped = _SCOPED.fullmatch(rule)
            if scoped and scoped[1].lower() not in _VALUED_RULES:
                applies = scoped[1].lower() in {agent, "*"}
                name = scoped[2]
            name = name.strip().lower()
            if applies and (name in refused or _MEANINGS.get(name, frozenset()) & refused):
                return name
    return None


def tdm_opt_out(values: Iterable[str]) -> bool:
    """Whether a `tdm-reservation` header reserves the rights of text and data mining (its value is 1)."""
    return any(part.strip() == "1" for value in values for part in value.split(","))
