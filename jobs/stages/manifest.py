"""Reading a date's manifest: every row with its file and position, whatever the format; unreadable rows marked.

Rows are numbered without a shuffle: each split is numbered by itself, and the sizes of the splits before it in the same
file are added (the way of `RDD.zipWithIndex`). In a file of lines, blank ones hold a position but are no rows; in CSV
records are counted, without the header and blank lines; in Delta, the rows that are live in the file.
"""

import csv
import datetime as dt
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as f
from pyspark.sql import types as t

from jobs.config import ManifestSettings
from jobs.errors import UsageError
from jobs.storage import Storage, literal
from schemas.spark import spark_type
from schemas.tables import MANIFEST_COLUMNS

_EXTENSIONS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".txt": "text",
}
_SAMPLED_LINES = 1000
_HEADER_BYTES = 2**20
"""A CSV header ends within this."""
_CORRUPT = "_corrupt_record"
_NOT_UTF8 = "not UTF-8 text"
_NOT_BLANK = r"value rlike '\\S'"


@dataclass(frozen=True)
class ManifestFiles:
    """What a manifest's path stands for on one date."""

    root: str
    format: str
    files: tuple[str, ...]
    """Qualified paths, sorted; for Delta the table's folder alone."""
    columns: tuple[str, ...]
    """Names found in it: of the schema, of the headers, or of the first lines' keys; just `url` for a text file."""
    headers: tuple[tuple[str, ...], ...] = ()
    """Of CSV: the header of each of the files."""


def find_manifest(spark: SparkSession, settings: ManifestSettings, date: dt.date) -> ManifestFiles:
    """The files of the date's manifest. Raises UsageError when there are none, of several formats, or without `url`."""
    path = settings.path.replace("{date}", date.isoformat())
    storage = Storage(spark, path)
    if not storage.exists():
        raise UsageError(f"manifest.path {path}: there is no such file or folder for {date}")
    if settings.format in {"auto", "delta"} and storage.exists("_delta_log"):
        root, kind = storage.root, "delta"
        files: tuple[str, ...] = (storage.root,)
    else:
        files = tuple(storage.files())
        if not files:
            raise UsageError(f"manifest.path {path}: the folder holds no files")
        root = storage.root if storage.is_folder() else storage.root.rsplit("/", 1)[0]
        kind = _format(settings, files)
    try:
        headers = tuple(_header(storage, name) for name in files) if kind == "csv" else ()
        columns = tuple(dict.fromkeys(sum(headers, ()))) if kind == "csv" else _columns_found(spark, kind, files)
    except (PySparkException, Py4JJavaError) as error:
        raise UsageError(f"manifest.path {path}: cannot be read as {kind}: {_root_cause(error)}") from None
    for name, header in zip(files, headers, strict=False):
        if header:  # an empty file has no rows either
            _require_url(settings, name, header)
    _require_url(settings, path, columns)
    return ManifestFiles(root, kind, files, columns, headers)


def _header(storage: Storage, path: str) -> tuple[str, ...]:
    """Names in the first record of a CSV file; none where the file is empty."""
    text = storage.head(path, _HEADER_BYTES).decode("utf-8-sig", errors="replace")
    return tuple(next((record for record in csv.reader(io.StringIO(text, newline="")) if record), ()))


def _root_cause(error: PySparkException | Py4JJavaError) -> str:
    """The one line that says what was wrong, out of what Spark wraps around it."""
    cause = getattr(error, "java_exception", None)
    while cause is not None and cause.getCause() is not None:
        cause = cause.getCause()
    return str(cause.getMessage() if cause is not None else error).split("\n", 1)[0]


def _columns_found(spark: SparkSession, kind: str, files: tuple[str, ...]) -> tuple[str, ...]:
    if kind in {"parquet", "delta"}:
        return tuple(_parquet(spark, kind, files).columns)
    head = spark.read.text([literal(name) for name in files]).where(_NOT_BLANK).limit(_SAMPLED_LINES)
    if kind == "text":
        head.isEmpty()  # shows whether it can be read
        return ("url",)
    keys = head.select(f.explode(f.expr("json_object_keys(value)")).alias("key")).distinct()
    return tuple(sorted(row["key"] for row in keys.collect()))


