"""Small frames for tests: local relations made through Arrow, which cost no Python worker and no task of their own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from schemas.spark import struct_type
from schemas.tables import TABLES


def frame(spark: SparkSession, schema: StructType | str, rows: Iterable[Sequence[Any]]) -> DataFrame:
    """Rows in the order of the schema's columns."""
    struct = StructType.fromDDL(schema) if isinstance(schema, str) else schema
    named = [dict(zip(struct.fieldNames(), row, strict=True)) for row in rows]
    return spark.createDataFrame(pa.Table.from_pylist(named, to_arrow_schema(struct)), struct)


def table_frame(spark: SparkSession, table: str, rows: Iterable[Mapping[str, Any]]) -> DataFrame:
    """Rows of a table of the warehouse; columns that a row does not give are null."""
    names = TABLES[table].column_names
    return frame(spark, struct_type(TABLES[table]), [[row.get(name) for name in names] for row in rows])


def local_copy(found: DataFrame) -> DataFrame:
    """The frame's rows as a local relation: whatever computed them ran just once."""
    return frame(found.sparkSession, found.schema, found.collect())
