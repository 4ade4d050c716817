"""Finding a date's manifest: its files, their format, the columns in them.

What cannot be a manifest is refused by the name of the file, before anything is touched.
"""

import datetime as dt
import re
from collections.abc import Mapping

import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from jobs.config.errors import UsageError
from jobs.config.profile import ManifestSettings
from jobs.manifests.files import Files, Footer, ManifestFiles, lines, of_each, plain_type
from jobs.manifests.rows import NOT_BLANK, column_names, delta_rows, folder_columns, typed_columns
from jobs.warehouse.storage import Storage
from schemas.arrow import type_name
from schemas.tables import MANIFEST_COLUMNS
from udfs.manifest_text import (
    ManifestValueError,
    csv_header,
    csv_places,
    json_keys,
    json_names,
)

_EXTENSIONS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".txt": "text",
}
_SAMPLED_LINES = 1000
_MOST_NAMES = 1000
"""Names of columns that are looked at where one that is needed is not among the first lines'."""
_NAMES_SHOWN, _LONGEST_NAME = 50, 100
"""Of those that a message lists."""
_HEADS = (2**14, 2**20)
"""Bytes of a file that are looked at first, and where a CSV header is longer; it ends within the last."""
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_PACKED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh91AY&SY")
"""How files begin that are compressed; only what is named `.gz` is decompressed, once."""


def find_manifest(spark: SparkSession, settings: ManifestSettings, date: dt.date) -> ManifestFiles:
    """The files of the date's manifest. Raises UsageError when there are none, of several formats, without `url`, or
    with a mapped column of another type."""
    for ours in settings.columns:
        if ours not in MANIFEST_COLUMNS:
            raise UsageError(f"manifest.columns.{ours}: not a manifest column; known: {', '.join(MANIFEST_COLUMNS)}")
    path = settings.path.replace("{date}", date.isoformat())
    storage = Storage(spark, f"./{path}" if re.match("[^/]*:[^/]", path) else path)  # a colon in a name is no scheme
    if not storage.exists():
        raise UsageError(f"manifest.path {path}: there is no such file or folder for {date}")
    try:
        if settings.format in {"auto", "delta"} and storage.exists("_delta_log"):
            return _find_delta(spark, settings, path, storage)
        files = tuple(storage.files())
        if not files:
            raise UsageError(f"manifest.path {path}: the folder holds no files")
        root = storage.root if storage.is_folder() else storage.root.rsplit("/", 1)[0]
        kind = _format(settings, files)
        finders = {"parquet": _find_parquet, "csv": _find_csv, "jsonl": _find_jsonl, "text": _find_text}
        if kind not in finders:
            raise UsageError(f"manifest.path {path}: is no Delta table (manifest.format is {kind})")
        return finders[kind](spark, settings, path, root, files)
    except (PySparkException, Py4JJavaError) as error:
        raise UsageError(f"manifest.path {path}: cannot be read: {_root_cause(error)}") from None


def _find_delta(spark: SparkSession, settings: ManifestSettings, path: str, storage: Storage) -> ManifestFiles:
    commits = [name[:20] for name in storage.names("_delta_log") if re.fullmatch(r"\d{20}\.json", name)]
    if not commits:
        raise UsageError(f"manifest.path {path}: its _delta_log holds no commit, so it is no Delta table")
    found = ManifestFiles(storage.root, "delta", (storage.root,), (), version=int(max(commits)))
    raw = delta_rows(spark, found)
    _require(_needed(settings), path, tuple(raw.columns))
    typed_columns(raw, settings, path)
    return ManifestFiles(found.root, found.format, found.files, tuple(raw.columns), version=found.version)


