"""The promises, held against three nights of the demo: real server, real weights, real Delta."""

import csv
import gzip
import io
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import onnxruntime
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyspark.sql import SparkSession

from demo.manifests import expected_outcomes
from demo.site import DATES, misbehaving_pages
from demo.site import cast as parts_of
from demo.summary import image_id, planted_copies, unexpected
from jobs.config.profile import load
from lensfeed import changes, changes_to, open_feed
from lensfeed.encoder import Encoder
from lensfeed.feed import feed_vectors, lookup, nearest
from lensfeed.loaders import feed_loader
from tests import model
from tests.e2e.conftest import Nights, World
from tests.meeting import in_buckets
from tests.test_queries import FIRST, QUERIED, SECTIONS
from udfs.assets import locate
from udfs.gate.nsfw import keras_forward
from udfs.images.phash import decode_small

pytestmark = pytest.mark.spark


def independent_row_count(folder: Path) -> int:
    """Rows of a date's manifest, counted without any of our reading code."""
    total = 0
    for path in folder.iterdir():
        if path.suffix == ".parquet":
            total += pq.ParquetFile(path).metadata.num_rows
        elif path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                total += sum(1 for _ in csv.reader(file)) - 1
        else:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            total += sum(1 for line in data.splitlines() if line.strip())
    return total


def test_every_manifest_row_is_one_sighting(in_order: Nights, world: World) -> None:
    sightings = in_order.snapshot.rows("sightings", ["ingest_date", "source_file", "row_number"]).to_pylist()
    assert len({tuple(row.values()) for row in sightings}) == len(sightings)
    counted = Counter(row["ingest_date"] for row in sightings)
    assert counted == {date: independent_row_count(world.folder / date.isoformat()) for date in DATES}
    assert sum(counted.values()) >= 400


def test_every_row_ends_as_planned(in_order: Nights, world: World) -> None:
    rows = in_order.snapshot.rows("sightings").to_pylist()
    assert unexpected(rows, expected_outcomes(world.files), world.pictures) == []


def test_nothing_is_fetched_twice_in_a_night_but_what_is_retried(in_order: Nights, world: World) -> None:
    retried = {page.path for page in misbehaving_pages(parts_of(world.pictures).reserved) if page.requests != 1}
    for date in DATES:
        asked = in_order.asked[date]
        assert asked
        twice = {url for url, count in asked.items() if count > 1 and not any(url.endswith(path) for path in retried)}
        assert twice == set()


def test_what_has_not_changed_is_confirmed_and_not_sent_again(in_order: Nights) -> None:
    columns = ["ingest_date", "url_id", "status", "not_modified", "image_id", "bytes", "etag"]
    fetches = in_order.snapshot.rows("fetches", columns).to_pylist()
    confirmed = [row for row in fetches if row["not_modified"]]
    assert {row["ingest_date"] for row in confirmed} == set(DATES[1:])
    asked = {(row["url_id"], row["ingest_date"]): row for row in fetches}
    for row in confirmed:
        before = max(date for url, date in asked if url == row["url_id"] and date < row["ingest_date"])
        earlier = asked[row["url_id"], before]
        assert (row["status"], row["bytes"], row["image_id"]) == (304, None, earlier["image_id"])
        assert row["etag"] == earlier["etag"]
    sightings = in_order.snapshot.rows("sightings", ["ingest_date", "url_id", "outcome", "not_modified"]).to_pylist()
    flagged = {(row["ingest_date"], row["url_id"]): row["outcome"] for row in sightings if row["not_modified"]}
    assert flagged.keys() == {(row["ingest_date"], row["url_id"]) for row in confirmed}
    assert set(flagged.values()) == {"accepted"}


def test_refused_rows_are_never_fetched(in_order: Nights) -> None:
    rows = in_order.snapshot.rows("sightings", ["ingest_date", "url_id", "url", "outcome", "image_id"]).to_pylist()
    fetches = in_order.snapshot.rows("fetches", ["ingest_date", "url_id", "blocked_reason"]).to_pylist()
    redirected = {(row["ingest_date"], row["url_id"]) for row in fetches if row["blocked_reason"]}
    wanted = {(row["ingest_date"], row["url_id"]) for row in rows if row["outcome"] != "blocked"} | redirected
    refused = [row for row in rows if row["outcome"] == "blocked" and row["image_id"] is None]
    never = [row for row in refused if (row["ingest_date"], row["url_id"]) not in wanted]
    assert len(never) >= 3
    for row in never:
        assert row["url"] not in in_order.asked[row["ingest_date"]]


