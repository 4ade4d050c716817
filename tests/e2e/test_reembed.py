"""Another model: filled beside the old one, switched to, kept up to date by nights, switched back. Another text model
and alignment: switched to."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from safetensors.torch import save_file

from demo.pictures import ORIGINAL
from jobs import reembed
from jobs.config.profile import load
from jobs.run import contents
from jobs.stages.embed import embed_images
from jobs.startup.preflight import check
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Ledger
from lensfeed.snapshot import Snapshot
from schemas.settings import EmbeddingSettings
from tests.e2e.conftest import World
from tests.e2e.killed import run_killed
from tests.e2e.small import DAYS, PROFILE, SmallWorld, small_world
from udfs.assets import sha256_of
from udfs.embedding.alignment import Alignment, Calibration, Projections, save_alignment
from udfs.embedding.golden import Golden

pytestmark = pytest.mark.spark

FIRST, SECOND, _ = DAYS
OTHER = "test_resnet"


@pytest.fixture(scope="module")
def small(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWorld]:
    with small_world(tmp_path_factory.mktemp("models")) as made:
        for number, picture in enumerate([p for p in world.pictures if p.variant == ORIGINAL][:80:10]):
            made.picture(picture, [FIRST] if number < 5 else [SECOND], title=f"Picture {number}")
        yield made


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny network with random weights (it stands in for a better model, which cannot be had here)."""
    path = tmp_path_factory.mktemp("weights") / "other.safetensors"
    save_file(timm.create_model(OTHER, pretrained=False).state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return json.dumps({"model": OTHER, "weights": {"path": str(path), "sha256": digest}, "licence": "none"})


def models_of(warehouse: Path) -> tuple[set[str], dict[str, int]]:
    """Model versions in the feed; vectors by model version."""
    snapshot = Snapshot.open(str(warehouse))
    stored = snapshot.rows("embeddings", ["model_version"]).column(0).to_pylist()
    feed = snapshot.rows("index_feed", ["model_version"]).column(0).to_pylist()
    return set(feed), {version: stored.count(version) for version in set(stored)}


@pytest.mark.slow
def test_there_and_back_with_a_night_between(
    spark: SparkSession, small: SmallWorld, other: str, tmp_path: Path, digest_of: Callable[[Path], dict[str, str]]
) -> None:
    warehouse, beside = tmp_path / "warehouse", f"embedding_beside={other}"
    assert small.night(FIRST, warehouse) == 0
    (old,), stored = models_of(warehouse)
    images = stored[old]
    arguments = small.arguments(warehouse, beside)
    # Filled in parts that are published one by one; the feed stays under its model meanwhile.
    assert reembed.main([*arguments, "--model", OTHER, "--batch", "2", "--no-switch"]) == 0
    (still,), stored = models_of(warehouse)
    assert still == old
    assert set(stored.values()) == {images}
    (new,) = stored.keys() - {old}
    # A night embeds with both, so that a switch has nothing to fill.
    assert small.night(SECOND, warehouse, settings=[beside]) == 0
    feed, stored = models_of(warehouse)
    assert (feed, set(stored)) == ({old}, {old, new})
    assert len(set(stored.values())) == 1
    before = digest_of(warehouse)
    bound = {"name": "neighbours", "counts": ["vectors.neighbour_overlap"], "at_least": 0.99}
    strict = [*arguments, "--model", OTHER, "--set", f"run.expectations={json.dumps([bound])}"]
    assert reembed.main(strict) == 1  # weights of chance keep few neighbours
    assert digest_of(warehouse) == before
    run = Snapshot.open(str(warehouse)).seq + 2  # started, discarded
    assert reembed.main([*strict, "--accept-breach", "neighbours", "--why", "a test"]) == 0
    published = Ledger(Landing(spark, str(warehouse)), 0).load().last_published()
    assert published is not None
    assert 0 <= (published.metrics or {})["vectors.neighbour_overlap"] < 0.99
    assert "neighbours: vectors.neighbour_overlap is" in str(published.detail)
    assert Snapshot.open(str(warehouse)).seq == run + 3  # started, prepared, published: nothing was filled
    assert models_of(warehouse)[0] == {new}
    assert small.night(SECOND, warehouse, settings=[beside]) == 2  # the profile still names the old one
    after = digest_of(warehouse)
    assert {name for name in after if after[name] != before[name]} == {"index_feed", "all"}
    assert reembed.main([*arguments, "--model", "tf_efficientnet_lite0"]) == 0
    assert digest_of(warehouse) == before


def some_alignment(folder: Path, *settings: str) -> tuple[Alignment, str]:
    """An alignment for the models of the profile with these settings, from nothing; and the setting that names it."""
    _, versions = check(load(PROFILE, ["manifest.path=none", f"warehouse={folder}", *settings]))
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=shape).astype(np.float32) for shape in (1280, (1280, 16), 384, (384, 16))]
    alignment = Alignment(
        versions.model_version, versions.text_model_version, Projections(*arrays), Calibration(0.1, 0.2)
    )
    path = save_alignment(alignment, folder, {})
    return alignment, f"embedding.alignment={json.dumps({'path': str(path), 'sha256': sha256_of(path)})}"


