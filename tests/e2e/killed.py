"""Jobs that are killed, or stopped for a while: processes of their own that do that to themselves where a function
would be called."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_SCRIPT = """
import os, signal, sys
import {module} as module

original, calls = module.{target}, iter(range({calls}))

def fall(*arguments, **named):
    if next(calls, None) == {calls} - 1:
        {how}
    return original(*arguments, **named)

module.{target} = fall
from jobs.{job} import main
sys.exit(main({arguments!r}))
"""
HANGS_AFTER_S = 1200
"""No machine is so slow that a small night takes longer."""
_KILL, _STOP = "os.kill(os.getpid(), signal.SIGKILL)", "os.killpg(0, signal.SIGSTOP)"


def run_killed(job: str, arguments: Sequence[str], module: str, target: str, calls: int = 1) -> None:
    """Run `jobs.{job}` in a process that kills itself where `module.target` would be called the nth time."""
    script = _SCRIPT.format(module=module, target=target, calls=calls, how=_KILL, job=job, arguments=list(arguments))
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=HANGS_AFTER_S
    )
    assert ended.returncode == -9, ended.stderr


@contextmanager
def stopped(
    job: str, arguments: Sequence[str], module: str, target: str, calls: int = 1
) -> Iterator["subprocess.Popen[str]"]:
    """`jobs.{job}` in a process that has stopped itself, with its JVM, where `module.target` is called the nth time.

    `os.killpg(process.pid, SIGCONT)` lets it go on. It is gone afterwards.
    """
    script = _SCRIPT.format(module=module, target=target, calls=calls, how=_STOP, job=job, arguments=list(arguments))
    with subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            give_up = time.monotonic() + HANGS_AFTER_S
            while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < give_up
                time.sleep(0.1)
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
