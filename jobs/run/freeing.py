"""Files of tables that keep theirs, freed of what has to leave the disk: rows that go in this run, and dead ones."""

from collections.abc import Mapping
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from jobs.run.context import Work
from jobs.run.names import Dataset
from jobs.stages import feed
from jobs.warehouse.history import Staged, near
from jobs.warehouse.ledger import TEXTS_ERASED, owes
from schemas.tables import ERASED, PURGED, ROW_ID, TABLES, TELLING_TEXTS

STEP = "freeing_"
"""What the names of datasets that are staged here begin with."""


def free_files(work: Work, touched_urls: Staged, old: DataFrame, feed_changes: DataFrame) -> None:
    """Plan that nothing which the run owes the disk stays in a file as a dead row, of this run or of an earlier one.

    `touched_urls`: `url_id` of URLs with changed sightings; `old`: of the sightings that the run replaces `url_id,
    text_id`; `feed_changes`: `feed_id` of what changes in the feed (both staged). What changes in the other tables is
    staged under their names.
    """
    _free_states(work, touched_urls)
    _owe_old_files(work)
    if not owes(work.counts):
        return
    removed = work.staged(Dataset.REMOVED)
    contents, texts = (
        work.keys(f"{STEP}{name}s", removed.where(f"{name} is not null").select(name))
        for name in ("image_id", "text_id")
    )
    _free(work, "index_feed", {"image_id": contents, "text_id": texts}, feed_changes)
    by_image = {"image_id": contents, "representative_id": contents}
    _free(work, "clusters", by_image, work.staged("clusters"))
    urls = work.keys(f"{STEP}urls", near(old.select("url_id", "text_id"), texts).select("url_id"))
    _free(work, "feed_members", {**by_image, "url_id": urls}, work.staged("feed_members"))


def _free_states(work: Work, touched_urls: Staged) -> None:
    """A state of a URL holds no content, but what was said of one. A URL that once showed what is taken down now may
    have no sighting any more, and what it said lie dead here alone."""
    keys = {"url_id": touched_urls} if work.counts.get(TEXTS_ERASED) else {}
    if work.taken_down is not None:
        keys["image_id"] = work.taken_down
    if not keys:
        return
    files = _free(work, "url_state", keys, work.staged("url_state"), says("url_state"))
    if files and not work.counts.get(TEXTS_ERASED):
        work.counts[TEXTS_ERASED] = files


def says(table: str = "sightings") -> Column:
    """Whether a row of the table holds anything of what a takedown erases."""
    told = [f.col(name).isNotNull() for name in ERASED if name in TABLES[table].column_names]
    return f.array_contains(f.array(*told), f.lit(True))


def _owe_old_files(work: Work) -> None:
    """Where the run would leave them: files that no table needs any more, with rows of what it takes down, or that say
    something of it. A date that was forced since, or a content that upkeep collected, leaves them on the disk until
    their time is over."""
    if work.taken_down is None or work.counts.get(TEXTS_ERASED):
        return
    rows = 0
    for table in TELLING_TEXTS if owes(work.counts) else (*PURGED, *TELLING_TEXTS):
        if "image_id" not in TABLES[table].column_names:
            continue
        lying = work.landing.left_behind(table)
        telling = lying.where(says(table)) if table in TELLING_TEXTS else lying
        rows += near(telling, work.taken_down).count()
    if rows:
        work.counts[TEXTS_ERASED] = rows


def _free(work: Work, table: str, keys: Mapping[str, Staged], changed: DataFrame, where: Column | None = None) -> int:
    """Of each file of the table that holds a row with one of these keys, dead or alive, a row is moved that stays as it
    is: Delta then writes what is left of the file anew. How many files these are.

    `keys`: by the column that holds them. A file none of whose rows stays leaves the table by itself.
    """
    described, lying = TABLES[table], work.landing.files(table, with_dead=True)
    lying = lying if where is None else lying.where(where)
    holding = [
        near(lying.select(column, "file"), some, column, sorted_by=described.sorted_by).select("file")
        for column, some in keys.items()
    ]
    files = work.keys(f"{STEP}{table}_files", reduce(DataFrame.unionByName, holding))
    key = list(described.keys)
    beside = near(work.landing.files(table).select(*key, "file"), files)
    stays = beside.join(changed.select(*key), key, "left_anti")
    chosen = stays.groupBy("file").agg(f.min(f.struct(*key)).alias("key"))
    rows = work.past(table, work.keys(f"{STEP}{table}_keys", chosen.select("key.*")))
    if ROW_ID in described.column_names:
        rows = rows.withColumn(ROW_ID, feed.row_ids(work.number, moved=True))
    work.stage(f"{STEP}{table}_moved", rows, {table: "true"})
    work.plan_moves(table, f"{STEP}{table}_moved")
    return files.rows
