"""CSV records and JSON lines against Python's own readers, and what is said of those that cannot be used."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.tables import MANIFEST_COLUMNS
from udfs import manifest_text
from udfs.csv_scan import count_csv_records
from udfs.manifest_text import ManifestValueError, csv_header, csv_records, csv_rows, json_keys, json_rows

NO_ROW = "not a JSON object with the manifest's types"
CSV_TEXT = st.lists(
    st.sampled_from(["\n", "\r", "\r\n", '"', '""', ",", "a", "ß", '"a"', ',"', '",', " ", "\u2028", "\x0b", "\x00"]),
    max_size=30,
).map("".join)


def as_batches(file: str, pieces: list[bytes], size: int) -> list[pa.RecordBatch]:
    """Lines as Spark hands them to a task, `size` of them a batch."""
    table = pa.table({"value": pieces, "_file": [file] * len(pieces), "_block": [0] * len(pieces)})
    schema = pa.schema([("value", pa.binary()), ("_file", pa.string()), ("_block", pa.int64())])
    return table.cast(schema).to_batches(max_chunksize=size)


def split(raw: bytes, line_end: bytes) -> list[bytes]:
    """What Hadoop's reader makes of a file: nothing follows the last line end."""
    pieces = raw.split(line_end)
    return pieces[:-1] if pieces[-1] == b"" else pieces


def runs(raw: bytes, line_end: bytes, size: int = 3) -> Iterator[list[bytes]]:
    pieces = split(raw, line_end)
    return (pieces[start : start + size] for start in range(0, len(pieces), size))


@settings(deadline=None, max_examples=600)
@given(CSV_TEXT, st.sampled_from([b"\n", b"\r"]), st.integers(1, 5))
@example('a,"b\r\nc"\r\n"d', b"\n", 1)
@example('"\n', b"\n", 1)
@example("a\r\n\r\nb\n\rc\r", b"\r", 1)
def test_csv_records_are_those_of_pythons_reader_and_so_is_their_count(text: str, line_end: bytes, size: int) -> None:
    wanted = [record for record in csv.reader(io.StringIO(text, newline="")) if record]
    found = list(csv_records(runs(text.encode(), line_end, size), line_end))
    assert len(found) == len(wanted)
    for (fields, problem, undecodable), record in zip(found, wanted, strict=True):
        assert not undecodable
        assert fields == record or (problem == "a quote is opened and never closed" and record == wanted[-1])
    # The count is made of lines that were split at any line end.
    lines = io.StringIO(text, newline=None).read().encode()
    batches = as_batches("f", split(lines, b"\n"), size)
    counted = [row["records"] for batch in count_csv_records(batches) for row in batch.to_pylist()]
    assert sum(counted) == max(0, len(wanted) - 1)


def read_csv(raw: bytes, names: dict[str, str] | None = None, line_end: bytes = b"\n") -> list[dict[str, Any]]:
    batches = csv_rows(names or {}, line_end)(as_batches("f", split(raw, line_end), 2))
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert [(row["_file"], row["row_number"]) for row in rows] == [("f", number) for number in range(len(rows))]
    return rows


def given_values(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in (*MANIFEST_COLUMNS, "malformed") if row[name] is not None}


def test_csv_text_that_is_not_utf8_is_said_and_never_replaced() -> None:
    rows = read_csv(b'url,title,other\nhttp://h/\xff,a,\nhttp://h/1,"x\n\xe9",\nhttp://h/2,b,\xff\nhttp://h/3,c,\n')
    assert [given_values(row) for row in rows] == [
        {"title": "a", "malformed": "not UTF-8 text"},
        {"url": "http://h/1", "malformed": "not UTF-8 text"},
        {"url": "http://h/2", "title": "b"},  # of a column that nobody asked for
        {"url": "http://h/3", "title": "c"},
    ]


