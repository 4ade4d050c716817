"""States of URLs and liveness over random histories, against the plain model."""

import datetime as dt
import hashlib
import random

import pytest
from pyspark.sql import DataFrame, SparkSession

from jobs.stages.state import first_accepted, live_images, shown_images, url_states
from schemas.tables import URL_STATE
from tests.jobs.frames import frame, local_copy, table_frame
from tests.model import Sighting, live
from tests.model import url_states as model_url_states

pytestmark = pytest.mark.spark

DATES = [dt.date(2026, 1, day) for day in (3, 9, 10, 31)]
KINDS = [
    ("accepted", "content"),
    ("accepted", "content"),
    ("review", "content"),
    ("review", "none"),
    ("blocked", "content"),
    ("blocked", "withdrawal"),
    ("blocked", "none"),
    ("failed", "withdrawal"),
    ("failed", "none"),
    ("deferred", "none"),
]
"""Outcomes with the effects they may have on their URL."""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def history(seed: int, urls: int, images: int, rows: int) -> list[Sighting]:
    """Random sightings with distinct keys; most URLs several times, also on one date; some rows without a URL."""
    chance = random.Random(seed)
    keys = [(date, name, number) for date in DATES for name in ("a.csv", "b.csv", "B.csv") for number in range(rows)]
    made = []
    for key in chance.sample(keys, rows):
        if chance.random() < 0.03:
            made.append(Sighting(key, None, "failed", "bad_row", (), None, "none"))
            continue
        outcome, effect = chance.choice(KINDS)
        fetched = outcome not in {"failed", "deferred"} and effect != "withdrawal"
        image = digest(f"image {chance.randrange(images)}") if fetched else None
        reasons = ("rule",) if outcome in {"review", "blocked"} else ()
        failure = {"failed": "gone" if effect == "withdrawal" else "timeout"}.get(outcome)
        made.append(Sighting(key, f"http://host/{chance.randrange(urls)}", outcome, failure, reasons, image, effect))
    return made


SIGHTED = history(seed=7, urls=150, images=70, rows=600)


def texts(sighting: Sighting) -> dict[str, object]:
    """Facts that the feed takes, different from row to row, each of them at times missing or blank."""
    chance = random.Random(repr(sighting.key))
    return {
        "title": chance.choice([None, "", "  ", f"title {sighting.key}"]),
        "alt_text": chance.choice([None, " ", "alt"]),
        "description": chance.choice([None, "", "words"]),
        "tags": chance.choice([None, [], ["tag"]]),
        "text_id": chance.choice([None, digest(repr(sighting.key))]),
        "page_url": f"http://page/{sighting.key[2]}",
    }


def sighted(spark: SparkSession, sightings: list[Sighting]) -> DataFrame:
    rows = []
    for s in sightings:
        row = texts(s) | {
            "ingest_date": s.key[0],
            "source_file": s.key[1],
            "row_number": s.key[2],
            "url": s.url,
            "url_id": digest(s.url) if s.url else None,
            "host": "host" if s.url else None,
            "outcome": s.outcome,
            "failure_code": s.failure,
            "reasons": list(s.reasons),
            "image_id": s.image_id,
            "not_modified": False,
            "state_effect": s.effect,
            "policy_version": "policy",
            "run_id": "run",
        }
        rows.append(row)
    return table_frame(spark, "sightings", rows)


@pytest.fixture(scope="module")
def sightings(spark: SparkSession) -> DataFrame:
    return sighted(spark, SIGHTED)


@pytest.fixture(scope="module")
def states(sightings: DataFrame) -> DataFrame:
    return local_copy(url_states(sightings))


def test_the_state_of_every_url_is_the_models(states: DataFrame) -> None:
    found = {
        row.url_id: ((row.ingest_date, row.source_file, row.row_number), row.url, row.outcome, row.state_effect)
        for row in states.collect()
    }
    wanted = model_url_states(SIGHTED)
    assert len(wanted) > 100
    assert {s.effect for s in wanted.values()} == {"content", "withdrawal"}
    assert found == {digest(url): (s.key, s.url, s.outcome, s.effect) for url, s in wanted.items()}


