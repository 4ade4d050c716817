"""Words and regular expressions of a policy, made ready to be looked for in folded texts (`udfs.folding`).

Expressions are run by RE2 (https://github.com/google/re2/wiki/Syntax): time linear in the text whatever the pattern, so
that no text can hang a night. What would break that, back references and look-around, is refused.
"""

import re
from collections.abc import Sequence
from typing import Any

from udfs.folding import folded, folded_text

MAX_MEMORY = 1 << 20
"""Bytes that one compiled pattern may take: a few thousand states. More is refused when the policy is read."""

_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NO_WHITE_SPACE_OF_TEXTS = re.compile(r"[^\S ]|  ")
_ASCII_ONLY = frozenset("bBwW")
_ASCII_LOWER = str.maketrans({chr(upper): chr(upper + 32) for upper in range(ord("A"), ord("Z") + 1)})


class PatternError(ValueError):
    """A word or pattern that cannot be used; the message is one line and says why."""


def compiled(pattern: str) -> Any:
    """The pattern ready to search folded texts (`udfs.folding`), without case.

    Raises PatternError for what RE2 does not know, for a pattern that would match nothing of what it seems to mean,
    and for one that matches every text.
    """
    import re2

    for escape in _ESCAPE.findall(pattern):
        if escape in _ASCII_ONLY:
            raise PatternError(
                rf"\{escape} knows ASCII letters alone, and would miss words of other alphabets: for \w write "
                r"[\pL\pM\pN_], for \b (?:^|[^\pL\pM\pN_]) or (?:[^\pL\pM\pN_]|$), or list whole words under words"
            )
    comparable = folded(pattern)
    if comparable != pattern.translate(_ASCII_LOWER):
        raise PatternError(f"texts are compared as folded (NFKC, casefold), this would never match: write {comparable}")
    if _NO_WHITE_SPACE_OF_TEXTS.search(pattern):
        raise PatternError(r"texts are compared with single spaces for all white space: write one space, or \s")
    options = re2.Options()
    options.max_mem = MAX_MEMORY
    options.case_sensitive = False
    options.log_errors = False
    try:
        found = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0]
        raise PatternError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None
    if found.search("") is not None:
        raise PatternError("it matches the empty text, and so every text")
    return found


def comparable_word(word: str) -> str:
    """A word or phrase as it is looked for in folded texts. Raises PatternError for one of invisible characters alone,
    which would be found in every text."""
    comparable = folded_text(word)
    if not comparable:
        raise PatternError("expected at least one visible character")
    return comparable


def any_of(patterns: Sequence[str]) -> Any:
    """A function of a folded text: whether one of the patterns is found in it."""
    ready = [compiled(pattern) for pattern in patterns]
    return lambda text: any(one.search(text) is not None for one in ready)
