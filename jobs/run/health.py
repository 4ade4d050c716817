"""What a job needs, looked at before it needs it: each finding in a line, with what to do about it."""

import contextlib
import importlib
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pyspark.sql import SparkSession

from jobs.config.command import what_failed
from jobs.config.profile import Config, load_policy
from jobs.run.introduction import check_agent
from jobs.startup.assets import on_this_machine
from jobs.startup.java import SUPPORTED, check_java, find_java, java_version
from jobs.startup.preflight import check_reasons, check_warehouse
from jobs.warehouse.fencing import S3Files, check_fenced, lease_files, s3_options
from jobs.warehouse.lease import newest_record
from jobs.warehouse.storage import Files, LocalFiles, Storage, local_path
from udfs.assets import assets_of, locate

ROOT = Path(__file__).resolve().parents[2]
"""Where our packages lie: in a checkout, beside the lock file."""

_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_ASKED = re.compile(r"""^([A-Za-z0-9._-]+)[^;]*(?:;.*extra == ["'](\w+)["'])?""")
_HADOOP = "spark.hadoop.fs.s3a."
_GIB = 2**30
LEAST_FREE, LITTLE_FREE = 1 * _GIB, 5 * _GIB
"""Bytes of a disk below which a night fails, and may fail."""
MOST_SKEW_S = 5.0
"""Between the clocks of this machine and the storage: S3 tells whole seconds."""
_ON_EXECUTORS = ("aiohttp", "cv2", "numpy", "onnxruntime", "PIL", "pyarrow", "timm", "torch", "udfs", "schemas")


@dataclass(frozen=True)
class Finding:
    """What was found about one thing, and what to do where it is not as it should be."""

    state: Literal["ok", "warn", "FAIL"]
    name: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.found}; {self.fix}" if self.fix else self.found
        return f"{self.state:<4} {self.name}: {' '.join(text.split())}"


Check = Callable[[Config], Iterable[Finding]]


def findings(config: Config) -> Iterator[Finding]:
    """What can be known without starting Spark."""
    for name, check in CHECKS.items():
        yield from _looked_at(name, lambda check=check: check(config))  # type: ignore[misc]


def findings_with_spark(config: Config, spark: SparkSession) -> Iterator[Finding]:
    """What only executors and Hadoop's file systems can tell."""
    yield from _looked_at("executors", lambda: executors(spark))
    if _files_of(config) is None:
        yield from _looked_at("warehouse", lambda: _warehouse_by_hadoop(config, spark))
    yield from _looked_at("manifest", lambda: _manifest_by_hadoop(config, spark))


