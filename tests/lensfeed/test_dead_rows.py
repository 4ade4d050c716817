"""Rows of a file that are not dead, whatever the batches are in which it is read."""

import numpy as np
import pyarrow as pa
import pytest

from lensfeed.dead_rows import Positions


@pytest.mark.parametrize("dead", [0, 1, 3, 30, 300, 3000])
@pytest.mark.parametrize("start", [0, 1000])
def test_rows_that_are_not_dead_are_handed_on_in_their_order(dead: int, start: int) -> None:
    """Of few dead rows the others are views of what was read, of many a copy."""
    generator = np.random.default_rng(dead)
    rows = pa.table({"row": np.arange(start, 3000), "vector": pa.array([[float(n)] * 3 for n in range(start, 3000)])})
    mask = np.ones(2900, bool)  # of rows behind it nothing is said, and they live
    mask[generator.permutation(2900)[:dead]] = False
    found = pa.Table.from_batches(Positions(mask).of(rows.to_batches(700), start), rows.schema)
    expected = [n for n in range(start, 3000) if n >= 2900 or mask[n]]
    assert found["row"].to_pylist() == expected
    assert found["vector"].to_pylist() == [[float(n)] * 3 for n in expected]
    assert all(batch.num_rows for batch in found.to_batches())


def test_views_are_handed_on_where_few_rows_are_dead() -> None:
    batch = pa.RecordBatch.from_pydict({"row": np.arange(1000)})
    mask = np.ones(1000, bool)
    mask[[0, 400, 999]] = False
    assert [(part[0][0].as_py(), part.num_rows) for part in Positions(mask).of([batch])] == [(1, 399), (401, 598)]
    mask[::2] = False
    assert [part.num_rows for part in Positions(mask).of([batch])] == [499]
