"""Small files of a warehouse on whatever file system it lies (local, HDFS, object stores), through Hadoop's API."""

import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any, Protocol

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, DataFrameReader, SparkSession

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
_GLOB = re.compile(r"[\[\]{}*?\\]")


@contextmanager
def _missing_as_python_says() -> Iterator[None]:
    try:
        yield
    except Py4JJavaError as error:
        if _java_class(error) == "java.io.FileNotFoundException":
            raise FileNotFoundError(str(error.java_exception.getMessage())) from None
        raise


def _java_class(error: Py4JJavaError) -> str:
    return str(error.java_exception.getClass().getName())


def literal(path: str) -> str:
    """The path as Spark's readers have to be given it: they take it for a glob pattern."""
    return _GLOB.sub(r"\\\g<0>", path)


def read_parquet(reader: DataFrameReader, paths: Sequence[str]) -> DataFrame:
    """The rows of one or more Parquet files or folders; no character of a path is taken for part of a pattern."""
    if not any(_GLOB.search(path) and ":" in path.removeprefix("file:") for path in paths):
        return reader.parquet(*map(literal, paths))
    # Hadoop's matching of patterns takes what is before a colon for a scheme, escaped or not. It can be switched off
    # for one path at a time: given several, Spark 4.0 then reads all of them once for each.
    plain = reader.option("__globPaths__", "false")
    return reduce(DataFrame.unionAll, (plain.parquet(path) for path in paths))


def local_path(address: str) -> Path | None:
    """Where a path or `file:` URI lies on this machine; None on another file system. Every character counts as itself,
    as to Hadoop: nothing is decoded, and nothing cut off."""
    scheme = _SCHEME.match(address)
    if scheme is None:
        return Path(address)
    return Path("/" + address[scheme.end() :].lstrip("/")) if scheme[1] == "file" else None


class Files(Protocol):
    """What a lease needs of the storage that it lies on."""

    root: str

    def names(self, *parts: str) -> list[str]:
        """Names in a folder; none where it does not exist."""

    def read_text(self, *parts: str) -> str:
        """The file's text; FileNotFoundError where there is none."""

    def write_text(self, text: str, *parts: str) -> None:
        """Write the file whole, replacing one that is there."""

    def create_text(self, text: str, *parts: str) -> bool:
        """Write a file that must not exist yet; False where it does. Of two that try at once one succeeds."""

    def delete(self, *parts: str) -> None:
        """Delete the file, if there is one."""

    def modified_at(self, *parts: str) -> float:
        """When the file was last written, in seconds by the storage's clock; FileNotFoundError where there is none."""


