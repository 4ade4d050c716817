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

from jobs.config.errors import UsageError
from jobs.config.profile import ManifestSettings
from jobs.manifests.count import count_rows
from jobs.manifests.discovery import find_manifest
from jobs.manifests.files import ManifestFiles
from jobs.manifests.rows import read_manifest
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
    """Rows of a manifest by (source_file, row_number); fails where two rows have one key, or a count of its own finds
    more or fewer."""

    def read_path(path: Path, **given: Any) -> dict[Key, Row]:
        settings = ManifestSettings(path=str(path), **given)
        manifest = find_manifest(spark, settings, DAY)
        found = read_manifest(spark, settings, manifest, materialise)
        assert found.columns == ["source_file", "row_number", *MANIFEST_COLUMNS, "malformed"]
        # As the next stage takes them: Arrow refuses what is not text.
        rows = [Row(**row) for row in found.toArrow().to_pylist()]
        by_key = {(row.source_file, row.row_number): row for row in rows}
        assert len(by_key) == len(rows) == count_rows(spark, manifest)
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


CSV_RECORDS = [
    ["url", "title", "license"],
    ["http://host/0", "plain", "a"],
    ["http://host/1", "two\nlines", "b"],
    ["http://host/2", "a\r\nb\rc", "c"],
    ["http://host/3", ' "quoted", ', "größe"],
    ["http://host/4", "\u2028\x0b\x85", ""],
    [" "],
    ["http://host/6", "last", "d"],
]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_csv_line_ends_of_every_kind_and_mixed_make_the_records_of_pythons_reader(
    spark: SparkSession, tmp_path: Path, read: Read, suffix: str
) -> None:
    ends = {"lf": ["\n"], "crlf": ["\r\n"], "cr": ["\r"], "header": ["\n", "\r\n"], "mixed": ["\r\n", "\n", "\r"]}
    ends |= {"blank": ["\n\n", "\r\r\n"], "crfirst": ["\r", "\r\n", "\n"]}
    texts = {}
    for name, kinds in ends.items():
        text = io.StringIO()
        for number, record in enumerate(CSV_RECORDS):
            csv.writer(
                text, lineterminator=kinds[min(number, len(kinds) - 1)] if number < 3 else kinds[number % len(kinds)]
            ).writerow(record)
        texts[f"{name}.csv{suffix}"] = text.getvalue()
        texts[f"{name}.unended.csv{suffix}"] = text.getvalue().rstrip("\r\n")
    for name, text in texts.items():
        write(tmp_path / name, text)
    with small_splits(spark, 64):
        rows = read(tmp_path)
    wanted = {}
    for name, text in texts.items():
        _, *records = (record for record in csv.reader(io.StringIO(text, newline="")) if record)
        for number, record in enumerate(records):
            fields = [field or None for field in record] if len(record) == 3 else None
            wanted[name, number] = fields or "not a CSV record of 3 fields"
    assert {key: row.malformed or [row.url, row.title, row.license] for key, row in rows.items()} == wanted


def test_csv_bytes_that_are_not_utf8_are_said_by_their_row_alone(tmp_path: Path, read: Read) -> None:
    write(tmp_path / "rows.csv.gz", b"url,title\r\nhttp://host/\xe9,a\r\nhttp://host/1,b\r\nhttp://host/2,\xff\r\n")
    rows = read(tmp_path / "rows.csv.gz")
    assert [(row.url, row.title, row.malformed) for _, row in sorted(rows.items())] == [
        (None, "a", "not UTF-8 text"),
        ("http://host/1", "b", None),
        ("http://host/2", None, "not UTF-8 text"),
    ]


