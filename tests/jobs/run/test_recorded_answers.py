"""Recorded answers by the policy of now, against the plain model."""

import datetime as dt
import hashlib
from dataclasses import replace
from itertools import product

import pytest
from pyspark.sql import SparkSession

from jobs.config.profile import load
from jobs.config.progress import Progress
from jobs.run import contents
from jobs.run.context import Work
from jobs.run.overrides import Overrides
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Versions
from schemas.policy import Policy
from tests.jobs.frames import frame, table_frame
from tests.model import Answer, Content, Fetch, recall
from udfs.gate.content import gate_version

pytestmark = pytest.mark.spark

DAY = dt.date(2026, 1, 31)
REFUSED = {"http://listed.example/x": "listed", "http://blocked.example/": "domain"}
POLICY = Policy.model_validate(
    {
        "name": "test",
        "rules": [
            {"id": "nsfw", "kind": "nsfw", "action": "block", "reason": "sure", "at_least": 0.8, "comment": "c"},
            {"id": "listed", "kind": "url", "action": "block", "reason": "listed", "comment": "c",
             "urls": ["http://listed.example/x"]},
            {"id": "domain", "kind": "domain", "action": "block", "reason": "domain", "comment": "c",
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


@pytest.fixture
def work(spark: SparkSession, landing: Landing) -> Work:
    versions = Versions("p", "g", "model", "t", "r", "c")
    made = Work(spark, landing, load("conf/local.yaml"), POLICY, versions, "run", Progress("test"), dates=(DAY,))
    made.overrides = Overrides(table_frame(spark, "overrides", []))
    return made


def test_recorded_answers_are_what_the_model_recalls(spark: SparkSession, work: Work) -> None:
    work.landing.ensure_tables(["content_signals"])
    version = gate_version(work.config.policy)
    signals = [
        {"image_id": CONTENTS[name].image_id, "detector_version": version, "scores": {"nsfw:center": score},
         "run_id": "before"}
        for name, score in SCORES.items()
    ]  # fmt: skip
    work.landing.append("content_signals", signals)
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


def test_a_failed_embedding_is_remembered_by_date_url_and_model_until_it_is_tried_again(
    spark: SparkSession, work: Work
) -> None:
    later = dt.date(2026, 2, 1)
    recorded = {
        # date, URL: content, what failed before and under which model, what is remembered afterwards
        (DAY, "a"): ("x", "before", "model", "before"),
        (later, "a"): ("x", None, None, None),  # the same content came to something else on another date
        (DAY, "b"): ("x", "before", "other model", None),
        (DAY, "c"): ("y", "before", "model", None),  # tried again, and well
        (DAY, "d"): ("z", None, None, "new"),
        (later, "d"): ("z", "before", "model", "new"),
    }
    fetches = table_frame(
        spark,
        "fetches",
        [
            {"ingest_date": date, "url_id": url, "url": url, "image_id": image, "embed_error": error,
             "embed_model": model, "deferred": False, "not_modified": False, "run_id": "before"}
            for (date, url), (image, error, model, _) in recorded.items()
        ],
    )  # fmt: skip
    requests = frame(spark, "ingest_date date, url_id string", list(recorded))
    failed = frame(spark, "image_id string, error string", [("z", "new")])
    tried = frame(spark, "image_id string", [("y",), ("z",), ("z",)])
    answers = contents.with_failures(contents.recorded_answers(work, requests, fetches), failed, tried)
    assert {(row.ingest_date, row.url_id): row.embed_error for row in answers.collect()} == {
        key: after for key, (*_, after) in recorded.items()
    }
    contents.record_failures(work, fetches, answers)
    changed = {(row.ingest_date, row.url_id): (row.embed_error, row.embed_model) for row in
               work.staged("embed_failures").collect()}  # fmt: skip
    assert changed == {(DAY, "c"): (None, None), (DAY, "d"): ("new", "model"), (later, "d"): ("new", "model")}
    (line,) = work.plan
    assert (line.table, line.rows, line.dates) == ("fetches", 3, ("2026-01-31", "2026-02-01"))
