"""What a command costs with everything that it starts: `python -m benchmarks.process_tree REPORT COMMAND...`.

Writes `{"cpu_s": ..., "wall_s": ..., "read_bytes": ..., "exit": ...}` to the file REPORT: user and system seconds of
the whole tree, the seconds until the command itself had ended, and the bytes that the tree has read. The processes are
looked at in /proc as long as there are any, since their parents cannot be asked: Spark's worker daemon ignores the end
of its workers, whose times are lost with them. Orphans stay in the tree, as this process is their subreaper. Linux
only.

Bytes are those of read(2) and its like (`rchar` of proc(5)), whether they came from disk, cache or a pipe; not those of
mapped files and of recv(2). Linux adds up a process's with those of children that it has waited for, so that in the end
this process has all but those of workers whose end was ignored: of these, what the last look at them found.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

LOOK_EVERY_S = 0.1
"""What a process spends between the last look and its end is lost."""

_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")

Process = tuple[int, int]
"""Process id and start time: ids are used again."""


def measured(command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, float]:
    """CPU and wall seconds and bytes read of `command` and its descendants, under the names "cpu_s", "wall_s" and
    "read_bytes".

    Raises:
        RuntimeError: it failed; with the end of what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        report, log = Path(folder, "report.json"), Path(folder, "log")
        wrapped = [sys.executable, "-m", "benchmarks.process_tree", str(report), *command]
        with log.open("wb") as output:
            subprocess.run(wrapped, stdout=output, stderr=subprocess.STDOUT, env=environment, check=True)
        found: dict[str, float] = json.loads(report.read_text())
        if found.pop("exit"):
            raise RuntimeError(f"{' '.join(command)[:200]} failed:\n{log.read_text(errors='replace')[-4000:]}")
    return found


def descendants(root: int) -> Iterator[tuple[Process, float]]:
    """The processes below `root`, each with the CPU seconds of its own."""
    children: dict[int, list[tuple[Process, float]]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            # proc(5): the third field, the state, is the first here.
            parent, user, system, started = (int(fields[index]) for index in (1, 11, 12, 19))
            children.setdefault(parent, []).append(((int(entry.name), started), (user + system) * _TICK_S))
    waiting = [root]
    while waiting:
        for process, spent in children.get(waiting.pop(), []):
            yield process, spent
            waiting.append(process[0])


def main() -> None:
    """Run the command of the command line and write the report."""
    report, *command = sys.argv[1:]
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError("this process cannot become a subreaper")
    begun = time.monotonic()
    started = subprocess.Popen(command)
    wall = 0.0
    spent: dict[Process, float] = {}
    ignored: dict[Process, int] = {}
    while found := dict(descendants(os.getpid())):
        spent |= found
        for process in found:
            _look_at_reads(process, ignored)
        if started.returncode is None and started.poll() is not None:
            wall = time.monotonic() - begun
        if started.returncode is not None:
            _reap_orphans()
        time.sleep(LOOK_EVERY_S)
    read = _bytes_read("self") - _bytes_read(f"self/task/{os.getpid()}") + sum(ignored.values())
    times = {"cpu_s": round(sum(spent.values()), 2), "wall_s": round(wall, 2)}
    Path(report).write_text(json.dumps(times | {"read_bytes": read, "exit": started.returncode}))


def _look_at_reads(process: Process, ignored: dict[Process, int]) -> None:
    """Note the bytes that a process has read, if its parent ignores its end; forget them where that is so no more."""
    try:
        stat = Path(f"/proc/{process[0]}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{stat[1]}/status").read_text()
        signals = int(status.partition("SigIgn:")[2].split(maxsplit=1)[0], 16)
        if signals >> (signal.SIGCHLD - 1) & 1:
            ignored[process] = _bytes_read(str(process[0]))
        else:
            ignored.pop(process, None)
    except OSError:  # one of them has ended meanwhile
        return


def _bytes_read(process: str) -> int:
    """`rchar` of a process, or of a thread: what it has read itself, and for a process its children waited for."""
    return int(Path(f"/proc/{process}/io").read_text().split()[1])


def _reap_orphans() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main()
