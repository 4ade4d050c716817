"""What is read for a report, and what it comes to."""

import time

import numpy as np
import pytest

from jobs.config.profile import load, load_policy
from jobs.config.texts import plain
from jobs.reporting.gathering import Band, Looked, bands_of, opened_up, principal_plane
from jobs.reporting.pages import coded, in_bytes, took
from lensfeed.snapshot import Portion
from schemas.policy import NsfwRule, Policy


def nsfw(number: int, action: str, at_least: float) -> NsfwRule:
    return NsfwRule(
        id=f"rule-{number}",
        kind="nsfw",
        action=action,
        reason="nsfw",
        comment="why",
        at_least=at_least,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("rules", "bands"),
    [
        ([("block", 0.8)], [(0, 0.8, "allow"), (0.8, 1, "block")]),
        ([("block", 0.8), ("review", 0.35)], [(0, 0.35, "allow"), (0.35, 0.8, "review"), (0.8, 1, "block")]),
        ([("block", 0.3), ("review", 0.5)], [(0, 0.3, "allow"), (0.3, 1, "block")]),
        ([("review", 0.8), ("block", 0.8)], [(0, 0.8, "allow"), (0.8, 1, "block")]),
        (
            [("review", 0.2), ("review", 0.4), ("block", 0.9)],
            [(0, 0.2, "allow"), (0.2, 0.9, "review"), (0.9, 1, "block")],
        ),
        ([("block", 0.0)], [(0, 1, "block")]),
    ],
)
def test_bands_are_what_the_strictest_rule_makes_of_a_score(
    rules: list[tuple[str, float]], bands: list[tuple[float, float, str]]
) -> None:
    policy = Policy(name="p", rules=tuple(nsfw(number, *rule) for number, rule in enumerate(rules)))
    assert bands_of(policy) == [Band(*band) for band in bands]


def test_the_shipped_policy_has_three_bands() -> None:
    policy = load_policy(load("conf/local.yaml").policy)
    assert [band.action for band in bands_of(policy)] == ["allow", "review", "block"]


def test_the_plane_keeps_the_two_directions_that_vary_most() -> None:
    rng = np.random.default_rng(3)
    varying = rng.normal(size=(200, 3)) * [10, 4, 0.1]
    turned = varying @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    places, explained = principal_plane(turned.astype(np.float32))
    assert explained > 0.999
    assert abs(np.corrcoef(places[:, 0], varying[:, 0])[0, 1]) > 0.99
    assert abs(np.corrcoef(places[:, 1], varying[:, 1])[0, 1]) > 0.99
    assert places.min() == 0
    assert places.max() == 1


def test_the_plane_is_the_same_whether_there_are_more_vectors_or_more_dimensions() -> None:
    vectors = np.random.default_rng(4).normal(size=(12, 12)).astype(np.float32)
    few, _ = principal_plane(vectors)
    padded, _ = principal_plane(np.pad(vectors, ((0, 0), (0, 30))))
    np.testing.assert_allclose(few, padded, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 0), (0, 8), (1, 8), (2, 8), (5, 1)])
def test_few_vectors_have_a_place_too(shape: tuple[int, int]) -> None:
    places, explained = principal_plane(np.ones(shape, np.float32))
    assert places.shape == (shape[0], 2)
    assert np.isfinite(places).all()
    assert explained == 0


def test_opening_up_keeps_the_order_and_the_bounds() -> None:
    places = np.random.default_rng(5).beta(0.1, 5, size=(50, 2))
    opened = opened_up(places)
    np.testing.assert_array_equal(places.argsort(axis=0), opened.argsort(axis=0))
    assert opened.min() >= 0
    assert opened.max() <= 1


def test_what_was_read_is_told_with_what_there_was() -> None:
    some = Portion("images", frozenset({"a", "b"}), 1200, 5, 10, 900, 1_000_000)
    assert str(Looked(some, 900)) == "900 of 1,000,000 rows of images: the newest 2 of 1,200 files"
    assert str(Looked(Portion("images", frozenset("a"), 1, 5, 5, 7, 7), 7)) == "all 7 rows of images"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, ""),
        ("  two\n\tlines ", "two lines"),
        ("abc\u202etxt.exe", "abc\ufffdtxt.exe"),
        ("a\x00b\x1b[0m\ufeff", "a\ufffdb\ufffd[0m\ufffd"),
        ("می\u200cروم", "می\u200cروم"),
        ("x" * 200, "x" * 159 + "…"),
    ],
)
def test_a_text_is_shown_on_one_line_with_a_sign_for_what_is_invisible(text: str | None, shown: str) -> None:
    assert plain(text) == shown


def test_a_text_of_megabytes_costs_no_more_than_what_is_shown_of_it() -> None:
    text = "\u202eword \x00" * 1_000_000
    begun = time.process_time()
    assert plain(text, 9) == "\ufffdword \ufffd\ufffd…"
    assert time.process_time() - begun < 0.7


def test_code_in_our_texts_is_marked_and_the_rest_escaped() -> None:
    assert str(coded("`a<b` & c")) == "<code>a&lt;b</code> &amp; c"


def test_sizes_and_durations_are_told_in_a_unit_that_fits() -> None:
    assert [in_bytes(n) for n in (0, 999, 1000, 15_300_000, 2.5e12)] == ["0 B", "999 B", "1.0 kB", "15.3 MB", "2.5 TB"]
    assert [took(s) for s in (0.04, 119.94, 120, 7199, 7200, 90_000)] == [
        "0.0 s",
        "119.9 s",
        "2 min 00 s",
        "119 min 59 s",
        "2 h 00 min",
        "25 h 00 min",
    ]