def _looked_at(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check; one that ends in an error has failed, whatever it was."""
    try:
        yield from check()
    except Exception as error:  # noqa: BLE001 -- a doctor tells of everything that is wrong, not of the first thing
        yield Finding("FAIL", name, what_failed(error))


# This machine ---------------------------------------------------------------------------------------------------------


def java(config: Config) -> Iterator[Finding]:
    """The Java that Spark's launcher starts."""
    del config
    found = check_java()
    program = find_java()
    version = java_version(program) if program else None
    if version is None or version in SUPPORTED:
        yield Finding("ok", "java", found)
    else:
        yield Finding("warn", "java", found, "Spark 4.0 is tested on 17 and 21")


def jars(config: Config) -> Iterator[Finding]:
    """Delta's jars, of the release that the Python package is of."""
    if config.spark.jars is None:
        yield Finding("ok", "jars", "spark.jars is not set: spark-submit brings them (make dist)")
        return
    names = sorted(path.name for path in Path(config.spark.jars).glob("*.jar"))
    wanted = f"-{importlib.metadata.version('delta-spark')}.jar"
    if any(name.startswith("delta-spark") and name.endswith(wanted) for name in names):
        yield Finding("ok", "jars", f"{len(names)} in {config.spark.jars}")
    else:
        found = ", ".join(name for name in names if name.startswith("delta-spark")) or "none"
        yield Finding(
            "FAIL", "jars", f"{config.spark.jars}: expected delta-spark*{wanted}, found {found}", "make setup"
        )


def python(config: Config) -> Iterator[Finding]:
    """The interpreter and its packages against the lock file."""
    del config
    version = f"Python {sys.version.split()[0]}"
    if sys.version_info[:2] != (3, 11):
        yield Finding("FAIL", "python", f"expected 3.11, found {version}", "make setup")
    lock = ROOT / "requirements.lock"
    if not lock.is_file():
        yield Finding(
            "warn", "python", f"{version}; no requirements.lock beside the code: its packages are not looked at"
        )
        return
    wrong = packages_unlike(lock.read_text(encoding="utf-8"), _installed(), _needed())
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        yield Finding("FAIL", "python", f"{', '.join(wrong[:5])}{more}", "make setup")
    else:
        yield Finding("ok", "python", f"{version}, its packages as locked")


def packages_unlike(lock: str, installed: dict[str, str], needed: set[str]) -> list[str]:
    """What differs from a lock file: other versions, and missing packages of those that are needed."""
    wrong = []
    for name, version in _PINNED.findall(lock):
        key = _canonical(name)
        found = installed.get(key)
        if found is None and key in needed:
            wrong.append(f"{key} {version} is missing")
        elif found is not None and found.partition("+")[0] != version:  # +cpu, +cu124: of another index
            wrong.append(f"{key}: expected {version}, found {found}")
    return wrong


def _installed() -> dict[str, str]:
    return {_canonical(one.name): one.version for one in importlib.metadata.distributions() if one.name}


def _needed() -> set[str]:
    """What readers and the extra `job` ask for."""
    try:
        asked = importlib.metadata.requires("lensfeed") or []
    except importlib.metadata.PackageNotFoundError:
        return set()
    found = filter(None, map(_ASKED.match, asked))
    return {_canonical(one[1]) for one in found if one[2] in {None, "job"}}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def disk(config: Config) -> Iterator[Finding]:
    """Room where the tables lie, and where Spark puts what does not fit into memory."""
    warehouse = local_path(config.warehouse)
    scratch = (
        config.spark.properties.get("spark.local.dir") or os.environ.get("SPARK_LOCAL_DIRS") or tempfile.gettempdir()
    )
    places = {"disk of the warehouse": warehouse, "disk for shuffles": Path(scratch.split(",")[0])}
    for name, place in places.items():
        if place is None:
            continue
        free = shutil.disk_usage(_existing(place)).free
        state: Literal["ok", "warn", "FAIL"] = "FAIL" if free < LEAST_FREE else "warn" if free < LITTLE_FREE else "ok"
        fix = "" if state == "ok" else f"make room: below {LITTLE_FREE // _GIB} GiB a night may fail"
        yield Finding(state, name, f"{free / _GIB:.1f} GiB free ({place})", fix)


def _existing(place: Path) -> Path:
    place = place.resolve()
    while not place.exists():
        place = place.parent
    return place


def gpus(config: Config) -> Iterator[Finding]:
    """The discovery script, where executors are to have GPUs: it runs on their machines, and maybe on this one."""
    script = config.embedding.executor.discovery_script
    if not config.embedding.gpus_per_task or not script:
        return
    if not Path(script).is_file():
        yield Finding(
            "warn", "gpu discovery", f"{script} is not on this machine", "executors need it: --files, or the image"
        )
        return
    ran = subprocess.run(["bash", script], capture_output=True, text=True, check=False, timeout=30)
    if ran.returncode == 0 and '"addresses"' in ran.stdout:
        yield Finding("ok", "gpu discovery", ran.stdout.strip())
    else:
        said = (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[-1]
        yield Finding(
            "warn", "gpu discovery", f"{script}: {said}", "no GPU here; executors start only where it finds one"
        )


# What the profile names -----------------------------------------------------------------------------------------------


def agent(config: Config) -> Iterator[Finding]:
    """Whether a site's owner can find us."""
    check_agent(config.crawl)
    if config.crawl.allowed_networks:
        allowed = ", ".join(config.crawl.allowed_networks)
        yield Finding(
            "warn", "crawl", f"may ask {allowed}", "leave crawl.allowed_networks empty but for tests and intranets"
        )
    else:
        yield Finding("ok", "crawl", f"as {config.crawl.user_agent!r}, public hosts only")


def policy(config: Config) -> Iterator[Finding]:
    """The policy file and its lists."""
    policy = load_policy(config.policy)
    check_reasons(config, policy)
    yield Finding("ok", "policy", f"{config.policy.file}, {len(policy.rules)} rules")


def weights(config: Config) -> Iterator[Finding]:
    """Every pinned file and its digest."""
    for place, asset in assets_of(config):
        local = on_this_machine(asset)
        if local is None:
            yield Finding(
                "ok", place, f"{asset.path}: the first job fetches it, and holds its digest against the profile's"
            )
            continue
        yield from _looked_at(place, lambda local=local, place=place: [_pinned(place, locate(local))])  # type: ignore[misc]


def _pinned(place: str, file: Path) -> Finding:
    return Finding("ok", place, f"{file}, SHA-256 as pinned")


def manifest(config: Config) -> Iterator[Finding]:
    """The folder that manifests are looked for in."""
    place = local_path(config.manifest.path.partition("{date}")[0])
    if place is None:
        yield Finding("ok", "manifest", f"{config.manifest.path}: --spark looks")
        return
    folder = place if config.manifest.path.partition("{date}")[0].endswith("/") else place.parent
    if folder.is_dir():
        yield Finding("ok", "manifest", f"{len(list(folder.iterdir()))} names in {folder}")
    else:
        yield Finding("warn", "manifest", f"{folder}: there is no such folder", "set manifest.path")


def warehouse(config: Config) -> Iterator[Finding]:
    """Listing, writing, and putting what must not be there yet; who holds it; what was left."""
    local = local_path(config.warehouse)
    if local is not None and not local.is_dir():
        check_warehouse(config.warehouse)
        yield Finding("ok", "warehouse", f"{local} is not there yet; the first job makes it in {_existing(local)}")
        return
    files = _files_of(config)
    if files is None:
        yield Finding("ok", "warehouse", f"{config.warehouse}: --spark looks")
        return
    if local is None:
        check_fenced(config.warehouse, config.spark.properties.get, single_driver=config.run.single_driver)
    yield from _access(files)
    yield from _holder(files)
    if local is not None:
        yield from staging(LocalFiles(local))


def _files_of(config: Config) -> Files | None:
    """The warehouse's small files, without Spark; None where only Hadoop knows its file system."""
    local = local_path(config.warehouse)
    if local is not None:
        return LocalFiles(local)
    if config.warehouse.startswith(("s3a://", "s3://", "s3n://")):
        properties = config.spark.properties
        bucket = config.warehouse.partition("://")[2].partition("/")[0]
        own = f"{_HADOOP}bucket.{bucket}."
        return S3Files(
            config.warehouse, **s3_options(lambda key: properties.get(own + key) or properties.get(_HADOOP + key))
        )
    return None


def _access(files: Files) -> Iterator[Finding]:
    """Try it: a small file of our own is put once, refused the second time, and taken away again."""
    probe = f"_doctor-{uuid.uuid4().hex}"
    listed = len(files.names())
    try:
        begun = time.time()
        if not files.create_text("", probe) or files.create_text("", probe):
            yield Finding(
                "FAIL", "warehouse", f"{files.root}: a file can be made twice", "no two jobs are kept apart there"
            )
            return
        skew = files.modified_at(probe) - begun
    finally:
        files.delete(probe)
    yield Finding("ok", "warehouse", f"{files.root}: {listed} names; files can be made, once, and deleted")
    if abs(skew) > MOST_SKEW_S:
        yield Finding("warn", "clock", f"{skew:+.0f} s between the storage and this machine", "set the clock (NTP)")
    else:
        yield Finding("ok", "clock", "as the storage's")


def _holder(files: Files) -> Iterator[Finding]:
    record = newest_record(files)
    if record is None or record.is_over:
        yield Finding("ok", "lease", "nobody holds the warehouse")
        return
    silent = time.time() - files.modified_at("_lease", f"{record.generation}.json")
    held = f"held by {record.holder} (pid {record.pid} on {record.host}), renewed {max(silent, 0):.0f} s ago"
    if silent > record.ttl_s:
        yield Finding(
            "warn", "lease", held, f"it has been silent for longer than {record.ttl_s:.0f} s: the next job takes over"
        )
    else:
        yield Finding("warn", "lease", held, "a job that writes waits for run.lease_wait_s, then fails")


def staging(files: Files) -> Iterator[Finding]:
    """Folders of runs that are under way, or were when they were killed."""
    left = files.names("_staging")
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        fix = "a run under way, or the next job finishes or deletes it (run.keep_staging keeps them)"
        yield Finding("warn", "staging", f"{left[0]}{more}", fix)
    else:
        yield Finding("ok", "staging", "nothing left over")


CHECKS: dict[str, Check] = {
    "java": java,
    "jars": jars,
    "python": python,
    "disk": disk,
    "gpu discovery": gpus,
    "crawl": agent,
    "policy": policy,
    "weights": weights,
    "manifest": manifest,
    "warehouse": warehouse,
}
"""By the name of what is looked at, in the order in which it is told."""


# With Spark -----------------------------------------------------------------------------------------------------------


def executors(spark: SparkSession) -> Iterator[Finding]:
    """Whether every executor imports what stages need, under the driver's Python, and where it has our code from.

    A line a machine, of which there are as many as the cluster has.
    """
    here = sys.version.split()[0]

    def look(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        problems, code = [], ""
        with contextlib.suppress(ImportError):  # one of those that are told by name
            place = Path(str(importlib.import_module("udfs").__file__)).parents[1]
            code = place.name if place.is_file() else str(place)  # the archive that spark-submit was given, or a folder
        for name in _ON_EXECUTORS:
            try:
                __import__(name)
            except Exception as error:  # noqa: BLE001 -- told by name
                problems.append(f"{name}: {type(error).__name__}: {error}")
        for _ in batches:
            seen = [[socket.gethostname()], [sys.version.split()[0]], [code], ["; ".join(problems)]]
            yield pa.RecordBatch.from_arrays(
                [pa.array(one, pa.string()) for one in seen], ["host", "python", "code", "problems"]
            )

    tasks = max(2, spark.sparkContext.defaultParallelism)
    rows = spark.range(0, tasks, numPartitions=tasks).mapInArrow(
        look, "host string, python string, code string, problems string"
    )
    for host, version, code, problems in sorted(tuple(row) for row in rows.distinct().collect()):
        if problems or version != here:
            found = problems or f"Python {version}, the driver has {here}"
            yield Finding(
                "FAIL", f"executor on {host}", found, "bring the driver's environment: spark.archives, PYSPARK_PYTHON"
            )
        else:
            yield Finding(
                "ok", f"executor on {host}", f"Python {version}, imports what stages need; our code from {code}"
            )


def _warehouse_by_hadoop(config: Config, spark: SparkSession) -> Iterator[Finding]:
    storage = Storage(spark, config.warehouse)
    setting: Callable[[str], Any] = spark.sparkContext.getConf().get
    check_fenced(storage.root, setting, single_driver=config.run.single_driver)
    files = lease_files(spark, storage, single_driver=config.run.single_driver)
    yield from _access(files)
    yield from _holder(files)
    yield from staging(storage)


def _manifest_by_hadoop(config: Config, spark: SparkSession) -> Iterator[Finding]:
    if local_path(config.manifest.path) is not None:
        return
    folder = config.manifest.path.partition("{date}")[0].rpartition("/")[0]
    storage = Storage(spark, folder)
    if storage.exists():
        yield Finding("ok", "manifest", f"{len(storage.names())} names in {storage.root}")
    else:
        yield Finding("warn", "manifest", f"{storage.root}: there is no such folder", "set manifest.path")
