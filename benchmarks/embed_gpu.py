"""What a GPU does for the job: the forward pass of every candidate beside that card's own ceiling, open_nsfw beside
ONNX Runtime on a core, and the embedding stage through Spark beside what model and decoding reach alone.

`python -m benchmarks.embed_gpu [--parts spark forward gate] [--json FILE]`, on a machine with an NVIDIA GPU. Rates are
images a second of warm processes. Weights are random (they cost what trained ones cost), but for open_nsfw's. The
target is `end to end / min(forward, decode)` of at least 0.8, with the sharing of conf/nightly-gpu.yaml. Each part is
printed as it is done: a sharing takes a minute, a compiled model half a minute.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from safetensors.torch import save_file

from benchmarks.report import environment, publish
from jobs.evaluation.candidates import Candidate, load_candidates, shape
from jobs.stages.embed import embed_images
from jobs.startup.session import THREAD_LIMITS, local_builder
from schemas.assets import OPEN_NSFW
from schemas.settings import AssetSettings, EmbeddingSettings
from tests.pictures import crops, encoded, names, photograph
from udfs.assets import locate, sha256_of
from udfs.devices import Device
from udfs.embedding.embed import in_format, load_embedder
from udfs.embedding.pixels import preparation
from udfs.embedding.vision import build, describe
from udfs.gate.nsfw import load_detector, preprocess

ASSETS = Path(".assets")
SHIPPED = 8
"""Python workers to the GPU in conf/nightly-gpu.yaml."""
SHARINGS = {"vit_base_patch16_siglip_224.webli": (SHIPPED, 4)}
"""Python workers to the GPU to try through Spark, by model; these models are compiled too."""
PARTS = ("spark", "forward", "gate")
DISTINCT, ROWS, ROWS_A_FILE = 400, 30_000, 1_000
BATCH = 128
SECONDS, WARM_UP, LEAST_BATCHES = 2.0, 5, 10
SIDE_OF_PRODUCT = 8192
GATE_BATCHES = 40
TARGET = 0.8

Figures = dict[str, float]


def embedding(model: str, folder: Path, device: Device) -> EmbeddingSettings:
    """Settings of the model with random weights, as a GPU executor would have them but for its decoding threads."""
    path = folder / f"{model}.safetensors"
    if not path.exists():
        torch.manual_seed(1)
        save_file(timm.create_model(model, pretrained=False).state_dict(), path)
    return EmbeddingSettings.model_validate(
        {
            "model": model,
            "weights": AssetSettings(path=str(path), sha256=sha256_of(path)),
            "licence": "none",
            "device": device,
            "dtype": "float16" if device == "cuda" else "float32",
            "batch_size": BATCH,
        }
    )


def write_images(folder: Path, pictures: Sequence[bytes], rows: int) -> None:
    """An `images` table's columns that the stage reads, in files of `ROWS_A_FILE` rows."""
    supply = cycle(pictures)
    for start in range(0, rows, ROWS_A_FILE):
        count = min(ROWS_A_FILE, rows - start)
        ids = [f"{start + index:064x}" for index in range(count)]
        table = pa.table({"image_id": ids, "pixels": pa.array(islice(supply, count), pa.binary())})
        pq.write_table(table, folder / f"{start:08d}.parquet", compression="none", row_group_size=256)


def repeated(work: Callable[[], object], device: Device, seconds: float) -> float:
    """Calls of `work` a second, over at least so many seconds after a warm-up; the device is waited for at the end."""
    for _ in range(WARM_UP):
        work()
    _finish(device)
    start = time.perf_counter()
    work()
    _finish(device)
    calls = max(LEAST_BATCHES, round(seconds / (time.perf_counter() - start)))
    start = time.perf_counter()
    for _ in range(calls):
        work()
    _finish(device)
    return calls / (time.perf_counter() - start)


def _finish(device: Device) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def ceiling(device: Device, seconds: float) -> float:
    """TFLOP/s of a large float16 matrix product of random numbers: what the card gives at best."""
    side = SIDE_OF_PRODUCT if device == "cuda" else SIDE_OF_PRODUCT // 16
    factor = torch.randn(side, side, device=device, dtype=torch.float16 if device == "cuda" else torch.float32)
    return repeated(lambda: factor @ factor, device, seconds) * 2 * side**3 / 1e12


