"""Two versions of one thing never mix; what to do about it depends on which differ."""

from dataclasses import asdict, replace

import pytest

from jobs.config.errors import UsageError
from jobs.run.lifecycle import check_versions
from jobs.warehouse.ledger import Event, Versions

VERSIONS = Versions("policy", "gate", "model", "text model", "rule", "canonical", "alignment")
PUBLISHED = Event("run", "nightly", "published", (), 1, **asdict(VERSIONS))


@pytest.mark.parametrize(
    ("differing", "told"),
    [
        (["policy_version"], r"under another policy \(policy_version policy -> new\): run python -m jobs.redecide"),
        (["gate_version"], r"under other detectors \(gate_version gate -> new\): run python -m jobs.redecide"),
        (["policy_version", "gate_version"], r"under another policy and other detectors \(policy_version .*; gate_"),
        (
            ["model_version"],
            r"under another embedding model \(model_version model -> new\): run python -m jobs.reembed",
        ),
        (
            ["model_version", "alignment_version"],
            "another embedding model and alignment .*: run python -m jobs.reembed",
        ),
        (["rule_version"], r"under other dedup settings \(rule_version rule -> new\): run python -m jobs.rededup"),
        (["canonical_version"], r"other settings than these \(canonical_version canonical -> new\): go back"),
        (["policy_version", "rule_version"], "other settings than these .*: go back"),
    ],
)
def test_what_differs_is_named_with_what_to_do(differing: list[str], told: str) -> None:
    now = replace(VERSIONS, **dict.fromkeys(differing, "new"))
    with pytest.raises(UsageError, match=told):
        check_versions(PUBLISHED, now)
    check_versions(PUBLISHED, now, tuple(differing))


def test_nothing_differs_from_the_same_nor_from_nothing() -> None:
    check_versions(PUBLISHED, VERSIONS)
    check_versions(None, VERSIONS)
