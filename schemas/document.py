"""docs/tables.md, made from `schemas.tables` and `schemas.outcomes`:

    python -m schemas.document > docs/tables.md

A test holds the committed page against this.
"""

import sys
from collections.abc import Iterable, Iterator

from schemas.outcomes import (
    DECISION_MEANINGS,
    FAILURE_MEANINGS,
    OUTCOME_MEANINGS,
    TRANSIENT,
    WITHDRAWALS,
    FailureCode,
)
from schemas.tables import MANIFEST_COLUMNS, TABLES, Column, Kind, Table

_HEADER = """\
# Tables

<!-- Do not edit: made from schemas/ by `python -m schemas.document > docs/tables.md`. -->

Every table is a Delta table at `{warehouse}/{table}`. Ids are lower-case hex SHA-256, 64 characters, unless said
otherwise; dates are the manifest's `ingest_date`, never the wall clock; timestamps are UTC. *Volatile* columns may
differ between runs that must leave equal contents (run ids, times, versions of past policies): `jobs.digest` leaves
them out.

Read tables at the versions that the last `published` event in `runs` names (`lensfeed` does), or you may see half a
run.
"""

_MANIFEST = """\
## Manifest columns

What a manifest may hold, under these names or those that `manifest.columns` maps to them.
"""

_OUTCOMES = """\
## Outcomes

Every sighting has exactly one.
"""

_FAILURES = """\
## Failure codes

The closed list of `failure_code`. A transient failure is worth asking again (`--retry-failed` does); a permanent one
stands for its date. A withdrawal is permanent, and takes back what the URL showed before.
"""

_DECISIONS = """\
## Decisions

What the policy says; of several, the strictest counts.
"""

_WRITTEN: dict[Kind, str] = {
    "dated": "an `ingest_date` is replaced whole by the night that works on it; re-decisions change rows of it by key",
    "content": "keyed: dates share rows, running again destroys none, and what nothing accepted needs is taken out",
    "derived": "keyed and a pure function of the other tables: rows are inserted, updated and deleted to match",
    "request": "keyed: what people asked for, inserted, updated and deleted at their word",
    "log": "appended to, never changed",
}


def document() -> str:
    """The whole page as Markdown."""
    parts = [_HEADER, _overview(), *map(_section, TABLES.values()), _manifest(), _outcomes(), _failures(), _decisions()]
    return "\n".join(parts)


def _overview() -> str:
    rows = ([f"[{table.name}](#{table.name})", table.row, table.kind] for table in TABLES.values())
    return _grid(["table", "one row per", "written"], rows)


def _section(table: Table) -> str:
    return "\n".join([f"## {table.name}\n", *(f"- {line}" for line in _facts(table)), "", _columns(table)])


def _facts(table: Table) -> Iterator[str]:
    yield f"One row per {table.row}."
    yield f"Written ({table.kind}): {_WRITTEN[table.kind]}."
    yield f"Key: {_codes(table.keys)}." if table.keys else "No key."
    if table.partition_by:
        yield f"Partitioned by {_codes(table.partition_by)}."
    if table.change_data_feed:
        yield "Its change data feed is on."
    if table.keeps_files:
        yield (
            "Deletion vectors are on: its files may hold rows that are dead. Spark, Polars, DataFusion and `lensfeed` "
            "leave them out; a plain Parquet reader does not."
        )
    if table.purged:
        yield "Its old files are deleted as soon as a run takes contents out of the warehouse."
    if not table.digested:
        yield "Not part of `jobs.digest`."
    for name, condition in table.constraints.items():
        yield f"Constraint `{name}`: `{condition}`."


def _columns(table: Table) -> str:
    return _grid(["column", "type", "null", "meaning"], (_row(table, column) for column in table.columns))


def _row(table: Table, column: Column) -> list[str]:
    marks = [*(["key"] if column.name in table.keys else []), *(["volatile"] if column.volatile else [])]
    meaning = f"*{', '.join(marks)}*: {column.comment}" if marks else column.comment
    return [f"`{column.name}`", f"`{column.type}`", "yes" if column.nullable else "no", meaning]


def _manifest() -> str:
    rows = ([f"`{name}`", f"`{kind}`", "yes" if name == "url" else "no"] for name, kind in MANIFEST_COLUMNS.items())
    return f"{_MANIFEST}\n{_grid(['column', 'type', 'required'], rows)}"


def _outcomes() -> str:
    rows = ([f"`{outcome}`", meaning] for outcome, meaning in OUTCOME_MEANINGS.items())
    return f"{_OUTCOMES}\n{_grid(['outcome', 'meaning'], rows)}"


def _failures() -> str:
    rows = ([f"`{code}`", _again(code), meaning] for code, meaning in FAILURE_MEANINGS.items())
    return f"{_FAILURES}\n{_grid(['code', 'kind', 'meaning'], rows)}"


def _again(code: FailureCode) -> str:
    if code in WITHDRAWALS:
        return "withdrawal"
    return "transient" if code in TRANSIENT else "permanent"


def _decisions() -> str:
    rows = ([f"`{decision}`", meaning] for decision, meaning in DECISION_MEANINGS.items())
    return f"{_DECISIONS}\n{_grid(['decision', 'meaning'], rows)}"


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _grid(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(document())
