"""Why two images are, or are not, in one cluster: by the rule, by its words, and what is refused."""

import datetime as dt
import json
import random
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from jobs import dedup
from jobs.config.progress import log
from jobs.reporting import pairs
from jobs.reporting.pairs import compare, explain
from jobs.reporting.telling_pairs import told
from lensfeed.snapshot import Snapshot
from schemas.settings import HASHED_VIEWS, DedupSettings, HashedView
from tests.lensfeed.tiny_warehouse import DAY, TinyWarehouse, image_id, image_row
from tests.model import Content, Hash, clusters, hash_bytes, stored_hashes, verified
from tests.pictures import photograph
from udfs.images.minhash import band_keys, signatures
from udfs.images.phash import ViewHash, hash_small, rule_version

SETTINGS = DedupSettings()
CANONICAL = "canonical-1"
NEVER = "not by this rule"
A, B, C = (image_id(number) for number in range(3))


def row_of(picture: Image.Image, **given: Any) -> dict[str, Any]:
    """What `image_hashes`, `clusters` and `images` are made of, of a picture."""
    hashes = hash_small(picture.convert("YCbCr"))
    row = {
        "hashes": list(hashes.view_hashes),
        "flat": hashes.flatness < SETTINGS.flat_below,
        "flatness": hashes.flatness,
        "sharpness": 50.0,
        "phash64": hashes.phash64,
        "phash256": hashes.phash256,
        "first_seen": DAY,
        "source_pixels": 1000,
    }
    return row | given


def made_up(*hashes: bytes, **given: Any) -> dict[str, Any]:
    """The same of an image with these hashes."""
    one = ViewHash.of(hashes[0])
    row = {"hashes": list(hashes), "flat": False, "flatness": 40.0, "sharpness": 50.0, "first_seen": DAY}
    return row | {"source_pixels": 1000, "phash64": one.phash64, "phash256": one.phash256} | given


def hashed(near: int, far: int, view: int = 0, hue: int = 0, shades: int = 0) -> bytes:
    """A hash as it is stored."""
    return hash_bytes(Hash(near, far, view, hue, shades))


def flipped(value: int, bits: int, count: int, chance: random.Random) -> int:
    """`value` at Hamming distance `count`."""
    for position in chance.sample(range(bits), count):
        value ^= 1 << position
    return value


def content_of(row: Mapping[str, Any]) -> Content:
    """What the plain model knows of an image."""
    hashes = stored_hashes(row["hashes"])
    return Content("", "allow", hashes=hashes, flat=row["flat"], source_pixels=row["source_pixels"])


def published(
    root: Path,
    images: Mapping[str, dict[str, Any]],
    settings: DedupSettings = SETTINGS,
    standing: Mapping[str, str] = MappingProxyType({}),
) -> TinyWarehouse:
    """A warehouse of live images, in clusters by the plain model, or as `standing` says of them by their ids."""
    contents = {one: content_of(row) for one, row in images.items()}
    dates = {one: row["first_seen"] for one, row in images.items()}
    heads = clusters(dates, contents, settings) | dict(standing)
    warehouse = TinyWarehouse(root)
    rule = rule_version(settings, CANONICAL)
    groups = {one: repr(row["hashes"]) if not row["flat"] else one for one, row in images.items()}
    numbers = {group: f"{number:032x}" for number, group in enumerate(dict.fromkeys(groups.values()))}
    columns = ("hashes", "flat", "flatness", "sharpness")
    warehouse.write(
        "image_hashes",
        [
            {"image_id": one, "canonical_version": CANONICAL, "group_id": numbers[groups[one]]}
            | {name: row[name] for name in columns}
            for one, row in images.items()
        ],
    )
    rows = []
    for one, row in images.items():
        distances = (0, 0)
        if groups[one] != groups[heads[one]]:
            ends = contents[one], contents[heads[one]]
            found = verified(*ends, settings)
            assert found is not None
            distances = found
        rows.append(
            {
                "image_id": one,
                "rule_version": rule,
                "representative_id": heads[one],
                "hamming": distances[1],
                "hamming256": distances[0],
                "group_id": numbers[groups[one]],
                "first_seen": row["first_seen"],
                "source_pixels": row["source_pixels"],
            }
        )
    warehouse.write("clusters", rows)
    own = ("phash64", "phash256", "flatness", "sharpness")
    warehouse.write(
        "images",
        [
            image_row(0) | {"image_id": one, "view_hashes": row["hashes"]} | {name: row[name] for name in own}
            for one, row in images.items()
        ],
    )
    warehouse.event("run", "published", rule_version=rule)
    return warehouse


