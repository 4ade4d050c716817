"""Names by which one step finds what another has left: staged datasets, and counts and metrics as `schemas.counts` has
them.

What is staged for a table alone goes by the table's name.
"""

from enum import StrEnum

from schemas.counts import BLOCKED, FAILED, Count, Metric, changed, outcome, seconds

__all__ = ["BLOCKED", "FAILED", "Count", "Dataset", "Metric", "changed", "outcome", "seconds"]


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