def _parquet(spark: SparkSession, kind: str, files: tuple[str, ...]) -> DataFrame:
    if kind == "delta":
        return spark.read.format("delta").load(files[0])
    return spark.read.option("mergeSchema", "true").parquet(*[literal(name) for name in files])


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


def read_manifest(
    spark: SparkSession,
    settings: ManifestSettings,
    manifest: ManifestFiles,
    materialise: Callable[[DataFrame], DataFrame],
) -> DataFrame:
    """Rows with `source_file`, `row_number`, the columns of MANIFEST_COLUMNS, and `malformed` (null for a sound row).

    `materialise` writes a frame and gives it back as written: the numbering looks at the lines twice, and must see the
    same ones both times. Raises UsageError when a column is of the wrong type.
    """
    readers = {
        "parquet": _read_parquet,
        "delta": _read_delta,
        "csv": _read_csv,
        "jsonl": _read_jsonl,
        "text": _read_text,
    }
    frame = readers[manifest.format](spark, settings, manifest, materialise)
    relative = f.substring(_plain_path(f.col("_file")), len(_plain(manifest.root)) + 2, 1_000_000)
    sound = {name: _is_utf8(f.col(name), kind) for name, kind in MANIFEST_COLUMNS.items()}
    problem = f.coalesce("malformed", f.when(~reduce(Column.__and__, sound.values()), f.lit(_NOT_UTF8)))
    return frame.select(
        relative.alias("source_file"),
        "row_number",
        *[f.when(is_sound, f.col(name)).alias(name) for name, is_sound in sound.items()],
        problem.alias("malformed"),
    )


def _is_utf8(value: Column, kind: str) -> Column:
    """Whether all text in the value is UTF-8, as whatever works on it next takes for granted."""
    if kind.startswith("map<"):
        return _is_utf8(f.map_keys(value), "array<string>") & _is_utf8(f.map_values(value), "array<string>")
    valid = f.forall(value, _is_utf8_text) if kind == "array<string>" else _is_utf8_text(value)
    return f.coalesce(valid, f.lit(True))


def _is_utf8_text(value: Column) -> Column:
    return f.coalesce(f.is_valid_utf8(value), f.lit(True))


def _plain(path: str) -> str:
    """A path as `_plain_path` gives it: `file:///a` and `file:/a` are the same file."""
    return "file:/" + path.removeprefix("file:").lstrip("/") if path.startswith("file:") else path


def _plain_path(path: Column) -> Column:
    decoded = f.url_decode(f.regexp_replace(path, r"\+", "%2B"))
    return f.regexp_replace(decoded, "^file:/+", "file:/")


def _require_url(settings: ManifestSettings, path: str, found: tuple[str, ...]) -> None:
    """Every mapped column, and `url`, must be there: the error lists what was found."""
    wanted = {"url": "url"} | settings.columns
    for ours, theirs in wanted.items():
        if ours not in MANIFEST_COLUMNS:
            raise UsageError(f"manifest.columns.{ours}: not a manifest column; known: {', '.join(MANIFEST_COLUMNS)}")
        if theirs not in found:
            raise UsageError(
                f"manifest {path}: no column {theirs!r} (for {ours}); columns found: {', '.join(found) or 'none'}. "
                f"Set manifest.columns.{ours} to the name of the column that holds it"
            )


def _read_parquet(
    spark: SparkSession,
    settings: ManifestSettings,
    manifest: ManifestFiles,
    materialise: Callable[[DataFrame], DataFrame],
) -> DataFrame:
    del materialise  # Parquet knows the position of a row by itself
    raw = _parquet(spark, manifest.format, manifest.files)
    return raw.select(
        *_typed_columns(raw, settings, manifest),
        f.col("_metadata.file_path").alias("_file"),
        f.col("_metadata.row_index").cast("bigint").alias("row_number"),
        f.lit(None).cast("string").alias("malformed"),
    )


