"""What it costs to land a night's sightings, beside a plain Parquet write of the same rows.

    python -m benchmarks.landing [--rows 250000 1000000] [--folder DIR] [--json FILE]

Made-up rows of `sightings`, all of one date, are staged, as a run stages them. Of each number of rows: wall seconds and
CPU seconds (of this process, which runs Spark, with all that it started) to read them and write them as plain Parquet;
the same sorted within each file by URL, as the tables' files are (`sorted_by`); and `Landing.apply` of a plan that puts
them into the table in place of the date's rows. The three take turns, and of each the best of `PASSES` counts.
`slopes`: microseconds a row between the two numbers of rows, and how many times those of a plain write they are, so
that what a write costs whatever its size is left out.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from benchmarks.process_tree import descendants
from benchmarks.report import environment, publish
from benchmarks.synthetic_warehouse import FIRST, sighting_rows
from jobs.config.profile import load
from jobs.startup.session import open_session
from jobs.warehouse.landing import Landing, StagedTable, set_pages
from schemas.tables import SIGHTINGS

PASSES = 4

Spent = dict[str, float]
"""`wall_s` and `cpu_s`."""


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="benchmarks.landing", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, nargs=2, default=[250_000, 1_000_000], help="two numbers of rows")
    parser.add_argument("--folder", type=Path, help="where the tables lie meanwhile; 3 kB a row")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args()
    spark = open_session(load("conf/local.yaml"))
    report: dict[str, Any] = {"environment": environment("pyspark", "delta-spark"), "ways": {}}
    for rows in sorted(options.rows):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            report["ways"][str(rows)] = measured(spark, rows, Path(folder))
        print(rows, report["ways"][str(rows)], flush=True)
    publish(report | {"slopes": slopes(report["ways"])}, options.json)


def measured(spark: SparkSession, rows: int, folder: Path) -> dict[str, Spent]:
    """The best of several passes of each way to write so many rows."""
    landing = Landing(spark, str(folder / "warehouse"))
    landing.ensure_tables([SIGHTINGS.name])
    session = spark.newSession()
    set_pages(session, SIGHTINGS)
    staged = folder / "staged"
    sighting_rows(spark, rows).write.parquet(str(staged))

    def plain(*, is_sorted: bool) -> Callable[[], object]:
        def write() -> None:
            frame = session.read.parquet(str(staged))
            frame = frame.sortWithinPartitions(str(SIGHTINGS.sorted_by)) if is_sorted else frame
            frame.write.mode("overwrite").parquet(str(folder / "plain"))

        return write

    plainly = {"plain": plain(is_sorted=False), "plain, sorted": plain(is_sorted=True)}
    found: dict[str, list[Spent]] = {name: [] for name in (*plainly, "landed")}
    for run in map(str, range(PASSES)):  # each is applied once
        landing.stage(run, SIGHTINGS.name, spark.read.parquet(str(staged)))
        landing.write_plan(run, [StagedTable(SIGHTINGS.name, SIGHTINGS.name, rows, dates=(FIRST.isoformat(),))])
        for name, write in (plainly | {"landed": partial(landing.apply, run)}).items():
            found[name].append(spent(write))
        landing.discard(run)
        landing.purge([SIGHTINGS.name])  # what the pass before has written
        shutil.rmtree(folder / "plain")
    if (there := landing.read(SIGHTINGS.name).count()) != rows:
        raise RuntimeError(f"landed: expected {rows} rows, found {there}")
    return {
        name: {key: round(min(one[key] for one in passes), 2) for key in passes[0]} for name, passes in found.items()
    }


def spent(act: Callable[[], object]) -> Spent:
    """Seconds that something takes: by the clock, and of processors."""
    begun, before = time.perf_counter(), _cpu_s()
    act()
    return {"wall_s": time.perf_counter() - begun, "cpu_s": _cpu_s() - before}


def _cpu_s() -> float:
    return time.process_time() + sum(spent for _, spent in descendants(os.getpid()))


def slopes(ways: Mapping[str, Mapping[str, Spent]]) -> dict[str, dict[str, float]]:
    """Of each way: microseconds a row, between the fewest and the most rows, and their ratio to a plain write's."""
    sizes: Sequence[int] = sorted(map(int, ways))
    less, more = ways[str(sizes[0])], ways[str(sizes[-1])]
    found: dict[str, dict[str, float]] = {}
    for name in more:
        found[name] = {}
        for key in more[name]:
            slope, of_plain = ((more[one][key] - less[one][key]) / (sizes[-1] - sizes[0]) for one in (name, "plain"))
            found[name] |= {f"{key.removesuffix('_s')}_us": round(slope * 1e6, 2)}
            found[name] |= {f"{key.removesuffix('_s')}_ratio": round(slope / of_plain, 3)}
    return found


if __name__ == "__main__":
    main()
