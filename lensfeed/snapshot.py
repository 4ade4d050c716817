"""The published snapshot of a warehouse, without Spark: every table at exactly the version that a run published.

A warehouse is read through its ledger (table `runs`) only: the newest `published` event names the Delta version of
every table, so that a reader never sees half a run. Parquet readers that are pointed at a table's folder see rows that
Delta has long removed; here delta-rs gives the list of live files, and of the rows in them that are dead, and pyarrow
reads just the others.
"""

import datetime as dt
import tempfile
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from numpy.typing import NDArray
from pyarrow import fs

from lensfeed.dead_rows import ALL, FEATURE, Positions, live_positions
from lensfeed.remote_files import remote_filesystem
from schemas.arrow import arrow_type
from schemas.tables import ROW_ID, RUNS, TABLES, Table

if TYPE_CHECKING:
    import pandas as pd

READABLE_FEATURES = frozenset({"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", FEATURE})
"""Delta reader features under which a live file's rows, but for those that are marked as dead, are the table's rows, by
their own column names."""

NEWEST_SHOWN = 5
"""Published runs that an error message lists."""

# 16 Ki vectors of 1280 float32 are 80 MiB; Arrow's defaults would hold gigabytes of them.
_LITTLE_AT_ONCE = {"batch_size": 16_384, "batch_readahead": 2, "fragment_readahead": 1}

_SPARK_NAMES = {"integer": "int", "long": "bigint"}


class SnapshotError(Exception):
    """The warehouse cannot be read as asked; the message says what was expected and what was found."""


class SnapshotGoneError(SnapshotError):
    """The published version existed, but its log or files were removed since.

    Contents that are blocked or withdrawn leave the disk at once: that beats every reader's pin. Open the newest run.
    """


def arrow_schema(table: Table, columns: Sequence[str] | None = None) -> pa.Schema:
    """The table's Arrow schema with nullability, or that of the columns named, in the order in which they are named.

    Raises SnapshotError for a column that the table does not have, for one named twice, and for no columns.
    """
    names = table.column_names if columns is None else named_columns(table, columns)
    if unknown := [name for name in names if name not in table.column_names]:
        raise SnapshotError(f"table {table.name} has no column {unknown}; it has {list(table.column_names)}")
    chosen = [table.column(name) for name in names]
    return pa.schema([pa.field(c.name, arrow_type(c.type), c.nullable) for c in chosen])


