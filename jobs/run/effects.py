"""What a staged re-decision would change, for people to look at before it is published.

Counts are exact. Of whatever is listed there is a fixed number at most, the same ones on every call, and how many more
there are is known: at any size of the warehouse the driver holds a bounded part of it.

Pixels are those of `images`, which has them only of contents that an accepted sighting shows as things are. What is
held back altogether has left the disk, or never came to it, and has none.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Row, Window
from pyspark.sql import functions as f

from jobs.run.context import Work
from jobs.run.names import Count, Dataset
from jobs.run.redecision import counted_flips, why_decided
from jobs.warehouse.history import Staged, near
from jobs.warehouse.landing import CHANGE
from jobs.warehouse.ledger import Event
from schemas.tables import TABLES

MOST_LINES = 40
"""Lines of a table of counts."""
MOST_GROUPS, MOST_SAMPLES = 12, 8
"""Groups of sightings of one kind, and sightings that are shown of each."""
MOST_REPLACED = 16
MOST_ROWS = 8
"""Rows of the feed of one kind of change."""

Kind = Literal["leaves", "enters", "otherwise"]
KINDS: tuple[Kind, ...] = ("leaves", "enters", "otherwise")
"""Of a sighting: it was accepted and is no more; it is accepted, or owed a fetch, and was neither; anything else."""

CHANGES = ("insert", "update", "delete")
"""What becomes of a row of a derived table."""

COMPARED_COLUMNS = (
    "title",
    "url",
    "page_url",
    "language",
    "member_count",
    "url_count",
    "domain_count",
    "first_seen",
    "largest_image_id",
)
"""Of a feed row, what is told of how it changes."""

_GROUP = ["old_outcome", "outcome", "was", "why"]


@dataclass(frozen=True)
class Seen:
    """A sighting, or an image, with what it is called."""

    image_id: str | None
    title: str | None
    """Its title, else its alternative text."""
    url: str | None
    is_accepted: bool
    """As things are now: of a sighting its outcome, of an image whether the index has it."""


@dataclass(frozen=True)
class Flips:
    """Sightings that go from one outcome to another for the same reason."""

    before: str
    after: str
    why: str
    count: int


@dataclass(frozen=True)
class ReasonChange:
    """A reason code of the policy, and how many sightings get it or lose it."""

    code: str
    got: int
    lost: int


@dataclass(frozen=True)
class Group:
    """Sightings that flip alike, and some of them."""

    before: str
    after: str
    was: str
    """Why it came to the outcome before."""
    why: str
    count: int
    samples: Sequence[tuple[dt.date, Seen]]
    """One a content or URL, with the date of the sighting."""

    @property
    def more(self) -> int:
        """Sightings that are not shown."""
        return self.count - len(self.samples)


@dataclass(frozen=True)
class Groups:
    """Sightings of one kind: how many, and the largest groups of them."""

    count: int
    groups: Sequence[Group]

    @property
    def more(self) -> int:
        """Sightings of groups that are not listed."""
        return self.count - sum(group.count for group in self.groups)


@dataclass(frozen=True)
class Replaced:
    """A representative whose place another image takes."""

    before: Seen
    after: Seen
    images: int
    """That go over from the one to the other."""


@dataclass(frozen=True)
class FeedRow:
    """A row of `index_feed` that would change."""

    feed_id: int
    image: Seen
    differing: Sequence[tuple[str, str | None, str | None]] = ()
    """Of an update: column, value now and then, of `COMPARED_COLUMNS`."""


@dataclass(frozen=True)
class FeedChange:
    """Rows of `index_feed` that change in one way, and some of them."""

    count: int
    rows: Sequence[FeedRow]

    @property
    def more(self) -> int:
        """Rows that are not shown."""
        return self.count - len(self.rows)


@dataclass(frozen=True)
class Effects:
    """All that is shown of a re-decision before it is published."""

    run_id: str
    """The published run whose tables were decided again."""
    policy_before: str | None
    policy_after: str
    sightings: int
    """Decided again, whatever came of it."""
    changed: int
    """Of these, decided otherwise."""
    outcomes: Mapping[tuple[str, str], int]
    """Sightings that are decided otherwise, by outcome before and after."""
    flips: Sequence[Flips]
    """The most frequent ones."""
    reasons: Sequence[ReasonChange]
    kinds: Mapping[Kind, Groups]
    images: Mapping[str, int]
    """Images that the index gets (`insert`), loses (`delete`), or has in another place (`update`)."""
    replaced: Sequence[Replaced]
    more_replaced: int
    feed: Mapping[str, FeedChange]
    """By each of `CHANGES`."""
    owed: int
    """URLs and dates that are owed a fetch by it."""
    jpegs: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Canonical JPEGs by image_id, of what is stored of the images shown."""

    @property
    def more_flips(self) -> int:
        """Sightings of flips that are not listed."""
        return self.changed - sum(flips.count for flips in self.flips)

    def shown(self) -> Iterator[Seen]:
        """Every sighting and image that is shown, some of them more than once."""
        for groups in self.kinds.values():
            yield from (seen for group in groups.groups for _, seen in group.samples)
        for pair in self.replaced:
            yield from (pair.before, pair.after)
        for change in self.feed.values():
            yield from (row.image for row in change.rows)


