"""A type string of the tables names one Arrow type, and every type a table has is named back."""

import pyarrow as pa
import pytest

from schemas.arrow import arrow_type, ddl, type_name
from schemas.tables import TABLES


def test_every_type_of_the_tables_is_named_as_the_tables_name_it() -> None:
    names = {column.type for table in TABLES.values() for column in table.columns}
    assert {name: type_name(arrow_type(name)) for name in names} == {name: name for name in names}


@pytest.mark.parametrize("name", ["text", "", "array<string", "map<int,string>", "STRING", "decimal"])
def test_any_other_type_string_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown column type '{name}'; known: .*bigint"):
        arrow_type(name)


def test_a_type_that_tables_do_not_have_goes_by_arrows_name() -> None:
    assert type_name(pa.list_(pa.uint8())) == "array<uint8>"


def test_a_schema_is_told_to_spark_column_by_column() -> None:
    schema = pa.schema([("at", pa.timestamp("us", tz="UTC")), ("body", pa.binary()), ("hops", pa.list_(pa.string()))])
    assert ddl(schema) == "at timestamp, body binary, hops array<string>"
