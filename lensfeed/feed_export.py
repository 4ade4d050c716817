"""A feed as plain files, for index builders that do not read Delta: ids, vectors, and a manifest that vouches for them.

    folder/
        manifest.json     run, models, metric, count, and size and SHA-256 of every other file; written last
        feed_id.npy       and vector.npy, ...: a file a column, rows in one order (format npy)
        feed.parquet      all columns (format parquet)
        feed.lance/       all columns, a Lance dataset (format lance)

A folder without a manifest is no export, whatever else is in it: it was not finished.
"""

import errno
import hashlib
import json
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs
from pyarrow import parquet as pq

from lensfeed.feed import Ids, Vectors, vector_matrix
from lensfeed.lance_files import DATASET, read_lance, write_lance
from lensfeed.snapshot import Snapshot, SnapshotError, arrow_schema, named_columns
from schemas.tables import INDEX_FEED

Format = Literal["npy", "parquet", "lance"]
MANIFEST = "manifest.json"
FORMAT_VERSION = 1
DEFAULT_COLUMNS = ("feed_id", "row_digest", "vector")
"""What an index needs: `row_digest` tells what changed since, without any history (`lensfeed.changes_to`)."""

_PARQUET = "feed.parquet"
_DIGEST_LENGTH = 64
_DTYPES = {"bigint": "<i8", "int": "<i4", "double": "<f8", "boolean": "?", "array<float>": "<f4"}
_PIECE = 2**22
_DRAFT = r"\.[0-9a-f]{32}\.part"
_ABANDONED_S = 24 * 3600
"""Without a byte written: no export stands still for so long, nor is a file server's clock so far from ours."""


class ExportError(SnapshotError):
    """The folder is no finished export, or not what its manifest says; or it cannot be exported into."""


@dataclass(frozen=True)
class Export:
    """An export that is whole: every file has the size and the digest that the manifest names."""

    manifest: Mapping[str, Any]
    """`run_id, published_at, model_version, text_model_version, dimension, metric, count, columns, files`."""
    columns: Mapping[str, NDArray[Any]]
    """By name, rows in one order; those of a local npy export are memory maps."""

    @property
    def feed_ids(self) -> Ids:
        """(N,) int64."""
        return self.columns["feed_id"]

    @property
    def vectors(self) -> Vectors:
        """(N, D) float32, unit; KeyError where `vector` was not exported."""
        return self.columns["vector"]


def export(
    snapshot: Snapshot,
    folder: str | PathLike[str],
    format: Format = "npy",  # noqa: A002 - what every exporter calls it
    columns: Sequence[str] = DEFAULT_COLUMNS,
    filesystem: fs.FileSystem | None = None,
) -> dict[str, Any]:
    """Write the snapshot's feed into a folder, a batch at a time; returns the manifest.

    `folder`: a path or a URI that Arrow knows, or a path of `filesystem` (any of pyarrow's; for fsspec's wrap them in
    `pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(...))`). It must be new or empty. A local one appears under its
    name when it is whole, elsewhere the manifest does; what a killed export left beside it (`FOLDER.HEX.part`) goes
    with the next one of the same name, once nothing was written to it for a day. `columns`: of `index_feed`, `feed_id`
    among them; `npy` takes numbers, flags, vectors and `row_digest`; `lance` needs pylance and a local folder. Raises
    ExportError for a folder that is in use, or cannot be made, SnapshotError for columns that are unknown or do not fit
    the format, and where vectors differ in length.
    """
    names = named_columns(INDEX_FEED, columns)
    schema = arrow_schema(INDEX_FEED, names)
    if "feed_id" not in names:
        raise SnapshotError(f"columns of an export: expected feed_id among them, found {list(names)}")
    if format not in get_args(Format):
        raise SnapshotError(f"format: expected 'npy', 'parquet' or 'lance', found {format!r}")
    if format == "npy" and (unfit := [name for name in names if _dtype(name) is None]):
        raise SnapshotError(f"columns {unfit} of index_feed do not fit into arrays of numbers: export them as parquet")
    place, path = _place(folder, filesystem)
    if place.get_file_info(path).is_file or place.get_file_info(fs.FileSelector(path, allow_not_found=True)):
        raise ExportError(f"{folder}: expected a new or empty folder, found a file or a folder with files in it")
    local = isinstance(place, fs.LocalFileSystem)
    if format == "lance" and not local:
        raise SnapshotError(f"{folder}: Lance has file systems of its own: export into a local folder, and copy that")
    if local and Path(path).is_dir() and Path(path).samefile("."):  # whoever is in it would be in one that is gone
        raise ExportError(f"{folder}: expected another folder than the working directory, whose place an export takes")
    if local:
        _sweep(Path(path))
    # Nothing moves in one step on an object store; there the manifest comes last, and without it there is no export.
    written_to = f"{path}.{uuid.uuid4().hex}.part" if local else path
    try:
        place.create_dir(written_to)
    except OSError as error:
        raise ExportError(f"{folder}: expected a folder that can be written to: {error}") from error
    try:
        writers = {"npy": _write_arrays, "parquet": _write_parquet, "lance": _write_lance}
        count, shapes, files = writers[format](snapshot, place, written_to, schema)
        manifest = {
            "format_version": FORMAT_VERSION,
            "format": format,
            "run_id": snapshot.run_id,
            "published_at": snapshot.published_at.isoformat(),
            "model_version": snapshot.model_version,
            "text_model_version": snapshot.text_model_version,
            "dimension": shapes.get("vector"),
            "metric": "cosine",
            "count": count,
            "columns": list(names),
            "files": files,
        }
        with place.open_output_stream(f"{written_to}/{MANIFEST}") as stream:
            stream.write(json.dumps(manifest, indent=1).encode() + b"\n")
        if local:
            _rename(written_to, path, folder)
    except BaseException:
        if local:
            place.delete_dir(written_to)
        raise
    return manifest


