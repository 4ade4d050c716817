"""Manifests in every format against what Python's own readers make of the same files."""

import csv
import datetime as dt
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from pyspark.sql import DataFrame, Row, SparkSession

from jobs.config import ManifestSettings
from jobs.errors import UsageError
from jobs.stages.manifest import ManifestFiles, find_manifest, read_manifest
from schemas.tables import MANIFEST_COLUMNS
from tests.jobs.frames import frame

pytestmark = pytest.mark.spark

DAY = dt.date(2026, 1, 31)
ODD_NAMES = ["with space", "100%25 sure", "a+b=c", "grüße 猫 🐈", "list[1]{a,b}*?", "tilde~#&;'"]
Key = tuple[str, int]
Read = Callable[..., dict[Key, Row]]


@contextmanager
def small_splits(spark: SparkSession, size: int) -> Iterator[None]:
    """Files are read in splits of this many bytes."""
    names = ("spark.sql.files.maxPartitionBytes", "spark.sql.files.openCostInBytes")
    before = {name: spark.conf.get(name) for name in names}
    for name in names:
        spark.conf.set(name, str(size))
    try:
        yield
    finally:
        for name, value in before.items():
            spark.conf.set(name, str(value))


@pytest.fixture
def read(spark: SparkSession, materialise: Callable[[DataFrame], DataFrame]) -> Read:
    """Rows of a manifest by (source_file, row_number); fails where two rows have one key."""

    def read_path(path: Path, **given: Any) -> dict[Key, Row]:
        settings = ManifestSettings(path=str(path), **given)
        found = read_manifest(spark, settings, find_manifest(spark, settings, DAY), materialise)
        assert found.columns == ["source_file", "row_number", *MANIFEST_COLUMNS, "malformed"]
        # As the next stage takes them: Arrow refuses what is not text.
        rows = [Row(**row) for row in found.toArrow().to_pylist()]
        by_key = {(row.source_file, row.row_number): row for row in rows}
        assert len(by_key) == len(rows)
        return by_key

    return read_path


def write(path: Path, data: str | bytes) -> None:
    """The data as it is, gzipped where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


# Text --------------------------------------------------------------------------------------------------------------


def lines_of(text: str) -> dict[int, str]:
    """Position -> content of the lines that are not blank."""
    lines = io.StringIO(text, newline=None).read().split("\n")
    return {number: line.strip() for number, line in enumerate(lines) if line.strip()}


def test_text_lines_are_numbered_in_their_file_however_it_is_split_and_named(
    spark: SparkSession, tmp_path: Path, read: Read
) -> None:
    chance = random.Random(1)
    root = tmp_path / "a list + 50% of {it}"
    texts = {f"{name}.txt": f"http://host/{name}/1\n\nhttp://host/{name}/2" for name in ODD_NAMES}
    texts["sub/windows.txt"] = "\r\nhttp://host/a\r\n \t \r\n  http://host/b  \r\n\r\n"
    texts["empty.txt"] = ""
    texts["packed.txt.gz"] = "".join(f"http://host/packed/{number}\n" for number in range(300))
    texts["big.txt"] = "".join(
        chance.choice(["\n", f"http://host/big/{number}/{'x' * chance.randrange(120)}\n"]) for number in range(900)
    )
    for name, text in texts.items():
        write(root / name, text)
    for hidden in ("_SUCCESS", ".part.txt.crc", "_tmp/rows.txt"):
        write(root / hidden, "http://host/hidden\n")
    with small_splits(spark, 2048):
        rows = read(root)
    wanted = {(name, number): line for name, text in texts.items() for number, line in lines_of(text).items()}
    assert {key: row.url for key, row in rows.items()} == wanted
    assert {row.malformed for row in rows.values()} == {None}


def test_text_that_is_not_utf8_is_a_malformed_row_and_a_byte_order_mark_is_none_of_it(
    tmp_path: Path, read: Read
) -> None:
    write(tmp_path / "urls.txt", b"\xef\xbb\xbfhttp://host/first\nhttp://host/\xff\xfe\nhttp://host/last\n")
    rows = read(tmp_path / "urls.txt")
    assert [rows["urls.txt", number].url for number in (0, 2)] == ["http://host/first", "http://host/last"]
    assert [rows["urls.txt", number].malformed for number in range(3)] == [None, "not UTF-8 text", None]


# JSON lines ---------------------------------------------------------------------------------------------------------

SOUND = {
    "url": "http://host/1",
    "page_url": "http://host/page",
    "title": 'A "title", with\nnewline',
    "alt_text": "",
    "description": "größe 猫",
    "tags": ["a", "b|c", ""],
    "license": "CC-BY-4.0",
    "attributes": {"b": "2", "a": ""},
    "expected_sha256": "0" * 64,
}


def manifest_columns(row: Row) -> dict[str, Any]:
    """The manifest's columns of a row, without those that are null."""
    values = {name: row[name] for name in MANIFEST_COLUMNS if row[name] is not None}
    if "attributes" in values:
        values["attributes"] = dict(values["attributes"])
    return values


