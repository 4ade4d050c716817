"""Feed ids for good, feed rows with their masks and counts, digests that speak of real changes."""

import datetime as dt
import hashlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as f

from jobs.stages.feed import feed_rows, member_rows, natural_feed_ids, new_feed_ids, row_ids, with_seqs, with_vectors
from jobs.warehouse.landing import CHANGE
from schemas.tables import ADDED_SEQ, CHANGED_SEQ, FEED_IDS, FEED_MEMBERS, GONE_SEQ, INDEX_FEED, ROW_ID
from tests.jobs.frames import frame, table_frame
from udfs.embedding.alignment import Alignment, Calibration, Projections

pytestmark = pytest.mark.spark

DAY = dt.date(2026, 1, 31)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def image_frame(spark: SparkSession, ids: list[str]) -> DataFrame:
    return frame(spark, "image_id string", [(image,) for image in ids])


def ids_given(spark: SparkSession, wanted: list[str], taken: dict[str, int]) -> dict[str, tuple[int, bool]]:
    rows = [{"image_id": i, "feed_id": n, "collided": False, "run_id": "r"} for i, n in taken.items()]
    found = new_feed_ids(image_frame(spark, wanted), table_frame(spark, "feed_ids", rows), "run")
    assert found.columns == list(FEED_IDS.column_names)
    return {row.image_id: (row.feed_id, row.collided) for row in found.collect()}


def image_with(first_63_bits: int, rest: str) -> str:
    """An image_id that begins with these bits and a zero."""
    return f"{first_63_bits << 1:016x}" + digest(rest)[16:]


def test_a_natural_feed_id_is_the_first_63_bits(spark: SparkSession) -> None:
    ids = [digest(str(number)) for number in range(50)] + ["f" * 64, "0" * 64, "7fffffff80000001" + "0" * 48]
    found = {row.image_id: row.feed_id for row in natural_feed_ids(image_frame(spark, ids)).collect()}
    assert found == {image: int(image[:16], 16) >> 1 for image in ids}


def test_colliding_images_take_the_next_free_id_and_it_is_recorded(spark: SparkSession) -> None:
    rivals = sorted(image_with(1000, f"rival {number}") for number in range(2))
    neighbour = image_with(1001, "neighbour")
    at_the_end = sorted(image_with(2**63 - 1, f"end {number}") for number in range(2))
    found = ids_given(spark, [*rivals, neighbour, *at_the_end], {"someone else": 1002})
    assert found == {
        rivals[0]: (1000, False),
        neighbour: (1001, False),
        rivals[1]: (1003, True),
        at_the_end[0]: (2**63 - 1, False),
        at_the_end[1]: (0, True),
    }


def test_ids_once_given_stay_and_are_never_given_again(spark: SparkSession) -> None:
    old, new = image_with(5, "old"), image_with(5, "new")
    # Who holds an id keeps it, although the newcomer might come first in order and the holder may have left the feed.
    assert ids_given(spark, [old, new], {old: 5}) == {new: (6, True)}
    assert ids_given(spark, [new], {old: 5, "another": 6}) == {new: (7, True)}