def gather_effects(work: Work, published: Event) -> Effects:
    """Read them of a re-decision that is staged; `published`: the run that it was staged upon."""
    compared = work.staged(Dataset.COMPARED)
    replaced, more_replaced = _replaced(work)
    by_outcome = compared.groupBy("old_outcome", "outcome").count().collect()
    effects = Effects(
        run_id=published.run_id,
        policy_before=published.policy_version,
        policy_after=work.versions.policy_version,
        sightings=work.rows(Dataset.ROWS).rows,
        changed=work.rows(Dataset.COMPARED).rows,
        outcomes={(before, after): count for before, after, count in by_outcome},
        flips=[Flips(*row) for row in counted_flips(compared).limit(MOST_LINES).collect()],
        reasons=_reasons(compared),
        kinds=_kinds(compared),
        images=_by_change(work.staged(Dataset.CLUSTERS)),
        replaced=replaced,
        more_replaced=more_replaced,
        feed=_feed(work),
        owed=work.rows("refetch_queue").counted[Count.INSERTS],
    )
    return replace(effects, jpegs=_jpegs(work, {seen.image_id for seen in effects.shown() if seen.image_id}))


def _by_change(changed: DataFrame) -> dict[str, int]:
    return {row[0]: row[1] for row in changed.groupBy(CHANGE).count().collect()}


# Sightings ----------------------------------------------------------------------------------------------------------


def _kind() -> Column:
    was, is_now = f.col("old_outcome"), f.col("outcome")
    enters = ~was.isin("accepted", "deferred") & is_now.isin("accepted", "deferred")
    return (
        f.when((was == "accepted") & (is_now != "accepted"), "leaves")
        .when(enters | ((was == "deferred") & (is_now == "accepted")), "enters")
        .otherwise("otherwise")
    )


def _kinds(compared: DataFrame) -> dict[Kind, Groups]:
    # The content that it names now: one that is refused before the fetch names none then.
    shown = f.coalesce("old_image_id", "image_id")
    told = compared.select(
        _kind().alias("kind"),
        "old_outcome",
        "outcome",
        f.concat_ws(", ", "old_reasons", "old_failure_code").alias("was"),
        why_decided().alias("why"),
        *TABLES["sightings"].keys,
        "url",
        f.coalesce(f.nullif("title", f.lit("")), "alt_text").alias("title"),
        shown.alias("image_id"),
        f.coalesce(shown, "url_id", "url").alias("subject"),
    )
    totals = {row[0]: row[1] for row in told.groupBy("kind").count().collect()}
    largest = Window.partitionBy("kind").orderBy(f.desc("count"), *_GROUP)
    groups = told.groupBy("kind", *_GROUP).count().withColumn("place", f.row_number().over(largest))
    chosen = groups.where(f.col("place") <= MOST_GROUPS)
    within = ["kind", *_GROUP]
    any_order = Window.partitionBy(*within).orderBy(f.xxhash64("subject"), "subject")
    first = Window.partitionBy(*within, "subject").orderBy(*TABLES["sightings"].keys)
    samples = (
        told.join(f.broadcast(chosen), within)
        .withColumn("number", f.row_number().over(first))
        .where(f.col("number") == 1)
        .withColumn("number", f.row_number().over(any_order))
        .where(f.col("number") <= MOST_SAMPLES)
    )
    rows = samples.orderBy("kind", "place", "number").collect()
    return {kind: Groups(totals.get(kind, 0), _groups([row for row in rows if row["kind"] == kind])) for kind in KINDS}


def _groups(rows: Iterable[Row]) -> list[Group]:
    """Of the samples of one kind, in order."""
    by_place: dict[int, list[Row]] = {}
    for row in rows:
        by_place.setdefault(row["place"], []).append(row)
    return [
        Group(
            before=of[0]["old_outcome"],
            after=of[0]["outcome"],
            was=of[0]["was"],
            why=of[0]["why"],
            count=of[0]["count"],
            samples=[(row["ingest_date"], _seen(row)) for row in of],
        )
        for of in by_place.values()
    ]


def _seen(row: Row) -> Seen:
    return Seen(row["image_id"], row["title"], row["url"], is_accepted=row["old_outcome"] == "accepted")


