"""What the demos that run the nights elsewhere share: the same nights in local mode beside them, and both compared."""

import datetime as dt
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demo import summary
from demo.manifests import Key
from demo.pictures import Picture
from demo.processes import Processes
from demo.run import PROFILE
from demo.site import Site, Truth
from jobs.config.errors import RunError
from jobs.config.profile import Config
from jobs.config.progress import log
from jobs.digest import combined, table_digests
from jobs.run.pipelines import NIGHT
from jobs.startup.session import open_session
from jobs.warehouse.landing import Landing
from lensfeed.feed import feed_vectors
from lensfeed.snapshot import Snapshot

LEAST_COSINE = 0.9999
"""Between the vectors of a picture that the two ways make."""

_DATE_BEGINS = re.compile(rf"(\d{{4}}-\d\d-\d\d) {re.escape(NIGHT[0].name)} \.\.\.")
_FINDING = re.compile(r"(ok|warn|FAIL) .*")
"""What jobs.doctor says, a line each."""


@dataclass(frozen=True)
class Places:
    """Where everything of one demo lies, all of it below `folder`."""

    folder: Path

    def at(self, *parts: str) -> Path:
        """A path below the folder; its own folder is made."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def folder_at(self, *parts: str) -> Path:
        """A folder below the folder, made if missing."""
        path = self.folder.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def java_options(self) -> str:
        """What keeps a JVM's temporary files below the folder."""
        return f'"-Djava.io.tmpdir={self.folder_at("scratch")}" -XX:-UsePerfData'

    def environment(self) -> dict[str, str]:
        """What does the same for Java, Spark and Python in processes of this one's."""
        scratch = str(self.folder_at("scratch"))
        catalog = self.at("scratch", "catalog").as_uri()  # Spark would make its folder where the command was given
        return {
            "TMPDIR": scratch,
            "SPARK_LOCAL_DIRS": scratch,
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_SUBMIT_OPTS": f'{self.java_options} "-Dspark.sql.warehouse.dir={catalog}"',
            "SPARK_DAEMON_JAVA_OPTS": self.java_options,
            "SPARK_DAEMON_MEMORY": "512m",
            "SPARK_LAUNCHER_OPTS": "-XX:-UsePerfData",
            "PYSPARK_PYTHON": sys.executable,
            "PYTHONPATH": "",  # what executors import is what spark-submit brings them
        }


def run_locally(processes: Processes, places: Places, site: Site, dates: Sequence[dt.date]) -> float:
    """The dates in local mode, by the profile of `make demo`; seconds. Raises RunError where it fails."""
    log.info("demo: %d nights in local mode", len(dates))
    command = [sys.executable, "-m", "jobs.backfill", "--profile", PROFILE, *range_of(dates)]
    settings = {"manifest.path": places.at("manifests", "{date}"), "warehouse": places.at("local", "warehouse")}
    return run_job(processes, places, site, "local", [*command, *overrides(settings)])


def range_of(dates: Sequence[dt.date]) -> list[str]:
    """A backfill's arguments for these dates."""
    return ["--start", str(dates[0]), "--end", str(dates[-1])]


def overrides(settings: Mapping[str, object]) -> list[str]:
    """Settings as a job's arguments."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def run_job(
    processes: Processes,
    places: Places,
    site: Site,
    name: str,
    command: Sequence[str],
    meanwhile: Callable[[str], None] | None = None,
) -> float:
    """Run a job to its end, the site keeping to the date that it is at; seconds. RunError where it fails.

    `meanwhile` is given what the job says, line by line.
    """
    begun = time.monotonic()

    def told(line: str) -> None:
        if line.startswith('{"at"'):
            message = str(json.loads(line)["message"])
        elif _FINDING.fullmatch(line):
            message = line
        else:
            return  # Spark's launcher
        if date := _DATE_BEGINS.fullmatch(message):
            site.date = dt.date.fromisoformat(date[1])  # nothing is fetched before the manifest is read
        sys.stderr.write(f"  {message}\n")
        if meanwhile is not None:
            meanwhile(message)

    kept = places.at("logs", f"{name}.log")
    lines = ["--log-format", "json", "--log-file", str(places.at("logs", f"{name}.jsonl"))]
    code = processes.run([*command, *lines], kept, told)
    if code:
        raise RunError(f"{name} ended with exit code {code}; {kept} has all that it said")
    return time.monotonic() - begun


# What came of it ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """Where the nights were run, as one says it; the warehouse as Spark is given it, and as a reader opened it."""

    name: str
    warehouse: str
    snapshot: Snapshot


@dataclass(frozen=True)
class Told:
    """A part of the demo's end as text, and what is not as it should be, a line each."""

    text: str
    wrong: tuple[str, ...]


def compare(config: Config, local: Way, other: Way, truths: Mapping[Key, Truth], pictures: Sequence[Picture]) -> Told:
    """Hold the other way's contents against local mode's; both are read by one session of that configuration."""
    spark = open_session(config)
    try:
        tables = {way.name: table_digests(Landing(spark, way.warehouse)) for way in (local, other)}
    finally:
        spark.stop()
    digests = {name: combined(found) for name, found in tables.items()}
    cosine = least_cosine(local.snapshot, other.snapshot)
    surprises = summary.unexpected(other.snapshot.rows("sightings").to_pylist(), truths, pictures)
    wrong = []
    are_equal = digests[local.name] == digests[other.name]
    if not are_equal:
        differing = [name for name, digest in tables[local.name].items() if digest != tables[other.name].get(name)]
        wrong.append(f"the digests differ, in {', '.join(differing)}")
    if cosine < LEAST_COSINE:
        wrong.append(f"vectors of one picture have a cosine of {cosine:.6f}, less than {LEAST_COSINE}")
    if surprises:
        wrong.append(f"{len(surprises)} rows did not end as planned: {'; '.join(surprises[:3])}")
    text = summary.section(
        "Digests of the two warehouses (jobs.digest)",
        *(f"  {name:<12} {digest}" for name, digest in digests.items()),
        f"  {'equal' if are_equal else 'NOT EQUAL'}; least cosine between a picture's two vectors: {cosine:.7f}",
        f"  {len(truths) - len(surprises)} of {len(truths)} rows ended as planned",
    )
    return Told(text, tuple(wrong))


def least_cosine(one: Snapshot, other: Snapshot) -> float:
    """The smallest cosine between the two feeds' vectors of the same feed id; -1 where the ids differ."""
    (ids, vectors), (other_ids, other_vectors) = feed_vectors(one), feed_vectors(other)
    order, other_order = np.argsort(ids), np.argsort(other_ids)
    if not np.array_equal(ids[order], other_ids[other_order]):
        return -1.0
    cosines = (vectors[order].astype(np.float64) * other_vectors[other_order]).sum(axis=1)
    return float(cosines.min(initial=1.0))


def times_text(nights: int, took: Mapping[str, float], whole: float) -> str:
    """How long the nights took each way, and the demo as a whole, which compares them too; all in seconds."""
    lines = [f"  {name}: {summary.took(seconds)}" for name, seconds in took.items()]
    return summary.section(
        f"Time for {nights} nights" if nights > 1 else "Time for one night",
        *lines,
        f"  all of it: {summary.took(whole)}",
    )