def asked(warehouse: TinyWarehouse, first: str = A, second: str = B, *more: str) -> int:
    return dedup.main(["--warehouse", str(warehouse.root), "--explain", first, second, *more])


def words(warehouse: TinyWarehouse, capsys: pytest.CaptureFixture[str], *given: str) -> str:
    assert asked(warehouse, *given) == 0
    return capsys.readouterr().out


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(log, "error", lambda form, *values: said.append(form % values))
    return said


# The rule -----------------------------------------------------------------------------------------------------------


def family(seed: int, count: int = 10, most: int = 4) -> dict[str, dict[str, Any]]:
    """Images around a few random hashes, with views, equal ones and flat ones among them; what is within four bits of
    64 always shares a bucket, as the model takes for granted."""
    chance = random.Random(seed)
    centres = [(chance.getrandbits(64), chance.getrandbits(256)) for _ in range(3)]
    found: dict[str, dict[str, Any]] = {}
    for number in range(count):
        near, far = chance.choice(centres)
        if number % 5 == 4:
            hashes = found[image_id(number - 2)]["hashes"]
        else:
            views = sorted([0, *[chance.choice((0, 1, 2, 3)) for _ in range(chance.randrange(3))]])
            hashes = [
                hashed(
                    flipped(near, 64, chance.randrange(most + 1), chance),
                    flipped(far, 256, chance.randrange(0, SETTINGS.max_hamming256), chance),
                    view,
                )
                for view in views
            ]
        date = DAY + dt.timedelta(days=chance.randrange(3))
        row = made_up(*hashes, first_seen=date, source_pixels=chance.choice((100, 200)), flat=number == 7)
        found[image_id(number)] = row
    return found


def shared(one: bytes, other: bytes) -> int:
    """In how many bands two hashes share a bucket."""
    near = np.array([ViewHash.of(one).phash64, ViewHash.of(other).phash64])
    keys = band_keys(signatures(near, SETTINGS), SETTINGS)
    return int((keys[0] == keys[1]).sum())


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_those_of_the_plain_model_in_shared_buckets(tmp_path: Path, seed: int) -> None:
    rows = family(seed, most=8)
    snapshot = Snapshot.open(published(tmp_path / "warehouse", rows).root)
    images = pairs._read(snapshot, list(rows), SETTINGS)
    for one, other in combinations(rows, 2):
        pair = compare(images[one], images[other], SETTINGS)
        if rows[one]["flat"] or rows[other]["flat"]:
            assert not pair.hashes
            continue
        wanted = []
        for first in rows[one]["hashes"]:
            for second in rows[other]["hashes"]:
                contents = content_of(made_up(first)), content_of(made_up(second))
                distances = verified(*contents, SETTINGS)
                if min(first[0], second[0]) > 2:  # both are cut
                    continue
                is_edge = distances is not None and shared(first, second) > 0
                wanted.append((shared(first, second), distances is not None, is_edge))
        assert sorted((p.bands, p.is_near, p.is_edge) for p in pair.hashes) == sorted(wanted)
        assert pair.is_one_group == (rows[one]["hashes"] == rows[other]["hashes"])


@pytest.mark.parametrize("seed", range(3))
def test_what_the_plain_model_makes_of_images_always_has_its_reason(tmp_path: Path, seed: int) -> None:
    rows = family(seed)
    snapshot = Snapshot.open(published(tmp_path / "warehouse", rows).root)
    answers = set()
    for one, other in combinations(rows, 2):
        explanation = explain(snapshot, one, other, SETTINGS)
        text = told(explanation)
        assert NEVER not in text
        answers.add(text.splitlines()[0])
        for image in (explanation.pair.first, explanation.pair.second):
            head = image.representative_id
            assert head == image.image_id or (explanation.is_together or head in text)
    assert answers == {"A and B are in one cluster", "A and B are in two clusters"}


