"""`make demo-s3`: the demo's nights with manifests and warehouse on S3, beside local mode.

    python -m demo.on_s3 [--into DIR] [--jars DIR] [--night-only]

S3 is a server on loopback that speaks its protocol (demo.s3_server). The same three nights run on it and on a folder;
while the first one holds the warehouse on S3, another driver asks for it and is refused by the lease. Then a reader
opens the feed where it lies, and counts.

Exit codes: 0 both ways end in the same contents, the second driver was refused, the feed was read; 1 otherwise; 2 bad
usage.
"""

import argparse
import datetime as dt
import os
import shutil
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import psutil

import lensfeed
from demo import summary
from demo.beside import Places, Way, compare, overrides, range_of, run_job, run_locally, times_text
from demo.manifests import expected_outcomes, plan_manifests, write_manifests
from demo.pictures import make_pictures
from demo.processes import Processes, check_runs
from demo.run import OUTPUT, PORT, ROOT, fresh_folder
from demo.site import DATES, Site, demo_site
from jobs.config.command import JobParser, run_command
from jobs.config.errors import RunError, UsageError
from jobs.config.profile import Config, load
from jobs.config.progress import log
from lensfeed.feed import feed_vectors
from lensfeed.snapshot import Snapshot

PROFILE = "conf/s3-demo.yaml"
START_S = 60
"""Seconds that the server has to come up."""
WAIT_S = 300
"""Seconds that the second driver has to be refused."""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "lensfeed-demo", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
"""The server checks none; that they are found by the usual chain is what the demo shows."""
HELD = "is held by"


def command_line() -> JobParser:
    """The parser of the demo's arguments."""
    parser = JobParser(prog="python -m demo.on_s3", description="Show the nightly job on S3.")
    parser.add_argument("--into", type=Path, default=OUTPUT / "s3", metavar="DIR", help="emptied, then written")
    parser.add_argument(
        "--jars", type=Path, metavar="DIR", help="instead of .assets/jars-s3, which `make setup-s3` fills"
    )
    parser.add_argument("--night-only", action="store_true", help="the first date alone")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    begun = time.monotonic()
    settings = {"spark.jars": str(options.jars.resolve())} if options.jars else {}
    config = load(str(ROOT / PROFILE), [f"{name}={value}" for name, value in settings.items()])
    jars = ROOT / str(config.spark.jars)
    if not any(jars.glob("hadoop-aws-*.jar")):
        raise UsageError(f"{jars}: no hadoop-aws there; run `make setup-s3`")
    places = Places(fresh_folder(options.into.resolve()))
    environment = {**places.environment(), **CREDENTIALS}
    os.environ.update(environment)
    log.info("demo: making pictures from the photographs in scikit-image and scikit-learn ...")
    pictures = make_pictures()
    dates = DATES[:1] if options.night_only else DATES
    with Processes(environment) as processes, demo_site(pictures, PORT) as site:
        files = [file for file in plan_manifests(site, pictures) if file.date in dates]
        folders = write_manifests(places.at("manifests"), files)
        start_server(processes, places, config)
        upload(config, folders)
        took = {"on a folder": run_locally(processes, places, site, dates)}
        site.requests.clear()
        second = SecondDriver(processes, places, settings)
        took["on S3"] = run_on_s3(processes, places, site, settings, dates, second)
        local = Way("a folder", str(places.at("local", "warehouse")), Snapshot.open(places.at("local", "warehouse")))
        address = config.warehouse.replace("s3a://", "s3://")
        on_s3 = Way("S3", config.warehouse, lensfeed.open_feed(address, storage_options=reader_options(config)))
        told = compare(config, local, on_s3, expected_outcomes(files), pictures)
        read, unread = read_feed(on_s3.snapshot, local.snapshot, address)
    parts = [
        told.text,
        summary.section("A second driver, started while the first night held the warehouse", second.text()),
        read,
        summary.section("Requests to the server, readers included", f"  {places.at('counts.json').read_text()}"),
        times_text(len(dates), took, time.monotonic() - begun),
    ]
    sys.stdout.write("\n" + "\n\n".join(parts) + "\n")
    if wrong := (*told.wrong, *second.wrong(), *unread):
        raise RunError("; ".join(wrong))
    shutil.rmtree(places.at("scratch"), ignore_errors=True)


# The server ---------------------------------------------------------------------------------------------------------


