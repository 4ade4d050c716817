"""What the demos that run the nights elsewhere do with a job while it runs."""

import json
import sys
from pathlib import Path

import pytest

from demo.beside import Places, run_job
from demo.processes import Processes
from demo.site import DATES, Site
from jobs.config.errors import RunError
from jobs.run.pipelines import NIGHT


def saying(*messages: str, code: int = 0) -> list[str]:
    """A command that says these lines as a job does, beside what Spark's launcher says, and takes any arguments."""
    lines = [json.dumps({"at": "2026-01-31T03:00:00+00:00", "level": "info", "message": one}) for one in messages]
    return [sys.executable, "-c", f"import sys; print('INFO Master'); print({chr(10).join(lines)!r}); sys.exit({code})"]


def test_the_site_keeps_to_the_date_that_the_job_is_at(tmp_path: Path) -> None:
    first = NIGHT[0].name
    places, site, dates = Places(tmp_path), Site({}), []
    said = (f"{DATES[1]} {first} ...", f"{DATES[1]} {first} done in 1.0 s", f"{DATES[2]} {first} ...")

    def meanwhile(message: str) -> None:
        dates.append((message, site.date))

    with Processes({}) as processes, site:
        assert run_job(processes, places, site, "night", saying(*said), meanwhile) > 0
    assert dates == list(zip(said, (DATES[1], DATES[1], DATES[2]), strict=True))
    assert "INFO Master" in (tmp_path / "logs" / "night.log").read_text()


def test_a_job_that_fails_is_named_with_the_log_that_has_it_all(tmp_path: Path) -> None:
    with (
        Processes({}) as processes,
        Site({}) as site,
        pytest.raises(RunError, match=r"night ended with exit code 1; .*log"),
    ):
        run_job(processes, Places(tmp_path), site, "night", saying("failed: why", code=1))
    assert "failed: why" in (tmp_path / "logs" / "night.log").read_text()


def test_everything_of_a_demo_lies_below_its_folder(tmp_path: Path) -> None:
    environment = Places(tmp_path / "a b").environment()
    scratch = str(tmp_path / "a b" / "scratch")
    assert environment["TMPDIR"] == environment["SPARK_LOCAL_DIRS"] == scratch
    assert f'"-Djava.io.tmpdir={scratch}"' in environment["SPARK_SUBMIT_OPTS"]