def test_the_order_of_images_is_that_of_the_plain_model_and_of_the_stage(tmp_path: Path) -> None:
    from jobs.stages.clusters import PLACE

    one = hashed(1, 1)
    rows = {
        image_id(number): made_up(one, first_seen=DAY + dt.timedelta(days=number % 2), source_pixels=100 * (number % 3))
        for number in range(12)
    }
    snapshot = Snapshot.open(published(tmp_path / "warehouse", rows).root)
    images = pairs._read(snapshot, list(rows), SETTINGS)
    first = min(images.values(), key=lambda image: image.place)
    assert {image.representative_id for image in images.values()} == {first.image_id}
    assert len(first.place) == len(PLACE) == 3
    assert (first.first_seen, -first.source_pixels, first.image_id) == first.place


# Its words ----------------------------------------------------------------------------------------------------------


def test_a_crop_joins_by_a_view(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = photograph("astronaut.png")
    inside = picture.crop((51, 51, 461, 461))
    rows = {A: row_of(picture), B: row_of(inside, first_seen=DAY + dt.timedelta(days=1))}
    text = words(published(tmp_path / "warehouse", rows), capsys)
    assert text.startswith(
        "A and B are in one cluster\n  because        B stands behind A: inner10 of A and whole of B are "
    )
    assert "whole, whole" in text
    (line,) = (line for line in text.splitlines() if line.startswith("  inner10, whole"))
    assert line.endswith("an edge")
    (line,) = (line for line in text.splitlines() if line.startswith("  whole, whole"))
    assert not line.endswith("an edge")
    assert "candidate      yes, " in text
    assert "no trimmed and no object: nothing to cut off" in text
    assert "As of run run, dedup rule " in text
    assert "another rule" not in text


def test_a_mirrored_picture_joins_in_another_orientation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = photograph("chelsea.png")
    rows = {A: row_of(picture), B: row_of(ImageOps.mirror(picture), source_pixels=900)}
    text = words(published(tmp_path / "warehouse", rows), capsys)
    assert text.startswith("A and B are in one cluster")
    (line,) = (line for line in text.splitlines() if line.startswith("  as they are"))
    assert int(line.split(" of 64")[0].split()[-1]) > SETTINGS.max_hamming
    assert line.endswith("one is the other flipped or turned")
    (line,) = (line for line in text.splitlines() if line.startswith("  whole, whole"))
    assert "(turned)" in line


def test_a_candidate_may_be_too_far(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    far = random.Random(1).getrandbits(256)
    other = flipped(far, 256, SETTINGS.max_hamming256 + 2, random.Random(2))
    warehouse = published(tmp_path / "warehouse", {A: made_up(hashed(5, far)), B: made_up(hashed(5, other))})
    text = words(warehouse, capsys)
    assert text.startswith("A and B are in two clusters")
    assert (
        "nothing joins them: they share a bucket, but are too far apart: the nearest, whole of A and whole of B, are"
        in text
    )
    assert (
        "0 of 64 bits apart, 66 of 256, orientation 1 of 1 (upright) and 1 of 1 (upright), 42 of 42 bands shared"
        in text
    )
    assert "candidate      yes, 1 of 1 pairs of hashes share a bucket, in 42 bands altogether" in text


def test_one_shape_in_two_colours_is_two_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {A: made_up(hashed(5, 5, hue=1)), B: made_up(hashed(5, 5, hue=36 - 5))}
    text = words(published(tmp_path / "warehouse", rows), capsys)
    assert text.startswith("A and B are in two clusters")
    assert (
        "whole of A and whole of B, are 0 of 64 bits apart, 0 of 256, near enough, but of two colours: 60 degrees "
        "apart, dedup.max_hue_apart is 50" in text.replace("whole of B are", "whole of B, are")
    )


@pytest.mark.parametrize(
    ("shades", "hue", "told"),
    [
        (6, 1, "whole of A and whole of B are 8 of 64 bits apart, 0 of 256"),
        (5, 1, "they share a bucket, but are too far apart: the nearest, whole of A and whole of B, are 8 of 64"),
        (5, 1, "and one of them shows 5 shades where dedup.outer_shades is 6"),
        (6, 4, "near enough, but of two colours: 30 degrees apart, dedup.outer_hue_apart is 20"),
    ],
)
def test_beyond_the_inner_distance_two_need_shades_and_one_colour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shades: int, hue: int, told: str
) -> None:
    chance = random.Random(5)
    while True:
        near = chance.getrandbits(64)
        one = hashed(near, 1, hue=1, shades=shades)
        other = hashed(flipped(near, 64, SETTINGS.outer_hamming, chance), 1, hue=hue, shades=8)
        if shared(one, other):
            break
    text = words(published(tmp_path / "warehouse", {A: made_up(one), B: made_up(other)}), capsys)
    assert told in text
    assert "(up to 8 of 64 where both show 6 shades and their hues are within 20 degrees)" in text


def test_unrelated_pictures_share_no_bucket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(7)
    rows = {one: made_up(hashed(chance.getrandbits(64), chance.getrandbits(256))) for one in (A, B)}
    text = words(published(tmp_path / "warehouse", rows), capsys)
    assert (
        "nothing joins them: they share no bucket, and are too far apart: the nearest, whole of A and whole of B, are"
        in text
    )
    assert "candidate      no, 0 of 1 pairs of hashes share a bucket" in text


def near_without_a_bucket() -> dict[str, Any]:
    """Rows of two pictures at the greatest distance that is near, which no band brings together."""
    chance = random.Random(11)
    while True:
        near = chance.getrandbits(64)
        one, other = hashed(near, 1), hashed(flipped(near, 64, SETTINGS.max_hamming, chance), 1)
        if not shared(one, other):
            return {A: made_up(one), B: made_up(other)}


def test_near_pictures_that_share_no_bucket_are_told_how_often_that_happens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = near_without_a_bucket()
    text = words(published(tmp_path / "warehouse", rows, standing={A: A, B: B}), capsys)
    assert (
        "6 of 64 bits apart, 0 of 256, near enough, but share no bucket: 1.0% of pairs at that distance do not" in text
    )


def with_alike(view: int) -> dict[str, dict[str, Any]]:
    """Two images that have nothing in common but this view."""
    chance = random.Random(3)
    return {
        one: made_up(hashed(chance.getrandbits(64), chance.getrandbits(256)), hashed(9, 9, view=view)) for one in (A, B)
    }


def test_what_is_cut_of_both_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = words(published(tmp_path / "warehouse", with_alike(HASHED_VIEWS.index("inner5"))), capsys)
    assert text.startswith("A and B are in two clusters")
    assert "inner5, inner5" not in text
    assert "0 of 3 pairs of hashes" in text


@pytest.mark.parametrize("view", ["trimmed", "object"])
def test_what_two_frames_hold_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str], view: HashedView) -> None:
    text = words(published(tmp_path / "warehouse", with_alike(HASHED_VIEWS.index(view))), capsys)
    assert text.startswith("A and B are in one cluster")
    assert f"{view} of A and {view} of B are 0 of 64 bits apart" in text or f"{view} of B and {view} of A" in text


