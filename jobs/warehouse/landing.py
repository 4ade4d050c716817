"""The one place that writes Delta: tables, run-scoped staging, idempotent application of a staged run.

A run first writes everything under `{warehouse}/_staging/{run_id}` (Parquet, nobody reads it but the run), then a plan
that names what goes into which table, then the ledger says `prepared`. From there on the run can only go forward:
`apply` is a pure function of the staging folder, and each of its writes may be repeated without effect:

* dated tables: the run's dates are overwritten (`replaceWhere`), or single rows of them merged by key;
* content tables and logs: appended; what is no longer wanted is deleted by key;
* derived tables and requests: new keys are appended; where others change or go, a MERGE by key comes before. A table
  that keeps its files has what changes or goes marked as dead there, by key, and what is written is appended.

Each of these writes goes under an application id of its own (run, table, dataset, kind), which Delta takes once: a
repeated one is skipped, and so is that of a driver that was stopped in the middle of a run, and woken when another had
finished the run and published more. No id is shared between runs, for Delta would skip a backfill of an older date.
"""

import datetime as dt
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any, TypeVar
from urllib.parse import unquote

import pyarrow as pa
from delta.exceptions import (
    ConcurrentAppendException,
    ConcurrentDeleteDeleteException,
    ConcurrentDeleteReadException,
    ConcurrentTransactionException,
    ConcurrentWriteException,
    MetadataChangedException,
    ProtocolChangedException,
)
from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import Column as Values
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as f
from pyspark.sql import types as t
from pyspark.sql.pandas.types import to_arrow_schema

from jobs.config.causes import cause_of
from jobs.config.errors import RunError, UsageError
from jobs.warehouse.history import Staged, near
from jobs.warehouse.storage import Storage, read_parquet
from schemas.spark import struct_type
from schemas.tables import INDEX_FEED, PUBLISHED, PURGED, TABLES, Column, Table

Written = TypeVar("Written")

CHANGE = "_change"
"""Column of a staged derived table: `insert`, `update` or `delete`."""

_CONFLICTS = (
    ConcurrentAppendException,
    ConcurrentDeleteDeleteException,
    ConcurrentDeleteReadException,
    ConcurrentTransactionException,
    ConcurrentWriteException,
    MetadataChangedException,
    ProtocolChangedException,
)
"""What Delta raises where another writer's commit came in between: only one that has lost its lease can be that."""
_TRIES = 3

LARGE_TABLE = 8 * 2**20
"""Bytes: what is asked of a table that has more is compiled. On one machine nothing else is (jobs.startup.session), for
compiling takes a small night longer than it saves; of millions of rows it saves four fifths of the CPU."""
_COMPILED = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}

PAGE_ROWS = "parquet.page.row.count.limit"
"""Rows of a page: few by default (jobs.startup.session), so that single rows are found in a file that is sorted."""
WHOLE_PAGES = "20000"
"""Of each table that is not sorted, whose files are read whole: Parquet's own limit. Narrow columns of the
index of near-duplicates take a quarter less of the disk so and a fifth of the CPU to read."""

SMALL_FILE, LARGE_FILE = 32 * 2**20, 128 * 2**20
"""Bytes: files below the one are put together, into files of up to the other."""

NAMED_AT_ONCE = 20_000
"""Keys that one DELETE names. It reads the keys of all files that may hold one, and of these nothing else."""
MOST_NAMED = 200_000
"""Keys that are named at all: of more a MERGE is cheaper, which reads files whole."""

MOST_DEAD = 0.05
"""Share of dead rows in a large file above which all that have some are written anew, by upkeep."""

TABLE_PROPERTIES: dict[str, str] = {"delta.checkpointInterval": "20"}


def _properties(table: Table) -> dict[str, str]:
    """Delta properties of the table, constraints aside."""
    return TABLE_PROPERTIES | {
        "delta.dataSkippingStatsColumns": ",".join(table.measured),
        "delta.enableChangeDataFeed": str(table.change_data_feed).lower(),
        # Off, a file's rows are the table's rows, for us too: `_rows_at` has Spark read the files without Delta.
        "delta.enableDeletionVectors": str(table.keeps_files).lower(),
    }


