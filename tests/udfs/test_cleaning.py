"""Cleaned text, the texts it may be shown as, and its words."""

import hashlib
import time
import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wild import TEXTS
from udfs import cleaning
from udfs.cleaning import MAX_CHARACTERS, clean_text, one_line, spellings, text_id, words


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  a\tcat \n on\u00a0a  sofa ", "a cat on a sofa"),
        ("<p>A <b>cat</b></p><p>on&nbsp;a sofa</p>", "A cat on a sofa"),
        ("salt &amp; pepper", "salt & pepper"),
        ("&lt;b&gt;twice escaped&lt;/b&gt;", "twice escaped"),
        ("<!-- note -->seen<script>alert('x')</script><style>p {}</style> too", "seen too"),
        ("3 < 4 and 5 > 4", "3 < 4 and 5 > 4"),
        ("ﬁne Ｃａｆé", "fine Café"),
        ("Cafe\u0301", "Café"),
        ("a\x00b\x07c", "a b c"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("broken \ud800 surrogate", "broken surrogate"),
        ("", ""),
        (None, ""),
        ("<br>", ""),
    ],
)
def test_a_part_is_cleaned(raw: str | None, cleaned: str) -> None:
    assert clean_text(raw, None, None, None) == cleaned


def test_parts_are_joined_in_fixed_order() -> None:
    assert clean_text("Title", "Alt", "Text", ["red", "blue"]) == "Title. Alt. Text. red, blue"
    assert clean_text(None, "Alt", " ", ["", None, "x"]) == "Alt. x"
    assert clean_text(None, None, None, []) == ""


def test_a_part_that_repeats_is_said_once_in_its_first_writing() -> None:
    assert clean_text("A Cat", "a cat", "on a sofa", ["A CAT"]) == "A Cat. on a sofa"


def test_text_is_bounded() -> None:
    assert len(clean_text("a" * 10**6, None, "b" * 10**6, None)) == MAX_CHARACTERS


def test_hostile_markup_costs_no_more_than_its_bound() -> None:
    assert clean_text("<" * 10**6 + "&" * 10**6, "<!--" * 10**5, None, None)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("<>&;bp/ lt#x")), max_size=60))
def test_cleaned_text_is_one_printable_line(raw: str) -> None:
    cleaned = clean_text(raw, None, raw, None)
    assert cleaned == " ".join(cleaned.split())
    assert not any(character in cleaned for character in "\x00\n\t\u200b\ufeff")
    cleaned.encode()


@given(st.lists(st.text(alphabet="abc Äß\n", max_size=8), min_size=3, max_size=3))
def test_cleaning_clean_text_changes_nothing(parts: list[str]) -> None:
    title, alt_text, description = parts
    cleaned = clean_text(title, alt_text, description, None)
    assert clean_text(cleaned, None, None, None) == cleaned


def test_a_text_is_named_by_its_digest() -> None:
    assert text_id("Café") == hashlib.sha256("Café".encode()).hexdigest()


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("bad<b></b>word", "badword"),
        ("bad<img src=x alt=y>word", "badword"),
        ("b<i>ad<u>wo</u></i>rd", "badword"),
        ("bad<wbr>word", "badword"),
        ("bad<unknown-tag>word", "badword"),
        ("bad<!-- -->word", "badword"),
        ("bad<!-->word", "badword"),
        ("bad<!x>word", "badword"),
        ("bad<?x?>word", "badword"),
        ("bad</>word", "badword"),
        ("bad<script>x</script>word", "badword"),
        ("bad<template>x</template>word", "badword"),
        ("bad<noscript>x</noscript>word", "badword"),
        ("bad<span hidden>x</span>word", "badword"),
        ("bad<div hidden>x</div>word", "badword"),
        ("bad<br hidden>word", "badword"),
        ("one<div>two<p hidden>x</p></div>three", "one two three"),
        ("bad<table>word</table>", "badword"),  # what is no cell is shown before the table
        ("one<br>two<br/>three</br>four", "one two three four"),
        ("one<p>two</p>three<div>four</div>five", "one two three four five"),
        ("<ul><li>one<li>two</ul>three", "one two three"),
        ("<table><tr><td>one<td>two<tr><td>three</table>four", "one two three four"),
        ("<h1>one</h1>two<hr>three", "one two three"),
        ("<title>one</title>two", "one two"),
        ("<textarea>one<b>two</textarea>", "onetwo"),
        ("b&#97;d&#119ord", "badword"),
        ("bad&shy;&#8203;&zwj;word", "badword"),
        ("child&nbsp;&#x3000;abuse", "child abuse"),
        ("caf&eacute; cafe&#769;", "café café"),
        ("&#0;&#xd800;&#1114112;", "\ufffd\ufffd\ufffd"),
        ("&nosuch; &amp", "&nosuch; &"),
        ("bad\u034f\u115f\u3164\U000e0041\ue000word", "badword"),
        ("bad\u180b\ufe0f\u200c\u200dword", "badword"),
        ("می\u200cخواهم ❤\ufe0f ᠠ\u180b 葛\U000e0100", "می\u200cخواهم ❤\ufe0f ᠠ\u180b 葛\U000e0100"),
    ],
)
def test_text_is_what_a_browser_shows(raw: str, cleaned: str) -> None:
    assert clean_text(raw, None, None, None) == cleaned


