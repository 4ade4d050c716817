"""Jobs that are killed: a process of its own that kills itself where a function would be called."""

import subprocess
import sys
from collections.abc import Sequence

_SCRIPT = """
import os, signal, sys
import {module} as module

def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)

module.{target} = die
from jobs.{job} import main
sys.exit(main({arguments!r}))
"""


def run_killed(job: str, arguments: Sequence[str], module: str, target: str) -> None:
    """Run `jobs.{job}` in a process that kills itself with SIGKILL where `module.target` would be called."""
    script = _SCRIPT.format(module=module, target=target, job=job, arguments=list(arguments))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=400)
    assert ended.returncode == -9, ended.stderr
