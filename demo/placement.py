"""Which step of a job ran on which kind of executor: Spark's event log, beside the lines that the job said."""

import datetime as dt
import io
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

_BEGAN = re.compile(r"\S+ (?P<step>.+) \.\.\.")
_DONE = re.compile(r"\S+ (?P<step>.+) done in [\d.]+ s")

BETWEEN = "(between steps)"
"""What a stage belongs to that was submitted while no step was under way: opening tables, the ledger."""


@dataclass(frozen=True, slots=True)
class Executor:
    """An executor as Spark told of it. `gpus`: the addresses of those that it had; none for the other kind."""

    application: str
    name: str
    profile: int
    cores: int
    gpus: tuple[str, ...]

    @property
    def kind(self) -> str:
        """`GPU` or `CPU`."""
        return "GPU" if self.gpus else "CPU"


@dataclass(slots=True)
class Placed:
    """Of one step: the resource profiles of its stages, and the tasks by executor."""

    profiles: set[int]
    tasks: Counter[Executor]

    def tasks_on(self, kind: str) -> int:
        """Tasks that ended on executors of that kind."""
        return sum(count for executor, count in self.tasks.items() if executor.kind == kind)


def placement(events: Iterable[Mapping[str, Any]], lines: Iterable[Mapping[str, Any]]) -> dict[str, Placed]:
    """Step -> where its tasks ran, in the order of the steps.

    `events`: of one application, as Spark writes them; `lines`: of the same run, as `--log-format json` writes them.
    A stage belongs to the step that was under way when it was submitted.
    """
    moments = list(_moments(lines))
    application = ""
    executors: dict[str, Executor] = {}
    steps: dict[tuple[int, int], tuple[str, int]] = {}
    found: dict[str, Placed] = defaultdict(lambda: Placed(set(), Counter()))
    for event in events:
        match event["Event"]:
            case "SparkListenerApplicationStart":
                application = event["App ID"]
            case "SparkListenerExecutorAdded":
                one = _executor(event, application)
                executors[one.name] = one
            case "SparkListenerStageSubmitted":
                stage = event["Stage Info"]
                step = _step_at(moments, stage.get("Submission Time", event.get("Timestamp", 0)))
                steps[stage["Stage ID"], stage["Stage Attempt ID"]] = (step, stage["Resource Profile Id"])
            case "SparkListenerTaskEnd":
                step, profile = steps[event["Stage ID"], event["Stage Attempt ID"]]
                found[step].profiles.add(profile)
                found[step].tasks[executors[event["Task Info"]["Executor ID"]]] += 1
    order = list(dict.fromkeys(step for _, step in moments))
    return {step: found[step] for step in order if step in found}


def together(placements: Iterable[Mapping[str, Placed]]) -> dict[str, Placed]:
    """Several applications' placements as one."""
    all_of: dict[str, Placed] = {}
    for one in placements:
        for step, placed in one.items():
            known = all_of.setdefault(step, Placed(set(), Counter()))
            known.profiles |= placed.profiles
            known.tasks += placed.tasks
    return all_of


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one a line."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def read_events(file: Path) -> Iterator[dict[str, Any]]:
    """The events of a log that Spark has packed with zstd."""
    with pa.input_stream(str(file), compression="zstd") as packed, io.TextIOWrapper(packed, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _executor(event: Mapping[str, Any], application: str) -> Executor:
    info = event["Executor Info"]
    gpus = info.get("Resources", {}).get("gpu", {}).get("addresses", ())
    return Executor(application, event["Executor ID"], info["Resource Profile Id"], info["Total Cores"], tuple(gpus))


def _moments(lines: Iterable[Mapping[str, Any]]) -> Iterator[tuple[float, str]]:
    """Milliseconds since the epoch, and what was under way from then on."""
    yield 0.0, BETWEEN
    for line in lines:
        at = dt.datetime.fromisoformat(line["at"]).timestamp() * 1000
        if began := _BEGAN.fullmatch(line["message"]):
            yield at, began["step"]
        elif _DONE.fullmatch(line["message"]):
            yield at, BETWEEN


def _step_at(moments: Iterable[tuple[float, str]], at: float) -> str:
    under_way = BETWEEN
    for begun, step in moments:
        if begun > at:
            break
        under_way = step
    return under_way