def forward_rate(settings: EmbeddingSettings, seconds: float, compiled: bool = False) -> float:
    """The model alone: one batch that lies on the device, again and again."""
    description = describe(settings)
    device: Device = "cuda" if settings.device == "cuda" else "cpu"
    model = build(description, locate(settings.weights)).to(device, memory_format=torch.channels_last)
    run = in_format(model, device, settings.dtype)
    run = torch.compile(run) if compiled else run
    batch = torch.rand(settings.batch_size, 3, *description.input_size, device=device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True
    with torch.inference_mode():
        return repeated(lambda: run(batch), device, seconds) * settings.batch_size


def forward_rates(candidates: Sequence[Candidate], folder: Path, device: Device, seconds: float) -> dict[str, Figures]:
    """Forward passes of the candidates' models, as they come and compiled, and what 1e9 images cost at that."""
    best = ceiling(device, seconds)
    found: dict[str, Figures] = {"a matrix product": {"TFLOP/s": round(best, 1)}}
    for candidate in candidates:
        settings, operations = embedding(str(candidate.model), folder, device), 2 * shape(candidate).gmacs / 1e3
        rate = forward_rate(settings, seconds)
        found[candidate.name] = {
            "images/s": round(rate, 1),
            "TFLOP/s": round(rate * operations, 1),
            "of the matrix product": round(rate * operations / best, 3),
            "GPU-hours for 1e9": round(1e9 / rate / 3600, 1),
        }
        if candidate.model in SHARINGS and device == "cuda":
            compiled = forward_rate(settings, seconds, compiled=True)
            found[candidate.name]["compiled, images/s"] = round(compiled, 1)
    return found


def gate_rates(device: Device, batches: int) -> Figures:
    """Views that open_nsfw judges a second, copies included, and how far its scores are from those of a core."""
    weights = OPEN_NSFW.settings(ASSETS)
    views = [preprocess(photograph(name)) for name in names()]
    on_device, on_core = load_detector(weights, device), load_detector(weights, "cpu")
    batch = np.stack(list(islice(cycle(views), on_device.batch_size)))
    apart = np.abs(on_device.score(np.stack(views)) - on_core.score(np.stack(views)))

    def rate(forward: Callable[[Any], object], given: Any, times: int) -> float:
        forward(given)
        start = time.perf_counter()
        for _ in range(times):
            forward(given)
        return times * len(given) / (time.perf_counter() - start)

    return {
        "batch": on_device.batch_size,
        "views/s": round(rate(on_device.forward, batch, batches), 1),
        "views/s of ONNX Runtime on one core": round(rate(on_core.forward, batch[:1], batches), 1),
        "largest difference of scores": float(apart.max()),
    }


def decode_rate(settings: EmbeddingSettings, beside: Device, pictures: Sequence[bytes], repeats: int) -> float:
    """Decoding and resizing alone, one process a core, as it is done beside a model on a CPU or on a GPU."""
    cores = os.cpu_count() or 1
    on_cpu = settings.model_copy(update={"device": "cpu", "dtype": "float32"})
    work = (on_cpu, beside, list(pictures))
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_decode, [work] * cores, [1] * cores))  # imports, and the model that comes with the transform
        start = time.perf_counter()
        list(pool.map(_decode, [work] * cores, [repeats] * cores))
        return cores * repeats * len(pictures) / (time.perf_counter() - start)


def _decode(work: tuple[EmbeddingSettings, Device, list[bytes]], repeats: int) -> None:
    settings, beside, pictures = work
    embedder = load_embedder(settings)
    embedder = replace(embedder, preparation=preparation(embedder.description, beside))
    for picture in pictures * repeats:
        embedder.decode(picture)


