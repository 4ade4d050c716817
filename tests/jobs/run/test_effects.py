"""What is gathered of a staged re-decision: exact counts, and samples that have bounds."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.types import ArrayType, BooleanType, StringType, StructField, StructType

from jobs.config.profile import load
from jobs.config.progress import Progress
from jobs.run.context import Work
from jobs.run.effects import KINDS, MOST_GROUPS, MOST_SAMPLES, Effects, FeedRow, Flips, ReasonChange, gather_effects
from jobs.run.names import Count, Dataset
from jobs.warehouse.landing import CHANGE, Landing
from jobs.warehouse.ledger import Event, Versions
from schemas.policy import NsfwRule, Policy
from schemas.spark import struct_type
from schemas.tables import TABLES
from tests.jobs.frames import frame
from tests.jobs.reporting.conftest import cluster_row, jpeg, sighting_row
from tests.lensfeed.tiny_warehouse import feed_row, image_id, image_row

pytestmark = pytest.mark.spark

POLICY = Policy(
    name="strict",
    rules=(NsfwRule(id="nsfw", kind="nsfw", action="block", reason="nsfw", comment="c", at_least=0.5),),
)
COMPARED = StructType(
    [
        *struct_type(TABLES["sightings"]).fields,
        StructField("old_outcome", StringType()),
        StructField("old_image_id", StringType()),
        StructField("old_text_id", StringType()),
        StructField("old_reasons", ArrayType(StringType())),
        StructField("old_failure_code", StringType()),
        StructField("old_says", BooleanType()),
    ]
)
PUBLISHED = Event("run-1", "nightly", "published", (), 1, policy_version="policy-1")


def flipped(number: int, before: str, after: str, was: list[str], why: list[str], **given: Any) -> dict[str, Any]:
    """A sighting that is decided otherwise."""
    old = {"old_outcome": before, "old_reasons": was, "old_failure_code": None, "old_says": True}
    return sighting_row(number, outcome=after, reasons=why) | old | given


FLIPPED = [
    # Thirty sightings of twenty images leave, and fifteen more for a reason each.
    *(flipped(n, "accepted", "blocked", [], ["nsfw"], image_id=image_id(n % 20)) for n in range(30)),
    *(
        flipped(n, "accepted", "blocked", [], [f"r{n:02}"], image_id=None, old_image_id=image_id(n))
        for n in range(30, 45)
    ),
    *(
        flipped(
            n, "blocked", "deferred", ["words"], [], image_id=None, title="", alt_text="said", failure_detail="owed"
        )
        for n in range(45, 48)
    ),
    flipped(48, "review", "blocked", ["doubtful"], ["doubtful", "nsfw"]),
    flipped(49, "deferred", "accepted", [], []),
]
"""2 becomes the representative of 3 and 4 after 0, which goes; 9, which comes, that of 6 after 5."""
CLUSTERS_BEFORE = [cluster_row(0, n) for n in (0, 2, 3, 4)] + [cluster_row(5, n) for n in (5, 6)]
CLUSTERS = [
    {"image_id": image_id(0), "rule_version": "rule-1", CHANGE: "delete"},
    *(cluster_row(2, n) | {CHANGE: "update"} for n in (2, 3, 4)),
    *(cluster_row(9, n) | {CHANGE: "update"} for n in (5, 6)),
    cluster_row(9, 9) | {CHANGE: "insert"},
]
FEED = [
    {"feed_id": 0, CHANGE: "delete"},
    feed_row(5, title="other", url_count=7) | {CHANGE: "update"},
    feed_row(2) | {CHANGE: "insert"},
    feed_row(9) | {CHANGE: "insert"},
]


@pytest.fixture
def work(spark: SparkSession, landing: Landing) -> Work:
    """A run that has staged nothing; the feed has 0 and 5, `images` the first ten and a few more."""
    landing.ensure_tables(["index_feed", "images"])
    landing.append("index_feed", [feed_row(0, title="zero", tokens=[]), feed_row(5, title="five", tokens=[])])
    landing.append("images", [image_row(n) | {"pixels": jpeg(n)} for n in range(10)])
    versions = Versions("policy-2", "g", "model", "t", "r", "c")
    return Work(spark, landing, load("conf/local.yaml"), POLICY, versions, "run", Progress("test"))


def staged(work: Work, compared: Iterable[Mapping[str, Any]], clusters: Any, feed: Any) -> Effects:
    """What is gathered where these rows are staged."""

    def stage(name: str, schema: StructType, rows: Iterable[Mapping[str, Any]], **counted: Column) -> DataFrame:
        names = schema.fieldNames()
        return work.stage(name, frame(work.spark, schema, [[row.get(one) for one in names] for row in rows]), **counted)

    def changing(table: str) -> StructType:
        """A delete names its key alone."""
        fields = [StructField(one.name, one.dataType) for one in struct_type(TABLES[table]).fields]
        return StructType([*fields, StructField(CHANGE, StringType())])

    stage(Dataset.ROWS, struct_type(TABLES["sightings"]), [sighting_row(n) for n in range(60)])
    stage(Dataset.COMPARED, COMPARED, compared)
    stage(Dataset.CLUSTERS_BEFORE, struct_type(TABLES["clusters"]), CLUSTERS_BEFORE[:1])
    stage(Dataset.REGROUPED, struct_type(TABLES["clusters"]), CLUSTERS_BEFORE)
    stage(Dataset.CLUSTERS, changing("clusters"), clusters)
    stage("index_feed", changing("index_feed"), feed)
    owed = [{"url_id": "u", CHANGE: "insert"}, {"url_id": "v", CHANGE: "delete"}] if compared else []
    stage("refetch_queue", changing("refetch_queue"), owed, **{Count.INSERTS: f.col(CHANGE) == "insert"})
    return gather_effects(work, PUBLISHED)


def test_what_changes_is_counted_and_sampled_within_bounds(work: Work) -> None:
    effects = staged(work, FLIPPED, CLUSTERS, FEED)
    assert (effects.run_id, effects.policy_before, effects.policy_after) == ("run-1", "policy-1", "policy-2")
    assert (effects.sightings, effects.changed, effects.owed) == (60, 50, 1)
    assert effects.outcomes == {
        ("accepted", "blocked"): 45,
        ("blocked", "deferred"): 3,
        ("review", "blocked"): 1,
        ("deferred", "accepted"): 1,
    }
    assert effects.flips[:2] == [Flips("accepted", "blocked", "nsfw", 30), Flips("blocked", "deferred", "owed", 3)]
    assert effects.more_flips == 0
    assert effects.reasons[:2] == [ReasonChange("nsfw", 31, 0), ReasonChange("words", 0, 3)]
    assert "doubtful" not in [reason.code for reason in effects.reasons]
    assert {kind: effects.kinds[kind].count for kind in KINDS} == {"leaves": 45, "enters": 4, "otherwise": 1}

    leaving = effects.kinds["leaves"]
    largest = leaving.groups[0]
    assert (len(leaving.groups), leaving.more) == (MOST_GROUPS, 15 - (MOST_GROUPS - 1))
    assert (largest.why, largest.count, len(largest.samples), largest.more) == ("nsfw", 30, MOST_SAMPLES, 22)
    shown = [seen.image_id for _, seen in largest.samples]
    assert len(set(shown)) == len(shown)
    assert all(seen.is_accepted for _, seen in largest.samples)
    assert [seen.image_id for _, seen in leaving.groups[1].samples] == [image_id(30)]
    entering = effects.kinds["enters"].groups[0]
    assert (entering.before, entering.after, entering.was, entering.why) == ("blocked", "deferred", "words", "owed")
    assert {(seen.image_id, seen.title, seen.is_accepted) for _, seen in entering.samples} == {(None, "said", False)}

    assert effects.images == {"delete": 1, "update": 5, "insert": 1}
    pairs = [(pair.before.image_id, pair.after.image_id, pair.images) for pair in effects.replaced]
    assert pairs == [(image_id(0), image_id(2), 3), (image_id(5), image_id(9), 2)]
    assert [pair.before.title for pair in effects.replaced] == ["zero", "other"]
    assert [pair.after.is_accepted for pair in effects.replaced] == [True, False]
    assert effects.more_replaced == 0

    counts = {change: effects.feed[change].count for change in effects.feed}
    assert counts == {"insert": 2, "update": 1, "delete": 1}
    (deleted,), (updated,) = effects.feed["delete"].rows, effects.feed["update"].rows
    assert isinstance(deleted, FeedRow)
    assert (deleted.image.image_id, deleted.image.title, deleted.image.is_accepted) == (image_id(0), "zero", True)
    assert ("title", "five", "other") in updated.differing
    assert not any(row.image.is_accepted for row in effects.feed["insert"].rows)
    assert {image_id(n) for n in (0, 2, 5, 9)} <= effects.jpegs.keys()
    assert effects.jpegs[image_id(5)] == jpeg(5)
    assert staged(work, FLIPPED, CLUSTERS, FEED) == effects


def test_nothing_staged_is_nothing_told(work: Work) -> None:
    effects = staged(work, [], [], [])
    assert (effects.changed, effects.owed, effects.outcomes, effects.images) == (0, 0, {}, {})
    assert not any(groups.groups for groups in effects.kinds.values())
    assert list(effects.shown()) == []
    assert effects.jpegs == {}
