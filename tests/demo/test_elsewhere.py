"""The demos on a cluster and on S3: bad usage, and what counts as a refusal. `tests/cluster` runs them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from demo import cluster, on_s3
from demo.beside import Places
from demo.on_s3 import SecondDriver
from demo.processes import Processes
from demo.s3_server import OneAtATime
from demo.site import DATES
from jobs.config.progress import log


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The errors that a command says."""
    lines: list[str] = []
    monkeypatch.setattr(log, "error", lambda template, *values: lines.append(template % values))
    return lines


def test_a_cluster_needs_what_make_dist_builds(tmp_path: Path, said: list[str]) -> None:
    into = tmp_path / "cluster"
    assert cluster.main(["--dist", str(tmp_path), "--into", str(into)]) == 2
    assert said == [f"error: --dist {tmp_path}: no lensfeed.zip there; run `make dist`"]
    assert not into.exists()


def test_s3_needs_the_jars_of_setup(tmp_path: Path, said: list[str]) -> None:
    into = tmp_path / "s3"
    assert on_s3.main(["--jars", str(tmp_path), "--into", str(into)]) == 2
    assert said == [f"error: {tmp_path}: no hadoop-aws there; run `make setup-s3`"]
    assert not into.exists()


@pytest.mark.parametrize(
    ("line", "code", "is_refused"),
    [
        ("failed: the warehouse s3a://b/w is held by backfill 2026-01-29 (pid 7 on vm)", 1, True),
        ("failed: the warehouse s3a://b/w is held by backfill 2026-01-29 (pid 7 on vm)", 2, False),
        ("failed: something else", 1, False),
        ("published", 0, False),
    ],
)
def test_a_second_driver_is_refused_by_the_lease_or_the_demo_fails(
    tmp_path: Path, line: str, code: int, is_refused: bool
) -> None:
    with Processes({}) as processes:
        second = SecondDriver(processes, Places(tmp_path), {})
        assert second.wrong() == ("the second driver was not refused by the lease: exit code None, it said nothing",)
        second._command = [sys.executable, "-c", f"import sys; print({line!r}); sys.exit({code})"]
        second.start_once(DATES[0])
        second.start_once(DATES[0])
        second.wait()
    assert (second.wrong() == ()) is is_refused
    assert second.text() == f"  exit code {code}: {line}"


def test_the_server_counts_copies_by_what_is_copied(tmp_path: Path) -> None:
    counts = tmp_path / "counts.json"
    server = OneAtATime(counts)
    asked: list[dict[str, Any]] = [
        {"REQUEST_METHOD": "GET", "PATH_INFO": "/b/w/_staging/r/rows/part-0"},
        {"REQUEST_METHOD": "PUT", "PATH_INFO": "/b/w/_staging/r/rows/part-0", "HTTP_X_AMZ_COPY_SOURCE": "/b/w/a"},
        {"REQUEST_METHOD": "PUT", "PATH_INFO": "/b/w/runs/_delta_log/0.json", "HTTP_X_AMZ_COPY_SOURCE": "/b/w/a"},
        {"REQUEST_METHOD": "PUT", "PATH_INFO": "/b/w/runs/part-0", "HTTP_X_AMZ_COPY_SOURCE": "/b/w/a"},
    ]
    for environ in asked:
        server._count(environ)
    assert json.loads(counts.read_text()) == {
        "GET": 1, "COPY in _staging": 1, "COPY in _delta_log": 1, "COPY in data": 1
    }  # fmt: skip
