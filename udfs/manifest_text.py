"""Manifest rows out of CSV and JSON lines, on executors: a file or a line at a time, in bounded memory.

Text that is not UTF-8 is never replaced by something else: the row says so, and the value is null.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from schemas.arrow import arrow_type
from schemas.tables import MANIFEST_COLUMNS
from udfs.csv_scan import runs_of_lines, still_open

NOT_UTF8 = "not UTF-8 text"
FIELD_LIMIT = 16 * 2**20
"""Characters of a CSV field; a quote that is never closed would otherwise collect the rest of the file."""

_NO_ROW = "not a JSON object with the manifest's types"
_ROWS_A_BATCH = 1024
_UNDECODED = re.compile("[\ud800-\udfff]")
"""What stands for bytes that are no UTF-8 (or for half a character that JSON spelt out): no text may hold it."""
READ: dict[str, str] = {"_file": "string", "row_number": "bigint", **MANIFEST_COLUMNS, "malformed": "string"}
"""Columns of the rows that are read, in order; `malformed` says why a row cannot be used."""
_SCHEMA = pa.schema([(name, arrow_type(kind)) for name, kind in READ.items()])

ReadBatches = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]
Pairs = list[tuple[str, str | None]]


class ManifestValueError(ValueError):
    """Why a value cannot be used; the text is fit for `failure_detail`."""


# JSON ---------------------------------------------------------------------------------------------------------------


class _Number(str):
    """A number as it was written: 1.50 stays 1.50, and digits by the thousand cost nothing."""


class _Object(list[tuple[str, Any]]):
    """An object's keys and values as they were written, repeated keys included."""


_DECODER = json.JSONDecoder(object_pairs_hook=_Object, parse_float=_Number, parse_int=_Number, parse_constant=_Number)
_NOT_JSON = (ValueError, RecursionError)