class LocalFiles:
    """Files below a folder of this machine, without Spark."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._folder = root

    def _path(self, *parts: str) -> Path:
        return self._folder.joinpath(*parts)

    def names(self, *parts: str) -> list[str]:
        """Names in a folder, sorted; none where it does not exist."""
        folder = self._path(*parts)
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def read_text(self, *parts: str) -> str:
        """The file's text (UTF-8); FileNotFoundError where there is none."""
        return self._path(*parts).read_text(encoding="utf-8")

    def write_text(self, text: str, *parts: str) -> None:
        """Write the file whole, replacing one that is there: a reader sees the old text or the new."""
        path = self._path(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)

    def create_text(self, text: str, *parts: str) -> bool:
        """Write a file that must not exist yet; False, and nothing written, where it does."""
        path = self._path(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return False
        return True

    def delete(self, *parts: str) -> None:
        """Delete the file, if there is one."""
        self._path(*parts).unlink(missing_ok=True)

    def modified_at(self, *parts: str) -> float:
        """When the file was last written, epoch seconds; FileNotFoundError where there is none."""
        return self._path(*parts).stat().st_mtime


class Storage:
    """Files below one root. Every path is given in parts below the root."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        jvm: Any = spark._jvm  # pyspark offers no public way to Hadoop's FileSystem
        self._jvm = jvm
        # A colon in the name of a folder makes no scheme of what is before it.
        is_relative = not root.startswith("/") and _SCHEME.match(root) is None
        base = jvm.org.apache.hadoop.fs.Path(f"./{root}" if is_relative else root)
        self._fs = base.getFileSystem(spark._jsc.hadoopConfiguration())
        self.root: str = self._fs.makeQualified(base).toString()
        is_local = self.root.startswith("file:")
        self._local = LocalFiles(Path(self.root.removeprefix("file:"))) if is_local else None

    def path(self, *parts: str) -> str:
        """The qualified path as text."""
        return "/".join((self.root.rstrip("/"), *parts)) if parts else self.root

    def _path(self, *parts: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(self.path(*parts))

    def exists(self, *parts: str) -> bool:
        """Whether there is a file or folder of that name."""
        return bool(self._fs.exists(self._path(*parts)))

    def names(self, *parts: str) -> list[str]:
        """Names in a folder, sorted; none where it does not exist."""
        path = self._path(*parts)
        if not self._fs.exists(path):
            return []
        return sorted(status.getPath().getName() for status in self._fs.listStatus(path))

    def is_folder(self) -> bool:
        """Whether the root is a folder."""
        return bool(self._fs.getFileStatus(self._path()).isDirectory())

    def files(self) -> list[str]:
        """Qualified paths of the files at or below the root, sorted; names that begin with `_` or `.` are not data."""
        found = []
        remaining = self._fs.listFiles(self._jvm.org.apache.hadoop.fs.Path(self.root), True)
        while remaining.hasNext():
            path = remaining.next().getPath().toString()
            if not any(part[:1] in {"_", "."} for part in path[len(self.root) :].split("/") if part):
                found.append(path)
        return sorted(found)

    def size(self, *parts: str) -> tuple[int, int]:
        """How many files there are in a folder and below it, and their bytes; none where it does not exist."""
        path = self._path(*parts)
        if not self._fs.exists(path):
            return 0, 0
        found = self._fs.getContentSummary(path)
        return int(found.getFileCount()), int(found.getLength())

    def make_folder(self, *parts: str) -> None:
        """Create the folder and its parents."""
        self._fs.mkdirs(self._path(*parts))

    def read_text(self, *parts: str) -> str:
        """The file's text (UTF-8); FileNotFoundError where there is none."""
        if self._local is not None:  # as it was written, without Hadoop's checksum files
            return self._local.read_text(*parts)
        with _missing_as_python_says():
            stream = self._fs.open(self._path(*parts))
        try:
            return str(self._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
        finally:
            stream.close()

    def modified_at(self, *parts: str) -> float:
        """When the file was last written, epoch seconds by the storage's clock; FileNotFoundError where there is
        none."""
        with _missing_as_python_says():
            return float(self._fs.getFileStatus(self._path(*parts)).getModificationTime()) / 1000

    def write_text(self, text: str, *parts: str) -> None:
        """Write the file whole, replacing one that is there. On a local disk a reader sees the old text or the new."""
        if self._local is not None:
            self._local.write_text(text, *parts)
        else:
            self._write(self._fs.create(self._path(*parts), True), text)

    def create_text(self, text: str, *parts: str) -> bool:
        """Write a file that must not exist yet; False, and nothing written, where it does (atomic put-if-absent).

        Not on S3, where Hadoop looks and then puts: see jobs.warehouse.fencing.
        """
        if self._local is not None:  # Hadoop only looks before it creates there: two could find nothing
            return self._local.create_text(text, *parts)
        try:
            stream = self._fs.create(self._path(*parts), False)
        except Py4JJavaError as error:
            if "FileAlreadyExistsException" in _java_class(error):
                return False
            raise
        self._write(stream, text)
        return True

    @staticmethod
    def _write(stream: Any, text: str) -> None:
        try:
            stream.write(bytearray(text.encode()))
        finally:
            stream.close()

    def move(self, source: Sequence[str], target: Sequence[str]) -> None:
        """Give a folder another place, one that nothing is at; nothing where it does not exist. On S3 it is copied.

        Raises OSError where the file system does not do it.
        """
        if self.exists(*source):
            self.make_folder(*target[:-1])
            if not self._fs.rename(self._path(*source), self._path(*target)):
                raise OSError(f"{self.path(*source)} could not be moved to {self.path(*target)}")

    def delete(self, *parts: str) -> None:
        """Delete the file or folder, if there is one."""
        self._fs.delete(self._path(*parts), True)