class World:
    """Two clusters: a representative with one member and four URLs, and one alone without a text.

    `name` keeps the ids of one world apart from those of others, so that many are computed at once.
    """

    def __init__(self, name: str = "") -> None:
        self.first, self.member, self.alone = (digest(f"{name} {image}") for image in ("first", "member", "alone"))
        self.text = digest(f"{name} text")
        self.clusters = [
            self.cluster(self.first, self.first, 0),
            self.cluster(self.member, self.first, 3, pixels=2),
            self.cluster(self.alone, self.alone, 0),
        ]
        self.urls = [
            self.shown(f"http://a.example/{name}1", "a.example", self.first),
            self.shown(f"http://a.example/{name}2", "a.example", self.first),
            self.shown(f"http://b.example/{name}1", "b.example", self.member),
            self.shown(f"http://c.example/{name}1", "c.example", self.alone),
            # Not shown as accepted: none of these is a member.
            self.shown(f"http://d.example/{name}1", "d.example", self.member, outcome="review"),
            self.shown(f"http://d.example/{name}2", "d.example", None, outcome="failed", state_effect="withdrawal"),
            self.shown(f"http://d.example/{name}3", "d.example", digest("of no cluster")),
        ]
        self.facts = {
            self.first: self.fact(self.first, title="A title", text_id=self.text, has_title=True),
            self.member: self.fact(self.member, title="Another", text_id=digest("text of the member")),
            self.alone: self.fact(self.alone, text_id=digest("text without a vector"), has_tags=True),
        }
        self.pictures = {image: [image, 512, 384, 1.5] for image in self.facts}
        self.feed_ids = {self.first: 11, self.member: 12, self.alone: 13}

    @staticmethod
    def cluster(image: str, representative: str, hamming: int, pixels: int = 1) -> dict[str, Any]:
        return {
            "image_id": image,
            "rule_version": "rule",
            "representative_id": representative,
            "hamming": hamming,
            "hamming256": 4 * hamming,
            "group_id": image[:32],
            "first_seen": DAY,
            "source_pixels": pixels,
        }

    @staticmethod
    def shown(url: str, host: str, image: str | None, **given: Any) -> dict[str, Any]:
        row = {
            "url_id": digest(url),
            "ingest_date": DAY,
            "source_file": "f",
            "row_number": 0,
            "outcome": "accepted",
            "state_effect": "content",
            "image_id": image,
            "url": url,
            "host": host,
            "page_url": f"{url}.html",
            "title": f"at {url}",
        }
        return row | given

    @staticmethod
    def fact(image: str, **given: Any) -> dict[str, Any]:
        masks = dict.fromkeys(("has_title", "has_alt_text", "has_description", "has_tags"), False)
        words = {"title": None, "text_id": None, "language": None, "tokens": [], "attributes": None}
        places = {"url": f"http://a.example/{image}", "page_url": None}
        return {"image_id": image, "first_seen": DAY} | places | words | masks | given


FACTS = (
    "image_id string, first_seen date, url string, page_url string, title string, text_id string, language string, "
    "tokens array<string>, attributes map<string,string>, has_title boolean, has_alt_text boolean, "
    "has_description boolean, has_tags boolean"
)


def members_of(spark: SparkSession, worlds: list[World]) -> DataFrame:
    clusters = table_frame(spark, "clusters", [row for world in worlds for row in world.clusters])
    return member_rows(clusters, table_frame(spark, "url_state", [row for world in worlds for row in world.urls]))


def feed_of(
    spark: SparkSession,
    worlds: list[World],
    model: str = "model",
    text_model: str = "text model",
    *,
    alignment: Alignment | None = None,
) -> dict[str, Row]:
    facts = [fact for world in worlds for fact in world.facts.values()]
    spoken = frame(spark, "text_id string, vector array<float>", [(world.text, [0.0, 1.0, 0.0]) for world in worlds])
    rows = feed_rows(
        table_frame(spark, "clusters", [row for world in worlds for row in world.clusters]),
        members_of(spark, worlds),
        frame(spark, FACTS, [list(fact.values()) for fact in facts]),
        frame(
            spark,
            "image_id string, width int, height int, sharpness double",
            [picture for world in worlds for picture in world.pictures.values()],
        ),
        spoken.select("text_id"),
        frame(
            spark,
            "image_id string, feed_id bigint",
            [item for world in worlds for item in world.feed_ids.items()],
        ),
        model_version=model,
        text_model_version=text_model,
        alignment=alignment,
    )
    vectors = frame(
        spark, "image_id string, vector array<float>", [(fact["image_id"], [0.6, 0.8, 0.0]) for fact in facts]
    )
    rows = with_seqs(rows.withColumns({CHANGE: f.lit("insert"), ADDED_SEQ: f.lit(None).cast("bigint")}), 7)
    rows = with_vectors(
        rows.drop(CHANGE, GONE_SEQ), vectors, spoken, text_dimension=3, alignment=alignment, run_number=7
    )
    assert rows.columns == list(INDEX_FEED.column_names)
    return {row.image_id: row for row in rows.drop(ROW_ID).collect()}  # two evaluations differ in it


