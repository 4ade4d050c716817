"""What the dedup stage costs, on made-up hashes that go through its own step and into its own tables.

    python -m benchmarks.dedup [--hashes 100000 ...] [--views 4] [--night 1000] [--chain 1000] [--clique 10000]
        [--json FILE]

* `full`: so many hashes at once into nothing, one in ten of them planted near another, at each distance from 0 to the
  rule's, with as many views each as `--views` says; `night`: as many again as `--night` says into that, made in the
  same way.
* `chain`: frames of a film over ten nights: each is near the two before it and far from all others.
* `clique`: variants of one image, all near one another, in one night; then a hundred more.

Of each run: wall seconds (stages and commits), CPU seconds of the process tree (workers that have ended meanwhile count
up to the last look at them), the most memory that one Python worker has held, the look-ups that it took, groups reached
without a change of their own, what was written to the tables, rows of buckets that met, pairs that were told.
`recall`, by distance: which share of the planted pairs stand in one cluster. Start-up is apart: the session is warm.
"""

import argparse
import datetime as dt
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as f
from pyspark.sql.pandas.types import to_arrow_schema

from benchmarks.process_tree import descendants
from benchmarks.report import environment, publish
from jobs.config.profile import Config, load
from jobs.config.progress import Progress
from jobs.run.context import Work
from jobs.run.duplicates import stage_duplicates
from jobs.run.names import Metric
from jobs.stages.dedup import hash_rows
from jobs.startup.session import LOCAL_JAVA_OPTIONS, THREAD_LIMITS, open_session
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Versions
from schemas.policy import Policy
from schemas.settings import HASHED_VIEWS, DedupSettings, HashedView
from schemas.spark import struct_type
from schemas.tables import IMAGES
from udfs.images.minhash import recall

PROFILE = "conf/local.yaml"
FIRST = dt.date(2026, 1, 1)
PLANTED_SHARE = 0.1
CHAIN_NIGHTS = 10
LATER_VARIANTS = 100
LOOK_EVERY_S = 0.2
TABLES_OF_DEDUP = ("image_hashes", "lsh_bands", "clusters")

AS_ON_A_CLUSTER = tuple(
    f"spark.properties.spark.{name}={value}"
    for name, value in {
        "sql.codegen.wholeStage": "true",
        "sql.codegen.factoryMode": "FALLBACK",
        "driver.extraJavaOptions": " ".join(one for one in LOCAL_JAVA_OPTIONS if "TieredStopAtLevel" not in one),
    }.items()
)
"""Expressions are compiled, and by both of Java's compilers: local mode leaves out either, for small nights."""

NO_COLOUR = b"\0\0"
"""Neither hue nor shades."""

Bits = NDArray[np.uint8]
"""(N, 320): the 64 bits of the short hash, then the 256 of the long one."""


def random_bits(count: int, random: np.random.Generator) -> Bits:
    """Hashes of unrelated images."""
    return random.integers(0, 2, (count, 320), dtype=np.uint8)


def moved(bits: Bits, near: NDArray[np.int64], far: NDArray[np.int64], random: np.random.Generator) -> Bits:
    """The same with so many bits of the short and of the long hash turned over, hash by hash."""
    turned = bits.copy()
    for columns, many in ((slice(0, 64), near), (slice(64, 320), far)):
        part = turned[:, columns]
        ranks = np.argsort(np.argsort(random.random(part.shape, dtype=np.float32), axis=1), axis=1)
        part ^= ranks < many[:, None]
    return turned


def planted(count: int, rule: DedupSettings, random: np.random.Generator) -> tuple[Bits, NDArray[np.int64]]:
    """Unrelated hashes, the last of which are near the first ones; the distances of those last."""
    near_ones = round(count * PLANTED_SHARE)
    bits = random_bits(count - near_ones, random)
    distances = np.arange(near_ones) % (rule.max_hamming + 1)
    far = np.minimum(4 * distances, rule.max_hamming256)
    return np.concatenate([bits, moved(bits[:near_ones], distances, far, random)]), distances


def film(frames: int, random: np.random.Generator) -> Bits:
    """Each frame turns three other bits of the short hash: two apart they are within 6, three apart most are not."""
    bits = np.repeat(random_bits(1, random), frames, axis=0)
    for frame in range(1, frames):
        bits[frame] = bits[frame - 1]
        bits[frame, random.choice(64, 3, replace=False)] ^= 1
    return bits


