"""Another model: filled beside the old one, switched to, kept up to date by nights, switched back. Another alignment of
pictures and texts: switched to."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

from jobs import reembed
from readers.snapshot import Snapshot
from tests.e2e.conftest import World
from tests.e2e.small import DAYS, SmallWorld, small_world
from udfs.alignment import Alignment, Calibration, Projections, save_alignment
from udfs.assets import sha256_of

pytestmark = pytest.mark.spark

FIRST, SECOND, _ = DAYS
OTHER = "test_resnet"


@pytest.fixture(scope="module")
def small(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallWorld]:
    with small_world(tmp_path_factory.mktemp("models")) as made:
        for number, picture in enumerate(world.pictures[:8]):
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
    small: SmallWorld, other: str, tmp_path: Path, digest_of: Callable[[Path], dict[str, str]]
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
    before, run = digest_of(warehouse), Snapshot.open(str(warehouse)).seq
    assert reembed.main([*arguments, "--model", OTHER]) == 0
    assert Snapshot.open(str(warehouse)).seq == run + 3  # started, prepared, published: nothing was filled
    assert models_of(warehouse)[0] == {new}
    assert small.night(SECOND, warehouse, settings=[beside]) == 2  # the profile still names the old one
    after = digest_of(warehouse)
    assert {name for name in after if after[name] != before[name]} == {"index_feed", "all"}
    assert reembed.main([*arguments, "--model", "tf_efficientnet_lite0"]) == 0
    assert digest_of(warehouse) == before


def some_alignment(warehouse: Path, folder: Path) -> tuple[Alignment, str]:
    """An alignment for the models of a warehouse, learned from nothing, and the setting that names it."""
    snapshot, generator = Snapshot.open(str(warehouse)), np.random.default_rng(0)
    row = snapshot.rows("index_feed", ["vector", "text_vector"]).slice(0, 1).to_pylist()[0]
    image, text = len(row["vector"]), len(row["text_vector"])
    arrays = [generator.normal(size=shape).astype(np.float32) for shape in (image, (image, 16), text, (text, 16))]
    alignment = Alignment(
        str(snapshot.model_version), str(snapshot.text_model_version), Projections(*arrays), Calibration(0.1, 0.2)
    )
    path = save_alignment(alignment, folder, {})
    return alignment, f"embedding.alignment={json.dumps({'path': str(path), 'sha256': sha256_of(path)})}"


def test_an_alignment_is_switched_to_and_leaves_what_it_had_left_from_the_start(
    small: SmallWorld, tmp_path: Path, digest_of: Callable[[Path], dict[str, str]]
) -> None:
    switched, always = tmp_path / "switched", tmp_path / "always"
    assert small.night(FIRST, switched) == 0
    alignment, setting = some_alignment(switched, tmp_path / "alignments")
    before = digest_of(switched)
    assert small.night(FIRST, switched, "--force", settings=[setting]) == 2  # two alignments never mix
    assert reembed.main(small.arguments(switched, setting)) == 0
    assert small.night(FIRST, switched, "--force") == 2
    after = digest_of(switched)
    assert {name for name in after if after[name] != before[name]} == {"index_feed", "all"}
    assert small.night(FIRST, always, settings=[setting]) == 0
    assert digest_of(always) == after

    snapshot = Snapshot.open(str(switched))
    assert snapshot.alignment_version == alignment.version
    feed = snapshot.rows("index_feed").to_pylist()
    assert {row["alignment_version"] for row in feed} == {alignment.version}
    for row in feed:
        cosine = alignment.cosine(np.array(row["vector"], np.float32), np.array(row["text_vector"], np.float32))
        assert row["image_text_cosine"] == cosine
        assert (row["image_text_mean"], row["image_text_deviation"]) == (0.1, 0.2)
    assert len({row["image_text_cosine"] for row in feed}) == len(feed)


def test_a_model_that_is_not_configured_is_refused(small: SmallWorld, tmp_path: Path) -> None:
    assert reembed.main([*small.arguments(tmp_path / "warehouse"), "--model", "vit_base_patch16_224"]) == 2
