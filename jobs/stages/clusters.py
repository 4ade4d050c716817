"""Clusters: over live images in the order (first_seen, source pixels descending, image_id), an image joins the nearest
earlier representative it has a verified edge to, else it becomes a representative.

This is the greedy maximal independent set in that order, so the result is a function of the live images and edges
alone. A change can only matter inside the connected components it touches: those are found, and clustered afresh.
"""

from collections.abc import Callable

import pandas as pd
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as f

from jobs.warehouse.history import Staged
from schemas.tables import CLUSTERS

Checkpoint = Callable[[DataFrame], Staged]
"""Materialises an intermediate result, so that an iteration's plan does not grow with its rounds."""

_ASSIGNED = (
    "image_id string, representative_id string, hamming int, hamming256 int, group_id string, "
    "first_seen date, source_pixels bigint"
)


def neighbours(edges: DataFrame) -> DataFrame:
    """Edges (`left_id, right_id` and distances) in both directions: `group_id, other_id, hamming, hamming256`."""
    distances = ["hamming", "hamming256"]
    there = edges.select(f.col("left_id").alias("group_id"), f.col("right_id").alias("other_id"), *distances)
    back = edges.select(f.col("right_id").alias("group_id"), f.col("left_id").alias("other_id"), *distances)
    return there.unionByName(back)


def touched_components(
    seeds: DataFrame, adjacent: Callable[[Staged], DataFrame], checkpoint: Checkpoint
) -> tuple[Staged, int]:
    """Seeds (`group_id`) -> every group connected to a seed with its component's label, and the number of rounds it
    took: `group_id, component` (the least group_id reached). Minimum-label propagation.

    `adjacent`: staged groups (`group_id`) -> their rows of `neighbours`.
    """
    labels = checkpoint(seeds.select("group_id", f.col("group_id").alias("component")).distinct())
    rounds = 0
    while labels.rows:
        rounds += 1
        told = labels.frame.join(adjacent(groups_of(labels)), "group_id")
        heard = told.groupBy(f.col("other_id").alias("group_id")).agg(f.min("component").alias("heard"))
        merged = checkpoint(
            labels.frame.join(heard, "group_id", "full").select(
                "group_id",
                f.least("component", "heard").alias("component"),
                (f.col("component").isNull() | (f.col("heard") < f.col("component"))).alias("changed"),
            )
        )
        labels = Staged(merged.frame.select("group_id", "component"), merged.rows)
        if merged.frame.where(f.coalesce("changed", f.lit(False))).isEmpty():
            break
    return labels, rounds


def groups_of(labels: Staged) -> Staged:
    """The labelled groups (`group_id`)."""
    return Staged(labels.frame.select("group_id"), labels.rows)


def assign(members: DataFrame, adjacent: DataFrame, labels: DataFrame, rule_version: str) -> DataFrame:
    """Rows of `clusters` for all members of the labelled components.

    `members`: live images of these components (`image_id, group_id, first_seen, source_pixels`); `adjacent`: of
    `neighbours`; `labels`: of `touched_components`.
    """
    # Under a name of its own: grouping two frames by one and the same column is ambiguous to Spark.
    edges = adjacent.join(labels.withColumnRenamed("component", "edge_component"), "group_id")
    connected = edges.select("group_id").distinct()
    alone = _assign_alone(members.join(connected, "group_id", "left_anti"))
    linked = members.join(labels, "group_id").join(connected, "group_id", "left_semi")
    grouped = linked.groupBy("component").cogroup(edges.groupBy("edge_component"))
    together = grouped.applyInPandas(_assign_component, _ASSIGNED)
    assigned = alone.unionByName(together)
    return assigned.withColumn("rule_version", f.lit(rule_version)).select(*CLUSTERS.column_names)


def _assign_alone(members: DataFrame) -> DataFrame:
    """Groups without an edge: the first image in order stands for all, at distance 0."""
    first = Window.partitionBy("group_id").orderBy("first_seen", f.desc("source_pixels"), "image_id")
    return members.select(
        "image_id",
        f.first("image_id").over(first).alias("representative_id"),
        f.lit(0).alias("hamming"),
        f.lit(0).alias("hamming256"),
        "group_id",
        "first_seen",
        "source_pixels",
    )


def _assign_component(members: pd.DataFrame, edges: pd.DataFrame) -> pd.DataFrame:
    """One component, image by image in the defining order.

    Only the first image of a group can become a representative: whatever stopped it, or itself, stands before every
    later image of the same hashes.
    """
    adjacent: dict[str, list[tuple[str, int, int]]] = {}
    for group, other, near, far in edges[["group_id", "other_id", "hamming", "hamming256"]].itertuples(index=False):
        adjacent.setdefault(group, []).append((other, near, far))
    members = members.sort_values(["first_seen", "source_pixels", "image_id"], ascending=[True, False, True])
    heads: dict[str, tuple[int, str]] = {}
    chosen = []
    for place, (image, group) in enumerate(members[["image_id", "group_id"]].itertuples(index=False)):
        candidates = [
            (far, near, *heads[other])
            for other, near, far in [(group, 0, 0), *adjacent.get(group, ())]
            if other in heads
        ]
        if candidates:
            far, near, _, representative = min(candidates)
            chosen.append((representative, near, far))
        else:
            heads[group] = (place, image)
            chosen.append((image, 0, 0))
    columns = pd.DataFrame(chosen, columns=["representative_id", "hamming", "hamming256"], index=members.index)
    columns = columns.astype({"hamming": "int32", "hamming256": "int32"})
    return pd.concat([members, columns], axis=1)[[part.split()[0] for part in _ASSIGNED.split(", ")]]