def test_a_state_shows_its_own_sightings_facts_and_no_image_after_a_withdrawal(states: DataFrame) -> None:
    by_key = {s.key: s for s in SIGHTED}
    for row in states.collect():
        sighting = by_key[row.ingest_date, row.source_file, row.row_number]
        assert row.image_id == (sighting.image_id if sighting.effect == "content" else None)
        assert (row.title, row.page_url) == (texts(sighting)["title"], texts(sighting)["page_url"])
    assert tuple(states.columns) == URL_STATE.column_names


def test_states_do_not_depend_on_the_order_of_the_rows(spark: SparkSession, states: DataFrame) -> None:
    shuffled = list(SIGHTED)
    random.Random(1).shuffle(shuffled)
    again = url_states(sighted(spark, shuffled).repartition(5))
    assert sorted(again.collect()) == sorted(states.collect())


def test_live_images_are_the_models_and_need_pixels_and_a_vector(
    spark: SparkSession, sightings: DataFrame, states: DataFrame
) -> None:
    wanted = live(SIGHTED)
    assert len(wanted) > 30
    ids = sorted({s.image_id for s in SIGHTED if s.image_id})
    without_pixels, without_vector = set(ids[::5]), set(ids[1::5])
    images = frame(
        spark,
        "image_id string, width int, source_width int, source_height int, canonical_version string, "
        "flatness double, sharpness double, view_hashes array<binary>",
        [(image, 3, 40_000, 70_000, "c", 9.0, 1.0, [bytes(42)]) for image in ids if image not in without_pixels],
    )
    vectors = [(image,) for image in ids if image not in without_vector]
    embedded = frame(spark, "image_id string", vectors + vectors)
    found = live_images(shown_images(states), first_accepted(sightings), images, embedded).collect()
    assert {row.image_id: row.first_seen for row in found} == {
        image: date for image, date in wanted.items() if image not in without_pixels | without_vector
    }
    assert len(found) == len({row.image_id for row in found})
    assert {row.source_pixels for row in found} == {40_000 * 70_000}


def test_the_feeds_facts_are_those_of_the_first_accepted_sighting_in_key_order(sightings: DataFrame) -> None:
    first: dict[str, Sighting] = {}
    for s in sorted(SIGHTED, key=lambda s: s.key, reverse=True):
        if s.outcome == "accepted" and s.image_id:
            first[s.image_id] = s
    found = {row.image_id: row for row in first_accepted(sightings).collect()}
    assert found.keys() == first.keys()
    for image, sighting in first.items():
        row, facts = found[image], texts(sighting)
        given = {name: bool(str(facts[name] or "").strip()) for name in ("title", "alt_text", "description")}
        assert row.first_seen == sighting.key[0]
        assert (row.title, row.text_id) == (facts["title"], facts["text_id"])
        assert row.page_url == facts["page_url"]
        assert {name: row[f"has_{name}"] for name in given} == given
        assert row.has_tags is bool(facts["tags"])


def test_tokens_are_the_distinct_words_of_the_cleaned_texts(spark: SparkSession) -> None:
    given = {
        "ingest_date": DATES[0],
        "source_file": "f",
        "row_number": 0,
        "url": "http://host/",
        "url_id": digest("url"),
        "outcome": "accepted",
        "reasons": [],
        "image_id": digest("image"),
        "not_modified": False,
        "state_effect": "content",
        "policy_version": "policy",
        "run_id": "run",
        "title": "Zwei <b>KAT</b>ZEN, im Caf&eacute;!",
        "alt_text": None,
        "description": "two cats; zwei\u00a0Kat\u034fzen_2",
        "tags": ["pet", "cafe\u0301 au lait", None, "Ｃａｆé", "&eacute;t&eacute;<br>2"],
    }
    row = first_accepted(table_frame(spark, "sightings", [given])).first()
    assert row is not None
    assert row.tokens == ["zwei", "katzen", "im", "café", "two", "cats", "2", "pet", "au", "lait", "été"]
