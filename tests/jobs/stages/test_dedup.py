"""Hash groups, bands and what is found in their buckets, against brute force over all pairs."""

import datetime as dt
import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from jobs.stages.dedup import (
    MOST_EARLIER,
    band_rows,
    each_band,
    each_hash,
    earlier_neighbours,
    hash_rows,
    meeting_rows,
    neighbouring_heads,
)
from schemas.settings import DedupSettings
from schemas.tables import IMAGE_HASHES, LSH_BANDS
from tests.jobs.frames import frame, local_copy, table_frame
from tests.model import Content, Hash, hash_bytes, verified
from udfs.images import buckets
from udfs.images.minhash import band_keys, signatures

pytestmark = pytest.mark.spark

SETTINGS = DedupSettings()
NEAR_BY_64_BITS = SETTINGS.model_copy(
    update={"max_hamming": SETTINGS.outer_hamming, "outer_bits": 0, "max_hamming256": 256, "max_hue_apart": 180}
)
DAY = dt.date(2026, 1, 31)
Edge = tuple[str, str, int, int]


@dataclass(frozen=True)
class Group:
    """A group of equal hashes."""

    group_id: str
    hashes: tuple[Hash, ...]

    @property
    def number(self) -> int:
        return signed(int(self.group_id[:16], 16))

    @property
    def stored(self) -> list[bytes]:
        return [stored(one) for one in self.hashes]


def stored(one: Hash) -> bytes:
    """A hash as the tables hold it; its view first."""
    return hash_bytes(one)


def signed(bits: int) -> int:
    """64 bits as Spark's bigint."""
    return bits - 2**64 if bits >= 2**63 else bits


def flipped(value: int, bits: int, count: int, chance: random.Random) -> int:
    """`value` at Hamming distance `count`."""
    for position in chance.sample(range(bits), count):
        value ^= 1 << position
    return value


def planted(seed: int) -> list[Group]:
    """Families around random hashes, at distances on both sides of the thresholds of either hash; some have views,
    and some two full ones."""
    chance = random.Random(seed)
    groups = []
    for _ in range(60):
        near, far = chance.getrandbits(64), chance.getrandbits(256)
        groups.append((Hash(near, far),))
        for _ in range(chance.randrange(4)):
            views = (0, *[chance.choice([0, 1, 2, 3, 3, 4, 4]) for _ in range(chance.randrange(3))])
            groups.append(
                tuple(
                    Hash(
                        flipped(near, 64, chance.randrange(SETTINGS.max_hamming + 4), chance),
                        flipped(far, 256, chance.randrange(SETTINGS.max_hamming256 + 20), chance),
                        view,
                        chance.choice([0, 1, 1, 4, 35, 38]),
                        chance.choice([3, 8, 8]),
                    )
                    for view in sorted(views)
                )
            )
    return [Group(hashlib.sha256(repr(hashes).encode()).hexdigest()[:32], hashes) for hashes in dict.fromkeys(groups)]


def in_order(one: Hash) -> list[int]:
    """The buckets of a hash, band by band."""
    found: list[int] = band_keys(signatures(np.array([one.near], dtype=np.uint64), SETTINGS), SETTINGS)[0].tolist()
    return found


def keys_of(one: Hash) -> set[int]:
    """The buckets of a hash."""
    return set(in_order(one))


def brute_force(groups: list[Group]) -> set[Edge]:
    """Every pair of groups with a pair of hashes within both thresholds that share a band, one of a whole."""
    keys = {one: keys_of(one) for group in groups for one in group.hashes}
    edges = set()
    for left, right in combinations(sorted(groups, key=lambda group: group.group_id), 2):
        found = [
            distances
            for one in left.hashes
            for other in right.hashes
            if keys[one] & keys[other] and (distances := verified(content(one), content(other), SETTINGS))
        ]
        if found:
            far, near = min(found)
            edges.add((left.group_id, right.group_id, near, far))
    return edges


def content(one: Hash) -> Content:
    """What has this hash alone."""
    return Content("", "allow", hashes=(one,))


def bands_of(spark: SparkSession, groups: list[Group]) -> DataFrame:
    rows = frame(spark, "group_id string, hashes array<binary>", [(group.group_id, group.stored) for group in groups])
    return local_copy(band_rows(rows, SETTINGS, "rule"))


GROUPS = planted(seed=3)
BY_HASH = ("group_number", "hash_number")
BY_NUMBER = {group.number: group for group in GROUPS}
NODE = (
    "group_id string, group_number bigint, hashes array<binary>, first_seen date, source_pixels bigint, "
    "image_id string, is_head boolean, is_risen boolean, is_asked boolean"
)


