"""What a night costs against the history that lies in its warehouse.

    python -m benchmarks.history --images 0 20000 200000 --json FILE [--rows 150] [--share 0.01] [--pixels BYTES]
        [--keep DIR]

For each size a synthetic warehouse is written (`benchmarks.synthetic_warehouse`), and one night run on a copy of it, as
`python -m jobs.nightly`: always the same number of rows, so that whatever grows is the price of history. With `--share`
a second night of that share of the history's size is run on another copy. Of a night's rows 90 % are new pictures, 5 %
further copies of those, 5 % pages that history has seen: of these three in four have not changed (304), the others show
something new. Pictures come from this process, which is in no figure but the wall time, as it wants the same cores.

A night's models are the packaged ones, with vectors of 1280 and 384 floats. What they cost goes by the night's rows,
not by history, and is in `tree` alone: `task_cpu` counts the JVM's threads, not Python workers.

Figures of a night: `tasks`, sums over the tasks of Spark's event log (`benchmarks.event_log` says whose bytes were
read); `tree`, the whole process tree's own counters (`benchmarks.process_tree`): start-up, the driver and delta-rs are
in it; `written_bytes` by table, of files that were not there before. Slopes are between the two largest sizes of the
fixed night. A night that is not published as expected, to the row, ends the benchmark.

Not measured: the many small commits that as many nights would have left in Delta's logs (history is one commit a
table, a file a date), deferred rows, cold disks.

`--keep DIR` keeps the synthetic warehouses, and takes those that are there: delete it when the tables have changed.
"""

import argparse
import datetime as dt
import io
import json
import os
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable
from PIL import Image

from benchmarks.event_log import UNKNOWN, task_costs
from benchmarks.process_tree import measured
from benchmarks.report import environment, publish
from benchmarks.synthetic_warehouse import ALIKE_EVERY, DATES, FIRST, PORT, host, title, url, write_history
from jobs.config.profile import Config, load
from jobs.run.names import Count, changed, outcome
from jobs.startup.preflight import check
from jobs.startup.session import THREAD_LIMITS, open_session
from jobs.warehouse.ledger import Versions
from schemas.tables import TABLES

PROFILE = "conf/local.yaml"
DATE = FIRST + dt.timedelta(days=DATES)
INDEX = "lsh_bands"

SEEN_SHARE, COPY_SHARE = 0.05, 0.05
CHANGED_EVERY = 4
"""Of the pages that history has seen, every fourth shows something new."""

MOST_UNKNOWN = 0.02
"""Share of the bytes read whose table may remain unknown."""


# What a night comes upon ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """A night's manifest, what its pages show, and what must come of it."""

    rows: list[dict[str, str]]
    pages: dict[str, bytes]
    """By path. What history has seen and is not here has not changed."""
    counts: dict[str, int]
    """Of the published run."""


