"""What the doctor says of things that are as they should be, and of each that is not."""

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs import doctor
from jobs.config.profile import Config, load
from jobs.run import health
from jobs.run.health import Finding, packages_unlike
from jobs.warehouse.lease import LeaseRecord
from jobs.warehouse.storage import LocalFiles

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def config(tmp_path: Path, *more: str) -> Config:
    return load("conf/local.yaml", [f"warehouse={tmp_path / 'w'}", f"manifest.path={tmp_path}/{{date}}", *more])


def states(found: Iterator[Finding]) -> dict[str, str]:
    return {one.name: one.state for one in found}


def only(found: Any) -> Finding:
    (one,) = found
    assert isinstance(one, Finding)
    return one


# The warehouse --------------------------------------------------------------------------------------------------------


def test_a_warehouse_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    finding = only(health.warehouse(config(tmp_path)))
    assert finding.state == "ok"
    assert "the first job makes it" in finding.found
    assert list(tmp_path.iterdir()) == []


def test_a_warehouse_that_no_job_could_make_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (finding,) = health._looked_at(
        "warehouse", lambda: health.warehouse(config(tmp_path, f"warehouse={tmp_path}/file/w"))
    )
    assert finding.state == "FAIL"
    assert finding.found.endswith(f"{tmp_path}/file is not a folder")


def test_a_warehouse_that_is_a_file_fails_in_words(tmp_path: Path) -> None:
    (tmp_path / "w").touch()
    (finding,) = health._looked_at("warehouse", lambda: health.warehouse(config(tmp_path, f"warehouse={tmp_path}/w")))
    assert (finding.state, finding.found.endswith(f"{tmp_path}/w is not a folder")) == ("FAIL", True)


def test_looking_at_a_warehouse_leaves_it_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "w" / "runs").mkdir(parents=True)
    found = states(iter(health.warehouse(config(tmp_path))))
    assert found == {"warehouse": "ok", "clock": "ok", "lease": "ok", "staging": "ok"}
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["runs"]


def test_who_holds_it_and_what_was_left_is_told(tmp_path: Path) -> None:
    lease = tmp_path / "w" / "_lease"
    lease.mkdir(parents=True)
    (tmp_path / "w" / "_staging" / "20260131T000000-0badcafe").mkdir(parents=True)
    record = LeaseRecord(10, "nightly 2026-01-31", 120, host="elsewhere", machine="another")
    (lease / "9.json").write_text("{")  # an older generation; and by number, not by name
    (lease / "10.json").write_text(json.dumps(asdict(record)))
    found = {one.name: one for one in health.warehouse(config(tmp_path))}
    assert found["lease"].state == "warn"
    assert found["lease"].found.startswith("held by nightly 2026-01-31 (pid ")
    assert "on elsewhere), renewed " in found["lease"].found
    assert "20260131T000000-0badcafe" in str(found["staging"])

    long_ago = lease.stat().st_mtime - 900
    os.utime(lease / "10.json", (long_ago, long_ago))
    found = {one.name: one for one in health.warehouse(config(tmp_path))}
    assert "silent for longer than 120 s: the next job takes over" in found["lease"].fix

    (lease / "10.json").write_text(json.dumps(asdict(replace(record, released=True))))
    assert {one.name: one for one in health.warehouse(config(tmp_path))}["lease"].state == "ok"
    (lease / "10.json").write_bytes(b"\xff\xfe half-written")
    assert {one.name: one for one in health.warehouse(config(tmp_path))}["lease"].state == "ok"


def test_a_storage_that_makes_a_file_twice_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w").mkdir()
    monkeypatch.setattr(LocalFiles, "create_text", lambda files, text, *parts: files.write_text(text, *parts) or True)
    finding = next(iter(health.warehouse(config(tmp_path))))
    assert finding.state == "FAIL"
    assert "a file can be made twice" in finding.found
    assert list((tmp_path / "w").iterdir()) == []


def test_a_clock_that_is_wrong_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w").mkdir()
    right = LocalFiles.modified_at
    monkeypatch.setattr(LocalFiles, "modified_at", lambda files, *parts: right(files, *parts) + 100)
    found = {one.name: one for one in health.warehouse(config(tmp_path))}
    assert found["clock"].state == "warn"
    assert found["clock"].found.startswith("+100 s between")


def test_a_warehouse_on_s3_that_nothing_fences_fails_before_anybody_is_asked(tmp_path: Path) -> None:
    found = list(health._looked_at("warehouse", lambda: health.warehouse(config(tmp_path, "warehouse=s3a://b/w"))))
    assert only(found).state == "FAIL"
    assert "spark.delta.logStore.s3a.impl" in only(found).found


# This machine ---------------------------------------------------------------------------------------------------------


def test_jars_of_another_release_fail(tmp_path: Path) -> None:
    (tmp_path / "delta-spark_2.13-3.0.0.jar").touch()
    finding = only(health.jars(config(tmp_path, f"spark.jars={tmp_path}")))
    assert finding.state == "FAIL"
    assert "found delta-spark_2.13-3.0.0.jar" in finding.found
    assert finding.fix == "make setup"
    assert only(health.jars(config(tmp_path))).state == "ok"
    assert only(health.jars(config(tmp_path, "spark.jars=null"))).state == "ok"


