"""The crawl beside img2dataset, on the same pictures from the same nginx: CPU an image, images a second.

`python -m benchmarks.crawl [--json FILE] [--few N --many N]` prints a JSON document. Every contender fetches a JPEG,
makes one of 384 pixels on the shorter side at quality 90 and stores it in Parquet with the SHA-256 of what was fetched;
the bare loops stop short of storing. Figures are slopes between two numbers of images, over the whole process tree,
with start-up beside: what it would cost to fetch none. The server's CPU is not counted.

Ours runs through Spark as the nightly job does, two tasks in local mode, with robots.txt, opt-outs, address checks,
byte caps, rate floor and retries on and without the content gate; the limits for one host are set so high that they do
not bind, since img2dataset has none. img2dataset 1.47.0 gets two processes of 64 threads, shards of 500 so that both
are busy to the end, and no EXIF to extract; it lives in a virtual environment made for it (needs the network once).

`--recrawl` measures something else: the crawl stage with its gate, as the local profile has it, over pages that it has
never seen, and over the same pages with the validators of the first time, all answered by 304.
"""

import argparse
import asyncio
import hashlib
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.picture_server import HOSTS, make_pictures, serving, urls
from benchmarks.process_tree import measured
from benchmarks.report import environment, publish
from schemas.settings import CrawlSettings
from udfs.urls import host_of, url_id

FEW, MANY = 5_000, 20_000
SIDE = 384
QUALITY = 90
PROCESSES = 2
PARALLEL = 64
"""Requests under way in each of them."""

PEER = "img2dataset==1.47.0"
PACKAGES = ("pyspark", "aiohttp", "pillow", "opencv-python-headless", "pyarrow")
PEER_SHARD = 500
CRAWL = CrawlSettings(
    allowed_networks=("127.0.0.0/8",), concurrency=PARALLEL, per_host_concurrency=PARALLEL, deadline_s=3600
)
MOST_CPU = 0.8
LEAST_SPEED = 1.2
"""What is aimed at, as parts of img2dataset's figures."""

FEW_PAGES, MANY_PAGES = 200, 800
MOST_RECRAWL_CPU = 1 / 3
"""What is aimed at for pages that have not changed, as a part of what they cost at first."""


def shorter_side(size: tuple[int, int]) -> tuple[int, int]:
    """`size` scaled to `SIDE` pixels on its shorter side."""
    scale = SIDE / min(size)
    return round(size[0] * scale), round(size[1] * scale)


def our_picture(data: bytes) -> tuple[bytes, int, bytes]:
    """The JPEG as the canonical step makes it, and its two hashes."""
    from udfs.images.canonical import rendered
    from udfs.images.decode import open_image

    image = open_image(data, CRAWL)
    made = rendered(image, shorter_side(image.size), QUALITY)
    return made.pixels, made.phash64, made.phash256


def opencv_picture(data: bytes) -> tuple[bytes, int, bytes]:
    """The JPEG as OpenCV makes it when used in the usual way, and the same hashes."""
    import cv2

    from udfs.images.phash import hash_pixels

    cv2.setNumThreads(1)
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    height, width = array.shape[:2]
    small = cv2.resize(array, shorter_side((width, height)), interpolation=cv2.INTER_AREA)
    pixels = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    hashes = hash_pixels(pixels)
    return pixels, hashes.phash64, hashes.phash256


# ---- contenders: each fetches what the list of URLs names, in processes of its own -----------------------------------


