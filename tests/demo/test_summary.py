"""The summary counts what it says it counts."""

import datetime as dt
from typing import Any

from demo.manifests import Key
from demo.pictures import HARD_VARIANTS, ORIGINAL, VARIANTS, Picture
from demo.site import Truth
from demo.summary import funnel, image_id, planted_copies, planted_text, speed, table, unexpected
from schemas.outcomes import FailureCode, Outcome

DATE = dt.date(2026, 1, 29)


def own_clusters(pictures: tuple[Picture, ...]) -> dict[str, str]:
    """Every image in the cluster that its original heads: what a perfect rule would give."""
    ids = {picture.name: image_id(picture) for picture in pictures}
    return {ids[picture.name]: ids[picture.original] for picture in pictures}


def sighting(number: int, outcome: str, code: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "ingest_date": DATE,
        "source_file": "a.jsonl",
        "row_number": number,
        "outcome": outcome,
        "failure_code": code,
        "failure_detail": None,
        "reasons": [],
        "image_id": None,
    } | more


def test_columns_are_aligned() -> None:
    lines = table(("name", "rows"), [("a", 1), ("longer", 1000)]).split("\n")
    assert lines == ["  name    rows", "  a          1", "  longer  1000"]


def test_perfect_clusters_find_every_copy_and_merge_nothing(pictures: tuple[Picture, ...]) -> None:
    planted = planted_copies(own_clusters(pictures), pictures)
    assert planted.recall == 1
    assert planted.live == planted.found
    assert sum(planted.live.values()) == sum(picture.variant != ORIGINAL for picture in pictures)
    assert planted.false_merges == ()


def test_a_copy_left_alone_lowers_the_recall_of_its_kind_only(pictures: tuple[Picture, ...]) -> None:
    clusters = own_clusters(pictures)
    lost = next(picture for picture in pictures if picture.variant == "grey")
    clusters[image_id(lost)] = image_id(lost)
    planted = planted_copies(clusters, pictures)
    assert [kind for kind in VARIANTS if planted.found[kind] < planted.live[kind]] == ["grey"]
    pairs = sum(planted.live[kind] for kind in VARIANTS.keys() - HARD_VARIANTS)
    assert planted.recall == (pairs - 1) / pairs
    assert f"grey {planted.found['grey']}/{planted.live['grey']}" in planted_text(planted)


def test_hard_variants_are_no_part_of_the_recall(pictures: tuple[Picture, ...]) -> None:
    clusters = own_clusters(pictures)
    for picture in pictures:
        if picture.variant in HARD_VARIANTS:
            clusters[image_id(picture)] = image_id(picture)
    assert planted_copies(clusters, pictures).recall == 1


def test_pairs_of_which_one_is_not_live_are_not_counted(pictures: tuple[Picture, ...]) -> None:
    clusters = own_clusters(pictures)
    copied = next(picture for picture in pictures if picture.variant == "half")
    del clusters[image_id(copied)]
    planted = planted_copies(clusters, pictures)
    assert planted.live["half"] == sum(picture.variant == "half" for picture in pictures) - 1
    assert planted.recall == 1


def test_two_tiles_in_one_cluster_are_a_false_merge(pictures: tuple[Picture, ...]) -> None:
    clusters = own_clusters(pictures)
    a, b = [picture for picture in pictures if picture.variant == ORIGINAL][:2]
    clusters[image_id(b)] = image_id(a)
    planted = planted_copies(clusters, pictures)
    assert planted.false_merges == ((b.name, a.name),)
    assert f"{b.name} with {a.name}" in planted_text(planted)


def test_the_funnel_counts_rows_by_date_and_names_causes() -> None:
    rows = [
        sighting(0, "accepted"),
        sighting(1, "failed", "gone"),
        sighting(2, "failed", "gone"),
        sighting(3, "blocked", reasons=["text_explicit"]),
    ]
    text = funnel([*rows, sighting(0, "accepted", ingest_date=dt.date(2026, 1, 30))])
    assert "2026-01-29     4         1       0        1       2         0" in text
    assert "2026-01-29: gone 2, text_explicit 1" in text
    assert "2026-01-30: none" in text


def test_rows_that_ended_otherwise_than_planned_are_named(pictures: tuple[Picture, ...]) -> None:
    one, other = pictures[:2]
    truths: dict[Key, Truth] = {
        (DATE, "a.jsonl", 0): Truth(Outcome.ACCEPTED, picture=one.name),
        (DATE, "a.jsonl", 1): Truth(Outcome.ACCEPTED, picture=one.name),
        (DATE, "a.jsonl", 2): Truth(Outcome.FAILED, FailureCode.GONE),
        (DATE, "a.jsonl", 3): Truth(Outcome.REVIEW, reasons=("text_sensitive",)),
    }
    found = [
        sighting(0, "accepted", image_id=image_id(one)),
        sighting(1, "accepted", image_id=image_id(other)),
        sighting(2, "failed", "timeout", failure_detail="no answer"),
        sighting(4, "accepted", image_id=image_id(one)),
    ]
    assert unexpected(found, truths, pictures) == [
        "2026-01-29/a.jsonl/3: no sighting",
        "2026-01-29/a.jsonl/4: a sighting of no row",
        f"2026-01-29/a.jsonl/1: expected the bytes of {one.name}, found other bytes",
        "2026-01-29/a.jsonl/2: expected failed gone, found failed timeout (no answer)",
    ]


def test_speed_divides_what_a_stage_worked_on_by_its_seconds() -> None:
    run = {
        "ingest_dates": [DATE],
        "counts": {"sightings": 100, "urls": 80, "embedded": 40, "outcome.accepted": 60},
        "metrics": {"seconds.embed": 10.0, "seconds.crawl and gate": 4.0, "seconds.dedup": 5.0, "other": 1.0},
    }
    lines = {line.rsplit(maxsplit=4)[0].strip(): line.split()[-4:] for line in speed([run, run]).split("\n")[2:]}
    assert lines["crawl and gate"] == ["4.0", "4.0", "160", "20.0"]
    assert lines["embed"] == ["10.0", "10.0", "80", "4.0"]
    assert lines["dedup"] == ["5.0", "5.0", "120", "12.0"]
    assert list(lines)[:3] == ["manifest and pre-gate", "golden vectors", "crawl and gate"]
