"""Recorded answers by the policy of now, against the plain model."""

import datetime as dt
import hashlib
from dataclasses import replace
from itertools import product

import pytest
from pyspark.sql import SparkSession

from jobs import contents
from jobs.config import load
from jobs.landing import Landing
from jobs.ledger import Versions
from jobs.progress import Progress
from jobs.stages.review import Overrides
from jobs.work import Work
from schemas.policy import Policy
from tests.jobs.frames import frame, table_frame
from tests.model import Answer, Content, Fetch, recall
from udfs.gate import gate_version

pytestmark = pytest.mark.spark

DAY = dt.date(2026, 1, 31)
REFUSED = {"http://listed.example/x": "listed", "http://blocked.example/": "domain"}
POLICY = Policy.model_validate(
    {
        "name": "test",
        "rules": [
            {"id": "n", "kind": "nsfw", "action": "block", "reason": "sure", "at_least": 0.8, "comment": "c"},
            {"id": "l", "kind": "url", "action": "block", "reason": "listed", "comment": "c",
             "urls": ["http://listed.example/x"]},
            {"id": "d", "kind": "domain", "action": "block", "reason": "domain", "comment": "c",
             "domains": ["blocked.example"]},
        ],
    }
)  # fmt: skip
SCORES = {"allowed": 0.1, "refused": 0.9}
CONTENTS = {
    name: Content(hashlib.sha256(name.encode()).hexdigest(), "review") for name in ("allowed", "refused", "new")
}
VERDICTS = {
    CONTENTS["allowed"].image_id: replace(CONTENTS["allowed"], decision="allow"),
    CONTENTS["refused"].image_id: replace(CONTENTS["refused"], decision="block", reasons=("sure",)),
}
ANSWERS = [
    *(Answer(content) for content in CONTENTS.values()),
    Answer(Content("0" * 64, "", failure="decode")),
    Answer(failure="timeout"),
    Answer(CONTENTS["allowed"], failure="hash_mismatch"),
    Answer(deferred=True),
    Answer(blocked_reason="listed"),
    Answer(blocked_reason="lifted"),
]
HOPS = [(), ("http://a.example/",), ("http://a.example/", "http://listed.example/x"), tuple(reversed(REFUSED))]
FETCHES: dict[str, Fetch | None] = {
    f"url {number}": Fetch(answer, hops) for number, (answer, hops) in enumerate(product(ANSWERS, HOPS))
} | {"never asked": None}


def test_recorded_answers_are_what_the_model_recalls(spark: SparkSession, landing: Landing) -> None:
    config = load("conf/local.yaml")
    work = Work(
        spark, landing, config, POLICY, Versions("p", "m", "t", "r", "c"), "run", Progress("test"), dates=(DAY,)
    )
    work.overrides = Overrides(table_frame(spark, "overrides", []))
    landing.ensure_tables(["content_signals"])
    version = gate_version(config.policy)
    signals = [
        {"image_id": CONTENTS[name].image_id, "detector_version": version, "scores": {"nsfw:center": score},
         "run_id": "before"}
        for name, score in SCORES.items()
    ]  # fmt: skip
    landing.append("content_signals", signals)
    recorded = table_frame(
        spark,
        "fetches",
        [
            {
                "ingest_date": DAY,
                "url_id": name,
                "url": name,
                "hops": list(fetch.hops) or None,
                "failure_code": fetch.answer.failure or (fetch.answer.content and fetch.answer.content.failure) or None,
                "deferred": fetch.answer.deferred,
                "blocked_reason": fetch.answer.blocked_reason,
                "not_modified": False,
                "image_id": fetch.answer.content.image_id if fetch.answer.content else None,
                "run_id": "before",
            }
            for name, fetch in FETCHES.items()
            if fetch is not None
        ],
    )
    requests = frame(spark, "ingest_date date, url_id string", [(DAY, name) for name in FETCHES])
    found = {row.url_id: row for row in contents.recorded_answers(work, requests, recorded).collect()}
    assert found.keys() == FETCHES.keys()
    for name, fetch in FETCHES.items():
        want, row = recall(fetch, REFUSED, VERDICTS), found[name]
        content = want.content
        assert (row.deferred, row.blocked_reason) == (want.deferred, want.blocked_reason), (name, fetch)
        assert row.image_id == (content.image_id if content else None), (name, fetch)
        assert row.failure_code == (want.failure or (content.failure if content else None)), (name, fetch)
        if not (want.deferred or want.blocked_reason or row.failure_code):
            assert content is not None
            assert (row.decision, tuple(row.content_reasons)) == (content.decision, content.reasons), (name, fetch)


KNOWN = "ingest_date date, url_id string, image_id string"


def test_a_failed_embedding_is_remembered_where_it_happened_until_it_is_tried_again(spark: SparkSession) -> None:
    failed = {"outcome": "failed", "failure_code": "embed_error", "failure_detail": "no vector", "source_file": "f"}
    before = table_frame(
        spark,
        "sightings",
        [
            {**failed, "ingest_date": DAY, "row_number": number, "url_id": url, "image_id": image}
            for number, (url, image) in enumerate([("a", "x"), ("a", "x"), ("b", "y"), ("c", "z")])
        ],
    )
    # The same content at another URL and date came to something else; the third URL shows another content by now.
    answers = frame(
        spark, KNOWN, [(DAY, "a", "x"), (DAY, "b", "y"), (DAY, "c", "other"), (dt.date(2026, 2, 1), "d", "x")]
    )
    tried = frame(spark, "image_id string", [("y",)])
    assert contents.known_to_have_failed(before, answers, tried).collect() == [(DAY, "a", "no vector")]
    found = contents.failed_to_embed(answers, frame(spark, "image_id string, error string", [("x", "new")]))
    assert {tuple(row) for row in found.collect()} == {(DAY, "a", "new"), (dt.date(2026, 2, 1), "d", "new")}