def named_columns(table: Table, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns asked for, as names. Raises SnapshotError where there are none, for one named twice, and for a bare
    string, which is a sequence of one-letter names to Python."""
    listed = None if isinstance(columns, str) else tuple(columns)
    if not listed or len(set(map(repr, listed))) < len(listed):
        expected = "expected a list of one or more different names"
        raise SnapshotError(
            f"columns of {table.name}: {expected}, found {columns!r}; it has {list(table.column_names)}"
        )
    return listed


@dataclass(frozen=True)
class Portion:
    """Some of a table's files, the newest ones: what a bounded look at a table of any size reads."""

    table: str
    paths: frozenset[str]
    """Relative to the table."""
    of_files: int
    """Files that there are to choose from."""
    bytes: int
    of_bytes: int
    rows: int
    """Live ones by the statistics in Delta's log, in which a file without any counts nothing."""
    of_rows: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing was left out."""
        return len(self.paths) == self.of_files


@dataclass(frozen=True)
class LiveFiles:
    """The files of a table at a version."""

    dataset: ds.FileSystemDataset
    positions: Mapping[str, Positions]
    """Where the live rows of a file are, by its path; all of them in a file that is not here."""

    @property
    def dead_rows(self) -> int:
        return sum(positions.missing for positions in self.positions.values())

    def batches(
        self, columns: Sequence[str], where: ds.Expression | None, *, use_threads: bool
    ) -> Iterator[pa.RecordBatch]:
        """The live rows that meet `where`, file by file."""
        whole: list[ds.ParquetFileFragment] = []

        def scan() -> Iterator[pa.RecordBatch]:
            dataset, filesystem = self.dataset, self.dataset.filesystem
            some = ds.FileSystemDataset(whole, dataset.schema, dataset.format, filesystem) if whole else None
            whole.clear()
            if some is not None:
                options = {"use_threads": use_threads, **_LITTLE_AT_ONCE}
                yield from some.to_batches(columns=list(columns), filter=where, **options)

        for fragment in self.dataset.get_fragments():
            positions = self.positions.get(fragment.path)
            if positions is None:
                whole.append(fragment)
                continue
            yield from scan()
            yield from self._masked(fragment, positions, columns, where, use_threads=use_threads)
        yield from scan()

    @cached_property
    def _fragments(self) -> dict[str, ds.ParquetFileFragment]:
        return {fragment.path: fragment for fragment in self.dataset.get_fragments()}

    def count_rows(self, where: ds.Expression | None = None, *, use_threads: bool) -> int:
        """How many live rows there are; `where` is for tables that have no dead ones. Raises FileNotFoundError."""
        return int(self.dataset.count_rows(filter=where, use_threads=use_threads)) - self.dead_rows

    def row_group(self, path: str, number: int, columns: Sequence[str], *, use_threads: bool) -> pa.Table:
        """The live rows of a file's row group, the file named as in the dataset. Raises FileNotFoundError."""
        fragment = self._fragments[path]
        group = fragment.subset(row_group_ids=[number])
        rows = group.to_table(schema=self.dataset.schema, columns=list(columns), use_threads=use_threads)
        if (positions := self.positions.get(path)) is None:
            return rows
        return pa.Table.from_batches(positions.of(rows.to_batches(), _starts(fragment)[number]), rows.schema)

    def partly_in_memory(self, *, use_threads: bool) -> ds.Dataset:
        """The live rows; those of files that have dead ones, too, are read now."""
        fragments, dataset = list(self.dataset.get_fragments()), self.dataset

        def of(some: Iterable[ds.ParquetFileFragment]) -> ds.FileSystemDataset:
            return ds.FileSystemDataset(list(some), dataset.schema, dataset.format, dataset.filesystem)

        whole = of(fragment for fragment in fragments if fragment.path not in self.positions)
        partly = LiveFiles(of(fragment for fragment in fragments if fragment.path in self.positions), self.positions)
        batches = list(partly.batches(dataset.schema.names, None, use_threads=use_threads))
        return ds.UnionDataset(
            dataset.schema, [whole, ds.InMemoryDataset(pa.Table.from_batches(batches, dataset.schema))]
        )

    def _masked(
        self,
        fragment: ds.ParquetFileFragment,
        positions: Positions,
        columns: Sequence[str],
        where: ds.Expression | None,
        *,
        use_threads: bool,
    ) -> Iterator[pa.RecordBatch]:
        # A filter of Arrow's would shift positions: whether a row meets the condition is read as one more column.
        asked = {name: pc.field(name) for name in columns} | ({} if where is None else {_MEETS: where})
        for part, start in self._parts(fragment, where):
            scan = part.to_batches(
                schema=self.dataset.schema, columns=asked, use_threads=use_threads, **_LITTLE_AT_ONCE
            )
            for batch in positions.of(scan, start):
                if where is None:
                    yield batch
                elif (meeting := batch.filter(batch.column(_MEETS))).num_rows:
                    yield meeting.select(list(columns))

    def _parts(
        self, fragment: ds.ParquetFileFragment, where: ds.Expression | None
    ) -> Iterator[tuple[ds.ParquetFileFragment, int]]:
        """The file, or where not all of its row groups may have a row that meets the condition, those that may; each
        with the position of its first row."""
        if where is None:
            yield fragment, 0
            return
        meeting = {group.id for group in fragment.subset(where, schema=self.dataset.schema).row_groups}
        groups = fragment.row_groups
        if len(meeting) == len(groups):
            yield fragment, 0
            return
        for group, start in zip(groups, _starts(fragment), strict=True):
            if group.id in meeting:
                yield fragment.subset(row_group_ids=[group.id]), start


def _starts(fragment: ds.ParquetFileFragment) -> list[int]:
    """The position of the first row of each row group in the file."""
    *starts, _ = accumulate((group.num_rows for group in fragment.row_groups), initial=0)
    return starts


_MEETS = "_meets"


@dataclass(frozen=True)
class Snapshot:
    """What one published run made visible: facts of the run, and the tables at the versions it names."""

    warehouse: str
    run_id: str
    seq: int
    """Position of the `published` event in the ledger."""
    job: str
    published_at: dt.datetime
    ingest_dates: tuple[dt.date, ...]
    """Dates that the run worked on; the tables hold all dates published up to then."""
    table_versions: Mapping[str, int]
    """Delta version by table name; -1 for a table that did not exist yet."""
    policy_version: str | None
    model_version: str | None
    text_model_version: str | None
    rule_version: str | None
    canonical_version: str | None
    alignment_version: str | None
    storage_options: Mapping[str, str] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        warehouse: str | PathLike[str],
        run_id: str | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> Self:
        """The snapshot of the newest published run, or of the run named.

        `warehouse`: path or URI; `storage_options`: what delta-rs needs to reach it (credentials, endpoint).
        Raises SnapshotError if there is no warehouse, if nothing is published yet, or if that run is not published.
        """
        root = _normalised(fspath(warehouse))
        events = ledger_events(root, storage_options)
        published = sorted((e for e in events if e["event"] == "published"), key=lambda e: -e["seq"])
        if not published:
            raise SnapshotError(
                f"no run is published yet in {root}: expected a published event, found {len(events)} others"
            )
        chosen = next((e for e in published if run_id in (None, e["run_id"])), None)
        if chosen is None:
            raise SnapshotError(_not_published(root, str(run_id), events, published))
        return cls(
            warehouse=root,
            run_id=chosen["run_id"],
            seq=chosen["seq"],
            job=chosen["job"],
            published_at=chosen["at"],
            ingest_dates=tuple(chosen["ingest_dates"]),
            table_versions=dict(chosen["table_versions"]),
            policy_version=chosen["policy_version"],
            model_version=chosen["model_version"],
            text_model_version=chosen["text_model_version"],
            rule_version=chosen["rule_version"],
            canonical_version=chosen["canonical_version"],
            alignment_version=chosen["alignment_version"],
            storage_options=storage_options,
        )

    def rows(self, table: str, columns: Sequence[str] | None = None, where: ds.Expression | None = None) -> pa.Table:
        """The table's rows at the published version, all in memory.

        `columns`: which, in that order; null for all in the order of `schemas.tables`. `where`: a pyarrow expression
        over any columns of the table, used to skip files and row groups too. Types are those of `arrow_schema`.
        Rows come file by file in the order of the files' paths: the same on every call. Of `runs`, the ledger, there
        are the events up to the snapshot's own. Raises SnapshotError for a
        table or column that is not known, no columns, a condition that cannot be evaluated, and where the table's
        columns are not those of `schemas.tables` or a value is null that may not be.
        """
        schema = arrow_schema(_known(table), columns)
        return pa.Table.from_batches(self.batches(table, columns, where), schema)

    def batches(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        where: ds.Expression | None = None,
        portion: Portion | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """What `rows` gives, a batch at a time, for tables larger than memory; with `portion` of its files alone. What
        is asked for is looked at at once, not with the first batch."""
        schema = arrow_schema(_known(table), columns)
        if where is not None and not isinstance(where, ds.Expression):
            raise SnapshotError(f"where: expected a pyarrow expression, as pc.field('feed_id') < 10, found {where!r}")
        files = self._live(_known(table), portion)
        if files is None:
            return iter(())
        try:
            files.dataset.scanner(columns=schema.names, filter=where)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            names, problem = list(TABLES[table].column_names), str(error).split("\n")[0]
            raise SnapshotError(f"where: table {table} cannot be asked {where}: {problem}; it has {names}") from error
        return self._scanned(table, files, schema, _both(where, self._until(table)))

    def pandas(
        self, table: str, columns: Sequence[str] | None = None, where: ds.Expression | None = None
    ) -> "pd.DataFrame":
        """What `rows` gives, as a pandas frame; lists become numpy arrays. Raises ImportError without pandas."""
        try:
            import pandas  # noqa: F401 - what pyarrow would miss without a word on where it comes from
        except ModuleNotFoundError as error:
            raise ImportError(f"Snapshot.pandas needs pandas: pip install pandas ({error})", name="pandas") from error
        frame: pd.DataFrame = self.rows(table, columns, where).to_pandas()
        return frame

    def dataset(self, table: str) -> ds.Dataset | None:
        """The table's live rows as an Arrow dataset, for DuckDB, Polars and the like; None where the table did not
        exist yet. Of `runs` it has what came later, too: filter by `seq`. Raises as `rows`.

        Where files of `index_feed` have dead rows, those are left out by a condition on `row_id` that the dataset
        carries: it can be scanned, and not taken apart into its fragments. Of `clusters`, `feed_members` and
        `url_state`, which have no such column, files with dead rows are read into memory: after some nights nearly all.
        `batches` reads a table of any size.
        """
        files = self._live(_known(table), None)
        if files is None:
            return None
        if not files.positions:
            return files.dataset
        if ROW_ID not in TABLES[table].column_names:
            try:
                return files.partly_in_memory(use_threads=_is_local(self.warehouse))
            except FileNotFoundError as error:
                raise self.gone(table, error) from error
        return files.dataset.filter(~pc.field(ROW_ID).isin(pa.array(self._dead_ids(table, files))))

    def dead_row_ids(self, table: str) -> NDArray[np.int64]:
        """The `row_id`s (N,) of rows that lie in the files of `files`, and are no rows of the table any more. Raises
        SnapshotError where rows of the table have no such name."""
        files = self._live(_known(table), None)
        return np.empty(0, np.int64) if files is None else self._dead_ids(table, files)

    def live_files(self, table: str) -> LiveFiles | None:
        """The files of `files`, for whoever reads them piece by piece; None where the table did not exist yet."""
        return self._live(_known(table), None)

    def _dead_ids(self, table: str, files: LiveFiles) -> NDArray[np.int64]:
        if files.positions and ROW_ID not in files.dataset.schema.names:
            raise SnapshotError(
                f"table {table} has {files.dead_rows} dead rows in its files, and no column {ROW_ID} to tell them by: "
                "read it by rows, batches, dataset or pandas"
            )
        found = [np.empty(0, np.int64)]
        for path, live in files.positions.items():
            try:
                scan = scanned_file(files.dataset.filesystem, path, files.dataset.schema, [ROW_ID])
                found += [batch.column(ROW_ID).to_numpy() for batch in ALL.less(live).of(scan)]
            except FileNotFoundError as error:
                raise self.gone(table, error) from error
        return np.concatenate(found)

    def filesystem(self, folder: str) -> fs.FileSystem:
        """The file system whose root is a folder of the warehouse, a table's mostly."""
        return _filesystem(f"{self.warehouse}/{folder}", self.storage_options)

    def _until(self, table: str) -> ds.Expression | None:
        """Which rows are the snapshot's; null for all. The ledger is no table that a run publishes a version of."""
        return pc.field("seq") <= self.seq if table == RUNS.name else None

    def _scanned(
        self, table: str, files: LiveFiles, schema: pa.Schema, where: ds.Expression | None
    ) -> Iterator[pa.RecordBatch]:
        try:
            for batch in files.batches(schema.names, where, use_threads=_is_local(self.warehouse)):
                if batch.num_rows:
                    yield checked_batch(table, batch, schema)
        except FileNotFoundError as error:
            raise self.gone(table, error) from error

    def row_count(self, table: str) -> int:
        """Number of rows at the published version."""
        files = self._live(_known(table), None)
        return 0 if files is None else self._counted(table, files)

    def _counted(self, table: str, files: LiveFiles) -> int:
        try:
            return files.count_rows(self._until(table), use_threads=_is_local(self.warehouse))
        except FileNotFoundError as error:
            raise self.gone(table, error) from error

    def files(self, table: str) -> list[str]:
        """Paths (URIs where the warehouse is one) of exactly the Parquet files that hold the table's rows, sorted.

        Partition columns are not in the files; `rows` restores them. Those of `runs` hold what came later, too, and
        those of tables that keep their files (docs/tables.md) may hold rows that are dead: of `index_feed`
        `dead_row_ids` says which, of the others `rows` and `dataset` leave them out.
        """
        delta = self._delta(_known(table).name)
        return [] if delta is None else [f"{self.warehouse}/{table}/{action['path']}" for action in _live_files(delta)]

    def portion(self, table: str, most_bytes: int, partitions: Mapping[str, Collection[Any]] | None = None) -> Portion:
        """The newest files of the table, as many as `most_bytes` hold and at least one; none of an empty table.

        `partitions`: by partition column, the values that are looked at. Nothing but Delta's log is read. Files of one
        age come in the order of their paths: the portion of a snapshot is the same on every call.
        """
        described = _known(table)
        if unknown := [name for name in partitions or () if name not in described.partition_by]:
            raise SnapshotError(f"table {table} is not partitioned by {unknown}; it is by {described.partition_by}")
        delta = self._delta(table)
        actions = [] if delta is None else _live_files(delta)
        for name, values in (partitions or {}).items():
            type_name = described.column(name).type
            wanted = {pa.scalar(value, arrow_type(type_name)) for value in values}
            actions = [one for one in actions if pa.scalar(one[f"partition.{name}"], arrow_type(type_name)) in wanted]
        newest = sorted(actions, key=lambda action: -_epoch(action["modification_time"]))
        chosen: list[dict[str, Any]] = []
        size = 0
        for action in newest:
            size += action["size_bytes"]
            if chosen and size > most_bytes:
                break
            chosen.append(action)
        return self._portion(table, delta, actions, chosen)

    def portion_above(self, table: str, column: str, bound: int) -> Portion:
        """The files of the table that may hold a row whose `column` is greater than `bound`, by the statistics in
        Delta's log: a file of which it says nothing may. Nothing else is read."""
        delta = self._delta(_known(table).name)
        actions = [] if delta is None else _live_files(delta)
        greatest = f"max.{column}"
        may = [one for one in actions if one.get(greatest) is None or one[greatest] > bound]
        return self._portion(table, delta, actions, may)

    def _portion(
        self, table: str, delta: DeltaTable | None, actions: list[dict[str, Any]], chosen: list[dict[str, Any]]
    ) -> Portion:
        """Some of a table's files, of those that there are to choose from."""
        paths = [action["path"] for action in actions]
        positions = {} if delta is None else self._positions(table, delta, paths)

        def rows(of: list[dict[str, Any]]) -> int:
            counted = [one for one in of if one.get("num_records")]
            held: int = sum(one["num_records"] for one in counted)
            return held - sum(positions[one["path"]].missing for one in counted if one["path"] in positions)

        return Portion(
            table=table,
            paths=frozenset(action["path"] for action in chosen),
            of_files=len(actions),
            bytes=sum(action["size_bytes"] for action in chosen),
            of_bytes=sum(action["size_bytes"] for action in actions),
            rows=rows(chosen),
            of_rows=rows(actions),
        )

    def _delta(self, table: str) -> DeltaTable | None:
        """The table at its published version, its protocol and columns checked; None where it did not exist yet."""
        if table == RUNS.name:
            delta = open_delta(f"{self.warehouse}/{table}", None, self.storage_options)
            _check_protocol(table, delta)
            _check_columns(RUNS, delta)
            return delta
        if table not in self.table_versions:
            known = sorted(self.table_versions)
            raise SnapshotError(f"run {self.run_id!r} published no version of table {table}; it published {known}")
        version = self.table_versions[table]
        if version < 0:
            return None
        try:
            delta = open_delta(f"{self.warehouse}/{table}", version, self.storage_options)
        except DeltaError as error:
            raise self.gone(table, error) from error
        _check_protocol(table, delta)
        _check_columns(TABLES[table], delta)
        return delta

    def _live(self, table: Table, portion: Portion | None) -> LiveFiles | None:
        if portion is not None and portion.table != table.name:
            raise SnapshotError(f"expected a portion of table {table.name}, found one of {portion.table}")
        delta = self._delta(table.name)
        if delta is None:
            return None
        dataset = _dataset(table, delta, self.filesystem(table.name), portion)
        return LiveFiles(dataset, self._positions(table.name, delta, dataset.files))

    def _positions(self, table: str, delta: DeltaTable, paths: Sequence[str]) -> dict[str, Positions]:
        """`live_positions` of files of the table. Raises SnapshotGoneError where what says so was removed."""
        try:
            return live_positions(delta, paths)
        except (DeltaError, OSError) as error:
            raise self.gone(table, error) from error

    def gone(self, table: str, error: Exception) -> SnapshotGoneError:
        """What to raise where the table's log or files turn out to be missing at the published version."""
        if table == RUNS.name:
            return _ledger_gone(self.warehouse, error)
        version = self.table_versions[table]
        return SnapshotGoneError(
            f"table {table} at version {version}, published by run {self.run_id!r}, is no longer there. Contents were "
            "taken out for good since, which deletes old files at once whoever reads them, or maintenance removed it: "
            f"open the newest run, or copy feeds before that: {error}"
        )


def _normalised(warehouse: str) -> str:
    """Hadoop writes local paths as file:/path and object stores as s3a://; delta-rs takes a plain path and s3://.

    Raises SnapshotError for no name at all, which would be the working directory's.
    """
    if not warehouse:
        raise SnapshotError("warehouse: expected a path or URI, found ''")
    if warehouse.startswith("file:"):
        warehouse = "/" + warehouse.removeprefix("file:").lstrip("/")
    if "://" not in warehouse:
        return str(Path(warehouse).absolute())
    return warehouse.rstrip("/").replace("s3a://", "s3://", 1)


def _is_local(place: str) -> bool:
    """Whether Arrow opens files there itself. Elsewhere delta-rs opens them through Python objects, and an Arrow thread
    that still holds one when the interpreter exits aborts the process: such files are read in the caller's thread."""
    return "://" not in place


def _filesystem(table: str, storage_options: Mapping[str, str] | None) -> fs.FileSystem:
    """The file system whose root is the table's folder."""
    if _is_local(table):
        return fs.SubTreeFileSystem(table, fs.LocalFileSystem())
    return remote_filesystem(_encoded(table), _options(storage_options))


def open_delta(place: str, version: int | None = None, storage_options: Mapping[str, str] | None = None) -> DeltaTable:
    """The Delta table at a local path or URI, whatever characters are in its name; its log only, for the files are to
    be opened under the name that was asked for. Raises delta-rs's own errors."""
    options = _options(storage_options)
    if not _is_local(place):
        return DeltaTable(_encoded(place), version=version, storage_options=options)
    if unquote(place) == place and "\\" not in place and place.isprintable():
        return DeltaTable(place, version=version, storage_options=options)
    # delta-rs decodes local paths twice (50%20 is read as "50 "), takes a backslash for a slash, however either is
    # written, and refuses a line's end: it gets a folder of a plain name, in which it finds the log and the deletion
    # vectors.
    folder = tempfile.TemporaryDirectory(prefix="lensfeed-")
    log = Path(place) / "_delta_log"
    if log.is_dir():
        for file in (log, *log.parent.glob("deletion_vector_*.bin")):
            (Path(folder.name) / file.name).symlink_to(file.absolute())
    delta = DeltaTable(folder.name, version=version, storage_options=options)
    weakref.finalize(delta, folder.cleanup)
    return delta


def _encoded(uri: str) -> str:
    """A URI as delta-rs wants it; Hadoop takes every character after the scheme literally."""
    scheme, separator, rest = uri.partition("://")
    return scheme + separator + quote(rest)


def _options(options: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if options is None else dict(options)


def _known(table: str) -> Table:
    if not isinstance(table, str) or table not in TABLES:
        raise SnapshotError(f"unknown table {table!r}; known: {sorted(TABLES)}")
    return TABLES[table]


def ledger_events(warehouse: str, storage_options: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Every event of the warehouse's ledger (table `runs`), oldest first; maps are dicts, empty where they are null.

    Raises SnapshotError if there is no warehouse, and for an empty name.
    """
    root = _normalised(warehouse)
    try:
        delta = open_delta(f"{root}/{RUNS.name}", None, storage_options)
    except TableNotFoundError as error:
        raise SnapshotError(
            f"no warehouse at {root}: expected the ledger, a Delta table, at {root}/{RUNS.name}"
        ) from error
    _check_protocol(RUNS.name, delta)
    _check_columns(RUNS, delta)
    dataset = _dataset(RUNS, delta, _filesystem(f"{root}/{RUNS.name}", storage_options))
    try:
        events = [_with_maps(event) for event in dataset.to_table(use_threads=_is_local(root)).to_pylist()]
    except FileNotFoundError as error:
        raise _ledger_gone(root, error) from error
    return sorted(events, key=lambda event: (int(event["seq"]), int(event["lease_generation"])))


def _ledger_gone(root: str, error: Exception) -> SnapshotGoneError:
    return SnapshotGoneError(
        f"a file of the ledger {root}/{RUNS.name} is not there. Maintenance may have put its files together meanwhile: "
        f"open the warehouse again; if that fails, it is damaged: {error}"
    )


def _with_maps(event: dict[str, Any]) -> dict[str, Any]:
    """Arrow gives a map as a list of pairs."""
    return event | {name: dict(event[name] or ()) for name in ("table_versions", "counts", "metrics")}


def _not_published(root: str, run_id: str, events: list[dict[str, Any]], published: list[dict[str, Any]]) -> str:
    newest = [e["run_id"] for e in published[:NEWEST_SHOWN]]
    own = sorted((e for e in events if e["run_id"] == run_id), key=lambda e: int(e["seq"]))
    found = f"is not published (its last event: {own[-1]['event']})" if own else "is unknown"
    return f"run {run_id!r} {found} in {root}; the newest published runs: {newest}"


def _check_protocol(table: str, delta: DeltaTable) -> None:
    protocol = delta.protocol()
    needed = set(protocol.reader_features or ())
    if protocol.min_reader_version == 2:
        needed = {"columnMapping"}
    if unreadable := sorted(needed - READABLE_FEATURES):
        raise SnapshotError(
            f"table {table} needs the Delta reader features {unreadable}: expected none but {sorted(READABLE_FEATURES)}"
        )


def _check_columns(table: Table, delta: DeltaTable) -> None:
    expected = [f"{c.name} {c.type}" for c in table.columns]
    found = [f"{f.name} {_simple_string(f.type)}" for f in delta.schema().fields]
    names = {f.name for f in delta.schema().fields}
    # A column that a later release has added is null in what was published before.
    later = {f"{c.name} {c.type}" for c in table.columns if c.nullable and c.name not in names}
    if set(expected) - later != set(found):
        missing = [column for column in expected if column not in found]
        extra = [column for column in found if column not in expected]
        raise SnapshotError(
            f"table {table.name} at version {delta.version()} has other columns than expected: missing {missing}, "
            f"unexpected {extra}; expected {expected}; found {found}"
        )


def _simple_string(delta_type: Any) -> str:
    """Spark's simple string of a delta-rs type."""
    if hasattr(delta_type, "element_type"):
        return f"array<{_simple_string(delta_type.element_type)}>"
    if hasattr(delta_type, "key_type"):
        return f"map<{_simple_string(delta_type.key_type)},{_simple_string(delta_type.value_type)}>"
    if hasattr(delta_type, "fields"):
        return "struct<" + ",".join(f"{f.name}:{_simple_string(f.type)}" for f in delta_type.fields) + ">"
    return _SPARK_NAMES.get(delta_type.type, str(delta_type.type))


def _dataset(
    table: Table, delta: DeltaTable, filesystem: fs.FileSystem, portion: Portion | None = None
) -> ds.FileSystemDataset:
    """The live files as one dataset, or those of `portion`; a partition column's value is that of a whole file."""
    parquet = _parquet()
    fragments = [
        parquet.make_fragment(action["path"], filesystem, partition_expression=_partition(table, action))
        for action in _live_files(delta)
        if portion is None or action["path"] in portion.paths
    ]
    schema = pa.schema([pa.field(c.name, arrow_type(c.type)) for c in table.columns])
    return ds.FileSystemDataset(fragments, schema, parquet, filesystem)


def _parquet() -> ds.ParquetFileFormat:
    # Spark writes timestamps as INT96, which would be read as nanoseconds and overflow outside 1677-2262.
    return ds.ParquetFileFormat(
        read_options=ds.ParquetReadOptions(coerce_int96_timestamp_unit="us"),
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=False),
    )


def scanned_file(
    filesystem: fs.FileSystem, path: str, schema: pa.Schema, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """One Parquet file of a table, a batch at a time: `columns` of `schema`, null where the file is older than the
    column. Raises FileNotFoundError."""
    fragment = _parquet().make_fragment(path, filesystem)
    threads = isinstance(filesystem, fs.SubTreeFileSystem)  # see `_is_local`
    return iter(fragment.to_batches(schema=schema, columns=list(columns), use_threads=threads, **_LITTLE_AT_ONCE))


def _both(one: ds.Expression | None, other: ds.Expression | None) -> ds.Expression | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _live_files(delta: DeltaTable) -> list[dict[str, Any]]:
    """The log's add actions by path: `path` relative to the table, `partition.{column}` typed."""
    actions: list[dict[str, Any]] = pa.table(delta.get_add_actions(flatten=True)).to_pylist()
    return sorted(actions, key=lambda action: str(action["path"]))


def _epoch(time: Any) -> float:
    """When a file was added, as a number to sort by: delta-rs gives milliseconds or a datetime."""
    return float(time.timestamp()) if isinstance(time, dt.datetime) else float(time)


def _partition(table: Table, action: Mapping[str, Any]) -> ds.Expression:
    everything = pc.scalar(True)
    for name in table.partition_by:
        value = pa.scalar(action[f"partition.{name}"], arrow_type(table.column(name).type))
        everything = everything & (pc.field(name) == value)
    return everything


def checked_batch(table: str, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch under `schema`, whose nullability Arrow itself does not enforce."""
    for column in schema:
        if not column.nullable and batch.column(column.name).null_count:
            nulls = batch.column(column.name).null_count
            raise SnapshotError(
                f"column {column.name} of table {table} may not be null: found {nulls} nulls in {batch.num_rows} rows"
            )
    return pa.RecordBatch.from_arrays([batch.column(name) for name in schema.names], schema=schema)