def _layout_of(names: Iterable[str]) -> str:
    """A digest of what Delta is told of the tables."""
    told = {
        name: [_properties(TABLES[name]), TABLES[name].constraints, [(c.name, c.type) for c in TABLES[name].columns]]
        for name in names
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


_CHECK = "delta.constraints."

_LAYOUT = "_layout"
"""File that says up to which description of the tables they were brought."""


@dataclass(frozen=True)
class StagedTable:
    """One line of a staged run's plan."""

    table: str
    source: str
    """Dataset under the run's staging folder that holds the rows."""
    rows: int
    only: str | None = None
    """Dataset whose (single) key column selects the rows of `source`; null takes all."""
    only_rows: int = 0
    """How many rows that dataset has."""
    where: str | None = None
    """SQL condition on the rows of `source`; null takes all."""
    dates: tuple[str, ...] = ()
    """Dates of a dated table that the rows replace or, where they say what has changed, that they lie in."""
    inserts: int = 0
    """Of rows that say what becomes of their keys, how many have a key that is not there yet."""
    removes: bool = False
    """Whether the rows are keys whose rows leave the table."""
    changes: bool = False
    """Whether the rows say in `CHANGE` what becomes of their keys."""
    keeps_files: bool | None = None
    """Whether the rows that change or go are marked as dead, as the table is described (`Table.keeps_files`). None: the
    plan was made before it said so, and some of it may be done: as then, of `index_feed` alone."""
    most_small: int = 0
    """Where it is not 0 the line is about files and no rows: the table's small ones are put together where a partition
    has more than so many."""
    moves: bool = False
    """Whether the rows are the table's own, and go from their files into others: what is left of those is written
    anew, without the rows in them that are dead."""
    rewrites: bool = False
    """Whether the line is about files and no rows: all with dead rows are written anew without those."""


class Landing:
    """Tables and staging of one warehouse."""

    def __init__(self, spark: SparkSession, root: str, *, parallel_writes: int = 4, staging: str = "_staging") -> None:
        """`staging`: the folder of the warehouse that datasets of runs are staged in."""
        self.spark = spark
        self.storage = Storage(spark, root)
        self.staging = staging
        self.parallel_writes = parallel_writes
        self.check_held: Callable[[], None] = lambda: None
        """Asked before everything that writes; raises where another driver holds the warehouse."""
        self._staged_rows: dict[tuple[str, str], StagedRows] = {}
        self._read: dict[tuple[str, int], DataFrame] = {}

    # Tables -----------------------------------------------------------------------------------------------------

    def path(self, table: str) -> str:
        """Where the table lies."""
        return self.storage.path(table)

    def ensure_tables(self, names: Iterable[str] = TABLES) -> None:
        """Create the tables that do not exist yet, with comments, constraints and properties; bring the others up to
        date where they were made by another version of this program: constraints, properties, nullable columns that
        are new. Raises UsageError where a table has columns that this version cannot take for its own."""
        given = list(names)
        missing = [name for name in given if self.version(name) < 0]
        layout = _layout_of(given)
        # Asking the tables themselves would take longer than a small night.
        known = self.storage.read_text(_LAYOUT) if self.storage.exists(_LAYOUT) else ""
        older = [name for name in given if name not in missing] if layout != known else []
        self._in_parallel(lambda name: self._create(TABLES[name]), missing)
        self._in_parallel(lambda name: self._bring_up_to_date(TABLES[name]), older)
        if layout != known:
            self.storage.write_text(layout, _LAYOUT)

    def _create(self, table: Table) -> None:
        builder = DeltaTable.createIfNotExists(self.spark).location(self.path(table.name)).comment(table.row)
        builder = builder.addColumns(struct_type(table)).partitionedBy(*table.partition_by)
        self.check_held()
        # A log without a commit is no table, but Delta takes it for one that is there and leaves it as it is.
        self.storage.delete(table.name, "_delta_log")
        for name, value in _properties(table).items():
            builder = builder.property(name, value)
        for name, expression in table.constraints.items():
            builder = builder.property(f"{_CHECK}{name}", expression)
        builder.execute()

    def _bring_up_to_date(self, table: Table) -> None:
        """Columns, properties and constraints of a table as they are now; may be killed anywhere and called again."""
        self.check_held()
        named = f"alter table delta.`{self.path(table.name).replace('`', '``')}`"
        stored = self.spark.read.format("delta").load(self.path(table.name)).schema
        for column in _new_columns(table, {field.name: field.dataType.simpleString() for field in stored.fields}):
            comment = column.comment.replace("\\", "\\\\").replace("'", "\\'")
            self.spark.sql(f"{named} add columns (`{column.name}` {column.type} comment '{comment}')")
        detail = DeltaTable.forPath(self.spark, self.path(table.name)).detail().select("properties").first()
        found: dict[str, str] = detail["properties"] if detail else {}
        wanted = {name: value for name, value in _properties(table).items() if found.get(name) != value}
        if wanted:
            listed = ", ".join(f"'{name}' = '{value}'" for name, value in wanted.items())
            self.spark.sql(f"{named} set tblproperties ({listed})")
        had = {name.removeprefix(_CHECK): text for name, text in found.items() if name.startswith(_CHECK)}
        # Delta spaces the words of a condition anew when it is added to a table that is there.
        same = {name for name in had if "".join(had[name].split()) == "".join(table.constraints.get(name, "").split())}
        for name in had.keys() - same:
            self.spark.sql(f"{named} drop constraint {name}")
        for name in table.constraints.keys() - same:
            self.spark.sql(f"{named} add constraint {name} check ({table.constraints[name]})")

    def read(self, table: str, version: int | None = None) -> DataFrame:
        """The table's rows, at `version` or at its newest; a relation known to be empty where it never had any.

        The version's list of live files is asked for once: a night looks at its history in dozens of queries, and
        Delta would work the list out for each of them anew. A query is compiled, and has its other settings too, as the
        frame that it begins with says: what joins or adds to history begins with history.
        """
        pinned = self.version(table) if version is None else version
        if pinned <= 0:
            return self._no_rows(struct_type(TABLES[table]))
        if (table, pinned) not in self._read:
            self._read[table, pinned] = self._rows_at(table, pinned)
        return self._read[table, pinned]

    def _rows_at(self, table: str, version: int) -> DataFrame:
        delta = self._at_version(self.spark, table, version)
        spark = self._compiling if _bytes_of(delta) > LARGE_TABLE else self.spark
        if not TABLES[table].keeps_files:
            return self._rows_in(table, delta.inputFiles(), spark)
        # Delta's reader leaves dead rows out, of the files that it is given as of those that it looks for itself.
        log = self._log(table)
        snapshot = log.getSnapshotAt(version, *(getattr(log, f"getSnapshotAt$default${n}")() for n in (2, 3, 4)))
        if snapshot.numDeletionVectorsOpt().contains(0):
            return self._rows_in(table, delta.inputFiles(), spark)
        unnamed = getattr(log, "createDataFrame$default$4")()
        with _active(spark):  # Delta asks for no other
            return DataFrame(log.createDataFrame(snapshot, snapshot.getAllFiles(False), False, unnamed), spark)

    def bytes_of(self, table: str) -> int:
        """What the files of the table's newest version take, as its log says; 0 where it never had any rows."""
        version = self.version(table)
        return _bytes_of(self._at_version(self.spark, table, version)) if version > 0 else 0

    def _log(self, table: str) -> Any:
        """Delta's own look at the table."""
        jvm: Any = self.spark._jvm
        return jvm.org.apache.spark.sql.delta.DeltaLog.forTable(self.spark._jsparkSession, self.path(table))

    def _at_version(self, spark: SparkSession, table: str, version: int) -> DataFrame:
        return spark.read.format("delta").option("versionAsOf", version).load(self.path(table))

    def read_dates(self, table: str, version: int, dates: Sequence[dt.date]) -> DataFrame:
        """The rows of some dates of a dated table as they were at a version. No file of another date is looked for.

        Raises RunError where what the version had of them has left the disk.
        """
        folders = [f"ingest_date={date}" for date in dates]
        if version <= 0 or not folders:
            return self._no_rows(struct_type(TABLES[table]))
        try:
            delta = self._at_version(self.spark, table, version)
            files = [name for name in delta.inputFiles() if name.split("/")[-2] in folders]
        except AnalysisException as error:
            raise RunError(f"{self._left_the_disk(table, version, dates)} ({cause_of(error)})") from error
        there = {(folder, name) for folder in folders for name in self.storage.names(table, folder)}
        missing = [name for name in files if tuple(name.split("/")[-2:]) not in there]
        if missing:
            raise RunError(f"{self._left_the_disk(table, version, dates)} ({len(missing)} of {len(files)} files)")
        return self._rows_in(table, files)

    def _rows_in(self, table: str, files: Sequence[str], spark: SparkSession | None = None) -> DataFrame:
        """The rows that lie in files of the table, as Delta names them."""
        schema = struct_type(TABLES[table])
        reader = (spark or self.spark).read.schema(schema).option("basePath", self.path(table))
        return read_parquet(reader, files).select(*schema.fieldNames()) if files else self._no_rows(schema)

    def _left_the_disk(self, table: str, version: int, dates: Sequence[dt.date]) -> str:
        return (
            f"version {version} of the table {table} has left the disk, by maintenance or for what was taken down: "
            f"{', '.join(map(str, dates[:3]))}{', ...' if len(dates) > 3 else ''} cannot be had as they were then"
        )

    def files(self, table: str, *, with_dead: bool = False) -> DataFrame:
        """`read` of the table's newest version with one more column, `file`: where the row lies. `with_dead`: rows of
        its files that are dead, too."""
        rows = self.read(table)
        if with_dead and TABLES[table].keeps_files and (version := self.version(table)) > 0:
            rows = self._rows_in(table, self._at_version(self.spark, table, version).inputFiles())
        # Spark spells a local file in one way where it has read it for Delta, and in another where not.
        return rows.withColumn("file", f.regexp_replace(f.input_file_name(), "^file:/+", "file:/"))

    def left_behind(self, table: str) -> DataFrame:
        """Rows of files that lie in the table's folder and that its newest version does not need: of earlier versions,
        and of writers that were killed. Of what cannot be read there are none."""
        lying = self._on_disk(table, self.path(table)).inputFiles()
        version = self.version(table)
        needed = self._at_version(self.spark, table, version).inputFiles() if version > 0 else []
        names = {_file_name(file) for file in needed}
        left = [unquote(file) for file in lying if _file_name(file) not in names]
        return self._on_disk(table, *left) if left else self._no_rows(struct_type(TABLES[table]))

    def _on_disk(self, table: str, *paths: str) -> DataFrame:
        schema = struct_type(TABLES[table])
        reader = self.spark.read.schema(schema).option("basePath", self.path(table))
        passing = reader.options(ignoreCorruptFiles=True, ignoreMissingFiles=True, pathGlobFilter="*.parquet")
        return read_parquet(passing, paths).select(*schema.fieldNames())

    def read_files(self, table: str, files: Sequence[str]) -> DataFrame:
        """The rows that lie in those files, as `files` names them; no other file is opened. Not for tables with
        partitions, whose columns are not in their files, or that keep files with dead rows in them."""
        schema = struct_type(TABLES[table])
        paths = [unquote(name) for name in files]  # Spark names files as URLs, and takes them as paths
        return read_parquet(self.spark.read.schema(schema), paths).select(*schema.fieldNames())

    def version(self, table: str) -> int:
        """The table's newest Delta version, read off its log (-1 where the table does not exist)."""
        names = self.storage.names(table, "_delta_log")
        told = [
            name for name in names if name.endswith(".json") or ".checkpoint." in name
        ]  # old commits are cleaned up
        return max((int(name[:20]) for name in told if name[:20].isdigit()), default=-1)

    def append(self, table: str, rows: Sequence[dict[str, Any]], *, version: int | None = None) -> bool:
        """Append a few driver-side rows, or none, to a log table (the ledger's events); whether that was done.

        With a `version` it is not where one as high was given before: it is then skipped.
        """
        schema = struct_type(TABLES[table])
        application: dict[str, str | int] = {} if version is None else {"txnAppId": table, "txnVersion": version}
        # Through Arrow, for a frame made of Python objects would start a Python worker to unpack a row.
        values = pa.Table.from_pylist(list(rows), to_arrow_schema(schema))

        def write() -> bool:
            session = self.spark.newSession()  # it says what was committed in it
            frame = session.createDataFrame(values, schema).coalesce(1)
            frame.write.format("delta").mode("append").options(**application).save(self.path(table))
            committed = session.conf.get("spark.databricks.delta.lastCommitVersionInSession", None)
            return committed is not None and self._says(table, int(committed), application)

        return self._commit(write)

    def _says(self, table: str, version: int, application: Mapping[str, str | int]) -> bool:
        """Whether that commit in the table's log is the application's, and nobody has put another in its place."""
        lines = self.storage.read_text(table, "_delta_log", f"{version:020}.json").splitlines()
        found = [action["txn"] for action in map(json.loads, lines) if "txn" in action]
        wanted = (application.get("txnAppId"), application.get("txnVersion"))
        return not application or wanted in [(one["appId"], one["version"]) for one in found]

    def compact(self, table: str, most_files: int) -> bool:
        """Put a table's files together where it has more than so many; whether it had. No row changes."""
        if len(self.read(table).inputFiles()) <= most_files:
            return False
        self.check_held()
        DeltaTable.forPath(self.spark, self.path(table)).optimize().executeCompaction()
        return True

    def crowded(self, table: str, most_small: int) -> tuple[int, int]:
        """The files that `put_together` would write anew, small ones and such with dead rows: how many, and their
        bytes."""
        by_place = self._to_write_anew(table, most_small)
        return sum(files for _, files, _ in by_place), sum(size for _, _, size in by_place)

    def _to_write_anew(self, table: str, most_small: int) -> list[tuple[str, int, int]]:
        """By partition: why (`small` or `dead`), how many files, their bytes."""
        if self.version(table) < 0:
            return []
        files = DataFrame(self._log(table).unsafeVolatileSnapshot().allFiles().toDF(), self.spark)
        rows = f.get_json_object("stats", "$.numRecords").cast("bigint")
        why = f.when(f.col("size") < SMALL_FILE, "small")
        why = why.when(f.col("deletionVector.cardinality") > MOST_DEAD * rows, "dead")
        by_place = files.groupBy(f.to_json("partitionValues"), why.alias("why"))
        counted = by_place.agg(f.count("*").alias("files"), f.sum("size").alias("bytes"))
        chosen = counted.where(f"why = 'dead' or why = 'small' and files > {most_small}")
        return [(row.why, int(row.files), int(row.bytes)) for row in chosen.collect()]

    def put_together(self, table: str, most_small: int) -> None:
        """Put a table's small files together where a partition has more than so many, and write large ones anew where
        more than `MOST_DEAD` of the rows of one are dead. No row changes, and no consumer of changes sees any of it.

        What is large enough stays as it is, so that what this costs follows what was written since the last time. Runs
        of rows that are sorted by key stay such inside the new file: a page of it is found as well as a file was. May
        be killed anywhere and called again.
        """
        reasons = {why for why, _, _ in self._to_write_anew(table, most_small)}
        session = self.spark.newSession()
        set_pages(session, TABLES[table])
        if "small" in reasons:
            session.conf.set("spark.databricks.delta.optimize.minFileSize", str(SMALL_FILE))
            session.conf.set("spark.databricks.delta.optimize.maxFileSize", str(LARGE_FILE))
            DeltaTable.forPath(session, self.path(table)).optimize().executeCompaction()
        if "dead" in reasons:  # it would leave one alone that it has nothing to put together with
            self._rewrite(TABLES[table], session)

    def vacuum(self, table: str, retention_hours: float) -> tuple[int, int]:
        """Delete what no version of the table of the last hours needs; how many files that were, and their bytes."""
        if self.version(table) < 0:
            return 0, 0
        before = self.storage.size(table)
        self._vacuum(table, retention_hours)
        after = self.storage.size(table)
        return before[0] - after[0], before[1] - after[1]

    def recorded_version(self, table: str) -> int:
        """The highest version given to `append`, 0 where none was."""
        if self.version(table) < 0:
            return 0
        found = self._log(table).unsafeVolatileSnapshot().transactions().get(table)
        return int(found.get()) if found.isDefined() else 0

    def _commit(self, write: Callable[[], Written]) -> Written:
        """Write while the warehouse is held; again where a commit of who held it before came in between."""
        for _ in range(_TRIES - 1):
            self.check_held()
            try:
                return write()
            except _CONFLICTS:
                continue
        self.check_held()
        return write()

    # Staging ----------------------------------------------------------------------------------------------------

    def stage(
        self, run_id: str, name: str, frame: DataFrame, into: Mapping[str, str] | None = None, **counted: Values
    ) -> DataFrame:
        """Write `frame` as a dataset of the run and return it as read back: whatever computed it ran just once.

        How many rows there are, and how many of them meet each condition in `counted`, is told by `staged_rows`. Where
        the optimiser sees that there can be none, and none are to go into a table, nothing is run or written.
        `into`: tables that rows of it go into, with the SQL condition on those rows: whether they break a rule of the
        table is found out on the way (`check_plan`).
        """
        self.check_held()
        if not into and _is_known_empty(frame):
            self._staged_rows[run_id, name] = StagedRows(0, dict.fromkeys(counted, 0), frame.schema, {})
            return self.staged(run_id, name)
        path = self._staged_path(run_id, name)
        seen = Observation()
        counts = [f.count_if(condition).alias(label) for label, condition in counted.items()]
        going = into or {}
        counts += [f.count_if(f.expr(where) & _breaks(TABLES[t])).alias(_BROKEN + t) for t, where in going.items()]
        frame.observe(seen, f.count(f.lit(1)).alias("rows"), *counts).write.mode("overwrite").parquet(path)
        found = seen.get
        broken = {table: found.pop(_BROKEN + table) for table in going}
        self._staged_rows[run_id, name] = StagedRows(found.pop("rows"), found, frame.schema, broken)
        return self.staged(run_id, name)

    def staged_rows(self, run_id: str, name: str) -> "StagedRows":
        """How many rows this process staged under that name."""
        return self._staged_rows[run_id, name]

    def most_staged(self, run_id: str) -> int:
        """Rows of the largest dataset that this process staged for the run."""
        known = list(self._staged_rows.items())  # another thread may stage one meanwhile
        return max((found.rows for (run, _), found in known if run == run_id), default=0)

    def staged(self, run_id: str, name: str, spark: SparkSession | None = None) -> DataFrame:
        """A dataset of the run, in another session where one is given; a relation known to be empty where this process
        staged no row under that name."""
        path = self._staged_path(run_id, name)
        known = self._staged_rows.get((run_id, name))
        session = spark or self.spark
        if known is None:
            return read_parquet(session.read, [path])
        if known.rows == 0:
            return self._no_rows(known.schema, session)
        return read_parquet(session.read.schema(known.schema), [path])

    def collect(self, frame: DataFrame, most: int) -> Staged | None:
        """The rows as a relation that lies on the driver; None where there are more than `most`."""
        if _is_known_empty(frame):
            return Staged(self._no_rows(frame.schema), 0)
        found = frame.limit(most + 1).toArrow()
        if found.num_rows > most:
            return None
        # Through Arrow, for a frame made of Python objects would start a Python worker to unpack a row.
        rows = self.spark.createDataFrame(found, frame.schema) if found.num_rows else self._no_rows(frame.schema)
        return Staged(rows, found.num_rows)

    def _no_rows(self, schema: t.StructType, spark: SparkSession | None = None) -> DataFrame:
        """Without rows, and such that the optimiser sees it: what it is joined with is then not even read.

        Made in the JVM: a night asks for a hundred of them, and told column by column from here each takes 50 ms.
        """
        session = spark or self.spark
        nullable = t.StructType([t.StructField(field.name, field.dataType) for field in schema.fields])
        java: Any = session._jsparkSession
        none: Any = session._jvm.java.util.ArrayList()  # type: ignore[union-attr]
        return DataFrame(java.createDataFrame(none, java.parseDataType(nullable.json())), session)

    def _staged_path(self, run_id: str, name: str) -> str:
        return self.storage.path(self.staging, run_id, name)

    def write_plan(self, run_id: str, plan: Sequence[StagedTable]) -> None:
        """Write the run's plan; the run may be applied once the ledger says `prepared`."""
        written = [(line.table, line.source) for line in plan]
        if len(set(written)) < len(written):  # they are applied under these names, each once
            raise ValueError(f"run {run_id}: a dataset is planned twice for one table: {sorted(written)}")
        self.check_held()
        text = json.dumps([asdict(line) for line in plan], indent=1)
        self.storage.write_text(text, self.staging, run_id, "plan.json")

    def has_plan(self, run_id: str) -> bool:
        """Whether the run can be applied."""
        return self.storage.exists(self.staging, run_id, "plan.json")

    def check_plan(self, run_id: str, plan: Sequence[StagedTable]) -> None:
        """Raise RunError, which names table, rule and count, where a table would refuse what the plan writes into it.

        To be called before the run is prepared: from then on it could neither go forward nor back. Costs nothing where
        the rows were staged with `into`, and none of them broke a rule.
        """
        for line in plan:
            if line.removes or line.rows == 0:
                continue
            table, known = TABLES[line.table], self._staged_rows.get((run_id, line.source))
            _check_types(table, known.schema if known else self.staged(run_id, line.source).schema)
            if known is None or known.broken.get(line.table) != 0:
                self._check_rows(run_id, table, line)

    def _check_rows(self, run_id: str, table: Table, line: StagedTable) -> None:
        rows = self._planned(run_id, line)
        written = rows.where(f"{CHANGE} != 'delete'") if line.changes else rows
        counts = [f.count_if(_breaks(table, rule)).alias(rule) for rule in table.rules]
        found = written.agg(*counts).first()
        broken = {rule: count for rule, count in found.asDict().items() if count} if found else {}
        if broken:
            told = "; ".join(f"{count} break {rule} ({table.rules[rule]})" for rule, count in broken.items())
            raise RunError(f"table {table.name} would refuse rows of dataset {line.source!r}: {told}")

    def discard(self, run_id: str) -> None:
        """Delete the run's staging folder."""
        self.check_held()
        self.storage.delete(self.staging, run_id)

    def staged_runs(self) -> list[str]:
        """Runs with a staging folder, also such as nobody has heard of."""
        return self.storage.names(self.staging)

    # Application ------------------------------------------------------------------------------------------------

    def apply(self, run_id: str) -> dict[str, int]:
        """Bring the live tables up to date from the run's staging; returns every table's version.

        May be killed anywhere and called again.
        """
        plan = json.loads(self.storage.read_text(self.staging, run_id, "plan.json"))
        lines = [StagedTable(**(line | {"dates": tuple(line["dates"])})) for line in plan]

        def apply_to(table: str) -> None:  # one after the other: two writers of one table would be in conflict
            session = self._session_for(table)
            for line in lines:
                if line.table == table:
                    for name, write in self._writes(session, run_id, line).items():
                        # DELETE and MERGE are told the application id by their session only.
                        session.conf.set("spark.databricks.delta.write.txnAppId", f"{run_id}/{table}/{name}")
                        session.conf.set("spark.databricks.delta.write.txnVersion", "1")
                        self._commit(write)

        self._in_parallel(apply_to, list(dict.fromkeys(line.table for line in lines)))
        return self.versions()

    @cached_property
    def _compiling(self) -> SparkSession:
        return _compiling_session(self.spark)

    def _session_for(self, table: str) -> SparkSession:
        """A session of its own to write a table by."""
        is_large = self.bytes_of(table) > LARGE_TABLE
        session = _compiling_session(self.spark) if is_large else self.spark.newSession()
        set_pages(session, TABLES[table])
        return session

    def versions(self) -> dict[str, int]:
        """The newest version of every table that a published event names."""
        return {name: self.version(name) for name in PUBLISHED}

    def restore(self, published: Mapping[str, int]) -> list[str]:
        """Bring the live tables back to the versions published, empty where none is named; those that were beyond."""
        versions = {name: max(published.get(name, 0), 0) for name in PUBLISHED}
        beyond = [name for name, version in versions.items() if self.version(name) > version]

        def restore_one(name: str) -> None:
            self._commit(lambda: DeltaTable.forPath(self.spark, self.path(name)).restoreToVersion(versions[name]))

        self.storage.delete(_LAYOUT)  # a table may go back to how it was made before it was brought up to date
        self._in_parallel(restore_one, beyond)
        return beyond

    def _writes(self, session: SparkSession, run_id: str, line: StagedTable) -> dict[str, Callable[[], None]]:
        """The commits of one line, each by what it is told apart from the table's others by, in a session of its own.

        What a run changes in a keyed table takes two, for a MERGE that inserts too would have Spark exchange every row
        of the files that it touches, whole: what is there already is merged, what is new is appended. In a table that
        keeps its files no MERGE is made of few rows, for it reads the files that it touches whole.
        """
        table = TABLES[line.table]
        if line.most_small or line.rewrites:
            together = partial(self.put_together, table.name, line.most_small)
            return {"files": partial(self._rewrite, table, session) if line.rewrites else together}
        if line.rows == 0 and (table.kind != "dated" or line.changes):
            return {}
        rows = self._planned(run_id, line, session)
        if line.removes:
            keys = rows.select(*[name for name in rows.columns if name in table.column_names])
            return {line.source: partial(self._remove, table, keys)}
        if line.moves:
            found = self._gone(session, table, rows, f"{line.source}/gone", keeps_files=False)
            return found | {f"{line.source}/written": partial(self._write, table, rows)}
        if not line.changes:
            dates = line.dates if table.kind == "dated" else None
            return {line.source: partial(self._write, table, rows, dates)}
        return self._change(session, table, rows, line)

    def _change(
        self, session: SparkSession, table: Table, rows: DataFrame, line: StagedTable
    ) -> dict[str, Callable[[], None]]:
        found: dict[str, Callable[[], None]] = {}
        keeps_files = table.name == INDEX_FEED.name if line.keeps_files is None else line.keeps_files
        session.conf.set("spark.databricks.delta.merge.deletionVectors.persistent", str(keeps_files).lower())
        if keeps_files and line.rows - line.inserts <= MOST_NAMED:
            if line.inserts < line.rows:
                known = rows.where(f"{CHANGE} != 'insert'")
                found = self._gone(session, table, known, f"{line.source}/gone", keeps_files=True)
            found[f"{line.source}/written"] = partial(self._write, table, rows.where(f"{CHANGE} != 'delete'"))
            return found
        if line.inserts < line.rows:
            found[line.source] = partial(self._merge, table, rows.where(f"{CHANGE} != 'insert'"), line.dates)
        if line.inserts:
            found[f"{line.source}/new"] = partial(self._write, table, rows.where(f"{CHANGE} = 'insert'"))
        return found

    def _gone(
        self, session: SparkSession, table: Table, rows: DataFrame, name: str, *, keeps_files: bool
    ) -> dict[str, Callable[[], None]]:
        """Commits by which the rows with these keys leave the table. They are there: for keys that may not be see
        `_remove`."""
        keys = sorted(tuple(row) for row in rows.select(*table.keys).collect())

        def delete(some: Sequence[tuple[Any, ...]]) -> None:
            session.conf.set("spark.databricks.delta.delete.deletionVectors.persistent", str(keeps_files).lower())
            DeltaTable.forPath(session, self.path(table.name)).delete(_is_among(table.keys, some))

        starts = range(0, len(keys), NAMED_AT_ONCE)
        return {f"{name}/{start}": partial(delete, keys[start : start + NAMED_AT_ONCE]) for start in starts}

    def _write(self, table: Table, rows: DataFrame, dates: Sequence[str] | None = None) -> None:
        """Append rows, or put them in the place of all that the table has of these dates."""
        rows = rows.select(*table.column_names)
        if table.sorted_by:
            rows = rows.sortWithinPartitions(*table.partition_by, table.sorted_by)
        writer = rows.write.format("delta")
        if dates is not None:  # a dated table's rows without a date fail here: they must not be appended
            named = ", ".join(f"'{date}'" for date in dates)
            writer.mode("overwrite").option("replaceWhere", f"ingest_date in ({named})").save(self.path(table.name))
        else:
            writer.mode("append").save(self.path(table.name))

    def _planned(self, run_id: str, line: StagedTable, session: SparkSession | None = None) -> DataFrame:
        """The rows that a line of the plan is about."""
        rows = self.staged(run_id, line.source, session)
        if line.only is not None:
            # Keys are sent to the rows, which have pixels and vectors, and not both exchanged.
            rows = near(rows, Staged(self.staged(run_id, line.only, session), line.only_rows))
        later = [c for c in TABLES[line.table].columns if c.nullable and c.name not in rows.columns]
        if later and not line.removes:  # an earlier release has prepared the run, and this one rolls it forward
            rows = rows.withColumns({column.name: f.lit(None).cast(column.type) for column in later})
        return rows if line.where is None else rows.where(line.where)

    def _merge(self, table: Table, rows: DataFrame, dates: Sequence[str] = ()) -> None:
        target = DeltaTable.forPath(rows.sparkSession, self.path(table.name))
        on = " and ".join(f"live.{key} = staged.{key}" for key in table.keys)
        if dates:  # said literally, for Delta to leave other partitions, and their writers, alone
            named = ", ".join(f"date'{date}'" for date in dates)
            on += f" and live.ingest_date in ({named})"
        values: dict[str, Any] = {name: f"staged.{name}" for name in table.column_names}
        differs = "live.row_digest != staged.row_digest" if "row_digest" in values else None
        (
            target.alias("live")
            .merge(rows.alias("staged"), on)
            .whenMatchedDelete(f"staged.{CHANGE} = 'delete'")
            .whenMatchedUpdate(condition=differs, set=values)
            .execute()
        )

    def _rewrite(self, table: Table, session: SparkSession) -> None:
        """Write files with dead rows anew without them. No row changes, and no consumer of changes sees anything of it.
        Commits nothing where there is no such file. May be killed anywhere and called again."""
        session.sql(f"reorg table delta.`{self.path(table.name).replace('`', '``')}` apply (purge)")

    def _remove(self, table: Table, keys: DataFrame) -> None:
        # By MERGE, for a DELETE that finds nothing commits nothing: its application id would then still be good later.
        target = DeltaTable.forPath(keys.sparkSession, self.path(table.name))
        on = " and ".join(f"live.{key} = gone.{key}" for key in keys.columns)
        target.alias("live").merge(keys.alias("gone"), on).whenMatchedDelete().execute()

    def purge(self, tables: Iterable[str] = PURGED) -> None:
        """Delete from disk all that no live row of these tables needs: old files, change data, what killed writers
        left. Of tables that keep their files, a run has written those anew before in which rows are dead that have to
        go (`StagedTable.moves`).

        No table changes by it, and its published versions with the newest rows stay readable; older ones do not. May be
        killed anywhere and called again. For the holder of the lease, when it has nothing unfinished: a file that is
        being written looks like one that nobody needs.
        """
        self.check_held()
        self._in_parallel(self._vacuum, [name for name in tables if self.version(name) > 0])

    def _vacuum(self, table: str, retention_hours: float = 0) -> None:
        self.check_held()
        # Delta rounds to whole hours, and 0.4 of one would be none.
        DeltaTable.forPath(self.spark, self.path(table)).vacuum(math.ceil(retention_hours))

    def _in_parallel(self, action: Callable[[Any], None], items: Sequence[Any]) -> None:
        with ThreadPoolExecutor(self.parallel_writes) as pool:
            list(pool.map(action, items))


@dataclass(frozen=True)
class StagedRows:
    """What is known of a staged dataset without reading it."""

    rows: int
    counted: dict[str, int]
    """Rows that meet each condition that was counted."""
    schema: t.StructType
    broken: dict[str, int]
    """By table that rows of it go into: how many break a rule of that table."""


_BROKEN = "broken."


def set_pages(session: SparkSession, table: Table) -> None:
    """Have a session write the table's files with pages of as many rows as they are read by."""
    if table.sorted_by is None:
        session.conf.set(PAGE_ROWS, WHOLE_PAGES)


def _compiling_session(spark: SparkSession) -> SparkSession:
    session = spark.newSession()
    for name, value in _COMPILED.items():
        session.conf.set(name, value)
    return session


@contextmanager
def _active(spark: SparkSession) -> Iterator[None]:
    """The session is this thread's active one meanwhile."""
    sessions: Any = spark._jvm.org.apache.spark.sql.classic.SparkSession  # type: ignore[union-attr]
    before = sessions.getActiveSession()
    sessions.setActiveSession(spark._jsparkSession)
    try:
        yield
    finally:
        if before.isDefined():
            sessions.setActiveSession(before.get())
        else:
            sessions.clearActiveSession()


def _file_name(file: str) -> str:
    """The name of a table's file, which no other file has, however what is before it is spelt."""
    return file.rpartition("/")[2]


def _bytes_of(table: DataFrame) -> int:
    """What the files of a table take, as its log says."""
    return int(table._jdf.queryExecution().optimizedPlan().stats().sizeInBytes())


def _is_among(names: Sequence[str], keys: Sequence[tuple[Any, ...]]) -> str:
    """The condition that a row has one of these keys, numbers and texts without spaces, for Delta and Parquet to pass
    over what cannot meet it: of a key of several columns that is by the first."""
    first = ", ".join(_literal(value) for value in dict.fromkeys(key[0] for key in keys))
    condition = f"{names[0]} in ({first})"
    if len(names) == 1:
        return condition
    # Long alternatives of conjunctions would take Spark minutes to plan.
    whole = ", ".join(_literal(" ".join(map(str, key))) for key in keys)
    return f"{condition} and concat_ws(' ', {', '.join(names)}) in ({whole})"


def _literal(value: int | str) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _is_known_empty(frame: DataFrame) -> bool:
    """Whether the optimiser sees that the frame has no row: what follows from nothing is then not even run."""
    most = frame._jdf.queryExecution().optimizedPlan().maxRows()
    return bool(most.isDefined()) and int(most.get()) == 0


def _breaks(table: Table, *rules: str) -> Values:
    """Whether a row breaks one of these rules of the table, of all where none is named."""
    conditions = " and ".join(f"({table.rules[rule]})" for rule in rules or table.rules)
    return ~f.coalesce(f.expr(conditions), f.lit(False))


def _new_columns(table: Table, stored: Mapping[str, str]) -> list[Column]:
    """Columns that a stored table (`name: type`) gets. Raises UsageError where it has others than the description, or
    lacks one that may not be null: its rows have no value for that."""
    new = [column for column in table.columns if column.name not in stored]
    wrong = [f"{name} {kind}, unknown here" for name, kind in stored.items() if name not in table.column_names]
    wrong += [f"no {column.name}, which may not be null" for column in new if not column.nullable]
    wrong += [
        f"{column.name} {stored[column.name]}, not {column.type}"
        for column in table.columns
        if stored.get(column.name, column.type) != column.type
    ]
    if wrong:
        raise UsageError(
            f"table {table.name} was made by another version of this program, and cannot be brought to this one's "
            f"columns: it has {'; '.join(wrong)}"
        )
    return new


def _check_types(table: Table, staged: t.StructType) -> None:
    """Raise RunError where a column of the table is missing among the staged ones or has another type there."""
    found = {field.name: field.dataType.simpleString() for field in staged.fields}
    for column in table.columns:
        if found.get(column.name) != column.type:
            raise RunError(
                f"table {table.name} would refuse what is staged: expected column {column.name} {column.type}, found "
                f"{found.get(column.name, 'none of that name')}"
            )


def changes(old: DataFrame, new: DataFrame, table: Table, kept: Sequence[str] = ()) -> DataFrame:
    """Inserts, updates and deletes that turn the rows `old` into the rows `new`; rows of either are read once.

    Rows that are equal in both (in their `row_digest`, where the table has one, else in all that is not volatile) are
    left out, so that a MERGE touches only what really changed. A delete names its key, and nothing else of the row. The
    result has the columns of `new`, those of `old` that are to be `kept` (null in an insert), and `CHANGE`; `old` needs
    no more than what is compared and kept.
    """
    keys = list(table.keys)
    telling = [column.name for column in table.columns if column.name not in keys and not column.volatile]
    compared = f.struct(*(["row_digest"] if "row_digest" in table.column_names else telling))
    before = old.select(*keys, *kept, compared.alias("_old"))
    after = new.select(*keys, compared.alias("_new"), f.struct(*new.columns).alias("_row"))
    change = (
        f.when(f.col("_row").isNull(), "delete")
        .when(f.col("_old").isNull(), "insert")
        .when(~f.col("_old").eqNullSafe(f.col("_new")), "update")
    )
    found = before.join(after, keys, "full").withColumn(CHANGE, change).where(f.col(CHANGE).isNotNull())
    others = [f.col(f"_row.{name}").alias(name) for name in new.columns if name not in keys]
    return found.select(*keys, *others, *kept, CHANGE).select(*new.columns, *kept, CHANGE)
