import hashlib
import re
from pathlib import Path

import pytest
from pyspark import SparkFiles, TaskContext

from schemas.settings import AssetSettings, EmbeddingSettings, TextSettings
from udfs.assets import AssetError, assets_of, locate, shipped_name


def pinned(path: Path, content: bytes) -> AssetSettings:
    return AssetSettings(path=str(path), sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def in_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process looks like a Spark worker running a task, as pyspark.worker sets it up; the folder of its files."""
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    monkeypatch.setattr(SparkFiles, "_is_running_on_worker", True)
    monkeypatch.setattr(SparkFiles, "_root_directory", str(shipped))
    monkeypatch.setattr(TaskContext, "_taskContext", None)
    TaskContext()  # registers itself as the process's current one
    return shipped


def test_outside_a_task_the_path_itself_is_taken(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"weights")
    assert locate(pinned(tmp_path / "weights.bin", b"weights")) == tmp_path / "weights.bin"


def test_in_a_task_the_shipped_copy_is_taken_even_where_the_drivers_path_does_not_exist(in_a_task: Path) -> None:
    settings = pinned(Path("/driver/only/weights.bin"), b"weights")
    (in_a_task / shipped_name(settings)).write_bytes(b"weights")
    assert locate(settings) == in_a_task / shipped_name(settings)


def test_in_a_task_a_file_that_was_not_shipped_is_taken_from_its_path(in_a_task: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"weights")
    assert locate(pinned(tmp_path / "weights.bin", b"weights")) == tmp_path / "weights.bin"


def test_two_files_of_one_name_are_shipped_under_two() -> None:
    one, other = (pinned(Path(f"/{content}/model.safetensors"), content.encode()) for content in ("one", "other"))
    assert shipped_name(one) != shipped_name(other)
    assert shipped_name(one).endswith("-model.safetensors")


def test_a_shipped_file_with_other_content_is_refused(in_a_task: Path) -> None:
    settings = pinned(Path("/driver/only/replaced.bin"), b"weights")
    (in_a_task / shipped_name(settings)).write_bytes(b"other")
    with pytest.raises(AssetError, match="SHA-256"):
        locate(settings)


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    settings = pinned(tmp_path / "weights.bin", b"weights")
    with pytest.raises(AssetError, match=re.escape(f"{tmp_path}/weights.bin: no such file; run `make setup`")):
        locate(settings)


def test_another_digest_is_refused_naming_both_and_taken_once_repaired(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"other")
    settings = pinned(path, b"weights")
    with pytest.raises(AssetError) as raised:
        locate(settings)
    assert settings.sha256 in str(raised.value)
    assert hashlib.sha256(b"other").hexdigest() in str(raised.value)
    path.write_bytes(b"weights")
    assert locate(settings) == path


def test_the_digest_is_computed_once_per_process(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights")
    settings = pinned(path, b"weights")
    locate(settings)
    hits = locate.cache_info().hits
    locate(AssetSettings(path=settings.path, sha256=settings.sha256))
    assert locate.cache_info().hits == hits + 1


def test_assets_are_found_wherever_settings_name_them() -> None:
    weights, words = pinned(Path("w"), b"weights"), pinned(Path("t"), b"words")
    assert dict(assets_of(EmbeddingSettings(weights=weights, licence="none"))) == {"weights": weights}
    text = TextSettings(weights=weights, tokenizer=words, licence="none")
    assert dict(assets_of(text, "text.")) == {"text.weights": weights, "text.tokenizer": words}


def test_a_file_that_cannot_be_read_is_told_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "weights.bin").write_bytes(b"weights")
    monkeypatch.setattr("udfs.assets.sha256_of", refuse)
    with pytest.raises(AssetError, match=r"weights\.bin: cannot be read \(Permission denied\)"):
        locate(pinned(tmp_path / "weights.bin", b"weights"))
    with pytest.raises(AssetError, match=r"cannot be read \(File name too long\)"):
        locate(pinned(tmp_path / ("x" * 300), b"weights"))
