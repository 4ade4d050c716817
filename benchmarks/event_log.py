"""What the tasks of one Spark application cost, and which tables they read: from its event log.

A task's bytes are those of its input metrics: what Hadoop's streams gave, so of column chunks that a query needs, not
of whole files. Whose they are is told by SQL metrics: the plan of each query is logged with its scans, where each says
which folder it reads and under which ids its metrics go, and a task's end names the metrics that it has added to. A
task that added to those of one scan has read that scan's table. One that added to none (it found no row: footers, and
what a pushed filter left) is its stage's, if all other tasks of that stage read one table, else its query's, if that
scans one. What is left is `UNKNOWN`, and is reported: mostly the source of a MERGE, which Delta keeps in memory.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STAGING, LOG, OUTSIDE, UNKNOWN = "_staging", "_delta_log", "outside", "unknown"
"""What is read that is no table: the run's staged datasets, Delta's logs of all tables, other folders."""

_Stage = tuple[int, int]
"""Number and attempt."""


@dataclass(frozen=True)
class _Read:
    """The input of one task."""

    stage: _Stage
    length: int
    metrics: set[int]
    """Ids of those that it has added to."""


@dataclass
class TaskCosts:
    """Sums over all tasks of an application."""

    read: Counter[str] = field(default_factory=Counter)
    """Bytes read by table, `STAGING`, `LOG` or `UNKNOWN`."""
    shuffled: int = 0
    """Bytes written for shuffles."""
    cpu_s: float = 0.0
    """CPU of the JVM's task threads: Python workers are not in it."""
    jobs: int = 0
    stages: int = 0
    tasks: int = 0


def task_costs(log: Path, warehouse: Path) -> TaskCosts:
    """Read an event log, written whole and uncompressed, of an application that worked on that warehouse."""
    costs = TaskCosts()
    scans: dict[int, str] = {}
    reads: list[_Read] = []
    scanned: dict[str, set[str]] = defaultdict(set)
    query_of: dict[int, str] = {}
    with log.open(encoding="utf-8") as lines:
        for event in map(json.loads, lines):
            kind = event["Event"].rpartition(".")[2]
            if kind == "SparkListenerJobStart":
                costs.jobs += 1
                query = event.get("Properties", {}).get("spark.sql.execution.id", "")
                query_of |= dict.fromkeys(event["Stage IDs"], query)
            elif kind == "SparkListenerStageCompleted":
                costs.stages += 1
            elif kind == "SparkListenerTaskEnd" and (metrics := event.get("Task Metrics")):
                costs.tasks += 1
                costs.cpu_s += metrics["Executor CPU Time"] / 1e9
                costs.shuffled += metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"]
                touched = {one["ID"] for one in event["Task Info"]["Accumulables"]}
                stage = (event["Stage ID"], event["Stage Attempt ID"])
                reads.append(_Read(stage, metrics["Input Metrics"]["Bytes Read"], touched))
            elif "sparkPlanInfo" in event:
                found = dict(_scans(event["sparkPlanInfo"], str(warehouse)))
                scans |= found
                scanned[str(event["executionId"])] |= set(found.values())
    by_query = {stage: scanned[query] for stage, query in query_of.items()}
    costs.read = _attributed(reads, scans, by_query)
    return costs


def _scans(node: dict[str, Any], warehouse: str) -> Iterator[tuple[int, str]]:
    """Ids of the metrics of a plan's scans, each with what that scan reads."""
    if location := node["metadata"].get("Location"):
        _, inside, below = location.partition(f"{warehouse}/")
        path = below.partition(",")[0].partition("]")[0].split("/")
        table = LOG if LOG in path else path[0] if inside else OUTSIDE
        for metric in node["metrics"]:
            yield metric["accumulatorId"], table
    for child in node["children"]:
        yield from _scans(child, warehouse)


def _attributed(reads: Sequence[_Read], scans: Mapping[int, str], by_query: Mapping[int, set[str]]) -> Counter[str]:
    """Bytes by what they were read from."""
    by_task = [{scans[metric] for metric in read.metrics if metric in scans} for read in reads]
    by_stage: dict[_Stage, set[str]] = defaultdict(set)
    for read, tables in zip(reads, by_task, strict=True):
        by_stage[read.stage] |= tables
    found: Counter[str] = Counter()
    for read, tables in zip(reads, by_task, strict=True):
        candidates = tables or by_stage[read.stage] or by_query.get(read.stage[0], set())
        found[next(iter(candidates)) if len(candidates) == 1 else UNKNOWN] += read.length
    return found
