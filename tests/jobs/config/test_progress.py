import argparse
import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.config.command import run_command
from jobs.config.progress import LOG_FORMATS, JsonLines, WithoutCredentials, log
from tests.jobs.config.own_log import start_anew

ROOT = Path(__file__).parents[3]


def options(file: Path | None, layout: str = "text") -> argparse.Namespace:
    return argparse.Namespace(debug=False, log_file=file, log_format=layout)


def test_a_line_shows_no_password_of_a_url_wherever_it_comes_from() -> None:
    try:
        raise ValueError("cannot open s3a://key:s3cretw0rd@bucket/x")
    except ValueError as error:
        record = logging.LogRecord("lensfeed", logging.ERROR, "", 0, "failed: %s", (error,), (type(error), error, None))
    line = WithoutCredentials().format(record)
    assert "s3a://bucket/x" in line
    assert "s3cretw0rd" not in line


def test_a_line_of_json_is_one_line_without_passwords_whatever_is_in_the_message() -> None:
    record = logging.LogRecord("lensfeed", logging.WARNING, "", 0, 'a "b"\ns3a://key:s3cret@bucket/é', (), None)
    line = JsonLines().format(record)
    said = json.loads(line)
    assert "\n" not in line
    assert said["level"] == "warning"
    assert said["message"] == 'a "b"\ns3a://bucket/é'
    assert said["at"].endswith("+00:00")


def test_a_log_file_holds_the_lines_of_one_job_after_those_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_anew(monkeypatch)
    file = tmp_path / "night.log"
    assert run_command(lambda: log.info("first"), options(file)) == 0
    assert run_command(lambda: log.info("elsewhere"), options(None)) == 0
    assert run_command(lambda: log.info("second"), options(file, "json")) == 0
    first, second = file.read_text().splitlines()
    assert first.endswith(" first")
    assert first.startswith("20")  # with its day, which a console does without
    assert json.loads(second)["message"] == "second"
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_log_file_that_cannot_be_written_is_exit_code_2_and_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_anew(monkeypatch)
    done: list[int] = []
    assert run_command(lambda: done.append(1), options(tmp_path / "no" / "such.log")) == 2
    assert done == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --log-file {tmp_path}/no/such.log: cannot be written (No such file")


def test_a_full_disk_below_the_log_file_is_told_once_and_ends_nothing() -> None:
    """By a process of its own: what cannot be flushed is tried again when the interpreter ends."""
    script = (
        "import sys; from jobs.config.command import job_parser, add_output_arguments, run_command; "
        "from jobs.config.progress import log; parser = job_parser('x', ''); add_output_arguments(parser); "
        "sys.exit(run_command(lambda: [log.info('one'), log.info('two'), 1 / 0], parser.parse_args()))"
    )
    code, lines = ran_into(subprocess.DEVNULL, "-c", script, "--log-file", "/dev/full")
    assert code == 1
    assert [line.partition(" ")[2] for line in lines] == [
        "no more lines go to --log-file /dev/full (No space left on device)",
        "one",
        "two",
        "failed: ZeroDivisionError: division by zero",
    ]


def test_a_name_that_is_no_unicode_goes_into_the_log_file_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    start_anew(monkeypatch)
    for layout in LOG_FORMATS:
        file = tmp_path / f"{layout}.log"
        assert run_command(lambda: log.info("manifest caf\udce9.csv"), options(file, layout)) == 0
        assert "caf\\udce9.csv" in file.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "json.log").read_text())["message"] == "manifest caf\udce9.csv"
    assert "Traceback" not in capfd.readouterr().err


PRINTS = "import sys; from jobs.config.command import run_command; sys.exit(run_command(lambda: print('a line')))"
PRINTS_MUCH = PRINTS.replace("'a line'", "'a line' * 100_000")
OTHER_PIPE = """
import os, sys
from jobs.config.command import run_command

def action():
    print("a line")
    reading, writing = os.pipe()
    os.close(reading)
    os.write(writing, b"x")

sys.exit(run_command(action))
"""
STAGE = """
import sys
from jobs.config.command import run_command
from jobs.config.progress import Progress

def action():
    with Progress("night", look=lambda: None).stage("fetch"):
        print("a line")

sys.exit(run_command(action))
"""
UNBUFFERED = "PYTHONUNBUFFERED"


