"""A time limit on work that cannot be told to stop."""

import faulthandler
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Made = TypeVar("Made")

MOST_ABANDONED = 4
"""Calls that may go on unattended in one process: each holds a core and the memory of its image."""

_abandoned: list[threading.Thread] = []


class TimedOut(Exception):  # noqa: N818 - an outcome of an image, not a fault of the program
    """The work was given up."""


def within(seconds: float, work: Callable[[threading.Event], Made]) -> Made:
    """What `work(given_up)` returns or raises; TimedOut where it takes longer than `seconds`.

    The work runs in a thread of its own, which is left behind when its time is up: Python can end no thread, so the
    time-out frees the caller and not the core, until the work looks at `given_up` and finds it set. It fires while
    Python runs and while native code has let go of the interpreter's lock (Pillow's decoders and resampling, ONNX
    Runtime, torch); native code that holds the lock stops the whole process until it returns, and a crash of native
    code ends it. With `MOST_ABANDONED` still running nothing is begun, and TimedOut is raised at once, so that a flood
    of hung images cannot fill the machine.
    """
    if is_full():
        raise TimedOut(f"not begun: {len(_abandoned)} calls that were given up before still run in this process")
    outcome: Future[Made] = Future()
    given_up = threading.Event()

    def run() -> None:
        try:
            outcome.set_result(work(given_up))
        except BaseException as error:  # noqa: BLE001 - raised again by `result`, in the thread that waits
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="watched", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome.done():
        given_up.set()
        _abandoned.append(thread)
        raise TimedOut(f"given up after {seconds:g} s")
    return outcome.result()


def is_full() -> bool:
    """Whether so many calls that were given up still run in this process that nothing is begun any more."""
    _abandoned[:] = [thread for thread in _abandoned if thread.is_alive()]
    return len(_abandoned) >= MOST_ABANDONED


@contextmanager
def process_ends_after(seconds: float) -> Iterator[None]:
    """Have this process end if what is done within takes longer, even by native code that holds the interpreter's lock.

    There is one such limit a process; an inner one would end the outer. Whoever started the process sees it end, as
    from a crash.
    """
    with Path(os.devnull).open("w") as nowhere:  # a trace of every thread would go to the console of the whole job
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
