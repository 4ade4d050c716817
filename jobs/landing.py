"""The one place that writes Delta: tables, run-scoped staging, idempotent application of a staged run.

A run first writes everything under `{warehouse}/_staging/{run_id}` (Parquet, nobody reads it but the run), then a plan
that names what goes into which table, then the ledger says `prepared`. From there on the run can only go forward:
`apply` is a pure function of the staging folder, and each of its writes may be repeated without effect:

* dated tables: the run's dates are overwritten (`replaceWhere`);
* content tables and logs: appended once under an application id of its own (`txnAppId` carries run and table, so that
  no backfill of an older date is skipped by accident);
* derived tables: MERGE of upserts and deletes by key.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql import types as t

from jobs.storage import Storage
from schemas.spark import struct_type
from schemas.tables import TABLES, Table

CHANGE = "_change"
"""Column of a staged derived table: `upsert` or `delete`."""

TABLE_PROPERTIES: dict[str, str] = {
    # Consumers of change data must see rows as written; deletion vectors would hide deletes from plain readers.
    "delta.enableDeletionVectors": "false",
    "delta.checkpointInterval": "20",
    # Ids and vectors gain nothing from min/max statistics; the leading columns are the ones filtered by.
    "delta.dataSkippingNumIndexedCols": "8",
}


@dataclass(frozen=True)
class StagedTable:
    """One line of a staged run's plan."""

    table: str
    source: str
    """Dataset under the run's staging folder that holds the rows."""
    rows: int
    only: str | None = None
    """Dataset whose (single) key column selects the rows of `source`; null takes all."""
    where: str | None = None
    """SQL condition on the rows of `source`; null takes all."""
    dates: tuple[str, ...] = ()
    """Dates that a dated table's rows replace."""


