"""A process that has read through delta-rs ends when Arrow has let go of its files."""

import subprocess
import sys
from pathlib import Path

HOLDING = """
import sys, threading, time
from lensfeed import remote_files

held = [remote_files.remote_filesystem(sys.argv[1], None).open_input_file("file")]
remote_files.MOST_S = float(sys.argv[2])

def hold():
    time.sleep(0.5)
    print(held.pop().read(), flush=True)

threading.Thread(target=hold, daemon=True).start()
"""


def run_holding(folder: Path, most_s: float) -> bytes:
    (folder / "file").write_bytes(b"let go")
    command = [sys.executable, "-c", HOLDING, folder.as_uri(), str(most_s)]
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_an_exit_waits_for_a_file_that_another_thread_holds(tmp_path: Path) -> None:
    assert run_holding(tmp_path, 30) == b"b'let go'\n"


def test_an_exit_does_not_wait_for_ever(tmp_path: Path) -> None:
    assert run_holding(tmp_path, 0.01) == b""