def test_of_a_change_it_is_told_which_run_made_it(spark: SparkSession) -> None:
    changed = frame(
        spark,
        f"feed_id bigint, {ADDED_SEQ} bigint, {CHANGE} string",
        [(1, None, "insert"), (2, 3, "update"), (3, None, "update"), (4, 3, "delete"), (5, None, "delete")],
    )
    numbered = with_seqs(changed, 7).select("feed_id", ADDED_SEQ, CHANGED_SEQ, GONE_SEQ)
    assert sorted(map(tuple, numbered.collect())) == [
        (1, 7, 7, None),
        (2, 3, 7, None),
        (3, None, 7, None),  # of before this was recorded: it was there, since whenever
        (4, 3, 7, 7),
        (5, None, 7, 7),
    ]


def test_every_row_that_is_written_has_an_id_of_its_own(spark: SparkSession) -> None:
    written = [
        [row[0] for row in spark.range(0, 1000, 1, 7).select(row_ids(run, moved=moved)).collect()]
        for run in (0, 1, 2, 2**20 - 1)
        for moved in (False, True)
    ]
    assert all(max(earlier) < min(later) for earlier, later in itertools.pairwise(written))
    ids = [one for run in written for one in run]
    assert len(ids) == len(set(ids))
    assert all(0 <= one < 2**63 for one in ids)
    with pytest.raises(ValueError, match="number of a run: expected 0 to 1048575, found 1048576"):
        row_ids(2**20)


def test_members_are_the_urls_that_show_a_live_image_of_a_cluster(spark: SparkSession) -> None:
    world = World()
    members = members_of(spark, [world])
    assert members.columns == list(FEED_MEMBERS.column_names)
    found = {
        row.url: (row.representative_id, row.image_id, row.domain, row.hamming, row.title) for row in members.collect()
    }
    assert found == {
        "http://a.example/1": (world.first, world.first, "a.example", 0, "at http://a.example/1"),
        "http://a.example/2": (world.first, world.first, "a.example", 0, "at http://a.example/2"),
        "http://b.example/1": (world.first, world.member, "b.example", 3, "at http://b.example/1"),
        "http://c.example/1": (world.alone, world.alone, "c.example", 0, "at http://c.example/1"),
    }


def test_a_feed_row_counts_its_cluster_and_masks_the_text_it_lacks(spark: SparkSession) -> None:
    world = World()
    rows = feed_of(spark, [world])
    assert rows.keys() == {world.first, world.alone}
    first, alone = rows[world.first], rows[world.alone]
    assert (first.feed_id, first.member_count, first.url_count, first.domain_count) == (11, 2, 3, 2)
    assert (first.largest_image_id, alone.largest_image_id) == (world.member, world.alone)
    assert (first.url, first.page_url) == (f"http://a.example/{world.first}", None)
    assert (first.title, first.has_title, first.has_tags) == ("A title", True, False)
    assert (first.has_text, first.text_vector, first.vector) == (True, [0.0, 1.0, 0.0], pytest.approx([0.6, 0.8, 0.0]))
    assert (first.model_version, first.text_model_version) == ("model", "text model")
    assert (alone.feed_id, alone.member_count, alone.url_count, alone.domain_count) == (13, 1, 1, 1)
    assert (alone.title, alone.has_title, alone.has_tags) == (None, False, True)
    assert (alone.has_text, alone.text_vector) == (False, [0.0, 0.0, 0.0])


