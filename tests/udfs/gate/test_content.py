"""The content gate: every row gets a verdict or a failure of its own, and never an admission by accident."""

import math
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pyspark import TaskContext

from jobs.config.profile import load, load_policy
from schemas.outcomes import Decision, FailureCode
from schemas.policy import Policy
from schemas.settings import AssetSettings, CrawlSettings, DetectorSettings, GateSettings, ImageSettings
from tests.pictures import encoded, photograph
from udfs.gate.content import GATE as GATE_COLUMNS
from udfs.gate.content import (
    Given,
    HangingImagesError,
    OwnDecoders,
    canonical_batches,
    canonical_row,
    decoders_of_task,
    gate_version,
    judge_batch,
    judge_batches,
    missing_signals,
)
from udfs.gate.detectors import GateDetector, Input, Scores
from udfs.gate.isolation import IsolatedDecoders
from udfs.gate.nsfw import detector_version
from udfs.gate.overrides import REVIEWER_BLOCKED, HumanVerdict, People
from udfs.gate.rules import ContentSignals, Verdict
from udfs.gate.views import View

GATE = load("conf/local.yaml").policy
POLICY = load_policy(GATE)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


class StandIn:
    """A detector with scores by the colour of the view's upper left pixel."""

    def __init__(self, scores: dict[tuple[int, int, int], float], label: str = "nsfw") -> None:
        self.scores, self.label = scores, label
        self.batches: list[int] = []

    def score(self, batch: Input) -> Scores:
        self.batches.append(len(batch))
        return np.array([[self.scores.get(tuple(map(int, pixel)), 0.0)] for pixel in batch], dtype=np.float32)

    def loaded(self) -> GateDetector:
        def prepare(view: View) -> Input:
            return np.array(view.image.getpixel((0, 0)), dtype=np.float32)

        return GateDetector((self.label,), prepare, self.score)


def png(colour: tuple[int, ...], mode: str = "RGB") -> bytes:
    return encoded(Image.new(mode, (64, 64), colour), "PNG")


def judged(detector: StandIn, *bodies: bytes | None, **settings: Any) -> list[dict[str, Any]]:
    return judged_by([detector], *bodies, **settings)


def judged_by(detectors: list[StandIn], *bodies: bytes | None, **settings: Any) -> list[dict[str, Any]]:
    gate = GATE.model_copy(update=settings)
    given = [Given(body, None, f"{index:064x}") for index, body in enumerate(bodies)]
    return judge_batch(POLICY, [one.loaded() for one in detectors], gate, CrawlSettings(), given, {})


def test_each_row_gets_its_own_verdict_in_order() -> None:
    rows = judged(StandIn({RED: 0.9, GREEN: 0.5}), png(RED), png(GREEN), png(BLUE))
    assert [row["decision"] for row in rows] == ["block", "review", "allow"]
    assert [row["reasons"] for row in rows] == [["nsfw"], ["nsfw_grey"], []]


def test_nothing_fetched_gives_no_decision_and_no_failure() -> None:
    nothing, something = judged(StandIn({}), None, png(BLUE))
    assert nothing["decision"] is None
    assert nothing["failure_code"] is None
    assert something["decision"] == "allow"


@pytest.mark.parametrize("score", [math.nan, math.inf, 1.5, -0.1])
def test_without_a_usable_score_the_gate_is_closed(score: float) -> None:
    broken, sound = judged(StandIn({RED: score}), png(RED), png(BLUE))
    assert broken["decision"] is None
    assert broken["scores"] is None
    assert (broken["failure_code"], broken["failure_detail"]) == ("gate_error", "no usable score: nsfw:center")
    assert sound["decision"] == "allow"


def test_a_score_that_no_rule_asks_for_must_be_usable_too() -> None:
    (row,) = judged_by([StandIn({}), StandIn({RED: math.nan}, "hands.weapon")], png(RED))
    assert (row["decision"], row["failure_detail"]) == (None, "no usable score: hands.weapon:center")


