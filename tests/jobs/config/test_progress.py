import argparse
import json
import logging
import os
import subprocess
import sys
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


def ran_into(output: int, *arguments: str) -> tuple[int, list[str]]:
    """Exit code and last words of a Python whose output, buffered, goes there."""
    ran = subprocess.run(
        [sys.executable, *arguments],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": ""},
    )
    return ran.returncode, ran.stderr.splitlines()


@pytest.mark.parametrize("command", [["-m", "jobs", "completion", "fish"], ["-c", PRINTS]])
def test_a_disk_without_room_for_what_is_printed_is_a_failure_in_one_line(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        code, (line,) = ran_into(full.fileno(), *command)
    assert code == 1
    assert "No space left on device" in line


def test_nobody_who_reads_on_is_no_failure() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert ran_into(writing, "-c", PRINTS) == (0, [])
    os.close(writing)