@pytest.mark.slow
def test_a_text_model_and_an_alignment_are_switched_to_and_leave_what_they_had_left_from_the_start(
    small: SmallWorld, tmp_path: Path, digest_of: Callable[[Path], dict[str, str]]
) -> None:
    switched, always = tmp_path / "switched", tmp_path / "always"
    assert small.night(FIRST, switched) == 0
    text = "text.max_tokens=64"  # a version of its own
    alignment, setting = some_alignment(tmp_path / "alignments", text)
    before, texts = digest_of(switched), Snapshot.open(str(switched)).row_count("text_embeddings")
    assert small.night(FIRST, switched, "--force", settings=[text, setting]) == 2  # two alignments never mix
    assert reembed.main(small.arguments(switched, text, setting)) == 0
    assert Snapshot.open(str(switched)).row_count("text_embeddings") == 2 * texts
    assert small.night(FIRST, switched, "--force") == 2
    after = digest_of(switched)
    assert {name for name in after if after[name] != before[name]} == {"index_feed", "text_embeddings", "all"}
    assert small.night(FIRST, always, settings=[text, setting]) == 0
    assert digest_of(always)["index_feed"] == after["index_feed"]

    snapshot = Snapshot.open(str(switched))
    assert snapshot.alignment_version == alignment.version
    feed = snapshot.rows("index_feed").to_pylist()
    assert {row["alignment_version"] for row in feed} == {alignment.version}
    for row in feed:
        cosine = alignment.cosine(np.array(row["vector"], np.float32), np.array(row["text_vector"], np.float32))
        assert row["image_text_cosine"] == cosine
        assert (row["image_text_mean"], row["image_text_deviation"]) == (0.1, 0.2)
    assert len({row["image_text_cosine"] for row in feed}) == len(feed)


