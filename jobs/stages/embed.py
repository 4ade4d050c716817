"""Embedding stages: pictures and texts to unit vectors, each on executors of its own."""

from pyspark.sql import DataFrame

from schemas.settings import EmbeddingSettings, TextSettings
from udfs.embed import EMBEDDED_DDL, embed_batches
from udfs.text import TEXT_EMBEDDED_DDL, embed_text_batches


def embed_images(pixels: DataFrame, settings: EmbeddingSettings, tasks: int) -> DataFrame:
    """`image_id, pixels` -> `image_id, vector, error`, a row a row: the vector is null exactly where there is an error.

    The shuffle before it keeps decoding from being limited to as many tasks as there are GPUs.
    """
    return pixels.repartition(tasks).mapInArrow(lambda batches: embed_batches(batches, settings), EMBEDDED_DDL)


def embed_texts(texts: DataFrame, settings: TextSettings) -> DataFrame:
    """`text_id, text` -> `text_id, vector, error`, a row a row."""
    return texts.coalesce(1).mapInArrow(lambda batches: embed_text_batches(batches, settings), TEXT_EMBEDDED_DDL)