def load_export(folder: str | PathLike[str], filesystem: fs.FileSystem | None = None) -> Export:
    """What `export` wrote, once every file is found to be what the manifest says.

    Raises ExportError where there is no manifest (it was not finished, or is none), where a file is missing or has
    another size or SHA-256, and where columns are not as long as the manifest says.
    """
    place, path = _place(folder, filesystem)
    try:
        with place.open_input_stream(f"{path}/{MANIFEST}") as stream:
            manifest = json.loads(stream.read())
        version, count, names = manifest["format_version"], manifest["count"], manifest["columns"]
        files = {file["name"]: (file["bytes"], file["sha256"]) for file in manifest["files"]}
        expected = _expected_files(manifest["format"], names, files)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ExportError(f"{folder}: no {MANIFEST}: not an export, or one that was not finished") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{folder}/{MANIFEST}: not that of an export: {type(error).__name__}: {error}") from error
    if version != FORMAT_VERSION:
        raise ExportError(f"{folder}/{MANIFEST}: expected format_version {FORMAT_VERSION}, found {version!r}")
    if sorted(files) != sorted(expected):
        raise ExportError(f"{folder}/{MANIFEST}: expected the files {sorted(expected)}, found {sorted(files)}")
    for name, facts in files.items():
        found = _digest(place, f"{path}/{name}")
        if found != facts:
            raise ExportError(f"{folder}/{name}: bytes and SHA-256 expected {facts}, found {found or 'no such file'}")
    if manifest["format"] == "npy":
        columns = _read_arrays(place, path, names)
    elif manifest["format"] == "parquet":
        table = pq.read_table(f"{path}/{_PARQUET}", columns=list(names), filesystem=place)
        columns = _arrays_of(table, names)
    else:
        columns = _arrays_of(read_lance(f"{path}/{DATASET}", names), names)
    if lengths := {name: len(column) for name, column in columns.items() if len(column) != count}:
        raise ExportError(f"{folder}: expected columns of {count} rows, found {lengths}")
    return Export(manifest, columns)


def _expected_files(format_: str, names: Sequence[str], found: Iterable[str]) -> list[str]:
    """What an export of those columns is made of. The files of a Lance dataset are named by chance.

    Raises ValueError for a format or columns that no export has.
    """
    if format_ not in get_args(Format):
        raise ValueError(f"format: expected one of {', '.join(get_args(Format))}, found {format_!r}")
    if unknown := [name for name in names if name not in INDEX_FEED.column_names]:
        raise ValueError(f"columns: expected those of {INDEX_FEED.name}, found {unknown}")
    if format_ == "parquet":
        return [_PARQUET]
    if format_ == "lance":
        return [name for name in found if name.startswith(f"{DATASET}/") and ".." not in name.split("/")]
    return [f"{name}.npy" for name in names]


