"""What is under way inside a step: a bar in a terminal, a line every half minute elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

LOOK_EVERY_S = 1.0
LINE_EVERY_S = 30.0

_BAR = "{desc} |{bar}| {n_fmt}/{total_fmt} tasks{postfix} [{elapsed}<{remaining}]"
_bar: Any = None
"""The bar on the screen."""
_drawing = threading.RLock()


@dataclass(frozen=True)
class UnderWay:
    """What a step waits for: the Spark stages that are running now."""

    stages: tuple[int, ...]
    """Their numbers: with others the count begins anew."""
    tasks: int
    done: int
    """Of the tasks."""
    rows: int
    """That the tasks have read so far, as their executors say, up to some seconds ago."""


Look = Callable[[], UnderWay | None]
"""What is under way now; None where nothing is, or where it cannot be told."""


@contextmanager
def watched(step: str, look: Look, say: Callable[[str], None], *, in_terminal: bool) -> Iterator[None]:
    """Tell of a step while it lasts, from a thread: by a bar on stderr, or by lines that `say` is given."""
    ended = threading.Event()
    tell = _draw if in_terminal else _write_lines
    teller = threading.Thread(target=tell, args=(step, look, say, ended), name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join(timeout=5)


@contextmanager
def aside() -> Iterator[None]:
    """Take the bar from the screen while something else is written there."""
    with _drawing:
        if _bar is not None:
            _bar.clear()
        yield
        if _bar is not None:
            _bar.refresh()


def _write_lines(step: str, look: Look, say: Callable[[str], None], ended: threading.Event) -> None:
    for first, now, seconds in _looks(look, ended, LINE_EVERY_S):
        say(f"{step}: {line(first, now, seconds)}")


def _looks(look: Look, ended: threading.Event, every_s: float) -> Iterator[tuple[UnderWay, UnderWay, float]]:
    """The first look at the stages that run now, the last one, and the seconds in between; until it has ended."""
    first, begun = None, 0.0
    while not ended.wait(every_s):
        now = look()
        if now is None:
            continue
        if first is None or now.stages != first.stages:  # met now for the first time: no rate can be told from it
            first, begun = now, time.monotonic()
        yield first, now, time.monotonic() - begun


def line(first: UnderWay, now: UnderWay, seconds: float) -> str:
    """What is done of the tasks; the rate, and how long it may last, by what was done in the seconds since `first`."""
    told = f"{now.done} of {now.tasks} tasks, {_rows(first, now, seconds)}"
    if seconds > 0 and now.done > first.done:
        left = (now.tasks - now.done) * seconds / (now.done - first.done)
        told += f", some {left:.0f} s left" if left < 120 else f", some {left / 60:.0f} min left"
    return told


def _rows(first: UnderWay, now: UnderWay, seconds: float) -> str:
    told = f"{now.rows:,} rows"
    if seconds > 0 and now.rows > first.rows:
        told += f", {(now.rows - first.rows) / seconds:,.0f} rows/s"
    return told


def _draw(step: str, look: Look, _say: Callable[[str], None], ended: threading.Event) -> None:
    global _bar  # noqa: PLW0603 -- there is one screen
    from tqdm import tqdm

    try:
        for first, now, seconds in _looks(look, ended, LOOK_EVERY_S):
            with _drawing:
                if _bar is None:
                    _bar = tqdm(file=sys.stderr, leave=False, dynamic_ncols=True, bar_format=_BAR, desc=f"  {step}")
                if now is first:
                    _bar.reset(total=now.tasks)
                _bar.set_postfix_str(_rows(first, now, seconds), refresh=False)
                _bar.n = now.done
                _bar.refresh()
    finally:
        with _drawing:
            if _bar is not None:
                _bar.close()
                _bar = None
