"""What one vector costs on a CPU: `embed_batches`, and the stage through Spark, beside a bare timm loop;
`embed_text_batches` beside sentence-transformers; and what it costs a fresh process to get so far.

`python -m benchmarks.embed [--json FILE]` prints a JSON document. Costs are slopes, one thread, same JPEG bytes: what
more items cost once the model is loaded. Needs `make setup`. For a GPU there is `benchmarks.embed_gpu`.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from PIL import Image
from pyspark.sql import SparkSession
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config

from benchmarks.process_tree import descendants
from benchmarks.report import environment, publish
from jobs.stages.embed import embed_images
from jobs.startup.session import THREAD_LIMITS, local_builder
from schemas.assets import ALL_MINILM_L6_V2, EFFICIENTNET_LITE0
from schemas.settings import EmbeddingSettings, TextSettings
from tests.pictures import crops, encoded
from udfs.embedding.embed import embed_batches
from udfs.embedding.text import embed_text_batches

ASSETS = Path(".assets")
VISUAL = EmbeddingSettings(weights=EFFICIENTNET_LITE0.settings(ASSETS), licence="Apache-2.0", device="cpu")
TEXTUAL = TextSettings(weights=ALL_MINILM_L6_V2.settings(ASSETS), licence="Apache-2.0", device="cpu")
FEW, MANY = 16, 64
FEW_TEXTS, MANY_TEXTS = 200, 600
ROUNDS = 5
FEW_SPARK, MANY_SPARK, ROUNDS_SPARK = 60, 360, 3
LARGE_BATCH = 32
THROUGH_SPARK, BARE = "embed_images through Spark", f"bare timm loop, batch {VISUAL.cpu_batch_size}"
MOST_OF_BARE_LOOP = 1.1
SENTENCE = "a photograph of one small cat that sits on the old sofa and looks out of the window at birds"

Work = Callable[[int], object]
"""Embeds this many items."""


def slopes(
    contenders: dict[str, Work],
    few: int,
    many: int,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """CPU milliseconds an item of each, taken in turns, from the best of the rounds at each of two sizes."""
    best: dict[tuple[str, int], float] = {}
    for work in contenders.values():
        work(few)
    for _ in range(rounds):
        for name, work in contenders.items():
            for count in (few, many):
                start = clock()
                work(count)
                spent = clock() - start
                best[name, count] = min(spent, best.get((name, count), spent))
    return {name: round((best[name, many] - best[name, few]) / (many - few) * 1e3, 2) for name in contenders}


def tree_cpu_s() -> float:
    """CPU seconds of this process, the JVM that it started and the JVM's Python workers, which live as long as it."""
    return time.process_time() + sum(spent for _, spent in descendants(os.getpid()))


def through_spark(spark: SparkSession, images: Sequence[bytes], folder: Path) -> Work:
    """The embedding stage in local mode with one core: Parquet in, vectors thrown away."""
    for count in (FEW_SPARK, MANY_SPARK):
        table = pa.table({"image_id": list(map(str, range(count))), "pixels": pa.array(images[:count], pa.binary())})
        pq.write_table(table, folder / f"{count}.parquet", compression="none")

    def work(count: int) -> None:
        frame = spark.read.parquet(str(folder / f"{count}.parquet"))
        embed_images(frame, VISUAL, 1).write.format("noop").mode("overwrite").save()

    return work


def spark_slopes(images: Sequence[bytes]) -> dict[str, float]:
    """The embedding stage through Spark beside the bare loop, whole process trees."""
    supply = list(islice(cycle(images), MANY_SPARK))
    session = local_builder("local[1]", ASSETS / "jars", "").getOrCreate()
    with tempfile.TemporaryDirectory() as folder:
        contenders = {
            THROUGH_SPARK: through_spark(session, supply, Path(folder)),
            BARE: bare_timm(supply, VISUAL.cpu_batch_size),
        }
        found = slopes(contenders, FEW_SPARK, MANY_SPARK, ROUNDS_SPARK, tree_cpu_s)
    session.stop()
    return found


def ours(images: Sequence[bytes]) -> Work:
    """Through `embed_batches`, Arrow in and out."""

    def work(count: int) -> None:
        keys, pixels = pa.array(map(str, range(count)), pa.string()), pa.array(images[:count], pa.binary())
        list(embed_batches([pa.RecordBatch.from_arrays([keys, pixels], names=["image_id", "pixels"])], VISUAL))

    return work


