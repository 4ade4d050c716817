"""The manifests hold what they say, and their truth is what the real pre-gate, fetcher and decoder make of each row."""

import csv
import datetime as dt
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from demo.manifests import ManifestFile, Row, expected_outcomes, write_manifests
from demo.pictures import Picture
from demo.site import DATES, Site, Truth, cast, misbehaving_pages
from jobs.config.profile import load
from schemas.outcomes import FailureCode, Outcome
from schemas.policy import Policy
from schemas.tables import MANIFEST_COLUMNS
from udfs.crawl.fetch import fetch_batches
from udfs.gate.pregate import pregate
from udfs.gate.rules import refused_url
from udfs.images.decode import ImageError, open_image
from udfs.images.decode import load as decode

FATES_WITHOUT_FETCH = {Outcome.BLOCKED, FailureCode.BAD_ROW}


@pytest.fixture(scope="module")
def written(manifests: list[ManifestFile], tmp_path_factory: pytest.TempPathFactory) -> dict[dt.date, Path]:
    return write_manifests(tmp_path_factory.mktemp("manifests"), manifests)


@pytest.fixture(scope="module")
def truths(manifests: list[ManifestFile]) -> dict[tuple[dt.date, str, int], Truth]:
    return expected_outcomes(manifests)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.model_validate(yaml.safe_load(Path("conf/policy.yaml").read_text(encoding="utf-8")))


def rows_of(manifests: list[ManifestFile], date: dt.date) -> list[Row]:
    return [row for file in manifests if file.date == date for row in file.rows if row is not None]


def sound_rows(manifests: list[ManifestFile], date: dt.date) -> list[tuple[dict[str, Any], Truth]]:
    return [(row.fields, row.truth) for row in rows_of(manifests, date) if row.fields is not None]


def count_rows(path: Path) -> int:
    """Rows of a manifest file, counted without any code of ours."""
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return sum(1 for record in csv.reader(file) if record) - 1
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return sum(1 for line in text.split(b"\n") if line.strip())


def test_there_are_400_rows_over_three_dates_in_three_formats(
    written: dict[dt.date, Path], truths: dict[tuple[dt.date, str, int], Truth]
) -> None:
    files = [path for folder in written.values() for path in folder.iterdir()]
    assert tuple(written) == DATES
    assert {path.name.partition(".")[2] for path in files} == {"jsonl", "jsonl.gz", "csv", "parquet"}
    assert 400 <= sum(count_rows(path) for path in files) == len(truths)


def test_every_file_has_as_many_rows_as_truths(
    written: dict[dt.date, Path], truths: dict[tuple[dt.date, str, int], Truth]
) -> None:
    planned = Counter((date, name) for date, name, _ in truths)
    found = {(date, path.name): count_rows(path) for date, folder in written.items() for path in folder.iterdir()}
    assert found == planned


def test_row_numbers_are_positions_and_a_blank_line_holds_one(
    written: dict[dt.date, Path], manifests: list[ManifestFile]
) -> None:
    (file,) = (file for file in manifests if file.name.endswith(".gz"))
    lines = gzip.decompress((written[file.date] / file.name).read_bytes()).decode().removesuffix("\n").split("\n")
    keys = {number for date, name, number in expected_outcomes(manifests) if (date, name) == (file.date, file.name)}
    assert {number for number, line in enumerate(lines) if line} == keys
    assert len(lines) > len(keys)


def test_the_same_facts_are_read_back_from_every_format(
    written: dict[dt.date, Path], manifests: list[ManifestFile]
) -> None:
    (parquet,) = (file for file in manifests if file.name.endswith(".parquet"))
    table = pq.read_table(written[parquet.date] / parquet.name)
    assert tuple(table.column_names) == tuple(MANIFEST_COLUMNS)
    for row, found in zip(rows_of(manifests, parquet.date), table.to_pylist(), strict=True):
        assert row.fields is not None
        found["attributes"] = dict(found["attributes"]) if found["attributes"] else None
        assert {name: row.fields.get(name) for name in MANIFEST_COLUMNS} == found
    (text,) = (file for file in manifests if file.name.endswith(".csv"))
    with (written[text.date] / text.name).open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    assert any("\n" in record["alt_text"] and '"' in record["alt_text"] for record in records if record["alt_text"])
    for row, record in zip(rows_of(manifests, text.date), records, strict=True):
        if row.fields is not None:
            assert record["url"] == (row.fields["url"] or "")
            assert [tag for tag in record["tags"].split(" | ") if tag] == (row.fields.get("tags") or [])
    (lines,) = (file for file in manifests if file.name == "crawl-a.jsonl")
    for planned, line in zip(lines.rows, (written[lines.date] / lines.name).read_text().splitlines(), strict=True):
        assert planned is not None
        if planned.fields is not None:
            assert json.loads(line) == {name: value for name, value in planned.fields.items() if value is not None}


def test_every_case_is_there_on_every_date(manifests: list[ManifestFile]) -> None:
    for date in DATES:
        rows = rows_of(manifests, date)
        codes = {row.truth.failure_code for row in rows}
        reasons = {reason for row in rows for reason in row.truth.reasons}
        assert codes >= {
            *(FailureCode.BAD_ROW, FailureCode.GONE, FailureCode.CONNECT, FailureCode.DECODE, FailureCode.BAD_TYPE),
            *(FailureCode.BOMB, FailureCode.OPT_OUT, FailureCode.ROBOTS, FailureCode.HTTP_4XX),
            *(FailureCode.TOO_MANY_REDIRECTS, FailureCode.HASH_MISMATCH, FailureCode.FORBIDDEN_ADDRESS),
        }
        assert reasons == {"licence_not_allowed", "domain_blocked", "text_explicit", "text_sensitive"}
        urls = Counter(fields["url"] for fields, _ in sound_rows(manifests, date))
        assert any(count == 2 for url, count in urls.items() if url)
        shown = Counter(truth.picture for _, truth in sound_rows(manifests, date) if truth.picture)
        assert any(count == 2 for count in shown.values())


