"""What each kind of run does, step by step: the one place that says in which order, by what name, from what, to what.

A step is a function of the run's state. It reads tables of the warehouse as published, and datasets that earlier steps
have staged; it writes datasets, which the run's plan may name. A step's name is what progress lines say and what the
ledger keeps its seconds under. `tests/e2e/test_steps.py` holds `reads` and `writes` to what the steps do;
the list in docs/architecture.md is made from here (`python -m jobs.run.pipelines`).
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from jobs.config.command import run_command
from jobs.run import contents, freeing
from jobs.run.context import Work
from jobs.run.derived import ChangesFacts, find_live_images, group_all, group_duplicates, update_feed
from jobs.run.filling import FillImages, FillTexts
from jobs.run.ingest import Night
from jobs.run.names import Count, Dataset, outcome
from jobs.run.redecision import Redecision, Refetch
from jobs.run.rollback import Rollback
from jobs.run.switch import RuleSwitch, Switch
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
    """Name of the run's count that says how much the step worked through."""


Run = TypeVar("Run", bound=HasWork)


def stage_run(run: Run, steps: Sequence[Step[Run]]) -> None:
    """Take a run through its steps and write its plan. No live table is touched."""
    take_steps(run, steps)
    run.work.write_plan()


def take_steps(run: Run, steps: Sequence[Step[Run]]) -> None:
    """Take a run through steps."""
    for step in steps:
        with run.work.progress.stage(step.name):
            step.do(run)


ACCEPTED = outcome(Outcome.ACCEPTED)

GOLDEN: Step[HasWork] = Step("golden vectors", lambda run: contents.make_golden(run.work), (), ())

_FACTS = (Dataset.COMPARED, Dataset.CRAWL, Dataset.SIGHTINGS, Dataset.TEXTS, Dataset.VECTORS, Dataset.WITHOUT_VECTOR)
"""What a run, whichever kind it is, tells of the facts that it changes."""

DERIVED: tuple[Step[ChangesFacts], ...] = (
    Step(
        "liveness",
        find_live_images,
        (
            *(*_FACTS, Dataset.CLUSTERS, "embeddings", "image_hashes", "images", "refetch_queue", "text_embeddings"),
            "url_state",
        ),
        (
            Dataset.AFFECTED,
            "affected_states",
            "first_accepted",
            "image_hashes_before",
            Dataset.KEPT_VECTORS,
            "left_texts",
            Dataset.NEW_IMAGES,
            "owed_pixels",
            "owing_urls",
            "refetch_queue",
            "refetch_queue_before",
            Dataset.REMOVED,
            "shown_unaffected",
            Dataset.STORED,
            "stored_images",
            "stored_vectors",
            "touched_sightings",
            "touched_urls",
            "url_state",
            "url_state_before",
        ),
        ACCEPTED,
    ),
    Step(
        "dedup",
        group_duplicates,
        (Dataset.CLUSTERS, "image_hashes", "lsh_bands"),
        (
            "asked_",
            "asked_images_",
            "bands_",
            "behind_members",
            "behind_moved",
            Dataset.CLUSTERS,
            Dataset.CLUSTERS_BEFORE,
            "dead_groups",
            "earlier_",
            "fallen_heads_",
            "hashed_groups",
            "held_groups",
            "image_hashes",
            "known_groups_",
            "lsh_bands",
            "met_",
            "met_groups_",
            "moved",
            "moved_groups",
            "moved_heads",
            "moved_members",
            "neighbouring_heads_",
            "reached_",
            "reached_members_",
            Dataset.REGROUPED,
            "settled_",
            "settling_",
            "standing_heads",
            "stranger_groups_",
            "stranger_images_",
            "strangers_",
        ),
        ACCEPTED,
    ),
    Step(
        "feed",
        update_feed,
        (
            *_FACTS,
            Dataset.CLUSTERS,
            Dataset.CLUSTERS_BEFORE,
            Dataset.REGROUPED,
            Dataset.REMOVED,
            "embeddings",
            "feed_ids",
            "feed_members",
            "images",
            "index_feed",
            "text_embeddings",
            "url_state",
        ),
        (
            freeing.STEP,
            "feed_changes",
            "feed_facts",
            "feed_ids",
            "feed_members",
            "index_feed",
            "known_feed_ids",
            "natural_feed_ids",
            "older_images",
            "older_texts",
            "taken_feed_ids",
            "touched_clusters",
            "touched_members",
            "touched_representatives",
            "touched_texts",
            "unaffected_members",
            "unaffected_representatives",
            "wanted_feed_ids",
        ),
        ACCEPTED,
    ),
)

