"""Clusters: over live images in the order (first_seen, source pixels descending, image_id), an image joins the nearest
earlier representative it has a verified edge to, else it becomes a representative.

Images of one group have the same neighbours, so that only its first can become a representative; its group is then a
*head*. Heads are the greedy maximal independent set of the groups, taken in the order of their first images, so they
are a function of the live images and the rule alone: whoever decides them again, in whatever part, comes to the same.
"""

from collections.abc import Callable

import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from jobs.warehouse.history import Staged
from schemas.tables import CLUSTERS

Checkpoint = Callable[[DataFrame], Staged]
"""Materialises an intermediate result, so that an iteration's plan does not grow with its rounds."""

PLACE = ("first_seen", "source_pixels", "image_id")
"""What says where an image stands in the order: see `place`."""

MOST_IN_ONE_TASK = 2_000_000
"""Pairs of undecided groups that one task settles, one after the other: some 500 MB there."""

COVERED, OPEN = "covered", "open"
_SETTLED = "group_id string, status string"


def place(prefix: str = "") -> Column:
    """The place of an image in the order, which is the order of this struct."""
    date, pixels, image = (f.col(f"{prefix}{name}") for name in PLACE)
    return f.struct(date.alias("first_seen"), (-pixels).alias("fewer_pixels"), image.alias("image_id"))


def first_images(members: DataFrame, *more: str) -> DataFrame:
    """Live images (`group_id`, `PLACE` and `more`) -> the first of each group, the same of it."""
    first = members.groupBy("group_id").agg(f.min(f.struct(place().alias("place"), *more)).alias("first"))
    date, pixels, image = (f.col(f"first.place.{name}") for name in ("first_seen", "fewer_pixels", "image_id"))
    others = [f.col(f"first.{name}") for name in more]
    return first.select("group_id", date, (-pixels).alias("source_pixels"), image, *others)


def settle(pairs: Staged, places: DataFrame, checkpoint: Checkpoint, most_in_one_task: int) -> DataFrame:
    """Which undecided groups are not heads: `group_id, status` (`covered`, or `open` where what is told does not
    suffice). All others that were undecided are heads.

    `pairs`: of `dedup.earlier_neighbours`; who is only ever named as an earlier one is a head, or has no earlier
    neighbour and becomes one. `places`: `group_id` and `PLACE` of the undecided. Rounds over all of them soon leave
    little (Blelloch, Fineman, Shun, "Greedy sequential maximal independent set and matching are parallel on
    average", SPAA 2012); long chains, which need as many rounds as they are long, go through one task.
    """
    covered = []
    while pairs.rows > most_in_one_task:
        asking = pairs.frame.select("group_id").distinct()
        heads = (
            pairs.frame.select(f.col("earlier_id").alias("group_id")).distinct().join(asking, "group_id", "left_anti")
        )
        found = checkpoint(
            pairs.frame.join(heads.withColumnRenamed("group_id", "earlier_id"), "earlier_id")
            .select("group_id")
            .distinct()
        )
        if found.rows == 0:  # what is left knows too little
            break
        covered.append(found.frame.withColumn("status", f.lit(COVERED)))
        gone = found.frame.withColumnRenamed("group_id", "earlier_id")
        pairs = checkpoint(pairs.frame.join(found.frame, "group_id", "left_anti").join(gone, "earlier_id", "left_anti"))
    last = pairs.frame.join(places, "group_id").groupBy(f.lit(0)).applyInPandas(_settle_in_order, _SETTLED)
    for part in covered:
        last = last.unionByName(part)
    return last


def _settle_in_order(pairs: pd.DataFrame) -> pd.DataFrame:
    """Group by group in the defining order: whoever comes earlier is settled already."""
    pairs = pairs.sort_values(["first_seen", "source_pixels", "image_id"], ascending=[True, False, True])
    settled: dict[str, str | None] = {}
    told: list[str | None] = []
    previous = None
    for group, earlier in [*pairs[["group_id", "earlier_id"]].itertuples(index=False), (None, None)]:
        if group != previous:
            if previous is not None:
                settled[previous] = COVERED if None in told else OPEN if OPEN in told else None
            previous, told = group, []
        told.append(settled.get(earlier) if isinstance(earlier, str) else OPEN)
    return pd.DataFrame([item for item in settled.items() if item[1] is not None], columns=["group_id", "status"])


def assign(
    members: DataFrame, neighbours: DataFrame, heads: DataFrame, standing: DataFrame, rule_version: str
) -> DataFrame:
    """Rows of `clusters` of all `members` (`group_id` and `PLACE`, live): each goes to the nearest earlier head.

    `neighbours`: of `dedup.neighbouring_heads`; `heads`: `group_id` and `PLACE` of every head named there and of every
    head among the members' own groups; `standing`: where members stand now, as far as they may go on standing there:
    `image_id, hamming, hamming256` and the representative's `PLACE` with the prefix `head_`.
    """
    head = [f.col(name).alias(f"head_{name}") for name in PLACE]
    own = heads.select("group_id", *[f.lit(0).alias(name) for name in _DISTANCES], *head)
    named = heads.select(f.col("group_id").alias("head_group"), *head)
    near = neighbours.join(named, "head_group").drop("head_group").unionByName(own)
    offered = members.join(near, "group_id").unionByName(members.join(standing.drop("representative_id"), "image_id"))
    offer = f.struct("hamming256", "hamming", place("head_").alias("head")).alias("offer")
    best = offered.where(place("head_") <= place()).groupBy("group_id", *PLACE).agg(f.min(offer).alias("best"))
    rows = best.select("*", "best.hamming", "best.hamming256", f.col("best.head.image_id").alias("representative_id"))
    return rows.withColumn("rule_version", f.lit(rule_version)).select(*CLUSTERS.column_names)


_DISTANCES = ("hamming", "hamming256")
