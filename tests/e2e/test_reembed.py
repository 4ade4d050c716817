"""Another model: filled beside the old one, switched to, kept up to date by nights, switched back."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from jobs import reembed
from readers.snapshot import Snapshot
from tests.e2e.conftest import World
from tests.e2e.small import DAYS, SmallWorld, small_world

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


def test_a_model_that_is_not_configured_is_refused(small: SmallWorld, tmp_path: Path) -> None:
    assert reembed.main([*small.arguments(tmp_path / "warehouse"), "--model", "vit_base_patch16_224"]) == 2
