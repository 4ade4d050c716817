import argparse
import json
import logging
from pathlib import Path

import pytest

from jobs.config.command import run_command
from jobs.config.progress import JsonLines, WithoutCredentials, log
from tests.jobs.config.own_log import start_anew


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
