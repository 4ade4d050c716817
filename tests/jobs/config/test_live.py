"""What is told of a step while it lasts."""

import contextlib
import fcntl
import io
import os
import pty
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from jobs.config import live
from jobs.config.live import UnderWay, bar_format, line, watched
from jobs.config.progress import Progress, start_logging
from tests.jobs.config.own_log import start_anew


def moving(tasks: int = 8) -> Callable[[], UnderWay | None]:
    """Nothing at first; then a task and a hundred rows more at each look."""
    seen = count(-1)

    def look() -> UnderWay | None:
        done = next(seen)
        return None if done < 0 else UnderWay((3,), tasks, min(done, tasks), 100 * done)

    return look


@pytest.mark.parametrize(
    ("first", "now", "seconds", "told"),
    [
        ((0, 0), (0, 0), 0.0, "0 of 8 tasks, 0 rows"),
        ((0, 0), (2, 5000), 10.0, "2 of 8 tasks, 5,000 rows, 500 rows/s, some 30 s left"),
        ((2, 5000), (3, 5100), 100.0, "3 of 8 tasks, 5,100 rows, 1 rows/s, some 8 min left"),
        ((2, 5000), (2, 5000), 100.0, "2 of 8 tasks, 5,000 rows"),
    ],
)
def test_a_line_has_what_can_be_told(first: tuple[int, int], now: tuple[int, int], seconds: float, told: str) -> None:
    one, other = (UnderWay((1,), 8, done, rows) for done, rows in (first, now))
    assert line(one, other, seconds) == told


def test_a_line_has_what_came_of_things_so_far_the_most_first() -> None:
    outcomes = {"blocked": 14, "allowed": 1312, "failed": 9}
    first, now = UnderWay((1,), 8, 0, 0, {}), UnderWay((1,), 8, 0, 0, outcomes)
    assert line(first, now, 10.0) == "0 of 8 tasks, 1,335 rows, 134 rows/s, 1,312 allowed, 14 blocked, 9 failed"


OUTCOMES = {"allowed": 3120, "unchanged": 1200, "blocked": 400, "failed": 280}


@pytest.mark.parametrize(
    ("columns", "outcomes", "drawn"),
    [
        (
            200,
            OUTCOMES,
            "  crawl |{bar}| 3/8 tasks, 5,000 rows, 50 rows/s, "
            "3,120 allowed, 1,200 unchanged, 400 blocked, 280 failed [*]",
        ),
        (90, {}, "  crawl |{bar}| 3/8 tasks, 5,000 rows, 50 rows/s [*]"),
        (60, {}, "  crawl 3/8 tasks, 5,000 rows, 50 rows/s [*]"),
        (100, OUTCOMES, "  crawl 3/8 tasks, 50 rows/s, 3,120 allowed, 1,200 unchanged, 400 blocked, 280 failed [*]"),
        (88, OUTCOMES, "  crawl 3/8, 50/s, 3,120 allowed, 1,200 unchanged, 400 blocked, 280 failed [*]"),
        (80, OUTCOMES, "  crawl 3/8, 50/s, 3,120 allowed, 1,200 unchanged, 400 blocked, … [*]"),
        (50, OUTCOMES, "  crawl 3/8, 50/s, 3,120 allowed, … [*]"),
        (35, OUTCOMES, "  crawl 3/8, 50/s [*]"),
        (25, OUTCOMES, "  crawl 3/8 [*]"),
        (12, OUTCOMES, "  crawl 3/8"),
    ],
)
def test_a_bar_tells_what_its_line_has_room_for(columns: int, outcomes: dict[str, int], drawn: str) -> None:
    times = "01:40<02:46"
    first, now = UnderWay((1,), 8, 0, 0), UnderWay((1,), 8, 3, 5000, outcomes or None)
    made = bar_format("crawl", first, now, 100.0, times, columns)
    assert made.replace("{elapsed}<{remaining}", "*") == drawn