def ran_into(output: int, *arguments: str, unbuffered: str = "") -> tuple[int, list[str]]:
    """Exit code and last words of a Python whose output goes there, buffered or not."""
    ran = subprocess.run(
        [sys.executable, *arguments],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {UNBUFFERED: unbuffered},
    )
    return ran.returncode, ran.stderr.splitlines()


@pytest.fixture
def broken_pipe() -> Iterator[int]:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize(
    "command", [["-m", "jobs", "completion", "fish"], ["-c", PRINTS], ["-c", PRINTS_MUCH], ["-m", "jobs", "--help"]]
)
def test_a_disk_without_room_for_what_is_printed_is_a_failure_in_one_line(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        code, (line,) = ran_into(full.fileno(), *command)
    assert code == 1
    assert "No space left on device" in line


def test_a_disk_without_room_for_the_help_of_a_command_is_told_too() -> None:
    with Path("/dev/full").open("w") as full:
        code, (line,) = ran_into(full.fileno(), "-m", "jobs", "completion", "--help")
    assert (code, line) == (1, "failed: what was to be printed cannot be written (No space left on device)")


def test_nobody_who_reads_on_is_no_failure(broken_pipe: int) -> None:
    assert ran_into(broken_pipe, "-c", PRINTS) == (0, [])


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "command",
    [["-c", PRINTS_MUCH], ["-m", "jobs.config", "document"], ["-m", "jobs", "config", "schema"]],
    ids=["much", "module", "lensfeed"],
)
def test_nobody_who_reads_on_ends_a_command_quietly(command: list[str], unbuffered: str, broken_pipe: int) -> None:
    assert ran_into(broken_pipe, *command, unbuffered=unbuffered) == (141, [])


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", [["-m", "jobs", "--help"], ["-m", "jobs.completion", "--help"]])
def test_help_that_nobody_reads_is_told_quietly(command: list[str], unbuffered: str, broken_pipe: int) -> None:
    code, said = ran_into(broken_pipe, *command, unbuffered=unbuffered)
    assert code in {0, 141}
    assert said == []


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("-m jobs.config schema", 0),
        ("-m jobs config --help", 0),
        ("-m jobs --help", 0),
        ("-m jobs nosuch", 2),
        ("-m jobs.config show --profile nosuch", 2),
        ("-m jobs.config show", 2),
        (f"-c {shlex.quote(STAGE)}", 0),
    ],
)
def test_a_command_ends_as_ever_where_its_output_is_closed(arguments: str, code: int, closed: str) -> None:
    ran = subprocess.run(
        ["/bin/sh", "-c", f"{shlex.quote(sys.executable)} {arguments} {closed}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (ran.returncode, "Traceback" in ran.stderr) == (code, False)


@pytest.mark.parametrize(("encoding", "shown"), [("latin-1", "é \\u732b \\udcff"), ("utf-8", "é 猫 \\udcff")])
def test_what_stdout_cannot_spell_is_printed_with_escapes(encoding: str, shown: str) -> None:
    """A command had done its work and failed for a title, or for the name of the file that it had written."""
    code = "from jobs.config.command import run_command; run_command(lambda: print('é 猫 \\udcff'))"
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding=encoding, check=False, cwd=ROOT, env=environment
    )
    assert (ran.stdout, ran.stderr) == (f"{shown}\n", "")


def test_another_pipe_that_breaks_is_a_failure() -> None:
    reading, writing = os.pipe()
    assert ran_into(writing, "-c", OTHER_PIPE)[0] == 1
    os.close(writing)
    assert os.read(reading, 100) == b"a line\n"
    os.close(reading)
    with Path(os.devnull).open("w") as nowhere:
        assert ran_into(nowhere.fileno(), "-c", OTHER_PIPE)[0] == 1