NATIVE = Alignment("model", "text model", None, None)
ALIGNED = Alignment(
    "model",
    "text model",
    Projections(
        image_mean=np.array([0.0, 0.8, 0.0], np.float32),
        image_projection=np.array([[1, 0], [0, 0], [0, 1]], np.float32),
        text_mean=np.zeros(3, np.float32),
        text_projection=np.array([[0, 0], [3, 0], [0, 1]], np.float32),
    ),
    Calibration(0.25, 0.5),
)


def test_pictures_and_texts_are_compared_where_there_is_a_text_and_a_way_to(spark: SparkSession) -> None:
    world = World()
    columns = ("image_text_cosine", "image_text_mean", "image_text_deviation", "alignment_version")
    expected: list[tuple[Alignment | None, float | None, float | None, float | None]] = [
        (None, None, None, None),
        (NATIVE, 0.8, None, None),
        (ALIGNED, 1.0, 0.25, 0.5),
    ]
    for alignment, cosine, *calibration in expected:
        rows = feed_of(spark, [world], alignment=alignment)
        version = alignment.version if alignment else None
        first, alone = ([getattr(rows[image], name) for name in columns] for image in (world.first, world.alone))
        assert first == [cosine, *calibration, version]
        assert alone == [None, *calibration, version]


CHANGES: dict[str, Callable[[World], Any]] = {
    "title": lambda world: world.facts[world.first].update(title="Other"),
    "no title": lambda world: world.facts[world.first].update(title=None),
    "empty title": lambda world: world.facts[world.first].update(title=""),
    "mask": lambda world: world.facts[world.first].update(has_alt_text=True),
    "other mask": lambda world: world.facts[world.first].update(has_tags=True),
    "language": lambda world: world.facts[world.first].update(language="de"),
    "tokens": lambda world: world.facts[world.first].update(tokens=["a", "title"]),
    "attributes": lambda world: world.facts[world.first].update(attributes={"colour": "red"}),
    "text": lambda world: world.facts[world.first].update(text_id=None),
    "url": lambda world: world.facts[world.first].update(url="http://b.example/"),
    "page": lambda world: world.facts[world.first].update(page_url="http://b.example/page"),
    "largest": lambda world: world.clusters[1].update(source_pixels=0),
    "first seen": lambda world: world.facts[world.first].update(first_seen=dt.date(2026, 1, 30)),
    "height": lambda world: world.pictures.update({world.first: [world.first, 512, 385, 1.5]}),
    "sharpness": lambda world: world.pictures.update({world.first: [world.first, 512, 384, 1.5000001]}),
    "feed id": lambda world: world.feed_ids.update({world.first: 14}),
    "fewer members": lambda world: world.clusters.pop(1),
    "fewer urls": lambda world: world.urls.pop(0),
}


def test_the_row_digest_changes_exactly_when_a_column_does(spark: SparkSession) -> None:
    # Each change in a run of its own would start a dozen; so the worlds, equal but for their ids, are changed together.
    worlds = {name: World(name) for name in CHANGES}
    before, again = feed_of(spark, list(worlds.values())), feed_of(spark, list(worlds.values()))
    assert before == again
    for name, change in CHANGES.items():
        change(worlds[name])
    after = feed_of(spark, list(worlds.values()))
    for name, world in worlds.items():
        assert after[world.first].row_digest != before[world.first].row_digest, name
        assert after[world.alone] == before[world.alone], name
    texts = [after[worlds[name].first].title for name in ("no title", "empty title")]
    assert texts == [None, ""]


def test_the_row_digest_names_the_models(spark: SparkSession) -> None:
    world = World()
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {"model": "new model"},
        {"text_model": "new text model"},
        {"alignment": NATIVE},
        {"alignment": replace(NATIVE, calibration=Calibration(0.1, 0.2))},
    )
    digests = [feed_of(spark, [world], **models)[world.first].row_digest for models in kinds]
    assert len(set(digests)) == len(digests)