def test_only_allowed_content_has_pixels_vectors_and_feed_rows(in_order: Nights) -> None:
    snapshot = in_order.snapshot
    accepted = {
        row["image_id"]
        for row in snapshot.rows("sightings", ["outcome", "image_id"]).to_pylist()
        if row["outcome"] == "accepted"
    }
    seen_by_gate = set(snapshot.rows("content_signals", ["image_id"]).column("image_id").to_pylist())
    for table in ("images", "embeddings", "image_hashes", "clusters", "index_feed", "feed_members"):
        held = set(snapshot.rows(table, ["image_id"]).column("image_id").to_pylist())
        assert held, table
        assert held <= seen_by_gate, table
        if table not in {"images", "embeddings"}:
            assert held <= accepted, table
    assert not (in_order.warehouse / "_staging").exists() or not any((in_order.warehouse / "_staging").iterdir())


def test_no_file_on_disk_holds_pixels_of_anything_refused(in_order: Nights) -> None:
    decided = in_order.snapshot.rows("decisions", ["subject_kind", "subject_id", "decision"]).to_pylist()
    allowed = {row["subject_id"] for row in decided if row["subject_kind"] == "image" and row["decision"] == "allow"}
    with_binary = set()
    for path in in_order.warehouse.rglob("*.parquet"):
        table = path.relative_to(in_order.warehouse).parts[0]
        schema = pq.read_schema(path)
        if "pixels" in schema.names:
            with_binary.add(table)
            assert set(pq.read_table(path, columns=["image_id"]).column("image_id").to_pylist()) <= allowed
    assert with_binary == {"images"}


def test_the_order_of_nights_does_not_matter(
    in_order: Nights, backwards: Nights, digest_of: Callable[[Path], dict[str, str]]
) -> None:
    assert digest_of(in_order.warehouse) == digest_of(backwards.warehouse)


def test_derived_tables_are_what_the_plain_model_says(in_order: Nights) -> None:
    snapshot, settings = in_order.snapshot, load("conf/demo.yaml").dedup
    sightings = [
        model.Sighting(
            (row["ingest_date"], row["source_file"], row["row_number"]),
            row["url_id"],
            row["outcome"],
            row["failure_code"],
            tuple(row["reasons"]),
            row["image_id"],
            row["state_effect"],
        )
        for row in snapshot.rows("sightings").to_pylist()
    ]
    states = {row["url_id"]: row for row in snapshot.rows("url_state").to_pylist()}
    expected_states = model.url_states(sightings)
    assert {url: (s.key, s.outcome) for url, s in expected_states.items()} == {
        url: ((row["ingest_date"], row["source_file"], row["row_number"]), row["outcome"])
        for url, row in states.items()
    }
    columns = ["image_id", "view_hashes", "flatness", "source_width", "source_height"]
    contents = {
        row["image_id"]: model.Content(
            row["image_id"],
            "allow",
            source_pixels=row["source_width"] * row["source_height"],
            hashes=model.stored_hashes(row["view_hashes"]),
            flat=row["flatness"] < settings.flat_below,
        )
        for row in snapshot.rows("images", columns).to_pylist()
    }
    dates = model.live(sightings)
    expected = model.clusters(dates, contents, settings, in_buckets(settings))
    clusters = snapshot.rows("clusters").to_pylist()
    assert {row["image_id"]: row["representative_id"] for row in clusters} == expected
    assert {row["image_id"]: row["first_seen"] for row in clusters} == dates
    feed = snapshot.rows("index_feed", ["image_id", "feed_id", "member_count", "first_seen"]).to_pylist()
    sizes = Counter(expected.values())
    assert {row["image_id"]: row["member_count"] for row in feed} == dict(sizes)
    assert all(row["feed_id"] == int(row["image_id"][:16], 16) >> 1 for row in feed)
    members = snapshot.rows("feed_members", ["image_id", "url_id", "representative_id"]).to_pylist()
    shown = {url: s.image_id for url, s in expected_states.items() if s.outcome == "accepted"}
    assert {row["url_id"]: (row["image_id"], row["representative_id"]) for row in members} == {
        url: (image, expected[image]) for url, image in shown.items() if image in expected
    }