@pytest.mark.slow
def test_what_one_model_has_no_vector_for_is_owed_to_the_other(
    small: SmallWorld,
    other: str,
    tmp_path: Path,
    digest_of: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    switched, always_new, always_old = (tmp_path / name for name in ("switched", "always_new", "always_old"))
    both, new = f"embedding_beside={other}", f"embedding={other}"
    assert small.night(FIRST, always_old) == 0
    victim = min(Snapshot.open(str(always_old)).rows("images", ["image_id"]).column(0).to_pylist())

    def failing(
        pixels: DataFrame, settings: EmbeddingSettings, tasks: int, golden: Golden | None, only: DataFrame
    ) -> DataFrame:
        """The embedding stage, with a fault injected: the other model has no vector for one picture."""
        hit = (f.col("image_id") == victim) & f.lit(settings.model == OTHER)
        made = embed_images(pixels, settings, tasks, golden, only)
        return made.withColumn("vector", f.when(~hit, f.col("vector"))).withColumn(
            "error", f.when(hit, "injected").otherwise(f.col("error"))
        )

    monkeypatch.setattr(contents, "embed_images", failing)
    assert small.night(FIRST, switched, settings=[both]) == 0
    before = digest_of(switched)
    arguments = [*small.arguments(switched, both), "--model", OTHER]
    assert reembed.main([*arguments, "--most-failed", "0"]) == 1
    assert digest_of(switched) == before
    assert reembed.main([*arguments, "--most-failed", "0.5"]) == 0
    assert outcomes_of(switched, victim) == {("failed", "embed_error")}
    assert victim not in Snapshot.open(str(switched)).rows("images", ["image_id"]).column(0).to_pylist()

    assert small.night(FIRST, always_new, settings=[new]) == 0
    assert outcomes_of(always_new, victim) == {("failed", "embed_error")}
    kept = digest_of(switched)
    assert {name for name, value in digest_of(always_new).items() if kept[name] != value} == {"embeddings", "all"}

    back = [*small.arguments(switched, both), "--model", "tf_efficientnet_lite0"]
    assert reembed.main(back) == 0
    assert outcomes_of(switched, victim) == {("accepted", None)}
    queue = Snapshot.open(str(switched)).rows("refetch_queue", ["image_id"]).column(0).to_pylist()
    assert queue == [victim]
    for warehouse in (switched, always_old):
        assert small.night(SECOND, warehouse, settings=[both] if warehouse == switched else []) == 0
    found, expected = digest_of(switched), digest_of(always_old)
    assert {name for name in found if found[name] != expected[name]} == {
        "embeddings",
        "all",
    }  # the other model's beside


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "target", "last"),
    [
        ("jobs.warehouse.landing", "Landing.versions", "prepared"),
        ("jobs.run.contents", "embed_texts_of", "started"),
        ("jobs.run.models", "_finish", "published"),
    ],
    ids=["within the first part", "within a later part", "between filling and switching"],
)
def test_a_job_that_was_killed_goes_on_where_it_was(
    small: SmallWorld,
    other: str,
    tmp_path: Path,
    digest_of: Callable[[Path], dict[str, str]],
    spark: SparkSession,
    module: str,
    target: str,
    last: str,
) -> None:
    killed, clean = tmp_path / "killed", tmp_path / "clean"
    for warehouse in (killed, clean):
        assert small.night(FIRST, warehouse) == 0
    before = digest_of(killed)["index_feed"]
    wanted = [f"embedding_beside={other}", "text.max_tokens=64"]
    arguments = {warehouse: [*small.arguments(warehouse, *wanted), "--model", OTHER] for warehouse in (killed, clean)}
    run_killed("reembed", arguments[killed], module, target)
    assert Ledger(Landing(spark, str(killed)), 0).load().events[-1].event == last
    assert digest_of(killed)["index_feed"] == before
    for warehouse in (killed, clean):
        assert reembed.main(arguments[warehouse]) == 0
    assert digest_of(killed) == digest_of(clean)
    events = [event.event for event in Ledger(Landing(spark, str(killed)), 0).load().events]
    assert events.count("published") == 4  # a night, the pictures, the texts, the switch: nothing was done twice


def outcomes_of(warehouse: Path, image: str) -> set[tuple[str, str | None]]:
    """Outcome and failure code of the sightings of an image."""
    rows = Snapshot.open(str(warehouse)).rows("sightings", ["image_id", "outcome", "failure_code"]).to_pylist()
    return {(row["outcome"], row["failure_code"]) for row in rows if row["image_id"] == image}


def test_a_model_that_is_not_configured_is_refused(small: SmallWorld, tmp_path: Path) -> None:
    assert reembed.main([*small.arguments(tmp_path / "warehouse"), "--model", "vit_base_patch16_224"]) == 2
