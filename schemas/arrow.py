"""Arrow's types by the type strings of `schemas.tables`, and back."""

import pyarrow as pa

_SIMPLE: dict[str, pa.DataType] = {
    "string": pa.string(),
    "binary": pa.binary(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
_NAMES = {kind: name for name, kind in _SIMPLE.items()}


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type of a simple type string: a name above, `array<...>` or `map<string,...>`.

    Raises ValueError for any other string.
    """
    if name in _SIMPLE:
        return _SIMPLE[name]
    if name.startswith("array<") and name.endswith(">"):
        return pa.list_(arrow_type(name[6:-1]))
    if name.startswith("map<string,") and name.endswith(">"):
        return pa.map_(pa.string(), arrow_type(name[11:-1]))
    raise ValueError(f"unknown column type {name!r}; known: {sorted(_SIMPLE)}, array<...>, map<string,...>")


def type_name(kind: pa.DataType) -> str:
    """The type string of an Arrow type; Arrow's own name of a type that has none."""
    if pa.types.is_list(kind):
        return f"array<{type_name(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"map<{type_name(kind.key_type)},{type_name(kind.item_type)}>"
    return _NAMES.get(kind, str(kind))


def ddl(schema: pa.Schema) -> str:
    """The schema as Spark's DDL."""
    return ", ".join(f"{field.name} {type_name(field.type)}" for field in schema)
