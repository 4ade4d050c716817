"""Names by which one step finds what another has left: staged datasets, counts, metrics.

What is staged for a table alone goes by the table's name.
"""

from enum import StrEnum


class Dataset(StrEnum):
    """Staged datasets of a run that more than one function names."""

    ROWS = "rows"
    """The manifest's rows, or stored sightings as such, numbered and judged as far as that goes without pixels."""
    REQUESTS = "requests"
    """URLs that a refetch asks for, each with the content that it has to come back as, if it is known (`expected`)."""
    CRAWL = "crawl"
    """What was fetched: evidence, verdicts, pixels of what is allowed. Every later dataset derives from this one."""
    FETCHES = "fetches"
    """Evidence as it will be recorded."""
    KNOWN_FETCHES = "known_fetches"
    """Of what is recorded, with that evidence, what tells of the sightings that are decided again."""
    CONTENT_SIGNALS = "content_signals"
    ANSWERS = "answers"
    """What asking for a URL on a date came to, with the verdict on the content."""
    VECTORS = "vectors"
    """Vectors of images by the feed's model; failures too."""
    VECTORS_BESIDE = "vectors_beside"
    """Vectors of images by the model that is kept beside the feed's."""
    TEXTS = "texts"
    """Vectors of texts; failures too."""
    EMBED_FAILURES = "embed_failures"
    """Rows of `fetches` that learn what a model said of their content."""
    CONCERNED = "concerned"
    """Sightings that are decided again."""
    SIGHTINGS = "sightings"
    COMPARED = "compared"
    """Sightings that are decided otherwise, with the outcome before."""
    AFFECTED = "affected"
    """image_id of images whose liveness, place in the order or feed facts may have changed."""
    REMOVED = "removed"
    """Keys of pixels and vectors that leave the tables."""
    NEW_IMAGES = "new_images"
    KEPT_VECTORS = "kept_vectors"
    STORED = "stored"
    """The affected images that are stored, with their hashes, and whether they are live."""
    CLUSTERS = "clusters"
    CLUSTERS_BEFORE = "clusters_before"
    """Rows of `clusters` of the affected images, as published."""
    REGROUPED = "regrouped"
    """Rows of `clusters`, as published, of every image that is assigned afresh."""
    WITHOUT_VECTOR = "without_vector"
    """Stored images that a model has no vector for."""


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
    WITHOUT_VECTOR = "without_vector"


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
