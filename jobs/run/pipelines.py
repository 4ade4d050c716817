"""What each kind of run does, step by step: the one place that says in which order, by what name, from what, to what.

A step is a function of the run's state. It reads tables of the warehouse as published, and datasets that earlier steps
have staged; it writes datasets, which the run's plan may name. A step's name is what progress lines say and what the
ledger keeps its seconds under. `tests/e2e/test_steps.py` holds `reads` and `writes` to what the steps do;
docs/pipelines.md is made from here (`python -m jobs.run.pipelines`).
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from jobs.run import contents
from jobs.run.context import Work
from jobs.run.derived import ChangesFacts, find_live_images, group_duplicates, update_feed
from jobs.run.filling import FillImages, FillTexts
from jobs.run.ingest import Night
from jobs.run.names import Count, outcome
from jobs.run.redecision import Redecision, Refetch
from jobs.run.switch import Switch
from schemas.outcomes import Outcome


class HasWork(Protocol):
    """The state of any run."""

    work: Work


Run_contra = TypeVar("Run_contra", bound=HasWork, contravariant=True)


@dataclass(frozen=True)
class Step(Generic[Run_contra]):
    """One step of a run."""

    name: str
    do: Callable[[Run_contra], None]
    reads: tuple[str, ...]
    """Tables and staged datasets."""
    writes: tuple[str, ...]
    """Staged datasets."""
    works_through: str = Count.SIGHTINGS
    """The count of what it takes time for, among the run's counts."""


Run = TypeVar("Run", bound=HasWork)


def stage_run(run: Run, steps: Sequence[Step[Run]]) -> None:
    """Take a run through its steps and write its plan. No live table is touched."""
    for step in steps:
        with run.work.progress.stage(step.name):
            step.do(run)
    run.work.write_plan()


ACCEPTED = outcome(Outcome.ACCEPTED)

GOLDEN: Step[HasWork] = Step("golden vectors", lambda run: contents.make_golden(run.work), (), ())

DERIVED: tuple[Step[ChangesFacts], ...] = (
    Step("liveness", find_live_images, (), (), ACCEPTED),
    Step("dedup", group_duplicates, (), (), ACCEPTED),
    Step("feed", update_feed, (), (), ACCEPTED),
)

NIGHT: tuple[Step[Night], ...] = (
    Step("manifest and pre-gate", Night.read, (), ()),
    GOLDEN,
    Step("crawl and gate", Night.crawl, (), (), Count.URLS),
    Step("embed", Night.embed, (), (), Count.EMBEDDED),
    Step("outcomes", Night.decide, (), ()),
    *DERIVED,
    Step("audit", Night.audit, (), ()),
)
"""A date, from its manifest."""

REFETCH: tuple[Step[Refetch], ...] = (
    GOLDEN,
    Step("crawl and gate", Refetch.crawl, (), ()),
    Step("embed", Refetch.embed, (), ()),
    Step("outcomes", Refetch.decide, (), ()),
    Step("audit", Refetch.audit, (), ()),
    *DERIVED,
)
"""What is owed a fetch, failed for now or was deferred: asked for again."""

REDECISION: tuple[Step[Redecision], ...] = (
    Step("decide again", Redecision.decide, (), ()),
    *DERIVED,
)
"""Stored sightings under another policy, or with what people said."""


SWITCH: tuple[Step[Switch], ...] = (
    Step("missing vectors", Switch.find_missing, (), ()),
    Step("decide again", Switch.decide, (), ()),
    *DERIVED,
)
"""The feed under another model, whose vectors are there."""

FILL_IMAGES: tuple[Step[FillImages], ...] = (Step("embed", FillImages.embed, (), ()),)
FILL_TEXTS: tuple[Step[FillTexts], ...] = (Step("embed texts", FillTexts.embed, (), ()),)
"""What a switch needs: vectors of stored images, of accepted texts."""

PIPELINES: dict[str, Sequence[Step[Any]]] = {
    "night": NIGHT,
    "refetch": REFETCH,
    "re-decision": REDECISION,
    "switch of models": SWITCH,
    "vectors of stored images": FILL_IMAGES,
    "vectors of stored texts": FILL_TEXTS,
}


def document() -> str:
    """The part of docs/architecture.md between its marks."""
    lines = ["```"]
    width = max(map(len, PIPELINES))
    lines += [f"{kind:{width}}  {' ─► '.join(step.name for step in steps)}" for kind, steps in PIPELINES.items()]
    lines += ["```", "", "| step of | step | reads | writes |", "|---|---|---|---|"]
    listed: set[Step[Any]] = set()
    for kind, steps in PIPELINES.items():
        for step in steps:
            if step not in listed:
                cells = [", ".join(sorted(map(str, names))) for names in (step.reads, step.writes)]
                lines.append(f"| {kind} | {step.name} | {' | '.join(cells)} |")
                listed.add(step)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