def _dtype(name: str) -> str | None:
    """The numpy dtype of a column's elements; None for one that does not fit into arrays."""
    if name == "row_digest":
        return f"S{_DIGEST_LENGTH}"
    column = INDEX_FEED.column(name)
    return None if column.nullable else _DTYPES.get(column.type)


def _place(folder: str | PathLike[str], filesystem: fs.FileSystem | None) -> tuple[fs.FileSystem, str]:
    given = fspath(folder)
    if filesystem is not None:
        return filesystem, given.rstrip("/")
    if not given:  # the working directory's, to Path
        raise ExportError("folder: expected a path or URI, found ''")
    if "://" in given or given.startswith("file:/"):  # as Hadoop writes local ones
        try:
            place, path = fs.FileSystem.from_uri(given)
        except (ValueError, pa.ArrowNotImplementedError) as error:
            raise ExportError(f"{folder}: expected a path, or a URI that Arrow knows: {error}") from error
        return place, path.rstrip("/")
    try:
        path = str(Path(given).resolve())  # a link to a folder stays one
        path.encode()  # as Arrow does
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links is a RuntimeError
        raise ExportError(f"{folder}: expected a path, or a URI that Arrow knows: {error}") from error
    return fs.LocalFileSystem(), path


def _sweep(folder: Path) -> None:
    """Take away what killed exports into the folder left beside it. A link is none of it: it would name what is
    somebody else's."""
    drafts = re.compile(re.escape(folder.name) + _DRAFT)
    for path in folder.parent.glob("*"):
        if not drafts.fullmatch(path.name) or path.is_symlink():
            continue
        with suppress(OSError):  # another export takes it away, too, or it is not ours to delete
            written = max(one.lstat().st_mtime for one in (path, *path.rglob("*")))
            if time.time() - written > _ABANDONED_S:
                shutil.rmtree(path)


def _rename(source: str, target: str, folder: object) -> None:
    try:
        Path(source).rename(target)  # onto an empty folder too, and onto no other
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
            raise ExportError(
                f"{folder}: expected a new or empty folder, found another export made meanwhile"
            ) from error
        raise ExportError(
            f"{folder}: the export, made beside it, cannot be moved there ({error.strerror}): name a new folder, which "
            "is no mount point"
        ) from error


class _Hashed:
    """A stream that digests what is written to it."""

    def __init__(self, place: fs.FileSystem, path: str) -> None:
        self._stream = place.open_output_stream(path)
        self._sha256 = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        piece = memoryview(data).cast("B")
        self._stream.write(piece)
        self._sha256.update(piece)
        self.bytes += len(piece)
        return len(piece)

    def close(self) -> None:
        self._stream.close()
        self.closed = True

    def flush(self) -> None:
        self._stream.flush()

    def described(self, name: str) -> dict[str, Any]:
        return {"name": name, "bytes": self.bytes, "sha256": self._sha256.hexdigest()}


@contextmanager
def _hashed(place: fs.FileSystem, path: str) -> Iterator[_Hashed]:
    stream = _Hashed(place, path)
    try:
        yield stream
    finally:
        stream.close()


_Written = tuple[int, dict[str, int], list[dict[str, Any]]]
"""Rows, dimensions of the vector columns, and the files as the manifest has them."""


