"""Every combination of a row's verdict and its URL's answer, against the plain model."""

import datetime as dt
import hashlib
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import Row as SparkRow

from jobs.stages.outcomes import decide_outcomes, decision_rows, judge_stored
from jobs.stages.pregate import PREGATED
from schemas.outcomes import FailureCode
from schemas.policy import Policy
from schemas.tables import SIGHTINGS
from tests.jobs.frames import frame, local_copy
from tests.model import Answer, Combined, Content, Row, sight
from udfs.gate.overrides import HumanVerdict

pytestmark = pytest.mark.spark

DAY = dt.date(2026, 1, 31)
ASKED = (
    "ingest_date date, url_id string, deferred boolean, blocked_reason string, not_modified boolean, image_id string, "
    "failure_code string, failure_detail string, decision string, content_reasons array<string>, "
    "content_halves array<string>, embed_error string"
)
NSFW = [
    {"id": "r1", "kind": "nsfw", "reason": "sure", "action": "block", "at_least": 0.8, "comment": "c"},
    {"id": "r2", "kind": "nsfw", "reason": "unsure", "action": "review", "at_least": 0.5, "comment": "c"},
]
BOTH = {"kind": "combined", "comment": "c", "content": {"detector": "nsfw", "at_least": 0.1}, "text": {"words": ["a"]}}
COMBINED = (Combined("both-review", "review", "both_grey"), Combined("both-block", "block", "both_sure"))
POLICY = Policy.model_validate(
    {
        "name": "test",
        "rules": [*NSFW, *({**BOTH, "id": c.id, "action": c.action, "reason": c.reason} for c in COMBINED)],
    }
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def content(name: str, decision: str, *reasons: str, **given: object) -> Answer:
    return Answer(replace(Content(digest(name), decision, reasons), **given))


NOT_OF_A_FETCH = {FailureCode.BAD_ROW, FailureCode.HASH_MISMATCH, FailureCode.EMBED_ERROR}
ANSWERS: dict[str, Answer] = {
    "allowed": content("allowed", "allow"),
    "allowed, half suspicious": content("half", "allow", halves=("both-review", "both-block")),
    "doubtful, half suspicious": content("doubtful half", "review", "nsfw_review", halves=("both-review",)),
    "without vector": content("without vector", "allow", has_vector=False),
    "doubtful": content("doubtful", "review", "nsfw_review"),
    "doubtful without vector": content("doubtful without vector", "review", "nsfw_review", has_vector=False),
    "refused": content("refused", "block", "nsfw_block", "blocklist"),
    "undecodable": content("undecodable", "", failure="decode"),
    "unscored": content("unscored", "", failure="gate_error"),
    "redirected to a blocked host": Answer(blocked_reason="domain_block"),
    "put off": Answer(deferred=True),
    **{f"failed {code}": Answer(failure=code) for code in FailureCode if code not in NOT_OF_A_FETCH},
}
VERDICTS = [
    ("allow", (), False),
    ("review", ("text_review",), False),
    ("review", ("text_review", "a_first"), True),
    ("block", ("text_block",), False),
    ("block", ("licence", "domain"), True),
]
PEOPLE: list[dict[str, Any]] = [
    {},
    {"halves": ("both-review",)},
    {"halves": ("both-review", "both-block"), "cleared": ("both_grey", "both_sure")},
    {"halves": ("both-review",), "cleared": ("both_grey",)},
    {"reviewer_block": True},
]


def cases() -> list[tuple[Row, str]]:
    """Rows and the name of their URL's answer."""
    found = []
    expectations = ("none", "empty", "same", "other")
    for number, (name, verdict, expected, said) in enumerate(product(ANSWERS, VERDICTS, expectations, PEOPLE)):
        answered = ANSWERS[name].content
        decision, reasons, withdraws = verdict
        same = answered.image_id.upper() if answered else None
        promised = {"none": None, "empty": "", "same": same, "other": "0" * 64}[expected]
        row = Row((DAY, "list.jsonl", number), name, decision, reasons, withdraws, expected_sha256=promised, **said)
        found.append((row, name))
    bad = Row((DAY, "bad.jsonl", 0), None, bad=True)
    return [*found, (bad, "nothing")]


def rows_frame(spark: SparkSession, rows: list[Row]) -> DataFrame:
    names = [part.split()[0] for part in PREGATED.split(", ")]
    values = [
        {
            "ingest_date": row.key[0],
            "source_file": row.key[1],
            "row_number": row.key[2],
            "url": row.url,
            "url_id": digest(row.url) if row.url else None,
            "host": "pictures.example" if row.url else None,
            "normalised_url": row.url,
            "bad_row": "url: missing" if row.bad else None,
            "decision": row.decision,
            "reasons": list(row.reasons),
            "withdraws": row.withdraws,
            "expected_sha256": row.expected_sha256,
            "halves": list(row.halves),
            "cleared": list(row.cleared),
            "reviewer_block": row.reviewer_block,
        }
        for row in rows
    ]
    return frame(spark, PREGATED, [[value.get(name) for name in names] for value in values])


def answers_frame(spark: SparkSession, answers: dict[str, Answer]) -> DataFrame:
    values = []
    for name, answer in answers.items():
        judged = answer.content if answer.content and not answer.content.failure else None
        failure = answer.content.failure if answer.content else answer.failure
        values.append(
            (
                DAY,
                digest(name),
                answer.deferred,
                answer.blocked_reason,
                name == "allowed",
                answer.content.image_id if answer.content else None,
                failure,
                f"detail of {failure}" if failure else None,
                judged.decision if judged else None,
                list(judged.reasons) if judged else None,
                list(judged.halves) if judged else None,
                "no vector" if answer.content and not answer.content.has_vector else None,
            )
        )
    return frame(spark, ASKED, values)


@pytest.fixture(scope="module")
def decided(spark: SparkSession) -> DataFrame:
    found = decide_outcomes(
        rows_frame(spark, [row for row, _ in cases()]),
        answers_frame(spark, ANSWERS),
        policy=POLICY,
        policy_version="policy",
        run_id="run",
    )
    return local_copy(found)


@pytest.fixture(scope="module")
def sightings(decided: DataFrame) -> dict[tuple[dt.date, str, int], SparkRow]:
    return {(row.ingest_date, row.source_file, row.row_number): row for row in decided.collect()}


def test_every_row_has_the_outcome_of_the_model(sightings: dict[tuple[dt.date, str, int], SparkRow]) -> None:
    assert len(sightings) == len(cases())
    for row, name in cases():
        want, found = sight(row, ANSWERS.get(name), COMBINED), sightings[row.key]
        assert (
            found.outcome,
            found.failure_code,
            tuple(found.reasons),
            found.image_id,
            found.state_effect,
        ) == (want.outcome, want.failure, want.reasons, want.image_id, want.effect), (row, name)


def test_failures_say_why_and_others_do_not(sightings: dict[tuple[dt.date, str, int], SparkRow]) -> None:
    for row, name in cases():
        found = sightings[row.key]
        assert (found.failure_detail is not None) == (found.outcome == "failed"), (row, name)
    details = {found.failure_code: found.failure_detail for found in sightings.values()}
    assert details["bad_row"] == "url: missing"
    assert details["embed_error"] == "no vector"
    assert details["hash_mismatch"] == f"expected {'0' * 64}"
    assert details["dns"] == "detail of dns"


def test_not_modified_is_a_flag_of_rows_that_were_asked_for(
    sightings: dict[tuple[dt.date, str, int], SparkRow],
) -> None:
    for row, name in cases():
        asked = not row.bad and row.decision != "block" and not row.reviewer_block and name == "allowed"
        assert sightings[row.key].not_modified is asked, (row, name)


def test_rows_satisfy_the_constraints_of_their_table(decided: DataFrame) -> None:
    assert decided.columns == list(SIGHTINGS.column_names)
    for name, condition in SIGHTINGS.constraints.items():
        assert decided.where(f"not ({condition})").isEmpty(), name
    for column in SIGHTINGS.columns:
        if not column.nullable:
            assert decided.where(f"{column.name} is null").isEmpty(), column.name


def test_a_url_without_a_verdict_or_an_answer_fails_as_internal(spark: SparkSession) -> None:
    rows = [Row((DAY, "f", 0), "no verdict"), Row((DAY, "f", 1), "no answer"), Row((DAY, "f", 2), "no fetch", "block")]
    nothing = answers_frame(spark, {"no verdict": Answer()})
    found = decide_outcomes(
        rows_frame(spark, rows),
        nothing,
        policy=POLICY,
        policy_version="policy",
        run_id="run",
    )
    outcomes = {row.row_number: (row.outcome, row.failure_code, row.state_effect) for row in found.collect()}
    assert outcomes == {
        0: ("failed", "internal", "none"),
        1: ("failed", "internal", "none"),
        2: ("blocked", None, "none"),
    }


def test_the_audit_log_names_contents_and_the_sightings_held_back(spark: SparkSession, decided: DataFrame) -> None:
    signals = frame(
        spark,
        "image_id string, decision string, content_reasons array<string>, scores map<string,double>",
        [
            ("a", "allow", None, {"nsfw:center": 0.1}),
            ("b", "block", ["nsfw"], {"nsfw:center": 0.9}),
            ("c", None, None, {}),
        ],
    )
    log = decision_rows(decided, signals, "policy", "run").collect()
    images = {row.subject_id: (row.decision, row.reasons, row.scores) for row in log if row.subject_kind == "image"}
    assert images == {"a": ("allow", [], {"nsfw:center": 0.1}), "b": ("block", ["nsfw"], {"nsfw:center": 0.9})}
    held = {row.subject_id: (row.decision, tuple(row.reasons)) for row in log if row.subject_kind == "sighting"}
    wanted = [sight(row, ANSWERS.get(name), COMBINED) for row, name in cases()]
    assert held == {
        f"{s.key[0]}/{s.key[1]}/{s.key[2]}": ({"blocked": "block", "review": "review"}[s.outcome], s.reasons)
        for s in wanted
        if s.outcome in {"blocked", "review"}
    }


def test_stored_signals_are_judged_by_the_policy_and_by_people(spark: SparkSession) -> None:
    policy = Policy.model_validate({"name": "test", "rules": NSFW})
    signals = frame(
        spark,
        "image_id string, scores map<string,double>, phash256s binary, pdqs binary, pdq_quality int",
        [
            *((str(score), {"nsfw:a": score, "nsfw:b": 0.1}, None, None, None) for score in (0.2, 0.6, 0.7, 0.9)),
            ("unscored", {"other:a": 0.1}, None, None, None),
        ],
    )
    people = {
        "0.7": HumanVerdict(block=False, cleared=frozenset({"unsure"})),
        "0.9": HumanVerdict(block=False, cleared=frozenset({"sure"})),
        "0.2": HumanVerdict(block=True, cleared=frozenset()),
    }
    found = judge_stored(signals, policy, people).collect()
    assert {row.image_id: (row.decision, row.content_reasons) for row in found} == {
        "0.2": ("block", ["reviewer_blocked"]),
        "0.6": ("review", ["unsure"]),
        "0.7": ("allow", []),
        "0.9": ("block", ["sure"]),
    }
