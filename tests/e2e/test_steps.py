"""Each step of a run reads and writes what `jobs.run.pipelines` says of it, and nothing else. Of a table no row goes
further than the scan but those of its keys."""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from demo.pictures import make_pictures
from demo.site import Answer, show
from jobs import redecide
from jobs.config.progress import Progress
from jobs.run import freeing
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
        self.scanned: set[str] = set()
        """Tables with rows that were narrowed right above their scan."""
        self.taken_whole: set[tuple[str, str]] = set()
        """Steps, and tables of which they took all rows further than the scan."""
        self._step = ""
        stage_of, read, staged, stage = Progress.stage, Landing.read, Landing.staged, Landing.stage
        collect = Landing.collect

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

        def staging(landing: Landing, run_id: str, name: str, frame: DataFrame, *more: Any, **counted: Any) -> Any:
            self.writes[self._step].add(str(name))
            self._look_at(landing, frame)
            return stage(landing, run_id, name, frame, *more, **counted)

        def collecting(landing: Landing, frame: DataFrame, most: int) -> Any:
            self._look_at(landing, frame)
            return collect(landing, frame, most)

        monkeypatch.setattr(Progress, "stage", in_step)
        monkeypatch.setattr(Landing, "read", reading)
        monkeypatch.setattr(Landing, "staged", reading_staged)
        monkeypatch.setattr(Landing, "stage", staging)
        monkeypatch.setattr(Landing, "collect", collecting)

    def _look_at(self, landing: Landing, frame: DataFrame) -> None:
        jvm_frame: Any = frame._jdf
        for table, narrowed in history_scans(jvm_frame.queryExecution().executedPlan(), landing.storage.root):
            if narrowed:
                self.scanned.add(table)
            else:
                self.taken_whole.add((self._step, table))

    def holds(self, steps: Sequence[Step[Any]]) -> None:
        """Raises AssertionError unless these steps were taken in this order, each as it is declared."""
        names = [step.name for step in steps]
        taken = [name for name in self.order if name in names]
        assert taken == names
        for step in steps:
            assert self.reads[step.name] <= set(step.reads), f"{step.name} reads"
            freed = {name for name in self.writes[step.name] if name.startswith(freeing.STEP)}  # a few for each table
            written = {name.rstrip("0123456789") for name in self.writes[step.name] - freed}
            written |= {freeing.STEP} if freed else set()
            assert written <= set(step.writes), f"{step.name} writes"
        self.reads.clear()
        self.writes.clear()
        self.order.clear()


def history_scans(plan: Any, root: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, bool]]:
    """Of each scan of a table in a physical plan: its name, and whether rows are chosen before any is exchanged.

    `above`: what happens to the rows of this node, the next first.
    """
    name, children = str(plan.nodeName()), plan.children()
    if name.startswith("Scan parquet"):
        path = str(plan.relation().location().rootPaths().head()).removeprefix(root).lstrip("/")
        if not path.startswith("_staging/"):
            exchanged = next((place for place, node in enumerate(above) if "Exchange" in node), len(above))
            of_dates = plan.partitionFilters().mkString().count("ingest_date") > 0
            yield path.split("/")[0], of_dates or bool({"lookup", "BroadcastHashJoin"}.intersection(above[:exchanged]))
    # Spark says of one key that a column equals it.
    if name == "Filter" and re.search(r" IN \(| INSET |_id#\d+ = [0-9a-f]", str(plan.condition().toString())):
        name = "lookup"
    for number in range(children.size()):
        yield from history_scans(children.apply(number), root, (name, *above))


WHOLE = {"overrides", "quarantine", "refetch_queue"}
"""Tables that are as small as people's time, as broken images, or as what is to be asked for."""


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
    assert {"sightings", "url_state", "clusters", "images", "embeddings"} <= seen.scanned
    small.page("/ill.jpg", show(pictures[60]))
    assert small.night(FIRST, warehouse, "--retry-failed") == 0
    seen.holds(REFETCH)
    rule = {"id": "title", "kind": "text", "action": "block", "reason": "title", "words": ["another"]}
    gate = {"id": "nsfw", "kind": "nsfw", "action": "block", "reason": "nsfw", "at_least": 0.999}
    policy = small.policy("stricter", [gate, rule])
    assert redecide.main(small.arguments(warehouse, policy)) == 0
    seen.holds(REDECISION)
    # Another policy is about every sighting, whatever it came to.
    whole = {(step, table) for step, table in seen.taken_whole if table not in WHOLE}
    assert whole == {("decide again", "sightings")}