def test_a_file_whose_beginning_cannot_be_right_is_refused_by_name(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a" / "good.csv", "url\nhttp://host/1\n")
    write(tmp_path / "a" / "bad.csv", 'url,"title\nhttp://host/1,a\nhttp://host/2,b\n')
    write(tmp_path / "b" / "long.csv", 'url,"title\n' + "http://host/1,a\n" * 100_000)
    write(tmp_path / "c" / "wide.csv", "url,title\nhttp://host/1,a\n".encode("utf-16"))
    write(tmp_path / "d" / "packed.txt", gzip.compress(b"http://host/1\n"))
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "cut.jsonl.gz").write_bytes(b"")  # gzip of nothing is twenty bytes
    for folder, message in {
        "a": r"bad\.csv: a quote in the CSV header",
        "b": r"long\.csv: the CSV header does not end",
        "c": r"wide\.csv: is UTF-16",
        "d": r"packed\.txt: is compressed, which its name does not say",
        "e": r"cut\.jsonl\.gz: cannot be read: Unexpected end of input stream",
    }.items():
        with pytest.raises(UsageError, match=message):
            found(spark, tmp_path / folder)


# Zero rows ----------------------------------------------------------------------------------------------------------


def test_zero_rows_are_an_empty_night_in_every_format(spark: SparkSession, tmp_path: Path, read: Read) -> None:
    for ending, blank in {"csv": "\n\r\n\n", "jsonl": "\n\r\n \n", "txt": "\n\r\n \n"}.items():
        write(tmp_path / ending / f"a.{ending}", "")
        write(tmp_path / ending / f"b.{ending}.gz", "")
        write(tmp_path / ending / f"c.{ending}", blank)
        write(tmp_path / f"empty.{ending}", "")
    write(tmp_path / "csv" / "header.csv", "url,title\r\n")
    (tmp_path / "parquet").mkdir()
    parquet.write_table(pa.table({"url": pa.array([], pa.string())}), tmp_path / "parquet" / "a.parquet")
    parquet.write_table(
        pa.table({"url": pa.nulls(0), "title": pa.array([], pa.date32())}), tmp_path / "parquet" / "b.parquet"
    )
    parquet.write_table(pa.table({}), tmp_path / "parquet" / "c.parquet")
    parquet.write_table(pa.table({}), tmp_path / "empty.parquet")
    frame(spark, "url string", []).write.format("delta").save(str(tmp_path / "delta"))
    for path in sorted(tmp_path.iterdir()):
        assert read(path) == {}, path.name


def test_json_lines_hold_what_other_writers_put_there(tmp_path: Path, read: Read) -> None:
    write(
        tmp_path / "nan.jsonl", '{"url": "http://host/0", "width": NaN, "title": NaN}\n\n \t\n{"url": "http://host/3"}'
    )
    rows = read(tmp_path / "nan.jsonl")
    assert {key[1]: manifest_columns(row) for key, row in rows.items()} == {
        0: {"url": "http://host/0"},
        3: {"url": "http://host/3"},
    }


def test_a_column_of_json_lines_may_begin_late(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "late.jsonl", '{"page": "a"}\n' * 2500 + '{"url": "http://host/1", "name": NaN}\n')
    assert found(spark, tmp_path / "late.jsonl", columns={"title": "name"}).columns == ("name", "page", "url")
    with pytest.raises(UsageError, match=r"no column 'names'.*columns found: name, page, url"):
        found(spark, tmp_path / "late.jsonl", columns={"title": "names"})


def test_names_may_hold_colons_and_whatever_else_file_systems_take(
    spark: SparkSession, tmp_path: Path, read: Read
) -> None:
    root = tmp_path / "at 12:00 {x}[1]*"
    line = {"txt": "http://host/1\n", "csv": "url\nhttp://host/1\n", "jsonl": '{"url": "http://host/1"}\n'}
    for ending, text in line.items():
        write(root / ending / f"2026-01-31T12:30 [1].{ending}", text)
    (root / "parquet").mkdir()
    parquet.write_table(pa.table({"url": ["http://host/1"]}), root / "parquet" / "2026-01-31T12:30 [1].parquet")
    for ending in (*line, "parquet"):
        name = f"2026-01-31T12:30 [1].{ending}"
        for path in (root / ending, root / ending / name):
            assert {key: row.url for key, row in read(path).items()} == {(name, 0): "http://host/1"}
    with pytest.raises(UsageError, match=r"manifest.path 12:30.txt: there is no such file"):  # nor a scheme `12`
        found(spark, Path("12:30.txt"))


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


