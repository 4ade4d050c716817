"""Clusters of random graphs against the greedy definition, and kept up to date against made from scratch."""

import datetime as dt
import hashlib
import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import count, pairwise
from types import MappingProxyType

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

import jobs.run.context
import jobs.stages.clusters
import jobs.stages.dedup
from jobs.config.profile import load
from jobs.config.progress import Progress
from jobs.run.context import SMALL_RUN, Work
from jobs.run.duplicates import stage_afresh, stage_duplicates
from jobs.stages.clusters import settle
from jobs.stages.dedup import MOST_EARLIER, hash_rows
from jobs.warehouse.history import Staged
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Versions
from schemas.policy import Policy
from schemas.settings import DedupSettings
from schemas.tables import TABLES
from tests.jobs.frames import frame, local_copy
from tests.model import Content, Hash, clusters, hash_bytes, verified
from udfs.images.phash import VIEWS_REVISION

pytestmark = pytest.mark.spark

# One row a band: whatever is within reach shares one, so that brute force and bands must find the same.
SETTINGS = DedupSettings(max_hamming=3, max_hamming256=4, outer_bits=1, bands=12, rows=1)
DATES = [dt.date(2026, 1, day) for day in (9, 10, 31)]


def family(chance: random.Random, name: int) -> list[Content]:
    """Up to eight pictures whose hashes differ in few bits: every shape of graph, with ties, and equal hashes. Some
    have views, near others of the family or far from all."""
    near, far = chance.getrandbits(64), chance.getrandbits(256)
    near_bits, far_bits = chance.sample(range(64), 6), chance.sample(range(256), 8)

    def hashed(view: int) -> Hash:
        apart = 0 if view == 0 else chance.choice([0, 0, 0b1111 << 40])
        return Hash(
            near ^ apart ^ sum(1 << bit for bit in near_bits if chance.random() < 0.4),
            far ^ sum(1 << bit for bit in far_bits if chance.random() < 0.4),
            view,
            chance.choice([0, 1, 1, 4, 35, 38]),
            chance.choice([3, 8]),
        )

    made = []
    for number in range(chance.randint(1, 8)):
        made.append(
            Content(
                hashlib.sha256(f"{name} {number}".encode()).hexdigest(),
                "allow",
                source_pixels=chance.choice([100, 200, 3_000_000_000]),
                hashes=tuple(hashed(view) for view in (0, chance.choice([0, 1, 2, 3, 4]), 3)[: chance.randint(1, 3)]),
                flat=chance.random() < 0.05,
            )
        )
    return made


def world(seed: int, families: int) -> dict[str, Content]:
    chance = random.Random(seed)
    return {content.image_id: content for name in range(families) for content in family(chance, name)}


def cluster_oracle(dates: dict[str, dt.date], contents: dict[str, Content]) -> dict[str, str]:
    return clusters(dates, contents, SETTINGS)


PAIRS = "group_id string, earlier_id string"
PLACES = "group_id string, first_seen date, source_pixels bigint, image_id string"


