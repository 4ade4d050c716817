"""Plain text of what a manifest says of an image: markup resolved, one line, its words, and its digest as a name.

Markup is parsed by an HTML5 parser (lexbor, through selectolax) that takes any input, and read as a browser shows it
(https://html.spec.whatwg.org/multipage/dom.html#the-innertext-idl-attribute): block elements, table cells and `<br>`
separate words, other tags and comments join them. Styles are not evaluated.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from selectolax.lexbor import LexborHTMLParser, LexborNode

from udfs.folding import CONTROLS, INVISIBLE, compatible, folded

MAX_CHARACTERS = 2000
"""Cleaned text is cut here: several times what the model reads."""

_MAX_RAW_CHARACTERS = 10 * MAX_CHARACTERS
"""Of one raw field. Building a tree costs time quadratic in its depth: here 20 ms at worst, at a megabyte a minute."""
_MAX_PASSES = 4
"""Markup within markup is unwrapped this often: feeds escape twice, nobody escapes four times."""
_SEPARATOR = ". "
_MARKUP = re.compile("[<&]")
_TAG = re.compile("</?[a-zA-Z]")
_NO_CHARACTERS = "\ud800-\uf8ff\U000f0000-\U0010ffff"
"""For a character class: surrogates, private use."""
_SPELLING = "\u200c\u200d\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef"
"""For a character class: what shows nothing alone, and is part of Persian, Mongolian and Chinese spelling and of
emoji; after a Latin letter it is part of nothing."""
_DROPPED = re.compile(f"(?<=[a-zA-Z])[{INVISIBLE}{_NO_CHARACTERS}]+|[{INVISIBLE}{_NO_CHARACTERS}](?<![{_SPELLING}])")
_CONTROLS = re.compile(f"[{CONTROLS}]")
_OVERRIDE, _OVERRIDE_ENDS = "\u202e", "\u202c"
_OVERRIDDEN = re.compile("\u202e([^\u202a-\u202e\u2066-\u2069\n]*)")
"""What is shown from its end to its beginning (UAX 9, right-to-left override), up to the next control of its kind."""
_WORD_CATEGORIES = frozenset("LMN")

_SEPARATING = frozenset(
    {
        "address", "article", "aside", "blockquote", "body", "br", "caption", "center", "col", "colgroup", "dd",
        "details", "dialog", "dir", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "frameset",
        "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "hr", "html", "legend", "li", "listing", "main", "menu",
        "nav", "ol", "optgroup", "option", "p", "plaintext", "pre", "rt", "search", "section", "summary", "table",
        "tbody", "td", "tfoot", "th", "thead", "title", "tr", "ul", "xmp"
    }
)  # fmt: skip
"""Shown apart from what is around them: `display` is not inline in a browser's own style sheet."""
_NOT_SHOWN = frozenset(
    {
        "area", "audio", "base", "basefont", "canvas", "datalist", "head", "iframe", "link", "meta", "noembed",
        "noframes", "noscript", "param", "rp", "script", "style", "template", "video"
    }
)  # fmt: skip
"""Nothing of their content is shown. `title` is none of them here, where the whole text may be one."""


def clean_text(
    title: str | None, alt_text: str | None, description: str | None, tags: Sequence[str | None] | None
) -> str:
    """One line of plain text from what a manifest says of an image; empty when it says nothing. See `one_line`."""
    given = () if tags is None else tags  # of what Arrow gives, a truth value is not to be had
    return one_line(*(spellings(part)[-1] for part in (title, alt_text, description, *given)))


def one_line(title: str, alt_text: str, description: str, *tags: str) -> str:
    """Cleaned parts in this order, tags joined by ", ", each part but once whatever its case, joined by ". " and cut at
    `MAX_CHARACTERS`."""
    parts = (title, alt_text, description, ", ".join(filter(None, tags)))
    once: dict[str, str] = {}
    for part in filter(None, parts):
        once.setdefault(part.casefold(), part)
    return _SEPARATOR.join(once.values())[:MAX_CHARACTERS].rstrip()