def test_a_quote_that_is_never_closed_is_one_bad_row_with_nothing_of_the_rest_of_the_file() -> None:
    rows = read_csv(b'url,title\nhttp://h/0,a\nhttp://h/1,"b\nhttp://h/2,c\nhttp://h/3,d\n')
    assert [given_values(row) for row in rows] == [
        {"url": "http://h/0", "title": "a"},
        {"malformed": "a quote is opened and never closed"},
    ]


def test_a_csv_field_beyond_the_limit_costs_its_record_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_text, "FIELD_LIMIT", 50)
    too_long = "a CSV field of more than 50 characters"
    part = b"x" * 30 + b"\n"
    raw = b'url,title\nhttp://h/0,"%b,""\n%b",\nhttp://h/1,b\nhttp://h/2,"%b"\nh,%bh,c\n' % (
        part * 3,
        part,
        part,
        part[:-1] * 2,
    )
    try:
        rows = read_csv(raw)
        unclosed = read_csv(b'url\nhttp://h/0\n"' + part * 9)
    finally:
        csv.field_size_limit(131072)
    assert [row["url"] for row in rows] == [None, "http://h/1", "http://h/2", None]
    assert [row["malformed"] for row in rows] == [too_long, None, None, too_long]
    assert [row["malformed"] for row in unclosed] == [None, too_long]


