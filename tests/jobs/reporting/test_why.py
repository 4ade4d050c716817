"""The whole story of a URL, an image, a row of the feed."""

import datetime as dt
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from jobs import why
from jobs.config.progress import log
from jobs.reporting import stories
from schemas.tables import PUBLISHED, TABLES, Column, Table
from tests.jobs.reporting.conftest import cluster_row, sighting_row
from tests.lensfeed.tiny_warehouse import DAY, TinyWarehouse, feed_row, image_id, image_row, member_row

NEXT_DAY = DAY + dt.timedelta(days=1)
URL = "https://pictures.example/a.jpg"
URL_ID = hashlib.sha256(URL.encode()).hexdigest()
MIRROR = "https://mirror.example/b.jpg"
AT = dt.datetime(2026, 2, 1, 3, 0, tzinfo=dt.UTC)


def fetch_row(url: str, date: dt.date, **given: Any) -> dict[str, Any]:
    """A row of `fetches`."""
    row = {
        "ingest_date": date,
        "url_id": hashlib.sha256(url.encode()).hexdigest(),
        "url": url,
        "status": 200,
        "final_url": url,
        "content_type": "image/jpeg",
        "robots_evidence": "allowed by line 3",
        "bytes": 12345,
        "attempts": 1,
        "redirects": 0,
        "fetched_at": AT,
        "duration_ms": 42.0,
        "deferred": False,
        "not_modified": False,
        "run_id": "run",
    }
    return row | given


def seen(url: str, number: int, date: dt.date = DAY, **given: Any) -> dict[str, Any]:
    """A sighting of `url`, which showed image `number`."""
    own = {
        "url": url,
        "url_id": hashlib.sha256(url.encode()).hexdigest(),
        "image_id": image_id(number),
        "ingest_date": date,
        "title": "A \u202etrap\x1b[2J",
        "host": url.split("/")[2],
    }
    return sighting_row(number) | own | given


@pytest.fixture
def known(tmp_path: Path) -> TinyWarehouse:
    """Image 1 is in the feed; image 2, at URL's second night, was held for review, cleared, and stands behind it."""
    warehouse = TinyWarehouse(tmp_path / "warehouse")
    hops = ["https://cdn.example/x.jpg", "https://cdn.example/y.jpg"]
    warehouse.write("sightings", [seen(MIRROR, 1), seen(URL, 1, row_number=7)])
    late = {"outcome": "review", "reasons": ["nsfw_grey"], "ingest_date": NEXT_DAY}
    warehouse.write("sightings", [seen(URL, 2, **late)])
    bad = {"url": "https://pictures.example:port/", "url_id": None, "host": None, "image_id": None}
    warehouse.write("sightings", [sighting_row(9, **bad, outcome="failed", failure_code="bad_row")])
    warehouse.write(
        "fetches",
        [fetch_row(URL, DAY, hops=hops, final_url="https://end.example/", redirects=3), fetch_row(URL, NEXT_DAY)],
    )
    warehouse.write(
        "content_signals",
        [
            {
                "image_id": image_id(n),
                "detector_version": "d" * 64,
                "scores": [("nsfw:center", 0.2 * n)],
                "run_id": "run",
            }
            for n in (1, 2)
        ],
    )
    decision = {"policy_version": "policy-1", "scores": None, "source": "automatic", "decided_at": AT, "run_id": "run"}
    subject = f"{NEXT_DAY}/a.jsonl/2"
    warehouse.write(
        "decisions",
        [
            decision | {"subject_kind": "image", "subject_id": image_id(1), "decision": "allow", "reasons": []},
            decision
            | {"subject_kind": "image", "subject_id": image_id(2), "decision": "review", "reasons": ["nsfw_grey"]},
            decision
            | {"subject_kind": "sighting", "subject_id": subject, "decision": "review", "reasons": ["nsfw_grey"]},
        ],
    )
    warehouse.write(
        "overrides",
        [
            {
                "subject_kind": "image",
                "subject_id": image_id(2),
                "verdict": "allow",
                "cleared": ["nsfw_grey"],
                "reviewer": "R. Viewer",
                "comment": "a statue",
                "decided_at": AT,
                "run_id": "run",
            }
        ],
    )
    state = {"row_number": 2, "source_file": "a.jsonl", "outcome": "review", "state_effect": "content"}
    warehouse.write(
        "url_state", [{"url_id": URL_ID, "ingest_date": NEXT_DAY, "image_id": image_id(2), "url": URL} | state]
    )
    warehouse.write("images", [image_row(1), image_row(2)])
    vector = {"model_version": "model-1", "vector": [1.0], "run_id": "run"}
    warehouse.write("embeddings", [{"image_id": image_id(1)} | vector])
    warehouse.write("clusters", [cluster_row(1, 1), cluster_row(1, 2)])
    warehouse.write("index_feed", [feed_row(1, tokens=[], title="the head", member_count=2)])
    warehouse.write("feed_members", [member_row(1, 1, MIRROR), member_row(1, 2, URL, hamming=1)])
    warehouse.write("feed_ids", [{"image_id": image_id(1), "feed_id": 1, "collided": False, "run_id": "run"}])
    warehouse.event("run", "published")
    return warehouse


