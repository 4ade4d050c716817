"""Reading what a warehouse has published, without Spark and without torch: what most readers need, under one name.

`lensfeed.loaders` (torch), `lensfeed.compact` and `lensfeed.rerank` are imported by those who use them.
"""

from collections.abc import Mapping
from os import PathLike

from lensfeed.feed import FeedEntry, SeenAt, feed_vectors, lookup, search, text_vectors
from lensfeed.feed_changes import Changes, ChangesGoneError, changes, changes_to
from lensfeed.feed_export import Export, ExportError, export, load_export
from lensfeed.pins import pinned
from lensfeed.snapshot import Snapshot, SnapshotError, SnapshotGoneError

__all__ = [
    "Changes",
    "ChangesGoneError",
    "Export",
    "ExportError",
    "FeedEntry",
    "SeenAt",
    "Snapshot",
    "SnapshotError",
    "SnapshotGoneError",
    "changes",
    "changes_to",
    "export",
    "feed_vectors",
    "load_export",
    "lookup",
    "open_feed",
    "pinned",
    "search",
    "text_vectors",
]


def open_feed(
    warehouse: str | PathLike[str], run: str | None = None, storage_options: Mapping[str, str] | None = None
) -> Snapshot:
    """The newest published snapshot of the warehouse, or that of the run named.

    `warehouse`: path or URI; `storage_options`: what delta-rs needs to reach it (credentials, endpoint). Raises
    SnapshotError where there is no warehouse, where nothing is published yet, and for a run that is not published.
    """
    return Snapshot.open(warehouse, run, storage_options)