def _find_parquet(
    spark: SparkSession, settings: ManifestSettings, path: str, root: str, files: tuple[str, ...]
) -> ManifestFiles:
    reader, mapped = Files(spark), frozenset(column_names(settings).values())

    def look(name: str) -> Footer:
        try:
            return reader.footer(name, mapped)
        except (PySparkException, Py4JJavaError) as error:
            raise UsageError(f"manifest {name}: cannot be read as parquet: {_root_cause(error)}") from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the others: of a damaged footer
            cause = str(error).split("\n", 1)[0]
            raise UsageError(f"manifest {name}: cannot be read as parquet: {cause}") from None

    footers = tuple(of_each(files, look))
    for name, footer in zip(files, footers, strict=True):
        columns = (*footer.names, *folder_columns(root, name))
        if columns:  # a table without columns has no rows either
            _require({"url": column_names(settings)["url"]}, name, columns)
        for ours, theirs in column_names(settings).items():
            _check_parquet_column(name, ours, theirs, footer)
    every = tuple(dict.fromkeys(column for footer in footers for column in footer.names))
    in_folders = (column for name in files for column in folder_columns(root, name))
    columns = tuple(dict.fromkeys([*every, *in_folders]))
    if columns:
        _require(_needed(settings), path, columns)
    return ManifestFiles(root, "parquet", files, columns, footers=footers)


def _check_parquet_column(name: str, ours: str, theirs: str, footer: Footer) -> None:
    if footer.names.count(theirs) > 1:
        raise UsageError(f"manifest {name}: column {theirs!r} (for {ours}) is there {footer.names.count(theirs)} times")
    wanted, found = MANIFEST_COLUMNS[ours], footer.types.get(theirs)
    if found is not None and not _fits(found, wanted):
        raise UsageError(f"manifest {name}: column {theirs!r} (for {ours}) is {_spelt(found)}, expected {wanted}")


def _is_text(kind: pa.DataType) -> bool:
    kind = plain_type(kind)  # bytes may be text that its writer did not mark as such: rows tell where they are not
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _fits(kind: pa.DataType, wanted: str) -> bool:
    kind = plain_type(kind)
    if wanted == "string":
        return _is_text(kind)
    if wanted == "array<string>":
        return _is_list(kind) and _is_text(kind.value_type)
    return pa.types.is_map(kind) and _is_text(kind.key_type) and _is_text(kind.item_type)


def _spelt(kind: pa.DataType) -> str:
    """The type in Spark's spelling, as far as it has one."""
    kind = plain_type(kind)
    if _is_list(kind):
        return f"array<{_spelt(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"map<{_spelt(kind.key_type)},{_spelt(kind.item_type)}>"
    return type_name(kind)


def _find_csv(
    spark: SparkSession, settings: ManifestSettings, path: str, root: str, files: tuple[str, ...]
) -> ManifestFiles:
    del path  # what is wrong is wrong with one of the files
    reader = Files(spark)

    def look(name: str) -> tuple[tuple[str, ...], str]:
        for length in _HEADS:
            start = _start_of(reader, name, length)
            try:
                header = csv_header(start, len(start) < length)
            except ManifestValueError as error:
                raise UsageError(f"manifest {name}: {error}") from None
            if header is not None:
                return header, _line_end(start)
        raise UsageError(
            f"manifest {name}: the CSV header does not end within {_HEADS[-1]} bytes; is a quote unclosed?"
        )

    found = of_each(files, look)
    for name, (header, _) in zip(files, found, strict=True):
        if header:
            _check_csv_columns(settings, name, header)
    filled = [(name, line_end) for name, (header, line_end) in zip(files, found, strict=True) if header]
    columns = tuple(dict.fromkeys(column for header, _ in found for column in header))
    return ManifestFiles(
        root, "csv", tuple(name for name, _ in filled), columns, tuple(line_end for _, line_end in filled)
    )


def _check_csv_columns(settings: ManifestSettings, name: str, header: tuple[str, ...]) -> None:
    places = {ours: csv_places(header, theirs) for ours, theirs in column_names(settings).items()}
    missing = {ours: theirs for ours, theirs in _needed(settings).items() if not places[ours]}
    _require(missing, name, header)
    for ours, found in places.items():
        if len(found) > 1:
            theirs = header[found[0]]
            raise UsageError(f"manifest {name}: column {theirs!r} (for {ours}) is there {len(found)} times")


def _start_of(reader: Files, name: str, length: int) -> bytes:
    """How a text begins. Raises UsageError where it cannot be decompressed, or is no text in UTF-8 from the start."""
    try:
        start = reader.head(name, length)
    except (PySparkException, Py4JJavaError) as error:
        raise UsageError(f"manifest {name}: cannot be read: {_root_cause(error)}") from None
    if start.startswith(_PACKED):
        raise UsageError(f"manifest {name}: is compressed, which its name does not say; gzip it once, and name it .gz")
    if start.startswith(_UTF16):
        raise UsageError(f"manifest {name}: is UTF-16; expected UTF-8")
    return start


