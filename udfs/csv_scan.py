"""Where CSV records end, without Python's `csv` module: the second opinion by which a manifest's records are counted.

The dialect is the one that `csv` reads by default: `,` between fields, `"` around a field that begins with one, `""`
for a quote inside it; a quote anywhere else is text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

import pyarrow as pa
import pyarrow.compute as pc

COUNTED = pa.schema([("_file", pa.string()), ("records", pa.int64())])

_QUOTED = re.compile(rb'(?:[^"]++|"")*+')
"""What stands between the quotes of a field."""


def still_open(line: bytes, is_open: bool) -> bool:
    """Whether a quoted field is open at the end of the line, given whether one was at its beginning."""
    at = 0 if is_open else 1 if line.startswith(b'"') else _next_quoted(line, 0)
    while at >= 0:
        match = _QUOTED.match(line, at)
        end = match.end() if match else at  # the expression matches nothing, too
        if end == len(line):
            return True
        at = _next_quoted(line, end + 1)
    return False


def _next_quoted(line: bytes, start: int) -> int:
    """Where the content of the next quoted field begins; -1 where there is none."""
    found = line.find(b',"', start)
    return found + 2 if found >= 0 else -1


def runs_of_lines(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, list[bytes]]]:
    """`value` (a line) and `_file` of the batches -> a file and lines of it that follow each other, in their order.

    Raises RuntimeError where a file did not come from its beginning (`_block`, the offset of the split).
    """
    for batch in batches:
        if batch.num_rows == 0:
            continue
        if pc.max(batch.column("_block")).as_py():
            raise RuntimeError("a CSV file was split: its records cannot be told apart from the middle of it")
        lines = batch.column("value").to_pylist()
        start = 0
        for file, run in groupby(batch.column("_file").to_pylist()):
            count = sum(1 for _ in run)
            yield file, lines[start : start + count]
            start += count


def count_csv_records(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """For `mapInArrow`: whole files as lines, without their ends -> `COUNTED`, the records of each after its header.

    Blank lines are no records; a record that the end of the file cuts off inside quotes is one.
    """
    for file, runs in groupby(runs_of_lines(batches), key=itemgetter(0)):
        found = max(0, _records(lines for _, lines in runs) - 1)
        yield pa.RecordBatch.from_pylist([{"_file": file, "records": found}], COUNTED)


def _records(runs: Iterable[Sequence[bytes]]) -> int:
    records, is_open = 0, False
    for lines in runs:
        if not is_open and not any(b'"' in line for line in lines):
            records += sum(map(bool, lines))
            continue
        for line in lines:
            if is_open or line:
                is_open = still_open(line, is_open)
                records += not is_open
    return records + is_open
