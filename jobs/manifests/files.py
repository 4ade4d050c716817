"""A manifest's files as they lie on whatever file system, through Hadoop's API: how they begin, their Parquet footers,
their lines.

Local files are read without Hadoop's checksum files, whose names it cannot make for a name with a colon in it, and no
name is taken for a glob pattern.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import parquet
from pyspark.sql import DataFrame, DataFrameReader, SparkSession
from pyspark.sql import functions as f

_AT_ONCE = 16
"""Files that the driver looks into at a time: most of it is waiting for an object store."""
_RAW_LOCAL_FILES = {
    "fs.file.impl": "org.apache.hadoop.fs.RawLocalFileSystem",
    "fs.file.impl.disable.cache": "true",
}
_AS_THEY_ARE = {
    "__globPaths__": "false",
    # Folders named like `license=cc0` are no partitions to Spark: where they are columns, `manifest` says so.
    "recursiveFileLookup": "true",
    **_RAW_LOCAL_FILES,
}
_WHOLE = str(2**50)
"""Bytes: no file is longer, so that every file is one split."""
_LINES_A_BATCH = "2048"

_Found = TypeVar("_Found")


def of_each(files: Sequence[str], look: Callable[[str], _Found]) -> list[_Found]:
    """What `look` finds in each of the files, several at a time, in their order."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(look, files))


@dataclass(frozen=True)
class Footer:
    """What the footer of a Parquet file says about the columns that were asked for, and how many rows there are."""

    rows: int
    names: tuple[str, ...]
    """All of its columns; a name may be there twice."""
    types: dict[str, pa.DataType]
    """Of the columns asked for that hold a value somewhere."""


@dataclass(frozen=True)
class ManifestFiles:
    """What a manifest's path stands for on one date."""

    root: str
    format: str
    files: tuple[str, ...]
    """Qualified paths, sorted; for Delta the table's folder alone. Files known to be empty are left out."""
    columns: tuple[str, ...]
    """Names found in it: of the schema, of the headers, or of the first lines' keys; just `url` for a text file."""
    line_ends: tuple[str, ...] = ()
    """Of text, JSON lines and CSV: what ends the first line of each of the files, LF (CRLF too) or CR."""
    footers: tuple[Footer, ...] = ()
    """Of Parquet: what each of the files says about the columns that are mapped."""
    version: int | None = None
    """Of Delta: the version that was found, which is the one that is read and counted."""

    def by_line_end(self) -> dict[str, list[str]]:
        """The files by what ends their lines."""
        found: dict[str, list[str]] = {}
        for name, line_end in zip(self.files, self.line_ends, strict=True):
            found.setdefault(line_end, []).append(name)
        return found


class Files:
    """Looks into files named by their qualified paths."""

    def __init__(self, spark: SparkSession) -> None:
        jvm: Any = spark._jvm  # pyspark offers no public way to Hadoop's FileSystem
        self._jvm = jvm
        self._conf = jvm.org.apache.hadoop.conf.Configuration(spark._jsc.hadoopConfiguration())
        for name, value in _RAW_LOCAL_FILES.items():
            self._conf.set(name, value)

    def head(self, path: str, length: int) -> bytes:
        """The file's first bytes, decompressed where its name says that it is."""
        with self._opened(path) as (stream, _):
            codecs = self._jvm.org.apache.hadoop.io.compress.CompressionCodecFactory(self._conf)
            codec = codecs.getCodec(self._jvm.org.apache.hadoop.fs.Path(path))
            return self._read(codec.createInputStream(stream) if codec else stream, length)

    def footer(self, path: str, columns: Iterable[str]) -> Footer:
        """The footer of a Parquet file. Raises pyarrow's errors where it is none."""
        with self._opened(path) as (stream, length):
            source = parquet.ParquetFile(pa.PythonFile(_Seekable(stream, length, self._read), mode="r"))
            metadata, schema = source.metadata, source.metadata.schema.to_arrow_schema()
            types, leaf = {}, 0
            for field in schema:
                leaves = _leaves(field.type)
                if field.name in columns and _holds_values(source, range(leaf, leaf + leaves), field.type):
                    types[field.name] = field.type
                leaf += leaves
            return Footer(metadata.num_rows, tuple(schema.names), types)

    @contextmanager
    def _opened(self, path: str) -> Iterator[tuple[Any, int]]:
        location = self._jvm.org.apache.hadoop.fs.Path(path)
        system = location.getFileSystem(self._conf)
        stream = system.open(location)
        try:
            yield stream, int(system.getFileStatus(location).getLen())
        finally:
            stream.close()

    def _read(self, stream: Any, length: int) -> bytes:
        bounded = self._jvm.org.apache.commons.io.input.BoundedInputStream(stream, length)
        return bytes(self._jvm.org.apache.commons.io.IOUtils.toByteArray(bounded))