def test_two_behind_a_third_are_told_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    near = random.Random(5).getrandbits(64)
    one, other = near ^ 0b11, near ^ 0b1100
    rows = {
        A: made_up(hashed(one, 1)),
        B: made_up(hashed(other, 1)),
        C: made_up(hashed(near, 1), first_seen=DAY - dt.timedelta(days=1)),
    }
    text = words(published(tmp_path / "warehouse", rows), capsys)
    assert f"R  {C}" in text
    assert "because        A stands behind R: whole of A and whole of R are 2 of 64 bits apart, 0 of 256" in text
    assert "A and B alone would be joined too: whole of A and whole of B are 4 of 64 bits apart" in text
    assert "\nA and R\n" in text
    assert "\nB and R\n" in text


def test_an_edge_of_a_member_gathers_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """C - A - B, where C and B are far apart: A stands behind C, and B by itself."""
    far = 2**90 - 1
    rows = {
        C: made_up(hashed(1, 0)),
        A: made_up(hashed(1, 2**60 - 1), first_seen=DAY + dt.timedelta(days=1)),
        B: made_up(hashed(1, far), first_seen=DAY + dt.timedelta(days=2)),
    }
    text = words(published(tmp_path / "warehouse", rows), capsys)
    assert text.startswith("A and B are in two clusters")
    assert "they might be joined, but are not: whole of A and whole of B are 0 of 64 bits apart, 30 of 256" in text
    assert "A, which came before B, is none itself, and stands behind RA" in text
    assert "\nRA and B\n" in text, "the two representatives"