@pytest.mark.parametrize("in_one_task", [0, 40, 10**6])
def test_groups_settle_as_the_greedy_definition_has_it(spark: SparkSession, landing: Landing, in_one_task: int) -> None:
    """In rounds over all pairs, in one task, and with some rounds before that."""
    chance = random.Random(4)
    order = [f"{number:03}" for number in range(300)]
    chance.shuffle(order)
    place = {group: number for number, group in enumerate(order)}
    # Chains are the worst for rounds; random edges make the rest. Some know that they do not know all.
    edges = {*pairwise(order[:20]), *[tuple(chance.sample(order[20:], 2)) for _ in range(300)]}
    told = {tuple(sorted(edge, key=place.__getitem__, reverse=True)) for edge in edges}
    unsure = set(chance.sample(order, 10))
    wanted: dict[str, str | None] = {}
    for group in order:
        neighbours = [wanted[earlier] for later, earlier in told if later == group]
        is_open = group in unsure or "open" in neighbours
        wanted[group] = "covered" if None in neighbours else "open" if is_open else None
    rows = [*told, *[(group, None) for group in unsure]]
    places = [(group, DATES[number // 101], 1000 - number % 101, group) for group, number in place.items()]
    numbers = count()

    def checkpoint(found: DataFrame) -> Staged:
        name = f"step_{next(numbers)}"
        return Staged(landing.stage("test", name, found), landing.staged_rows("test", name).rows)

    pairs = Staged(frame(spark, PAIRS, rows), len(rows))
    found = settle(pairs, frame(spark, PLACES, places), checkpoint, in_one_task)
    assert sorted(found.collect()) == sorted((group, status) for group, status in wanted.items() if status)


class InMemory(Landing):
    """A landing whose live tables are frames that a test holds: what `apply` would do, without Delta's commits."""

    tables: dict[str, DataFrame]

    def read(self, table: str, version: int | None = None) -> DataFrame:
        assert version is None
        return self.tables[table]


DERIVED = ("image_hashes", "lsh_bands", "clusters")


def group(work: Work, landing: InMemory, affected: set[str], stored: DataFrame, *, afresh: bool = False) -> None:
    """A run that only groups duplicates, and lands what changed; under another rule, `afresh`."""
    ids = frame(work.spark, "image_id string", [(image,) for image in affected])
    named = Staged(ids, len(affected))
    if afresh:
        stage_afresh(work, named, stored)
    else:
        before = work.stage("image_hashes_before", work.past("image_hashes", named))
        stage_duplicates(work, named, before, stored)
    after = {name: work.after(name, work.staged(name)) for name in DERIVED}
    landing.tables |= {name: work.stage(f"live_{name}", table) for name, table in after.items()}


@pytest.fixture
def in_memory(spark: SparkSession, warehouse: object) -> InMemory:
    landing = InMemory(spark, str(warehouse))
    landing.tables = {name: Landing.read(landing, name) for name in TABLES}
    return landing


def night(landing: InMemory, number: int, rule: DedupSettings = SETTINGS) -> Work:
    config = load("conf/local.yaml").model_copy(update={"dedup": rule})
    policy = Policy.model_construct(rules=())
    versions = Versions("policy", "gate", "model", "text", f"flat below {rule.flat_below:g}", "canonical")
    return Work(landing.spark, landing, config, policy, versions, f"run{number}", Progress("test"))


def stored_frame(
    spark: SparkSession,
    images: set[str],
    dates: dict[str, dt.date],
    contents: dict[str, Content],
    flatness: Mapping[str, float] = MappingProxyType({}),
) -> DataFrame:
    """Stored images; live are those that have a date."""
    stored = image_frame(spark, images, dates, contents, flatness)
    place = stored.select("image_id", "first_seen", "source_pixels", "is_live")
    return local_copy(hash_rows(stored, SETTINGS).join(place, "image_id"))


def image_frame(
    spark: SparkSession,
    images: set[str],
    dates: dict[str, dt.date],
    contents: dict[str, Content],
    flatness: Mapping[str, float],
) -> DataFrame:
    """What `images` says of them, with their place."""
    rows = [
        (
            image,
            "canonical",
            [hash_bytes(one) for one in contents[image].hashes],
            0.0 if contents[image].flat else flatness.get(image, 50.0),
            1.0,
            dates.get(image),
            contents[image].source_pixels if image in dates else None,
            image in dates,
        )
        for image in images
    ]
    stored = frame(
        spark,
        "image_id string, canonical_version string, view_hashes array<binary>, flatness double, sharpness double, "
        "first_seen date, source_pixels bigint, is_live boolean",
        rows,
    )
    return stored.withColumn("views_revision", f.lit(VIEWS_REVISION))


def test_keys_of_a_large_run_are_staged_at_once(in_memory: InMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    work = night(in_memory, 0)
    given = frame(work.spark, "group_id string", [("a",), ("b",), ("a",)])
    few = work.keys("few", given)
    monkeypatch.setattr(jobs.run.context, "SMALL_RUN", -1)
    many = work.keys("many", given)
    assert sorted(many.frame.collect()) == sorted(few.frame.collect()) == [("a",), ("b",)]
    assert many.rows == few.rows == 2
    assert in_memory.storage.names("_staging", work.run_id) == ["many"]


@pytest.mark.slow  # the random sequences hold clusters against the plain model after every job
@pytest.mark.parametrize(
    ("seed", "most_earlier", "most_in_one_task", "small_run"),
    [(6, MOST_EARLIER, 10**6, SMALL_RUN), (7, 1, 5, SMALL_RUN), (8, MOST_EARLIER, 10**6, -1)],
)
def test_nights_of_random_changes_leave_what_one_night_from_scratch_would(
    in_memory: InMemory,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    most_earlier: int,
    most_in_one_task: int,
    small_run: int,
) -> None:
    """As shipped; where groups are told of one neighbour at a time, and rounds settle what one task would; and where
    no keys stay on the driver."""
    monkeypatch.setattr(jobs.run.context, "SMALL_RUN", small_run)
    monkeypatch.setattr(jobs.stages.dedup, "MOST_EARLIER", most_earlier)
    monkeypatch.setattr(jobs.stages.clusters, "MOST_IN_ONE_TASK", most_in_one_task)
    spark, contents = in_memory.spark, world(seed, families=60)
    chance = random.Random(seed)
    dates: dict[str, dt.date] = {}
    stored: set[str] = set()
    for number in range(4):
        before = dict(dates), set(stored)
        for image in contents:
            # Comes, goes, or moves in the order, as a backfill of an earlier date would have it. What goes may stay
            # stored, and come again; what comes may be shown by nobody.
            if chance.random() < 0.4:
                dates[image] = chance.choice(DATES)
                stored.add(image)
            elif chance.random() < 0.3:
                dates.pop(image, None)
                if chance.random() < 0.4:
                    stored.discard(image)
            elif chance.random() < 0.1:
                stored.add(image)
        unchanged = [
            image
            for image in contents
            if before[0].get(image) == dates.get(image) and (image in before[1]) == (image in stored)
        ]
        touched = set(contents) - set(chance.sample(unchanged, len(unchanged) // 2))
        group(night(in_memory, number), in_memory, touched, stored_frame(spark, touched & stored, dates, contents))

        found = {row.image_id: row for row in in_memory.tables["clusters"].collect()}
        wanted = cluster_oracle(dates, contents)
        assert {image: row.representative_id for image, row in found.items()} == wanted, f"night {number}"
        assert {image: row.first_seen for image, row in found.items()} == dates
        for row in found.values():
            own, head = contents[row.image_id], contents[row.representative_id]
            least = verified(own, head, SETTINGS)
            assert (row.hamming256, row.hamming) == ((0, 0) if own == head else least)
            assert row.source_pixels == own.source_pixels
        hashes = in_memory.tables["image_hashes"].select("image_id", "group_id", "hashes", "flat").collect()
        assert {row.image_id for row in hashes} == stored
        assert dates.keys() < stored
        hashed = {int(row.group_id[:16], 16): len(row.hashes) for row in hashes if not row.flat}
        bands = in_memory.tables["lsh_bands"].groupBy("group_number").count().collect()
        assert {row.group_number % 2**64: row["count"] for row in bands} == hashed


def test_under_another_rule_no_group_of_the_rule_before_is_taken_for_a_live_one(
    spark: SparkSession, in_memory: InMemory
) -> None:
    """A pale image is flat by the new rule. One that nobody shows, with the same hashes, now has its old group."""
    pale, hidden = (Content(digit * 64, "allow", hashes=(Hash(0, 0),)) for digit in "01")
    near_pale = Content("2" * 64, "allow", hashes=(Hash(1, 1),))
    contents = {content.image_id: content for content in (pale, hidden, near_pale)}
    dates = {pale.image_id: DATES[0], near_pale.image_id: DATES[1]}
    flatness = {pale.image_id: 5.0}
    stored = stored_frame(spark, set(contents), dates, contents, flatness)
    in_memory.tables["images"] = local_copy(image_frame(spark, set(contents), dates, contents, flatness))

    def standing() -> dict[str, str]:
        return {row.image_id: row.representative_id for row in in_memory.tables["clusters"].collect()}

    group(night(in_memory, 0), in_memory, set(contents), stored)
    assert standing() == {pale.image_id: pale.image_id, near_pale.image_id: pale.image_id}
    stricter = SETTINGS.model_copy(update={"flat_below": 6.0})
    group(night(in_memory, 1, stricter), in_memory, set(dates), stored, afresh=True)
    assert standing() == {image: image for image in dates}
    group(night(in_memory, 2), in_memory, set(dates), stored, afresh=True)
    assert standing() == {pale.image_id: pale.image_id, near_pale.image_id: pale.image_id}


def test_an_image_with_a_later_first_seen_dethrones_no_representative(spark: SparkSession, in_memory: InMemory) -> None:
    """The newcomer has more pixels and stands between two representatives: it joins the nearer one."""
    base = Content("0" * 64, "allow", source_pixels=1, hashes=(Hash(0, 0),))
    left, newcomer = base, replace(base, image_id="1" * 64, hashes=(Hash(0b1, 0b111),), source_pixels=9)
    right = replace(base, image_id="2" * 64, hashes=(Hash(0b1111, 0b11111),))
    contents = {content.image_id: content for content in (left, newcomer, right)}
    dates = {left.image_id: DATES[0], right.image_id: DATES[0], newcomer.image_id: DATES[1]}
    for number, images in enumerate(({left.image_id, right.image_id}, {newcomer.image_id})):
        group(night(in_memory, number), in_memory, images, stored_frame(spark, images, dates, contents))
    rows = in_memory.tables["clusters"].collect()
    assert {row.image_id: (row.representative_id, row.hamming256) for row in rows} == {
        left.image_id: (left.image_id, 0),
        right.image_id: (right.image_id, 0),
        newcomer.image_id: (right.image_id, 2),
    }


@pytest.mark.parametrize("crop_first", [True, False])
@pytest.mark.parametrize("view", [0, 1, 2])
def test_what_is_cut_of_one_picture_is_met_by_a_full_view_of_another_whichever_comes_first(
    spark: SparkSession, in_memory: InMemory, crop_first: bool, view: int
) -> None:
    inside, outside = Hash(0b1, 0b1), Hash(2**40 - 1, 2**80 - 1)
    picture = Content("0" * 64, "allow", hashes=(outside, replace(inside, view=3)))
    other = (Hash(2**50 - 1, 2**120 - 1),) if view else ()
    crop = Content("1" * 64, "allow", hashes=(*other, replace(inside, view=view)))
    framed = Content("2" * 64, "allow", hashes=(Hash(2**63 - 1, 2**200 - 1), replace(inside, view=3)))
    contents = {content.image_id: content for content in (picture, crop, framed)}
    nights = [[crop], [picture, framed]] if crop_first else [[picture, framed], [crop]]
    dates = {one.image_id: DATES[number] for number, night_of in enumerate(nights) for one in night_of}
    for number, some in enumerate(nights):
        images = {one.image_id for one in some}
        group(night(in_memory, number), in_memory, images, stored_frame(spark, images, dates, contents))
    rows = {row.image_id: row.representative_id for row in in_memory.tables["clusters"].collect()}
    first = crop if crop_first else picture
    # What is cut of two is alike, and yet the two are not near: the crop ties them together, where it comes first.
    assert rows == {
        picture.image_id: first.image_id,
        crop.image_id: first.image_id,
        framed.image_id: first.image_id if crop_first else framed.image_id,
    }
