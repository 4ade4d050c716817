"""The content gate: every row gets a verdict or a failure of its own, and never an admission by accident."""

import io
from collections.abc import Sequence

import pytest
from PIL import Image

from jobs.config import load, load_policy
from schemas.outcomes import FailureCode
from schemas.settings import CrawlSettings
from tests.pictures import photograph
from udfs.gate import judge_batch

POLICY = load_policy(load("conf/local.yaml").policy)


class StandIn:
    """A detector with scores by the colour of the upper left pixel; None where it fails."""

    def __init__(self, scores: dict[tuple[int, int, int], float | None], otherwise: float = 0.0) -> None:
        self.scores, self.otherwise = scores, otherwise

    def score_each(self, images: Sequence[Image.Image]) -> list[float | None]:
        return [self.scores.get(image.getpixel((0, 0)), self.otherwise) for image in images]  # type: ignore[arg-type]


def png(colour: tuple[int, ...], mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (64, 64), colour).save(file, "PNG")
    return file.getvalue()


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def judged(detector: StandIn, *bodies: bytes | None) -> list[dict[str, object]]:
    return judge_batch(POLICY, detector, CrawlSettings(), [(body, None) for body in bodies])  # type: ignore[arg-type]


def test_each_row_gets_its_own_verdict_in_order() -> None:
    rows = judged(StandIn({RED: 0.9, GREEN: 0.5}), png(RED), png(GREEN), png(BLUE))
    assert [row["decision"] for row in rows] == ["block", "review", "allow"]
    assert [row["reasons"] for row in rows] == [["nsfw"], ["nsfw_grey"], []]


def test_nothing_fetched_gives_no_decision_and_no_failure() -> None:
    (row,) = judged(StandIn({}), None)
    assert row["decision"] is None
    assert row["failure_code"] is None


@pytest.mark.parametrize("score", [None, float("nan"), 1.5, -0.1])
def test_without_a_usable_score_the_gate_is_closed(score: float | None) -> None:
    broken, sound = judged(StandIn({RED: score}), png(RED), png(BLUE))
    assert broken["decision"] is None
    assert broken["failure_code"] == FailureCode.GATE_ERROR
    assert sound["decision"] == "allow"


def test_a_picture_that_cannot_be_decoded_fails_alone() -> None:
    truncated = io.BytesIO()
    photograph("coffee.png").save(truncated, "JPEG")
    rows = judged(StandIn({}), truncated.getvalue()[:2000], b"<html></html>", png(BLUE))
    assert [row["failure_code"] for row in rows] == [FailureCode.DECODE, FailureCode.BAD_TYPE, None]
    assert [row["decision"] for row in rows] == [None, None, "allow"]


def test_what_transparency_hides_is_judged_too() -> None:
    (row,) = judged(StandIn({RED: 0.9}), png((*RED, 0), "RGBA"))
    assert row["decision"] == "block"
    assert set(row["scores"]) == {"nsfw:center", "nsfw:plain"}  # type: ignore[call-overload]


def test_an_ordinary_picture_has_one_view() -> None:
    (row,) = judged(StandIn({}), png(BLUE))
    assert row["scores"] == {"nsfw:center": 0.0}
