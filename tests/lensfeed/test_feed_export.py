"""An export is whole or it is none, holds exactly the snapshot's feed, and vouches for every byte of it."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any, get_args

import lance
import numpy as np
import pytest
from pyarrow import fs

from lensfeed import Snapshot, SnapshotError, changes_to, export, feed_vectors, load_export
from lensfeed.feed_export import ExportError, Format
from tests.lensfeed.tiny_warehouse import DIMENSION, TinyWarehouse, feed_row

FORMATS = pytest.mark.parametrize("kind", get_args(Format))


@pytest.fixture
def snapshot(warehouse: TinyWarehouse) -> Snapshot:
    """Four live rows in two files."""
    warehouse.write("index_feed", [feed_row(n) for n in (1, 2, 3)])
    warehouse.write("index_feed", [feed_row(n) for n in (4, 2**62)])
    warehouse.delete("index_feed", "feed_id", 2)
    warehouse.event("run", "published")
    return Snapshot.open(warehouse.root)


@FORMATS
def test_an_export_is_the_feed_with_a_manifest(snapshot: Snapshot, tmp_path: Path, kind: Format) -> None:
    manifest = export(snapshot, tmp_path / "out", kind)
    loaded = load_export(str(tmp_path / "out"))
    feed_ids, vectors = feed_vectors(snapshot)
    assert loaded.feed_ids.tolist() == feed_ids.tolist()
    assert loaded.vectors.dtype == np.float32
    assert np.array_equal(loaded.vectors, vectors)
    assert loaded.manifest == manifest == json.loads((tmp_path / "out/manifest.json").read_text())
    facts = ("run_id", "model_version", "text_model_version", "dimension", "metric", "count", "format")
    assert [manifest[name] for name in facts] == ["run", "model-1", "text-1", DIMENSION, "cosine", 4, kind]
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
    assert len(changes_to(snapshot, loaded.feed_ids, loaded.columns["row_digest"])) == 0


@pytest.mark.parametrize("scheme", ["file:", "file://"])
def test_a_local_uri_is_no_name_of_a_folder_however_many_slashes_it_has(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export(snapshot, f"{scheme}{tmp_path}/out")
    assert list((tmp_path / "here").iterdir()) == []
    assert (tmp_path / "out/manifest.json").is_file()
    assert len(load_export(f"{scheme}{tmp_path}/out").feed_ids) == 4


def test_a_place_that_is_none_is_refused_in_words(snapshot: Snapshot, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExportError, match="file/out: expected a folder that can be written to"):
        export(snapshot, tmp_path / "file/out")
    for uri in ("nowhere://x/y", "file:///with space"):
        with pytest.raises(ExportError, match=f"{uri}: expected a path, or a URI that Arrow knows"):
            export(snapshot, uri)
        with pytest.raises(ExportError, match=f"{uri}: expected a path, or a URI that Arrow knows"):
            load_export(uri)


def test_no_name_is_not_the_working_directory(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ExportError, match="folder: expected a path or URI, found ''"):
        export(snapshot, "")
    with pytest.raises(ExportError, match="folder: expected a path or URI, found ''"):
        load_export("")
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("folder", [".", "../here", Path(), "link"])
def test_the_working_directory_is_not_taken_away_from_under_whoever_is_in_it(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str | Path
) -> None:
    """An export is moved there in one step, and the folder that the process is in would be gone."""
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ExportError, match="expected another folder than the working directory"):
        export(snapshot, tmp_path / "link" if folder == "link" else folder)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir() and path.name.startswith("here")) == [
        "here"
    ]
    assert list(Path().iterdir()) == list((tmp_path / "here").iterdir()) == []
    export(snapshot, "out")
    monkeypatch.chdir("out")
    assert len(load_export(".").feed_ids) == 4


def test_what_cannot_be_a_name_is_refused_in_words(snapshot: Snapshot, tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for name, why in (("a\0b", "null byte"), ("a\udcff", "surrogates not allowed"), ("round", "loop")):
        with pytest.raises(ExportError, match=f"expected a path, or a URI that Arrow knows: .*{why}"):
            export(snapshot, f"{tmp_path}/{name}")
        with pytest.raises(ExportError, match=f"expected a path, or a URI that Arrow knows: .*{why}"):
            load_export(f"{tmp_path}/{name}")


def test_lance_searches_what_it_is_given(snapshot: Snapshot, tmp_path: Path) -> None:
    export(snapshot, tmp_path / "out", "lance", ["feed_id", "vector", "title"])
    feed_ids, vectors = feed_vectors(snapshot)
    dataset = lance.dataset(str(tmp_path / "out" / "feed.lance"))
    nearest = {"column": "vector", "q": vectors[2], "k": 1, "metric": "cosine"}
    assert dataset.to_table(columns=["feed_id"], nearest=nearest)["feed_id"].to_pylist() == [feed_ids[2]]


@FORMATS
def test_columns_are_those_asked_for(snapshot: Snapshot, tmp_path: Path, kind: Format) -> None:
    export(snapshot, tmp_path / "out", kind, ["has_text", "feed_id", "text_vector", "width"])
    loaded = load_export(tmp_path / "out")
    assert {name: column.dtype.kind for name, column in loaded.columns.items()} == {
        "has_text": "b",
        "feed_id": "i",
        "text_vector": "f",
        "width": "i",
    }
    assert loaded.columns["has_text"].tolist() == [n % 2 == 0 for n in loaded.feed_ids.tolist()]
    with pytest.raises(KeyError):
        _ = loaded.vectors


@FORMATS
def test_an_empty_feed_is_exported_too(warehouse: TinyWarehouse, tmp_path: Path, kind: Format) -> None:
    warehouse.event("run", "published")
    manifest = export(Snapshot.open(warehouse.root), tmp_path / "out", kind)
    loaded = load_export(tmp_path / "out")
    assert (manifest["count"], manifest["dimension"]) == (0, None)
    assert (loaded.feed_ids.shape, loaded.vectors.shape) == ((0,), (0, 0))


@FORMATS
def test_texts_go_into_parquet_and_not_into_arrays(snapshot: Snapshot, tmp_path: Path, kind: Format) -> None:
    if kind == "npy":
        with pytest.raises(SnapshotError, match=r"columns \['title'\] .* export them as parquet"):
            export(snapshot, tmp_path / "out", kind, ["feed_id", "title"])
        assert not (tmp_path / "out").exists()
    else:
        export(snapshot, tmp_path / "out", kind, ["feed_id", "title"])
        titles = load_export(tmp_path / "out").columns["title"]
        assert sorted(title or "" for title in titles) == ["", "", "picture 4", f"picture {2**62}"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"columns": ["vector"]}, "expected feed_id among them"),
        ({"columns": []}, "expected a list of one or more"),
        ({"columns": ["feed_id", "colour"]}, r"has no column \['colour'\]"),
        ({"format": "csv"}, "format: expected 'npy', 'parquet' or 'lance', found 'csv'"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(
    snapshot: Snapshot, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(SnapshotError, match=message):
        export(snapshot, tmp_path / "out", **given)
    assert not list(tmp_path.glob("out*"))


def test_a_folder_in_use_is_left_alone(snapshot: Snapshot, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(snapshot, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ExportError, match="expected a new or empty folder"):
        export(snapshot, tmp_path / "out", "parquet")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@FORMATS
def test_an_export_that_fails_half_way_leaves_nothing(warehouse: TinyWarehouse, tmp_path: Path, kind: Format) -> None:
    warehouse.write("index_feed", [feed_row(1)])
    warehouse.write("index_feed", [feed_row(2, vector=[1.0])])
    warehouse.event("run", "published")
    with pytest.raises(SnapshotError, match="expected one length in vector, found"):
        export(Snapshot.open(warehouse.root), tmp_path / "out", kind)
    assert not list(tmp_path.glob("out*"))


def test_what_killed_exports_left_goes_with_the_next_one_once_nobody_can_be_writing_it(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    def draft(name: str, hours: float, *, inside: float) -> Path:
        (tmp_path / name / "feed.lance").mkdir(parents=True)
        (tmp_path / name / "feed.lance/data").write_text("half")
        then = time.time() - hours * 3600
        for path, ago in ((tmp_path / name / "feed.lance/data", inside), (tmp_path / name / "feed.lance", hours)):
            os.utime(path, (time.time() - ago * 3600,) * 2)
        os.utime(tmp_path / name, (then, then))
        return tmp_path / name

    old = draft(f"out.{'a' * 32}.part", 25, inside=25)
    kept = [
        draft(f"out.{'b' * 32}.part", 25, inside=1),  # somebody writes it
        draft(f"out.{'c' * 32}.part", 1, inside=25),
        draft(f"out.x.{'d' * 32}.part", 25, inside=25),  # of another folder
        draft("out.notes.part", 25, inside=25),  # none of ours
        draft(f"elsewhere.{'e' * 32}", 25, inside=25),
    ]
    (tmp_path / f"out.{'f' * 32}.part").symlink_to(tmp_path / f"elsewhere.{'e' * 32}")
    export(snapshot, tmp_path / "out")
    assert not old.exists()
    assert all((path / "feed.lance/data").is_file() for path in kept)
    assert (tmp_path / f"out.{'f' * 32}.part").is_symlink()


@FORMATS
def test_any_changed_byte_is_found(snapshot: Snapshot, tmp_path: Path, kind: Format) -> None:
    export(snapshot, tmp_path / "out", kind)
    files = {"npy": "vector.npy", "parquet": "feed.parquet", "lance": "feed.lance/data/*.lance"}
    file = next((tmp_path / "out").glob(files[kind]))
    sound = file.read_bytes()
    file.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(ExportError, match=f"{file.name}: bytes and SHA-256 expected .*, found"):
        load_export(tmp_path / "out")
    file.unlink()
    with pytest.raises(ExportError, match="found no such file"):
        load_export(tmp_path / "out")


def test_a_folder_without_a_sound_manifest_is_no_export(snapshot: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no manifest\.json: not an export, or one that was not finished"):
        load_export(tmp_path)
    export(snapshot, tmp_path / "out")
    path = tmp_path / "out/manifest.json"
    manifest = json.loads(path.read_text())
    for changed, message in (
        (
            {"files": [{"name": "../secret", "bytes": 1, "sha256": "0"}]},
            r"expected the files .*, found \['\.\./secret'",
        ),
        ({"format_version": 2}, "expected format_version 1, found 2"),
        ({"count": 3}, "expected columns of 3 rows, found"),
        ({"files": 1}, "not that of an export: TypeError"),
        ({"format": "csv"}, "format: expected one of npy, parquet, lance, found 'csv'"),
        ({"format": None}, "format: expected one of npy, parquet, lance, found None"),
        ({"columns": ["../x"]}, r"columns: expected those of index_feed, found \['../x'\]"),
    ):
        path.write_text(json.dumps(manifest | changed))
        with pytest.raises(ExportError, match=message):
            load_export(tmp_path / "out")


@FORMATS
def test_another_file_system_takes_it_as_well(snapshot: Snapshot, tmp_path: Path, kind: Format) -> None:
    place = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    if kind == "lance":
        with pytest.raises(SnapshotError, match="Lance has file systems of its own"):
            export(snapshot, "out", kind, filesystem=place)
        return
    export(snapshot, "out", kind, filesystem=place)
    loaded = load_export("out", filesystem=place)
    assert np.array_equal(loaded.vectors, feed_vectors(snapshot)[1])


def test_what_is_no_folder_is_neither_exported_into_nor_loaded(snapshot: Snapshot, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ExportError, match="expected a new or empty folder, found a file"):
        export(snapshot, tmp_path / "out")
    with pytest.raises(ExportError, match=r"no manifest\.json: not an export"):
        load_export(tmp_path / "out")


def test_a_link_to_an_empty_folder_is_one(snapshot: Snapshot, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    export(snapshot, tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert len(load_export(tmp_path / "elsewhere").feed_ids) == 4


@pytest.mark.parametrize("name", ["a b", "100%25", "ä#?&", "-x", "a\\b", "two\nlines", "x" * 200])
def test_a_folder_of_any_name_is_exported_into(snapshot: Snapshot, tmp_path: Path, name: str) -> None:
    export(snapshot, tmp_path / name)
    assert len(load_export(tmp_path / name).feed_ids) == 4


def test_a_folder_that_nothing_can_be_moved_to_is_told_as_such(
    snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(source: Path, target: str) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(ExportError, match=r"cannot be moved there \(Device or resource busy\): name a new folder"):
        export(snapshot, tmp_path / "out")
    assert list(tmp_path.glob("out*")) == []


@FORMATS
def test_a_disk_without_room_leaves_nothing_and_says_so(
    snapshot: Snapshot, tmp_path: Path, kind: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "lance":
        pytest.skip("Lance writes by itself")

    def full(stream: Any, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lensfeed.feed_export._Hashed.write", full)
    with pytest.raises(OSError, match="No space left on device"):
        export(snapshot, tmp_path / "out", kind)
    assert list(tmp_path.glob("out*")) == []
