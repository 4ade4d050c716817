"""`make cluster-demo`: the demo's nights on a real cluster of processes, beside local mode.

    python -m demo.cluster [--dist DIR] [--into DIR] [--night-only]

Starts a master and two workers of Spark's standalone manager on loopback, each worker with a fake GPU: it is scheduled
by name as a real one would be, and what runs on it computes on the CPU. `spark-submit` brings what `make dist` built,
for a nightly of the last date and a backfill of the two before it; executors come and go (dynamic allocation), and
those that embed have a GPU (stage-level scheduling). The same manifests go through local mode from the same site.

Exit codes: 0 both ways end in the same contents, and what should run on GPU executors ran there; 1 otherwise; 2 bad
usage.
"""

import argparse
import datetime as dt
import json
import os
import shutil
import socket
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyspark

from demo import summary
from demo.beside import Places, Way, compare, overrides, range_of, run_job, run_locally, times_text
from demo.manifests import expected_outcomes, plan_manifests, write_manifests
from demo.pictures import make_pictures
from demo.placement import Placed, placement, read_events, read_lines, together
from demo.processes import Processes, check_runs
from demo.run import OUTPUT, PORT, PROFILE, ROOT, fresh_folder
from demo.site import DATES, Site, demo_site
from jobs.config.command import JobParser, run_command
from jobs.config.errors import RunError, UsageError
from jobs.config.profile import load
from jobs.config.progress import log
from lensfeed.snapshot import Snapshot

CLUSTER_PROFILE = "conf/standalone-demo.yaml"
_WAYS = {"local": "local mode", "cluster": "the cluster"}
"""The folders of the two ways, and what they are."""
WORKERS = 2
WORKER_CORES, WORKER_MEMORY = 3, "2g"
"""Room for an executor of either kind, and a core to spare: see conf/standalone-demo.yaml."""
START_S = 120
"""Seconds that the cluster has to come up."""
EMBEDDING = "embed"
"""The step that must run on GPU executors."""

# A GPU by name only. Each worker finds its own first in PATH, and conf/discover_gpus.sh asks it.
FAKE_NVIDIA_SMI = """#!/bin/sh
# A fake: there is no GPU. It names number {number} to the worker that the demo starts with it.
echo "nvidia-smi: this is a fake of demo.cluster, there is no GPU {number}" >&2
echo {number}
"""


def command_line() -> JobParser:
    """The parser of the demo's arguments."""
    parser = JobParser(prog="python -m demo.cluster", description="Show the nightly job on a cluster of processes.")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", metavar="DIR", help="what `make dist` has built")
    parser.add_argument("--into", type=Path, default=OUTPUT / "cluster", metavar="DIR", help="emptied, then written")
    parser.add_argument("--night-only", action="store_true", help="leave out the backfill: one date alone")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    begun = time.monotonic()
    for name in ("lensfeed.zip", "spark-defaults.conf"):
        if not (options.dist / name).is_file():
            raise UsageError(f"--dist {options.dist}: no {name} there; run `make dist`")
    places = Places(fresh_folder(options.into.resolve()))
    os.environ.update(places.environment())
    log.info("demo: making pictures from the photographs in scikit-image and scikit-learn ...")
    pictures = make_pictures()
    dates = DATES[-1:] if options.night_only else DATES
    with Processes(places.environment()) as processes, demo_site(pictures, PORT) as site:
        files = [file for file in plan_manifests(site, pictures) if file.date in dates]
        write_manifests(places.at("manifests"), files)
        took = {"in local mode": run_locally(processes, places, site, dates)}
        site.requests.clear()
        master = start_cluster(processes, places)
        took["on the cluster"] = run_on(processes, places, options.dist, site, master, dates)
    local, cluster = (
        Way(name, str(places.at(folder, "warehouse")), Snapshot.open(places.at(folder, "warehouse")))
        for folder, name in _WAYS.items()
    )
    told = compare(load(PROFILE), local, cluster, expected_outcomes(files), pictures)
    steps = placements(places)
    parts = [
        told.text,
        summary.section("Which step ran on which executors", steps_text(steps)),
        summary.section("Executors", executors_text(steps)),
        times_text(len(dates), took, time.monotonic() - begun),
    ]
    sys.stdout.write("\n" + "\n\n".join(parts) + "\n")
    if wrong := (*told.wrong, *misplaced(steps)):
        raise RunError("; ".join(wrong))
    for name in ("scratch", "workers"):  # copies of jars and weights for each executor
        shutil.rmtree(places.at(name), ignore_errors=True)


# The two ways -------------------------------------------------------------------------------------------------------


def run_on(
    processes: Processes, places: Places, dist: Path, site: Site, master: str, dates: Sequence[dt.date]
) -> float:
    """The last date as a nightly, then those before it as a backfill, on the cluster; seconds of the two.

    First every executor is asked where it has our code from. Raises RunError where one of the commands fails.
    """
    log.info("demo: the cluster is %s", master)
    run_job(processes, places, site, "doctor", [*_submit(places, dist, master, "doctor"), "--spark"])
    log.info("demo: the night of %s on the cluster", dates[-1])
    command = [*_submit(places, dist, master, "nightly"), "--date", str(dates[-1])]
    took = run_job(processes, places, site, "nightly", command)
    if earlier := dates[:-1]:
        log.info("demo: a backfill of %s to %s on the cluster", earlier[0], earlier[-1])
        command = [*_submit(places, dist, master, "backfill"), *range_of(earlier)]
        took += run_job(processes, places, site, "backfill", command)
    return took


