"""Footers of Parquet files that somebody has damaged, without Spark."""

import io
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from jobs.config.errors import UsageError
from jobs.config.profile import ManifestSettings
from jobs.manifests import discovery
from jobs.manifests.files import Files


class LocalFiles(Files):
    """Looks into local files without Hadoop."""

    def __init__(self, spark: Any) -> None:
        del spark

    @contextmanager
    def _opened(self, path: str) -> Iterator[tuple[Any, int]]:
        data = Path(path).read_bytes()
        yield io.BytesIO(data), len(data)

    def _read(self, stream: Any, length: int) -> bytes:
        return bytes(stream.read(length))


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound file."""
    monkeypatch.setattr(discovery, "Files", LocalFiles)
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"url": ["https://a.example/"], "title": ["a"]}), path)
    find(path)
    return path


def find(path: Path) -> None:
    """The file as a manifest."""
    spark: Any = None
    discovery._find_parquet(spark, ManifestSettings(path=str(path)), str(path), str(path.parent), (str(path),))


def test_a_damaged_footer_is_refused_by_the_name_of_its_file(path: Path) -> None:
    sound = path.read_bytes()
    footer = int.from_bytes(sound[-8:-4], "little")
    random.seed(1)
    refusals = []
    for _ in range(100):
        damaged = bytearray(sound)
        for place in random.sample(range(len(sound) - 8 - footer, len(sound) - 8), 3):
            damaged[place] = random.randrange(256)
        path.write_bytes(damaged)
        try:
            find(path)  # it may still be one
        except UsageError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert [one for one in refusals if not one.startswith(f"manifest {path}: ") or "\n" in one] == []


def test_a_column_whose_name_is_no_text_is_refused_by_the_name_of_its_file(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"title", b"t\xeftle"))
    with pytest.raises(UsageError, match=f"manifest {path}: cannot be read as parquet: .*utf-8"):
        find(path)