def test_an_image_joins_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {
        A: made_up(hashed(1, 0)),
        C: made_up(hashed(1, 2**90 - 1), first_seen=DAY + dt.timedelta(days=1)),
        B: made_up(hashed(1, 2**60 - 1), first_seen=DAY + dt.timedelta(days=2)),
    }
    text = words(published(tmp_path / "warehouse", rows), capsys)
    assert "for B that is RB, 0 of 64 bits apart, 30 of 256, and not A" in text
    assert "\nA and RB\n" in text


def test_equal_hashes_are_one_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {A: made_up(hashed(1, 1)), B: made_up(hashed(1, 1), source_pixels=5)}
    text = words(published(tmp_path / "warehouse", rows), capsys)
    assert "B stands behind A: all their hashes are equal, they are one group" in text


def test_flat_pictures_have_no_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = row_of(Image.new("L", (200, 100), 90))
    text = words(published(tmp_path / "warehouse", {A: plain, B: plain}), capsys)
    assert "nothing joins them: A is flat (its luminance deviates by 0.0 grey levels, dedup.flat_below is 3)" in text
    assert "candidate      no, a flat image has no bands" in text


def test_of_a_small_picture_the_views_that_are_not_there_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = photograph("coffee.png").resize((22, 22))
    text = words(published(tmp_path / "warehouse", {A: row_of(small), B: row_of(photograph("china.jpg"))}), capsys)
    assert f"no {' and no '.join(HASHED_VIEWS[1:])}: nothing to cut off, a side under 24 pixels, or flat" in text


def test_another_rule_than_the_warehouses_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {A: made_up(hashed(1, 1)), B: made_up(hashed(0b111, 1), hashed(1, 1, view=1), source_pixels=9)}
    warehouse = published(tmp_path / "warehouse", rows)
    given = ["--profile", "conf/local.yaml", "--explain", A, B, "--set", f"warehouse={warehouse.root}"]
    assert dedup.main(given) == 0
    assert "another rule" not in capsys.readouterr().out
    assert dedup.main([*given, "--set", "dedup.views=[whole]", "--set", "dedup.max_hamming=0"]) == 0
    text = capsys.readouterr().out
    assert "B stands behind A: not by this rule, which joins them by no edge" in text
    assert "trimmed" not in text
    assert "These dedup settings are another rule" in text


def test_hashes_of_another_release_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warehouse = published(tmp_path / "warehouse", {A: made_up(hashed(1, 1)), B: made_up(hashed(2, 1))})
    older = [
        {"image_id": one, "canonical_version": CANONICAL, "group_id": one[:32], "hashes": [bytes(42)], "flat": False}
        | {"flatness": 9.0, "sharpness": 9.0}
        for one in (A, B)
    ]
    warehouse.write("image_hashes", older, overwrite=True)
    warehouse.event("later", "published", rule_version="rule")
    given = ["--profile", "conf/local.yaml", "--explain", A, B, "--set", f"warehouse={warehouse.root}"]
    assert dedup.main(given) == 2
    assert "hashed by another release (a hash of a view has 43 bytes; found 42)" in capsys.readouterr().err


# As JSON ------------------------------------------------------------------------------------------------------------


