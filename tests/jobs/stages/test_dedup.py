"""Hash groups, bands and verified edges, against brute force over all pairs."""

import hashlib
import random
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.stages.dedup import band_rows, hash_rows, touching, verified_edges
from jobs.warehouse.history import Staged
from schemas.settings import DedupSettings
from schemas.tables import DUPLICATE_EDGES, IMAGE_HASHES, LSH_BANDS
from tests.jobs.frames import frame, local_copy, table_frame
from udfs.images.minhash import band_keys, signatures

pytestmark = pytest.mark.spark

SETTINGS = DedupSettings()
Edge = tuple[str, str, int, int]


@dataclass(frozen=True)
class Group:
    """A group of equal hashes."""

    group_id: str
    near: int
    far: int

    @property
    def row(self) -> tuple[str, int, bytes]:
        return self.group_id, signed(self.near), self.far.to_bytes(32, "big")


def signed(bits: int) -> int:
    """64 bits as Spark's bigint."""
    return bits - 2**64 if bits >= 2**63 else bits


def flipped(value: int, bits: int, count: int, chance: random.Random) -> int:
    """`value` at Hamming distance `count`."""
    for position in chance.sample(range(bits), count):
        value ^= 1 << position
    return value


def planted(seed: int) -> list[Group]:
    """Families around random hashes, at distances on both sides of the thresholds of either hash."""
    chance = random.Random(seed)
    hashes = []
    for _ in range(60):
        near, far = chance.getrandbits(64), chance.getrandbits(256)
        hashes.append((near, far))
        for _ in range(chance.randrange(4)):
            hashes.append(
                (
                    flipped(near, 64, chance.randrange(SETTINGS.max_hamming + 4), chance),
                    flipped(far, 256, chance.randrange(SETTINGS.max_hamming256 + 20), chance),
                )
            )
    return [Group(hashlib.sha256(repr(pair).encode()).hexdigest()[:32], *pair) for pair in dict.fromkeys(hashes)]


def shares_band(groups: list[Group]) -> np.ndarray:
    """(N, N) bool: whether two groups meet in a bucket, by the bands' own keys."""
    near = np.array([group.near for group in groups], dtype=np.uint64)
    keys = band_keys(signatures(near, SETTINGS), SETTINGS)
    return (keys[:, None, :] == keys[None, :, :]).any(axis=2)


def brute_force(groups: list[Group]) -> set[Edge]:
    """Every pair within both thresholds that shares a band."""
    met = shares_band(groups)
    edges = set()
    for (i, one), (j, other) in combinations(enumerate(groups), 2):
        near, far = (one.near ^ other.near).bit_count(), (one.far ^ other.far).bit_count()
        if met[i, j] and near <= SETTINGS.max_hamming and far <= SETTINGS.max_hamming256:
            left, right = sorted((one.group_id, other.group_id))
            edges.add((left, right, near, far))
    return edges


def bands_of(spark: SparkSession, groups: list[Group]) -> DataFrame:
    rows = frame(spark, "group_id string, phash64 bigint, phash256 binary", [group.row for group in groups])
    return local_copy(band_rows(rows, SETTINGS, "rule"))


def found(edges: DataFrame) -> list[Edge]:
    return [(row.left_id, row.right_id, row.hamming, row.hamming256) for row in edges.collect()]


GROUPS = planted(seed=3)


@pytest.fixture(scope="module")
def bands(spark: SparkSession) -> DataFrame:
    return bands_of(spark, GROUPS)


@pytest.fixture(scope="module")
def nothing(spark: SparkSession) -> DataFrame:
    return table_frame(spark, "lsh_bands", [])


def test_every_group_has_each_band_once_with_its_own_hashes(bands: DataFrame) -> None:
    rows = bands.collect()
    assert tuple(bands.columns) == LSH_BANDS.column_names
    wanted = {(group.group_id, band) for group in GROUPS for band in range(SETTINGS.bands)}
    assert len(rows) == len(wanted)
    assert {(row.group_id, row.band) for row in rows} == wanted
    by_id = {group.group_id: group for group in GROUPS}
    assert all((row.group_id, row.phash64, bytes(row.phash256)) == by_id[row.group_id].row for row in rows)
    assert {row.rule_version for row in rows} == {"rule"}