def start_server(processes: Processes, places: Places, config: Config) -> None:
    """Start the S3 at the profile's endpoint, and wait for it. Raises RunError where it is not there in time."""
    port = _endpoint(config).rpartition(":")[2]
    log_file = places.at("logs", "s3.log")
    command = [sys.executable, "-m", "demo.s3_server", "--port", port, "--counts", str(places.at("counts.json"))]
    process = processes.start(command, log_file)
    until = time.monotonic() + START_S
    while True:
        check_runs(process, log_file)
        try:
            with urllib.request.urlopen(f"{_endpoint(config)}/moto-api/", timeout=5):
                return
        except OSError:
            if time.monotonic() > until:
                raise RunError(f"the S3 server was not there within {START_S} s; {log_file} has what it said") from None
            time.sleep(0.2)


def upload(config: Config, folders: Mapping[dt.date, Path]) -> None:
    """Make the warehouse's bucket, and put the dates' manifests where the profile looks for them."""
    client: Any = boto3.client("s3", endpoint_url=_endpoint(config), region_name=_region(config))
    client.create_bucket(Bucket=config.warehouse.split("/")[2])
    for date, folder in folders.items():
        bucket, _, prefix = config.manifest.path.partition("://")[2].format(date=date).partition("/")
        for file in sorted(folder.iterdir()):
            client.put_object(Bucket=bucket, Key=f"{prefix}/{file.name}", Body=file.read_bytes())


def reader_options(config: Config) -> dict[str, str]:
    """What a reader gives delta-rs; credentials come from the environment."""
    return {"endpoint_url": _endpoint(config), "region": _region(config), "allow_http": "true"}


def _endpoint(config: Config) -> str:
    return config.spark.properties["spark.hadoop.fs.s3a.endpoint"]


def _region(config: Config) -> str:
    return config.spark.properties["spark.hadoop.fs.s3a.endpoint.region"]


# The nights ---------------------------------------------------------------------------------------------------------


class SecondDriver:
    """Another driver that wants the warehouse while the first one holds it."""

    def __init__(self, processes: Processes, places: Places, settings: Mapping[str, str]) -> None:
        self._processes = processes
        self._log = places.at("logs", "second-driver.log")
        self._command = [sys.executable, "-m", "jobs.nightly", "--profile", PROFILE, *overrides(settings), "--force"]
        self._process: psutil.Popen | None = None
        self._code: int | None = None

    def start_once(self, date: dt.date) -> None:
        """Start it, if it was not yet."""
        if self._process is None:
            log.info("demo: a second driver asks for the same warehouse")
            self._process = self._processes.start([*self._command, "--date", str(date)], self._log)

    def wait(self) -> None:
        """Until it has ended."""
        if self._process is not None:
            self._code = self._process.wait(WAIT_S)

    def text(self) -> str:
        """How it ended."""
        return f"  exit code {self._code}: {self._last_line()}"

    def wrong(self) -> tuple[str, ...]:
        """What is not as it should be: it has to be refused, by the lease."""
        if self._code == 1 and HELD in self._last_line():
            return ()
        return (f"the second driver was not refused by the lease: exit code {self._code}, {self._last_line()}",)

    def _last_line(self) -> str:
        lines = self._log.read_text(encoding="utf-8").strip().splitlines() if self._log.is_file() else []
        return lines[-1] if lines else "it said nothing"


def run_on_s3(
    processes: Processes,
    places: Places,
    site: Site,
    settings: Mapping[str, str],
    dates: Sequence[dt.date],
    second: SecondDriver,
) -> float:
    """The dates on S3, and a second driver as soon as the first night is under way; seconds."""
    log.info("demo: %d nights on S3", len(dates))
    command = [sys.executable, "-m", "jobs.backfill", "--profile", PROFILE, *range_of(dates), *overrides(settings)]

    def meanwhile(message: str) -> None:
        if message.endswith(" ..."):  # a step has begun: the warehouse is held
            second.start_once(dates[0])

    took = run_job(processes, places, site, "s3", command, meanwhile)
    second.wait()
    return took


# The readers --------------------------------------------------------------------------------------------------------


def read_feed(on_s3: Snapshot, local: Snapshot, address: str) -> tuple[str, tuple[str, ...]]:
    """Count the feed's rows where they lie and in the folder: as text, and what is not as it should be."""
    ids, vectors = feed_vectors(on_s3)
    counts = {name: on_s3.rows(name, [key]).num_rows for name, key in _COUNTED.items()}
    expected = {name: local.rows(name, [key]).num_rows for name, key in _COUNTED.items()}
    text = summary.section(
        f"Read by lensfeed.open_feed({address!r}, storage_options=...), without Spark",
        *(f"  {name}: {count} rows, {expected[name]} in the folder" for name, count in counts.items()),
        f"  vectors: {len(ids)} of {vectors.shape[1]}",
    )
    return text, () if counts == expected and len(ids) else (f"the feed on S3 was read as {counts}, not {expected}",)


_COUNTED = {"index_feed": "feed_id", "images": "image_id", "sightings": "row_number"}


if __name__ == "__main__":
    sys.exit(main())
