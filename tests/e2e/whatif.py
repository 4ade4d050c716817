"""What a dry run of a re-decision says, on a terminal and in its HTML file, as data."""

import re
from html import unescape

Flip = tuple[str, str, int, str]
"""Outcome before and after, sightings, why."""

_LINE = re.compile(r"^ +(\d+)  (\w+) -> (\w+)(?: \((.*)\))?$", re.MULTILINE)
_ROW = re.compile(
    r'<tr><th scope="row">(\w+)</th><td>(\w+)</td><td class="number">(\d+)</td><td class="bars">.*?</td>'
    r'<td class="meaning">(.*?)</td></tr>'
)
_FEED = re.compile(r'<h3 id="feed-(\w+)">\w+: (\d+)</h3>')


def flips_told(told: str) -> list[Flip]:
    """Of the lines on standard output."""
    return [(before, after, int(count), why) for count, before, after, why in _LINE.findall(told)]


def flips_shown(html: str) -> list[Flip]:
    """Of the file."""
    return [(before, after, int(count), unescape(why)) for before, after, count, why in _ROW.findall(html)]


def feed_shown(html: str) -> dict[str, int]:
    """Rows of the feed by what the file says would become of them."""
    return {change: int(count) for change, count in _FEED.findall(html)}


def section_of(html: str, name: str) -> str:
    """The section of the file with that id."""
    (found,) = re.findall(rf'<section id="{name}".*?</section>', html, re.DOTALL)
    return str(found)
