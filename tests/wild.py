"""Texts and URLs as they come from the wild and from those who mean harm, as Hypothesis strategies."""

from hypothesis import strategies as st

_TAGS = [
    "a", "b", "i", "p", "br", "div", "span", "table", "tr", "td", "select", "option", "svg", "math", "textarea",
    "title", "script", "style", "template", "frameset", "html", "body", "li", "form", "button", "img", "ruby", "rt",
    "noscript", "iframe", "plaintext", "xmp", "h1", "nobr", "x-y",
]  # fmt: skip
_MARKS = [
    "<!--", "-->", "--!>", "<!", "<!DOCTYPE html>", "<![CDATA[", "]]>", "<?php", "?>", "<", "</", "/>", ">", "&", "&#",
    "&#x", ";", "&amp;", "&lt;", "&#60;", "&gt;", "&nbsp;", "&eacute", "&#97;", "&#0;", "&#xd800;", "&#1114112;",
    "&shy;", "&#" + "5" * 5000, "&#x" + "f" * 5000 + ";", '"', "'", "=", " hidden", "@", "//", "://", ":", "%", "%40",
    "\\", "#", "?", " ", "\n", "\r", "\t", "\x00", "\x07", "\u00a0", "\u00ad", "\u034f", "\u180b", "\u200b", "\u200d",
    "\u202e", "\u3164", "\ufe0f", "\ufeff", "\ufffe", "\ue000", "\U000e0041", "e\u0301", "\u0301", "\uff1c", "\uff1e",
    "\uff06", "Ｂａｄ", "é", "ß", "İ", "ﷺ", "👩\u200d🚀", "bad", "word", "child", "abuse", "0" * 5000, "9" * 5000,
]  # fmt: skip
_PIECES = st.one_of(
    st.sampled_from(_MARKS),
    st.builds("{}{}{}".format, st.sampled_from(["<", "</"]), st.sampled_from(_TAGS), st.sampled_from([">", " x>", ""])),
    st.characters(exclude_categories=["Cs"]),
)
_SOME = st.lists(_PIECES, max_size=12).map("".join)

TEXTS = st.one_of(
    st.text(max_size=60),
    _SOME,
    st.builds(lambda part, after: part * (10_000 // max(len(part), 1) + 1) + after, _SOME, _SOME),
)
"""Any text that UTF-8 can hold: markup, half markup, references, invisible characters, and some of 10 kB and more."""

URLS = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["http://", "https://", "HTTP:\\\\", "http:/", "//", "", "ftp://", " http://", "http:////"]),
    st.sampled_from(["", "", "user:pw@", "user@", "@", "a:b:c@d@", "u%40:p@", "%75:p@"]),
    st.sampled_from(
        ["a.example", "", "b\u00fccher.example", "[::1]", "[::1", "0x7f.1", "a..b", "\u200d", "xn--\u00fc", "xn--",
         "a" * 300, "1" * 5000, "0" * 5000, "0x" + "f" * 5000, "\u3002", "%", "%00", "%ff", "\u0660.1", "ß.example",
         "a%\udce9", "\udce9"]
    ),
    st.sampled_from(
        ["", "", ":", ":80", ":0", ":" + "0" * 5000, ":" + "0" * 5000 + "80", ":" + "9" * 5000, ":\u0661", ":-1",
         ":8_0", ": 80", "::80"]
    ),
    st.one_of(st.just(""), TEXTS.map("/{}".format), TEXTS),
)  # fmt: skip
"""URLs sound and broken, with `@` and `//` in every place."""