def fetch_with_lensfeed(listed: Path, stored: Path) -> None:
    """Crawl and canonical step of the nightly job, by themselves: fetch -> picture -> Parquet."""
    from pyspark.sql.pandas.functions import pandas_udf

    from jobs.config.profile import load
    from jobs.stages.crawl import spread_by_host
    from jobs.startup.session import open_session
    from schemas.arrow import ddl
    from udfs.crawl.fetch import FETCHED, fetch_batches

    def fetch(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return fetch_batches(batches, CRAWL, foreign_host_shards=PROCESSES)

    def picture(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        for bodies in batches:
            made = [our_picture(body) if body else (None, None, None) for body in bodies]
            yield pd.DataFrame(made, columns=["pixels", "phash64", "phash256"], dtype=object)

    spark = open_session(load("conf/local.yaml"))
    declare: Any = pandas_udf
    pictures = declare(picture, "pixels binary, phash64 bigint, phash256 binary").asNondeterministic()
    requests = spread_by_host(spark.read.parquet(str(listed)), PROCESSES, CRAWL.per_host_concurrency)
    fetched = requests.mapInArrow(fetch, ddl(FETCHED)).withColumn("made", pictures("body"))
    evidence = [name for name in fetched.columns if name not in {"body", "made"}]
    fetched.select(*evidence, "made.*").write.parquet(str(stored))
    spark.stop()


def crawl_and_gate_stage(listed: Path, stored: Path) -> None:
    """The crawl stage as a night runs it, gate and all, with the limits for a host lifted."""
    from jobs.config.profile import load, load_policy
    from jobs.stages.crawl import crawl_and_gate
    from jobs.startup.session import open_session

    config = load("conf/local.yaml")
    spark = open_session(config)
    crawl_and_gate(
        spark.read.parquet(str(listed)),
        policy=load_policy(config.policy),
        gate=config.policy,
        people={},
        crawl=CRAWL,
        images=config.images,
        tasks=PROCESSES,
        deadline_at=None,
    ).write.parquet(str(stored))
    spark.stop()


def fetch_bare(listed: Path, picture: Callable[[bytes], object]) -> None:
    """aiohttp, SHA-256 and `picture`, in two processes: no checks, no Spark, nothing stored."""
    found = pq.read_table(listed, columns=["url"])["url"].to_pylist()
    workers = [
        multiprocessing.Process(target=_bare_loop, args=(found[part::PROCESSES], picture)) for part in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit(f"a bare loop ended with exit code {worker.exitcode}")


def _bare_loop(part: list[str], picture: Callable[[bytes], object]) -> None:
    import aiohttp

    async def take(session: aiohttp.ClientSession, left: Iterator[str]) -> None:
        for url in left:
            async with session.get(url) as response:
                body = await response.read()
            hashlib.sha256(body).hexdigest()
            picture(body)

    async def take_all() -> None:
        left = iter(part)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(take(session, left) for _ in range(PARALLEL)))

    asyncio.run(take_all())


def peer_command(peer: Path, listed: Path, stored: Path) -> list[str]:
    """img2dataset's command line for the same work."""
    options = {
        "url_list": listed,
        "input_format": "parquet",
        "url_col": "url",
        "output_format": "parquet",
        "output_folder": stored,
        "processes_count": PROCESSES,
        "thread_count": PARALLEL,
        "number_sample_per_shard": PEER_SHARD,
        "image_size": SIDE,
        "resize_mode": "keep_ratio",
        "encode_quality": QUALITY,
        "compute_hash": "sha256",
        "extract_exif": False,
        "enable_wandb": False,
    }
    return [str(peer / "bin" / "img2dataset"), *(f"--{name}={value}" for name, value in options.items())]


def make_peer(folder: Path) -> Path:
    """img2dataset in a virtual environment of its own, made if it is not there."""
    if not (folder / "bin" / "img2dataset").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "-q", PEER], check=True)
    return folder


# ---- measuring -------------------------------------------------------------------------------------------------------


