"""One run under way: what every step of it needs, and how a step stages what it made.

Every dataset that more than one step reads is staged once. What is to become of the live tables goes into the plan,
which `jobs.warehouse.landing` applies once the run is prepared.
"""

import datetime as dt
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as f

from jobs.config.profile import Config
from jobs.config.progress import Progress
from jobs.run.names import Count
from jobs.run.names import changed as changed_count
from jobs.run.names import seconds as seconds_metric
from jobs.run.overrides import Overrides
from jobs.stages.clusters import Checkpoint
from jobs.warehouse.history import Staged, near
from jobs.warehouse.landing import CHANGE, Landing, StagedRows, StagedTable, changes
from jobs.warehouse.ledger import Versions
from schemas.policy import Policy
from schemas.tables import TABLES

_RUN_TIME = "%Y%m%dT%H%M%S"

UNCOUNTED: Mapping[str, Column] = MappingProxyType({})

MOST_LOCAL = 2_000
"""Keys that the driver takes to itself: 130 kB."""
SMALL_RUN = 100_000
"""Rows of the largest dataset of a run up to which its keys are first thought to be few: to find that they are not
takes as long as to stage them."""


@dataclass
class Work:
    """The state of staging one run."""

    spark: SparkSession
    landing: Landing
    config: Config
    policy: Policy
    versions: Versions
    run_id: str
    progress: Progress
    dates: tuple[dt.date, ...] = ()
    """Dates that the run works on; a re-decision knows them when it has staged what differs."""
    plan: list[StagedTable] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    remark: str | None = None
    """What the ledger is to say of the run."""
    number: int = 0
    """Of the run in the warehouse, greater than those of all that were published before: given as it begins."""
    taken_down: Staged | None = None
    """`image_id` of contents that the run takes down."""
    crawlers: int = 1
    """How many runs of this driver may ask hosts at the same time: this one has its part of each host's limits."""

    @cached_property
    def overrides(self) -> Overrides:
        """What people decided, as published; a run that changes it says so by assigning."""
        return Overrides(self.landing.read("overrides"))

    def stage(self, name: str, frame: DataFrame, into: Mapping[str, str] | None = None, **counted: Column) -> DataFrame:
        """Write a dataset of the run; see `Landing.stage`."""
        return self.landing.stage(self.run_id, name, frame, into, **counted)

    def staged(self, name: str) -> DataFrame:
        """A dataset of the run as read back."""
        return self.landing.staged(self.run_id, name)

    def keys(self, name: str, frame: DataFrame) -> Staged:
        """The distinct rows of `frame`, whose columns are a key, to read history by (`past`): few as a relation of the
        driver's, which no scan has to fetch, more staged."""
        distinct = frame.distinct()
        is_small = self.landing.most_staged(self.run_id) <= SMALL_RUN
        few = self.landing.collect(distinct, MOST_LOCAL) if is_small else None
        return few or self.counted(name, distinct)

    def counted(self, name: str, frame: DataFrame) -> Staged:
        """Stage a dataset that is used with how many rows it has."""
        staged = self.stage(name, frame)
        return Staged(staged, self.rows(name).rows)

    def past(
        self, table: str, keys: Staged, *by: str, columns: Sequence[str] = (), where: Column | None = None
    ) -> DataFrame:
        """What a table, as published, holds of staged keys, all columns or some, of its rows that meet `where`: one
        scan; see `jobs.warehouse.history`.

        Where the keys name their dates, of a table that is partitioned by them, no other date is opened.
        """
        past = self.landing.read(table)
        if where is not None:
            past = past.where(where)
        past = past.select(*columns or ["*"])
        if keys.rows and "ingest_date" in keys.frame.columns and "ingest_date" in TABLES[table].partition_by:
            past = past.where(f.col("ingest_date").isin(*dates_of(keys.frame)))
        return near(past, keys, *by, sorted_by=TABLES[table].sorted_by)

    def rows(self, name: str) -> StagedRows:
        """What is known of a dataset of the run without reading it."""
        return self.landing.staged_rows(self.run_id, name)

    def stage_changes(
        self, table: str, old: DataFrame, new: DataFrame, counted: Mapping[str, Column] = UNCOUNTED
    ) -> DataFrame:
        """Stage what turns the rows `old` of a keyed table into `new`, as `stage_changed`."""
        return self.stage_changed(table, changes(old, new, TABLES[table]), counted=counted)

    def stage_changed(
        self, table: str, changed: DataFrame, dates: Sequence[dt.date] = (), counted: Mapping[str, Column] = UNCOUNTED
    ) -> DataFrame:
        """Stage rows that say in `CHANGE` what becomes of their keys, and put them into the plan.

        `dates`: of a dated table, those that the rows lie in. `counted`: conditions on the rows, by what the run calls
        the count of those that meet them.
        """
        written = {table: f"{CHANGE} != 'delete'"}
        staged = self.stage(table, changed, written, **{Count.INSERTS: f.col(CHANGE) == "insert"}, **counted)
        found = self.rows(table)
        self.counts[changed_count(table)] = found.rows
        self.counts |= {name: found.counted[name] for name in counted}
        self.plan_changes(table, table, dates)
        return staged

    def plan_changes(self, table: str, source: str, dates: Sequence[dt.date] = ()) -> None:
        """Put into the plan what a dataset staged with its `inserts` counted says in `CHANGE`."""
        found = self.rows(source)
        names = tuple(date.isoformat() for date in dates)
        inserts = found.counted[Count.INSERTS]
        keeps_files = TABLES[table].keeps_files
        self.plan.append(
            StagedTable(table, source, found.rows, dates=names, inserts=inserts, changes=True, keeps_files=keeps_files)
        )

    def plan_rows(
        self,
        table: str,
        source: str,
        *,
        only: str | None = None,
        where: str | None = None,
        dates: Sequence[dt.date] = (),
    ) -> None:
        """Plan that a staged dataset's rows are written; see `StagedTable` for the rest."""
        chosen = self.rows(only).rows if only else 0
        count = min(self.rows(source).rows, chosen) if only else self.rows(source).rows
        names = tuple(date.isoformat() for date in dates)
        self.plan.append(StagedTable(table, source, count, only, chosen, where, names))

    def plan_removal(self, table: str, keys: str, counted: str, where: str) -> None:
        """Plan that the rows with the keys in a staged dataset leave a content table: those of its columns that the
        table has, in its rows that meet `where`, which were counted when it was staged."""
        count = self.rows(keys).counted[counted]
        self.plan.append(StagedTable(table, keys, count, where=where, removes=True))

    def plan_files(self, table: str, most_small: int) -> None:
        """Plan that a table's small files are put together where a partition has more than so many."""
        self.plan.append(StagedTable(table, "", 0, most_small=most_small))

    def plan_moves(self, table: str, source: str) -> None:
        """Plan that rows of a table that keeps its files go from their files, which then are written anew."""
        self.plan.append(StagedTable(table, source, self.rows(source).rows, moves=True))

    def plan_rewrite(self, table: str) -> None:
        """Plan that all files of a table in which rows are dead are written anew."""
        self.plan.append(StagedTable(table, "", 0, rewrites=True))

    def after(self, table: str, changed: DataFrame) -> DataFrame:
        """A keyed table as it will be once the staged changes are applied."""
        return merged(table, self.landing.read(table), changed)

    def after_near(self, table: str, changed: DataFrame, keys: Staged, *by: str) -> DataFrame:
        """Of `after`, what belongs to staged keys."""
        return merged(table, self.past(table, keys, *by), changed, lambda rows: near(rows, keys, *by))

    def checkpoint(self, name: str) -> Checkpoint:
        """Stages each intermediate result of an iteration under a name of its own."""
        rounds = iter(range(1_000_000))
        return lambda frame: self.counted(f"{name}_{next(rounds)}", frame)

    def write_plan(self) -> None:
        """Everything is staged and audited: say what is to be done with it. Raises RunError where a table would refuse
        it."""
        self.landing.check_plan(self.run_id, self.plan)
        self.landing.write_plan(self.run_id, self.plan)
        self.metrics |= {seconds_metric(name): seconds for name, seconds in self.progress.seconds.items()}


