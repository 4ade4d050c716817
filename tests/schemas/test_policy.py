from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

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
