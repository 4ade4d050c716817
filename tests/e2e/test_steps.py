"""Each step of a run reads and writes what `jobs.run.pipelines` says of it, and nothing else."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from demo.pictures import make_pictures
from demo.site import Answer, show
from jobs import redecide
from jobs.config.progress import Progress
from jobs.run.pipelines import NIGHT, REDECISION, REFETCH, Step
from jobs.warehouse.landing import Landing
from tests.e2e.small import DAYS, SmallWorld, small_world

pytestmark = [pytest.mark.spark, pytest.mark.slow]

FIRST, SECOND, _ = DAYS


class Seen:
    """What the steps under way read and write, by their names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads: dict[str, set[str]] = defaultdict(set)
        self.writes: dict[str, set[str]] = defaultdict(set)
        self.order: list[str] = []
        self._step = ""
        stage_of, read, staged, stage = Progress.stage, Landing.read, Landing.staged, Landing.stage

        @contextmanager
        def in_step(progress: Progress, name: str) -> Iterator[None]:
            with stage_of(progress, name):
                self.order.append(name)
                self._step = name
                yield
                self._step = ""

        def reading(landing: Landing, table: str, *more: Any) -> Any:
            self.reads[self._step].add(table)
            return read(landing, table, *more)

        def reading_staged(landing: Landing, run_id: str, name: str, *more: Any) -> Any:
            if name not in self.writes[self._step]:
                self.reads[self._step].add(str(name))
            return staged(landing, run_id, name, *more)

        def staging(landing: Landing, run_id: str, name: str, *more: Any, **counted: Any) -> Any:
            self.writes[self._step].add(str(name))
            return stage(landing, run_id, name, *more, **counted)

        monkeypatch.setattr(Progress, "stage", in_step)
        monkeypatch.setattr(Landing, "read", reading)
        monkeypatch.setattr(Landing, "staged", reading_staged)
        monkeypatch.setattr(Landing, "stage", staging)

    def holds(self, steps: Sequence[Step[Any]]) -> None:
        """Raises AssertionError unless these steps were taken in this order, each as it is declared."""
        names = [step.name for step in steps]
        taken = [name for name in self.order if name in names]
        assert taken == names
        for step in steps:
            assert self.reads[step.name] <= set(step.reads), f"{step.name} reads"
            written = {name.rstrip("0123456789") for name in self.writes[step.name]}
            assert written <= set(step.writes), f"{step.name} writes"
        self.reads.clear()
        self.writes.clear()
        self.order.clear()


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallWorld]:
    with small_world(tmp_path) as made:
        made.settings = ["crawl.retries=0"]
        yield made


def test_steps_read_and_write_what_is_said_of_them(
    spark: SparkSession, small: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = tmp_path / "warehouse"
    pictures = make_pictures()
    small.picture(pictures[0], [FIRST, SECOND], title="A title")
    small.picture(pictures[1], [FIRST])
    small.page("/ill.jpg", Answer(500))
    small.row(FIRST, "/ill.jpg", title="Another title")
    assert small.night(FIRST, warehouse) == 0
    seen = Seen(monkeypatch)
    assert small.night(SECOND, warehouse) == 0
    seen.holds(NIGHT)
    small.page("/ill.jpg", show(pictures[60]))
    assert small.night(FIRST, warehouse, "--retry-failed") == 0
    seen.holds(REFETCH)
    rule = {"id": "title", "kind": "text", "action": "block", "reason": "title", "words": ["another"]}
    gate = {"id": "nsfw", "kind": "nsfw", "action": "block", "reason": "nsfw", "at_least": 0.999}
    policy = small.policy("stricter", [gate, rule])
    assert redecide.main(small.arguments(warehouse, policy)) == 0
    seen.holds(REDECISION)
