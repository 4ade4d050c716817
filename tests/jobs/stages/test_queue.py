"""What is owed a fetch, over random histories, against the plain model."""

import random
from dataclasses import replace

import pytest
from pyspark.sql import SparkSession

from jobs.stages.queue import owed_pixels, owed_rows, still_open, transient
from jobs.stages.state import url_states
from schemas.outcomes import TRANSIENT
from tests.jobs.frames import frame, local_copy, table_frame
from tests.jobs.stages.test_state import SIGHTED, digest
from tests.model import Sighting, owed
from tests.model import url_states as model_url_states

pytestmark = pytest.mark.spark

HISTORY = [replace(s, url=digest(s.url)) if s.url else s for s in SIGHTED]
"""With ids for URLs: of several URLs that show an image, the first by id is asked."""


def rows(sightings: list[Sighting]) -> list[dict[str, object]]:
    return [
        {
            "ingest_date": s.key[0],
            "source_file": s.key[1],
            "row_number": s.key[2],
            "url": s.url,
            "url_id": s.url,
            "host": "host",
            "outcome": s.outcome,
            "failure_code": s.failure,
            "reasons": list(s.reasons),
            "image_id": s.image_id,
            "state_effect": s.effect,
            "not_modified": False,
            "policy_version": "p",
            "run_id": "r",
        }
        for s in sightings
    ]


def test_the_queue_is_what_the_model_says(spark: SparkSession) -> None:
    images = sorted({s.image_id for s in HISTORY if s.image_id})
    stored = set(random.Random(3).sample(images, len(images) // 2))
    sightings = table_frame(spark, "sightings", rows(HISTORY))
    states = local_copy(url_states(sightings))
    pixels = owed_pixels(states, frame(spark, "image_id string", [(image,) for image in stored]))
    found = owed_rows(sightings, states, pixels)
    queue = {(row.ingest_date, row.url_id): (row.image_id, row.owed) for row in found.collect()}
    expected = owed(HISTORY, stored)
    assert {key: image for key, (image, _) in queue.items()} == expected
    assert {kind for _, kind in queue.values()} == {"answer", "pixels"}


def test_what_failed_for_good_or_was_overtaken_is_not_tried_again(spark: SparkSession) -> None:
    sightings = table_frame(spark, "sightings", rows(HISTORY))
    states = model_url_states(HISTORY)
    again = {
        s.key
        for s in HISTORY
        if s.url
        and (s.outcome == "deferred" or s.failure in TRANSIENT)
        and not (s.url in states and states[s.url].key[0] > s.key[0])
    }
    found = still_open(transient(sightings), url_states(sightings)).collect()
    assert {(row.ingest_date, row.source_file, row.row_number) for row in found} == again
    assert 0 < len(again) < len([s for s in HISTORY if s.outcome == "deferred" or s.failure in TRANSIENT])