@pytest.fixture(scope="module")
def bands(spark: SparkSession) -> DataFrame:
    return bands_of(spark, GROUPS)


@pytest.fixture(scope="module")
def nothing(spark: SparkSession) -> DataFrame:
    return table_frame(spark, "lsh_bands", [])


def pairs(found: DataFrame) -> list[tuple[Any, ...]]:
    """The frame's rows, each of which is there once."""
    rows = [tuple(row) for row in found.collect()]
    assert len(rows) == len(set(rows))
    return rows


def rows_met(
    bands: DataFrame,
    order: Sequence[Group],
    heads: Set[str] = frozenset(),
    risen: Set[str] = frozenset(),
    asked: Set[str] = frozenset(),
) -> DataFrame:
    """Rows of buckets with what is known of the groups, which have this order."""
    places = [
        (DAY + dt.timedelta(days=place // 3), 10**9 - place, f"{place:064}")  # the date tells first, then the pixels
        for place, _ in enumerate(order)
    ]
    nodes = [
        (g.group_id, g.number, g.stored, *place, g.group_id in heads, g.group_id in risen, g.group_id in asked)
        for g, place in zip(order, places, strict=True)
    ]
    hashes = each_hash(frame(bands.sparkSession, NODE, nodes))
    buckets = each_band(bands).withColumnRenamed("band_key", "bucket")
    return local_copy(buckets.select("bucket", *BY_HASH).join(hashes, list(BY_HASH)))


def test_every_hash_has_a_row_with_its_bands(bands: DataFrame) -> None:
    rows = bands.collect()
    assert tuple(bands.columns) == LSH_BANDS.column_names
    wanted = {
        (group.number, number): (one.view, signed(one.near), in_order(one))
        for group in GROUPS
        for number, one in enumerate(group.hashes)
    }
    assert len(rows) == len(wanted)
    found = {(row.group_number, row.hash_number): (row.view, row.phash64, row.band_keys) for row in rows}
    assert found == wanted
    assert {row.rule_version for row in rows} == {"rule"}


@pytest.mark.parametrize("rows_in_part", [buckets.ROWS_IN_PART, 1_000])
def test_groups_meet_where_one_is_new_and_their_short_hashes_are_near(
    bands: DataFrame, monkeypatch: pytest.MonkeyPatch, rows_in_part: int
) -> None:
    monkeypatch.setattr(buckets, "ROWS_IN_PART", rows_in_part)
    chance = random.Random(11)
    new = {group.number for group in GROUPS if chance.random() < 0.3}
    is_new = bands.group_number.isin(*new)
    expected = bands.count() * SETTINGS.bands
    met = pairs(meeting_rows(bands.where(is_new), each_band(bands.where(~is_new)), SETTINGS, expected))
    found, shared = (defaultdict[int, set[tuple[int, int]]](set) for _ in range(2))
    for bucket, *one in met:
        found[bucket].add((one[0], one[1]))
    for row in bands.collect():
        for key in row.band_keys:
            shared[key].add((row.group_number, row.hash_number))
    wanted = {
        (key, *end)
        for key, hashes in shared.items()
        for pair in combinations(hashes, 2)
        if pair[0][0] != pair[1][0]
        and new.intersection((pair[0][0], pair[1][0]))
        and verified(*[content(BY_NUMBER[group].hashes[number]) for group, number in pair], NEAR_BY_64_BITS)
        for end in pair
    }
    left = defaultdict[int, set[tuple[int, int]]](set)
    for key, *end in wanted:
        left[key].add((end[0], end[1]))
    assert len(wanted) > 100
    # Of buckets with the same hashes there is one.
    told = sorted(tuple(sorted(some)) for some in found.values())
    assert told == sorted({tuple(sorted(some)) for some in left.values()})


def test_earlier_neighbours_are_all_verified_pairs_in_the_order(bands: DataFrame) -> None:
    order = random.Random(4).sample(GROUPS, len(GROUPS))
    place = {group.group_id: number for number, group in enumerate(order)}
    heads = {group.group_id for group in order[: len(order) // 3]}
    found = pairs(earlier_neighbours(rows_met(bands, order, heads), SETTINGS))
    both = [(left, right) for left, right, *_ in brute_force(GROUPS)]
    later_first = [sorted(pair, key=place.__getitem__, reverse=True) for pair in both]
    wanted = {(later, earlier) for later, earlier in later_first if later not in heads}
    assert len(wanted) > 30
    assert set(found) == wanted


def test_what_is_found_does_not_depend_on_how_rows_are_cut_into_batches(bands: DataFrame) -> None:
    rows = rows_met(bands, GROUPS)
    whole = pairs(earlier_neighbours(rows, SETTINGS))
    # Batches this small cut almost every bucket in two.
    bands.sparkSession.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "2")
    try:
        again = pairs(earlier_neighbours(rows.repartition(3), SETTINGS))
    finally:
        bands.sparkSession.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "256")
    assert set(again) == set(whole)


def test_a_crowd_is_told_of_few_neighbours_each_and_that_there_are_more(spark: SparkSession) -> None:
    chance = random.Random(2)
    base = (chance.getrandbits(64), chance.getrandbits(256))
    hashes = [Hash(base[0] ^ (i & 7), flipped(base[1], 256, 20, chance)) for i in range(120)]
    crowd = [Group(f"{i:016x}{i:016x}", (one,)) for i, one in enumerate(hashes)]
    rows = rows_met(bands_of(spark, crowd), crowd)
    told: dict[str, set[str | None]] = defaultdict(set)
    for group, earlier in pairs(earlier_neighbours(rows, SETTINGS)):
        told[group].add(earlier)
    names = [group.group_id for group in crowd]
    assert told.keys() == set(names[1:])
    for place, name in enumerate(names[1:], 1):
        assert told[name] >= set(names[: min(place, MOST_EARLIER)])
        assert (None in told[name]) == (place > MOST_EARLIER)
        # Buckets differ, and each names its own.
        assert len(told[name]) <= SETTINGS.bands * MOST_EARLIER + 1
    assert sum(map(len, told.values())) < 120 * 119 // 4


def test_heads_are_told_to_who_was_asked_about_and_new_ones_to_everybody(bands: DataFrame) -> None:
    chance = random.Random(6)
    heads, asked = ({g.group_id for g in GROUPS if chance.random() < 0.4} for _ in range(2))
    risen = {group for group in sorted(heads & asked) if chance.random() < 0.5}
    found = pairs(neighbouring_heads(rows_met(bands, GROUPS, heads, risen, asked), SETTINGS))
    wanted = {
        (group, head, near, far)
        for left, right, near, far in brute_force(GROUPS)
        for group, head in ((left, right), (right, left))
        if head in heads and (group in asked or head in risen)
    }
    assert len(wanted) > 20
    assert set(found) == wanted


def test_buckets_without_a_second_row_have_nothing_to_tell(bands: DataFrame, nothing: DataFrame) -> None:
    one = bands.where(f.col("group_number") == GROUPS[0].number)
    assert meeting_rows(one, each_band(nothing), SETTINGS, SETTINGS.bands).isEmpty()
    assert earlier_neighbours(rows_met(one, GROUPS), SETTINGS).isEmpty()
    assert neighbouring_heads(rows_met(one, GROUPS), SETTINGS).isEmpty()


LIVE = "image_id string, canonical_version string, view_hashes array<binary>, flatness double, sharpness double"


def test_equal_hashes_are_one_group_and_flat_pictures_groups_of_their_own(spark: SparkSession) -> None:
    whole, view = stored(Hash(1, 2)), stored(Hash(3, 4, view=3))
    live = frame(
        spark,
        LIVE,
        [
            ("a", "c", [whole, view], 50.0, 1.0),
            ("b", "c", [whole, view], SETTINGS.flat_below, 1.0),
            ("only the far hash differs", "c", [stored(Hash(1, 3)), view], 50.0, 1.0),
            ("only the near hash differs", "c", [stored(Hash(2, 2)), view], 50.0, 1.0),
            ("only a view differs", "c", [whole, stored(Hash(3, 5, view=3))], 50.0, 1.0),
            ("no view", "c", [whole], 50.0, 1.0),
            ("white", "c", [stored(Hash(2**63, 0))], 0.0, 0.0),
            ("purple", "c", [stored(Hash(2**63, 0))], SETTINGS.flat_below - 1e-9, 0.0),
        ],
    )
    rows = hash_rows(live, SETTINGS)
    assert tuple(rows.columns) == IMAGE_HASHES.column_names
    by_id = {row.image_id: row for row in rows.collect()}
    groups = {image: row.group_id for image, row in by_id.items()}
    assert groups["a"] == groups["b"]
    assert len(set(groups.values())) == 7
    assert all(len(group) == 32 for group in groups.values())
    assert {image for image, row in by_id.items() if row.flat} == {"white", "purple"}


def test_views_that_the_rule_does_not_look_at_take_no_part(spark: SparkSession) -> None:
    whole, view = stored(Hash(1, 2)), stored(Hash(3, 4, view=3))
    live = frame(spark, LIVE, [("a", "c", [whole, view], 50.0, 1.0), ("b", "c", [whole], 50.0, 1.0)])
    one, other = hash_rows(live, DedupSettings(views=("whole", "inner10"))).orderBy("image_id").collect()
    assert one.hashes == other.hashes == [whole]
    assert one.group_id == other.group_id
