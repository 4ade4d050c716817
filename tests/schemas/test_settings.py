import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.settings import (
    AssetSettings,
    CrawlSettings,
    DedupSettings,
    DetectorSettings,
    EmbeddingSettings,
    Expectation,
    GateSettings,
    ImageSettings,
    Settings,
)

CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "max_hamming": st.integers(0, 8),
        "outer_bits": st.integers(0, 32),
        "outer_shades": st.integers(0, 8),
        "outer_hue_apart": st.integers(0, 180),
        "bands": st.integers(1, 50),
        "target_recall": st.floats(0.01, 0.99),
        "seed": st.integers(),
        "flat_below": st.floats(0, 10),
    },
)


@settings(deadline=None)
@given(CHANGES, CHANGES)
def test_digests_are_equal_exactly_where_settings_are(one: dict[str, float], other: dict[str, float]) -> None:
    first, second = DedupSettings.model_validate(one), DedupSettings.model_validate(other)
    assert (first.digest() == second.digest()) == (first.model_dump() == second.model_dump())


def test_a_digest_is_the_same_in_another_process() -> None:
    script = "from schemas.settings import CrawlSettings; print(CrawlSettings().digest())"
    printed = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == CrawlSettings().digest()


def test_what_decides_contents_is_looked_for_in_groups_within_groups() -> None:
    class Inner(Settings):
        operational = frozenset({"speed"})
        size: int = 1
        speed: int = 1

    class Outer(Settings):
        operational = frozenset({"unimportant"})
        inner: Inner = Inner()
        unimportant: Inner = Inner()
        name: str = "a"

    assert Outer().decisive() == {"inner": {"size": 1}, "name": "a"}


def test_what_decides_contents_is_looked_for_in_lists_of_groups() -> None:
    class Member(Settings):
        operational = frozenset({"speed"})
        size: int = 1
        speed: int = 1

    class Outer(Settings):
        members: tuple[Member, ...] = (Member(), Member(size=2, speed=9))
        sides: tuple[int, int] = (3, 4)

    assert Outer().decisive() == {"members": [{"size": 1}, {"size": 2}], "sides": [3, 4]}


WEIGHTS = AssetSettings(path="weights", sha256="0" * 64)
DETECTOR = {"name": "hands", "kind": "onnx", "weights": WEIGHTS, "labels": ("weapon",), "input_size": (8, 8)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "nsfw"}, "nsfw is open_nsfw's own name"),
        ({"name": "a.b"}, "should match pattern"),
        ({"kind": "timm"}, "model: expected for kind timm, and for no other; kind is timm"),
        ({"model": "resnet18"}, "model: expected for kind timm, and for no other; kind is onnx"),
        ({"labels": ()}, "at least 1 item"),
        ({"labels": ("a1", "a1")}, r"labels must differ, found \['a1', 'a1'\]"),
        ({"input_size": (0, 8)}, "greater than or equal to 1"),
    ],
)
def test_a_detector_that_cannot_be_meant_is_refused(changed: dict[str, object], message: str) -> None:
    assert DetectorSettings.model_validate(DETECTOR).labels == ("weapon",)
    with pytest.raises(ValidationError, match=message):
        DetectorSettings.model_validate(DETECTOR | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"views": ("plain", "squash")}, r"views: center must be among them, found \['plain', 'squash'\]"),
        ({"views": ("center", "center")}, "views must differ"),
        ({"views": ("centre",)}, "Input should be 'center'"),
        ({"hashes": ("pdq", "pdq")}, "hashes must differ"),
        ({"detectors": (DETECTOR, DETECTOR)}, r"detectors must differ, found \['hands', 'hands'\]"),
        ({"timeout_s": 0}, "greater than 0"),
    ],
)
def test_a_gate_that_cannot_be_meant_is_refused(changed: dict[str, object], message: str) -> None:
    gate = {"file": "policy.yaml", "detector": WEIGHTS}
    assert GateSettings.model_validate(gate).views == ("center", "plain")
    with pytest.raises(ValidationError, match=message):
        GateSettings.model_validate(gate | changed)