def test_copies_come_before_with_and_after_their_original(
    manifests: list[ManifestFile], pictures: tuple[Picture, ...]
) -> None:
    first = {}
    for file in reversed(manifests):
        for row in file.rows:
            if row is not None and row.truth.picture:
                first[row.truth.picture] = file.date
    order = Counter(
        (first[picture.name] > first[picture.original]) - (first[picture.name] < first[picture.original])
        for picture in pictures
        if picture.name != picture.original
    )
    assert min(order[-1], order[0], order[1]) >= 20
    assert first.keys() >= {picture.name for picture in cast(pictures).ordinary}


def test_the_pre_gate_finds_bad_and_blocks_just_the_rows_that_are_said_to_be(
    manifests: list[ManifestFile], policy: Policy
) -> None:
    schema = pa.schema(
        [*((name, ARROW_TYPES[kind]) for name, kind in MANIFEST_COLUMNS.items()), ("malformed", pa.string())]
    )
    for date in DATES:
        rows = sound_rows(manifests, date)
        given = [fields | {"attributes": list((fields.get("attributes") or {}).items())} for fields, _ in rows]
        (judged,) = pregate(policy)(iter([pa.RecordBatch.from_pylist(given, schema)]))
        for (_, truth), verdict in zip(rows, judged.to_pylist(), strict=True):
            assert (verdict["bad_row"] is not None) == (truth.failure_code == FailureCode.BAD_ROW)
            if truth.reasons and verdict["reasons"]:
                expected = "block" if truth.outcome == Outcome.BLOCKED else "review"
                assert (verdict["decision"], tuple(verdict["reasons"])) == (expected, truth.reasons)
            elif verdict["bad_row"] is None:
                assert verdict["decision"] == "allow"


ARROW_TYPES = {
    "string": pa.string(),
    "array<string>": pa.list_(pa.string()),
    "map<string,string>": pa.map_(pa.string(), pa.string()),
}


@pytest.mark.parametrize("date", DATES, ids=str)
def test_the_fetcher_meets_just_what_is_said_and_asks_no_more_than_that(
    date: dt.date, site: Site, manifests: list[ManifestFile], pictures: tuple[Picture, ...], policy: Policy
) -> None:
    site.date = date
    settings = load("conf/demo.yaml").crawl
    truths = fetched_truths(manifests, date)
    urls = list(truths)
    request = pa.RecordBatch.from_pydict({"url_id": urls, "url": urls})
    batches = fetch_batches([request], settings, refuse=refused_url(policy))
    by_name = {picture.name: picture for picture in pictures}
    for row in (row for batch in batches for row in batch.to_pylist()):
        truth = truths[row["url"]]
        if truth.picture:
            assert row["body"] == by_name[truth.picture].data, (row["url"], row["failure_detail"])
        elif truth.outcome == Outcome.BLOCKED:
            assert (row["blocked_reason"],) == truth.reasons
        else:
            assert failure(row) == truth.failure_code, row["url"]
    assert site.requests_on(date) == expected_requests(site, urls, pictures, settings.retries)


def fetched_truths(manifests: list[ManifestFile], date: dt.date) -> dict[str, Truth]:
    """The truth of every URL of a date that the pre-gate lets through."""
    truths = {}
    for fields, truth in sound_rows(manifests, date):
        blocked_before = truth.outcome == Outcome.BLOCKED and not fields["url"].endswith("/elsewhere.jpg")
        if truth.failure_code != FailureCode.BAD_ROW and not blocked_before:
            truths[fields["url"]] = truth
    return truths


def failure(row: dict[str, Any]) -> str | None:
    """The failure code of a fetched row after its bytes were decoded too."""
    if row["body"] is None:
        return row["failure_code"]
    try:
        decode(open_image(row["body"], load("conf/demo.yaml").crawl, row["content_type"]))
    except ImageError as error:
        return error.code
    return None


def expected_requests(site: Site, urls: list[str], pictures: tuple[Picture, ...], retries: int) -> dict[str, int]:
    """How often a night asks for each URL: once, but for pages that say otherwise and the steps of a redirect."""
    requests = {url: 1 for url in urls if url.startswith((site.url("/"), site.url("/", 1)))}
    for page in misbehaving_pages(cast(pictures).reserved):
        for host in range(2):
            url = site.url(page.path, host)
            if url in requests:
                requests[url] = 1 + retries if page.requests is None else page.requests
    moved = next(url for url in urls if url.endswith("/moved/3.jpg"))
    requests |= {moved.replace("/moved/3", f"/moved/{step}"): 1 for step in range(3)}
    return {url: count for url, count in requests.items() if count}


def test_manifests_are_the_same_bytes_for_the_same_site(
    written: dict[dt.date, Path], manifests: list[ManifestFile], tmp_path: Path
) -> None:
    again = write_manifests(tmp_path, manifests)
    for date, folder in written.items():
        for path in folder.iterdir():
            assert path.read_bytes() == (again[date] / path.name).read_bytes()
