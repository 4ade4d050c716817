"""Every command line in the documents is one: the job exists, and takes the options and settings that it is given."""

import re
from pathlib import Path

import pytest

from jobs.config import reference
from jobs.run.names import Metric
from tests.documented import ROOT, Line, lines_of_markdown, lines_of_source, problem

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [
    *sorted((ROOT / "jobs").rglob("*.py")),
    *sorted((ROOT / "demo").glob("*.py")),
    *sorted((ROOT / "conf").glob("*")),
]

_SETTING = re.compile(
    r"`((?:crawl|images|policy|embedding|embedding_beside|text|dedup|run|manifest)\.[a-z0-9_.]+)[`:= ]"
)
_FILE = re.compile(r"\.(yaml|py|md|json|safetensors|html)$")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_command_line_of_a_page_is_one(page: Path) -> None:
    lines = list(lines_of_markdown(relative(page), page.read_text(encoding="utf-8")))
    assert [(line.text, said) for line in lines if (said := problem(line))] == []


def test_every_command_line_of_docstrings_and_profiles_is_one() -> None:
    lines = [line for path in SOURCES for line in lines_of_source(relative(path), path.read_text(encoding="utf-8"))]
    assert len(lines) > 20
    assert [(line.place, line.text, said) for line in lines if (said := problem(line))] == []


def test_the_documents_hold_command_lines_of_every_kind() -> None:
    lines = [line.text for page in PAGES for line in lines_of_markdown(page.name, page.read_text(encoding="utf-8"))]
    for kind in ("lensfeed ", "python -m jobs.", "spark-submit ", "make "):
        assert sum(line.startswith(kind) for line in lines) >= 1, kind
    assert len(lines) > 60


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "settings.md"], ids=relative
)  # which is made of them
def test_every_setting_that_a_page_names_is_one(page: Path) -> None:
    known = {*reference.paths(), *(place for places in reference.groups().values() for place in places), *Metric}
    named = {name.rstrip(".") for name in _SETTING.findall(page.read_text(encoding="utf-8")) if not _FILE.search(name)}
    assert sorted(named - known) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```\nlensfeed nigthly --date D\n```", "no command nigthly"),
        ("`python -m jobs.nightly --profile P --date D --forse`", "unknown option --forse; did you mean --force?"),
        ("`python -m jobs.nightly --profile P`", "the following arguments are required: --date"),
        ("```\nlensfeed nightly --profile P --date D \\\n  --set crawl.retrys=3   # no such\n```", "crawl.retries"),
        ("```\nlensfeed nightly --profile P --date D --set crawl.retries=some\n```", "crawl.retries: must be"),
        ("```\nlensfeed nightly --profile conf/nowhere.yaml --date D\n```", "no profile conf/nowhere.yaml"),
        ("```\nspark-submit --master yarn jobs/nigthly.py --date D\n```", "no command nigthly"),
        ("```\nspark-submit --master yarn jobs/backfill.py --profile P --start D\n```", "required: --end"),
        ("`make dmeo`", "no target or variable dmeo"),
        ("`make demo IMAGS=DIR`", "no target or variable IMAGS"),
        ("`python -m jobs.run.nothing`", "no module jobs.run.nothing"),
        ("`lensfeed review exprot --profile P --into F`", "exprot"),
        ("`lensfeed --hlep`", "no option --hlep"),
        ("```\nsource <(lensfeed completion bsh)   # in ~/.bashrc\n```", "bsh"),
    ],
)
def test_a_command_line_that_is_none_is_found(text: str, says: str) -> None:
    (line,) = lines_of_markdown("page", text)
    assert says in (problem(line) or "")


def test_what_may_be_left_out_what_stands_for_something_and_comments_are_understood() -> None:
    text = "```\nlensfeed nightly --profile P --date D [--force] [--set key.path=value ...]   # a night > x\n```"
    (line,) = lines_of_markdown("page", text)
    assert line == Line("page", "lensfeed nightly --profile P --date D [--force] [--set key.path=value ...]")
    assert problem(line) is None
    (made,) = lines_of_markdown("page", "`python -m schemas.document > docs/tables.md`")
    assert problem(made) is None