ODD_COLUMNS = {
    "time": pa.array([dt.time(1), dt.time(2)], pa.time64("ns")),
    "nanoseconds": pa.array([1, 2], pa.timestamp("ns")),
    "unsigned": pa.array([1, 2], pa.uint64()),
    "fixed": pa.array([b"ab", b"cd"], pa.binary(2)),
    "half": pa.array([b"ab", b"cd"], pa.binary(2)),
    "nulls": pa.nulls(2),
    "empty lists": pa.array([[], []], pa.list_(pa.null())),
    "deep": pa.array([[{"a": {"b": [dt.time(1)]}}], []]),
    "URL": pa.array([1, 2]),
    "Url": pa.array([b"a", b"b"]),
    "title ": pa.array([1.0, 2.0]),
    "url.x": pa.array([1, 2]),
    "a`b,;{}()=": pa.array([1, 2]),
}


def test_parquet_columns_that_nobody_asked_for_do_not_matter(tmp_path: Path, read: Read) -> None:
    for number, columns in enumerate((ODD_COLUMNS, {name: pa.array(["x", "y"]) for name in ODD_COLUMNS})):
        urls = pa.array([f"http://host/{number}/0", f"http://host/{number}/1"])
        parquet.write_table(pa.table({**columns, "url": urls, "tags": [["a"], None]}), tmp_path / f"{number}.parquet")
    wanted = {
        (f"{number}.parquet", row): {"url": f"http://host/{number}/{row}"} | ({} if row else {"tags": ["a"]})
        for number in range(2)
        for row in range(2)
    }
    assert {key: manifest_columns(row) for key, row in read(tmp_path).items()} == wanted
    renamed = read(tmp_path / "1.parquet", columns={"url": "URL", "title": "Url", "license": "a`b,;{}()="})
    assert [manifest_columns(row) for row in renamed.values()] == [
        {"url": "x", "title": "x", "license": "x", "tags": ["a"]},
        {"url": "y", "title": "y", "license": "y"},
    ]


@pytest.mark.parametrize("statistics", [True, False])
def test_a_parquet_column_of_nulls_is_null_whatever_its_type(tmp_path: Path, read: Read, statistics: bool) -> None:
    nulls = {
        "page_url": pa.nulls(3, pa.time64("ns")),
        "title": pa.nulls(3, pa.float64()),
        "alt_text": pa.nulls(3),
        "description": pa.nulls(3, pa.struct([("a", pa.int64())])),
        "tags": pa.array([[], [None], None], pa.list_(pa.int32())),
        "license": pa.nulls(3, pa.list_(pa.string())),
        "attributes": pa.array([[], None, []], pa.map_(pa.string(), pa.int64())),
        "expected_sha256": pa.nulls(3, pa.int64()).dictionary_encode(),
    }
    urls = [f"http://host/{number}" for number in range(3)]
    parquet.write_table(pa.table({"url": urls, **nulls}), tmp_path / "a.parquet", write_statistics=statistics)
    parquet.write_table(pa.table({"url": urls, "title": ["a", "b", "c"]}), tmp_path / "b.parquet")
    parquet.write_table(pa.table({"url": pa.nulls(3)}), tmp_path / "c.parquet", write_statistics=statistics)
    rows = read(tmp_path)
    assert {key: manifest_columns(row) for key, row in rows.items()} == {
        (f"{name}.parquet", number): ({} if name == "c" else {"url": url})
        | ({"title": "abc"[number]} if name == "b" else {})
        for name in "abc"
        for number, url in enumerate(urls)
    }


def test_a_parquet_error_names_file_and_column(spark: SparkSession, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"url": ["u"], "title": ["a"]}), tmp_path / "a.parquet")
    for statistics in (True, False):
        table = pa.table({"url": ["u", "v"], "title": pa.array([None, 1.5])})
        parquet.write_table(table, tmp_path / "b.parquet", write_statistics=statistics)
        with pytest.raises(UsageError, match=r"b\.parquet: column 'title' \(for title\) is double, expected string"):
            found(spark, tmp_path)
    parquet.write_table(pa.table({"URL": ["u"]}), tmp_path / "b.parquet")
    with pytest.raises(UsageError, match=r"b\.parquet: no column 'url' \(for url\); columns found: URL"):
        found(spark, tmp_path)
    twice = pa.Table.from_arrays([pa.array(["u"]), pa.array(["v"])], names=["url", "url"])
    parquet.write_table(twice, tmp_path / "b.parquet")
    with pytest.raises(UsageError, match=r"b\.parquet: column 'url' \(for url\) is there 2 times"):
        found(spark, tmp_path)
    (tmp_path / "b.parquet").write_bytes(b"PAR1" * 3)
    with pytest.raises(UsageError, match=r"b\.parquet: cannot be read as parquet"):
        found(spark, tmp_path)