def spellings(raw: str | None) -> tuple[str, ...]:
    """The plain texts that a raw one may be shown as, distinct; the last is the cleaned one.

    Cleaned: markup resolved, Unicode NFKC, control and invisible characters dropped, white space collapsed; and that
    again, as long as it makes a difference, for what was escaped more than once. Before it stands what each round
    showed: its text, and that text with every tag for white space; where markup has brought about control characters,
    which some browsers show as nothing, also without them; where an override turns a part round, also with that as it
    is shown. Whoever looks for words looks in all of them. No more than the first 20,000 characters are looked at.
    """
    text = (raw or "")[:_MAX_RAW_CHARACTERS]
    shown: dict[str, None] = {}
    for _ in range(_MAX_PASSES):
        tags_apart = _TAG.sub(r" \g<0>", text)
        if tags_apart != text:
            shown[_plain(_shown(tags_apart))] = None
        has_markup = _MARKUP.search(text) is not None
        whole = _shown(text) if has_markup else text
        if has_markup and _CONTROLS.search(whole):
            shown[_plain(_CONTROLS.sub("", whole))] = None
        if _OVERRIDE in whole:
            shown[_plain(_OVERRIDDEN.sub(lambda turned: turned[1][::-1], whole))] = None
        cleaned = _plain(whole)
        shown[cleaned] = None
        if cleaned == text:
            break
        text = cleaned
    shown.pop(text)
    return (*shown, text)


def text_id(cleaned: str) -> str:
    """SHA-256 hex of the UTF-8 bytes of a cleaned text."""
    return hashlib.sha256(cleaned.encode()).hexdigest()


def words(cleaned: str) -> list[str]:
    """Distinct words of a text, folded as rules compare them, in the order in which they come: runs of letters, marks
    and digits."""
    apart = (one if unicodedata.category(one)[0] in _WORD_CATEGORIES else " " for one in folded(cleaned))
    return list(dict.fromkeys("".join(apart).split()))


def tokens_udf() -> Any:
    """`(title, alt_text, description, tags) -> array<string>`: the words of a row's cleaned text."""
    import pandas as pd
    from pyspark.sql.pandas.functions import pandas_udf

    def tokens(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.Series]:
        for columns in batches:
            yield pd.Series([words(clean_text(*row)) for row in zip(*columns, strict=True)], dtype=object)

    declare: Any = pandas_udf  # its stubs do not know iterators of several columns
    # Nondeterministic in name only: then Spark evaluates it once, although row and digest both use it.
    return declare(tokens, "array<string>").asNondeterministic()


def _plain(text: str) -> str:
    """One line of visible characters, of which every one is in its Unicode NFKC form."""
    if not (text.isascii() and text.isprintable()):
        text = compatible(_DROPPED.sub("", compatible(_CONTROLS.sub(" ", text))))
    return " ".join(text.split())


def _shown(text: str) -> str:
    """The text as a browser shows it; as it stands, where it cannot be parsed."""
    try:
        return "".join(_pieces(text))
    except Exception:  # noqa: BLE001 - whatever a hostile text does to a parser, it is a text
        return text


def _pieces(text: str) -> Iterator[str]:
    last = _TAG.search(text, text.rfind(">") + 1)
    if last:  # A tag that never ends is none: a browser would drop the rest of the text with it.
        text = f"{text[: last.start()]}&lt;{text[last.start() + 1 :]}"
    # The white space makes the first node a text: of some other kinds `root` knows nothing.
    tree = LexborHTMLParser(f" {text}", is_fragment=True)
    node = tree.root
    while node is not None:
        following = None
        if node.is_text_node:
            yield node.text_content or ""
        elif node.is_element_node:
            yield _boundary(node) + (_OVERRIDE if _is_turned_round(node) else "")
            following = None if _is_hidden(node) else node.child
        while following is None and node is not None:
            if node.is_element_node:
                yield (_OVERRIDE_ENDS if _is_turned_round(node) else "") + _boundary(node)
            following = node.next
            node = node.parent
        node = following


def _boundary(element: LexborNode) -> str:
    """Between what is before or inside an element and what follows; what is hidden takes no place of its own."""
    return " " if element.tag in _SEPARATING and not _is_hidden(element) else ""


def _is_hidden(element: LexborNode) -> bool:
    return element.tag in _NOT_SHOWN or "hidden" in element.attributes


def _is_turned_round(element: LexborNode) -> bool:
    return element.tag == "bdo" and (element.attributes.get("dir") or "").lower() == "rtl"
