"""The report as a file: what is in it, what is not, and that nothing from the web is more than text."""

import base64
import io
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from jobs import report
from jobs.config.profile import Config, load_policy
from jobs.config.progress import log
from jobs.reporting import gathering
from schemas.tables import PUBLISHED
from tests.jobs.reporting.conftest import HOSTILE, LIVE, WITHDRAWN, colour, jpeg
from tests.lensfeed.tiny_warehouse import TinyWarehouse, feed_row, image_row, member_row

SECTIONS = ["funnel", "failures", "policy", "cost", "duplicates", "neighbours", "map", "texts", "drift", "tables"]
"""By their ids, in the order in which they stand."""

Settings = Callable[[], Config]


class Seen(HTMLParser):
    """Elements, attributes and text as a browser would read them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def values(self, name: str) -> list[str]:
        """Values of that attribute, wherever it is."""
        return [value for _, attribute, value in self.attributes if attribute == name]


def written(settings: Settings, into: Path, **chosen: str) -> str:
    """The report that is written."""
    report.write_report(settings(), into, **chosen)  # type: ignore[arg-type]
    return into.read_text(encoding="utf-8")


def colours(html: str) -> set[tuple[int, int, int]]:
    """Of the pictures in the report, each rounded to tens."""
    found = set()
    for data in re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", html):
        red, green, blue = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB").resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
        found.add((round(red, -1), round(green, -1), round(blue, -1)))
    return found


def rounded(number: int) -> tuple[int, ...]:
    return tuple(round(channel, -1) for channel in colour(number))


def test_every_section_is_there_with_a_heading_and_a_link_to_it(
    filled: TinyWarehouse, settings: Settings, tmp_path: Path
) -> None:
    seen = Seen(written(settings, tmp_path / "report.html"))
    assert [value for tag, name, value in seen.attributes if (tag, name) == ("section", "id")] == SECTIONS
    links = [value for tag, name, value in seen.attributes if (tag, name) == ("a", "href")]
    assert links == ["#main", *(f"#{section}" for section in SECTIONS)]
    assert {"header", "nav", "main", "footer", "h1"} <= set(seen.tags)
    assert seen.tags.count("h2") == len(SECTIONS)
    assert seen.tags.count("table") == seen.tags.count("caption")
    ids = seen.values("id")
    assert len(ids) == len(set(ids))
    assert set(seen.values("aria-labelledby")) <= set(ids)


def test_figures_of_the_ledger_and_of_the_tables_are_in_it(
    filled: TinyWarehouse, settings: Settings, tmp_path: Path
) -> None:
    text = " ".join(Seen(written(settings, tmp_path / "report.html")).text.split())
    assert "Manifest rows 10" in text
    assert "80.0% accepted" in text
    assert "crawl and gate 4.5 9 URLs 500.0 ms" in text
    assert "dns 1 on request the host's name does not resolve" in text
    assert "nsfw blocked 1 nsfw-block open_nsfw's authors" in text
    assert "1/64 · 10/256" in text
    assert "all 21 rows of sightings" in text


def test_another_policy_than_the_warehouse_is_under_is_told(
    filled: TinyWarehouse, settings: Settings, tmp_path: Path
) -> None:
    told = "The warehouse is under another policy than this profile's"
    assert told in Seen(written(settings, tmp_path / "other.html")).text
    filled.event("run-x", "published", policy_version=load_policy(settings().policy).version)
    assert told not in Seen(written(settings, tmp_path / "same.html")).text


def test_what_came_from_the_web_is_text_and_nothing_else(
    filled: TinyWarehouse, settings: Settings, tmp_path: Path
) -> None:
    html = written(settings, tmp_path / "report.html")
    seen = Seen(html)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(seen.tags)
    assert seen.tags.count("h1") == 1
    assert seen.tags.count("style") == 1
    assert not [name for _, name, _ in seen.attributes if name.startswith("on") or name == "style"]
    assert all(value.startswith(("#", "data:")) for value in [*seen.values("href"), *seen.values("src")])
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f\x00-\x08\x0b\x0c\x0e-\x1f]", html)
    for hostile in HOSTILE[:4]:
        assert hostile not in html
    for shown in ("<script>alert(1)</script>", "{{ 7 * 7 }}{% include '/etc/passwd' %}", "&lt;b&gt; &amp; <b>bold</b>"):
        assert shown in seen.text
    assert "invoice\ufffdgnp.exe" in seen.text


def test_the_page_allows_itself_no_script_and_no_request(
    filled: TinyWarehouse, settings: Settings, tmp_path: Path
) -> None:
    html = written(settings, tmp_path / "report.html")
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', html)
    directives = dict(part.strip().partition(" ")[::2] for part in policy.replace("&#39;", "'").split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    assert directives["style-src"].startswith("'sha256-")
    assert "script-src" not in directives  # so that default-src rules


def test_only_live_images_are_shown(filled: TinyWarehouse, settings: Settings, tmp_path: Path) -> None:
    shown = colours(written(settings, tmp_path / "report.html"))
    assert rounded(WITHDRAWN) not in shown
    assert len(shown) >= LIVE // 2


def test_a_report_on_an_earlier_run_shows_nothing_that_has_left_the_feed_since(
    filled: TinyWarehouse, settings: Settings, tmp_path: Path
) -> None:
    before = written(settings, tmp_path / "before.html", run_id="run-0")
    assert rounded(0) in colours(before)
    assert HOSTILE[0] in Seen(before).values("alt")
    filled.write("index_feed", [feed_row(n, tokens=[], title=None) for n in (4, 8, 12, 16)], overwrite=True)
    filled.write("feed_members", [member_row(4, n, f"https://pictures.example/{n}") for n in (4, 5)], overwrite=True)
    filled.event("takedown", "published", counts=[])
    html = written(settings, tmp_path / "after.html", run_id="run-0")
    assert not {rounded(number) for number in range(4)} & colours(html)
    assert HOSTILE[0] not in Seen(html).values("alt")


def test_what_does_not_fit_is_left_out_and_said(
    filled: TinyWarehouse, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MOST_BYTES", dict.fromkeys(gathering.MOST_BYTES, 1))
    text = " ".join(Seen(written(settings, tmp_path / "report.html")).text.split())
    assert re.search(r"Read: \d+ of 21 rows of sightings: the newest 1 of 3 files\.", text)
    assert re.search(r"Read: \d+ of 5 rows of index_feed: the newest 1 of 2 files\.", text)


def test_growth_has_a_gap_where_a_version_is_gone(filled: TinyWarehouse, settings: Settings, tmp_path: Path) -> None:
    assert "index_feed: 3, 5" in Seen(written(settings, tmp_path / "report.html")).text
    filled.event("run-x", "published", table_versions=[(name, 99) for name in PUBLISHED])
    filled.event("run-y", "published")
    assert "index_feed: 3, 5, gone, 5" in Seen(written(settings, tmp_path / "report.html")).text


def test_an_empty_warehouse_has_a_report_too(settings: Settings, tmp_path: Path) -> None:
    TinyWarehouse(tmp_path / "warehouse").event("run", "published", counts=[], inputs_digest="digest")
    seen = Seen(written(settings, tmp_path / "report.html"))
    assert [value for tag, name, value in seen.attributes if (tag, name) == ("section", "id")] == SECTIONS
    assert "took no rows from a manifest" in " ".join(seen.text.split())


def huge() -> bytes:
    """A JPEG whose frame says that it has 65,535 x 65,535 pixels."""
    data = jpeg(0)
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + b"\xff" * 4 + data[at + 4 :]


@pytest.mark.parametrize("broken", [b"\xff\xd8 and no more", huge()], ids=["torn", "huge"])
def test_a_picture_that_cannot_be_read_costs_itself_only(
    filled: TinyWarehouse, settings: Settings, tmp_path: Path, broken: bytes
) -> None:
    assert "no image within reach" not in written(settings, tmp_path / "whole.html")
    pixels = [jpeg(n) if n else broken for n in range(LIVE)]
    filled.write("images", [image_row(n) | {"pixels": pixels[n]} for n in range(LIVE)], overwrite=True)
    filled.event("run-x", "published", counts=[], inputs_digest="digest")
    html = written(settings, tmp_path / "broken.html")
    assert "no image within reach" in html
    assert rounded(0) not in colours(html)
    assert rounded(1) in colours(html)


def test_the_command_writes_the_file_and_says_where(
    filled: TinyWarehouse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "deep/er/report.html"
    arguments = ["--profile", "conf/local.yaml", "--set", f"warehouse={filled.root}", "--into", str(into)]
    assert report.main([*arguments, "--date", "2026-01-31"]) == 0
    assert capsys.readouterr().out.startswith(f"{into} (")
    assert [path.name for path in into.parent.iterdir()] == ["report.html"]
    assert into.stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--run", "none"], "--run none: no such run is published; the newest published ones: ['run-0', 'run-12']"),
        (["--date", "2020-01-01"], "no night of 2020-01-01 to 2020-01-01 is published; dates that are: 2026-01-31"),
        (["--start", "2026-01-31"], "--start and --end: expected both, found one"),
        (["--start", "2026-02-30", "--end", "2026-03-01"], "--start 2026-02-30: not a date"),
        (["--start", "2026-02-01", "--end", "x"], "--end x: not a date"),
        (["--run", "run-0", "--date", "2026-01-31"], "expected one of --run, --date, and --start with --end"),
        (["--start", "2026-02-01", "--end", "2026-01-31"], "expected a date not before --start"),
    ],
)
def test_what_cannot_be_reported_on_is_said(
    filled: TinyWarehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], said: str
) -> None:
    arguments = ["--profile", "conf/local.yaml", "--set", f"warehouse={filled.root}", "--into", str(tmp_path / "x")]
    errors: list[str] = []
    monkeypatch.setattr(log, "error", lambda form, *values: errors.append(form % values))
    assert report.main([*arguments, *given]) == 2
    assert said in errors[0]
    assert not (tmp_path / "x").exists()


def test_where_nothing_can_be_written_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[str] = []
    monkeypatch.setattr(log, "error", lambda form, *values: errors.append(form % values))
    (tmp_path / "file").touch()
    into = tmp_path / "file" / "report.html"
    arguments = ["--profile", "conf/local.yaml", "--set", f"warehouse={tmp_path / 'none'}", "--into"]
    assert report.main([*arguments, str(into)]) == 2
    assert report.main([*arguments, str(tmp_path)]) == 2
    os.mkfifo(tmp_path / "pipe")
    assert report.main([*arguments, str(tmp_path / "pipe")]) == 2
    assert (tmp_path / "pipe").is_fifo()
    assert report.main([*arguments, str(tmp_path / ("x" * 256))]) == 2
    assert report.main([*arguments, str(tmp_path / "a\0b")]) == 2
    assert errors.pop() == f"error: --into {tmp_path}/a\\x00b: cannot be written (no file can have such a name)"
    assert errors.pop().endswith(f"cannot be written ({tmp_path / ('x' * 256)}: File name too long)")
    assert errors == [
        f"error: --into {into}: cannot be written ({into.parent}: File exists)",
        f"error: --into {tmp_path}: expected a file, found a folder",
        f"error: --into {tmp_path}/pipe: expected a file, found a device, pipe or socket",
    ]
