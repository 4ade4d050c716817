"""A command in a process of its own that may work for so long, and what it costs until then.

It says by `begin` that its preparations are over. Temporary files lie in a folder (`TMPDIR`, and `SPARK_LOCAL_DIRS`,
where Spark spills) that goes with it, however it ends. The process tree is looked at each second.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.process_tree import Process, descendants

LOOK_EVERY_S = 1.0

_BEGUN = "begun"
_TOLD_OF = 200
"""Characters of the last line of what failed."""


def begin(folder: Path) -> None:
    """Called by the command: what follows is the work."""
    Path(folder, _BEGUN).touch()


def bounded(command: Sequence[str], folder: Path, limit_s: float) -> dict[str, Any]:
    """Run it, and stop it `limit_s` after it has begun; `folder` is the one that it calls `begin` with.

    Returns the most memory of the tree from the start on, in which a page that n processes share counts an nth for each
    of them. Where it was stopped or failed also that ("ended"), and the wall and CPU seconds since it had begun.
    """
    ended, begun, before, memory = "", 0.0, 0.0, 0
    spent: dict[Process, float] = {}
    # What was killed may write a moment longer.
    scratch_folder = tempfile.TemporaryDirectory(prefix="lensfeed-scratch-", ignore_cleanup_errors=True)
    with scratch_folder as scratch, Path(folder, "log").open("wb") as log:
        surroundings = os.environ | {"SPARK_LOCAL_DIRS": scratch, "TMPDIR": scratch}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=surroundings)
        while process.poll() is None:
            time.sleep(LOOK_EVERY_S)
            tree = dict(descendants(os.getpid()))
            spent |= tree
            memory = max(memory, sum(_memory(one) for one, _ in tree))
            if not begun and Path(folder, _BEGUN).exists():
                begun, before = time.monotonic(), sum(spent.values())
            if begun and time.monotonic() - begun > limit_s:
                ended = f"stopped after {limit_s:.0f} s"
                _kill(tree)
        wall = time.monotonic() - begun if begun else 0.0
    Path(folder, _BEGUN).unlink(missing_ok=True)
    if not ended and process.returncode:
        printed = Path(folder, "log").read_text(errors="replace").strip()
        ended = f"failed with {process.returncode}: {printed.rpartition(chr(10))[2][:_TOLD_OF]}"
    cpu = sum(spent.values()) - before
    costs = {"ended": ended, "wall_s": round(wall, 1), "cpu_s": round(cpu, 1)} if ended else {}
    return costs | {"most_memory_mib": memory // 2**20}


def _kill(tree: dict[Process, float]) -> None:
    for process, _ in tree:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _memory(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/smaps_rollup").read_text().partition("\nPss:")[2].split(maxsplit=1)[0]) * 1024
    except (OSError, IndexError):  # it has ended meanwhile
        return 0