def end_to_end_rates(settings: EmbeddingSettings, sharing: int, folder: Path, rows: int) -> Figures:
    """Through Spark: Parquet in, vectors out; the second of two runs, with models loaded and kernels chosen. The whole,
    and the last stage by itself: what comes before deals the images out, on a cluster by executors without a GPU."""
    threads = max(1, (os.cpu_count() or sharing) // sharing)  # a worker's own thread mostly waits
    shared = settings.model_copy(update={"decode_threads": threads})
    builder = local_builder(f"local[{sharing}]", ASSETS / "jars", "")
    logs = Path(tempfile.mkdtemp(dir=folder.parent))
    logged = {"enabled": "true", "compress": "false", "rolling.enabled": "false", "dir": logs.as_uri()}
    builder = builder.config(map={f"spark.eventLog.{name}": value for name, value in logged.items()})
    session = builder.config("spark.driver.memory", "4g").getOrCreate()
    images = session.read.parquet(str(folder))
    for _ in range(2):
        start = time.perf_counter()
        # Four partitions a worker: the last ones to finish leave the GPU less idle.
        embed_images(images, shared, 4 * sharing).write.format("noop").mode("overwrite").save()
        seconds = time.perf_counter() - start
    session.stop()
    found = {"whole": round(rows / seconds, 1), "stage": round(rows / seconds_of_last_stage(next(logs.iterdir())), 1)}
    print(f"{sharing} workers of {threads} threads: {found}", file=sys.stderr, flush=True)
    return found


def seconds_of_last_stage(log: Path) -> float:
    """Of an application's event log, written whole and uncompressed."""
    events = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    *_, last = (event["Stage Info"] for event in events if event["Event"] == "SparkListenerStageCompleted")
    return float(last["Completion Time"] - last["Submission Time"]) / 1e3


def through_spark(sharings: Mapping[str, tuple[int, ...]], folder: Path, device: Device, rows: int) -> dict[str, Any]:
    """The stage from end to end, beside forward pass and decoding alone."""
    pictures = [encoded(crop.resize((512, 384)), quality=90) for crop in islice(crops(256), DISTINCT)]
    table = folder / "images"
    table.mkdir()
    write_images(table, pictures, rows)
    found: dict[str, Any] = {"mean bytes": round(sum(map(len, pictures)) / len(pictures)), "batch": BATCH}
    for model, tried in sharings.items():
        settings = embedding(model, folder, device)
        forward = forward_rate(settings, SECONDS)
        repeats = max(1, rows // len(pictures) // (os.cpu_count() or 1))
        decode, by_pillow = (decode_rate(settings, beside, pictures, repeats) for beside in (device, "cpu"))
        rates = {f"{sharing} workers": end_to_end_rates(settings, sharing, table, rows) for sharing in tried}
        shares = {
            way: {part: round(rate / min(forward, decode), 3) for part, rate in both.items()}
            for way, both in rates.items()
        }
        found[model] = {
            "forward, images/s": round(forward, 1),
            "decode, images/s": round(decode, 1),
            "decode as beside a CPU, images/s": round(by_pillow, 1),
            "through Spark, images/s": rates,
            "of the slower of the two": shares,
            "at_least": TARGET,
            "met": shares[f"{tried[0]} workers"]["whole"] >= TARGET,
        }
    return found


def measure(
    parts: Sequence[str],
    candidates: Sequence[Candidate],
    sharings: Mapping[str, tuple[int, ...]],
    device: Device,
    rows: int = ROWS,
    seconds: float = SECONDS,
    gate_batches: int = GATE_BATCHES,
) -> dict[str, Any]:
    """The figures of these parts, printed one by one."""
    os.environ.update(THREAD_LIMITS, PYSPARK_PYTHON=sys.executable)
    found: dict[str, Any] = {
        "environment": environment("torch", "timm", "pyspark", "pillow")
        | {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ways: dict[str, Callable[[], dict[str, Any]]] = {
            "spark": lambda: through_spark(sharings, folder, device, rows),
            "forward": lambda: forward_rates(candidates, folder, device, seconds),
            "gate": lambda: gate_rates(device, gate_batches),
        }
        for part in parts:
            found[part] = ways[part]()
            print(json.dumps({part: found[part]}), file=sys.stderr, flush=True)
    return found


def timm_candidates() -> list[Candidate]:
    """Those of conf/compare.yaml, each model once."""
    found = [candidate for candidate in load_candidates("conf/compare.yaml") if candidate.kind == "timm"]
    return list({candidate.model: candidate for candidate in reversed(found)}.values())[::-1]


def main() -> None:
    """Measure, print, and write where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure, in this order")
    options = parser.parse_args()
    publish(measure(options.parts, timm_candidates(), SHARINGS, "cuda"), options.json)


if __name__ == "__main__":
    main()
