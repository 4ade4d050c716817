"""Golden vectors are made once a version, and stand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from pyspark.sql import SparkSession
from safetensors.torch import save_file

from jobs.config.errors import RunError
from jobs.config.profile import load
from jobs.warehouse import golden
from jobs.warehouse.golden import golden_of_images, golden_of_texts
from jobs.warehouse.storage import Storage
from schemas.settings import AssetSettings, EmbeddingSettings
from udfs.assets import sha256_of
from udfs.embedding.golden import samples_digest

VERSION = "c" * 64


@pytest.fixture
def storage(spark: SparkSession, tmp_path: Path) -> Storage:
    return Storage(spark, str(tmp_path / "warehouse"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "warehouse" / "_models" / f"{VERSION}.json"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSettings:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), path)
    weights = AssetSettings(path=str(path), sha256=sha256_of(path))
    return EmbeddingSettings(model="test_vit", weights=weights, licence="CC0-1.0", device="cpu")


def test_what_is_made_is_stored_with_what_the_version_stands_for(
    storage: Storage, tiny: EmbeddingSettings, file: Path
) -> None:
    made = golden_of_images(storage, tiny, VERSION)
    stored = json.loads(file.read_text())
    assert stored["golden"]["vectors"] == [list(row) for row in made.vectors]
    assert (stored["licence"], stored["architecture"], stored["dimension"]) == ("CC0-1.0", "test_vit", 64)
    assert made.samples == samples_digest()


def test_what_is_stored_stands_whatever_this_machine_would_make(
    storage: Storage, tiny: EmbeddingSettings, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = golden_of_images(storage, tiny, VERSION)
    other = replace(made, vectors=tuple(row[::-1] for row in made.vectors))
    monkeypatch.setattr(golden, "golden_vectors", lambda _: other)
    assert golden_of_images(storage, tiny, VERSION) == made


def test_vectors_of_samples_that_this_code_no_longer_has_are_made_anew(
    storage: Storage, tiny: EmbeddingSettings, file: Path
) -> None:
    made = golden_of_images(storage, tiny, VERSION)
    file.write_text(file.read_text().replace(made.samples, "0" * 64))
    assert golden_of_images(storage, tiny, VERSION) == made
    assert json.loads(file.read_text())["golden"]["samples"] == made.samples


def test_a_damaged_file_is_named(storage: Storage, tiny: EmbeddingSettings, file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_text("{")
    with pytest.raises(RunError, match=rf"_models/{VERSION}\.json: expected golden vectors, .*remove the file"):
        golden_of_images(storage, tiny, VERSION)


def test_texts_have_golden_vectors_too(storage: Storage) -> None:
    settings = load("conf/local.yaml").text
    made = golden_of_texts(storage, settings, VERSION)
    assert {len(row) for row in made.vectors} == {384}
    assert golden_of_texts(storage, settings, VERSION) == made
