"""Files come to the driver from anywhere, once, and only the pinned ones."""

import hashlib
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from pyspark.sql import SparkSession

from jobs.config.errors import UsageError
from jobs.config.profile import Config, load
from jobs.startup import assets
from jobs.startup.assets import brought, copy_from_hadoop, local_assets
from schemas.settings import AssetSettings

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the folder does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lensfeed"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Stands in for the hub: every file is there; what it was asked for."""
    asked: list[tuple[Any, ...]] = []
    (tmp_path / "blob").write_bytes(CONTENT)

    def download(repository: str, file: str, revision: str | None) -> str:
        asked.append((repository, file, revision))
        return str(tmp_path / "blob")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def with_weights(path: str, sha256: str = SHA256) -> Config:
    """The local profile with other weights of the visual tower."""
    return load("conf/local.yaml", [f"embedding.weights.path={path}", f"embedding.weights.sha256={sha256}"])


def test_local_paths_stay_as_they_are() -> None:
    assert local_assets(load("conf/local.yaml")) == load("conf/local.yaml")


def test_a_file_address_becomes_its_path() -> None:
    assert local_assets(with_weights("file:///models/a%20b.bin")).embedding.weights.path == "/models/a b.bin"


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("hf-hub:timm/resnet50.a1_in1k", ("timm/resnet50.a1_in1k", "model.safetensors", None)),
        ("hf-hub:org/repo/sub/clip.bin", ("org/repo", "sub/clip.bin", None)),
        ("hf-hub:org/repo@v1.0/clip.bin", ("org/repo", "clip.bin", "v1.0")),
        ("timm:vit_base_patch16_clip_quickgelu_224.openai",
         ("timm/vit_base_patch16_clip_224.openai", "model.safetensors", None)),
    ],
)  # fmt: skip
def test_the_hub_is_asked_once_for_what_the_address_names(
    hub: list[tuple[Any, ...]], cache: Path, path: str, asked: tuple[Any, ...]
) -> None:
    found = local_assets(with_weights(path)).embedding.weights
    assert Path(found.path) == cache / SHA256 / Path(asked[1]).name
    assert Path(found.path).read_bytes() == CONTENT
    assert local_assets(with_weights(path)).embedding.weights == found
    assert hub == [asked]


def test_another_file_than_the_pinned_one_is_refused_and_not_kept(hub: list[tuple[Any, ...]], cache: Path) -> None:
    with pytest.raises(
        UsageError, match=f"embedding.weights: hf-hub:org/repo: SHA-256 expected {'f' * 64}, found {SHA256}"
    ):
        local_assets(with_weights("hf-hub:org/repo", "f" * 64))
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_damaged_copy_in_the_cache_is_fetched_again(hub: list[tuple[Any, ...]]) -> None:
    kept = Path(local_assets(with_weights("hf-hub:org/repo")).embedding.weights.path)
    kept.write_bytes(b"damaged")
    local_assets(with_weights("hf-hub:org/repo"))
    assert kept.read_bytes() == CONTENT


def test_a_hub_that_cannot_be_asked_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("Cannot find the file.\nOutgoing traffic is disabled.")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(UsageError, match=r"embedding\.weights: hf-hub:org/repo cannot be fetched: Local.*the file\.$"):
        local_assets(with_weights("hf-hub:org/repo"))


@pytest.mark.parametrize("path", ["hf-hub:repo", "timm:resnet50.nope", "timm:legacy_senet154.in1k"])
def test_an_address_that_names_no_repository_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match=r"embedding\.weights: .*(expected hf-hub:ORG/REPO|timm)"):
        local_assets(with_weights(path))


def test_any_settings_are_brought_and_need_no_profile_for_the_hub(hub: list[tuple[Any, ...]]) -> None:
    embedding = brought(with_weights("timm:resnet50.a1_in1k").embedding, None)
    assert Path(embedding.weights.path).read_bytes() == CONTENT
    assert hub == [("timm/resnet50.a1_in1k", "model.safetensors", None)]


def test_a_file_system_of_hadoops_without_a_profile_is_refused_with_what_is_missing() -> None:
    embedding = with_weights("s3a://bucket/w.bin").embedding
    with pytest.raises(
        UsageError, match=r"^weights: s3a://bucket/w\.bin: expected a profile .*s3a://, found none; .*--pro"
    ):
        brought(embedding, None)


def test_the_hub_is_asked_before_the_session_takes_the_process_off_it(
    hub: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_before: list[int] = []

    def copy(_: Any, address: str, into: Path) -> None:
        asked_before.append(len(hub))
        into.write_bytes(CONTENT)

    monkeypatch.setattr(assets, "open_session", lambda _: None)
    monkeypatch.setattr(assets, "copy_from_hadoop", copy)
    config = with_weights("s3a://bucket/w.bin")
    text = config.text.model_copy(update={"weights": AssetSettings(path="hf-hub:org/repo", sha256=SHA256)})
    found = local_assets(config.model_copy(update={"text": text}))
    assert asked_before == [1]
    assert Path(found.embedding.weights.path).read_bytes() == CONTENT


@pytest.mark.spark
def test_hadoops_file_systems_are_read_whole(spark: SparkSession, tmp_path: Path) -> None:
    source = tmp_path / "there" / "weights.bin"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    (tmp_path / "here").mkdir()
    copy_from_hadoop(spark, source.as_uri(), tmp_path / "here" / "weights.bin")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["weights.bin"]
    assert (tmp_path / "here" / "weights.bin").read_bytes() == CONTENT


@pytest.mark.spark
def test_an_unknown_file_system_is_a_clear_error(spark: SparkSession) -> None:
    with pytest.raises(UsageError, match=r"embedding\.weights: nowhere://bucket/w\.bin cannot be fetched: .*nowhere"):
        local_assets(with_weights("nowhere://bucket/w.bin"))