def test_without_any_detector_the_gate_is_closed() -> None:
    (row,) = judged_by([], png(BLUE))
    assert (row["decision"], row["failure_code"]) == (None, "gate_error")


def test_a_picture_that_cannot_be_decoded_fails_alone() -> None:
    truncated = encoded(photograph("coffee.png"))[:2000]
    rows = judged(StandIn({}), truncated, b"<html></html>", png(BLUE))
    assert [row["failure_code"] for row in rows] == [FailureCode.DECODE, FailureCode.BAD_TYPE, None]
    assert [row["decision"] for row in rows] == [None, None, "allow"]


def test_a_picture_that_breaks_the_detector_costs_no_other_its_score() -> None:
    class Poisoned(StandIn):
        def score(self, batch: Input) -> Scores:
            scores = super().score(batch)
            if (batch == RED).all(axis=1).any():
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return scores

    detector = Poisoned({GREEN: 0.9})
    rows = judged(detector, png(GREEN), png(RED), None, png(BLUE))
    assert [row["decision"] for row in rows] == ["block", None, None, "allow"]
    assert [row["failure_code"] for row in rows] == [None, "gate_error", None, None]
    assert "illegal memory access" in rows[1]["failure_detail"]
    assert detector.batches == [3, 1, 1, 1]


def test_a_picture_that_hangs_the_detector_times_out_alone() -> None:
    release = threading.Event()

    class Hanging(StandIn):
        def score(self, batch: Input) -> Scores:
            if (batch == RED).all(axis=1).any():
                release.wait(30)
            return super().score(batch)

    rows = judged(Hanging({GREEN: 0.9}), png(GREEN), png(RED), png(BLUE), timeout_s=0.3)
    release.set()
    assert [row["decision"] for row in rows] == ["block", None, "allow"]
    assert (rows[1]["failure_code"], rows[1]["failure_detail"]) == ("gate_error", "TimedOut: given up after 0.3 s")


def attempt(number: int) -> Any:
    """What stands for Spark's context of a task."""
    return SimpleNamespace(attemptNumber=lambda: number)


@pytest.mark.parametrize(("number", "isolates"), [(None, False), (0, False), (1, True), (3, True)])
def test_a_task_that_is_tried_again_decodes_in_children(
    monkeypatch: pytest.MonkeyPatch, number: int | None, isolates: bool
) -> None:
    monkeypatch.setattr(TaskContext, "get", lambda: None if number is None else attempt(number))
    decoders = decoders_of_task(60)
    assert decoders == IsolatedDecoders(180) if isolates else isinstance(decoders, OwnDecoders)


