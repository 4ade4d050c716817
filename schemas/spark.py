"""Spark's StructTypes of the tables, built on demand (this is the only module here that imports pyspark)."""

from pyspark.sql import types as t

from schemas.tables import Table

_SIMPLE: dict[str, type[t.DataType]] = {
    "string": t.StringType,
    "binary": t.BinaryType,
    "boolean": t.BooleanType,
    "int": t.IntegerType,
    "bigint": t.LongType,
    "float": t.FloatType,
    "double": t.DoubleType,
    "date": t.DateType,
    "timestamp": t.TimestampType,
}


def spark_type(name: str) -> t.DataType:
    """The Spark type of a simple type string: a name above, `array<...>` or `map<string,...>`.

    Raises ValueError for any other string.
    """
    if name in _SIMPLE:
        return _SIMPLE[name]()
    if name.startswith("array<") and name.endswith(">"):
        return t.ArrayType(spark_type(name[6:-1]))
    if name.startswith("map<string,") and name.endswith(">"):
        return t.MapType(t.StringType(), spark_type(name[11:-1]))
    raise ValueError(f"unknown column type {name!r}; known: {sorted(_SIMPLE)}, array<...>, map<string,...>")


def struct_type(table: Table) -> t.StructType:
    """The table's StructType, with nullability and comments."""
    return t.StructType(
        [t.StructField(c.name, spark_type(c.type), c.nullable, {"comment": c.comment}) for c in table.columns]
    )
