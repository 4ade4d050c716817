"""What a demo starts ends with it."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from demo.processes import Processes, check_runs
from jobs.config.errors import RunError

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def wait_for(log: Path) -> str:
    until = time.monotonic() + 30
    while not (text := log.read_text().strip()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return text


def test_what_was_started_ends_with_what_it_started_however_the_demo_ends(tmp_path: Path) -> None:
    started: list[psutil.Process] = []

    def interrupted() -> None:
        with Processes({}) as processes:
            log = tmp_path / "parent.log"
            started.append(processes.start([sys.executable, "-c", PARENT], log))
            started.append(psutil.Process(int(wait_for(log))))
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [one for one in started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert len(started) == 2


def test_a_command_is_told_line_by_line_and_kept(tmp_path: Path) -> None:
    heard: list[str] = []
    program = "import os, sys; print(os.environ['OURS']); print('two', file=sys.stderr); sys.exit(3)"
    with Processes({"OURS": "one"}) as processes:
        assert processes.run([sys.executable, "-u", "-c", program], tmp_path / "log", heard.append) == 3
    assert heard == ["one", "two"]
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_a_process_that_should_go_on_and_has_ended_is_named_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "worker-0.log"
    with Processes({}) as processes:
        process = processes.start([sys.executable, "-c", "raise SystemExit('no port')"], log)
        process.wait()
        with pytest.raises(RunError, match="worker-0 ended with exit code 1: no port"):
            check_runs(process, log)