def variants(count: int, rule: DedupSettings, random: np.random.Generator) -> Bits:
    """Any two are within the rule: half of each distance from one image."""
    one = np.repeat(random_bits(1, random), count, axis=0)
    near = random.integers(0, rule.max_hamming // 2 + 1, count)
    return moved(one, near, random.integers(0, rule.max_hamming256 // 2 + 1, count), random)


class Tables:
    """Tables of a warehouse of its own, and nights into them."""

    def __init__(self, spark: SparkSession, config: Config, folder: Path, views: int = 1) -> None:
        self.config, self.views, self.random = config, views, np.random.default_rng(2)
        self.landing = Landing(spark, str(folder))
        self.landing.ensure_tables(TABLES_OF_DEDUP)
        self.images = self.nights = 0

    def night(self, bits: Bits) -> dict[str, Any]:
        """Images with these hashes become live, on a date of their own; what that costs."""
        landing, run_id = self.landing, f"night-{self.nights}"
        spark = landing.spark
        versions = Versions("policy", "gate", "model", "text", "rule", "canonical")
        policy = Policy.model_construct(name="none", rules=())
        work = Work(spark, landing, self.config, policy, versions, run_id, Progress("dedup"))
        live = self._live(work, bits)
        before = self._bytes()
        with watched() as costs:
            affected = work.keys("affected", live.select("image_id"))
            hashed = work.stage("image_hashes_before", work.past("image_hashes", affected))
            stage_duplicates(work, affected, hashed, live)
            work.write_plan()
            landing.apply(run_id)
        told = {
            name: sum(work.rows(path.name).rows for path in self._folder("_staging", run_id).glob(f"{name}_[0-9]*"))
            for name in ("met", "earlier", "neighbouring_heads")
        }
        landing.discard(run_id)
        self.images += len(bits)
        self.nights += 1
        rounds = {
            name.removeprefix("dedup."): work.metrics[name] for name in (Metric.DEDUP_ROUNDS, Metric.DEDUP_REACHED)
        }
        written = {f"{name}_bytes": size - before[name] for name, size in self._bytes().items()}
        return {"images": len(bits), **costs, **rounds, **told, **written}

    def clusters(self) -> dict[str, str]:
        """`image_id` -> representative."""
        rows = self.landing.read("clusters").select("image_id", "representative_id").toArrow().to_pydict()
        return dict(zip(rows["image_id"], rows["representative_id"], strict=True))

    def _live(self, work: Work, bits: Bits) -> Any:
        words = np.packbits(bits, axis=1)
        frame = pa.table(
            {
                "image_id": [f"{self.images + number:064x}" for number in range(len(bits))],
                "view_hashes": [[b"\0" + row.tobytes() + NO_COLOUR, *self._views()] for row in words],
            }
        )
        fields = struct_type(IMAGES)
        schema = type(fields)([fields[name] for name in frame.column_names])
        given = work.spark.createDataFrame(frame.cast(to_arrow_schema(schema)), schema)
        hashed = hash_rows(
            given.withColumns(
                {"canonical_version": f.lit("made up"), "flatness": f.lit(50.0), "sharpness": f.lit(1.0)}
            ),
            self.config.dedup,
        )
        date = FIRST + dt.timedelta(days=self.nights)
        return work.stage(
            "live",
            hashed.withColumns({"first_seen": f.lit(date), "source_pixels": f.lit(1_000_000), "is_live": f.lit(True)}),
        )

    def _views(self) -> list[bytes]:
        """Hashes of views that are near nothing."""
        others: tuple[HashedView, ...] = ("inner5", "inner10", "inner2", "whole", "object")  # as most images have them
        numbers = [HASHED_VIEWS.index(view) for view in others[: self.views - 1]]
        return [bytes([number]) + self.random.bytes(40) + NO_COLOUR for number in numbers]

    def _folder(self, *names: str) -> Path:
        return Path(self.landing.storage.root.removeprefix("file:"), *names)

    def _bytes(self) -> dict[str, int]:
        return {
            name: sum(path.stat().st_size for path in self._folder(name).rglob("*.parquet")) for name in TABLES_OF_DEDUP
        }


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Costs of what is done within, there once it has ended."""
    costs: dict[str, float] = {}
    spent: dict[Any, float] = {}
    largest, ended = [0], threading.Event()
    started = dict(descendants(os.getpid()))
    spent |= started

    def look() -> None:
        spent.update(descendants(os.getpid()))
        for process, _ in list(spent):
            largest[0] = max(largest[0], _resident_mib(process))

    def watch() -> None:
        while not ended.wait(LOOK_EVERY_S):
            look()

    watcher, begun, own = threading.Thread(target=watch), time.monotonic(), time.process_time()
    watcher.start()
    try:
        yield costs
    finally:
        wall, driver = time.monotonic() - begun, time.process_time() - own
        look()
        ended.set()
        watcher.join()
    cpu = sum(seconds - started.get(process, 0) for process, seconds in spent.items()) + driver
    costs |= {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1), "largest_worker_mib": largest[0]}


def _resident_mib(process: int) -> int:
    """What a Python process holds; 0 for another one, or where it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    if "python" not in status.partition("\n")[0] or "VmRSS:" not in status:  # ended, and not yet waited for
        return 0
    return int(status.partition("VmRSS:")[2].split(maxsplit=1)[0]) // 1024


def found_shares(
    clusters: dict[str, str], pairs: Sequence[tuple[int, int]], distances: NDArray[np.int64]
) -> dict[str, float]:
    """Share of the pairs (numbers of images) that stand in one cluster, by distance."""
    same = np.array([clusters[f"{a:064x}"] == clusters[f"{b:064x}"] for a, b in pairs])
    return {str(distance): round(float(same[distances == distance].mean()), 4) for distance in np.unique(distances)}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All that is asked for, in one session."""
    config = load(PROFILE, ["manifest.path=none", *(AS_ON_A_CLUSTER if options.hashes else ()), *options.set])
    rule, random = config.dedup, np.random.default_rng(1)
    spark = open_session(config)
    report: dict[str, Any] = {"rule": rule.model_dump()}
    with tempfile.TemporaryDirectory(prefix="lensfeed-dedup-") as name:
        # The first night of a session pays for its start.
        Tables(spark, config, Path(name, "warm")).night(random_bits(100, random))
        for count in options.hashes:
            tables = Tables(spark, config, Path(name, f"hashes-{count}"), options.views)
            bits, distances = planted(count, rule, random)
            full = tables.night(bits)
            pairs = list(zip(range(len(distances)), range(count - len(distances), count), strict=True))
            full["recall"] = found_shares(tables.clusters(), pairs, distances)
            full["recall_by_arithmetic"] = {
                str(distance): round(recall(int(distance), rule.bands, rule.rows), 4)
                for distance in np.unique(distances)
            }
            night = tables.night(planted(options.night, rule, random)[0]) if options.night else None
            report[f"hashes {count}"] = {"full": full} | ({"night": night} if night else {})
        if options.chain:
            tables = Tables(spark, config, Path(name, "chain"))
            frames = np.array_split(film(options.chain, random), CHAIN_NIGHTS)
            report["chain"] = {"nights": [tables.night(part) for part in frames]}
            report["chain"]["clusters"] = len(set(tables.clusters().values()))
        if options.clique:
            tables = Tables(spark, config, Path(name, "clique"))
            all_alike = variants(options.clique + LATER_VARIANTS, rule, random)
            parts = (all_alike[: options.clique], all_alike[options.clique :])
            report["clique"] = {"nights": [tables.night(part) for part in parts]}
            report["clique"]["clusters"] = len(set(tables.clusters().values()))
    spark.stop()
    return report


def main() -> None:
    """Measure, print, and write where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hashes", type=int, nargs="*", default=[], help="sizes of full runs")
    parser.add_argument("--views", type=int, default=1, help="hashes an image of these: of one planted, others of none")
    parser.add_argument("--night", type=int, default=0, help="images of a night into each of these")
    parser.add_argument("--chain", type=int, default=0, help="frames of a film")
    parser.add_argument("--clique", type=int, default=0, help="variants of one image")
    parser.add_argument("--set", action="append", default=[], help="a setting, as for a job")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    os.environ.update(THREAD_LIMITS)
    publish({"environment": environment("pyspark", "delta-spark", "numpy", "datasketch"), **run(options)}, options.json)


if __name__ == "__main__":
    main()