def asked(warehouse: TinyWarehouse, what: str, *more: str) -> int:
    return why.main([what, "--profile", "conf/local.yaml", "--set", f"warehouse={warehouse.root}", *more])


def test_a_url_is_told_night_by_night_and_its_images_after_it(
    known: TinyWarehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(known, "HTTPS://Pictures.example:443/a.jpg#here") == 0
    told = capsys.readouterr().out
    first, second = told.index(f"Night of {DAY}"), told.index(f"Night of {NEXT_DAY}")
    for part, start, end in (
        ("a.jsonl row 7", first, second),
        ("allowed by line 3", first, second),
        ("status 200, image/jpeg, 12,345 bytes, 1 request, 42 ms, at 2026-02-01 03:00:00 UTC", first, second),
        ("hop            to https://cdn.example/x.jpg", first, second),
        ("ended at       https://end.example/", first, second),
        ("outcome        review", second, len(told)),
        ("nsfw-review (nsfw, review) gives nsfw_grey: Between", second, len(told)),
        (f"content since {NEXT_DAY}", second, len(told)),
        (f"{image_id(2)} behind {image_id(1)}, 1 of 64 bits apart", second, len(told)),
        ("nsfw:center 0.4000, gate dddddddddddd", second, len(told)),
        ("allow by R. Viewer, passing over nsfw_grey, a statue", second, len(told)),
        (f"behind {image_id(1)}, 1 of 64 bits apart, 10 of 256", second, len(told)),
        ('feed_id 1, "the head", 2 images', second, len(told)),
        ("As of run run, policy policy-1.", second, len(told)),
        ("this profile's policy, which is another", second, len(told)),
    ):
        assert part in told[start:end], part


def test_what_left_the_feed_says_with_which_run(known: TinyWarehouse, capsys: pytest.CaptureFixture[str]) -> None:
    known.event("next", "started")
    known.kill("index_feed", [1])
    known.event("next", "published")
    assert asked(known, "1") == 0
    told = capsys.readouterr().out
    assert "feed_id        1 was and stays its own" in told
    assert "left the feed  with run next (nightly), started 2026-02-01 03:02:00 UTC" in told
    assert asked(known, "1", "--json") == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert [row["run_id"] for row in image["left"]] == ["next"]


@pytest.mark.parametrize("what", [image_id(1), image_id(1).upper(), "1"])
def test_an_image_and_a_feed_id_lead_to_the_urls_that_showed_it(
    known: TinyWarehouse, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    assert asked(known, what, "--json") == 0
    story = json.loads(capsys.readouterr().out)
    assert sorted(url["url"] for url in story["urls"]) == [MIRROR, URL]
    (image,) = story["images"]
    assert image["image_id"] == image_id(1)
    assert [row["feed_id"] for row in image["feed"]] == [1]
    assert [row["url"] for row in image["members"]["rows"]] == [MIRROR, URL]
    assert "pixels" not in image["stored"][0]
    assert story["more_rows"] == 0


def test_a_url_id_is_told_as_its_url(known: TinyWarehouse, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(known, URL_ID, "--json") == 0
    story = json.loads(capsys.readouterr().out)
    assert [url["url"] for url in story["urls"]] == [URL]
    assert story["rules"]["nsfw_grey"][0]["id"] == "nsfw-review"


def test_a_row_without_a_usable_url_is_found_by_what_the_manifest_says(
    known: TinyWarehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(known, "https://pictures.example:port/") == 0
    told = capsys.readouterr().out
    assert "failed, bad_row: the manifest's row cannot be read" in told
    assert "none is recorded of that night" in told


def test_texts_from_the_web_control_no_terminal(known: TinyWarehouse, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ((), ("--json",)):
        assert asked(known, URL, *options) == 0
        told = capsys.readouterr().out
        assert not {"\x1b", "\u202e", "\r"} & set(told)
    assert "trap" in told


def test_passwords_are_not_repeated(
    known: TinyWarehouse, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[str] = []
    monkeypatch.setattr(log, "error", lambda form, *values: errors.append(form % values))
    assert asked(known, "https://me:secret@pictures.example/a.jpg") == 1
    assert "nothing is known of 'https://pictures.example/a.jpg'" in errors[0]
    assert "secret" not in errors[0] + capsys.readouterr().out


@pytest.mark.parametrize("what", ["0" * 64, "77", "99999999999999999999", "https://else.example/", "no URL", ""])
def test_what_is_not_known_is_said(known: TinyWarehouse, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    errors: list[str] = []
    monkeypatch.setattr(log, "error", lambda form, *values: errors.append(form % values))
    assert asked(known, what) == 1
    assert f"nothing is known of {what!r}" in errors[0]


@pytest.mark.parametrize(
    ("what", "urls"),
    [
        (image_id(1)[:8], [MIRROR, URL]),
        (image_id(2)[:40].upper(), [URL]),
        (URL_ID[:9], [URL]),
        ("mirror.example", [MIRROR]),
        ("b.jpg", [MIRROR]),
        ("example:po", ["https://pictures.example:port/"]),
    ],
)
def test_a_part_that_only_one_has_is_enough(
    known: TinyWarehouse, capsys: pytest.CaptureFixture[str], what: str, urls: list[str]
) -> None:
    assert asked(known, what, "--json") == 0
    assert sorted(url["url"] for url in json.loads(capsys.readouterr().out)["urls"]) == urls


def test_of_a_part_that_several_have_some_are_named(
    known: TinyWarehouse, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[str] = []
    monkeypatch.setattr(log, "error", lambda form, *values: errors.append(form % values))
    assert asked(known, ".jpg") == 1
    assert f"'.jpg' may mean 2: {MIRROR} (url_id " in errors[-1]
    assert f"; {URL} (url_id {URL_ID}). Ask for one of them" in errors[-1]
    known.write("sightings", [seen(f"https://h.example/{n:03}\u202e.jpg", 3, row_number=n) for n in range(50)])
    known.event("run-2", "published")
    assert asked(known, "h.example") == 1
    assert "may mean 50: https://h.example/000\ufffd.jpg" in errors[-1]
    assert "/009" in errors[-1]
    assert "/010" not in errors[-1]
    assert errors[-1].isprintable()
    monkeypatch.setattr(stories, "MOST_MEANT", 20)
    assert asked(known, "h.example") == 1
    assert "may mean more than 20: " in errors[-1]


def test_of_many_rows_the_newest_are_told_and_the_others_counted(
    known: TinyWarehouse, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stories, "MOST", 3)
    monkeypatch.setattr(stories, "MOST_URLS", 2)
    for number in range(30):
        known.write(
            "sightings",
            [seen(f"https://h{number}.example/", 1, row_number=100 + number), seen(URL, 1, row_number=200 + number)],
        )
    known.event("run-2", "published")
    assert asked(known, image_id(1), "--json") == 0
    story = json.loads(capsys.readouterr().out)
    assert [url["url"] for url in story["urls"]] == [MIRROR, URL]  # the first to show it
    url = story["urls"][1]
    assert url["sightings"]["of"] == 32
    assert [row["row_number"] for row in url["sightings"]["rows"]] == [228, 229, 2]
    assert story["images"][0]["sightings"] == 62
    assert story["more_rows"] == 62 - 1 - 2
    assert asked(known, image_id(1)) == 0
    assert "and 29 older sightings that are not told" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["\udcff", "https://pictures.example/\udcff.jpg", "\ud800" * 64])
def test_what_is_no_text_is_refused_as_such(known: TinyWarehouse, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """A URL out of a terminal, or a file, of another encoding."""
    errors: list[str] = []
    monkeypatch.setattr(log, "error", lambda form, *values: errors.append(form % values))
    assert asked(known, what) == 2
    assert errors[0].startswith("error: URL|IMAGE_ID|FEED_ID: expected text in UTF-8, found '")


def test_what_nothing_is_known_of_is_not_repeated_at_any_length(
    known: TinyWarehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[str] = []
    monkeypatch.setattr(log, "error", lambda form, *values: errors.append(form % values))
    for what in ("a" * 1_000_000, f"https://pictures.example/{'a' * 1_000_000}"):
        assert asked(known, what) == 1
    assert [len(error) < 1000 for error in errors] == [True, True]


def test_takedowns_that_name_any_of_it_are_told(
    known: TinyWarehouse, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = (
        Column("kind", "string", "of what"),
        Column("subject", "string", "what"),
        Column("max_distance", "int", "of hashes"),
    )
    monkeypatch.setitem(TABLES, "takedowns", Table("takedowns", "request", "request", ("kind", "subject"), columns))
    turned = [bytes([number]) * 32 for number in range(8)]
    known.write(
        "content_signals",
        [
            {
                "image_id": image_id(2),
                "detector_version": "e" * 64,
                "scores": [("nsfw:center", 0.1)],
                "pdqs": b"".join(turned),
                "run_id": "run",
            }
        ],
    )
    near = (turned[5][:-1] + b"\xf2").hex()  # 7 bits of the last byte differ
    requests = [
        ("url", URL, None),
        ("domain", "example", None),
        ("image", image_id(2), None),
        ("pdq", near, 7),
        ("url", MIRROR, None),
        ("domain", "ample", None),
        ("pdq", near.replace("f2", "f3"), 3),
        ("phash256", near, 63),
    ]
    known.write("takedowns", [dict(zip(("kind", "subject", "max_distance"), one, strict=True)) for one in requests])
    names = sorted({*PUBLISHED, "takedowns"})
    versions = [(name, len(list((known.root / name).glob("_delta_log/*.json"))) - 1) for name in names]
    known.event("run-2", "published", table_versions=versions)
    assert asked(known, URL, "--json") == 0
    found = json.loads(capsys.readouterr().out)["takedowns"]
    assert {(row["kind"], row["subject"], row["max_distance"]) for row in found} == set(requests[:4])
    assert asked(known, URL) == 0
    assert f"kind image, subject {image_id(2)}" in capsys.readouterr().out
