"""The last line of a night."""

from jobs.run.lifecycle import summary
from jobs.warehouse.ledger import Event


def published(**counts: int) -> str:
    named = {name.replace("__", "."): count for name, count in counts.items()}
    return summary(Event("r", "nightly", "published", (), 1, counts=named))


def test_the_commonest_failures_are_told() -> None:
    outcomes = {"sightings": 30, "outcome__accepted": 8, "outcome__failed": 22}
    codes = {"failed__gone": 4, "failed__http_4xx": 12, "failed__dns": 2, "failed__timeout": 4}
    said = published(**outcomes, **codes)
    assert said == (
        "published run r: 30 sightings (8 accepted, 22 failed); failed: 12 http_4xx, 4 gone, 4 timeout, ..."
    )
    assert published(sightings=1, outcome__failed=1, failed__dns=1).endswith("(1 failed); failed: 1 dns")
    assert published(sightings=8, outcome__accepted=8).endswith("(8 accepted)")


def test_the_commonest_reasons_of_blocked_rows_are_told_before_the_failures() -> None:
    outcomes = {"sightings": 9, "outcome__blocked": 8, "outcome__failed": 1, "failed__dns": 1}
    reasons = {"blocked__nsfw": 5, "blocked__domain": 2, "blocked__licence": 2, "blocked__hash": 1}
    assert published(**outcomes, **reasons) == (
        "published run r: 9 sightings (8 blocked, 1 failed); blocked: 5 nsfw, 2 domain, 2 licence, ...; failed: 1 dns"
    )


def test_a_run_that_ends_no_rows_tells_none() -> None:
    assert published(changed__sightings=3) == "published run r: 3 sightings decided otherwise"
