"""What is under way inside a step: a bar in a terminal, a line every half minute elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

LOOK_EVERY_S = 1.0
LINE_EVERY_S = 30.0

LEAST_BAR = 8
"""Columns: where there are fewer left beside what is told, there is no bar."""

_TIMES = "{elapsed}<{remaining}"
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
    """That the tasks have read so far, as their executors say, up to some seconds ago. In local mode only of tasks that
    have ended: there Spark loses the names of what it counts in those that run."""
    outcomes: Mapping[str, int] | None = None
    """What came of how many rows, as far as the tasks have said themselves; None where they do not count it."""

    @property
    def through(self) -> int:
        """Rows that the tasks are through with, or have read, where no more is known."""
        return self.rows if self.outcomes is None else sum(self.outcomes.values())


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
    told = ", ".join([f"{now.done} of {now.tasks} tasks", _rows(now), *_rate(first, now, seconds), *_outcomes(now)])
    if seconds > 0 and now.done > first.done:
        left = (now.tasks - now.done) * seconds / (now.done - first.done)
        told += f", some {left:.0f} s left" if left < 120 else f", some {left / 60:.0f} min left"
    return told


def _rows(now: UnderWay) -> str:
    return f"{now.through:,} rows"


def _rate(first: UnderWay, now: UnderWay, seconds: float, unit: str = " rows/s") -> list[str]:
    done = now.through - first.through
    return [f"{done / seconds:,.0f}{unit}"] if seconds > 0 and done > 0 else []


def _outcomes(now: UnderWay) -> list[str]:
    """The most first."""
    counted = sorted((now.outcomes or {}).items(), key=lambda one: (-one[1], one[0]))
    return [f"{count:,} {name}" for name, count in counted]


def bar_format(step: str, first: UnderWay, now: UnderWay, seconds: float, times: str, columns: int) -> str:
    """What tqdm draws in one line of so many columns: as much as there is room for, then a bar in what is left.

    `times`: what will stand in place of the times. Less and less is told until it fits: rows without their number, in
    short, outcomes without the fewest. How far it is and how long it may last are never cut off for these.
    """
    fixed = len(f"  {step}  [{times}]")
    told = next((one for one in _tellings(first, now, seconds) if fixed + len(one) <= columns), None)
    if told is None:
        return f"  {step} {now.done}/{now.tasks}"  # which tqdm cuts off where that is too long
    bar = "|{bar}| " if columns - fixed - len(told) >= LEAST_BAR + len("|| ") else ""
    return f"  {step} {bar}{told} [{_TIMES}]"


def _tellings(first: UnderWay, now: UnderWay, seconds: float) -> Iterator[str]:
    """What may be told of a step, the longest first."""
    tasks, outcomes = f"{now.done}/{now.tasks}", _outcomes(now)
    rate, short_rate = _rate(first, now, seconds), _rate(first, now, seconds, "/s")
    yield ", ".join([f"{tasks} tasks", _rows(now), *rate, *outcomes])
    yield ", ".join([f"{tasks} tasks", *rate, *outcomes])
    yield ", ".join([tasks, *short_rate, *outcomes])
    for kept in range(len(outcomes) - 1, 0, -1):
        yield ", ".join([tasks, *short_rate, *outcomes[:kept], "…"])
    yield ", ".join([tasks, *short_rate])
    yield tasks


def _draw(step: str, look: Look, _say: Callable[[str], None], ended: threading.Event) -> None:
    global _bar  # noqa: PLW0603 -- there is one screen
    from tqdm import tqdm

    try:
        for first, now, seconds in _looks(look, ended, LOOK_EVERY_S):
            with _drawing:
                if _bar is None:
                    _bar = tqdm(file=sys.stderr, leave=False, dynamic_ncols=True, bar_format=f"  {step}")
                if now is first:
                    _bar.reset(total=now.tasks)
                _bar.n = now.done
                drawn = _bar.format_dict
                times = _bar.format_meter(**drawn | {"bar_format": _TIMES, "ncols": None})
                _bar.bar_format = bar_format(step, first, now, seconds, times, drawn["ncols"] or 80)
                _bar.refresh()
    finally:
        with _drawing:
            if _bar is not None:
                _bar.close()
                _bar = None