def make_world(images: int, size: int, night: int = 0) -> World:
    """A manifest of `size` rows against a history of so many images, of the given night after it, from 0: each has
    pictures and pages of its own."""
    # Pages whose image has no near-duplicate: how many rows of each table change is then plain.
    seen = round(size * SEEN_SHARE) if images else 0
    numbers = [(images // ALIKE_EVERY * place // seen + night) * ALIKE_EVERY for place in range(seen)]
    moved = numbers[CHANGED_EVERY - 1 :: CHANGED_EVERY]
    copies = round(size * COPY_SHARE)
    new, first = size - seen - copies, night * 2 * size
    pages = {f"/new/{number}.jpg": picture(number) for number in range(first, first + new)}
    pages |= {f"/copy/{number}.jpg": picture(number, quality=60) for number in range(first, first + copies)}
    pages |= {f"/old/{number}.jpg": picture(first + new + place) for place, number in enumerate(moved)}
    rows = [
        {"url": f"http://{host(number)}:{PORT}{path}", "title": f"A picture of the night, {path[1:-4]}"}
        for number, path in enumerate(path for path in pages if not path.startswith("/old/"))
    ]
    rows += [{"url": url(number), "title": title(number)} for number in numbers]
    fresh, gone = new + copies + len(moved), len(moved)
    return World(
        rows,
        pages,
        {
            Count.SIGHTINGS: size,
            outcome("accepted"): size,
            Count.NOT_MODIFIED: seen - len(moved),
            Count.EMBEDDED: fresh,
            changed("url_state"): size,
            changed("image_hashes"): fresh,  # what a page shows no more stays stored
            **{changed(table): fresh + gone for table in ("clusters", "feed_members")},
            changed("index_feed"): fresh + gone - copies,
        },
    )


def picture(number: int, quality: int = 85) -> bytes:
    """A JPEG of soft blots of colour, others for each number: as far apart to a perceptual hash as photographs."""
    blots = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    image = Image.fromarray(blots).resize((320, 320), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


class _Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    pages: dict[str, bytes]

    def do_GET(self) -> None:
        """The page's picture; 304 for what history knows and has not changed."""
        body = self.pages.get(self.path, b"")
        unchanged = not body and self.headers.get("If-None-Match")
        self.send_response(200 if body else 304 if unchanged else 404)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Nobody reads it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def serving(pages: dict[str, bytes]) -> Iterator[None]:
    """The pages on every loopback address."""
    handler = type("Pages", (_Pages,), {"pages": pages})
    with _Server(("0.0.0.0", PORT), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


# One night ------------------------------------------------------------------------------------------------------------


def run_night(history: Path, images: int, size: int, folder: Path) -> dict[str, Any]:
    """Run a night of `size` rows on a copy of the warehouse `history`; its figures. `folder` is for it alone."""
    warehouse = folder / "warehouse"
    shutil.copytree(history, warehouse, copy_function=copied)
    return {"images": images, "rows": size, **measure_night(warehouse, make_world(images, size), DATE, folder)}


def measure_night(warehouse: Path, world: World, date: dt.date, folder: Path) -> dict[str, Any]:
    """Run a night of a date on a warehouse; its figures. `folder` is for it alone."""
    manifest, events = folder / "manifest.jsonl", folder / "events"
    manifest.write_text("".join(f"{json.dumps(row)}\n" for row in world.rows))
    events.mkdir()
    settings = {
        "warehouse": warehouse,
        "manifest.path": manifest,
        "spark.properties.spark.eventLog.enabled": "true",
        "spark.properties.spark.eventLog.dir": events.as_uri(),
        "spark.properties.spark.eventLog.compress": "false",
        "spark.properties.spark.eventLog.rolling.enabled": "false",
    }
    command = [sys.executable, "-m", "jobs.nightly", "--profile", PROFILE, "--date", date.isoformat()]
    command += [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    before = _files(warehouse)
    with serving(world.pages):
        tree = measured(command)
    published = _published(warehouse, date)
    found = dict(published["counts"])
    if differing := {name: (n, found.get(name)) for name, n in world.counts.items() if found.get(name) != n}:
        raise RuntimeError(f"the night of {date} came out otherwise (expected, found): {differing}")
    (log,) = events.iterdir()
    costs = task_costs(log, warehouse)
    if costs.read[UNKNOWN] > MOST_UNKNOWN * costs.read.total():
        raise RuntimeError(f"whose bytes were read is unknown of {costs.read[UNKNOWN]} of {costs.read.total()}")
    written: Counter[str] = Counter()
    for path, length in _files(warehouse).items():
        written[path.parts[0]] += 0 if path in before else length
    return {
        "tasks": {
            "read_bytes": costs.read.total() - costs.read[INDEX],
            "index_bytes": costs.read[INDEX],
            "shuffle_bytes": costs.shuffled,
            "cpu_s": round(costs.cpu_s, 2),
            **{"jobs": costs.jobs, "stages": costs.stages, "tasks": costs.tasks},
            "read_bytes_by_table": dict(costs.read.most_common()),
        },
        "tree": tree,
        "step_seconds": {name: round(s, 2) for name, s in published["metrics"] if name.startswith("seconds.")},
        "history_bytes": sum(before.values()),
        "written_bytes": {name: written[name] for name in sorted(written) if name in TABLES},
    }


def copied(source: str, target: str) -> str:
    """Data files are linked, for nobody changes one; whatever may be written over is copied."""
    if source.endswith(".parquet"):
        os.link(source, target)
        return target
    return shutil.copy2(source, target)


def _files(warehouse: Path) -> dict[Path, int]:
    return {path.relative_to(warehouse): path.stat().st_size for path in warehouse.rglob("*") if path.is_file()}


def _published(warehouse: Path, date: dt.date) -> dict[str, Any]:
    """The night's published event. Raises RuntimeError where there is none."""
    events: pa.Table = DeltaTable(str(warehouse / "runs")).to_pyarrow_table()
    for event in events.to_pylist():
        if event["event"] == "published" and event["ingest_dates"] == [date]:
            return dict(event)
    raise RuntimeError(f"{warehouse}: no run was published for {date}")


# All of them ----------------------------------------------------------------------------------------------------------


def make_histories(sizes: Sequence[int], pixels: int, folder: Path) -> dict[int, Path]:
    """The synthetic warehouses by their number of images; those that `folder` has not are made."""
    # Unlike a night of some hundred rows, this pays for compiled expressions.
    compiled = {"wholeStage": "true", "factoryMode": "FALLBACK"}
    given = [f"spark.properties.spark.sql.codegen.{name}={value}" for name, value in compiled.items()]
    config = load(PROFILE, ["manifest.path=none", *given])
    _, versions = check(config)
    made = {size: folder / f"history-{size}-{pixels}" for size in sizes}
    missing = {size: path for size, path in made.items() if not path.exists()}
    if missing:
        spark = open_session(config)
        for size, path in missing.items():
            print(f"making a history of {size} images", file=sys.stderr)
            _write(spark, config, versions, size, pixels, path)
        spark.stop()
    return made


def _write(spark: Any, config: Config, versions: Versions, size: int, pixels: int, path: Path) -> None:
    """Under another name until it is whole: what is there is taken as it is."""
    unfinished = path.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    write_history(spark, config.model_copy(update={"warehouse": str(unfinished)}), versions, size, pixels)
    unfinished.rename(path)


def slopes(nights: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What an image more in history costs a night, from the two largest; how much longer the largest takes than one
    without history, where that was run. `nights` are in the order of their history."""
    *_, less, more = nights
    images = int(more["images"] - less["images"])

    def slope(group: str, name: str, unit: float = 1.0) -> float:
        return round(float(more[group][name] - less[group][name]) * unit / images, 4)

    found = {f"{name}_per_image": slope("tasks", name) for name in ("read_bytes", "index_bytes", "shuffle_bytes")}
    found["task_cpu_ms_per_image"] = slope("tasks", "cpu_s", 1000)
    found["tree_read_bytes_per_image"] = slope("tree", "read_bytes")
    if nights[0]["images"] == 0:
        found["wall_ratio"] = round(more["tree"]["wall_s"] / nights[0]["tree"]["wall_s"], 3)
    return found


def main() -> None:
    """Measure, print, and write where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[0, 20_000, 200_000], help="sizes of history")
    parser.add_argument("--rows", type=int, default=150, help="rows of the night that is the same for all")
    parser.add_argument("--share", type=float, help="rows of a second night, as a share of history")
    parser.add_argument("--pixels", type=int, default=2048, help="bytes of an image's pixels in history")
    parser.add_argument("--keep", type=Path, help="folder in which synthetic warehouses are kept, and found again")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    os.environ.update(THREAD_LIMITS)
    sizes = sorted(set(options.images))
    nights: list[dict[str, Any]] = []
    shares: list[dict[str, Any]] = []
    with ExitStack() as exits:
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
        base = options.keep or Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="lensfeed-history-")))
        for images, history in make_histories(sizes, options.pixels, base.resolve()).items():
            planned = [(options.rows, nights)]
            if options.share and images:
                planned.append((round(images * options.share), shares))
            for size, into in planned:
                with tempfile.TemporaryDirectory(prefix="night-", dir=history.parent) as name:
                    into.append(run_night(history, images, size, Path(name)))
                print(json.dumps(into[-1]), file=sys.stderr)
    packages = environment("pyspark", "delta-spark", "deltalake", "pyarrow", "numpy")
    report = {"environment": packages, "profile": PROFILE, "pixels": options.pixels, "nights": nights}
    report |= {"share_nights": shares} if shares else {}
    report |= {"slopes": slopes(nights)} if len(nights) > 1 else {}
    publish(report, options.json)


if __name__ == "__main__":
    main()
