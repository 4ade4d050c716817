"""Rows that Delta has deleted without rewriting their file: a deletion vector says at which positions they lie.

A night updates a few rows of a large feed. It writes those anew, and a few bytes for each file that held them before;
the files stay as they are. So whoever reads such a file has to leave rows out, by their positions in it.
https://github.com/delta-io/delta/blob/master/PROTOCOL.md#deletion-vectors
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable
from numpy.typing import NDArray

FEATURE = "deletionVectors"


@dataclass(frozen=True, eq=False)
class Positions:
    """Some of a file's rows."""

    mask: NDArray[np.bool_]
    """(N,) of its first N rows: which they are."""
    rest: bool = True
    """Whether all rows after those are among them."""

    @property
    def missing(self) -> int:
        """How many of the first N rows are not among them."""
        return int((~self.mask).sum())

    def of(self, batches: Iterable[pa.RecordBatch], start: int = 0) -> Iterator[pa.RecordBatch]:
        """These rows of the file, which `batches` holds whole and in order, from row `start` on."""
        for batch in batches:
            part = self._until(start + batch.num_rows)[start:]
            start += batch.num_rows
            if part.all():
                yield batch
            elif part.any():
                yield from _those(batch, part)

    def less(self, others: "Positions") -> "Positions":
        """Those that are not among `others`."""
        length = max(len(self.mask), len(others.mask))
        return Positions(self._until(length) & ~others._until(length), self.rest and not others.rest)

    def _until(self, length: int) -> NDArray[np.bool_]:
        more = length - len(self.mask)
        return np.append(self.mask, np.full(more, self.rest)) if more > 0 else self.mask[:length]


_LEAST_RUN = 64
"""Rows between dead ones, on average, from which they are handed on as they lie: Arrow takes longer to copy vectors row
by row than to decode them."""


def _those(batch: pa.RecordBatch, part: NDArray[np.bool_]) -> Iterator[pa.RecordBatch]:
    """The rows of the batch that are in `part` (N,): views of it where few are not, else a copy."""
    edges = np.flatnonzero(np.diff(part, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    if len(starts) * _LEAST_RUN > batch.num_rows:
        yield batch.filter(pa.array(part))
        return
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield batch.slice(start, end - start)


ALL = Positions(np.empty(0, np.bool_))


def live_positions(delta: DeltaTable, paths: Iterable[str]) -> dict[str, Positions]:
    """Of those files of the table (`paths`, relative to it) that have dead rows: where their live ones are."""
    if FEATURE not in (delta.protocol().reader_features or ()):
        return {}
    by_name = {file_name(path): path for path in paths}
    vectors = pa.table(delta.deletion_vectors())
    found = {}
    for place, kept in zip(vectors["filepath"], vectors["selection_vector"], strict=True):
        if (name := file_name(unquote(place.as_py()))) in by_name:
            found[by_name[name]] = Positions(kept.values.to_numpy(zero_copy_only=False))
    return found


def file_name(path: str) -> str:
    """A data file's own name: no two files of a table have the same, in whatever folder."""
    return path.rpartition("/")[2]


def places_among(wanted: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.intp]:
    """Where each of `ids` is in `wanted`, which ascends; -1 where it is not."""
    if not len(wanted):
        return np.full(len(ids), -1)
    at = np.minimum(np.searchsorted(wanted, ids), len(wanted) - 1)
    return np.where(wanted[at] == ids, at, -1)
