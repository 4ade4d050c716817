"""The report and the what-if as Chromium shows them: silent, whole, reachable by keyboard, named for screen readers."""

from pathlib import Path

import pytest

from jobs.reporting import whatif
from tests.browser import Page, visit
from tests.jobs.reporting.conftest import HOSTILE
from tests.jobs.reporting.test_report import SECTIONS, Settings, written
from tests.jobs.reporting.test_whatif import AT, POLICY, some_effects
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


@pytest.fixture
def what_if(tmp_path: Path) -> Path:
    """The file of what a policy would change."""
    file = tmp_path / "whatif.html"
    file.write_text(whatif.render_effects(some_effects(), POLICY, AT))
    return file


def test_the_what_if_is_whole_and_silent_and_asks_for_nothing(what_if: Path) -> None:
    async def look(page: Page) -> None:
        assert page.complaints == []
        assert page.requests == [what_if.as_uri()]
        loaded = await page.evaluate(PICTURES)
        assert len(loaded) == 9
        assert all(loaded)
        assert await page.evaluate(STARTED) == ["lensfeed: under policy strict", 0, 0]

    visit(what_if, look)


def test_an_image_is_veiled_until_a_key_lifts_the_veil(what_if: Path) -> None:
    async def look(page: Page) -> None:
        veiled = "[...document.images].map(image => getComputedStyle(image).filter !== 'none')"
        assert all(await page.evaluate(veiled))
        while not await page.evaluate("document.activeElement.matches('.veil summary')"):
            await page.press("Tab")
        await page.press("Enter")
        assert (await page.evaluate(veiled)).count(False) == 1
        await page.press("Enter")
        assert all(await page.evaluate(veiled))

    visit(what_if, look)


def test_screen_readers_find_landmarks_headings_and_names(
    filled: TinyWarehouse, settings: Settings, what_if: Path, tmp_path: Path
) -> None:
    written(settings, tmp_path / "report.html")
    for file, regions in ((tmp_path / "report.html", len(SECTIONS)), (what_if, len(whatif.SECTIONS))):

        async def look(page: Page, regions: int = regions) -> None:
            nodes = (await page.call("Accessibility.getFullAXTree"))["nodes"]
            named = [
                (node["role"]["value"], node.get("name", {}).get("value", ""))
                for node in nodes
                if not node.get("ignored")
            ]
            roles = [role for role, _ in named]
            for landmark in ("banner", "navigation", "main", "contentinfo"):
                assert roles.count(landmark) == 1, landmark
            assert len([role for role, name in named if role == "region" and name]) >= regions
            must = {"image", "link", "heading", "table", "region", "DisclosureTriangle"}
            assert not [role for role, name in named if role in must and not name]

        visit(file, look)


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
def test_no_width_makes_a_page_scroll_sideways(
    filled: TinyWarehouse, settings: Settings, what_if: Path, tmp_path: Path, width: int
) -> None:
    written(settings, tmp_path / "report.html")

    async def look(page: Page) -> None:
        await page.screenshot(tmp_path / "shot.png", width, "dark")
        assert await page.evaluate("document.documentElement.scrollWidth") <= width

    visit(tmp_path / "report.html", look)
    visit(what_if, look)


def test_a_page_that_runs_or_asks_for_anything_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "loud.html").write_text(
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\"><script>1</script><img src=a.png>"
    )

    async def look(page: Page) -> None:
        assert len(page.complaints) >= 2
        assert await page.evaluate(PICTURES) == [False]

    visit(tmp_path / "loud.html", look)