def test_lines_come_from_time_to_time_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LINE_EVERY_S", 0.02)
    said: list[str] = []
    with watched("embed", moving(), said.append, in_terminal=False):
        deadline = time.monotonic() + 20
        while len(said) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert said[0] == "embed: 0 of 8 tasks, 0 rows"
    assert said[1].startswith("embed: 1 of 8 tasks, 100 rows, ")
    assert said[1].endswith(" left")
    after = len(said)
    time.sleep(0.1)
    assert len(said) == after


def test_a_short_step_says_nothing_and_is_not_waited_for() -> None:
    said: list[str] = []
    begun = time.monotonic()
    with watched("embed", moving(), said.append, in_terminal=False):
        pass
    assert not said
    assert time.monotonic() - begun < 4  # an end that nobody tells the thread of is waited for, for 5 s


def test_what_fails_in_a_step_fails_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LINE_EVERY_S", 0.01)
    with pytest.raises(ValueError, match="the step"), watched("embed", moving(), print, in_terminal=False):
        raise ValueError("the step")


class Terminal:
    """So many columns, and what was written there."""

    def __init__(self, columns: int = 80) -> None:
        self.ours, theirs = pty.openpty()
        os.set_blocking(self.ours, False)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.screen = io.TextIOWrapper(os.fdopen(theirs, "wb", buffering=0), encoding="utf-8", write_through=True)
        self.written = b""

    def read(self) -> str:
        """All so far."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.ours, 65536):
                self.written += chunk
        return self.written.decode()

    def close(self) -> None:
        """It is gone."""
        self.screen.close()
        os.close(self.ours)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """One; a test makes its screen stderr itself, for pytest puts its own there when the test begins."""
    made = Terminal()
    yield made
    made.close()


def test_a_terminal_has_a_bar_that_makes_way_for_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(sys, "stderr", terminal.screen)
    start_anew(monkeypatch)
    start_logging()
    progress = Progress("2026-01-31", look=moving(40))
    with progress.stage("crawl and gate"):
        deadline = time.monotonic() + 20
        while "300 rows" not in terminal.read() and time.monotonic() < deadline:
            time.sleep(0.01)
        progress.say("5 pictures crashed their decoder")
    written = terminal.read()
    assert "crawl and gate" in written
    assert "/40 tasks, 300 rows" in written
    pieces = written.replace("\n", "\r").split("\r")
    assert any(piece.strip().endswith("2026-01-31 5 pictures crashed their decoder") for piece in pieces)
    assert written.rstrip("\r").endswith(" s\r\n")  # the last line says what the step took; no bar is left below it


def test_lines_of_json_have_no_bar_between_them(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(sys, "stderr", terminal.screen)
    start_anew(monkeypatch)
    start_logging(layout="json")
    with Progress("2026-01-31", look=moving()).stage("crawl and gate"):
        time.sleep(0.2)
    lines = terminal.read().splitlines()
    assert len(lines) == 2
    assert all(one.startswith("{") for one in lines)


@pytest.mark.parametrize(("columns", "told"), [(80, "/8, "), (120, "/8 tasks, "), (200, "| 3/8 tasks, 33")])
def test_the_outcomes_so_far_are_in_the_bar_which_never_leaves_its_line(
    columns: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_EVERY_S", 0.02)
    terminal = Terminal(columns)
    monkeypatch.setattr(sys, "stderr", terminal.screen)
    start_anew(monkeypatch)
    start_logging()
    progress = Progress("2026-01-31", look=moving(8))
    with progress.stage("crawl and gate"):
        counted = iter(range(312, 1000))
        progress.outcomes = lambda: {"allowed": next(counted), "blocked": 14, "failed": 9}
        deadline = time.monotonic() + 20
        while "3/8" not in terminal.read() and time.monotonic() < deadline:
            time.sleep(0.01)
    with progress.stage("embed"):
        time.sleep(0.2)
    crawled, embedded = terminal.read().replace("\n", "\r").split("embed ...")
    terminal.close()
    drawn = [piece for piece in crawled.split("\r") if "/8" in piece]
    assert max(map(len, crawled.split("\r"))) <= columns
    assert any(told in piece and " allowed, 14 blocked, 9 failed [" in piece for piece in drawn)
    assert all(piece.rstrip().endswith("]") for piece in drawn)
    assert "/8 tasks" in embedded
    assert "allowed" not in embedded
