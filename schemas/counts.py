"""What runs count and measure, by the names that the ledger has for it (`runs.counts`, `runs.metrics`) and that a
profile's expectations go by."""

import difflib
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator

from schemas.outcomes import FailureCode, Outcome
from schemas.tables import TABLES


class Count(StrEnum):
    """What a run counts, in the ledger's `counts` and where a dataset is staged."""

    URLS = "urls"
    FETCHED_AHEAD = "fetched_ahead"
    """URLs that were asked for before the run (jobs.run.ahead)."""
    NOT_MODIFIED = "not_modified"
    LOST_DECODERS = "lost_decoders"
    EMBEDDED = "embedded"
    TEXTS_EMBEDDED = "texts_embedded"
    TEXTS_FAILED = "texts_failed"
    SIGHTINGS = "sightings"
    USABLE_URLS = "usable_urls"
    """Rows of the manifest with a URL that could be asked for."""
    WITH_TEXT = "accepted_with_text"
    """Accepted sightings that say something."""
    BECAME_LIVE = "became_live"
    """Images that nights before did not have, or no longer."""
    BECAME_MEMBERS = "became_members"
    """Of these, near-duplicates of another image."""
    OVERTAKEN = "overtaken"
    INSERTS = "inserts"
    COLLIDED = "collided"
    FEED_ID_COLLISIONS = "feed_id_collisions"
    LEFT_FEED = "left_feed"
    """Ids that leave the feed."""
    WITHOUT_VECTOR = "without_vector"
    CONTENTS_REMOVED = "contents_removed"
    """What leaves the tables, and thereby the disk (`jobs.warehouse.ledger.REMOVED`)."""
    TEXTS_REMOVED = "texts_removed"


class Metric(StrEnum):
    """What a run measures, in the ledger's `metrics`."""

    MEAN_COSINE = "vectors.mean_cosine"
    """Of two images that the run has embedded. One that leaves its usual place tells of another kind of images, or of
    a fault in what comes before the model."""
    NEIGHBOUR_OVERLAP = "vectors.neighbour_overlap"
    """Of a switch of models: the share of an image's nearest neighbours that stay its nearest under the new model, on
    average over a sample."""
    STAGING_SECONDS = "seconds.staging"
    DEDUP_ROUNDS = "dedup.rounds"
    """How often groups were looked up: once, and again for what flips because of what flipped before."""
    DEDUP_REACHED = "dedup.reached_groups"
    """Groups decided again without an image that came, went or moved."""


FAILED = "failed."
"""What the counts of failure codes begin with."""
BLOCKED = "blocked."
"""What the counts of the reasons of blocked rows begin with."""


def changed(table: str) -> str:
    """The count of a table's rows that a run changes."""
    return f"changed.{table}"


def outcome(name: str) -> str:
    """The count of a run's sightings with an outcome."""
    return f"outcome.{name}"


def seconds(step: str) -> str:
    """The metric of the seconds that a step took."""
    return f"seconds.{step}"


_NOT_OF_NIGHTS = {
    *(Count.USABLE_URLS, Count.INSERTS, Count.COLLIDED),  # of staged datasets alone
    Count.WITHOUT_VECTOR,  # of a switch of models
    Metric.STAGING_SECONDS,  # known when a night was held against what is expected of it
}

COUNTED: frozenset[str] = frozenset(
    [
        *{*Count, *Metric} - _NOT_OF_NIGHTS,
        *(outcome(one) for one in Outcome),
        *(f"{FAILED}{code}" for code in FailureCode),
        *(changed(table.name) for table in TABLES.values() if table.kind == "derived"),
    ]
)
"""What a night, or a switch of models, may be expected to count or to measure; besides these the reasons of blocked
rows (`BLOCKED`), which a policy gives."""


def hint(name: str, known: Iterable[str]) -> str:
    """Which of the known names an unknown one may stand for; all of them where it is like none."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(names)}"


def _counted(name: str) -> str:
    """Any other name would count as 0, whatever a night brings."""
    if name in COUNTED or (name.startswith(BLOCKED) and name != BLOCKED):
        return name
    raise ValueError(f"no night counts this; {hint(name, [*COUNTED, f'{BLOCKED}REASON'])}")


Counted = Annotated[str, AfterValidator(_counted)]
"""A name in an expectation. Whether the policy gives the reason of a blocked row is not known here: see
`jobs.startup.preflight.check_reasons`."""
