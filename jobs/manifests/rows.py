"""Reading a date's manifest: every row with its file and position, whatever the format; unreadable rows marked.

Rows are numbered without a shuffle. Lines: each split is numbered by itself, and the sizes of the splits before it in
the same file are added (the way of `RDD.zipWithIndex`); blank lines hold a position but are no rows. CSV: a file is
read by one task, as Python's `csv` reads it, and its records are counted, without the header and blank lines; where a
record begins cannot be known from the middle of a file. Delta: the rows that are live in a file of the version found.
"""

from collections.abc import Callable, Sequence
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as f
from pyspark.sql import types as t

from jobs.config.errors import UsageError
from jobs.config.profile import ManifestSettings
from jobs.manifests.files import ManifestFiles, lines, parquet_reader, whole_files
from schemas.spark import spark_type
from schemas.tables import MANIFEST_COLUMNS
from udfs.manifest_text import (
    NOT_UTF8,
    READ,
    csv_rows,
    json_rows,
)

_NO_PARTITION_VALUE = "__HIVE_DEFAULT_PARTITION__"
_READ_DDL = ", ".join(f"{name} {kind}" for name, kind in READ.items())
NOT_BLANK = r"cast(value as string) rlike '\\S'"
"""SQL condition: the line is not blank, so it is a row."""


def column_names(settings: ManifestSettings) -> dict[str, str]:
    """Our columns -> the manifest's."""
    return {ours: settings.columns.get(ours, ours) for ours in MANIFEST_COLUMNS}


def folder_columns(root: str, name: str) -> list[str]:
    """Columns whose value a file's folders tell, as in `license=cc0/part.parquet`."""
    return [part.split("=", 1)[0] for part in name[len(root) :].split("/")[:-1] if "=" in part]


