"""What is printed on stdout, written while a failure can still be told, and given up where nobody reads it."""

import io
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path

from jobs.config.errors import RunError

UNREAD = 128 + signal.SIGPIPE
"""Exit code where nobody reads on, as of `| head`: a shell's for what SIGPIPE has ended."""


def stand_in() -> None:
    """Let what is printed go nowhere where stdout or stderr was closed before we began (`>&-`): Python has None there,
    and a run that has published would fail for want of it. So would one for a character that a terminal's encoding has
    not, or a name that is no UTF-8: they are printed with escapes, as on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 -- as long as we live


def say(text: str) -> int:
    """Print a text, which is all that a command does; the exit code."""
    try:
        sys.stdout.write(text)
        flush()
    except (OSError, RunError) as error:
        if is_unread(error):
            return UNREAD
        drop()
        sys.stderr.write(f"failed: {error}\n")
        return 1
    return 0


def flush() -> None:
    """Have what was printed written: at exit a failure would be a trace. RunError where it cannot be; that nobody reads
    it is none, for all is done."""
    try:
        sys.stdout.flush()
    except OSError as error:
        drop()
        if not isinstance(error, BrokenPipeError):
            raise RunError(f"what was to be printed cannot be written ({error.strerror or error})") from None


def is_unread(error: BaseException) -> bool:
    """Whether it says that stdout is a pipe that nobody reads any more, and not that another pipe broke. What is
    printed from then on goes nowhere."""
    if not isinstance(error, BrokenPipeError):
        return False
    watch = select.poll()
    try:
        watch.register(sys.stdout, 0)
    except (OSError, ValueError):  # no file, or a closed one
        return False
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in watch.poll(0)):
        return False
    drop()
    return True


def drop() -> None:
    """What is still buffered, and would fail again at exit, goes nowhere, and so does what comes after it."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
