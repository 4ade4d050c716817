"""What a night holds of earlier ones: validators, each with the URL and the content that it belongs to."""

import datetime as dt
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.config.profile import load
from jobs.config.progress import Progress
from jobs.run.contents import validators
from jobs.run.context import Work
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Versions
from schemas.policy import Policy
from tests.jobs.frames import frame

EARLY, BEFORE, TODAY = dt.date(2026, 3, 1), dt.date(2026, 3, 2), dt.date(2026, 3, 3)


GIVEN = ("url_id", "ingest_date", "image_id", "etag", "last_modified", "final_url")
FETCHES = "url_id string, ingest_date date, image_id string, etag string, last_modified string, final_url string"
STATES = "url_id string, ingest_date date, outcome string, image_id string"


def image(letter: str) -> str:
    return letter * 64


def shown(url: str, outcome: str = "accepted", date: dt.date = BEFORE) -> dict[str, Any]:
    return {"url_id": url, "ingest_date": date, "outcome": outcome, "image_id": image(url[0])}


def gave(url: str, date: dt.date = BEFORE, **fields: Any) -> dict[str, Any]:
    row = {"url_id": url, "ingest_date": date, "image_id": image(url[0]), "etag": f'"{url}"', "final_url": url}
    return row | fields


def test_validators_come_with_their_url_and_content_from_earlier_dates_and_of_what_is_live(
    spark: SparkSession, landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [
        *(shown("a"), shown("b"), shown("c", "review"), shown("d"), shown("e", date=TODAY), shown("f"), shown("g")),
        shown("h"),
    ]
    fetches = [
        gave("a", last_modified="long ago"),
        gave("a", EARLY, etag='"older"'),  # what it last showed counts
        gave("b", final_url="where b led"),
        gave("c"),
        gave("d"),  # nothing live
        gave("e", TODAY),  # not earlier
        gave("f", etag=None),
        gave("g", image_id=image("x")),  # not what the state is about
        gave("h", etag=None, last_modified="lately"),
    ]
    tables = {
        "url_state": frame(spark, STATES, [row.values() for row in states]),
        "clusters": frame(spark, "image_id string", [[image(url)] for url in "abcefgh"]),
        "fetches": frame(spark, FETCHES, [[row.get(name) for name in GIVEN] for row in fetches]),
    }
    monkeypatch.setattr(landing, "read", tables.__getitem__)
    config, policy = load("conf/local.yaml"), Policy.model_construct(rules=())
    work = Work(spark, landing, config, policy, Versions("p", "g", "m", "t", "r", "c"), "run", Progress("test"))
    requests = frame(
        spark, "url_id string, url string, host string", [(url, f"http://{url}/", url) for url in "abcdefghi"]
    )
    found = {row.url_id: row for row in validators(work, TODAY, requests).collect()}
    assert found.keys() == set("abcdefghi")
    names = ("validated_url", "etag", "last_modified", "image_id")
    assert {url: tuple(row[name] for name in names) for url, row in found.items() if any(row[n] for n in names)} == {
        "a": ("a", '"a"', "long ago", image("a")),
        "b": ("where b led", '"b"', None, image("b")),
        "h": ("h", None, "lately", image("h")),
    }
