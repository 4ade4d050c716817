"""How far a GPU is kept busy: the embedding stage through Spark, fed from an `images` table in Parquet, beside what the
model alone does on that GPU and what decoding alone does on that host's cores.

`python -m benchmarks.embed --device cuda [--json FILE]`. Rates are pictures a second of warm processes. Weights are
random: they cost what trained ones cost. The target is `end to end / min(forward, decode)` of at least 0.8.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from pyspark.sql import SparkSession
from safetensors.torch import save_file

from benchmarks.report import environment
from jobs.stages.embed import embed_images
from jobs.startup.session import THREAD_LIMITS, local_builder
from schemas.settings import AssetSettings, EmbeddingSettings
from tests.pictures import crops, encoded
from udfs.assets import locate, sha256_of
from udfs.embedding.embed import load_embedder
from udfs.embedding.vision import build, describe

MODELS = ("vit_base_patch16_224", "resnet50")
DISTINCT, ROWS, ROWS_A_FILE = 400, 40_000, 1_000
BATCH = 128
FORWARD_BATCHES = 50
SHARING = 4
"""Python workers to the GPU."""

Figures = dict[str, float]


def random_weights(name: str, folder: Path, device: str) -> EmbeddingSettings:
    """Settings of the model with random weights, as a GPU executor would have them."""
    torch.manual_seed(1)
    path = folder / f"{name}.safetensors"
    save_file(timm.create_model(name, pretrained=False).state_dict(), path)
    cores = os.cpu_count() or SHARING
    return EmbeddingSettings.model_validate(
        {
            "model": name,
            "weights": AssetSettings(path=str(path), sha256=sha256_of(path)),
            "licence": "none",
            "device": device,
            "dtype": "float16" if device == "cuda" else "float32",
            "batch_size": BATCH,
            "decode_threads": max(1, cores // SHARING - 1),
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


def forward_rate(settings: EmbeddingSettings, batches: int) -> float:
    """The model alone: one batch that lies on the device, again and again."""
    description, device = describe(settings), settings.device
    model = build(description, locate(settings.weights)).to(device, memory_format=torch.channels_last)
    batch = torch.rand(settings.batch_size, 3, *description.input_size, device=device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True
    with torch.inference_mode(), torch.autocast(device, getattr(torch, settings.dtype), settings.dtype != "float32"):
        for _ in range(max(1, batches // 5)):
            model(batch)
        _finish(device)
        start = time.perf_counter()
        for _ in range(batches):
            model(batch)
        _finish(device)
    return batches * settings.batch_size / (time.perf_counter() - start)


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def decode_rate(settings: EmbeddingSettings, pictures: Sequence[bytes], repeats: int) -> float:
    """Decoding and resizing alone, one process a core."""
    cores = os.cpu_count() or 1
    on_cpu = settings.model_copy(update={"device": "cpu", "dtype": "float32"})
    work = (on_cpu, list(pictures))
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_decode, [work] * cores, [1] * cores))  # imports, and the model that comes with the transform
        start = time.perf_counter()
        list(pool.map(_decode, [work] * cores, [repeats] * cores))
        return cores * repeats * len(pictures) / (time.perf_counter() - start)


def _decode(work: tuple[EmbeddingSettings, list[bytes]], repeats: int) -> None:
    settings, pictures = work
    embedder = load_embedder(settings)
    for picture in pictures * repeats:
        embedder.decode(picture)


def end_to_end_rate(spark: SparkSession, settings: EmbeddingSettings, folder: Path, rows: int) -> float:
    """Through Spark: Parquet in, vectors out; the second of two runs, with models loaded and kernels chosen."""
    images = spark.read.parquet(str(folder))
    for _ in range(2):
        start = time.perf_counter()
        # Four partitions a worker: the last ones to finish leave the GPU less idle.
        embed_images(images, settings, 4 * SHARING).write.format("noop").mode("overwrite").save()
        seconds = time.perf_counter() - start
    return rows / seconds


def measure(
    models: Sequence[str], device: str, rows: int = ROWS, forward_batches: int = FORWARD_BATCHES
) -> dict[str, Any]:
    """All figures, by model."""
    os.environ.update(THREAD_LIMITS, PYSPARK_PYTHON=sys.executable)
    pictures = [encoded(crop.resize((512, 384)), quality=90) for crop in islice(crops(256), DISTINCT)]
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "images"
        table.mkdir()
        write_images(table, pictures, rows)
        builder = local_builder(f"local[{SHARING}]", Path(".assets/jars"), "")
        session = builder.config("spark.driver.memory", "4g").getOrCreate()
        for name in models:
            settings = random_weights(name, Path(scratch), device)
            rates = {
                "forward": forward_rate(settings, forward_batches),
                "decode": decode_rate(settings, pictures, max(1, rows // len(pictures) // (os.cpu_count() or 1))),
                "end to end": end_to_end_rate(session, settings, table, rows),
            }
            share = rates["end to end"] / min(rates["forward"], rates["decode"])
            found[name] = {key: round(rate, 1) for key, rate in rates.items()} | {"share": round(share, 3)}
        session.stop()
    return {
        "environment": environment("torch", "timm", "pyspark", "pillow")
        | {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"},
        "mean_bytes": round(sum(map(len, pictures)) / len(pictures)),
        "batch": BATCH,
        "workers to the device": SHARING,
        "pictures a second": found,
    }
