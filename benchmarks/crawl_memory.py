"""What a fetching Python worker holds at its most, by the number of rows: it must not grow with the manifest.

`python -m benchmarks.crawl_memory [--json FILE] [--few N --many N]` prints a JSON document: the highest resident set of
a process that runs one task's `fetch_batches`, in MiB, over rows of which one in twenty goes to a hostile server, the
others to nginx with the pictures of `benchmarks.picture_server`. The process does nothing else: what it reads comes as
Arrow batches, what it yields is dropped, as after a write to Spark's socket.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.crawl import PACKAGES
from benchmarks.picture_server import make_pictures, serving, urls
from benchmarks.report import environment, publish
from schemas.settings import CrawlSettings
from tests.hostile_server import HostileServer
from udfs.fetch import fetch_batches
from udfs.urls import url_id

FEW, MANY = 2_000, 20_000
MOST_GROWTH = 0.15
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


def fetch_rows(count: int, port: int, hostile_port: int) -> dict[str, Any]:
    """Fetches in this process; its highest resident set (MiB), and how the rows ended."""
    outcomes: Counter[str] = Counter()
    for batch in fetch_batches(rows(count, port, hostile_port), CRAWL):
        for code, deferred in zip(batch["failure_code"].to_pylist(), batch["deferred"].to_pylist(), strict=True):
            outcomes[code or ("deferred" if deferred else "ok")] += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": sum(outcomes.values()), "peak_mib": round(peak, 1), "outcomes": dict(sorted(outcomes.items()))}


def measure(count: int, port: int, hostile_port: int) -> dict[str, Any]:
    """`fetch_rows` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.crawl_memory", "--fetch", str(count), str(port), str(hostile_port)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["rows"] != count:
        raise SystemExit(f"{found['rows']} rows came back of {count}")
    return found


def main() -> None:
    """Measure, print, and write where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--few", type=int, default=FEW, help="rows of the smaller run")
    parser.add_argument("--many", type=int, default=MANY, help="rows of the larger run")
    parser.add_argument("--fetch", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fetch:
        print(json.dumps(fetch_rows(*options.fetch)))
        return
    hosts = tuple(f"127.0.2.{number}" for number in range(1, 251))
    with tempfile.TemporaryDirectory(prefix="lensfeed-memory-") as name:
        make_pictures(Path(name) / "pictures")
        with serving(Path(name)) as port, HostileServer(addresses=hosts) as hostile:
            found = [measure(count, port, hostile.port) for count in (options.few, options.many)]
    growth = found[1]["peak_mib"] / found[0]["peak_mib"] - 1
    results = {
        "runs": found,
        "growth": {"found": round(growth, 3), "at_most": MOST_GROWTH, "met": growth <= MOST_GROWTH},
    }
    report = {"environment": environment(*PACKAGES), **results}
    publish(report, options.json)


if __name__ == "__main__":
    main()
