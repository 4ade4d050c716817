"""What nights in a row cost, with the upkeep between them: whether the last costs as much as the first.

    python -m benchmarks.nights [--images 20000] [--nights 30] [--rows 150] [--every 5] [--keep DIR] [--json FILE]

A synthetic warehouse (`benchmarks.history`, which says what a night comes upon and what is measured of it), then so
many nights into the same one, each of other pictures and pages, and after every fifth of them upkeep
(`python -m jobs.maintain`) that keeps no old version. Of each table, before and after it: the files of its newest
version, and what lies in its folder. A night that is not published as expected, to the row, ends the benchmark.

`first` and `last` are medians of as many nights as lie between two upkeeps.
"""

import argparse
import datetime as dt
import json
import os
import shutil
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from benchmarks.history import DATE, PROFILE, copied, make_histories, make_world, measure_night
from benchmarks.process_tree import measured
from benchmarks.report import environment, publish
from jobs.startup.session import THREAD_LIMITS
from schemas.tables import TABLES

PIXELS = 2048


def run_nights(history: Path, images: int, nights: int, rows: int, every: int, folder: Path) -> dict[str, Any]:
    """Run nights, and upkeep after every so many, on a copy of the warehouse `history`; figures of each."""
    warehouse = folder / "warehouse"
    shutil.copytree(history, warehouse, copy_function=copied)
    found: list[dict[str, Any]] = []
    upkeep: list[dict[str, Any]] = []
    for number in range(nights):
        with tempfile.TemporaryDirectory(prefix="night-", dir=folder) as name:
            world = make_world(images, rows, number)
            found.append(measure_night(warehouse, world, DATE + dt.timedelta(days=number), Path(name)))
        print(f"night {number}: {json.dumps(found[-1]['tree'])}", file=sys.stderr)
        if (number + 1) % every == 0:
            before = _files(warehouse)
            command = [sys.executable, "-m", "jobs.maintain", "--profile", PROFILE, "--retention-hours", "0"]
            tree = measured([*command, "--set", f"warehouse={warehouse}", "--set", "manifest.path=none"])
            upkeep.append({"after": number + 1, "tree": tree, "before": before, "now": _files(warehouse)})
    return {"nights": found, "upkeep": upkeep}


def _files(warehouse: Path) -> dict[str, dict[str, int]]:
    """By table: files of the newest version, files in the folder, their bytes."""
    return {name: _files_of(warehouse / name) for name in TABLES if (warehouse / name).exists()}


def _files_of(table: Path) -> dict[str, int]:
    lying = [path.stat().st_size for path in table.rglob("*") if path.is_file()]
    return {"live": len(DeltaTable(str(table)).get_add_actions()), "files": len(lying), "bytes": sum(lying)}


def compared(nights: list[dict[str, Any]], every: int) -> dict[str, Any]:
    """Medians of the first and the last nights, and how many times the ones the others are."""

    def median(some: list[dict[str, Any]], group: str, name: str) -> float:
        return round(statistics.median(float(night[group][name]) for night in some), 2)

    names = (("tree", "wall_s"), ("tree", "cpu_s"), ("tasks", "cpu_s"), ("tasks", "read_bytes"), ("tasks", "jobs"))
    first, last = nights[:every], nights[-every:]
    told = {}
    for group, name in names:
        ends = median(first, group, name), median(last, group, name)
        told[f"{group}.{name}"] = {"first": ends[0], "last": ends[1], "ratio": round(ends[1] / ends[0], 3)}
    return told


def main() -> None:
    """Measure, print, and write where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="size of history")
    parser.add_argument("--nights", type=int, default=30, help="how many")
    parser.add_argument("--rows", type=int, default=150, help="of each night")
    parser.add_argument("--every", type=int, default=5, help="nights between two upkeeps")
    parser.add_argument("--keep", type=Path, help="folder in which the synthetic warehouse is kept, and found again")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    os.environ.update(THREAD_LIMITS)
    with ExitStack() as exits:
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
        base = options.keep or Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="lensfeed-nights-")))
        (history,) = make_histories([options.images], PIXELS, base.resolve()).values()
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="nights-", dir=history.parent)))
        found = run_nights(history, options.images, options.nights, options.rows, options.every, folder)
    packages = environment("pyspark", "delta-spark", "deltalake", "pyarrow", "numpy")
    report = {"environment": packages, "profile": PROFILE, "images": options.images, "rows": options.rows}
    publish(report | {"compared": compared(found["nights"], options.every)} | found, options.json)


if __name__ == "__main__":
    main()