EMBEDDING = {"weights": WEIGHTS, "licence": "Apache-2.0"}


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (CrawlSettings, {"deadline_s": float("inf")}, "finite number"),
        (CrawlSettings, {"backoff_s": 10**400}, "number"),
        (DedupSettings, {"flat_below": float("nan")}, "finite number"),
        (EmbeddingSettings, EMBEDDING | {"mean": (float("nan"), 0, 0)}, "finite number"),
        (EmbeddingSettings, EMBEDDING | {"std": (0, 1, 1)}, "greater than 0"),
        (EmbeddingSettings, EMBEDDING | {"input_size": (0, 224)}, "greater than or equal to 1"),
        (DetectorSettings, DETECTOR | {"std": (1, 1, 0)}, "greater than 0"),
        (ImageSettings, {"max_side": 64, "min_side": 65}, "min_side must be at most max_side, 64, not 65"),
        (
            Expectation,
            {"name": "a", "counts": ("sightings",), "at_least": 2, "at_most": 1},
            "at_least 2 is more than at_most 1",
        ),
    ],
)
def test_numbers_by_which_nothing_can_come_out_are_refused(
    model: type[Settings], given: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        model.model_validate(given)


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (DedupSettings, {"max_hue_apart": False}),
        (CrawlSettings, {"retries": True}),
        (CrawlSettings, {"deadline_s": True}),
        (EmbeddingSettings, EMBEDDING | {"mean": [True, 0, 0]}),
    ],
)
def test_a_flag_is_no_number(model: type[Settings], given: dict[str, object]) -> None:
    """`max_hue_apart: off` in YAML would be 0, the strictest of all, where 180 was meant."""
    with pytest.raises(ValidationError, match="expected a number, not a flag"):
        model.model_validate(given)
    assert CrawlSettings.model_validate({"obey_robots": False}).obey_robots is False


def test_unknown_settings_are_refused_and_known_ones_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        ImageSettings.model_validate({"max_sides": 512})
    with pytest.raises(ValidationError, match="frozen"):
        ImageSettings().max_side = 9  # type: ignore[misc]


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "a" * 65, "g" * 64, "a" * 64 + "\n"])
def test_an_asset_is_pinned_by_64_lower_case_hexadecimal_digits(digest: str) -> None:
    with pytest.raises(ValidationError):
        AssetSettings(path="x", sha256=digest)


@pytest.mark.parametrize(
    ("agent", "token"),
    [
        ("lensfeed/0.1 (+https://example.org/bot)", "lensfeed"),
        ("LensFeed-Bot/2", "lensfeed-bot"),
        ("lensfeed", "lensfeed"),
        ("lensfeed (contact)", "lensfeed"),
    ],
)
def test_the_agent_token_is_the_product_in_lower_case(agent: str, token: str) -> None:
    assert CrawlSettings(user_agent=agent).agent_token == token


@pytest.mark.parametrize(
    "agent", ["", "  ", "Mozilla (compatible)\r\nX-Evil: 1", "münchen/1", "/1.0 name", "(comment)"]
)
def test_a_user_agent_that_is_no_product_or_would_break_the_header_is_refused(agent: str) -> None:
    with pytest.raises(ValidationError):
        CrawlSettings(user_agent=agent)


def test_a_task_must_be_allowed_to_hold_two_bodies() -> None:
    CrawlSettings(max_bytes=2**20, max_pending_bytes=2**21)
    with pytest.raises(ValidationError, match="twice max_bytes"):
        CrawlSettings(max_bytes=2**20, max_pending_bytes=2**21 - 1)


@pytest.mark.parametrize("network", ["localhost", "127.0.0.1/33", "127.0.0.1/8"])
def test_networks_that_are_none_are_refused(network: str) -> None:
    with pytest.raises(ValidationError):
        CrawlSettings(allowed_networks=(network,))


@pytest.mark.parametrize(
    ("views", "error"),
    [(["inner5"], "whole must be among them"), (["whole", "whole"], "must differ"), (["half"], "half")],
)
def test_views_of_the_dedup_rule_are_known_ones_the_whole_among_them(views: list[str], error: str) -> None:
    with pytest.raises(ValidationError, match=error):
        DedupSettings.model_validate({"views": views})


def test_the_outer_distance_goes_with_the_inner_one() -> None:
    assert DedupSettings().outer_hamming == 8
    assert DedupSettings(max_hamming=9).outer_hamming == 11
    assert DedupSettings(max_hamming=9, outer_bits=0).outer_hamming == 9


def test_what_makes_an_outer_edge_decides_and_the_recall_does_not() -> None:
    decisive = DedupSettings().decisive()
    assert {"outer_bits", "outer_shades", "outer_hue_apart"} <= decisive.keys()
    assert "target_recall" not in decisive