NIGHT: tuple[Step[Night], ...] = (
    Step("manifest and pre-gate", Night.read, ("overrides",), ("lines", Dataset.ROWS)),
    GOLDEN,
    Step(
        "crawl and gate",
        Night.crawl,
        (Dataset.CLUSTERS, Dataset.CONTENT_SIGNALS, Dataset.FETCHES, "quarantine", Dataset.ROWS, "url_state"),
        (
            Dataset.ANSWERS,
            "asked_now",
            "asked_urls",
            Dataset.CONTENT_SIGNALS,
            Dataset.CRAWL,
            "fetched_ahead",
            Dataset.FETCHES,
            "judged",
            "quarantine",
            "recorded_urls",
            "scored",
            "shown_before",
        ),
        Count.URLS,
    ),
    Step(
        "embed",
        Night.embed,
        (Dataset.ANSWERS, Dataset.CRAWL, "embeddings", Dataset.ROWS, "text_embeddings"),
        (
            "given_texts",
            "missing_texts",
            "missing_vectors",
            "missing_vectors_beside",
            Dataset.TEXTS,
            Dataset.VECTORS,
            Dataset.VECTORS_BESIDE,
            "with_pixels",
        ),
        Count.EMBEDDED,
    ),
    Step(
        "outcomes",
        Night.decide,
        (Dataset.ANSWERS, Dataset.CONTENT_SIGNALS, Dataset.CRAWL, Dataset.FETCHES, Dataset.ROWS, Dataset.VECTORS),
        ("decisions", Dataset.EMBED_FAILURES, "embed_news", Dataset.SIGHTINGS),
    ),
    *DERIVED,
    Step(
        "audit",
        Night.audit,
        (Dataset.CLUSTERS, Dataset.CRAWL, Dataset.SIGHTINGS, Dataset.VECTORS, Dataset.VECTORS_BESIDE),
        (),
    ),
)
"""A date, from its manifest."""

AHEAD = NIGHT[:4]
"""What of it follows from little of history, and may be done before the warehouse is held."""

_DECIDING_READS = (Dataset.CONTENT_SIGNALS, Dataset.FETCHES, "overrides", Dataset.SIGHTINGS, "text_embeddings")
_DECIDING_WRITES = (
    Dataset.ANSWERS,
    "changed_images",
    Dataset.COMPARED,
    "decisions",
    Dataset.EMBED_FAILURES,
    "embed_news",
    "fetches_of_rows",
    "given_texts",
    "judged",
    Dataset.ROWS,
    Dataset.SIGHTINGS,
    Dataset.TEXTS,
)
"""Of stored sightings decided again, for whatever reason."""