def test_planted_copies_are_found_and_nothing_else_is_merged(in_order: Nights, world: World) -> None:
    clusters = in_order.snapshot.rows("clusters", ["image_id", "representative_id"]).to_pylist()
    planted = planted_copies({row["image_id"]: row["representative_id"] for row in clusters}, world.pictures)
    assert sum(planted.live.values()) > 100
    assert planted.recall >= 0.99
    assert planted.false_merges == ()


@pytest.mark.slow
def test_scores_are_those_of_opennsfw2_and_of_onnx_runtime(in_order: Nights, world: World) -> None:
    import opennsfw2  # seconds of imports that no other test here needs

    weights = locate(load("conf/demo.yaml").policy.detector)
    keras = keras_forward(weights, "cpu", 1)
    session = onnxruntime.InferenceSession(str(weights), providers=["CPUExecutionProvider"])
    signals = in_order.snapshot.rows("content_signals", ["image_id", "scores"]).to_pylist()
    # opennsfw2 looks at bare pixels; where the stored picture is another one, the gate scores both.
    views = {row["image_id"]: dict(row["scores"]) for row in signals}
    ours = {image: scores.get("nsfw:plain", scores["nsfw:center"]) for image, scores in views.items()}
    compared = [picture for picture in world.pictures if image_id(picture) in ours]
    assert len(compared) >= 250
    for start in range(0, len(compared), 32):
        part = compared[start : start + 32]
        batch = np.stack(
            [
                opennsfw2.preprocess_image(Image.open(io.BytesIO(picture.data)), opennsfw2.Preprocessing.YAHOO)
                for picture in part
            ]
        ).astype(np.float32)
        expected = np.concatenate([keras(batch[i : i + 1]) for i in range(len(part))])
        runtime = session.run(None, {session.get_inputs()[0].name: batch})[0][:, 1]
        scores = np.array([ours[image_id(picture)] for picture in part])
        assert np.abs(scores - expected).max() < 1e-4
        assert np.abs(scores - runtime).max() < 1e-4


def test_hashes_are_those_of_imagehash_on_the_stored_pixels(in_order: Nights) -> None:
    for row in in_order.snapshot.rows("images", ["pixels", "phash64", "phash256"]).to_pylist():
        luminance = decode_small(row["pixels"]).getchannel(0)
        near, far = imagehash.phash(luminance, hash_size=8), imagehash.phash(luminance, hash_size=16)
        assert int(str(near), 16) == row["phash64"] & (2**64 - 1)
        assert str(far) == row["phash256"].hex()


def test_readers_see_exactly_the_live_rows(in_order: Nights) -> None:
    snapshot = in_order.snapshot
    ids, vectors = feed_vectors(snapshot)
    feed = snapshot.rows("index_feed", ["feed_id", "title"]).to_pylist()
    assert sorted(ids.tolist()) == sorted(row["feed_id"] for row in feed)
    with feed_loader(snapshot, batch_size=32) as batches:
        loaded = [int(feed_id) for batch in batches for feed_id in batch["feed_id"]]
    assert sorted(loaded) == sorted(ids.tolist())
    found, cosines = nearest(vectors[:3], ids, vectors, k=2)
    assert found[:, 0].tolist() == ids[:3].tolist()
    assert np.allclose(cosines[:, 0], 1, atol=1e-5)
    for entry in lookup(snapshot, ids[:5].tolist()):
        assert entry.urls


def test_the_changes_of_nights_lead_from_the_feed_before_to_the_feed_after(in_order: Nights) -> None:
    runs = in_order.snapshot.rows("runs", ["seq", "run_id"], pc.field("event") == "published").sort_by("seq")
    snapshots = [open_feed(in_order.warehouse, run=run_id) for run_id in runs["run_id"].to_pylist()[:3]]
    feeds = [{row["feed_id"]: row for row in one.rows("index_feed").to_pylist()} for one in snapshots]
    for (since, before), (until, after) in combinations(zip(snapshots, feeds, strict=True), 2):
        found = changes(until, since.run_id)
        assert len(found.inserted)
        assert len(found.updated)
        upserts = {row["feed_id"]: row for batch in found.upserts() for row in batch.to_pylist()}
        assert sorted(upserts) == found.upserted.tolist()
        assert {n: row for n, row in before.items() if n not in found.deleted} | upserts == after
        held = since.rows("index_feed", ["feed_id", "row_digest"])
        known = changes_to(until, held["feed_id"].to_numpy(), held["row_digest"].to_numpy())
        assert [*map(list, (known.inserted, known.updated, known.deleted))] == [
            *map(list, (found.inserted, found.updated, found.deleted))
        ]


