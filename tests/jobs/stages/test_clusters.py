"""Clusters of random graphs against the greedy definition, and kept up to date against made from scratch."""

import datetime as dt
import hashlib
import random
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations, count, pairwise

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.config.profile import load
from jobs.config.progress import Progress
from jobs.run.context import Work
from jobs.run.derived import stage_duplicates
from jobs.stages.clusters import Checkpoint, assign, neighbours, touched_components
from jobs.stages.dedup import hash_rows
from jobs.warehouse.history import Staged, near
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Versions
from schemas.policy import Policy
from schemas.settings import DedupSettings
from schemas.tables import CLUSTERS, TABLES
from tests.jobs.frames import frame, local_copy
from tests.model import Content, clusters, verified

pytestmark = pytest.mark.spark

# One row a band: whatever is within reach shares one, so that brute force and bands must find the same.
SETTINGS = DedupSettings(max_hamming=3, max_hamming256=4, bands=12, rows=1)
DATES = [dt.date(2026, 1, day) for day in (9, 10, 31)]


@pytest.fixture
def checkpoint(landing: Landing) -> Checkpoint:
    numbers = count()

    def stage(frame: DataFrame) -> Staged:
        name = f"step_{next(numbers)}"
        return Staged(landing.stage("test", name, frame), landing.staged_rows("test", name).rows)

    return stage


def family(chance: random.Random, name: int) -> list[Content]:
    """Up to eight pictures whose hashes differ in few bits: every shape of graph, with ties, and equal hashes."""
    near, far = chance.getrandbits(64), chance.getrandbits(256)
    near_bits, far_bits = chance.sample(range(64), 6), chance.sample(range(256), 8)
    made = []
    for number in range(chance.randint(1, 8)):
        made.append(
            Content(
                hashlib.sha256(f"{name} {number}".encode()).hexdigest(),
                "allow",
                source_pixels=chance.choice([100, 200, 3_000_000_000]),
                phash64=near ^ sum(1 << bit for bit in near_bits if chance.random() < 0.4),
                phash256=far ^ sum(1 << bit for bit in far_bits if chance.random() < 0.4),
                flat=chance.random() < 0.05,
            )
        )
    return made


def world(seed: int, families: int) -> dict[str, Content]:
    chance = random.Random(seed)
    return {content.image_id: content for name in range(families) for content in family(chance, name)}


def group_of(content: Content) -> str:
    text = content.image_id if content.flat else f"{content.phash64:x} {content.phash256:x}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def edges_of(contents: Iterable[Content]) -> set[tuple[str, str, int, int]]:
    """Verified pairs of groups: left, right, hamming, hamming256."""
    groups = {group_of(content): content for content in contents}
    edges = set()
    for left, right in combinations(sorted(groups), 2):
        if distance := verified(groups[left], groups[right], SETTINGS.max_hamming, SETTINGS.max_hamming256):
            edges.add((left, right, distance[1], distance[0]))
    return edges


def cluster_oracle(dates: dict[str, dt.date], contents: dict[str, Content]) -> dict[str, str]:
    return clusters(dates, contents, SETTINGS.max_hamming, SETTINGS.max_hamming256)


def member_frame(spark: SparkSession, dates: dict[str, dt.date], contents: dict[str, Content]) -> DataFrame:
    return frame(
        spark,
        "image_id string, group_id string, first_seen date, source_pixels bigint",
        [(i, group_of(contents[i]), date, contents[i].source_pixels) for i, date in dates.items()],
    )


def edge_frame(spark: SparkSession, edges: Iterable[tuple[str, str, int, int]]) -> DataFrame:
    return frame(spark, "left_id string, right_id string, hamming int, hamming256 int", edges)


def seed_frame(spark: SparkSession, groups: Iterable[str]) -> DataFrame:
    return frame(spark, "group_id string", [(group,) for group in groups])