# The cluster --------------------------------------------------------------------------------------------------------


def start_cluster(processes: Processes, places: Places) -> str:
    """Start a master and its workers on free ports of loopback; the master's address once all workers have registered.

    Raises RunError where one of them ends, or is not there within `START_S` seconds.
    """
    spark_class = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    port, page = free_port(), free_port()
    log_of = {"master": places.at("logs", "master.log")}
    command = [spark_class, "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1"]
    started = {"master": processes.start([*command, "--port", str(port), "--webui-port", str(page)], log_of["master"])}
    address = f"spark://127.0.0.1:{port}"
    for number in range(WORKERS):
        name = f"worker-{number}"
        log_of[name] = places.at("logs", f"{name}.log")
        command = [spark_class, "org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1", "--webui-port", "0"]
        command += ["--cores", str(WORKER_CORES), "--memory", WORKER_MEMORY]
        command += ["--work-dir", str(places.at("workers", name)), address]
        started[name] = processes.start(command, log_of[name], _with_fake_gpu(places, number))
    until = time.monotonic() + START_S
    while _workers(page) < WORKERS:
        for name, process in started.items():
            check_runs(process, log_of[name])
        if time.monotonic() > until:
            raise RunError(f"the cluster was not there within {START_S} s; {places.at('logs')} has what it said")
        time.sleep(0.5)
    return address


def _with_fake_gpu(places: Places, number: int) -> dict[str, str]:
    program = places.at("fake-gpus", str(number), "nvidia-smi")
    program.write_text(FAKE_NVIDIA_SMI.format(number=number), encoding="utf-8")
    program.chmod(0o755)
    script = ROOT / "conf" / "discover_gpus.sh"
    return {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "SPARK_WORKER_OPTS": "-Dspark.worker.resource.gpu.amount=1 "
        f'"-Dspark.worker.resource.gpu.discoveryScript={script}"',
    }


def _workers(page: int) -> int:
    """How many workers the master's page says are alive; none while there is no page yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{page}/json/", timeout=5) as answer:
            return int(json.load(answer)["aliveworkers"])
    except OSError:
        return 0


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _submit(places: Places, dist: Path, master: str, job: str) -> list[str]:
    """The command line of `spark-submit` up to the job's own arguments."""
    own = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.rolling.enabled": "false",
        "spark.eventLog.compress": "true",
        "spark.eventLog.compression.codec": "zstd",
        "spark.eventLog.dir": places.folder_at("events", job).as_uri(),
        "spark.executor.extraJavaOptions": places.java_options,
    }
    settings = {"manifest.path": places.at("manifests", "{date}"), "warehouse": places.at("cluster", "warehouse")}
    command = [str(Path(pyspark.__file__).parent / "bin" / "spark-submit"), "--master", master]
    command += ["--deploy-mode", "client", "--driver-memory", "1g"]
    command += ["--properties-file", str(dist / "spark-defaults.conf"), "--py-files", str(dist / "lensfeed.zip")]
    command += [part for name, value in own.items() for part in ("--conf", f"{name}={value}")]
    return [*command, str(ROOT / "jobs" / f"{job}.py"), "--profile", CLUSTER_PROFILE, *overrides(settings)]


# What came of it ----------------------------------------------------------------------------------------------------


def placements(places: Places) -> dict[str, Placed]:
    """Where the steps of the cluster's nights ran."""
    found = []
    for name in ("nightly", "backfill"):
        lines = places.at("logs", f"{name}.jsonl")
        if lines.is_file():
            (events,) = places.folder_at("events", name).iterdir()
            found.append(placement(read_events(events), read_lines(lines)))
    return together(found)


def misplaced(steps: Mapping[str, Placed]) -> list[str]:
    """What did not run on the kind of executor that it should have."""
    embedding = steps.get(EMBEDDING)
    if embedding is None or not embedding.tasks_on("GPU"):
        return [f"no task of the step {EMBEDDING!r} ran on a GPU executor"]
    return [
        f"{placed.tasks_on('GPU')} tasks of the step {name!r} ran on GPU executors"
        for name, placed in steps.items()
        if name != EMBEDDING and placed.tasks_on("GPU")
    ]


def steps_text(steps: Mapping[str, Placed]) -> str:
    """A line a step."""
    rows = [
        (name, ", ".join(map(str, sorted(placed.profiles))), placed.tasks_on("CPU"), placed.tasks_on("GPU"))
        for name, placed in steps.items()
    ]
    return summary.table(("step", "resource profiles", "tasks on CPU executors", "tasks on GPU executors"), rows)


def executors_text(steps: Mapping[str, Placed]) -> str:
    """A line a kind of executor and the GPU that it had."""
    seen = {executor for placed in steps.values() for executor in placed.tasks}
    kinds = sorted({(one.kind, one.profile, one.gpus) for one in seen})
    rows = [
        (
            f"{kind}{' ' + ', '.join(gpus) + ' (a fake)' if gpus else ''}",
            profile,
            sum((one.kind, one.profile, one.gpus) == (kind, profile, gpus) for one in seen),
            sum(
                count
                for placed in steps.values()
                for one, count in placed.tasks.items()
                if (one.kind, one.profile, one.gpus) == (kind, profile, gpus)
            ),
        )
        for kind, profile, gpus in kinds
    ]
    return summary.table(("kind", "resource profile", "executors", "tasks"), rows)


if __name__ == "__main__":
    sys.exit(main())