@pytest.mark.parametrize(
    "raw", ["a <b", "x <y and no more", "see </a", "3 < 4 & 5", "<3 you", "AT&T", "a<b", "if x<y:"]
)
def test_what_cannot_be_parsed_as_markup_is_kept_literally(raw: str) -> None:
    assert clean_text(raw, None, None, None) == raw


@pytest.mark.parametrize(
    "raw",
    ["&#" + "5" * 5000, "&#" + "5" * 5000 + ";", "&#x" + "f" * 5000 + ";", "<![", "<!]", "<![x[", "<!DOCTYPE [<!x"],
)
def test_what_the_standard_librarys_parser_fails_on_is_a_text(raw: str) -> None:
    assert "cat" in clean_text(f"cat {raw}", None, None, None)


def test_a_text_on_which_the_parser_fails_is_kept_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cleaning, "LexborHTMLParser", fail)
    assert clean_text("<b>A\tcat</b> &amp; more", None, "plain", None) == "<b>A cat</b> &amp; more. plain"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a cat", ("a cat",)),
        ("", ("",)),
        ("one<b>two</b>", ("one two", "onetwo")),
        ("<p>one</p><p>two", ("one two",)),
        ("one<td>two", ("one two", "onetwo")),
        ("bad&#1;word", ("badword", "bad word")),
        ("b<i>ad\x01wo</i>rd", ("b ad wo rd", "badword", "bad word")),
        ("\u202edrowdab", ("badword", "drowdab")),
        ("a \u202edr<b>ow</b>dab\u202c one", ("a dr ow dab one", "a badword one", "a drowdab one")),
        ("<bdo DIR=rtl>drowdab</bdo> one", ("badword one", "drowdab one")),
        ("<bdo dir=ltr>drowdab</bdo><bdo>one</bdo>", ("drowdab one", "drowdabone")),
        ("&#x202e;drow\u2069dab", ("worddab", "drowdab")),
        ("&lt;one&gt;", ("<one>", "")),  # a browser shows it; whoever unwraps once more, does not
        ("＜&#111;ne＞", ("<one>", "")),
        ("&amp;lt;i&amp;gt;one", ("&lt;i&gt;one", "<i>one", "one")),
    ],
)
def test_the_texts_that_a_raw_one_may_be_shown_as(raw: str, shown: tuple[str, ...]) -> None:
    assert spellings(raw) == shown


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_any_text_has_spellings_of_one_visible_line_of_which_the_last_is_the_cleaned_one(raw: str) -> None:
    shown = spellings(raw)
    assert one_line(shown[-1], "", "") == clean_text(raw, None, None, None)
    assert len(set(shown)) == len(shown)
    for text in shown:
        assert text == " ".join(text.split())
        assert unicodedata.is_normalized("NFKC", text)
        assert not regex.search(r"[\p{Cc}\p{Cs}\p{Co}]|[a-zA-Z]\p{Default_Ignorable_Code_Point}", text)
        text.encode()


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_text_without_markup_is_cleaned_by_no_parser(raw: str) -> None:
    plain = raw.translate(dict.fromkeys(map(ord, "<&＜＆﹤﹠\u202e")))  # the last turns round what follows it
    assert len(spellings(plain)) == 1


@pytest.mark.parametrize(
    "raw",
    [
        "<div>" * 200_000,
        "<div>" * 100_000 + "</p>" * 125_000,
        "<span>" * 80_000 + "</x>" * 130_000,
        "<b " + " ".join(f"a{number}" for number in range(140_000)) + ">",
        "<select><selectedcontent></selectedcontent>" + "<option>x" * 110_000,
        "".join(f"<b id={number}>" for number in range(50_000)) + "<p></p>" * 20_000,
        "<a<a" * 250_000 + ">",
        "&lt;" * 250_000,
        "<" * 1_000_000,
        "&" * 1_000_000,
        "<!--" * 250_000,
        "&#" + "5" * 1_000_000,
        "\u0301\u0316" * 500_000,
        "\ufdfa" * 1_000_000,
        "a\u200d" * 500_000,
    ],
    ids=lambda raw: raw[:16],
)
def test_a_hostile_megabyte_costs_no_more_than_its_bound(raw: str) -> None:
    """Built into a tree, the first takes a minute."""
    start = time.process_time()
    assert len(clean_text(raw, None, raw, [raw])) <= MAX_CHARACTERS
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("cleaned", "found"),
    [
        ("Zwei KATZEN, im Café! zwei Katzen_2", ["zwei", "katzen", "im", "café", "2"]),
        ("Cafe\u0301 CAFÉ Ｃａｆé", ["café"]),
        ("❤\ufe0f bad\u034fword", ["badword"]),
        ("straße STRASSE", ["strasse"]),
        ("नमस्ते", ["नमस्ते"]),
        ("... !", []),
        ("", []),
    ],
)
def test_words_are_distinct_whatever_their_spelling(cleaned: str, found: list[str]) -> None:
    assert words(cleaned) == found


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_words_are_letters_marks_and_digits(raw: str) -> None:
    found = words(clean_text(raw, None, None, None))
    assert len(set(found)) == len(found)
    assert all(regex.fullmatch(r"[\p{L}\p{M}\p{N}]+", word) for word in found)