class Landing:
    """Tables and staging of one warehouse."""

    def __init__(self, spark: SparkSession, root: str, *, parallel_writes: int = 2) -> None:
        self.spark = spark
        self.storage = Storage(spark, root)
        self.parallel_writes = parallel_writes

    # Tables -----------------------------------------------------------------------------------------------------

    def path(self, table: str) -> str:
        """Where the table lies."""
        return self.storage.path(table)

    def ensure_tables(self, names: Iterable[str] = TABLES) -> None:
        """Create the tables that do not exist yet, with comments, constraints and properties."""
        missing = [name for name in names if not self.storage.exists(name, "_delta_log")]
        self._in_parallel(lambda name: self._create(TABLES[name]), missing)

    def _create(self, table: Table) -> None:
        builder = DeltaTable.createIfNotExists(self.spark).location(self.path(table.name)).comment(table.row)
        builder = builder.addColumns(struct_type(table)).partitionedBy(*table.partition_by)
        for name, value in TABLE_PROPERTIES.items():
            builder = builder.property(name, value)
        for name, expression in table.constraints.items():
            builder = builder.property(f"delta.constraints.{name}", expression)
        if table.change_data_feed:
            builder = builder.property("delta.enableChangeDataFeed", "true")
        builder.execute()

    def read(self, table: str, version: int | None = None) -> DataFrame:
        """The table's rows, at `version` or at its newest; without rows where the table does not exist yet."""
        if not self.storage.exists(table, "_delta_log"):
            return self.spark.createDataFrame([], struct_type(TABLES[table]))
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.load(self.path(table))

    def version(self, table: str) -> int:
        """The table's newest Delta version, read off its log (-1 where the table does not exist)."""
        names = self.storage.names(table, "_delta_log")
        commits = [int(name[:20]) for name in names if name[:20].isdigit() and name.endswith(".json")]
        return max(commits, default=-1)

    def append(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        """Append a few driver-side rows to a log table (the ledger's events)."""
        schema = struct_type(TABLES[table])
        tuples = [tuple(row.get(name) for name in schema.fieldNames()) for row in rows]
        frame = self.spark.createDataFrame(tuples, schema).coalesce(1)
        frame.write.format("delta").mode("append").save(self.path(table))

    # Staging ----------------------------------------------------------------------------------------------------

    def stage(self, run_id: str, name: str, frame: DataFrame) -> DataFrame:
        """Write `frame` as a dataset of the run and return it as read back: whatever computed it ran just once."""
        path = self._staged_path(run_id, name)
        frame.write.mode("overwrite").parquet(path)
        return self.spark.read.schema(frame.schema).parquet(path)

    def staged(self, run_id: str, name: str, schema: t.StructType | None = None) -> DataFrame:
        """A dataset of the run."""
        reader = self.spark.read.schema(schema) if schema is not None else self.spark.read
        return reader.parquet(self._staged_path(run_id, name))

    def _staged_path(self, run_id: str, name: str) -> str:
        return self.storage.path("_staging", run_id, name)

    def write_plan(self, run_id: str, plan: Sequence[StagedTable]) -> None:
        """Write the run's plan; the run may be applied once the ledger says `prepared`."""
        text = json.dumps([asdict(line) for line in plan], indent=1)
        self.storage.write_text(text, "_staging", run_id, "plan.json")

    def discard(self, run_id: str) -> None:
        """Delete the run's staging folder."""
        self.storage.delete("_staging", run_id)

    # Application ------------------------------------------------------------------------------------------------

    def apply(self, run_id: str) -> dict[str, int]:
        """Bring the live tables up to date from the run's staging; returns every table's version.

        May be killed anywhere and called again.
        """
        plan = json.loads(self.storage.read_text("_staging", run_id, "plan.json"))
        lines = [StagedTable(**(line | {"dates": tuple(line["dates"])})) for line in plan]
        self._in_parallel(lambda line: self._apply(run_id, line), lines)
        return {name: self.version(name) for name in TABLES if name != "runs"}

    def _apply(self, run_id: str, line: StagedTable) -> None:
        table = TABLES[line.table]
        if line.rows == 0 and table.kind != "dated":
            return
        rows = self.staged(run_id, line.source)
        if line.only is not None:
            chosen = self.staged(run_id, line.only)
            rows = rows.join(chosen, chosen.columns, "left_semi")
        if line.where is not None:
            rows = rows.where(line.where)
        if table.kind == "derived":
            self._merge(run_id, table, rows)
            return
        rows = rows.select(*table.column_names)
        writer = rows.write.format("delta").option("txnAppId", f"{run_id}/{table.name}").option("txnVersion", 1)
        if table.kind == "dated":
            dates = ", ".join(f"'{date}'" for date in line.dates)
            writer.mode("overwrite").option("replaceWhere", f"ingest_date in ({dates})").save(self.path(table.name))
        else:
            writer.mode("append").save(self.path(table.name))

    def _merge(self, run_id: str, table: Table, changes: DataFrame) -> None:
        target = DeltaTable.forPath(self.spark, self.path(table.name))
        on = " and ".join(f"live.{key} = staged.{key}" for key in table.keys)
        values: dict[str, Any] = {name: f"staged.{name}" for name in table.column_names}
        differs = "live.row_digest != staged.row_digest" if "row_digest" in values else None
        (
            target.alias("live")
            .merge(changes.alias("staged"), on)
            .whenMatchedDelete(f"staged.{CHANGE} = 'delete'")
            .whenMatchedUpdate(condition=differs, set=values)
            .whenNotMatchedInsert(condition=f"staged.{CHANGE} = 'upsert'", values=values)
            .execute()
        )

    def _in_parallel(self, action: Callable[[Any], None], items: Sequence[Any]) -> None:
        with ThreadPoolExecutor(self.parallel_writes) as pool:
            list(pool.map(action, items))


def changes(old: DataFrame, new: DataFrame, table: Table) -> DataFrame:
    """Upserts and deletes that turn the rows `old` into the rows `new` (both with the table's columns).

    Rows that are equal in both (in their `row_digest`, where the table has one) are left out, so that a MERGE touches
    only what really changed.
    """
    keys = list(table.keys)
    names = list(table.column_names)
    compared = ["row_digest"] if "row_digest" in names else [name for name in names if name not in keys]
    contents = f.struct(*compared)
    before = old.select(*keys, contents.alias("_old"))
    upserts = (
        new.select(*names)
        .join(before, keys, "left")
        .where(f.col("_old").isNull() | ~f.col("_old").eqNullSafe(contents))
        .select(*names, f.lit("upsert").alias(CHANGE))
    )
    gone = old.select(*names).join(new.select(*keys), keys, "left_anti").withColumn(CHANGE, f.lit("delete"))
    return upserts.unionByName(gone)