def read_manifest(
    spark: SparkSession,
    settings: ManifestSettings,
    manifest: ManifestFiles,
    materialise: Callable[[DataFrame], DataFrame],
) -> DataFrame:
    """Rows with `source_file`, `row_number`, the columns of MANIFEST_COLUMNS, and `malformed` (null for a sound row).

    `materialise` writes a frame and gives it back as written: the numbering of lines looks at them twice, and must see
    the same ones both times.
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
    return frame.select(relative.alias("source_file"), "row_number", *MANIFEST_COLUMNS, "malformed")


def _plain(path: str) -> str:
    """A path as `_plain_path` gives it: `file:///a` and `file:/a` are the same file."""
    return "file:/" + path.removeprefix("file:").lstrip("/") if path.startswith("file:") else path


def _plain_path(path: Column) -> Column:
    return f.regexp_replace(_decoded(path), "^file:/+", "file:/")


def _decoded(path: Column) -> Column:
    return f.url_decode(f.regexp_replace(path, r"\+", "%2B"))


def _no_rows(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame([], _READ_DDL)


def _union(spark: SparkSession, frames: Sequence[DataFrame]) -> DataFrame:
    return reduce(DataFrame.union, frames) if frames else _no_rows(spark)


# Columns that have types of their own -------------------------------------------------------------------------------


def _checked(frame: DataFrame) -> DataFrame:
    """`READ` out of a frame with `_file`, `row_number` and the manifest's columns: what no later stage could take is
    null, and the row says so."""
    sound = {name: _is_utf8(f.col(name), kind) for name, kind in MANIFEST_COLUMNS.items()}
    keys = f.map_keys("attributes")
    repeated = f.size(keys) != f.size(f.array_distinct(keys))
    return frame.select(
        "_file",
        "row_number",
        *[
            f.when(is_sound & ~f.coalesce(repeated, f.lit(False)) if name == "attributes" else is_sound, f.col(name))
            .otherwise(None)
            .alias(name)
            for name, is_sound in sound.items()
        ],
        f.when(~reduce(Column.__and__, sound.values()), f.lit(NOT_UTF8))
        .when(repeated, f.lit("attributes: a key is given twice"))
        .alias("malformed"),
    )


def _is_utf8(value: Column, kind: str) -> Column:
    """Whether all text in the value is UTF-8, as whatever works on it next takes for granted."""
    if kind.startswith("map<"):
        return _is_utf8(f.map_keys(value), "array<string>") & _is_utf8(f.map_values(value), "array<string>")
    valid = f.forall(value, _is_utf8_text) if kind == "array<string>" else _is_utf8_text(value)
    return f.coalesce(valid, f.lit(True))


def _is_utf8_text(value: Column) -> Column:
    return f.coalesce(f.is_valid_utf8(value), f.lit(True))


def _read_parquet(
    spark: SparkSession,
    settings: ManifestSettings,
    manifest: ManifestFiles,
    materialise: Callable[[DataFrame], DataFrame],
) -> DataFrame:
    """Only the mapped columns that hold a value: what else there is in the files is never looked at."""
    del materialise  # Parquet knows the position of a row by itself
    alike: dict[tuple[frozenset[str], tuple[str, ...]], list[str]] = {}
    for name, footer in zip(manifest.files, manifest.footers, strict=True):
        in_folders = tuple(column for column in folder_columns(manifest.root, name) if column not in footer.names)
        if footer.rows:
            alike.setdefault((frozenset(footer.types), in_folders), []).append(name)
    frames = [
        _parquet_rows(spark, settings, manifest.root, files, held, in_folders)
        for (held, in_folders), files in alike.items()
    ]
    return _checked(_union(spark, frames))


def _parquet_rows(
    spark: SparkSession,
    settings: ManifestSettings,
    root: str,
    files: Sequence[str],
    held: frozenset[str],
    in_folders: tuple[str, ...],
) -> DataFrame:
    """Rows of files that hold values in the same columns, and whose folders tell the same ones."""
    names = column_names(settings)
    schema = t.StructType()
    for theirs, kind in {names[ours]: kind for ours, kind in MANIFEST_COLUMNS.items() if names[ours] in held}.items():
        schema.add(theirs, spark_type(kind))
    if not schema.fields:  # Spark wants a column, be it one that no file has
        schema.add(f"_none_{'_'.join(sorted(held))}", t.StringType())
    columns = []
    for ours, kind in MANIFEST_COLUMNS.items():
        theirs = names[ours]
        if theirs in held:
            value = f.col(_quoted(theirs))
        elif theirs in in_folders and kind == "string":
            value = _folder_value(root, theirs)
        else:
            value = f.lit(None).cast(spark_type(kind))
        columns.append(value.alias(ours))
    return (
        parquet_reader(spark)
        .schema(schema)
        .parquet(*files)
        .select(
            f.col("_metadata.file_path").alias("_file"),
            f.col("_metadata.row_index").cast("bigint").alias("row_number"),
            *columns,
        )
    )


def _quoted(name: str) -> str:
    return f"`{name.replace('`', '``')}`"


def _folder_value(root: str, name: str) -> Column:
    """The value that the folders of a file below `root` tell of a column."""
    below = f.substring(_plain_path(f.col("_metadata.file_path")), len(_plain(root)) + 1, 1_000_000)
    value = _decoded(f.regexp_extract(below, rf"/\Q{name}\E=([^/]*)/", 1))
    return f.when(value != _NO_PARTITION_VALUE, value)


def delta_rows(spark: SparkSession, manifest: ManifestFiles) -> DataFrame:
    """The rows of the version of a Delta table that was found."""
    return spark.read.format("delta").option("versionAsOf", manifest.version).load(manifest.root)


def _read_delta(
    spark: SparkSession,
    settings: ManifestSettings,
    manifest: ManifestFiles,
    materialise: Callable[[DataFrame], DataFrame],
) -> DataFrame:
    """Delta does not tell the position of a row: it is counted, over the rows that are live in the file."""
    raw = delta_rows(spark, manifest)
    located = raw.select(
        *typed_columns(raw, settings, manifest.root),
        f.col("_metadata.file_path").alias("_file"),
        f.col("_metadata.file_block_start").alias("_block"),
    )
    return _checked(_numbered(located, materialise))


def typed_columns(raw: DataFrame, settings: ManifestSettings, path: str) -> list[Column]:
    """The manifest's columns out of a table; UsageError where one is of another type, unless it is null throughout."""
    types = {field.name: field.dataType for field in raw.schema.fields}
    columns = []
    for ours, kind in MANIFEST_COLUMNS.items():
        theirs = settings.columns.get(ours, ours)
        wanted = spark_type(kind)
        value = f.lit(None)
        if theirs in types and _castable(types[theirs], wanted):
            value = f.col(_quoted(theirs))
        elif theirs in types and _holds_values(raw, theirs, types[theirs]):
            raise UsageError(
                f"manifest {path}: column {theirs!r} (for {ours}) is {types[theirs].simpleString()}, expected {kind}"
            )
        columns.append(value.cast(wanted).alias(ours))
    return columns


