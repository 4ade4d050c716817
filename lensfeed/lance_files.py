"""A feed as a Lance dataset, for LanceDB and whoever else reads that: written and read with `pylance`, where it is
installed (`pip install 'lensfeed[lance]'`)."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from types import ModuleType

import pyarrow as pa

from lensfeed.feed import vector_matrix
from lensfeed.snapshot import SnapshotError

DATASET = "feed.lance"
"""A folder."""


def write_lance(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: str) -> tuple[int, dict[str, int]]:
    """Write batches of `schema` as the new dataset `path`, each list of floats as a vector of one length, as Lance's
    indices want them; rows, and the lengths by column.

    Raises SnapshotError where lengths differ, or `pylance` is not installed.
    """
    lance = _lance()
    coming = iter(batches)
    first = next(coming, None)
    lists = [
        field.name for field in schema if pa.types.is_list(field.type) and pa.types.is_float32(field.type.value_type)
    ]
    lengths = {} if first is None else {name: vector_matrix(first.column(name), name).shape[1] for name in lists}
    fixed = pa.schema(
        [pa.field(f.name, pa.list_(pa.float32(), lengths[f.name])) if f.name in lengths else f for f in schema]
    )
    refused: list[SnapshotError] = []

    def rows() -> Iterator[pa.RecordBatch]:
        for batch in [] if first is None else chain([first], coming):
            try:
                yield pa.RecordBatch.from_arrays([_fixed(batch, name, lengths) for name in fixed.names], schema=fixed)
            except SnapshotError as error:  # Lance would wrap it
                refused.append(error)
                raise

    try:
        lance.write_dataset(pa.RecordBatchReader.from_batches(fixed, rows()), path)
    except Exception:
        if refused:
            raise refused[0] from None
        raise
    return lance.dataset(path).count_rows(), lengths


def read_lance(path: str, names: Sequence[str]) -> pa.Table:
    """Columns of the dataset. Raises SnapshotError where `pylance` is not installed."""
    table: pa.Table = _lance().dataset(path).to_table(columns=list(names))
    return table


def _fixed(batch: pa.RecordBatch, name: str, lengths: dict[str, int]) -> pa.Array:
    column = batch.column(name)
    if name not in lengths:
        return column
    matrix = vector_matrix(column, name)
    if matrix.shape[1] != lengths[name]:
        raise SnapshotError(f"expected one length in {name}, found {lengths[name]} and {matrix.shape[1]}")
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), lengths[name])


def _lance() -> ModuleType:
    os.environ.setdefault("LANCE_LOG", "error")  # it warns of each dataset that is new
    try:
        import lance
    except ImportError as error:
        raise SnapshotError("format 'lance' needs pylance: pip install 'lensfeed[lance]'") from error
    module: ModuleType = lance
    return module