def _read_delta(
    spark: SparkSession,
    settings: ManifestSettings,
    manifest: ManifestFiles,
    materialise: Callable[[DataFrame], DataFrame],
) -> DataFrame:
    """Delta does not tell the position of a row: it is counted, over the rows that are live in the file."""
    raw = _parquet(spark, manifest.format, manifest.files)
    rows = _numbered(_located(raw, _typed_columns(raw, settings, manifest)), materialise)
    return rows.withColumn("malformed", f.lit(None).cast("string"))


def _typed_columns(raw: DataFrame, settings: ManifestSettings, manifest: ManifestFiles) -> list[Column]:
    """The manifest's columns out of a frame that has types of its own; UsageError where one is of another type."""
    types = {field.name: field.dataType for field in raw.schema.fields}
    columns = []
    for ours, type_name in MANIFEST_COLUMNS.items():
        theirs = settings.columns.get(ours, ours)
        wanted = spark_type(type_name)
        if theirs not in types:
            columns.append(f.lit(None).cast(wanted).alias(ours))
            continue
        if not _castable(types[theirs], wanted):
            raise UsageError(
                f"manifest {manifest.root}: column {theirs!r} (for {ours}) is {types[theirs].simpleString()}, "
                f"expected {type_name}"
            )
        columns.append(f.col(f"`{theirs}`").cast(wanted).alias(ours))
    return columns


def _castable(found: t.DataType, wanted: t.DataType) -> bool:
    if isinstance(wanted, t.StringType):
        return isinstance(found, t.StringType)
    if isinstance(wanted, t.ArrayType):
        return isinstance(found, t.ArrayType) and isinstance(found.elementType, t.StringType)
    return isinstance(found, t.MapType) and isinstance(found.valueType, t.StringType)


def _read_text(
    spark: SparkSession,
    settings: ManifestSettings,
    manifest: ManifestFiles,
    materialise: Callable[[DataFrame], DataFrame],
) -> DataFrame:
    del settings
    others = [
        f.lit(None).cast(spark_type(kind)).alias(name) for name, kind in MANIFEST_COLUMNS.items() if name != "url"
    ]
    lines = _numbered_lines(spark, manifest, materialise)
    return lines.select(
        f.trim("value").alias("url"), *others, "_file", "row_number", f.lit(None).cast("string").alias("malformed")
    )


def _read_jsonl(
    spark: SparkSession,
    settings: ManifestSettings,
    manifest: ManifestFiles,
    materialise: Callable[[DataFrame], DataFrame],
) -> DataFrame:
    theirs = {ours: settings.columns.get(ours, ours) for ours in MANIFEST_COLUMNS}
    types = {theirs[ours]: spark_type(kind) for ours, kind in MANIFEST_COLUMNS.items()}
    row = t.StructType([t.StructField(name, kind) for name, kind in types.items()])
    # Spark reads the first value of a text and ignores what follows it: `end` is there only if nothing did.
    schema = t.StructType().add("row", row).add("end", t.IntegerType()).add(_CORRUPT, t.StringType())
    closed = f.concat(f.lit('{"row": '), "value", f.lit(', "end": 0}'))
    parsed = _numbered_lines(spark, manifest, materialise).withColumn(
        "line", f.from_json(closed, schema, {"columnNameOfCorruptRecord": _CORRUPT})
    )
    unread = f.col(f"line.{_CORRUPT}").isNotNull() | f.col("line.row").isNull() | f.col("line.end").isNull()
    return parsed.select(
        *[f.col("line.row").getField(theirs[ours]).alias(ours) for ours in MANIFEST_COLUMNS],
        "_file",
        "row_number",
        f.when(~f.is_valid_utf8("value"), f.lit(_NOT_UTF8))
        .when(unread, f.lit("not a JSON object with the manifest's types"))
        .alias("malformed"),
    )


