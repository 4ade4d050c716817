"""What became of each row of a date, as lines."""

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import outcomes
from jobs.config.progress import log
from tests.jobs.reporting.conftest import sighting_row
from tests.lensfeed.tiny_warehouse import DAY, TinyWarehouse, image_id

NEXT_DAY = DAY + dt.timedelta(days=1)
Ask = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def warehouse(tmp_path: Path) -> TinyWarehouse:
    """Two nights, written in no order; the second's manifest was empty."""
    made = TinyWarehouse(tmp_path / "warehouse")
    failed = {"outcome": "failed", "failure_code": "gone", "image_id": None, "state_effect": "withdrawal"}
    refused = {"outcome": "blocked", "reasons": ["nsfw", "text"], "host": "other.example"}
    trap = {"url": "https://me:secret@pictures.example/\u202e\x1b[2J", "source_file": "a\tb\n.jsonl"}
    made.write("sightings", [sighting_row(3), sighting_row(1, **failed, host="pictures.example")])
    made.write("sightings", [sighting_row(2, **refused), sighting_row(0, **trap)])
    made.event("first", "published", inputs_digest="d")
    made.event("second", "published", inputs_digest="d", ingest_dates=[NEXT_DAY])
    return made


@pytest.fixture
def ask(warehouse: TinyWarehouse, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs the command; its exit code, lines, and the last thing that it said."""
    said: list[str] = [""]
    for level in ("info", "error"):
        monkeypatch.setattr(log, level, lambda form, *values: said.append(form % values))

    def run(*options: str) -> tuple[int, list[str], str]:
        date = [] if "--date" in options else ["--date", str(DAY)]
        given = ["--profile", "conf/local.yaml", "--set", f"warehouse={warehouse.root}", *date, *options]
        code = outcomes.main(given)
        return code, capsys.readouterr().out.splitlines(), said[-1]

    return run


def test_every_row_is_a_line_in_the_order_of_the_manifest(ask: Ask) -> None:
    code, lines, said = ask()
    assert code == 0
    assert all(line.replace("\t", "").isprintable() and "secret" not in line for line in lines)
    cells = [line.split("\t") for line in lines]
    assert [cell[:3] for cell in cells] == [
        ["accepted", "-", "a b .jsonl:0"],
        ["failed", "gone", "a.jsonl:1"],
        ["blocked", "nsfw,text", "a.jsonl:2"],
        ["accepted", "-", "a.jsonl:3"],
    ]
    assert [cell[4] for cell in cells] == [image_id(0)[:12], "-", image_id(2)[:12], image_id(3)[:12]]
    assert said == f"outcomes of {DAY}: 4 rows: 2 accepted, 1 blocked (1 nsfw,text), 1 failed (1 gone)"


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (["--outcome", "failed"], [1]),
        (["--outcome", "failed", "--outcome", "blocked"], [1, 2]),
        (["--reason", "gone"], [1]),
        (["--reason", "text"], [2]),
        (["--host", "Pictures.Example"], [1, 3]),
        (["--outcome", "accepted", "--reason", "gone"], []),
        (["--date", str(NEXT_DAY)], []),
    ],
)
def test_only_what_is_asked_for_is_told(ask: Ask, options: list[str], rows: list[int]) -> None:
    code, lines, said = ask(*options, "--json")
    assert code == 0
    assert [json.loads(line)["row_number"] for line in lines] == rows
    assert f": {len(rows)} rows" in said


def test_json_has_the_whole_row_and_controls_no_terminal(ask: Ask) -> None:
    _, lines, _ = ask("--json")
    first = json.loads(lines[0])
    assert lines[0].isascii()
    assert (first["image_id"], first["ingest_date"], first["reasons"]) == (image_id(0), str(DAY), [])
    assert first["url"] == "https://pictures.example/\u202e\x1b[2J"


def test_of_several_dates_each_line_names_its_own(ask: Ask) -> None:
    _, lines, said = ask("--through", str(NEXT_DAY))
    assert {line.split("\t")[0] for line in lines} == {str(DAY)}
    assert said.startswith(f"outcomes of {DAY} to {NEXT_DAY}: 4 rows")


def test_what_is_not_published_is_said(ask: Ask) -> None:
    code, lines, said = ask("--through", str(NEXT_DAY + dt.timedelta(days=2)))
    assert (code, lines) == (1, [])
    assert f"{NEXT_DAY + dt.timedelta(days=1)} and 1 more: not published" in said
    assert f"dates that are: {DAY} to {NEXT_DAY}" in said
    assert ask("--through", "2020-01-01")[0] == 2


def test_of_too_many_rows_none_is_held_back_and_the_order_is_said(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.reporting.outcomes.MOST_SORTED", 2)
    assert len(ask()[1]) == 4


@pytest.mark.parametrize(
    ("host", "rows"),
    [("BÜCHER.example.", ["4"]), ("xn--bcher-kva.example:8080", ["4"]), ("[::1]", ["5"]), ("0:0::1", ["5"])],
)
def test_a_host_may_be_spelt_as_in_a_url(ask: Ask, warehouse: TinyWarehouse, host: str, rows: list[str]) -> None:
    warehouse.write("sightings", [sighting_row(4, host="xn--bcher-kva.example"), sighting_row(5, host="::1")])
    warehouse.event("third", "published", inputs_digest="d")
    code, lines, _ = ask("--host", host)
    assert code == 0
    assert [line.split("\t")[2].rpartition(":")[2] for line in lines] == rows


@pytest.mark.parametrize("host", ["", "http://pictures.example/", "pictures.example/a", "two words"])
def test_what_is_no_host_is_refused(ask: Ask, host: str) -> None:
    code, lines, said = ask("--host", host)
    assert (code, lines) == (2, [])
    assert said == f"error: --host {host}: expected the name of a host, or its address"