def _as_json(value: Any) -> str:
    """What was decoded, as JSON again."""
    if isinstance(value, _Number):
        return value
    if isinstance(value, _Object):
        return "{" + ",".join(f"{json.dumps(key, ensure_ascii=False)}:{_as_json(part)}" for key, part in value) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(_as_json, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _as_text(value: Any) -> str | None:
    """A JSON value as text: a string itself, null as null, anything else as it is spelt in JSON."""
    if value is None:
        return None
    return _sound(value if type(value) is str else _as_json(value))


def _sound(text: str) -> str:
    if _UNDECODED.search(text):
        raise ManifestValueError(NOT_UTF8)
    return text


def _is_missing(value: Any) -> bool:
    """Null, or NaN, which is how pandas writes a value that is missing."""
    return value is None or (isinstance(value, _Number) and value == "NaN")


def _text_of_json(value: Any) -> str | None:
    return None if _is_missing(value) else _as_text(value)


def _list_of_json(value: Any) -> list[str | None] | None:
    if _is_missing(value):
        return None
    if not isinstance(value, list) or isinstance(value, _Object):
        raise ManifestValueError("not a list")
    return [_as_text(part) for part in value]


def _map_of_json(value: Any) -> Pairs | None:
    if _is_missing(value):
        return None
    if not isinstance(value, _Object):
        raise ManifestValueError("not a JSON object")
    if len({key for key, _ in value}) < len(value):
        raise ManifestValueError("a key is given twice")
    return [(_sound(key), _as_text(part)) for key, part in value]


_OF_JSON: dict[str, Callable[[Any], Any]] = {
    "string": _text_of_json,
    "array<string>": _list_of_json,
    "map<string,string>": _map_of_json,
}


def json_keys(line: bytes) -> list[str]:
    """Names of the columns in a line, as `json_rows` would find them; none where it cannot be read."""
    found = _json_object(line)
    return [key for key, _ in found] if isinstance(found, _Object) else []


def json_names(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """For `mapInArrow`: lines (`value`) -> `key`, the names in them, each once a batch."""
    for batch in batches:
        names = {key for line in batch.column("value").to_pylist() for key in json_keys(line)}
        printable = {name.encode(errors="backslashreplace").decode() for name in names}
        yield pa.RecordBatch.from_arrays([pa.array(sorted(printable), pa.string())], names=["key"])


def _json_object(line: bytes) -> _Object | str:
    """The line's object, or why there is none."""
    try:
        found = _DECODER.decode(line.decode())
    except UnicodeDecodeError:
        return NOT_UTF8
    except _NOT_JSON:
        return _NO_ROW
    return found if isinstance(found, _Object) else _NO_ROW


def json_rows(names: Mapping[str, str]) -> ReadBatches:
    """For `mapInArrow`: numbered lines (`value`, `_file`, `row_number`) -> `READ`, one row per line.

    `names`: our column -> the manifest's. A value of another type than the column's is null, and the row says so.
    """
    ours_of = _ours_of(names)

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = _Rows()
            for line in batch.column("value").to_pylist():
                rows.add(*_json_row(line, ours_of))
            yield rows.batch(batch.column("_file"), batch.column("row_number"))

    return run


def _ours_of(names: Mapping[str, str]) -> dict[str, list[str]]:
    """The manifest's names -> ours, of which several may be filled from one."""
    found: dict[str, list[str]] = {}
    for ours in MANIFEST_COLUMNS:
        found.setdefault(names.get(ours, ours), []).append(ours)
    return found


def _json_row(line: bytes, ours_of: Mapping[str, Sequence[str]]) -> tuple[dict[str, Any], str | None]:
    values: dict[str, Any] = {}
    found = _json_object(line)
    if isinstance(found, str):
        return values, found
    problem = None
    for key, value in found:
        for ours in ours_of.get(key, ()):
            if ours in values:
                problem = problem or f"{key}: given twice"
            values[ours] = None
            try:
                values[ours] = _OF_JSON[MANIFEST_COLUMNS[ours]](value)
            except RecursionError:
                problem = problem or f"{key}: nested too deeply"
            except ManifestValueError as error:
                problem = problem or f"{key}: {error}"
    return values, problem


# CSV ----------------------------------------------------------------------------------------------------------------


@dataclass
class _Feed:
    """One file's lines on their way into `csv.reader`, and what it took since it last gave a record."""

    runs: Iterator[list[bytes]]
    line_end: bytes
    taken: list[bytes] = field(default_factory=list)
    undecodable: bool = False
    ended: bool = False

    def lines(self) -> Iterator[str]:
        """Lines with their ends, of whichever kind; bytes that are no UTF-8 as `_UNDECODED`."""
        for run in self.runs:
            for line in (self.line_end.join(run) + self.line_end).splitlines(keepends=True):
                self.taken.append(line)
                try:
                    yield line.decode()
                except UnicodeDecodeError:
                    self.undecodable = True
                    yield line.decode(errors="surrogateescape")
        self.ended = True

    def reset(self) -> None:
        self.taken.clear()
        self.undecodable = False


Record = tuple[list[str], str | None, bool]
"""Fields, what is wrong with the record as such, and whether it holds bytes that are no UTF-8."""


def csv_records(runs: Iterator[list[bytes]], line_end: bytes) -> Iterator[Record]:
    """Records of a file as `csv.reader` reads it, the header among them, without blank lines.

    `runs`: the file's lines as split at `line_end`, which nothing else in the file may be taken for. A record that is
    cut off inside quotes by the end of the file, or that has a field beyond `FIELD_LIMIT`, has no fields.
    """
    csv.field_size_limit(FIELD_LIMIT)
    feed = _Feed(runs, line_end)
    lines = feed.lines()
    reader = csv.reader(lines)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            _skip_record(feed, lines)
            yield [], f"a CSV field of more than {FIELD_LIMIT} characters", False
        else:
            if feed.ended:  # the reader asks for more inside a record only
                yield [], "a quote is opened and never closed", False
            elif fields:
                yield fields, None, feed.undecodable
        feed.reset()


def _skip_record(feed: _Feed, lines: Iterator[str]) -> None:
    """Take the rest of a record that the reader gave up."""
    is_open = False
    for line in feed.taken:
        is_open = still_open(line, is_open)
    while is_open and next(lines, None) is not None:
        is_open = still_open(feed.taken.pop(), is_open)


def csv_header(start: bytes, is_whole: bool) -> tuple[str, ...] | None:
    """Names in the first record of a CSV file, given how the file begins; none where it has no record.

    None where `start` ends before the header does and is not the whole file. Raises ManifestValueError where a quote in
    it is not closed, or closed in the middle of a name: it would swallow rows.
    """
    lines = start.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)
    if not is_whole and lines:
        lines.pop()  # it may be cut off, or be the first half of a line end
    decoded = (line.decode(errors="surrogateescape") for line in lines)
    try:
        names = next((record for record in csv.reader(decoded, strict=True) if record), None)
    except csv.Error as error:
        if not is_whole and str(error).startswith(("unexpected end of data", "field larger than")):
            return None
        raise ManifestValueError(f"a quote in the CSV header is not closed where a name ends ({error})") from None
    if names is None:
        return () if is_whole else None
    return tuple(name.encode(errors="surrogateescape").decode(errors="backslashreplace") for name in names)


def csv_places(header: Sequence[str], name: str) -> list[int]:
    """Where a column is in a CSV file: white space around its name counts only where another one has none."""
    exact = [place for place, found in enumerate(header) if found == name]
    return exact or [place for place, found in enumerate(header) if found.strip() == name.strip()]


def csv_rows(names: Mapping[str, str], line_end: bytes) -> ReadBatches:
    """For `mapInArrow`: whole files as lines (`value`, `_file`, `_block`), split at `line_end` -> `READ`.

    `names`: our column -> the manifest's. Records are numbered from 0 after the header. Fields that are empty are null;
    tags are a JSON array or separated by `|`, attributes a JSON object. A record may have more or fewer fields than the
    header where these hold nothing and have no name.
    """

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for file, group in groupby(runs_of_lines(batches), key=itemgetter(0)):
            records = csv_records((lines for _, lines in group), line_end)
            header, _, _ = next(records, ([], None, False))
            places = _places(header, names)
            named = _named(header)
            first = 0
            for part in _parts(records):
                rows = _Rows()
                for record in part:
                    rows.add(*_csv_row(record, header, named, places))
                numbers = pa.array(range(first, first + len(part)), pa.int64())
                yield rows.batch(pa.array([file] * len(part)), numbers)
                first += len(part)

    return run


def _parts(records: Iterable[Record]) -> Iterator[list[Record]]:
    """So many that a batch has `_ROWS_A_BATCH` at most, and no more once its fields have `FIELD_LIMIT` characters."""
    part: list[Record] = []
    held = 0
    for record in records:
        part.append(record)
        held += sum(map(len, record[0]))
        if len(part) == _ROWS_A_BATCH or held >= FIELD_LIMIT:
            yield part
            part, held = [], 0
    if part:
        yield part


def _places(header: list[str], names: Mapping[str, str]) -> dict[str, int]:
    """Our columns -> their places: the first of a name that is there more than once."""
    found = {ours: csv_places(header, names.get(ours, ours)) for ours in MANIFEST_COLUMNS}
    return {ours: places[0] for ours, places in found.items() if places}


def _named(header: Sequence[str]) -> int:
    """How many fields there are up to the last one that has a name: spreadsheets write commas behind it."""
    return max((place for place, name in enumerate(header, 1) if name.strip()), default=0)


def _csv_row(
    record: Record, header: Sequence[str], named: int, places: Mapping[str, int]
) -> tuple[dict[str, Any], str | None]:
    fields, problem, undecodable = record
    values: dict[str, Any] = {}
    if problem:
        return values, problem
    if len(fields) != len(header) and (len(fields) < named or any(map(str.strip, fields[named:]))):
        problem = f"not a CSV record of {len(header)} fields"
    for ours, place in places.items():
        text = fields[place] if place < len(fields) else ""
        if not text:
            continue
        if undecodable and _UNDECODED.search(text):
            problem = problem or NOT_UTF8
            continue
        try:
            values[ours] = _OF_FIELD[MANIFEST_COLUMNS[ours]](text)
        except ManifestValueError as error:
            problem = problem or f"{ours}: {error}"
    return values, problem


def _list_of_field(text: str) -> list[str | None]:
    """A JSON array, or what stands between `|`: never less than was given."""
    if text.lstrip().startswith("["):
        try:
            found = _DECODER.decode(text)
            return [_as_text(part) for part in found]
        except ManifestValueError:
            raise
        except _NOT_JSON:
            pass  # tags may begin with a bracket
    return [tag for part in text.split("|") if (tag := part.strip())]


def _map_of_field(text: str) -> Pairs | None:
    try:
        return _map_of_json(_DECODER.decode(text))
    except ManifestValueError:
        raise
    except _NOT_JSON:
        raise ManifestValueError("not a JSON object") from None


_OF_FIELD: dict[str, Callable[[str], Any]] = {
    "string": str,
    "array<string>": _list_of_field,
    "map<string,string>": _map_of_field,
}


class _Rows:
    """Rows under way to a record batch."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {name: [] for name in MANIFEST_COLUMNS}
        self._malformed: list[str | None] = []

    def add(self, values: Mapping[str, Any], malformed: str | None) -> None:
        for name, column in self._columns.items():
            column.append(values.get(name))
        self._malformed.append(malformed)

    def batch(self, files: pa.Array, numbers: pa.Array) -> pa.RecordBatch:
        texts = [*self._columns.values(), self._malformed]
        kinds = [*MANIFEST_COLUMNS.values(), "string"]
        made = [pa.array(column, arrow_type(kind)) for column, kind in zip(texts, kinds, strict=True)]
        return pa.RecordBatch.from_arrays([files, numbers, *made], schema=_SCHEMA)
