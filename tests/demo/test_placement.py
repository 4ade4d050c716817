"""Which step ran on which executors, from what Spark and the job wrote down."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from demo.cluster import executors_text, misplaced, steps_text
from demo.placement import BETWEEN, placement, read_events, together

BEGUN = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)

LINES = [
    (1, "2026-01-31 crawl and gate ..."),
    (2, "2026-01-31 crawl and gate: stage 3, 1 of 2 tasks"),
    (5, "2026-01-31 crawl and gate done in 4.0 s"),
    (5, "2026-01-31 embed ..."),
    (9, "2026-01-31 embed done in 4.0 s"),
]


def lines() -> list[dict[str, Any]]:
    return [{"at": (BEGUN + dt.timedelta(seconds=at)).isoformat(), "message": text} for at, text in LINES]


def executor(name: str, profile: int, *gpus: str) -> dict[str, Any]:
    resources = {"gpu": {"name": "gpu", "addresses": list(gpus)}} if gpus else {}
    info = {"Host": "127.0.0.1", "Total Cores": 1, "Resources": resources, "Resource Profile Id": profile}
    return {"Event": "SparkListenerExecutorAdded", "Executor ID": name, "Executor Info": info}


def stage(number: int, second: float, profile: int, *executors: str) -> list[dict[str, Any]]:
    at = int((BEGUN + dt.timedelta(seconds=second)).timestamp() * 1000)
    info = {"Stage ID": number, "Stage Attempt ID": 0, "Submission Time": at, "Resource Profile Id": profile}
    ended = [
        {
            "Event": "SparkListenerTaskEnd",
            "Stage ID": number,
            "Stage Attempt ID": 0,
            "Task Info": {"Executor ID": executor},
        }
        for executor in executors
    ]
    return [{"Event": "SparkListenerStageSubmitted", "Stage Info": info}, *ended]


ADDED = [executor("0", 0), executor("1", 0), executor("2", 1, "0")]


def test_a_stage_belongs_to_the_step_in_which_it_was_submitted() -> None:
    events = [
        *ADDED,
        *stage(0, 0.5, 0, "0"),
        *stage(1, 3, 0, "0", "1"),
        *stage(2, 5.5, 0, "0"),
        *stage(3, 6, 1, "2", "2"),
        *stage(4, 9.5, 0, "1"),
    ]
    steps = placement(events, lines())
    assert list(steps) == [BETWEEN, "crawl and gate", "embed"]
    on = {name: (placed.tasks_on("CPU"), placed.tasks_on("GPU")) for name, placed in steps.items()}
    assert on == {BETWEEN: (2, 0), "crawl and gate": (2, 0), "embed": (1, 2)}
    assert steps["embed"].profiles == {0, 1}
    assert misplaced(steps) == []


def test_what_ran_elsewhere_than_it_should_is_named() -> None:
    assert misplaced({}) == ["no task of the step 'embed' ran on a GPU executor"]
    steps = placement([*ADDED, *stage(1, 3, 1, "2"), *stage(2, 6, 0, "0")], lines())
    assert misplaced(steps) == ["no task of the step 'embed' ran on a GPU executor"]
    steps = placement([*ADDED, *stage(1, 3, 1, "2"), *stage(2, 6, 1, "2")], lines())
    assert misplaced(steps) == ["1 tasks of the step 'crawl and gate' ran on GPU executors"]


def test_several_applications_are_told_as_one() -> None:
    one = placement([*ADDED, *stage(1, 3, 0, "0")], lines())
    begun = {"Event": "SparkListenerApplicationStart", "App ID": "app-2"}
    other = placement([begun, *ADDED, *stage(1, 3, 0, "0", "1"), *stage(2, 6, 1, "2")], lines())
    steps = together([one, other])
    assert steps["crawl and gate"].tasks_on("CPU") == 3
    text = steps_text(steps)
    assert "crawl and gate" in text
    assert [line.split()[-1] for line in text.splitlines()[1:]] == ["0", "1"]
    told = [" ".join(line.split()) for line in executors_text(steps).splitlines()[1:]]
    assert told == ["CPU 0 3 3", "GPU 0 (a fake) 1 1 1"]


def test_what_spark_has_packed_is_read(tmp_path: Path) -> None:
    file = tmp_path / "app-1.zstd"
    with pa.output_stream(str(file), compression="zstd") as packed:
        packed.write("".join(f"{json.dumps(event)}\n" for event in ADDED).encode())
    assert list(read_events(file)) == ADDED