def test_packages_are_held_against_the_lock() -> None:
    lock = "torch==2.12.1 \\\n    --hash=sha256:0\nPyYAML==6.0.1\nruff==0.14.0\nmulti_dict==6.0.0\n"
    installed = {"torch": "2.12.1+cu124", "pyyaml": "6.0.2", "unlocked": "1"}
    assert packages_unlike(lock, installed, {"torch", "pyyaml", "multi-dict"}) == [
        "pyyaml: expected 6.0.1, found 6.0.2",
        "multi-dict 6.0.0 is missing",
    ]
    assert "torch" in health._needed()
    assert "pytest" not in health._needed()


@pytest.mark.parametrize(("free", "state"), [(0, "FAIL"), (3, "warn"), (50, "ok")])
def test_little_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    usage = type("Usage", (), {"free": free * 2**30})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert set(states(iter(health.disk(config(tmp_path)))).values()) == {state}


@pytest.mark.parametrize(
    ("script", "state"),
    [('echo \'{"name": "gpu", "addresses": ["0"]}\'', "ok"), ("echo no driver >&2; exit 9", "warn"), (None, "warn")],
)
def test_the_discovery_script_is_run_where_gpus_are_configured(tmp_path: Path, script: str | None, state: str) -> None:
    path = tmp_path / "discover.sh"
    if script is not None:
        path.write_text(script)
    given = [f"embedding.executor.discovery_script={path}", "embedding.gpus_per_task=1"]
    finding = only(health.gpus(config(tmp_path, *given)))
    assert finding.state == state
    assert script is None or "exit 9" not in script or "no driver" in finding.found
    assert list(health.gpus(config(tmp_path))) == []


# What the profile names -----------------------------------------------------------------------------------------------


def test_each_weight_is_looked_at_by_itself(tmp_path: Path) -> None:
    broken = tmp_path / "w.zip"
    broken.write_bytes(b"other")
    found = {
        one.name: one
        for one in health.weights(
            config(tmp_path, f"text.weights.path={broken}", "embedding.weights.path=s3a://models/x.safetensors")
        )
    }
    assert found["policy.detector"].state == "ok"
    assert found["embedding.weights"].state == "ok"
    assert "the first job fetches it" in found["embedding.weights"].found
    assert found["text.weights"].state == "FAIL"
    assert "SHA-256 expected" in found["text.weights"].found


@pytest.mark.parametrize("scheme", ["file://", "file:"])
def test_a_weight_at_a_file_address_is_looked_at_where_jobs_find_it(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "my weights.zip").write_bytes(b"text")
    sha256 = hashlib.sha256(b"text").hexdigest()
    given = [f"text.weights.path={scheme}{tmp_path}/my%20weights.zip", f"text.weights.sha256={sha256}"]
    found = {one.name: one for one in health.weights(config(tmp_path, *given))}
    assert str(found["text.weights"]) == f"ok   text.weights: {tmp_path}/my weights.zip, SHA-256 as pinned"


def test_a_check_that_breaks_is_a_finding_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(config: Config) -> Iterator[Finding]:
        yield Finding("ok", "first", "told")
        raise ValueError("two\nlines of s3a://me:s3cr3t@bucket/")

    checks: dict[str, Callable[[Config], Any]] = {"broken": breaks, "policy": health.policy}
    monkeypatch.setattr(health, "CHECKS", checks)
    assert doctor.main(["--profile", "conf/local.yaml", "--set", f"warehouse={tmp_path}"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "ok   first: told",
        "FAIL broken: ValueError: two lines of s3a://bucket/",
        "ok   policy: conf/policy.yaml, 6 rules",
    ]


def test_a_profile_that_cannot_be_read_is_exit_code_2() -> None:
    assert doctor.main(["--profile", "nowhere.yaml"]) == 2


def test_a_policy_that_is_wrong_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("name: x\nrulez: []\n")
    (finding,) = health._looked_at("policy", lambda: health.policy(config(tmp_path, f"policy.file={file}")))
    assert (finding.state, finding.name) == ("FAIL", "policy")
    assert "line 2" in finding.found


# With Spark -----------------------------------------------------------------------------------------------------------


def test_every_executor_imports_what_stages_need(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = only(health.executors(spark))
    assert (finding.state, finding.name) == ("ok", f"executor on {socket.gethostname()}")
    assert finding.found.endswith(f"our code from {ROOT}")
    monkeypatch.setattr(health, "_ON_EXECUTORS", ("pyarrow", "no_such_library"))
    finding = only(health.executors(spark))
    assert finding.state == "FAIL"
    assert finding.found == "no_such_library: ModuleNotFoundError: No module named 'no_such_library'"


def test_a_file_system_of_hadoops_is_looked_at_through_it(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "w" / "_staging" / "run").mkdir(parents=True)
    found = states(health._warehouse_by_hadoop(config(tmp_path), spark))
    assert found == {"warehouse": "ok", "clock": "ok", "lease": "ok", "staging": "warn"}
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["_staging"]