def _reasons(compared: DataFrame) -> list[ReasonChange]:
    def counted(codes: Column, got: int) -> DataFrame:
        return compared.select(f.explode(codes).alias("code"), f.lit(got).alias("got"), f.lit(1 - got).alias("lost"))

    changed = counted(f.array_except("reasons", "old_reasons"), 1).unionByName(
        counted(f.array_except("old_reasons", "reasons"), 0)
    )
    by_code = changed.groupBy("code").agg(f.sum("got"), f.sum("lost"), f.count("*").alias("count"))
    return [
        ReasonChange(row[0], row[1], row[2])
        for row in by_code.orderBy(f.desc("count"), "code").limit(MOST_LINES).collect()
    ]


# The index ----------------------------------------------------------------------------------------------------------


def _replaced(work: Work) -> tuple[list[Replaced], int]:
    """Representatives whose images go over to another, those of most images first, and how many more there are."""
    changed = work.staged(Dataset.CLUSTERS)
    before = work.staged(Dataset.CLUSTERS_BEFORE).unionByName(work.staged(Dataset.REGROUPED))
    stood = before.select("image_id", f.col("representative_id").alias("before")).dropDuplicates(["image_id"])
    moved = changed.where(f.col(CHANGE) == "update").select("image_id", f.col("representative_id").alias("after"))
    pairs = moved.join(stood, "image_id").where("before != after").groupBy("before", "after").count()
    new = changed.where(f.col(CHANGE) == "insert").select(f.col("image_id").alias("after"), f.lit(True).alias("is_new"))
    found = pairs.orderBy(f.desc("count"), "before", "after").limit(MOST_REPLACED)
    rows = found.join(new, "after", "left").orderBy(f.desc("count"), "before", "after").collect()
    named = _named(work, {image_id for row in rows for image_id in (row["before"], row["after"])})
    replaced = [
        Replaced(
            Seen(row["before"], *named.get(row["before"], (None, None)), is_accepted=True),
            Seen(row["after"], *named.get(row["after"], (None, None)), is_accepted=not row["is_new"]),
            row["count"],
        )
        for row in rows
    ]
    return replaced, pairs.count() - len(rows)


def _named(work: Work, image_ids: set[str]) -> dict[str, tuple[str | None, str | None]]:
    """Title and URL by image_id, of images that stand for themselves in the feed now or then."""
    if not image_ids:
        return {}
    columns, ids = ["image_id", "title", "url"], _keys(work, "image_id", image_ids)
    rows = work.past("index_feed", ids, columns=columns).collect()
    rows += near(work.staged("index_feed").where(f.col(CHANGE) != "delete").select(*columns), ids).collect()
    return {row["image_id"]: (row["title"], row["url"]) for row in rows}


def _feed(work: Work) -> dict[str, FeedChange]:
    changed = work.staged("index_feed")
    counts = _by_change(changed)
    told = changed.select(CHANGE, "feed_id", "image_id", *COMPARED_COLUMNS)
    found: dict[str, FeedChange] = {}
    for change in CHANGES:
        rows = told.where(f.col(CHANGE) == change).orderBy("feed_id").limit(MOST_ROWS).collect()
        was = _published(work, {row["feed_id"] for row in rows})
        found[change] = FeedChange(counts.get(change, 0), [_feed_row(row, was.get(row["feed_id"])) for row in rows])
    return found


def _published(work: Work, feed_ids: set[int]) -> dict[int, Row]:
    """Rows of `index_feed` by feed_id, as published."""
    if not feed_ids:
        return {}
    columns = ["feed_id", "image_id", *COMPARED_COLUMNS]
    rows = work.past("index_feed", _keys(work, "feed_id", feed_ids), columns=columns).collect()
    return {row["feed_id"]: row for row in rows}


def _feed_row(row: Row, was: Row | None) -> FeedRow:
    """`was`: the row as published; a delete names nothing but the key."""
    named = row if row["image_id"] else was or row
    image = Seen(named["image_id"], named["title"], named["url"], is_accepted=was is not None)
    if was is None or row[CHANGE] == "delete":
        return FeedRow(row["feed_id"], image)
    differing = [(name, _text(was[name]), _text(row[name])) for name in COMPARED_COLUMNS if was[name] != row[name]]
    return FeedRow(row["feed_id"], image, differing)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _jpegs(work: Work, image_ids: set[str]) -> dict[str, bytes]:
    if not image_ids:
        return {}
    rows = work.past("images", _keys(work, "image_id", image_ids), columns=["image_id", "pixels"]).collect()
    return {row["image_id"]: bytes(row["pixels"]) for row in rows}


def _keys(work: Work, column: str, values: set[str] | set[int]) -> Staged:
    # Through Arrow, for a frame made of Python objects would start a Python worker to unpack a row.
    return Staged(work.spark.createDataFrame(pa.table({column: sorted(values)})), len(values))
