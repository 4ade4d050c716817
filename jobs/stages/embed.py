"""Embedding stages: images and texts to unit vectors, each on executors of its own."""

import functools
from typing import Any

from pyspark.resource import ExecutorResourceRequests, ResourceProfile, ResourceProfileBuilder, TaskResourceRequests
from pyspark.sql import DataFrame, SparkSession

from jobs.stages import devices
from schemas.settings import EmbeddingSettings, ExecutorSettings, TextSettings
from udfs.embedding.embed import EMBEDDED_DDL, embed_batches
from udfs.embedding.golden import Golden
from udfs.embedding.text import TEXT_EMBEDDED_DDL, embed_text_batches


def embed_images(
    pixels: DataFrame,
    settings: EmbeddingSettings,
    tasks: int,
    golden: Golden | None = None,
    only: DataFrame | None = None,
) -> DataFrame:
    """`image_id, pixels` -> `image_id, vector, error`, one output row per input row: the vector is null exactly where
    there is an error.

    `only`: one column, by which rows of `pixels` are chosen that have the same; unique in both.
    On a cluster, with `gpus_per_task`, the stage runs on executors that have a GPU; the shuffle before it keeps what
    comes earlier, decoding included, from being limited to as many tasks as there are GPUs. Every process first has to
    make the golden vectors.
    """
    spark = pixels.sparkSession
    profile = embedding_profile(spark, settings)
    placed = settings if profile else _placed(spark, settings)
    key = only.columns[0] if only is not None else "image_id"
    # By a key: what is dealt out in turn is sorted first, pixels and all, for a repeated task to deal alike. And before
    # the choice: so pixels are exchanged once, and it is the ids that come to them (a semi-join would be pushed below).
    dealt = pixels.repartition(tasks, key)
    chosen = dealt if only is None else dealt.join(only.hint("shuffle_hash"), key)
    return chosen.select("image_id", "pixels").mapInArrow(
        lambda batches: embed_batches(batches, placed, golden), EMBEDDED_DDL, profile=profile
    )


def embed_texts(texts: DataFrame, settings: TextSettings, tasks: int = 1, golden: Golden | None = None) -> DataFrame:
    """`text_id, text` -> `text_id, vector, error`, one output row per input row. Every process first has to make the
    golden vectors."""
    placed = _placed(texts.sparkSession, settings)
    spread = texts.coalesce(1) if tasks == 1 else texts.repartition(tasks, "text_id")
    return spread.mapInArrow(lambda batches: embed_text_batches(batches, placed, golden), TEXT_EMBEDDED_DDL)


def embedding_profile(spark: SparkSession, settings: EmbeddingSettings) -> ResourceProfile | None:
    """What the embedding stage asks Spark for; None where it runs on the executors that all stages run on.

    That is where no GPU is asked for, and in local mode, which has no stage-level scheduling. Without dynamic
    allocation Spark cannot start executors for a stage: then only the tasks' share is asked for, of executors that were
    all started with a GPU. Spark refuses a share that they do not have when the stage starts.
    """
    if not settings.gpus_per_task or devices.is_local(spark):
        return None
    return _profile(
        spark.sparkContext.applicationId,
        settings.gpus_per_task,
        settings.cores_per_task,
        settings.executor if devices.property_of(spark, "spark.dynamicAllocation.enabled") == "true" else None,
    )


@functools.cache  # Executors serve one profile object only: with a new one for each stage none would be used again.
def _profile(
    application: str,
    gpus: float,
    cores: int,
    wanted: ExecutorSettings | None,
) -> ResourceProfile:
    del application  # part of the cache's key: a profile belongs to one application
    builder = ResourceProfileBuilder().require(TaskResourceRequests().cpus(cores).resource("gpu", gpus))
    if wanted:
        # One GPU an executor: a Python worker outlives its task, and CUDA binds it to the GPU it first ran on.
        requests = (
            ExecutorResourceRequests()
            .cores(wanted.cores)
            .memory(wanted.memory)
            .memoryOverhead(wanted.memory_overhead)
            .resource("gpu", 1, wanted.discovery_script, wanted.vendor)
        )
        builder = builder.require(requests)
    return builder.build


def _placed(spark: SparkSession, settings: Any) -> Any:
    """The settings with the device that tasks without a profile of their own may take."""
    return settings.model_copy(update={"device": devices.device_for(spark, settings.device)})