def test_clusters_of_random_graphs_are_those_of_the_greedy_definition(
    spark: SparkSession, checkpoint: Checkpoint
) -> None:
    contents = world(seed=1, families=250)
    chance = random.Random(2)
    dates = {image: chance.choice(DATES) for image in contents}
    edges = edges_of(contents.values())
    wanted = cluster_oracle(dates, contents)
    assert len(edges) > 500
    adjacent = neighbours(edge_frame(spark, edges))
    seeds = seed_frame(spark, {group_of(content) for content in contents.values()})
    labels, _ = touched_components(seeds, lambda _: adjacent, checkpoint)
    found = assign(member_frame(spark, dates, contents), adjacent, labels.frame, "rule")
    assert tuple(found.columns) == CLUSTERS.column_names
    rows = found.collect()
    assert len(rows) == len(contents)
    assert {row.image_id: row.representative_id for row in rows} == wanted
    for row in rows:
        own, head = contents[row.image_id], contents[row.representative_id]
        near, far = (own.phash64 ^ head.phash64).bit_count(), (own.phash256 ^ head.phash256).bit_count()
        assert (row.hamming, row.hamming256) == (near, far)
        assert (row.first_seen, row.group_id) == (dates[row.image_id], group_of(own))


def components(groups: Iterable[str], edges: Iterable[tuple[str, str, int, int]]) -> dict[str, frozenset[str]]:
    """The connected component of each group."""
    found = {group: {group} for group in groups}
    for left, right, *_ in edges:
        together = found[left] | found[right]
        for group in together:
            found[group] = together
    return {group: frozenset(component) for group, component in found.items()}


def test_touched_components_are_whole_and_none_besides(spark: SparkSession, checkpoint: Checkpoint) -> None:
    chance = random.Random(4)
    names = [f"{number:03}" for number in range(300)]
    chance.shuffle(names)
    # Chains are the worst for label propagation; random edges make the rest.
    chain = [(*sorted(pair), 1, 1) for pair in pairwise(names[:12])]
    others = [(*sorted(chance.sample(names[12:], 2)), 1, 1) for _ in range(150)]
    edges = {*chain, *others}
    seeds = {names[3], *chance.sample(names[12:], 40)}
    adjacent = local_copy(neighbours(edge_frame(spark, edges)))
    labels, _ = touched_components(seed_frame(spark, seeds), lambda groups: near(adjacent, groups), checkpoint)
    component = components(names, edges)
    found = {row.group_id: row.component for row in labels.frame.collect()}
    assert found.keys() == set().union(*(component[seed] for seed in seeds))
    for one, other in combinations(found, 2):
        assert (found[one] == found[other]) == (component[one] == component[other])


class InMemory(Landing):
    """A landing whose live tables are frames that a test holds: what `apply` would do, without Delta's commits."""

    tables: dict[str, DataFrame]

    def read(self, table: str, version: int | None = None) -> DataFrame:
        assert version is None
        return self.tables[table]


DERIVED = ("image_hashes", "lsh_bands", "duplicate_edges", "clusters")


def group(work: Work, landing: InMemory, affected: set[str], live: DataFrame) -> None:
    """A run that only groups duplicates, and lands what changed."""
    ids = frame(work.spark, "image_id string", [(image,) for image in affected])
    stage_duplicates(work, Staged(ids, len(affected)), live)
    after = {name: work.after(name, work.staged(name)) for name in DERIVED}
    landing.tables |= {name: work.stage(f"live_{name}", table) for name, table in after.items()}


@pytest.fixture
def in_memory(spark: SparkSession, warehouse: object) -> InMemory:
    landing = InMemory(spark, str(warehouse))
    landing.tables = {name: Landing.read(landing, name) for name in TABLES}
    return landing


def night(landing: InMemory, number: int) -> Work:
    config = load("conf/local.yaml").model_copy(update={"dedup": SETTINGS})
    policy = Policy.model_construct(rules=())
    versions = Versions("policy", "model", "text", "rule", "canonical")
    return Work(landing.spark, landing, config, policy, versions, f"run{number}", Progress("test"))