def bare_timm(images: Sequence[bytes], batch: int) -> Work:
    """timm as its documentation uses it: its own transform an image, one forward a batch, vectors left in torch."""
    model = timm.create_model(VISUAL.model, pretrained=False)
    model.load_state_dict(load_file(VISUAL.weights.path))
    model.reset_classifier(0)
    model = model.eval().to(memory_format=torch.channels_last)
    transform = create_transform(**resolve_model_data_config(model), is_training=False)

    @torch.inference_mode()
    def work(count: int) -> None:
        for start in range(0, count, batch):
            part = images[start : min(start + batch, count)]
            tensors = [transform(Image.open(io.BytesIO(image)).convert("RGB")) for image in part]
            model(torch.stack(tensors).contiguous(memory_format=torch.channels_last))

    return work


def our_text(texts: Sequence[str]) -> Work:
    """Through `embed_text_batches`, Arrow in and out."""

    def work(count: int) -> None:
        columns = [pa.array(map(str, range(count)), pa.string()), pa.array(texts[:count], pa.string())]
        list(embed_text_batches([pa.RecordBatch.from_arrays(columns, names=["text_id", "text"])], TEXTUAL))

    return work


def sentence_transformers(texts: Sequence[str], folder: str) -> Work:
    """sentence-transformers as its documentation uses it."""
    from sentence_transformers import SentenceTransformer

    with zipfile.ZipFile(TEXTUAL.weights.path) as packed:
        packed.extractall(folder)
    model = SentenceTransformer(folder, device="cpu")
    return lambda count: model.encode(texts[:count], normalize_embeddings=True, show_progress_bar=False)


def start_up(code: str) -> float:
    """CPU seconds of a fresh Python process that runs `code` and ends."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = os.times()
    return round(after.children_user + after.children_system - before.children_user - before.children_system, 1)


def start_ups() -> dict[str, float]:
    """CPU seconds until the first vector could be made."""
    visual = (
        "from schemas.settings import EmbeddingSettings; from udfs.embedding.embed import load_embedder\n"
        f"load_embedder(EmbeddingSettings.model_validate_json({VISUAL.model_dump_json()!r}))\n"
    )
    textual = (
        "from schemas.settings import TextSettings; from udfs.embedding.text import load_text_embedder\n"
        f"load_text_embedder(TextSettings.model_validate_json({TEXTUAL.model_dump_json()!r}))\n"
    )
    codes = {
        "visual tower": visual,
        "text tower": textual,
        "both towers in one process": visual + textual,
        "import torch": "import torch",
        "import timm": "import timm",
        "import sentence_transformers": "import sentence_transformers",
    }
    return {name: start_up(code) for name, code in codes.items()}


def main() -> None:
    """Measure, print, and write where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    publish(on_cpu(), options.json)


def on_cpu() -> dict[str, Any]:
    """Both towers against their peers, and what starting them costs."""
    os.environ.update(THREAD_LIMITS, TRANSFORMERS_OFFLINE="1")
    torch.set_num_threads(1)
    photographs = [image.resize((512, 384)) for image, _ in zip(crops(256), range(MANY), strict=False)]
    images = [encoded(image, quality=90) for image in photographs]
    words = SENTENCE.split()
    texts = [" ".join(words[: 4 + index % len(words)]) for index in range(MANY_TEXTS)]
    # First what runs in the stage's own worker: `embed_batches` leaves a process with the heap that it likes, and the
    # bare loop shall have it as it comes.
    trees = spark_slopes(images)
    visual = slopes(
        {
            "embed_batches": ours(images),
            BARE: bare_timm(images, VISUAL.cpu_batch_size),
            f"bare timm loop, batch {LARGE_BATCH}": bare_timm(images, LARGE_BATCH),
        },
        FEW,
        MANY,
    )
    with tempfile.TemporaryDirectory() as folder:
        contenders = {"embed_text_batches": our_text(texts), "encode": sentence_transformers(texts, folder)}
        textual = slopes(contenders, FEW_TEXTS, MANY_TEXTS)
    return {
        "environment": environment("torch", "timm", "transformers", "sentence-transformers", "pillow", "pyspark"),
        "model": {"visual": VISUAL.model, "text": TEXTUAL.model},
        "mean_bytes": round(sum(map(len, images)) / len(images)),
        "CPU ms an image, process trees": trees,
        "through Spark, of the bare loop": {
            "found": round(trees[THROUGH_SPARK] / trees[BARE], 3),
            "at_most": MOST_OF_BARE_LOOP,
            "met": trees[THROUGH_SPARK] <= MOST_OF_BARE_LOOP * trees[BARE],
        },
        "CPU ms an image, one process": visual,
        "CPU ms a text": textual,
        "CPU s to start": start_ups(),
    }


if __name__ == "__main__":
    main()
