"""What a job that fails leaves on stderr, seen from outside: one line says it, and nothing follows."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.killed import HANGS_AFTER_S
from tests.e2e.small import DAYS

pytestmark = pytest.mark.spark

OURS = re.compile(r"\d\d:\d\d:\d\d \S")
"""How a line of the job begins."""

_BREAK = """
import os, psutil
from jobs.run import contents
from jobs.config.errors import RunError

def raises(batches):
    for batch in batches:
        raise ValueError("boom,\\nand more")
        yield batch

def crashes(batches):
    os._exit(3)
    yield from batches

def broken(work, *_):
    day = work.dates[0].day
    if day == 4:
        raise RunError("expected 2, found 1")
    if day == 5:
        for child in psutil.Process().children(recursive=True):
            if child.name() == "java":
                child.kill()
    if day == 3:
        work.spark.read.schema("id bigint").parquet({garbage!r}).collect()
    work.spark.range(1).mapInArrow(raises if day == 1 else crashes, "id bigint").collect()

contents.crawl = broken
"""


def run(job: str, arguments: Sequence[str], before: str = "") -> tuple[int, list[str]]:
    """Run a job in a process of its own: its exit code, and what it wrote to stderr since its first own line.

    What the launcher and the JVM say of themselves before Spark is up is theirs.
    """
    script = f"{before}\nimport sys\nfrom jobs.{job} import main\nsys.exit(main({list(arguments)!r}))"
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=HANGS_AFTER_S
    )
    lines = ended.stderr.splitlines()
    first = next((number for number, line in enumerate(lines) if OURS.match(line)), len(lines))
    return ended.returncode, lines[first:]


def arguments(tmp_path: Path) -> list[str]:
    given = [f"warehouse={tmp_path / 'warehouse'}", f"manifest.path={tmp_path}/{{date}}.jsonl"]
    return ["--profile", "conf/demo.yaml", *[part for setting in given for part in ("--set", setting)]]


def test_bad_usage_found_after_spark_was_started_is_one_line(tmp_path: Path) -> None:
    code, lines = run("nightly", [*arguments(tmp_path), "--date", str(DAYS[0])])
    assert code == 2
    (line,) = lines
    assert line[9:] == f"error: manifest.path {tmp_path}/{DAYS[0]}.jsonl: there is no such file or folder for {DAYS[0]}"


def test_whatever_fails_is_one_line_that_names_run_stage_and_cause(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.parquet"
    garbage.write_bytes(b"garbage" * 20)
    for day in range(1, 7):
        row = {"url": "http://127.0.0.1:9/a.jpg"}
        (tmp_path / f"2026-03-0{day}.jsonl").write_text(json.dumps(row) + "\n")
    given = [*arguments(tmp_path), "--start", "2026-03-01", "--end", "2026-03-06"]
    code, lines = run("backfill", given, _BREAK.format(garbage=str(garbage)))
    assert code == 1
    assert [line for line in lines if not OURS.match(line)] == []
    place = r"\d{4}-\d\d-\d\d, run \S+, stage 'crawl and gate': "
    failed = [line[9:] for line in lines if re.match(r"backfill \S+ failed: ", line[9:])]
    assert len(failed) == 5
    causes = [re.sub(rf"^backfill \S+ failed: {place}", "", line) for line in failed]
    assert causes[0] == "ValueError: boom, and more"
    assert causes[1].startswith("SparkException: Python worker exited unexpectedly (crashed)")
    assert re.fullmatch(r"RuntimeException: file:\S+/garbage.parquet is not a Parquet file\. .*", causes[2])
    assert causes[3] == "expected 2, found 1"
    assert causes[4].endswith("was it killed, or out of memory?")
    assert any(line.endswith("summary 2026-03-06 not tried: the Spark session had ended") for line in lines)
    assert lines[-1][9:].startswith("failed: 6 of 6 dates failed or were not tried: 2026-03-01, ")