def new_run_id() -> str:
    """A name that no other run has, and that says when it was given."""
    return f"{dt.datetime.now(dt.UTC):{_RUN_TIME}}-{uuid.uuid4().hex[:8]}"


def is_older(run_id: str, age: dt.timedelta) -> bool:
    """Whether a run was begun longer ago than that; so it is taken where its name does not say."""
    try:
        begun = dt.datetime.strptime(run_id.partition("-")[0], _RUN_TIME).replace(tzinfo=dt.UTC)
    except ValueError:
        return True
    return dt.datetime.now(dt.UTC) - begun > age


def dates_of(rows: DataFrame) -> tuple[dt.date, ...]:
    """The dates that staged rows lie in; there are as many as nights."""
    return tuple(row[0] for row in rows.select("ingest_date").distinct().orderBy("ingest_date").collect())


def merged(
    table: str, before: DataFrame, changed: DataFrame, among: Callable[[DataFrame], DataFrame] = lambda rows: rows
) -> DataFrame:
    """Rows of a keyed table, less those that staged changes replace or delete, and those that these write; of the
    latter what `among` takes."""
    keys = list(TABLES[table].keys)
    names = TABLES[table].column_names
    kept = before.join(changed.select(*keys), keys, "left_anti")
    return kept.select(*names).unionByName(among(changed.where(f"{CHANGE} != 'delete'").select(*names)))