@pytest.mark.parametrize("number", [0, 1])
def test_pictures_that_hang_without_end_have_the_task_tried_again_once(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Else every other row of the process would fail with them."""
    monkeypatch.setattr(TaskContext, "get", lambda: attempt(number))
    monkeypatch.setattr("udfs.gate.content.is_full", lambda: True)
    monkeypatch.setattr("udfs.gate.content.load_detectors", lambda *_: [StandIn({}).loaded()])
    batch = (pd.Series([png(GREEN)]), pd.Series([None]), pd.Series(["a" * 64]))
    frames = judge_batches(iter([batch]), POLICY, GATE, CrawlSettings(), {})
    if number == 0:
        with pytest.raises(HangingImagesError):
            next(frames)
    else:
        assert list(next(frames)["decision"]) == ["allow"]


def test_whatever_a_rule_raises_closes_the_gate_for_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(_policy: Policy, signals: ContentSignals, _people: People) -> Verdict:
        if signals.image_id == f"{1:064x}":
            raise ZeroDivisionError("a fault of ours")
        return Verdict(Decision.ALLOW)

    monkeypatch.setattr("udfs.gate.content.judge_with_people", judge)
    rows = judged(StandIn({}), png(GREEN), png(RED), png(BLUE))
    assert [row["decision"] for row in rows] == ["allow", None, "allow"]
    assert (rows[1]["failure_code"], rows[1]["failure_detail"]) == ("gate_error", "ZeroDivisionError: a fault of ours")
    assert rows[1]["scores"] is None


def test_whatever_the_canonical_step_raises_is_a_failure_of_its_row() -> None:
    class Broken(OwnDecoders):
        canonicalise = staticmethod(lambda *_: 1 / 0)

    row = canonical_row(png(GREEN), None, ImageSettings(), CrawlSettings(), Broken())
    assert row == {"failure_code": "internal", "failure_detail": "ZeroDivisionError: division by zero"}


@pytest.mark.parametrize("decisions", [["allow", "block", None], ["block", None], ["allow"]])
def test_what_a_row_has_no_pixels_for_is_null_and_nothing_else(decisions: list[str | None]) -> None:
    """Of a batch without a list, pandas would make NaN: no list, which ends the task."""
    bodies = [png(GREEN) if decision else None for decision in decisions]
    series = tuple(pd.Series(values, dtype=object) for values in (bodies, [None] * len(decisions), decisions))
    (frame,) = canonical_batches(iter([series]), ImageSettings(), CrawlSettings(), GATE)
    for decision, row in zip(decisions, frame.to_dict("records"), strict=True):
        assert {name for name, value in row.items() if value is not None} == (
            set(row) - {"failure_code", "failure_detail"} if decision == "allow" else set()
        )


def test_many_views_are_scored_in_several_calls_and_none_is_lost() -> None:
    every_part = ("center", "squash", "corners", "tiles", "turned")
    detector = StandIn({RED: 0.9})
    rows = judged(detector, *[png(RED), png(BLUE)] * 8, views=every_part)
    assert [row["decision"] for row in rows] == ["block", "allow"] * 8
    assert {len(row["scores"]) for row in rows} == {13}
    assert detector.batches == [65, 65, 65, 13]


def test_the_worst_detector_view_is_kept_with_the_others_raw() -> None:
    (row,) = judged_by([StandIn({RED: 0.25}), StandIn({RED: 0.75}, "hands.weapon")], png(RED))
    assert row["scores"] == {"nsfw:center": 0.25, "hands.weapon:center": 0.75}


def test_hashes_are_kept_where_they_are_asked_for() -> None:
    body = encoded(photograph("coffee.png"), "PNG")
    (none,), (both,) = judged(StandIn({}), body), judged(StandIn({}), body, hashes=("phash256", "pdq"))
    assert (none["phash256s"], none["pdqs"], none["pdq_quality"]) == (None, None, None)
    assert (len(both["phash256s"]), len(both["pdqs"]), both["pdq_quality"]) == (256, 256, 100)


def test_the_columns_are_given_for_batches_of_any_size_with_the_real_detector() -> None:
    import pandas as pd

    photo = encoded(photograph("coffee.png"))
    bodies = pd.Series([photo, None, b"no picture", photo, photo], dtype=object)
    others = pd.Series([None] * 5, dtype=object)
    gate = GATE.model_copy(update={"batch_size": 2, "views": ("center", "squash")})
    (frame,) = judge_batches(iter([(bodies, others, others)]), POLICY, gate, CrawlSettings(), {})
    assert list(frame.columns) == [column.split()[0] for column in GATE_COLUMNS.split(", ")]
    assert list(frame["decision"]) == ["allow", None, None, "allow", "allow"]
    assert list(frame["failure_code"]) == [None, None, "bad_type", None, None]
    assert frame["scores"][0] == frame["scores"][3] == frame["scores"][4]
    assert frame["scores"][0].keys() == {"nsfw:center", "nsfw:squash"}


def test_people_are_heard() -> None:
    people = {"a" * 64: HumanVerdict(block=True, cleared=frozenset())}
    given = [Given(png(BLUE), None, "a" * 64), Given(png(BLUE), None, "b" * 64)]
    rows = judge_batch(POLICY, [StandIn({}).loaded()], GATE, CrawlSettings(), given, people)
    assert [(row["decision"], row["reasons"]) for row in rows] == [("block", [REVIEWER_BLOCKED]), ("allow", [])]


DETECTOR = DetectorSettings(
    name="hands",
    kind="onnx",
    weights=AssetSettings(path="hands.onnx", sha256="1" * 64),
    labels=("weapon", "none"),
    input_size=(8, 8),
)
OTHER_SIGNALS: list[dict[str, Any]] = [
    {"views": ("center",)},
    {"views": ("center", "plain", "squash")},
    {"frames": "first_middle_last"},
    {"matte": "white_and_black"},
    {"hashes": ("pdq",)},
    {"detectors": (DETECTOR,)},
    {"detectors": (DETECTOR.model_copy(update={"labels": ("none", "weapon")}),)},
    {"detector": AssetSettings(path="x", sha256="2" * 64)},
]


def test_the_version_is_the_detectors_own_by_default_and_another_for_every_setting_that_changes_a_signal() -> None:
    gate = GateSettings(file="policy.yaml", detector=GATE.detector)
    assert gate_version(gate) == detector_version(gate.detector)
    changed = [gate_version(gate.model_copy(update=change)) for change in OTHER_SIGNALS]
    assert len({gate_version(gate), *changed}) == len(changed) + 1
    assert gate_version(gate.model_copy(update={"views": gate.views[::-1]})) == gate_version(gate)


def test_the_version_does_not_follow_what_changes_no_signal() -> None:
    gate = GateSettings(file="policy.yaml", detector=GATE.detector, hashes=("pdq", "phash256"), detectors=(DETECTOR,))
    moved = DETECTOR.model_copy(update={"weights": AssetSettings(path="elsewhere.onnx", sha256="1" * 64)})
    same = {
        "file": "other.yaml",
        "batch_size": 2,
        "timeout_s": 5.0,
        "hashes": ("phash256", "pdq"),
        "views": ("plain", "center"),
        "detectors": (moved,),
        "detector": AssetSettings(path="elsewhere", sha256=GATE.detector.sha256),
    }
    assert gate_version(gate.model_copy(update=same)) == gate_version(gate)


def test_a_rule_on_a_signal_that_the_gate_does_not_make_is_named_with_it() -> None:
    shared = {"action": "block", "comment": "-", "reason": "listed"}
    text = {"words": ["gun"]}
    rules = [
        shared | {"id": "nsfw", "kind": "nsfw", "at_least": 0.8},
        shared | {"id": "known", "kind": "perceptual", "hash": "pdq", "hashes": ["0" * 64], "max_distance": 31},
        shared | {"id": "arms", "kind": "detector", "name": "hands", "label": "weapon", "at_least": 0.8},
        shared
        | {
            "id": "arms-text",
            "kind": "combined",
            "content": {"detector": "hands", "label": "arm", "at_least": 0.5},
            "text": text,
        },
        shared | {"id": "nsfw-text", "kind": "combined", "content": {"at_least": 0.5}, "text": text},
    ]
    policy = Policy.model_validate({"name": "strict", "rules": rules})
    assert missing_signals(policy, GATE) == [
        "rule known: expected its hash pdq among policy.hashes, found none",
        "rule arms: expected its score hands.weapon of policy.detectors, found nsfw",
        "rule arms-text: expected its score hands.arm of policy.detectors, found nsfw",
    ]
    gate = GATE.model_copy(update={"hashes": ("pdq",), "detectors": (DETECTOR,)})
    assert missing_signals(policy, gate) == [
        "rule arms-text: expected its score hands.arm of policy.detectors, found hands.none, hands.weapon, nsfw"
    ]
    assert missing_signals(POLICY, GATE) == []
