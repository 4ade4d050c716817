"""Processes that a demo starts beside its own, and ends again however it ends itself."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil

from demo.run import ROOT
from jobs.config.errors import RunError

GRACE_S = 20
"""Seconds that a process has to end by itself, once it is asked to."""

_TAIL = 2_000
"""Characters of a log that an error quotes."""


class Processes:
    """A context manager that ends what was started in it, and what that started: by their ids, no other process.

    `environment` is what all of them get beside this process's own. SIGTERM ends the demo as Ctrl-C does.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = os.environ | environment
        self._started: list[psutil.Popen] = []
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for process in reversed(self._started):
                end(process)
        finally:
            signal.signal(signal.SIGTERM, self._before)

    def start(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> "psutil.Popen":
        """Start a process that goes on beside this one; what it says goes to the log."""
        with log.open("wb") as said:
            return self._popen(command, environment or {}, said)

    def run(self, command: Sequence[str], log: Path, told: Callable[[str], None]) -> int:
        """Run a command to its end; its exit code. `told` gets each line that it says, and the log all of them."""
        process = self._popen(command, {}, subprocess.PIPE)
        with log.open("w", encoding="utf-8") as kept:
            for line in process.stdout:
                text = line.decode(errors="replace").rstrip("\n")
                kept.write(f"{text}\n")
                kept.flush()
                told(text)
        return int(process.wait())

    def _popen(self, command: Sequence[str], environment: Mapping[str, str], said: IO[bytes] | int) -> "psutil.Popen":
        # Where there is the program for it the kernel ends them if this process is killed. And in a session of its own
        # no process hears a terminal's Ctrl-C: this one does, and ends them in order.
        guard = [found, "--pdeathsig", "TERM"] if (found := shutil.which("setpriv")) else []
        process = psutil.Popen(
            [*guard, *command],
            cwd=ROOT,
            env={**self._environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._started.append(process)
        return process


def end(process: "psutil.Popen") -> None:
    """Ask the process to end, then whatever it had started; kill what takes longer than `GRACE_S` seconds."""
    below: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        below = process.children(recursive=True)
        process.terminate()
    _, left = psutil.wait_procs([process], timeout=GRACE_S)
    for one in below:
        with suppress(psutil.NoSuchProcess):
            one.terminate()
    _, stubborn = psutil.wait_procs(below, timeout=GRACE_S)
    for one in (*left, *stubborn):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs([*left, *stubborn], timeout=GRACE_S)
    if process.stdout is not None:
        process.stdout.close()


def check_runs(process: "psutil.Popen", log: Path) -> None:
    """Raise RunError, with the end of its log, where a process that should go on has ended."""
    if process.poll() is not None:
        said = log.read_text(encoding="utf-8", errors="replace")[-_TAIL:].strip()
        raise RunError(f"{log.stem} ended with exit code {process.returncode}: {said}")