def own_command(name: str, listed: Path, stored: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.crawl", "--contender", name, str(listed), str(stored)]


def stored_pictures(folder: Path) -> int:
    """How many rows with a picture lie in a folder of Parquet files, by either name of that column."""
    total = 0
    for file in folder.glob("*.parquet"):
        table = pq.ParquetFile(file)
        column = "pixels" if "pixels" in table.schema_arrow.names else "jpg"
        total += sum(len(batch) - batch[column].null_count for batch in table.iter_batches(columns=[column]))
    return total


def list_urls(listed: Path, port: int, count: int) -> None:
    """The request table of `count` pictures, as a Parquet file."""
    wanted = urls(port, count)
    columns = {"url_id": list(map(url_id, wanted)), "url": wanted, "host": list(map(host_of, wanted))}
    pq.write_table(pa.table(columns), listed)


def compare(peer: Path, few: int, many: int) -> dict[str, Any]:
    """Figures of all contenders, one after the other at each size."""
    spent: dict[str, dict[int, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="lensfeed-crawl-") as name:
        folder = Path(name)
        sizes = make_pictures(folder / "pictures")
        with serving(folder) as port:
            for count in (few, many):
                listed = folder / f"{count}.parquet"
                list_urls(listed, port, count)
                stored = {who: folder / f"{who}-{count}" for who in ("lensfeed", "img2dataset")}
                commands = {
                    "lensfeed": own_command("lensfeed", listed, stored["lensfeed"]),
                    "img2dataset": peer_command(peer, listed, stored["img2dataset"]),
                    "bare loop, OpenCV": own_command("opencv", listed, folder),
                    "bare loop, our picture": own_command("picture", listed, folder),
                }
                for who, command in commands.items():
                    spent.setdefault(who, {})[count] = measured(command)
                    print(f"{who}, {count} images: {spent[who][count]}", file=sys.stderr)
                for who, where in stored.items():
                    if (found := stored_pictures(where)) != count:
                        raise SystemExit(f"{who} stored {found} pictures of {count}")
    figures = {who: _slopes(few, many, found) for who, found in spent.items()}
    ours, theirs = figures["lensfeed"], figures["img2dataset"]
    cpu = ours["cpu_ms_an_image"] / theirs["cpu_ms_an_image"]
    speed = ours["images_a_second"] / theirs["images_a_second"]
    return {
        "pictures": {"median_bytes": median(sizes), "mean_bytes": round(sum(sizes) / len(sizes)), "most": max(sizes)},
        "images": [few, many],
        "limits": f"{HOSTS} hosts; ours may open {PARALLEL} connections to each, so its limits for a host do not bind",
        "figures": figures,
        "cpu_of_img2dataset": {"found": round(cpu, 3), "at_most": MOST_CPU, "met": cpu <= MOST_CPU},
        "speed_of_img2dataset": {"found": round(speed, 3), "at_least": LEAST_SPEED, "met": speed >= LEAST_SPEED},
    }


def recrawl(few: int, many: int) -> dict[str, Any]:
    """Figures of the crawl stage over new pages, and over the same ones unchanged."""
    spent: dict[str, dict[int, dict[str, float]]] = {"first": {}, "unchanged": {}}
    with tempfile.TemporaryDirectory(prefix="lensfeed-crawl-") as name:
        folder = Path(name)
        make_pictures(folder / "pictures")
        with serving(folder) as port:
            for count in (few, many):
                listed, known = folder / f"{count}.parquet", folder / f"{count}-known.parquet"
                stored = {night: folder / f"{night}-{count}" for night in spent}
                list_urls(listed, port, count)
                spent["first"][count] = measured(own_command("stage", listed, stored["first"]))
                validators = pq.read_table(
                    stored["first"], columns=["url_id", "final_url", "etag", "last_modified", "image_id"]
                ).rename_columns(["url_id", "validated_url", "etag", "last_modified", "image_id"])
                pq.write_table(pq.read_table(listed).join(validators, "url_id"), known)
                spent["unchanged"][count] = measured(own_command("stage", known, stored["unchanged"]))
                confirmed = pq.read_table(stored["unchanged"], columns=["not_modified", "image_id"])
                if pc.sum(confirmed["not_modified"]).as_py() != count or confirmed["image_id"].null_count:
                    raise SystemExit(f"not all of {count} unchanged pages were confirmed by a 304")
    figures = {night: _slopes(few, many, found) for night, found in spent.items()}
    part = figures["unchanged"]["cpu_ms_an_image"] / figures["first"]["cpu_ms_an_image"]
    return {
        "pages": [few, many],
        "figures": figures,
        "cpu_s": {night: {str(count): one["cpu_s"] for count, one in found.items()} for night, found in spent.items()},
        "cpu_of_first": {
            "found": round(part, 3),
            "at_most": round(MOST_RECRAWL_CPU, 3),
            "met": part <= MOST_RECRAWL_CPU,
        },
    }


def _slopes(few: int, many: int, spent: dict[int, dict[str, float]]) -> dict[str, float]:
    cpu, wall = ((spent[many][unit] - spent[few][unit]) / (many - few) for unit in ("cpu_s", "wall_s"))
    return {
        "cpu_ms_an_image": round(cpu * 1e3, 2),
        "images_a_second": round(1 / wall, 1),
        "start_up_cpu_s": round(spent[few]["cpu_s"] - cpu * few, 1),
        "start_up_wall_s": round(spent[few]["wall_s"] - wall * few, 1),
    }


def main() -> None:
    """Measure, print, and write where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--recrawl", action="store_true", help="measure pages that have not changed instead")
    parser.add_argument("--few", type=int, help="images of the smaller run")
    parser.add_argument("--many", type=int, help="images of the larger run")
    default_peer = Path(tempfile.gettempdir()) / "lensfeed-img2dataset"
    parser.add_argument("--peer", type=Path, default=default_peer, help="img2dataset's virtual environment")
    parser.add_argument("--contender", nargs=3, metavar=("NAME", "URLS", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        name, listed, stored = options.contender
        contenders: dict[str, Callable[[], None]] = {
            "lensfeed": lambda: fetch_with_lensfeed(Path(listed), Path(stored)),
            "stage": lambda: crawl_and_gate_stage(Path(listed), Path(stored)),
            "opencv": lambda: fetch_bare(Path(listed), opencv_picture),
            "picture": lambda: fetch_bare(Path(listed), our_picture),
        }
        contenders[name]()
        return
    begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if options.recrawl:
        results = recrawl(options.few or FEW_PAGES, options.many or MANY_PAGES)
    else:
        results = compare(make_peer(options.peer), options.few or FEW, options.many or MANY)
    report = {"at": begun, "environment": environment(*PACKAGES) | {"peer": PEER}, **results}
    publish(report, options.json)


if __name__ == "__main__":
    main()