def test_rows_of_long_fields_come_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 1,024 rows of the longest fields would be more than a column of text can hold."""
    monkeypatch.setattr(manifest_text, "FIELD_LIMIT", 50)
    lengths = [30, 10, 45, 1, 1, 1, 1]
    raw = b"url\n" + b"".join(b"x" * length + b"\n" for length in lengths)
    try:
        batches = list(csv_rows({}, b"\n")(as_batches("f", split(raw, b"\n"), 2)))
    finally:
        csv.field_size_limit(131072)
    assert [batch.num_rows for batch in batches] == [3, 4]
    rows = [row for batch in batches for row in batch.to_pylist()]
    assert [(row["row_number"], len(row["url"])) for row in rows] == list(enumerate(lengths))


@pytest.mark.parametrize("header", ["url,title", "url,title,", "url,title,, "])
@pytest.mark.parametrize(
    ("record", "title"),
    [
        ("http://h/,a", "a"),
        ("http://h/,a,", "a"),
        ('http://h/,a,""," ",,', "a"),
        ("http://h/,", None),
        ("http://h/,,,,", None),
        ("http://h/", "bad"),
        ("http://h/,a, b and more,,", "bad"),
        ("http://h/,a,,,b", "bad"),
    ],
)
def test_empty_csv_fields_that_have_no_name_may_be_there_or_not(header: str, record: str, title: str | None) -> None:
    row = read_csv(f"{header}\n{record}\n".encode())[0]
    width = header.count(",") + 1
    assert row["malformed"] == (f"not a CSV record of {width} fields" if title == "bad" else None)
    assert title == "bad" or (row["url"], row["title"]) == ("http://h/", title)


def test_white_space_around_a_csv_columns_name_is_no_other_name() -> None:
    """Else what a manifest says of a licence, say, would be passed over in silence."""
    rows = read_csv(b"url , license,title, title ,\talt_text\nhttp://h/,cc0,a,b, c\n", {"description": " title "})
    said = {"license": "cc0", "title": "a", "description": "b", "alt_text": " c"}
    assert given_values(rows[0]) == {"url": "http://h/", **said}


def test_a_csv_column_without_a_name_may_hold_whatever_it_likes() -> None:
    rows = read_csv(
        b",url,,title,\n0,http://h/0,x,a,y\n1,http://h/1,,b,\n2,http://h/2,,c\n3,http://h/3,,d,,\n4,http://h/4,x\n"
    )
    assert [(row["title"], row["malformed"] is None) for row in rows] == [
        *(("a", True), ("b", True), ("c", True), ("d", True)),
        (None, False),
    ]


@pytest.mark.parametrize(
    ("field", "tags"),
    [
        ("a|b c| |d", ["a", "b c", "d"]),
        ('["a", "b|c", ""]', ["a", "b|c", ""]),
        ("[]", []),
        ("[1, 2.50, true, null]", ["1", "2.50", "true", None]),
        ('["a", ["b", 1], {"c": null}]', ["a", '["b",1]', '{"c":null}']),
        ('["a"', ['["a"']),
        ('["a"] b|c', ['["a"] b', "c"]),
        ("[a]|[b]", ["[a]", "[b]"]),
        ("['a', 'b']", ["['a', 'b']"]),
        ("[" * 100_000, ["[" * 100_000]),
        ('{"a": 1}', ['{"a": 1}']),
        ('"a|b"', ['"a', 'b"']),
        ("null", ["null"]),
        (f"[{'9' * 5000}]", ["9" * 5000]),
    ],
)
def test_tags_in_a_csv_are_a_json_array_or_text_and_never_less_than_was_given(field: str, tags: list[str]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["url", "tags"], ["http://h/", field]])
    assert given_values(read_csv(text.getvalue().encode())[0]) == {"url": "http://h/", "tags": tags}


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ('{"b": "2", "a": ""}', [("b", "2"), ("a", "")]),
        (
            '{"a": 1.50, "b": null, "c": {"d": [1]}, "e": NaN}',
            [("a", "1.50"), ("b", None), ("c", '{"d":[1]}'), ("e", "NaN")],
        ),
        ("{}", []),
        ("null", None),
        ("a=1", "attributes: not a JSON object"),
        ('{"a": 1} x', "attributes: not a JSON object"),
        ("{'a': 1}", "attributes: not a JSON object"),
        ('["a"]', "attributes: not a JSON object"),
        ("17", "attributes: not a JSON object"),
        ('{"a": "1", "a": "2"}', "attributes: a key is given twice"),
        (r'{"a": "\ud800"}', "attributes: not UTF-8 text"),
        ('{"a":' * 100_000, "attributes: not a JSON object"),
    ],
)
def test_attributes_in_a_csv_are_a_json_object_or_the_row_is_bad(field: str, found: Any) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["url", "attributes"], ["http://h/", field]])
    row = read_csv(text.getvalue().encode())[0]
    assert row["url"] == "http://h/"
    assert (row["malformed"] or row["attributes"]) == found


@pytest.mark.parametrize(
    ("start", "whole", "names"),
    [
        (b"url,title\nhttp", False, ("url", "title")),
        (b"url,title", True, ("url", "title")),
        (b"url,title", False, None),
        (b"url,title\r", False, None),  # a line feed may follow
        (b'\xef\xbb\xbf\r\n\n"url","the\nname"\rhttp\nx', False, ("url", "the\nname")),
        (b'url,"open\nhttp://h/1\n', False, None),
        (b"url,gr\xf6\xdfe\nx\n", True, ("url", "gr\\xf6\\xdfe")),
        (b"", True, ()),
        (b"\n\r\n", True, ()),
        (b"\n\n", False, None),
    ],
)
def test_a_csv_header_is_the_first_record(start: bytes, whole: bool, names: tuple[str, ...] | None) -> None:
    assert csv_header(start, whole) == names


@pytest.mark.parametrize("start", [b'url,"title\nhttp://h/1,a\n', b'"url,title\nhttp://h/1,"a"\nhttp://h/2,b\n'])
def test_a_quote_in_the_csv_header_that_is_not_closed_is_refused(start: bytes) -> None:
    with pytest.raises(ManifestValueError, match="a quote in the CSV header is not closed"):
        csv_header(start, True)


# JSON lines ---------------------------------------------------------------------------------------------------------


def read_json(*lines: bytes | str, names: dict[str, str] | None = None) -> list[dict[str, Any]]:
    raw = [line.encode() if isinstance(line, str) else line for line in lines]
    numbers = list(range(len(raw)))
    batch = pa.RecordBatch.from_pydict({"value": raw, "_file": ["f"] * len(raw), "row_number": numbers})
    return [given_values(row) for read in json_rows(names or {})([batch]) for row in read.to_pylist()]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"url": "u", "width": NaN, "x": [Infinity, -Infinity]}', {"url": "u"}),
        ('{"url": "u", "title": NaN, "tags": NaN, "attributes": NaN}', {"url": "u"}),
        ('{"url": "u", "title": null, "tags": null, "attributes": null}', {"url": "u"}),
        ('{"url": 17, "title": 1.50, "license": true}', {"url": "17", "title": "1.50", "license": "true"}),
        ('{"url": "u", "title": {"a": [1, "b"]}}', {"url": "u", "title": '{"a":[1,"b"]}'}),
        ('{"url": "u", "tags": ["a", 1, null, ["b"]]}', {"url": "u", "tags": ["a", "1", None, '["b"]']}),
        ('{"url": "u", "attributes": {"a": NaN, "b": null}}', {"url": "u", "attributes": [("a", "NaN"), ("b", None)]}),
        (f'{{"url": "u", "size": {"9" * 5000}}}', {"url": "u"}),
        (r'{"url": "u", "title": "\ud83d\ude00"}', {"url": "u", "title": "😀"}),
        (r'{"url": "u", "title": "\ud83d"}', {"url": "u", "malformed": "title: not UTF-8 text"}),
        (r'{"url": "u", "other": "\ud83d"}', {"url": "u"}),
        ('{"url": "u", "tags": "a"}', {"url": "u", "malformed": "tags: not a list"}),
        ('{"url": "u", "tags": {"a": 1}}', {"url": "u", "malformed": "tags: not a list"}),
        ('{"url": "u", "attributes": ["a"]}', {"url": "u", "malformed": "attributes: not a JSON object"}),
        ('{"url": "u", "attributes": {"a": 1, "a": 2}}', {"url": "u", "malformed": "attributes: a key is given twice"}),
        ('{"url": "u", "title": "a", "title": "b"}', {"url": "u", "title": "b", "malformed": "title: given twice"}),
        ('{"url": "u", "other": 1, "other": 2}', {"url": "u"}),
        ('{"url": "u"}, "row": {"url": "v"}', {"malformed": NO_ROW}),
        ('{"url": "u"}, "a": 1', {"malformed": NO_ROW}),
        ('[{"url": "u"}]', {"malformed": NO_ROW}),
        ("[" * 100_000, {"malformed": NO_ROW}),
        (b'{"url": "\xff"}', {"malformed": "not UTF-8 text"}),
        ('{"url": "u", "title": ' + "[" * 300 + "]" * 300 + "}", {"url": "u", "title": "[" * 300 + "]" * 300}),
    ],
)
def test_a_json_line_is_a_row_or_says_why_not(line: str | bytes, found: dict[str, Any]) -> None:
    assert read_json(line) == [found]


@settings(deadline=None, max_examples=300)
@given(
    st.dictionaries(
        st.sampled_from(["url", "title", "tags", "other"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part, max_size=3),
            max_leaves=6,
        ),
    )
    | st.text()
    | st.lists(st.integers())
)
def test_what_the_json_reader_reads_the_column_finder_finds(value: Any) -> None:
    line = json.dumps(value)
    (row,) = read_json(line)
    assert json_keys(line.encode()) == (list(value) if isinstance(value, dict) else [])
    assert row.get("malformed") != NO_ROW if isinstance(value, dict) else row.keys() == {"malformed"}
    assert row.keys() - {"malformed"} <= set(json_keys(line.encode()))


def test_one_column_of_a_json_line_may_fill_several_of_ours() -> None:
    assert read_json('{"link": "u", "url": "no"}', names={"url": "link", "page_url": "link"}) == [
        {"url": "u", "page_url": "u"}
    ]
