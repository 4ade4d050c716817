import time

import pytest

from udfs.folding import folded_text
from udfs.gate.patterns import PatternError, any_of, compiled


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        (r"(a)\1", "invalid escape sequence"),
        (r"a(?=b)", "invalid perl operator"),
        (r"(?<!a)b", "invalid"),
        ("a(b", r"missing \)"),
        ("a{1001}", "invalid repetition size"),
        (r"(?:[\pL\pN]{1,100}){10}", "too large"),
        (r"\bgore", r"\\b knows ASCII letters alone"),
        (r"\\\bgore", r"\\b knows ASCII letters alone"),
        (r"[\w-]+\.example", r"\\w knows ASCII letters alone"),
        ("straße", "write strasse"),
        ("É", "write é"),
        ("cafe\u0301", "write café"),
        ("ｇｏｒｅ", "write gore"),
        ("go\xadre", "write gore"),
        ("gore\n", "single spaces"),  # what a block of YAML ends with
        ("go  re", "single spaces"),
        ("go\tre", "single spaces"),
        ("go\u2028re", "single spaces"),
        ("(?:gore)?", "every text"),
        ("^", "every text"),
    ],
)
def test_a_pattern_that_cannot_be_meant_or_run_is_refused_with_the_reason(pattern: str, problem: str) -> None:
    with pytest.raises(PatternError, match=problem) as refused:
        compiled(pattern)
    assert "\n" not in str(refused.value)


def test_an_escaped_back_slash_before_a_letter_is_no_escape() -> None:
    assert compiled(r"a\\b").search(folded_text(r"A\B")) is not None


def test_none_of_no_patterns_is_found() -> None:
    assert not any_of([])("gore")


def test_time_grows_with_the_text_and_not_beyond() -> None:
    """A backtracking engine needs time exponential in the length for this one: 2 ** 30 steps at 30 characters."""
    found = any_of(["(?:a|aa)+(?:a|aa)+b"])
    start = time.process_time()
    assert not found("a" * 1_000_000)
    assert time.process_time() - start < 5