def live_frame(
    spark: SparkSession, images: set[str], dates: dict[str, dt.date], contents: dict[str, Content]
) -> DataFrame:
    rows = [
        (
            image,
            "canonical",
            contents[image].phash64 - 2**64 * (contents[image].phash64 >= 2**63),
            contents[image].phash256.to_bytes(32, "big"),
            0.0 if contents[image].flat else 50.0,
            1.0,
            dates[image],
            contents[image].source_pixels,
        )
        for image in images
    ]
    live = frame(
        spark,
        "image_id string, canonical_version string, phash64 bigint, phash256 binary, flatness double, "
        "sharpness double, first_seen date, source_pixels bigint",
        rows,
    )
    place = live.select("image_id", "first_seen", "source_pixels")
    return local_copy(hash_rows(live, SETTINGS).join(place, "image_id"))


def test_nights_of_random_changes_leave_what_one_night_from_scratch_would(
    spark: SparkSession, in_memory: InMemory
) -> None:
    contents = world(seed=6, families=80)
    chance = random.Random(8)
    dates: dict[str, dt.date] = {}
    for number in range(3):
        before = dict(dates)
        for image in contents:
            # Comes, goes, or moves in the order, as a backfill of an earlier date would have it.
            if chance.random() < 0.4:
                dates[image] = chance.choice(DATES)
            elif chance.random() < 0.3:
                dates.pop(image, None)
        unchanged = [image for image in contents if before.get(image) == dates.get(image)]
        touched = set(contents) - set(chance.sample(unchanged, len(unchanged) // 2))
        live = live_frame(spark, touched & dates.keys(), dates, contents)
        group(night(in_memory, number), in_memory, touched, live)

        found = {row.image_id: row for row in in_memory.tables["clusters"].collect()}
        wanted = cluster_oracle(dates, contents)
        assert {image: row.representative_id for image, row in found.items()} == wanted, f"night {number}"
        assert {image: row.first_seen for image, row in found.items()} == dates
        alive = [contents[image] for image in dates]
        edges = in_memory.tables["duplicate_edges"]
        assert edges.count() == len(edges_of(alive))
        hashes = in_memory.tables["image_hashes"].select("image_id", "group_id", "flat").collect()
        assert {row.image_id for row in hashes} == dates.keys()
        hashed = {row.group_id for row in hashes if not row.flat}
        bands = in_memory.tables["lsh_bands"].groupBy("group_id").count().collect()
        assert {row.group_id: row["count"] for row in bands} == dict.fromkeys(hashed, SETTINGS.bands)


def test_an_image_with_a_later_first_seen_dethrones_no_representative(
    spark: SparkSession, checkpoint: Checkpoint
) -> None:
    """The newcomer has more pixels and stands between two representatives: it joins the nearer one."""
    base = Content("0" * 64, "allow", source_pixels=1)
    left, newcomer = base, replace(base, image_id="1" * 64, phash64=0b1, phash256=0b111, source_pixels=9)
    right = replace(base, image_id="2" * 64, phash64=0b1111, phash256=0b11111)
    contents = {content.image_id: content for content in (left, newcomer, right)}
    dates = {left.image_id: DATES[0], right.image_id: DATES[0], newcomer.image_id: DATES[1]}
    adjacent = neighbours(edge_frame(spark, edges_of(contents.values())))
    labels, _ = touched_components(
        seed_frame(spark, [group_of(content) for content in contents.values()]), lambda _: adjacent, checkpoint
    )
    rows = assign(member_frame(spark, dates, contents), adjacent, labels.frame, "rule").collect()
    assert {row.image_id: (row.representative_id, row.hamming256) for row in rows} == {
        left.image_id: (left.image_id, 0),
        right.image_id: (right.image_id, 0),
        newcomer.image_id: (right.image_id, 2),
    }