def test_json_lines_are_read_whatever_the_order_of_their_keys(spark: SparkSession, tmp_path: Path, read: Read) -> None:
    chance = random.Random(3)
    texts = {}
    for name in ("a.jsonl", "b b.jsonl.gz", "c.ndjson", "d.json"):
        lines = []
        for number in range(60):
            keys = chance.sample(list(SOUND), chance.randrange(len(SOUND)))
            values = {key: SOUND[key] for key in keys} | {"other": {"deep": [1]}, "url": f"http://host/{name}/{number}"}
            lines.append(json.dumps(values, ensure_ascii=chance.random() < 0.5) + chance.choice(["", "\n"]))
        texts[name] = "\n".join(lines)
        write(tmp_path / name, texts[name])
    with small_splits(spark, 1500):
        rows = read(tmp_path)
    wanted = {
        (name, number): {key: value for key, value in json.loads(line).items() if key != "other"}
        for name, text in texts.items()
        for number, line in lines_of(text).items()
    }
    assert {key: manifest_columns(row) for key, row in rows.items()} == wanted
    assert {row.malformed for row in rows.values()} == {None}


def test_malformed_json_lines_are_marked_in_their_place_and_never_lost(tmp_path: Path, read: Read) -> None:
    good = json.dumps(SOUND)
    bad = [
        b"not json",
        b'{"url": "http://host/cut',
        b"[]",
        b'[{"url": "http://host/1"}]',
        b'[{"url": "http://host/1"}, {"url": "http://host/2"}]',
        b'"http://host/1"',
        b"17",
        b"null",
        b'{"url": "http://host/1", "tags": "a"}',
        b'{"url": "http://host/1", "tags": {"a": 1}}',
        b'{"url": "http://host/1", "attributes": ["a"]}',
        b'{"url": "http://host/\xff"}',
        b'{"url": "http://host/1"} {"url": "http://host/2"}',
        b'{"url": "http://host/1"}]',
    ]
    lines = [part for line in bad for part in (line, good.encode())]
    write(tmp_path / "rows.jsonl", b"\n".join(lines))
    rows = read(tmp_path / "rows.jsonl")
    assert len(rows) == len(lines)
    for number, line in enumerate(lines):
        row = rows["rows.jsonl", number]
        assert (row.malformed is not None) == (number % 2 == 0), line
        if row.malformed is None:
            assert manifest_columns(row) == SOUND


