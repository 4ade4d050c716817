"""The report as Chromium shows it: silent, whole, reachable by keyboard, named for screen readers."""

from pathlib import Path

import pytest

from tests.browser import Page, visit
from tests.jobs.reporting.conftest import HOSTILE
from tests.jobs.reporting.test_report import SECTIONS, Settings, written
from tests.lensfeed.tiny_warehouse import TinyWarehouse

pytestmark = pytest.mark.browser

PICTURES = """
Promise.all([...document.querySelectorAll("img, svg image")].map(element => new Promise(done => {
  const picture = new Image();
  picture.onload = () => done(picture.naturalWidth > 0);
  picture.onerror = () => done(false);
  picture.src = element.getAttribute("src") || element.getAttribute("href");
})))
"""
STARTED = "[document.title, document.scripts.length, document.querySelectorAll('[onload], [onerror]').length]"


def test_the_report_is_whole_and_silent_and_asks_for_nothing(
    filled: TinyWarehouse, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    written(settings, file)

    async def look(page: Page) -> None:
        assert page.complaints == []
        assert page.requests == [file.as_uri()]
        loaded = await page.evaluate(PICTURES)
        assert len(loaded) > 20
        assert all(loaded)
        assert await page.evaluate(STARTED) == ["lensfeed: 2026-01-31", 0, 0]
        shown = await page.evaluate("[...document.querySelectorAll('img')].map(image => image.alt)")
        assert {HOSTILE[0], HOSTILE[4]} <= set(shown)
        headings = await page.evaluate("[...document.querySelectorAll('section')].map(one => one.id)")
        assert headings == SECTIONS

    visit(file, look)


def test_screen_readers_find_landmarks_headings_and_names(
    filled: TinyWarehouse, settings: Settings, tmp_path: Path
) -> None:
    written(settings, tmp_path / "report.html")

    async def look(page: Page) -> None:
        nodes = (await page.call("Accessibility.getFullAXTree"))["nodes"]
        named = [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
        ]
        roles = [role for role, _ in named]
        for landmark in ("banner", "navigation", "main", "contentinfo"):
            assert roles.count(landmark) == 1, landmark
        assert len([role for role, name in named if role == "region" and name]) >= len(SECTIONS)
        assert not [
            role for role, name in named if role in {"image", "link", "heading", "table", "region"} and not name
        ]

    visit(tmp_path / "report.html", look)


def test_the_keyboard_reaches_the_sections(filled: TinyWarehouse, settings: Settings, tmp_path: Path) -> None:
    written(settings, tmp_path / "report.html")

    async def look(page: Page) -> None:
        reached = []
        for _ in range(len(SECTIONS) + 1):
            await page.press("Tab")
            reached.append(await page.evaluate("document.activeElement.getAttribute('href')"))
        assert reached == ["#main", *(f"#{section}" for section in SECTIONS)]
        await page.press("Enter")
        assert await page.evaluate("location.hash") == f"#{SECTIONS[-1]}"
        await page.press("Tab")
        assert await page.evaluate("document.activeElement.getAttribute('aria-labelledby')") == "table-table"

    visit(tmp_path / "report.html", look)


@pytest.mark.parametrize("width", [360, 768, 1400])
def test_no_width_makes_the_page_scroll_sideways(
    filled: TinyWarehouse, settings: Settings, tmp_path: Path, width: int
) -> None:
    written(settings, tmp_path / "report.html")

    async def look(page: Page) -> None:
        await page.screenshot(tmp_path / "shot.png", width, "dark")
        assert await page.evaluate("document.documentElement.scrollWidth") <= width

    visit(tmp_path / "report.html", look)


def test_a_page_that_runs_or_asks_for_anything_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "loud.html").write_text(
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\"><script>1</script><img src=a.png>"
    )

    async def look(page: Page) -> None:
        assert len(page.complaints) >= 2
        assert await page.evaluate(PICTURES) == [False]

    visit(tmp_path / "loud.html", look)