REFETCH: tuple[Step[Refetch], ...] = (
    GOLDEN,
    Step(
        "crawl and gate",
        Refetch.crawl,
        (Dataset.CONTENT_SIGNALS, Dataset.FETCHES, "overrides", "quarantine"),
        (Dataset.CONTENT_SIGNALS, Dataset.CRAWL, Dataset.FETCHES, "quarantine", Dataset.REQUESTS, "scored"),
    ),
    Step(
        "embed",
        Refetch.embed,
        (Dataset.CRAWL, "embeddings"),
        ("missing_vectors", "missing_vectors_beside", Dataset.VECTORS, Dataset.VECTORS_BESIDE, "with_pixels"),
    ),
    Step(
        "outcomes",
        Refetch.decide,
        (
            Dataset.CONTENT_SIGNALS,
            Dataset.CRAWL,
            Dataset.FETCHES,
            Dataset.SIGHTINGS,
            "text_embeddings",
            Dataset.VECTORS,
        ),
        (
            *_DECIDING_WRITES,
            "asked_again",
            Dataset.CONCERNED,
            Dataset.KNOWN_FETCHES,
            "scored_now",
        ),
    ),
    Step("audit", Refetch.audit, (Dataset.CRAWL, Dataset.VECTORS, Dataset.VECTORS_BESIDE), ()),
    *DERIVED,
)
"""What is owed a fetch, failed for now or was deferred: asked for again."""

REDECISION: tuple[Step[Redecision], ...] = (
    Step(
        "decide again",
        Redecision.decide,
        _DECIDING_READS,
        _DECIDING_WRITES,
    ),
    *DERIVED,
)
"""Stored sightings under another policy, or with what people said."""


SWITCH: tuple[Step[Switch], ...] = (
    Step("missing vectors", Switch.find_missing, ("embeddings", "images"), (Dataset.WITHOUT_VECTOR,)),
    Step("neighbours", Switch.compare_neighbours, (Dataset.CLUSTERS, "embeddings"), ()),
    Step(
        "decide again",
        Switch.decide,
        (*_DECIDING_READS, Dataset.CLUSTERS, Dataset.WITHOUT_VECTOR),
        _DECIDING_WRITES,
    ),
    *DERIVED,
)
"""The feed under another model, whose vectors are there."""

ROLLBACK: tuple[Step[Rollback], ...] = (
    Step(
        "restore",
        Rollback.restore,
        (Dataset.CONTENT_SIGNALS, Dataset.FETCHES, "overrides", Dataset.SIGHTINGS, "text_embeddings"),
        (
            Dataset.ANSWERS,
            "changed_images",
            "decisions",
            Dataset.FETCHES,
            "given_texts",
            "judged",
            Dataset.ROWS,
            Dataset.SIGHTINGS,
            Dataset.TEXTS,
        ),
    ),
    *DERIVED,
    Step("audit", Rollback.audit, (Dataset.CLUSTERS, Dataset.SIGHTINGS), ()),
)
"""What nights brought since an earlier run, taken back."""

_LIVENESS, _DEDUP, _FEED = DERIVED

RULE_SWITCH: tuple[Step[RuleSwitch], ...] = (
    _LIVENESS,
    Step(_DEDUP.name, group_all, (*_DEDUP.reads, "images"), (*_DEDUP.writes, "hashed", "hashed_live"), ACCEPTED),
    _FEED,
    Step("audit", RuleSwitch.audit, (Dataset.CLUSTERS,), ()),
)
"""All live images under another rule of what near-duplicates are."""

FILL_IMAGES: tuple[Step[FillImages], ...] = (
    Step("embed", FillImages.embed, ("embeddings", "images"), (Dataset.VECTORS,)),
)
FILL_TEXTS: tuple[Step[FillTexts], ...] = (
    Step("embed texts", FillTexts.embed, ("overrides", Dataset.SIGHTINGS, "text_embeddings"), (Dataset.TEXTS,)),
)
"""What a switch needs: vectors of stored images, of accepted texts."""

PIPELINES: dict[str, Sequence[Step[Any]]] = {
    "night": NIGHT,
    "refetch": REFETCH,
    "re-decision": REDECISION,
    "rollback": ROLLBACK,
    "switch of models": SWITCH,
    "switch of rules": RULE_SWITCH,
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
    sys.exit(run_command(lambda: sys.stdout.write(document())))