def test_columns_are_mapped_to_the_names_that_a_manifest_has(tmp_path: Path, read: Read) -> None:
    renamed = {"url": "image.src", "title": "head line", "tags": "keywords"}
    line = {renamed.get(name, name): value for name, value in SOUND.items()}
    write(tmp_path / "rows.jsonl", json.dumps(line | {"title": "not this one"}))
    parquet.write_table(
        pa.Table.from_pylist([{n: v for n, v in line.items() if n != "attributes"}]), tmp_path / "p.parquet"
    )
    with (tmp_path / "c.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*line])
        writer.writeheader()
        writer.writerow(line | {"keywords": json.dumps(line["keywords"]), "attributes": json.dumps(line["attributes"])})
    for name in ("rows.jsonl", "p.parquet", "c.csv"):
        found = manifest_columns(read(tmp_path / name, columns=renamed)[name, 0])
        lacking = {"p.parquet": {"attributes"}, "c.csv": {"alt_text"}}.get(name, set())
        assert found == {key: value for key, value in SOUND.items() if key not in lacking}, name


# CSV ----------------------------------------------------------------------------------------------------------------


def test_csv_records_are_numbered_and_read_as_pythons_reader_does(tmp_path: Path, read: Read) -> None:
    header = ["title", "url", "extra, with comma", "tags", "attributes"]
    records = [
        ["plain", "http://host/0", "", "0a0|b c| |d3", '{"k": "v"}'],
        ['two\nlines, "quoted"', "http://host/1", "x", '["a", "b|c"]', ""],
        ["größe 猫", "http://host/2", "a\r\nb", "", '{"a": "1", "b": null}'],
        [" spaces ", "http://host/3", "", "one", ""],
    ]
    tags = [["0a0", "b c", "d3"], ["a", "b|c"], None, ["one"]]
    attributes = [{"k": "v"}, None, {"a": "1", "b": None}, None]
    texts = {}
    for name, separator, mark in (("a.csv", "\n", ""), ("b b.csv.gz", "\r\n", ""), ("c.csv", "\n\n", "\ufeff")):
        file = io.StringIO()
        csv.writer(file, lineterminator=separator).writerows([header, *records])
        texts[name] = mark + file.getvalue()
        write(tmp_path / name, texts[name])
    rows = read(tmp_path)
    assert rows.keys() == {(name, number) for name in texts for number in range(len(records))}
    for (_, number), row in rows.items():
        assert (row.title, row.url, row.malformed) == (records[number][0], records[number][1], None)
        assert (row.tags, row.attributes and dict(row.attributes)) == (tags[number], attributes[number])


def test_csv_records_with_too_few_or_too_many_fields_are_marked_and_never_lost(tmp_path: Path, read: Read) -> None:
    write(tmp_path / "rows.csv", "url,title\nhttp://host/0,a\nhttp://host/1\nhttp://host/2,b,c\nhttp://host/3,d\n")
    rows = read(tmp_path / "rows.csv")
    assert [rows["rows.csv", number].malformed is None for number in range(4)] == [True, False, False, True]
    assert len(rows) == 4


def test_csv_files_with_columns_in_another_order_are_read_by_name(tmp_path: Path, read: Read) -> None:
    write(tmp_path / "a.csv", "url,title\nhttp://host/a,first\n")
    write(tmp_path / "b.csv", "title,extra,url\nsecond,x,http://host/b\n")
    write(tmp_path / "c.csv", "url\nhttp://host/c\n")
    rows = read(tmp_path)
    assert {key: (row.url, row.title, row.malformed) for key, row in rows.items()} == {
        ("a.csv", 0): ("http://host/a", "first", None),
        ("b.csv", 0): ("http://host/b", "second", None),
        ("c.csv", 0): ("http://host/c", None, None),
    }


# Parquet, Delta -----------------------------------------------------------------------------------------------------


def test_parquet_rows_are_numbered_in_their_file_over_row_groups_and_splits(
    spark: SparkSession, tmp_path: Path, read: Read
) -> None:
    for name in ("a.parquet", "b+ %20.gz.parquet"):
        columns = {
            "url": [f"http://host/{name}/{number}" for number in range(500)],
            "tags": [["a", None] if number % 2 else None for number in range(500)],
            "attributes": pa.array([[("k", str(number))] for number in range(500)], pa.map_(pa.string(), pa.string())),
        }
        if name == "a.parquet":
            columns |= {"title": [f"title {number}" for number in range(500)], "other": list(range(500))}
        parquet.write_table(pa.table(columns), tmp_path / name, row_group_size=60, compression="gzip")
    with small_splits(spark, 4096):
        rows = read(tmp_path)
    assert len(rows) == 1000
    for (name, number), row in rows.items():
        assert row.url == f"http://host/{name}/{number}"
        assert row.title == (f"title {number}" if name == "a.parquet" else None)
        assert row.tags == (["a", None] if number % 2 else None)
        assert dict(row.attributes) == {"k": str(number)}
        assert row.malformed is None


def test_a_delta_manifest_is_its_newest_version_by_file_and_position(
    spark: SparkSession, tmp_path: Path, read: Read
) -> None:
    path = tmp_path / "delta table"
    first = frame(spark, "url string, tags array<string>", [(f"http://host/{number}", ["a"]) for number in range(6)])
    first.coalesce(1).write.format("delta").save(str(path))
    frame(spark, "url string, tags array<string>", [("http://host/new", None)]).write.format("delta").mode(
        "append"
    ).save(str(path))
    spark.sql(f"delete from delta.`{path}` where url = 'http://host/2'")
    rows = read(path)
    left = [f"http://host/{number}" for number in (0, 1, 3, 4, 5)]
    assert sorted(row.url for row in rows.values()) == [*left, "http://host/new"]
    for (name, number), row in rows.items():
        assert parquet.read_table(path / name).column("url")[number].as_py() == row.url


# What cannot be a manifest -----------------------------------------------------------------------------------------


def found(spark: SparkSession, path: Path, **given: Any) -> ManifestFiles:
    return find_manifest(spark, ManifestSettings(path=str(path), **given), DAY)


def test_the_date_is_put_into_the_path(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "2026-01-31" / "rows.txt", "http://host/1")
    manifest = found(spark, tmp_path / "{date}")
    assert (manifest.format, manifest.columns) == ("text", ("url",))
    assert [name.rsplit("/", 1)[1] for name in manifest.files] == ["rows.txt"]
    with pytest.raises(UsageError, match=r"2026-01-31.*no such file or folder"):
        found(spark, tmp_path / "other" / "{date}")


def test_a_folder_without_files_or_of_several_formats_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    write(tmp_path / "empty" / "_hidden.txt", "http://host/1")
    with pytest.raises(UsageError, match="holds no files"):
        found(spark, tmp_path / "empty")
    write(tmp_path / "mixed" / "a.csv", "url\n")
    write(tmp_path / "mixed" / "b.jsonl", "{}")
    with pytest.raises(UsageError, match=r"a\.csv, b\.jsonl.*manifest\.format"):
        found(spark, tmp_path / "mixed")
    write(tmp_path / "unknown" / "urls", "http://host/1")
    with pytest.raises(UsageError, match=r"\(urls\); expected one of \.csv"):
        found(spark, tmp_path / "unknown")
    assert found(spark, tmp_path / "unknown", format="text").format == "text"


def test_a_manifest_without_url_is_refused_with_the_columns_found(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", '{"uri": "http://host/1", "name": "a"}\nnot json\n{"size": 1}\n')
    write(tmp_path / "a.csv", '"uri","the name"\n')
    parquet.write_table(pa.table({"uri": ["http://host/1"], "name": ["a"]}), tmp_path / "a.parquet")
    wanted = {"a.jsonl": "name, size, uri", "a.csv": "uri, the name", "a.parquet": "uri, name"}
    for name, columns in wanted.items():
        with pytest.raises(
            UsageError, match=rf"no column 'url' .*columns found: {columns}\. Set manifest\.columns\.url"
        ):
            found(spark, tmp_path / name)
    assert found(spark, tmp_path / "a.csv", columns={"url": "uri"}).columns == ("uri", "the name")


def test_a_mapping_of_unknown_names_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "url,name\n")
    with pytest.raises(UsageError, match=r"no column 'headline' \(for title\); columns found: url, name"):
        found(spark, tmp_path / "a.csv", columns={"title": "headline"})
    with pytest.raises(UsageError, match=r"manifest\.columns\.headline: not a manifest column; known: url, "):
        found(spark, tmp_path / "a.csv", columns={"headline": "name"})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"url": [1]}, r"column 'url' \(for url\) is bigint, expected string"),
        ({"url": ["u"], "tags": ["a"]}, r"column 'tags' \(for tags\) is string, expected array<string>"),
        ({"url": ["u"], "attributes": [[1]]}, r"column 'attributes' .* is array<bigint>, expected map<string,string>"),
    ],
)
def test_a_parquet_column_of_another_type_is_refused(
    tmp_path: Path, read: Read, columns: dict[str, Any], message: str
) -> None:
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=message):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.txt.gz", "a.csv.gz"])
def test_a_file_that_is_not_what_its_name_says_is_refused_by_name(tmp_path: Path, read: Read, name: str) -> None:
    (tmp_path / name).write_bytes(b"url\nhttp://host/1\n")
    with pytest.raises(UsageError, match=name):
        read(tmp_path / name)
