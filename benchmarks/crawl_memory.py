"""What a fetching Python worker holds, by the number of rows: it must not grow with the manifest.

`python -m benchmarks.crawl_memory [--json FILE] [--rows N ...]` prints a JSON document: the resident set (MiB) of a
process that runs one task's `fetch_batches`, over rows of which one in twenty goes to a hostile server, the others to
nginx with the pictures of `benchmarks.picture_server`. The process does nothing else: what it reads comes as Arrow
batches, what it yields is dropped, as after a write to Spark's socket.

Two figures, since they answer two questions. `usual_mib`, the median over the rows of each quarter of the run, tells
what stays for a row: the last quarter must be as the second. (The first fills caches and heap.) `peak_mib` tells how
many large bodies came at once: the more rows, the more often they do, and most at the end, when only slow rows are
left; up to a bound that is set, `bound_mib`. `full` is a run of the fewest rows whose consumer takes nothing for a
while, as a busy gate does: what a task reaches however short it is.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

from benchmarks.crawl import PACKAGES
from benchmarks.picture_server import make_pictures, serving, urls
from benchmarks.report import environment, publish
from schemas.settings import CrawlSettings
from tests.hostile_server import HostileServer
from udfs.crawl.fetch import BATCH_BYTES, fetch_batches
from udfs.urls import url_id

ROWS = (2_000, 8_000, 32_000)
MOST_GROWTH = 0.15
"""Of the usual resident set, from the second quarter of the longest run to its last."""

BESIDE_BODIES = 2 * BATCH_BYTES + 32 * 2**20
"""What a task may hold beside the process as it was and the bodies it may (`max_pending_bytes`): the batch that is
handed on and the one that is made, and what is known of the rows and hosts read ahead, with their sockets' buffers."""

STALL_S = 20
HOSTILE_EVERY = 20
BATCH = 256
HOSTILE = (
    *("endless-chunks", "endless-body", "declared-large", "gzip-bomb", "deflate-bomb", "broken-gzip", "slow-body"),
    *("short-body", "garbage-chunks", "garbage", "reset", "hang-up", "huge-header", "many-headers", "endless-headers"),
    *("missing", "error", "loop", "to-metadata", "noai", "html", "thousand-frames", "empty", "limited-long", "silent"),
)
"""Paths of `tests.hostile_server`, each asked of a host of its own in turn."""

CRAWL = CrawlSettings(
    allowed_networks=("127.0.0.0/8",),
    request_timeout_s=2,
    row_deadline_s=5,
    min_rate_window_s=1,
    retries=1,
    backoff_s=0.05,
    per_host_concurrency=8,
)


def rows(count: int, port: int, hostile_port: int) -> Iterator[pa.RecordBatch]:
    """`count` rows as Spark would hand them over, made as they are asked for."""
    pictures = urls(port, count)
    for start in range(0, count, BATCH):
        part = [
            _hostile(number, hostile_port) if number % HOSTILE_EVERY == 0 else pictures[number]
            for number in range(start, min(start + BATCH, count))
        ]
        yield pa.RecordBatch.from_pydict({"url_id": list(map(url_id, part)), "url": part})


def _hostile(number: int, port: int) -> str:
    turn = number // HOSTILE_EVERY
    return f"http://127.0.2.{turn % 250 + 1}:{port}/{HOSTILE[turn % len(HOSTILE)]}?{number}"


def fetch_rows(count: int, port: int, hostile_port: int, stall_s: int) -> dict[str, Any]:
    """Fetches in this process; its resident set (MiB) as it was, usually and at its highest, and how the rows ended.

    Nothing is taken for `stall_s` seconds after the first batch.
    """
    outcomes: Counter[str] = Counter()
    start = resident()
    after_row: list[float] = []
    for batch in fetch_batches(rows(count, port, hostile_port), CRAWL):
        for code, deferred in zip(batch["failure_code"].to_pylist(), batch["deferred"].to_pylist(), strict=True):
            outcomes[code or ("deferred" if deferred else "ok")] += 1
        if not after_row:
            time.sleep(stall_s)
        after_row += [resident()] * batch.num_rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows": sum(outcomes.values()),
        "start_mib": round(start, 1),
        "usual_mib": [round(median(after_row[count * n // 4 : count * (n + 1) // 4]), 1) for n in range(4)],
        "peak_mib": round(peak, 1),
        "bound_mib": round(start + (CRAWL.max_pending_bytes + BESIDE_BODIES) / 2**20, 1),
        "outcomes": dict(sorted(outcomes.items())),
    }


def resident() -> float:
    """This process's resident set, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def measure(count: int, port: int, hostile_port: int, stall_s: int = 0) -> dict[str, Any]:
    """`fetch_rows` in a fresh process."""
    numbers = map(str, (count, port, hostile_port, stall_s))
    command = [sys.executable, "-m", "benchmarks.crawl_memory", "--fetch", *numbers]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["rows"] != count:
        raise SystemExit(f"{found['rows']} rows came back of {count}")
    return found


def main() -> None:
    """Measure, print, and write where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="rows of each run, fewest first")
    parser.add_argument("--fetch", type=int, nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fetch:
        print(json.dumps(fetch_rows(*options.fetch)))
        return
    hosts = tuple(f"127.0.2.{number}" for number in range(1, 251))
    with tempfile.TemporaryDirectory(prefix="lensfeed-memory-") as name:
        make_pictures(Path(name) / "pictures")
        with serving(Path(name)) as port, HostileServer(addresses=hosts) as hostile:
            found = [measure(count, port, hostile.port) for count in options.rows]
            full = measure(options.rows[0], port, hostile.port, STALL_S)
    _, second, _, last = found[-1]["usual_mib"]
    growth = last / second - 1
    results = {
        "runs": found,
        "full": full,
        "growth": {"found": round(growth, 3), "at_most": MOST_GROWTH, "met": growth <= MOST_GROWTH},
        "bound": {"met": all(run["peak_mib"] <= run["bound_mib"] for run in (*found, full))},
    }
    report = {"environment": environment(*PACKAGES), **results}
    publish(report, options.json)


if __name__ == "__main__":
    main()
