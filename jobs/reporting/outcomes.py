"""What became of each row of a date's manifest, row by row, as the newest published snapshot has it."""

import datetime as dt
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.config.errors import UsageError
from jobs.config.progress import log
from jobs.config.texts import plain
from lensfeed.snapshot import Snapshot
from udfs.credentials import redact_text
from udfs.urls import BadUrl, host_spelt

MOST_SORTED = 1_000_000
"""Rows of a date that are put in order, in memory: some 300 MB. Of more, each comes as it lies in the table."""
MOST_CODES = 5
"""Reasons that the last line counts."""
ID_SHOWN = 12
"""Characters of an image's id on a line."""
_LONGEST = 400
_COLUMNS = (
    *("ingest_date", "source_file", "row_number", "url", "outcome"),
    *("failure_code", "failure_detail", "reasons", "image_id"),
)
Row = dict[str, Any]


class Chosen:
    """Which rows are asked for, and how many there were of each kind."""

    def __init__(self, outcomes: Sequence[str], reason: str | None, host: str | None) -> None:
        self._outcomes, self._reason = list(outcomes), reason
        self._host = None if host is None else _stored_host(host)

    def of(self, snapshot: Snapshot, date: dt.date) -> Iterator[pa.RecordBatch]:
        """The rows of a date, a batch at a time."""
        where = pc.field("ingest_date") == pa.scalar(date)
        if self._outcomes:
            where &= pc.field("outcome").isin(self._outcomes)
        if self._host is not None:
            where &= pc.field("host") == self._host
        for batch in snapshot.batches("sightings", _COLUMNS, where):
            kept = batch if self._reason is None else batch.filter(self._with_reason(batch))
            if kept.num_rows:
                yield kept

    def _with_reason(self, batch: pa.RecordBatch) -> pa.Array:
        codes = zip(batch.column("failure_code").to_pylist(), batch.column("reasons").to_pylist(), strict=True)
        return pa.array([self._reason == code or self._reason in (reasons or ()) for code, reasons in codes])


def _stored_host(host: str) -> str:
    """The host as sightings have it, of one that is spelt as in a URL or as there. UsageError where no host could
    be spelt so."""
    try:
        return host_spelt(host)
    except BadUrl:
        raise UsageError(f"--host {host}: expected the name of a host, or its address") from None


def _in_order(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches' rows by file and row; as they come where they are too many to be held."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(one.num_rows for one in held) > MOST_SORTED:
            log.info("more than %d rows: in the order of the table, not of the manifest", MOST_SORTED)
            yield from held
            yield from batches
            return
    if held:
        table = pa.Table.from_batches(held)
        yield from table.sort_by([("source_file", "ascending"), ("row_number", "ascending")]).to_batches(10_000)


# How they are told --------------------------------------------------------------------------------------------------


def write_outcomes(
    snapshot: Snapshot, dates: Sequence[dt.date], chosen: Chosen, told: Callable[[Row], str]
) -> Counter[tuple[str, str]]:
    """Write the rows; how many there were by outcome and reason."""
    counts: Counter[tuple[str, str]] = Counter()
    for date in dates:
        for batch in _in_order(chosen.of(snapshot, date)):
            for row in batch.to_pylist():
                counts[row["outcome"], _why(row)] += 1
                sys.stdout.write(f"{told(row)}\n")
    sys.stdout.flush()
    return counts


def as_line(row: Row) -> str:
    """A row as a line of text; what came from the web controls no terminal."""
    image = (row["image_id"] or "-")[:ID_SHOWN]
    place = f"{row['source_file']}:{row['row_number']}"
    cells = (row["outcome"], _why(row) or "-", place, row["url"] or "-", image)
    return "\t".join(plain(redact_text(cell), _LONGEST) for cell in cells)


def with_date(row: Row) -> str:
    """`as_line` with the date before it."""
    return f"{row['ingest_date']}\t{as_line(row)}"


def as_json(row: Row) -> str:
    """A row as a JSON object; what is not ASCII is escaped, and so controls no terminal."""
    shown = {name: redact_text(value) if isinstance(value, str) else value for name, value in row.items()}
    return json.dumps(shown | {"ingest_date": row["ingest_date"].isoformat()})


def _why(row: Row) -> str:
    return ",".join([*filter(None, [row["failure_code"]]), *(row["reasons"] or ())])


def counted(dates: Sequence[dt.date], counts: Counter[tuple[str, str]]) -> str:
    """`outcomes of 2026-01-31: 12 rows: 9 accepted, 3 failed (2 http_404, 1 timeout)`."""
    span = f"{dates[0]}" if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    parts = []
    for outcome in sorted({outcome for outcome, _ in counts}):
        codes = Counter({code: number for (of, code), number in counts.items() if of == outcome and code})
        common = [f"{number} {plain(code)}" for code, number in codes.most_common(MOST_CODES)]
        common += ["..."] if len(codes) > MOST_CODES else []
        total = sum(number for (of, _), number in counts.items() if of == outcome)
        parts.append(f"{total} {outcome}" + (f" ({', '.join(common)})" if common else ""))
    return f"outcomes of {span}: {counts.total()} rows{': ' if parts else ''}{', '.join(parts)}"