def test_a_picture_that_is_shown_is_encoded_to_the_vector_that_executors_made(in_order: Nights, world: World) -> None:
    snapshot = in_order.snapshot
    encoder = Encoder.of(snapshot, ".assets")
    stored = {row["image_id"]: row["vector"] for row in snapshot.rows("embeddings").to_pylist()}
    shown = [picture for picture in world.pictures if image_id(picture) in stored][::20]
    assert len(shown) > 5
    for picture in shown:
        assert encoder.image(picture.data) @ np.array(stored[image_id(picture)], np.float32) > 0.9999


def test_a_published_date_is_left_alone_and_reported(
    in_order: Nights, world: World, digest_of: Callable[[Path], dict[str, str]]
) -> None:
    before, run = digest_of(in_order.warehouse), in_order.snapshot.run_id
    world.site.requests.clear()
    assert world.night(DATES[0], in_order.warehouse) == 0
    assert in_order.snapshot.run_id == run
    assert not world.site.requests
    assert digest_of(in_order.warehouse) == before


@pytest.mark.slow  # the random sequences force dates
def test_dates_forced_again_leave_the_same_contents(
    backwards: Nights, world: World, digest_of: Callable[[Path], dict[str, str]]
) -> None:
    before = digest_of(backwards.warehouse)
    for date in (DATES[0], DATES[1]):
        assert world.night(date, backwards.warehouse, "--force") == 0
        assert digest_of(backwards.warehouse) == before


def test_the_ledger_tells_what_happened(in_order: Nights) -> None:
    events = sorted(_ledger(in_order), key=lambda event: event["seq"])
    published = [event for event in events if event["event"] == "published"]
    assert [event["ingest_dates"] for event in published][:3] == [[date] for date in DATES]
    for event in published:
        counts = dict(event["counts"])
        assert counts["sightings"] == sum(n for key, n in counts.items() if key.startswith("outcome."))
        assert dict(event["table_versions"])["index_feed"] >= 1
        assert dict(event["metrics"])["seconds.crawl and gate"] > 0
    first = dict(published[0]["counts"])
    assert 0 < first["accepted_with_text"] <= first["outcome.accepted"]
    assert first["became_live"] == first["changed.clusters"]  # there was nothing before
    assert 0 < first["became_members"] < first["became_live"]


@pytest.fixture(scope="module")
def reading(spark: SparkSession, in_order: Nights) -> SparkSession:
    """A session with the views that docs/queries.md makes."""
    session = spark.newSession()
    (block,) = [text for kind, text in SECTIONS[FIRST] if kind == "python" and "createOrReplaceTempView" in text]
    named = block.replace('WAREHOUSE = "demo-output/warehouse"', f"WAREHOUSE = {str(in_order.warehouse)!r}")
    assert named != block
    exec(compile(named, "docs/queries.md", "exec"), {"spark": session})
    return session


@pytest.mark.parametrize("name", QUERIED)
def test_the_sql_of_the_documents_runs_and_finds_rows(reading: SparkSession, name: str) -> None:
    """What it finds is held against other engines in tests/test_queries.py, on a warehouse whose rows are known."""
    (sql,) = [text for kind, text in SECTIONS[name] if kind == "sql"]
    (some,) = reading.sql("SELECT min(feed_id) FROM index_feed").first() or ()
    sql = sql.replace("feed_id = 42", f"feed_id = {some}")  # "42 stands for yours"
    assert reading.sql(sql).count() > 0


def _ledger(nights: Nights) -> list[dict[str, Any]]:
    from deltalake import DeltaTable

    files = DeltaTable(str(nights.warehouse / "runs")).file_uris()
    return [row for file in files for row in pq.read_table(file.removeprefix("file://")).to_pylist()]