def test_parquet_text_may_be_bytes_and_what_is_not_text_is_said(tmp_path: Path, read: Read) -> None:
    columns = {
        "url": pa.array([b"http://host/0", b"http://host/\xff", b"http://host/2", b"http://host/3"]),
        "title": pa.array(["a", "b", "a", "c"]).dictionary_encode(),
        "tags": pa.array([[b"a"], None, [b"b", b"\xff"], None]),
        "attributes": pa.array([[("k", "1")], None, None, [("k", "1"), ("k", "2")]], pa.map_(pa.string(), pa.string())),
    }
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    rows = list(read(tmp_path).values())
    assert [(row.url, row.title, row.tags, row.attributes, row.malformed) for row in rows] == [
        ("http://host/0", "a", ["a"], [("k", "1")], None),
        (None, "b", None, None, "not UTF-8 text"),
        ("http://host/2", "a", None, None, "not UTF-8 text"),
        ("http://host/3", "c", None, None, "attributes: a key is given twice"),
    ]


def test_folders_may_tell_a_column_of_a_parquet_manifest(spark: SparkSession, tmp_path: Path, read: Read) -> None:
    columns = "url string, license string, attributes map<string,string>"
    licences = ["CC BY/4.0 50%", "a=b", None]
    rows = [(f"http://host/{number}", licence, None) for number, licence in enumerate(licences)]
    frame(spark, columns, rows).write.partitionBy("license").parquet(str(tmp_path / "date=2026-01-31"))
    found_rows = read(tmp_path / "date=2026-01-31").values()
    assert sorted((row.url, row.license) for row in found_rows) == [row[:2] for row in rows]


def test_a_delta_manifest_is_read_and_counted_at_the_version_that_was_found(
    spark: SparkSession, tmp_path: Path, materialise: Callable[[DataFrame], DataFrame]
) -> None:
    path = str(tmp_path / "table")
    columns = "url string, title double, tags array<int>, page_url void"
    frame(spark, columns, [("u", None, [None], None), ("v", None, None, None)]).write.format("delta").save(path)
    spark.sql(f"delete from delta.`{path}` where url = 'v'")
    settings = ManifestSettings(path=path)
    manifest = find_manifest(spark, settings, DAY)
    frame(spark, columns, [("w", 1.5, None, None)]).write.format("delta").mode("append").save(path)
    assert [row.url for row in read_manifest(spark, settings, manifest, materialise).collect()] == ["u"]
    assert count_rows(spark, manifest) == 1
    with pytest.raises(UsageError, match=r"column 'title' \(for title\) is double, expected string"):
        find_manifest(spark, settings, DAY)
    (tmp_path / "half" / "_delta_log").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds no commit"):
        found(spark, tmp_path / "half")


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


def test_what_is_listed_of_a_file_that_is_no_manifest_has_an_end(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.csv", f"{'x' * 500},{','.join('abc' * 100)}\n")
    with pytest.raises(UsageError, match=rf"columns found: {'x' * 100}\.\.\., a, b, .*, and 251 more\. Set "):
        found(spark, tmp_path / "a.csv")


def test_a_csv_column_that_is_there_twice_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "url,title,other,other,title\n")
    with pytest.raises(UsageError, match=r"a\.csv: column 'title' \(for title\) is there 2 times"):
        found(spark, tmp_path / "a.csv")
    write(tmp_path / "b.csv", " url,other,other, title,title\n")
    assert found(spark, tmp_path / "b.csv").files
    with pytest.raises(UsageError, match=r"b\.csv: column 'other' \(for license\) is there 2 times"):
        found(spark, tmp_path / "b.csv", columns={"license": "other"})


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