def as_json(warehouse: TinyWarehouse, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(words(warehouse, capsys, A, B, "--json", *more))
    assert list(found) == ["run_id", "one_cluster", "because", "reasons", "rule", "images", "pairs"]
    for reason in found["reasons"]:
        assert reason in words(warehouse, capsys)
    return found


def test_the_same_is_told_as_json_by_keys_that_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    near = random.Random(5).getrandbits(64)
    rows = {
        A: made_up(hashed(near ^ 0b11, 1)),
        B: made_up(hashed(near ^ 0b1100, 1), hashed(7, 7, view=1)),
        C: made_up(hashed(near, 1), first_seen=DAY - dt.timedelta(days=1)),
    }
    warehouse = published(tmp_path / "warehouse", rows)
    found = as_json(warehouse, capsys)
    assert (found["run_id"], found["one_cluster"], found["because"]) == ("run", True, "both_behind_a_third")
    rule = found["rule"]
    assert rule["version"] == rule["warehouse_version"] == rule_version(SETTINGS, CANONICAL)
    assert rule["is_warehouse_rule"] is True
    assert DedupSettings.model_validate(rule["settings"]) == SETTINGS
    images = found["images"]
    assert {name: one["image_id"] for name, one in images.items()} == {"A": A, "B": B, "R": C}
    assert images["B"] == {
        "image_id": B,
        "orientations": {"whole": 1, "trimmed": 1},
        "missing_views": ["object", "inner2", "inner5", "inner10"],
        "width": images["B"]["width"],
        "height": images["B"]["height"],
        "flatness": 40.0,
        "is_flat": False,
        "group_id": images["B"]["group_id"],
        "representative": "R",
        "representative_id": C,
        "is_representative": False,
        "hamming": 2,
        "hamming256": 0,
        "first_seen": DAY.isoformat(),
        "source_pixels": 1000,
    }
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [("A", "B"), ("A", "R"), ("B", "R")]
    pair = found["pairs"][0]
    assert list(pair) == [
        *("first", "second", "is_joined", "is_one_group", "is_candidate", "hash_pairs", "hash_pairs_in_a_bucket"),
        *("bands", "edge", "obstacle", "views", "upright"),
    ]
    assert (pair["is_joined"], pair["hash_pairs"], pair["obstacle"]) == (True, 2, None)
    side = {"view": "whole", "orientation": 1, "of_orientations": 1, "is_turned": False, "shades": 0}
    assert pair["edge"] == {
        "first": side,
        "second": side,
        "hamming": 4,
        "hamming256": 0,
        "hues_apart": 0,
        "most_hues_apart": SETTINGS.max_hue_apart,
        "bands": pair["edge"]["bands"],
        "is_near": True,
        "is_edge": True,
    }
    assert pair["edge"]["bands"] > 0
    assert [(one["first"]["view"], one["second"]["view"]) for one in pair["views"]] == [
        ("whole", "whole"),
        ("whole", "trimmed"),
    ]
    assert pair["views"][0] == pair["edge"] | {"orientations": 1, "orientations_in_a_bucket": 1}
    assert pair["upright"] == {"hamming": 4, "hamming256": 0, "is_turned": False}


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([made_up(hashed(1, 1), flat=True), made_up(hashed(2, 1))], "flat"),
        ([made_up(hashed(5, 5, hue=1)), made_up(hashed(5, 5, hue=36 - 5))], "two_colours"),
        ([made_up(hashed(0, 0)), made_up(hashed(2**64 - 1, 0))], "too_far"),
    ],
)
def test_what_keeps_two_apart_is_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], what: str
) -> None:
    found = as_json(published(tmp_path / "warehouse", {A: rows[0], B: rows[1]}), capsys)
    assert (found["one_cluster"], found["because"]) == (False, "nothing_joins_them")
    (pair,) = found["pairs"]
    assert pair["edge"] is None
    assert pair["obstacle"]["what"] == what
    assert pair["obstacle"]["flat"] == (["A"] if what == "flat" else [])
    assert (pair["obstacle"]["nearest"] is None) == (what == "flat")
    assert pair["obstacle"]["missed"] is None


def test_what_misses_every_bucket_is_told_with_how_often_that_happens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = near_without_a_bucket()
    found = as_json(published(tmp_path / "warehouse", rows, standing={A: A, B: B}), capsys)
    (pair,) = found["pairs"]
    assert pair["obstacle"]["what"] == "no_bucket"
    assert pair["obstacle"]["missed"] == pytest.approx(0.0098, abs=0.0005)
    assert pair["obstacle"]["nearest"]["hamming"] == SETTINGS.max_hamming


