"""Hung work is given up, and a flood of it is refused."""

import subprocess
import sys
import threading

import pytest

from udfs.gate import watchdog
from udfs.gate.watchdog import MOST_ABANDONED, TimedOut, within


def test_what_the_work_returns_or_raises_comes_through() -> None:
    assert within(5, lambda _: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda _: 1 // 0)


def test_a_time_out_of_the_works_own_is_not_taken_for_the_watchdogs() -> None:
    def refused(_: threading.Event) -> None:
        raise TimeoutError("of a socket")

    with pytest.raises(TimeoutError, match="of a socket"):
        within(5, refused)


def test_hung_work_is_given_up_and_told_so() -> None:
    told = threading.Event()

    def hang(given_up: threading.Event) -> None:
        if given_up.wait(10):
            told.set()

    with pytest.raises(TimedOut, match=r"given up after 0.05 s"):
        within(0.05, hang)
    assert told.wait(10)


def test_beyond_a_few_abandoned_calls_nothing_is_begun_until_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_abandoned", [])
    release = threading.Event()
    for _ in range(MOST_ABANDONED):
        with pytest.raises(TimedOut, match="given up"):
            within(0.01, lambda _: release.wait(30))
    with pytest.raises(TimedOut, match=f"not begun: {MOST_ABANDONED} calls"):
        within(5, lambda _: 7)
    release.set()
    for thread in watchdog._abandoned:
        thread.join(10)
    assert within(5, lambda _: 7) == 7


def ended(program: str) -> int:
    """The exit status of a process that runs a program with `process_ends_after` at hand."""
    head = "import ctypes, time; from udfs.gate.watchdog import process_ends_after\n"
    done = subprocess.run(
        [sys.executable, "-c", head + program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    return done.returncode


def test_native_code_that_keeps_the_interpreters_lock_ends_its_process() -> None:
    assert ended("with process_ends_after(0.5): ctypes.PyDLL(None).sleep(50)") != 0


def test_work_that_ends_in_time_has_its_process_go_on() -> None:
    assert ended("with process_ends_after(0.3): pass\ntime.sleep(1)") == 0


def test_a_limit_ends_with_its_work_however_that_ends() -> None:
    program = "try:\n    with process_ends_after(0.3): raise KeyError\nexcept KeyError: time.sleep(1)"
    assert ended(program) == 0
