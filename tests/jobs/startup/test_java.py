"""No Java, or one that Spark does not run on, is exit code 2 in one line that says what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.config.errors import UsageError
from jobs.startup.java import check_java, find_java, java_version

ROOT = Path(__file__).parents[3]


def java_of(home: Path, version: str | None = None) -> Path:
    (home / "bin").mkdir(parents=True)
    java = home / "bin" / "java"
    java.write_text("#!/bin/sh\n")
    java.chmod(0o755)
    if version:
        (home / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    return java


def test_java_is_looked_for_as_spark_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_home, of_path = java_of(tmp_path / "home"), java_of(tmp_path / "other")
    monkeypatch.setenv("PATH", str(of_path.parent))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert find_java() == of_home
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    assert find_java() is None  # whatever is on PATH: Spark does not look there then
    monkeypatch.delenv("JAVA_HOME")
    assert find_java() == of_path


@pytest.mark.parametrize(
    ("stated", "version"), [("17.0.9", 17), ("21", 21), ("1.8.0_392", 8), ("24-ea", 24), (None, None), ("next", None)]
)
def test_its_version_is_read_without_starting_it(tmp_path: Path, stated: str | None, version: int | None) -> None:
    java = java_of(tmp_path / "jdk", stated)
    link = tmp_path / "java"
    link.symlink_to(java)
    assert java_version(link) == version


def test_one_that_is_too_old_is_refused_with_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java_of(tmp_path / "jdk", "11.0.2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    with pytest.raises(UsageError, match=r"^Java: expected 17 or 21, found 11 \(.*/bin/java\); install openjdk-17"):
        check_java()


def test_a_job_without_java_is_exit_code_2_in_one_line(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in {"JAVA_HOME", "PATH"}}
    command = [sys.executable, "-m", "jobs", "digest", "--profile", "conf/local.yaml", "--set", f"warehouse={tmp_path}"]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment | {"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert line[9:].startswith(
        "error: Java: expected 17 or 21, found none (JAVA_HOME is not set, and PATH has no java);"
    )
    assert list(tmp_path.iterdir()) == []