def _write_arrays(snapshot: Snapshot, place: fs.FileSystem, path: str, schema: pa.Schema) -> _Written:
    count, written = snapshot.row_count(INDEX_FEED.name), 0
    shapes: dict[str, int] = {}
    with ExitStack() as stack:
        streams = {name: stack.enter_context(_hashed(place, f"{path}/{name}.npy")) for name in schema.names}

        def write_head(name: str, block: NDArray[Any]) -> None:
            shape = (count, *block.shape[1:])
            described = {"descr": _dtype(name), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(streams[name], described)  # type: ignore[no-untyped-call]

        for batch in snapshot.batches(INDEX_FEED.name, schema.names):
            for name in schema.names:
                block = _array(name, batch.column(name))
                if not written:
                    write_head(name, block)
                    shapes |= {name: block.shape[1]} if block.ndim == 2 else {}
                elif block.ndim == 2 and block.shape[1] != shapes[name]:
                    raise SnapshotError(f"expected one length in {name}, found {shapes[name]} and {block.shape[1]}")
                streams[name].write(np.ascontiguousarray(block, _dtype(name)))
            written += batch.num_rows
        if not written:
            for name in schema.names:
                vectors = INDEX_FEED.column(name).type == "array<float>"
                write_head(name, np.empty((0, 0) if vectors else 0))
    files = [stream.described(f"{name}.npy") for name, stream in streams.items()]
    return written, shapes, files


def _write_parquet(snapshot: Snapshot, place: fs.FileSystem, path: str, schema: pa.Schema) -> _Written:
    written = 0
    shapes: dict[str, int] = {}
    vectors = [name for name in schema.names if INDEX_FEED.column(name).type == "array<float>"]
    plain = [name for name in schema.names if name not in {*vectors, "feed_id", "row_digest"}]
    with (
        _hashed(place, f"{path}/{_PARQUET}") as stream,
        pq.ParquetWriter(
            pa.PythonFile(stream, "w"), schema, compression="zstd", use_dictionary=plain, write_statistics=["feed_id"]
        ) as writer,
    ):
        for batch in snapshot.batches(INDEX_FEED.name, schema.names):
            for name in vectors:
                dimension = vector_matrix(batch.column(name), name).shape[1]
                if shapes.setdefault(name, dimension) != dimension:
                    raise SnapshotError(f"expected one length in {name}, found {shapes[name]} and {dimension}")
            writer.write_batch(batch)
            written += batch.num_rows
    return written, shapes, [stream.described(_PARQUET)]


def _write_lance(snapshot: Snapshot, place: fs.FileSystem, path: str, schema: pa.Schema) -> _Written:
    batches = snapshot.batches(INDEX_FEED.name, schema.names)
    count, shapes = write_lance(batches, schema, f"{path}/{DATASET}")
    files = []
    for found in place.get_file_info(fs.FileSelector(f"{path}/{DATASET}", recursive=True)):
        digest = _digest(place, found.path) if found.is_file else None
        if digest is not None:
            name = str(Path(found.path).relative_to(path))
            files.append({"name": name, "bytes": digest[0], "sha256": digest[1]})
    return count, shapes, sorted(files, key=lambda file: str(file["name"]))


def _array(name: str, column: pa.Array) -> NDArray[Any]:
    if INDEX_FEED.column(name).type == "array<float>":
        return vector_matrix(column, name)
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    if name != "row_digest":
        return values
    digests = values.astype("S")
    if digests.dtype.itemsize > _DIGEST_LENGTH:
        raise SnapshotError(f"row_digest: expected at most {_DIGEST_LENGTH} bytes, found {digests.dtype.itemsize}")
    return digests


def _digest(place: fs.FileSystem, path: str) -> tuple[int, str] | None:
    """Size and SHA-256 of a file; None where there is none."""
    sha256, size = hashlib.sha256(), 0
    try:
        with place.open_input_stream(path) as stream:
            while piece := stream.read(_PIECE):
                sha256.update(piece)
                size += len(piece)
    except FileNotFoundError:
        return None
    return size, sha256.hexdigest()


def _read_arrays(place: fs.FileSystem, path: str, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    columns = {}
    for name in names:
        file = f"{path}/{name}.npy"
        try:
            if isinstance(place, fs.LocalFileSystem):
                columns[name] = _mapped(file)
            else:
                with place.open_input_file(file) as stream:
                    columns[name] = np.lib.format.read_array(  # type: ignore[no-untyped-call]
                        stream, allow_pickle=False
                    )
        except ValueError as error:
            raise ExportError(f"{file}: expected an array as numpy writes it: {error}") from error
    return columns


def _mapped(file: str) -> NDArray[Any]:
    array: NDArray[Any] = np.load(file, allow_pickle=False, mmap_mode="r")
    return array


def _arrays_of(table: pa.Table, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {}
    for name in names:
        column = table.column(name).combine_chunks()
        if INDEX_FEED.column(name).type == "array<float>":
            columns[name] = vector_matrix(column, name) if len(column) else np.empty((0, 0), np.float32)
        else:
            columns[name] = column.to_numpy(zero_copy_only=False)
    return columns