def _line_end(start: bytes) -> str:
    return "\r" if b"\r" in start and b"\n" not in start else "\n"


def _filled(spark: SparkSession, files: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files that are not empty, and for each of them what ends its lines."""
    reader = Files(spark)
    starts = of_each(files, lambda name: _start_of(reader, name, _HEADS[0]))
    filled = [(name, _line_end(start)) for name, start in zip(files, starts, strict=True) if start]
    return tuple(name for name, _ in filled), tuple(line_end for _, line_end in filled)


def _find_text(
    spark: SparkSession, settings: ManifestSettings, path: str, root: str, files: tuple[str, ...]
) -> ManifestFiles:
    _require(_needed(settings), path, ("url",))
    filled, line_ends = _filled(spark, files)
    return ManifestFiles(root, "text", filled, ("url",), line_ends)


def _find_jsonl(
    spark: SparkSession, settings: ManifestSettings, path: str, root: str, files: tuple[str, ...]
) -> ManifestFiles:
    filled, line_ends = _filled(spark, files)
    if not filled:
        return ManifestFiles(root, "jsonl", (), ())
    rows = lines(spark, filled).where(f.expr(NOT_BLANK)).select("value")
    sample = [bytes(row["value"]) for row in rows.limit(_SAMPLED_LINES).collect()]
    columns = {key for line in sample for key in json_keys(line)}
    if len(sample) == _SAMPLED_LINES and not columns.issuperset(_needed(settings).values()):
        names = rows.mapInArrow(json_names, "key string").distinct().limit(_MOST_NAMES)
        columns |= {row["key"] for row in names.collect()}
    if sample:  # else there is no row that could lack anything
        _require(_needed(settings), path, tuple(sorted(columns)))
    return ManifestFiles(root, "jsonl", filled, tuple(sorted(columns)), line_ends)


def _format(settings: ManifestSettings, files: tuple[str, ...]) -> str:
    if settings.format != "auto":
        return settings.format
    found = {_format_of_name(name) for name in files}
    if len(found) > 1 or None in found:
        raise UsageError(
            f"manifest.path {settings.path}: cannot tell the format by the file names "
            f"({', '.join(sorted(name.rsplit('/', 1)[-1] for name in files)[:3])}); expected one of "
            f"{', '.join(sorted(_EXTENSIONS))} (each also .gz), or set manifest.format"
        )
    return str(found.pop())


def _format_of_name(name: str) -> str | None:
    bare = name.lower().removesuffix(".gz")
    return next((kind for ending, kind in _EXTENSIONS.items() if bare.endswith(ending)), None)


def _needed(settings: ManifestSettings) -> dict[str, str]:
    """Our columns that must be there -> the manifest's: `url`, and every one that is mapped."""
    return {"url": "url"} | settings.columns


def _require(needed: Mapping[str, str], path: str, found: tuple[str, ...]) -> None:
    """Raises UsageError where a column is not there; it lists those that were found."""
    for ours, theirs in needed.items():
        if theirs not in found:
            raise UsageError(
                f"manifest {path}: no column {theirs!r} (for {ours}); columns found: {_listed(found)}. "
                f"Set manifest.columns.{ours} to the name of the column that holds it"
            )


def _listed(names: tuple[str, ...]) -> str:
    """Names of columns in a message: a file that is none of ours may seem to have any number of any length."""
    shown = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}..." for name in names[:_NAMES_SHOWN]]
    more = [f"and {len(names) - _NAMES_SHOWN} more"] if len(names) > _NAMES_SHOWN else []
    return ", ".join([*shown, *more]) or "none"


def _root_cause(error: PySparkException | Py4JJavaError) -> str:
    """The one line that says what was wrong, out of what Spark wraps around it."""
    cause = getattr(error, "java_exception", None)
    while cause is not None and cause.getCause() is not None:
        cause = cause.getCause()
    return str(cause.getMessage() if cause is not None else error).split("\n", 1)[0]
