import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.policy import Policy

SHIPPED: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "conf/policy.yaml").read_text(encoding="utf-8"))


def version(data: dict[str, Any]) -> str:
    return Policy.model_validate(data).version


def with_rule(index: int, **fields: Any) -> dict[str, Any]:
    """The shipped policy with fields of one rule replaced."""
    rules = [rule | fields if number == index else rule for number, rule in enumerate(SHIPPED["rules"])]
    return SHIPPED | {"rules": rules}


@settings(deadline=None)
@given(st.integers(0, len(SHIPPED["rules"]) - 1), st.text(min_size=1))
def test_a_comment_does_not_change_the_version(index: int, comment: str) -> None:
    assert version(with_rule(index, comment=comment)) == version(SHIPPED)


@pytest.mark.parametrize(
    "changed",
    [
        SHIPPED | {"name": "other"},
        SHIPPED | {"rules": SHIPPED["rules"][1:]},
        SHIPPED | {"rules": [*SHIPPED["rules"][1:], SHIPPED["rules"][0]]},
        with_rule(0, id="another-id"),
        with_rule(0, action="review"),
        with_rule(0, reason="another_reason"),
        with_rule(0, missing="match"),
        with_rule(0, deny=[*SHIPPED["rules"][0]["deny"], "gfdl"]),
        with_rule(1, domains=["blocked.example"]),
        with_rule(2, words=["porn"]),
        with_rule(2, fields=["title"]),
        with_rule(4, at_least=0.81),
    ],
)
def test_anything_but_a_comment_changes_the_version(changed: dict[str, Any]) -> None:
    assert version(changed) != version(SHIPPED)


def test_the_version_is_the_same_in_every_process() -> None:
    fixed = {
        "name": "fixed",
        "rules": [
            {"id": "nsfw", "kind": "nsfw", "action": "block", "reason": "nsfw", "at_least": 0.5, "comment": "why"}
        ],
    }
    assert version(fixed) == "a8b086e496689834"


def test_spelling_out_a_default_does_not_change_the_version() -> None:
    assert version(with_rule(0, missing="allow")) == version(SHIPPED)
    assert version(with_rule(2, fields=["title", "alt_text", "description", "tags"])) == version(SHIPPED)


LISTS = {
    "name": "lists",
    "rules": [
        SHIPPED["rules"][4],
        {"id": "rule-1", "kind": "domain", "action": "block", "reason": "rr", "comment": "-",
         "domains": ["a.b", "c.d"]},
        {"id": "rule-2", "kind": "url", "action": "block", "reason": "rr", "comment": "-",
         "urls": ["http://a/", "http://b/"]},
        {"id": "rule-3", "kind": "sha256", "action": "block", "reason": "rr", "comment": "-",
         "hashes": ["ab" * 32, "0" * 64]},
        {"id": "rule-4", "kind": "perceptual", "hash": "pdq", "action": "block", "reason": "rr", "comment": "-",
         "hashes": ["12" * 32, "f" * 64], "max_distance": 31},
    ],
}  # fmt: skip
ENTRIES = [(1, "domains"), (2, "urls"), (3, "hashes"), (4, "hashes")]


def with_entries(index: int, name: str, entries: list[str]) -> dict[str, Any]:
    rules = [rule | {name: entries} if number == index else rule for number, rule in enumerate(LISTS["rules"])]
    return LISTS | {"rules": rules}


@pytest.mark.parametrize(("index", "name"), ENTRIES)
def test_the_version_goes_by_the_entries_of_a_list_and_not_by_their_order_or_repeats(index: int, name: str) -> None:
    entries = LISTS["rules"][index][name]
    same = version(with_entries(index, name, entries))
    assert version(with_entries(index, name, [entries[1], entries[0], entries[1]])) == same
    assert version(with_entries(index, name, entries[:1])) != same


def test_hashes_are_kept_packed_sorted_and_each_once_and_survive_the_way_to_an_executor() -> None:
    policy = Policy.model_validate(with_entries(3, "hashes", ["AB" * 32, "0" * 64, "ab" * 32]))
    rule = pickle.loads(pickle.dumps(policy)).rules[3]
    assert rule.hashes == bytes(32) + b"\xab" * 32


@pytest.mark.parametrize("name", ["label", "detector"])
def test_half_a_rule_names_either_nsfw_or_a_detector_with_its_label(name: str) -> None:
    half = {"at_least": 0.2, name: "hands"}
    rule = {"id": "both", "kind": "combined", "action": "review", "reason": "rr", "comment": "-",
            "content": half, "text": {"words": ["a"]}}  # fmt: skip
    with pytest.raises(ValidationError, match="label: expected one for every detector but nsfw"):
        version(SHIPPED | {"rules": [*SHIPPED["rules"], rule]})