def _castable(found: t.DataType, wanted: t.DataType) -> bool:
    if isinstance(wanted, t.StringType):
        return isinstance(found, t.StringType)
    if isinstance(wanted, t.ArrayType):
        return isinstance(found, t.ArrayType) and isinstance(found.elementType, t.StringType)
    return isinstance(found, t.MapType) and isinstance(found.valueType, t.StringType)


def _holds_values(raw: DataFrame, name: str, kind: t.DataType) -> bool:
    """Whether there is anything but nulls in the column."""
    value = f.col(_quoted(name))
    holds = f.exists(value, lambda part: part.isNotNull()) if isinstance(kind, t.ArrayType) else value.isNotNull()
    return not isinstance(kind, t.NullType) and not raw.where(holds).limit(1).isEmpty()


# Text ---------------------------------------------------------------------------------------------------------------


def _read_text(
    spark: SparkSession,
    settings: ManifestSettings,
    manifest: ManifestFiles,
    materialise: Callable[[DataFrame], DataFrame],
) -> DataFrame:
    del settings
    if not manifest.files:
        return _no_rows(spark)
    columns = [
        (f.trim(f.col("value").cast("string")) if name == "url" else f.lit(None)).cast(spark_type(kind)).alias(name)
        for name, kind in MANIFEST_COLUMNS.items()
    ]
    return _checked(_numbered_lines(spark, manifest, materialise).select("_file", "row_number", *columns))


def _read_jsonl(
    spark: SparkSession,
    settings: ManifestSettings,
    manifest: ManifestFiles,
    materialise: Callable[[DataFrame], DataFrame],
) -> DataFrame:
    if not manifest.files:
        return _no_rows(spark)
    numbered = _numbered_lines(spark, manifest, materialise)
    return numbered.mapInArrow(json_rows(column_names(settings)), _READ_DDL)


def _numbered_lines(
    spark: SparkSession, manifest: ManifestFiles, materialise: Callable[[DataFrame], DataFrame]
) -> DataFrame:
    """The manifest's lines as `value`, numbered, without the blank ones."""
    numbered = _numbered(lines(spark, manifest.files), materialise)
    return numbered.where(f.expr(NOT_BLANK)).select("value", "_file", "row_number")


def _numbered(located: DataFrame, materialise: Callable[[DataFrame], DataFrame]) -> DataFrame:
    """Adds `row_number`, the position in `_file` over all its splits, which begin at `_block`."""
    rows = materialise(located.withColumn("_position", f.monotonically_increasing_id()))
    blocks = rows.groupBy("_file", "_block").agg(f.min("_position").alias("_first"), f.count("*").alias("_rows"))
    before = Window.partitionBy("_file").orderBy("_block").rowsBetween(Window.unboundedPreceding, -1)
    starts = blocks.withColumn("_start", f.coalesce(f.sum("_rows").over(before), f.lit(0)))
    numbered = rows.join(f.broadcast(starts.drop("_rows")), ["_file", "_block"])
    return numbered.withColumn("row_number", f.col("_position") - f.col("_first") + f.col("_start"))


def _read_csv(
    spark: SparkSession,
    settings: ManifestSettings,
    manifest: ManifestFiles,
    materialise: Callable[[DataFrame], DataFrame],
) -> DataFrame:
    del materialise  # a file's records are numbered as they are read
    frames = []
    for line_end, files in manifest.by_line_end().items():
        read = csv_rows(column_names(settings), line_end.encode())
        frames.append(whole_files(spark, files, line_end).mapInArrow(read, _READ_DDL))
    return _union(spark, frames)
