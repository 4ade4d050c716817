"""A Spark application on a cluster of processes on this machine, whose workers have a GPU each by name only.

`python -m tests.cluster.session FOLDER` takes settings, golden vectors and pictures from the folder, runs the embedding
stage there in several ways, and leaves what it saw in `report.json`.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
from pyspark import TaskContext
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, SparkSession

from jobs.config.profile import load
from jobs.stages.embed import embed_images, embedding_profile
from jobs.startup.session import open_session
from schemas.settings import EmbeddingSettings
from udfs.assets import shipped_name
from udfs.embedding.embed import EMBEDDED_DDL, embed_batches
from udfs.embedding.golden import Golden

ROOT = Path(__file__).parents[2]
PROPERTIES = {
    # The driver is no spark-submit: what the executors import lies here.
    "spark.executorEnv.PYTHONPATH": str(ROOT),
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.sql.shuffle.partitions": "2",
    # An executor of each kind fits on each worker, so that no stage waits for another's executors to be given up.
    "spark.executor.cores": "1",
    "spark.executor.memory": "512m",
    "spark.dynamicAllocation.enabled": "true",
    "spark.dynamicAllocation.shuffleTracking.enabled": "true",
    "spark.dynamicAllocation.initialExecutors": "2",
    "spark.dynamicAllocation.maxExecutors": "2",
    "spark.locality.wait": "0",
    "spark.worker.resource.gpu.amount": "1",
    "spark.worker.resource.gpu.discoveryScript": str(ROOT / "conf" / "discover_gpus.sh"),
}

Batches = Iterator[pa.RecordBatch]


def seen() -> str:
    """What this task may know of GPUs: Spark's assignment, and what CUDA would be shown."""
    context = TaskContext.get()
    assert context is not None
    assigned = {name: list(resource.addresses) for name, resource in context.resources().items()}
    return json.dumps({"assigned": assigned, "visible": os.environ.get("CUDA_VISIBLE_DEVICES")})


def on_a_cpu(batches: Batches) -> Batches:
    """A stage before the embedding: notes what it sees beside each picture."""
    for batch in batches:
        note = pa.array([seen()] * batch.num_rows)
        yield pa.RecordBatch.from_arrays([*batch.columns, note], names=["image_id", "pixels", "before"])


def noting(settings: EmbeddingSettings) -> Callable[[Batches], Batches]:
    """The embedding, with what it sees beside each vector."""

    def noted(batches: Batches) -> Batches:
        for batch in batches:
            [embedded] = embed_batches([batch], settings)
            columns = [embedded.column("image_id"), batch.column("before"), pa.array([seen()] * batch.num_rows)]
            yield pa.RecordBatch.from_arrays(columns, names=["image_id", "before", "within"])

    return noted


def killed_once(settings: EmbeddingSettings, marker: str, kill: Callable[[], None]) -> Callable[[Batches], Batches]:
    """The embedding in a worker that calls `kill` after its first batch, the first time that any gets so far."""

    def dying(batches: Batches) -> Batches:
        for batch in embed_batches(batches, settings):
            yield batch
            try:
                Path(marker).mkdir()
            except FileExistsError:
                continue
            kill()

    return dying


def kill_worker() -> None:
    """This Python worker."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_executor() -> None:
    """The JVM that this Python worker's daemon belongs to."""
    daemon = psutil.Process().parent()
    executor = daemon and daemon.parent()
    assert executor is not None
    assert "java" in executor.name()
    executor.kill()


def other_bytes(spark: SparkSession, settings: EmbeddingSettings, folder: Path) -> EmbeddingSettings:
    """The settings with weights of another digest, under whose name something else was shipped."""
    pinned = settings.weights.model_copy(update={"sha256": "f" * 64})
    file = folder / shipped_name(pinned)
    file.write_bytes(b"other bytes")
    spark.sparkContext.addFile(str(file))
    return settings.model_copy(update={"weights": pinned})


def failure(frame: DataFrame) -> str:
    """What the stage fails with."""
    try:
        frame.collect()
    except PythonException as error:
        return str(error)
    return "did not fail"


def rows(frame: DataFrame) -> list[dict[str, Any]]:
    return [row.asDict() for row in frame.collect()]


def main(folder: Path) -> None:
    config = load(str(ROOT / "conf" / "local.yaml"))
    settings = EmbeddingSettings.model_validate_json((folder / "settings.json").read_text())
    samples, vectors = json.loads((folder / "golden.json").read_text())
    golden = Golden(samples, tuple(map(tuple, vectors)))
    spark = open_session(
        config.model_copy(
            update={
                "embedding": settings,
                "spark": config.spark.model_copy(
                    update={"master": "local-cluster[2,2,1024]", "properties": PROPERTIES}
                ),
            }
        )
    )
    # Only the driver has the file where it says: the executors have what was shipped.
    name = Path(settings.weights.path).name
    elsewhere = settings.weights.model_copy(update={"path": f"/on/the/driver/only/{name}"})
    settings = settings.model_copy(update={"weights": elsewhere})
    pictures = spark.read.parquet(str(folder / "pictures.parquet")).repartition(2)
    profile = embedding_profile(spark, settings)
    report: dict[str, Any] = {}
    before = pictures.mapInArrow(on_a_cpu, "image_id string, pixels binary, before string")
    noted = before.repartition(2).mapInArrow(
        noting(settings), "image_id string, before string, within string", profile=profile
    )
    report["noted"] = rows(noted)
    report["embedded"] = rows(embed_images(pictures, settings, 2, golden))
    pairs = settings.model_copy(update={"batch_size": 2})
    dying = killed_once(pairs, str(folder / "killed"), kill_worker)
    report["killed"] = rows(pictures.mapInArrow(dying, EMBEDDED_DDL, profile=profile))
    report["died"] = (folder / "killed").exists()
    other = Golden(golden.samples, tuple(row[::-1] for row in golden.vectors))
    report["other golden"] = failure(embed_images(pictures, settings.model_copy(update={"batch_size": 3}), 2, other))
    report["other weights"] = failure(embed_images(pictures, other_bytes(spark, settings, folder), 2, golden))
    dying = killed_once(pairs, str(folder / "executor"), kill_executor)
    report["executor killed"] = rows(pictures.mapInArrow(dying, EMBEDDED_DDL, profile=profile))
    report["executor died"] = (folder / "executor").exists()
    (folder / "report.json").write_text(json.dumps(report))
    spark.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