def test_why_two_that_might_be_joined_are_not_is_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = [DAY + dt.timedelta(days=days) for days in (1, 2)]
    middle, far = 2**60 - 1, 2**90 - 1
    between = {C: made_up(hashed(1, 0)), A: made_up(hashed(1, middle), first_seen=later[0])}
    chained = published(tmp_path / "chained", between | {B: made_up(hashed(1, far), first_seen=later[1])})
    found = as_json(chained, capsys)
    assert (found["one_cluster"], found["because"]) == (False, "earlier_is_no_representative")
    assert list(found["images"]) == ["A", "B", "RA"]
    nearer = published(
        tmp_path / "nearer",
        {
            A: made_up(hashed(1, 0)),
            C: made_up(hashed(1, far), first_seen=later[0]),
            B: made_up(hashed(1, middle), first_seen=later[1]),
        },
    )
    assert as_json(nearer, capsys)["because"] == "later_chose_a_nearer"
    alone = {A: made_up(hashed(1, 1)), B: made_up(hashed(0b111, 1), source_pixels=9)}
    unjoined = published(tmp_path / "unjoined", alone, standing={A: A, B: B})
    assert as_json(unjoined, capsys)["because"] == "another_rule"
    joined = as_json(published(tmp_path / "joined", alone), capsys)
    assert (joined["one_cluster"], joined["because"]) == (True, "one_behind_the_other")


# What names an image ------------------------------------------------------------------------------------------------


@pytest.fixture
def known(tmp_path: Path) -> TinyWarehouse:
    """A and B, two that begin alike, and one that is not live."""
    rows = {one: made_up(hashed(1, 1)) for one in (A, B, "0123456789" + "a" * 54, "0123456789" + "b" * 54)}
    warehouse = published(tmp_path / "warehouse", rows)
    warehouse.write("images", [image_row(0) | {"image_id": "f" * 64}])
    warehouse.event("run", "published", rule_version="rule")
    return warehouse


def test_a_prefix_is_enough_where_no_other_begins_with_it(
    known: TinyWarehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    text = words(known, capsys, A[:8].upper(), "0123456789b")
    assert f"A  {A}" in text
    assert f"B  0123456789{'b' * 54}" in text


@pytest.mark.parametrize(
    ("first", "says"),
    [
        ("0123456789", f"0123456789 is the beginning of 2 images: 0123456789{'a' * 54}, 0123456789{'b' * 54}"),
        ("e" * 64, f"no image {'e' * 64} is known in the warehouse"),
        ("ffffffff", f"image {'f' * 64} is not live as of run run, so that it is in no cluster"),
        (A[:7], f"{A[:7]!r} names no image: expected an image_id (64 hex characters), or 8 or more"),
        ("https://example.org/", "names no image"),
        ("", "names no image"),
        (B[:12], f"both name image {B}"),
    ],
)
def test_what_names_no_image_is_refused(known: TinyWarehouse, errors: list[str], first: str, says: str) -> None:
    assert asked(known, first) == 2
    (error,) = errors
    assert says in error
    assert "\n" not in error


def test_where_nothing_is_published_that_is_said(tmp_path: Path, errors: list[str]) -> None:
    warehouse = TinyWarehouse(tmp_path / "warehouse")
    assert asked(warehouse) == 2
    warehouse.event("run", "started")
    assert asked(warehouse) == 2
    assert "no warehouse at" in errors[0]
    assert "no run is published yet" in errors[1]


def test_settings_without_a_profile_are_refused(known: TinyWarehouse, errors: list[str]) -> None:
    assert asked(known, A, B, "--set", "dedup.max_hamming=8") == 2
    assert "--set overrides what a profile says" in errors[0]


def test_a_stored_hash_is_taken_apart() -> None:
    one = ViewHash.of(hashed(2**63 + 1, 7, view=2))
    assert (one.view, one.phash64, int.from_bytes(one.phash256, "big")) == (2, 1 - 2**63, 7)
    assert (one.is_whole, one.is_full) == (False, True)
    with pytest.raises(ValueError, match="43 bytes; found 3"):
        ViewHash.of(b"abc")