def test_edges_are_all_pairs_within_the_thresholds_that_share_a_band(bands: DataFrame, nothing: DataFrame) -> None:
    wanted = brute_force(GROUPS)
    assert len(wanted) > 50
    edges = verified_edges(bands, nothing, SETTINGS, "rule")
    assert tuple(edges.columns) == DUPLICATE_EDGES.column_names
    rows = found(edges)
    assert len(rows) == len(set(rows))
    assert set(rows) == wanted


def test_edges_do_not_depend_on_the_order_or_the_partitions_of_the_rows(bands: DataFrame, nothing: DataFrame) -> None:
    rows = bands.collect()
    random.Random(5).shuffle(rows)
    shuffled = frame(bands.sparkSession, bands.schema, rows).repartition(3)
    # Batches this small cut almost every bucket in two.
    bands.sparkSession.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "2")
    try:
        again = found(verified_edges(shuffled, nothing, SETTINGS, "rule"))
    finally:
        bands.sparkSession.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "256")
    assert set(again) == brute_force(GROUPS)


def test_new_groups_find_among_themselves_and_in_history_what_all_at_once_would(bands: DataFrame) -> None:
    chance = random.Random(11)
    new = {group.group_id for group in GROUPS if chance.random() < 0.3}
    is_new = bands.group_id.isin(*new)
    edges = found(verified_edges(bands.where(is_new), bands.where(~is_new), SETTINGS, "rule"))
    assert len(edges) == len(set(edges))
    assert set(edges) == {edge for edge in brute_force(GROUPS) if edge[0] in new or edge[1] in new}


def test_a_bucket_that_everything_falls_into_loses_no_pair(spark: SparkSession, nothing: DataFrame) -> None:
    chance = random.Random(2)
    base = (chance.getrandbits(64), chance.getrandbits(256))
    crowd = [Group(f"{i:032x}", base[0] ^ (i & 7), flipped(base[1], 256, 20, chance)) for i in range(120)]
    edges = found(verified_edges(bands_of(spark, crowd), nothing, SETTINGS, "rule"))
    assert len(edges) == 120 * 119 // 2
    assert set(edges) == brute_force(crowd)


def test_touching_edges_are_those_with_either_end_among_the_groups(spark: SparkSession) -> None:
    pairs = [("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")]
    edges = table_frame(
        spark,
        "duplicate_edges",
        [
            {"left_id": a, "right_id": b, "rule_version": "r", "hamming": 1, "hamming256": 1, "verified_by": "hash"}
            for a, b in pairs
        ],
    )
    groups = Staged(frame(spark, "group_id string", [("a",), ("b",)]), 2)
    assert sorted((row.left_id, row.right_id) for row in touching(edges, groups).collect()) == pairs[:3]
    assert touching(edges, Staged(groups.frame.limit(0), 0)).isEmpty()


def test_equal_hashes_are_one_group_and_flat_pictures_groups_of_their_own(spark: SparkSession) -> None:
    live = frame(
        spark,
        "image_id string, canonical_version string, phash64 bigint, phash256 binary, flatness double, sharpness double",
        [
            ("a", "c", -1, b"\x01" * 32, 50.0, 1.0),
            ("b", "c", -1, b"\x01" * 32, SETTINGS.flat_below, 1.0),
            ("only the far hash differs", "c", -1, b"\x02" * 32, 50.0, 1.0),
            ("only the near hash differs", "c", 15, b"\x01" * 32, 50.0, 1.0),
            ("white", "c", -(2**63), bytes(32), 0.0, 0.0),
            ("purple", "c", -(2**63), bytes(32), SETTINGS.flat_below - 1e-9, 0.0),
        ],
    )
    rows = hash_rows(live, SETTINGS)
    assert tuple(rows.columns) == IMAGE_HASHES.column_names
    by_id = {row.image_id: row for row in rows.collect()}
    groups = {image: row.group_id for image, row in by_id.items()}
    assert groups["a"] == groups["b"]
    assert len(set(groups.values())) == 5
    assert all(len(group) == 32 for group in groups.values())
    assert {image for image, row in by_id.items() if row.flat} == {"white", "purple"}
