"""Reading what a warehouse has published, without Spark and without torch: what most readers need, under one name.

`lensfeed.loaders` (torch), `lensfeed.compact` and `lensfeed.rerank` are imported by those who use them.
"""

from collections.abc import Mapping

from lensfeed.feed import FeedEntry, SeenAt, feed_vectors, lookup, text_vectors
from lensfeed.snapshot import Snapshot, SnapshotError, SnapshotGoneError

__all__ = [
    "FeedEntry",
    "SeenAt",
    "Snapshot",
    "SnapshotError",
    "SnapshotGoneError",
    "feed_vectors",
    "lookup",
    "open_feed",
    "text_vectors",
]


def open_feed(warehouse: str, storage_options: Mapping[str, str] | None = None) -> Snapshot:
    """The newest published snapshot of the warehouse; for an older run there is `Snapshot.open`.

    `warehouse`: path or URI; `storage_options`: what delta-rs needs to reach it (credentials, endpoint). Raises
    SnapshotError where there is no warehouse, or where nothing is published yet.
    """
    return Snapshot.open(warehouse, storage_options=storage_options)