def _numbered_lines(
    spark: SparkSession, manifest: ManifestFiles, materialise: Callable[[DataFrame], DataFrame]
) -> DataFrame:
    """The manifest's lines as `value`, numbered, without the blank ones."""
    raw = spark.read.text([literal(name) for name in manifest.files])
    return _numbered(_located(raw, ["value"]), materialise).where(_NOT_BLANK)


def _read_csv(
    spark: SparkSession,
    settings: ManifestSettings,
    manifest: ManifestFiles,
    materialise: Callable[[DataFrame], DataFrame],
) -> DataFrame:
    files_by_header: dict[tuple[str, ...], list[str]] = {}
    for name, header in zip(manifest.files, manifest.headers, strict=True):
        files_by_header.setdefault(header, []).append(name)
    files_by_header.pop((), None)  # empty files
    frames = [_csv_records(spark, settings, header, files) for header, files in files_by_header.items()]
    return _numbered(reduce(DataFrame.union, frames), materialise)


def _csv_records(
    spark: SparkSession, settings: ManifestSettings, header: tuple[str, ...], files: list[str]
) -> DataFrame:
    """Records of files with one and the same header, not numbered yet."""
    # Columns go by their place: names may repeat, or be empty, or differ in their case alone.
    schema = t.StructType([t.StructField(name, t.StringType()) for name in [*map(str, range(len(header))), _CORRUPT]])
    reader = (
        spark.read.schema(schema)
        .option("header", "true")
        .option("multiLine", "true")
        .option("quote", '"')
        .option("escape", '"')
        .option("columnNameOfCorruptRecord", _CORRUPT)
    )
    columns = []
    for ours, kind in MANIFEST_COLUMNS.items():
        theirs = settings.columns.get(ours, ours)
        value = f.col(f"`{header.index(theirs)}`") if theirs in header else f.lit(None).cast("string")
        columns.append(_parsed(value, kind).alias(ours))
    malformed = f.when(f.col(_CORRUPT).isNotNull(), f.lit(f"not a CSV record of {len(header)} fields"))
    return _located(reader.csv([literal(name) for name in files]), [*columns, malformed.alias("malformed")])


def _parsed(value: Column, kind: str) -> Column:
    """A CSV field: lists as a JSON array or separated by `|`, maps as a JSON object."""
    if kind == "array<string>":
        from_text = f.filter(f.transform(f.split(value, r"\|"), _trimmed), lambda tag: tag != "")
        return f.when(value.startswith("["), f.from_json(value, kind)).otherwise(from_text)
    return f.from_json(value, kind) if kind.startswith("map<") else value


def _trimmed(tag: Column) -> Column:
    """With one parameter: `transform` would hand `trim` itself a tag's index as the characters to take off."""
    return f.trim(tag)


def _located(raw: DataFrame, columns: Sequence[Column | str]) -> DataFrame:
    """`columns` of files as they are read, with `_file` and `_block`, where in it the split begins."""
    return raw.select(
        *columns, f.col("_metadata.file_path").alias("_file"), f.col("_metadata.file_block_start").alias("_block")
    )


def _numbered(located: DataFrame, materialise: Callable[[DataFrame], DataFrame]) -> DataFrame:
    """Adds `row_number`, the position in the file over all its splits."""
    lines = materialise(located.withColumn("_position", f.monotonically_increasing_id()))
    blocks = lines.groupBy("_file", "_block").agg(f.min("_position").alias("_first"), f.count("*").alias("_lines"))
    before = Window.partitionBy("_file").orderBy("_block").rowsBetween(Window.unboundedPreceding, -1)
    starts = blocks.withColumn("_start", f.coalesce(f.sum("_lines").over(before), f.lit(0)))
    numbered = lines.join(f.broadcast(starts.drop("_lines")), ["_file", "_block"])
    return numbered.withColumn("row_number", f.col("_position") - f.col("_first") + f.col("_start"))
