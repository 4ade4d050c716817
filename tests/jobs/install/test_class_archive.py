"""Where the class archive is put, without a JVM."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from jobs.install import class_archive


@pytest.fixture
def jvm(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """A session's JVM that writes an archive on its way out, as told."""
    builder = MagicMock()
    process: MagicMock = builder.config().getOrCreate().sparkContext._gateway.proc

    def local_builder(master: str, jars: Path, option: str) -> MagicMock:
        del master, jars
        process.wait.side_effect = lambda **_: Path(option.partition("=")[2]).write_bytes(b"classes")
        return builder

    monkeypatch.setattr(class_archive, "local_builder", local_builder)
    monkeypatch.setattr(class_archive, "exercise", lambda *_: None)
    return process


def test_an_archive_takes_its_place_whole_in_a_folder_that_need_not_be_there(
    jvm: MagicMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del jvm
    into = tmp_path / "assets/spark.jsa"
    assert class_archive.main(["--into", str(into)]) == 0
    assert into.read_bytes() == b"classes"

    def full(source: Any, target: Any, **_: Any) -> None:
        Path(target).write_bytes(b"cl")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    monkeypatch.setattr("os.rename", full)  # as between two file systems
    with pytest.raises(OSError, match="No space left"):
        class_archive.main(["--into", str(into)])
    assert [(path.name, path.read_bytes()) for path in into.parent.iterdir()] == [("spark.jsa", b"classes")]


def test_a_jvm_that_writes_none_is_told_in_words(
    jvm: MagicMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(*_: Any) -> None:
        jvm.wait.side_effect = None

    monkeypatch.setattr(class_archive, "exercise", killed)
    assert class_archive.main(["--into", str(tmp_path / "spark.jsa")]) == 1
    assert "error: the JVM ended without an archive of its classes" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
