"""What is the same text to a rule."""

import time
import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from udfs.folding import CONTROLS, INVISIBLE, folded, folded_text, folded_urls

EVERYTHING = "".join(chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000)


def test_all_that_shows_nothing_is_dropped_and_nothing_else() -> None:
    ignorable = set(regex.findall(r"[\p{Default_Ignorable_Code_Point}\p{Cf}]", EVERYTHING))
    assert set(regex.findall(f"[{INVISIBLE}]", EVERYTHING)) == ignorable
    controls = {character for character in EVERYTHING if unicodedata.category(character) == "Cc"}
    assert set(regex.findall(f"[{CONTROLS}]", EVERYTHING)) == {c for c in controls if not c.isspace()}
    assert {character for character in EVERYTHING if not folded(character)} == ignorable | {
        character for character in controls if not character.isspace()
    }


@pytest.mark.parametrize("unseen", ["\u00ad", "\u034f", "\u115f", "\u180b", "\u200d", "\u3164", "\ufe0f", "\x07", "\0"])
def test_a_word_is_the_same_with_characters_inside_that_show_nothing(unseen: str) -> None:
    assert folded(f"bad{unseen}word") == folded(f"{unseen}BAD{unseen}{unseen}word{unseen}") == "badword"


@pytest.mark.parametrize(
    "spelling", ["Café", "Cafe\u0301", "ＣＡＦＥ\u0301", "Ｃａｆé", "CAF\u00c9", "c\u2060afe\ufe0f\u0301"]
)
def test_composed_decomposed_and_fullwidth_spellings_are_one(spelling: str) -> None:
    assert folded(spelling) == "café"


def test_every_character_folds_to_what_folds_no_further() -> None:
    once = [folded(character) for character in EVERYTHING]
    assert [folded(text) for text in once] == once


@given(st.text())
def test_folding_is_idempotent(text: str) -> None:
    assert folded(folded(text)) == folded(text)
    assert folded_text(folded_text(text)) == folded_text(text)


@pytest.mark.parametrize("white", ["\u00a0", "\u3000", "\t", "\r\n", "\x1f", "\u2028", "\x85"])
def test_white_space_of_any_kind_is_one_space(white: str) -> None:
    assert folded_text(f"a{white}{white}b") == "a b"


def test_percent_encoding_in_a_url_is_undone() -> None:
    assert folded_urls("http://a.example/B%C3%81D%E2%80%8Bword") == {"http://a.example/bádword"}


@pytest.mark.parametrize(
    "label", ["xn--", "xn--99999999999", "xn--a-ecp", "axn--t-9fab", "xn--bb0c", "xn--" + "9" * 5000]
)
def test_what_is_no_punycode_stays_as_it_is(label: str) -> None:
    given = f"http://{label}.example/"
    assert given in folded_urls(given)
    for text in folded_urls(given):
        text.encode()


@pytest.mark.parametrize("marks", ["\u0301\u0316", "\uff9e\u0301", "\u0f73\u0f74"])
def test_marks_without_end_cost_no_more_than_their_number(marks: str) -> None:
    """Sorted into their order by the standard library, half a million take minutes."""
    start = time.process_time()
    found = folded("bad" + marks * 250_000 + "word")
    assert time.process_time() - start < 5
    assert found.startswith("ba")
    assert found.endswith("word")
    assert len(found) < 200


def test_a_long_text_is_folded_as_its_parts_are() -> None:
    line = "Tie\u0302\u0301ng Viê\u0323t, ﬁsh, ガギ\uff76\uff9e, กำ\u0e49, Ａ "
    assert folded_text(line * 100) == " ".join([folded_text(line)] * 100)