class _Seekable(io.RawIOBase):
    """A stream of Hadoop's as a file that pyarrow can read anywhere."""

    def __init__(self, stream: Any, length: int, read: Callable[[Any, int], bytes]) -> None:
        self._stream, self._length, self._read_stream = stream, length, read
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        wanted = self._length - self._position if size < 0 else size
        if wanted <= 0:
            return b""
        self._stream.seek(self._position)
        found = self._read_stream(self._stream, wanted)
        self._position += len(found)
        return found


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without what is about its layout only: dictionaries, and the names of extensions."""
    if isinstance(kind, pa.DictionaryType):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    return kind


def _children(kind: pa.DataType) -> list[pa.DataType]:
    kind = plain_type(kind)
    if pa.types.is_map(kind):
        return [kind.key_type, kind.item_type]
    if pa.types.is_struct(kind):
        return [kind.field(number).type for number in range(kind.num_fields)]
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [kind.value_type]
    return []


def _leaves(kind: pa.DataType) -> int:
    """Columns of a Parquet file that hold a value of the type."""
    return sum(map(_leaves, _children(kind))) or 1


def _leaf_types(kind: pa.DataType) -> list[pa.DataType]:
    children = _children(kind)
    return [leaf for child in children for leaf in _leaf_types(child)] if children else [plain_type(kind)]


def _holds_values(source: parquet.ParquetFile, leaves: range, kind: pa.DataType) -> bool:
    """Whether there is anything but nulls in the column: as statistics say, or else as is found in it."""
    metadata = source.metadata
    untold = []
    for leaf, leaf_type in zip(leaves, _leaf_types(kind), strict=True):
        if pa.types.is_null(leaf_type):
            continue
        for group in range(metadata.num_row_groups):
            chunk = metadata.row_group(group).column(leaf)
            statistics = chunk.statistics
            if statistics is None or not statistics.has_null_count:
                untold.append((group, chunk.path_in_schema))
            elif statistics.null_count < chunk.num_values:
                return True
    return any(
        _any_value(column)
        for group, name in untold
        for batch in source.iter_batches(batch_size=65536, row_groups=[group], columns=[name])
        for column in batch.columns
    )


def _any_value(values: pa.Array) -> bool:
    if _children(values.type):
        parts = values.flatten()
        return any(map(_any_value, parts if isinstance(parts, list) else [parts]))
    return bool(values.null_count < len(values))


# Through Spark ------------------------------------------------------------------------------------------------------


def parquet_reader(spark: SparkSession) -> DataFrameReader:
    """Reads Parquet files with names that may differ in case only."""
    session = spark.newSession()
    session.conf.set("spark.sql.caseSensitive", "true")
    return session.read.options(**_AS_THEY_ARE)


def lines(spark: SparkSession, files: Sequence[str], line_end: str | None = None) -> DataFrame:
    """The files' lines as `value` (binary), `_file` and `_block`, the offset of the split that they came in.

    Split at `line_end` (which is not part of them), or at LF, CR and CRLF.
    """
    ends = {"lineSep": line_end} if line_end else {}
    frame = spark.read.options(**_AS_THEY_ARE, **ends).text(list(files))
    return frame.select(
        f.col("value").cast("binary").alias("value"),
        f.col("_metadata.file_path").alias("_file"),
        f.col("_metadata.file_block_start").alias("_block"),
    )


def whole_files(spark: SparkSession, files: Sequence[str], line_end: str | None = None) -> DataFrame:
    """`lines`, with every file in one task from its beginning to its end, its lines in their order."""
    session = spark.newSession()
    for name in ("spark.sql.files.maxPartitionBytes", "spark.sql.files.openCostInBytes"):
        session.conf.set(name, _WHOLE)
    session.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", _LINES_A_BATCH)
    return lines(session, files, line_end)
