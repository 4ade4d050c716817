"""Every hostile or broken server gets its own outcome, in time, and takes no other row down."""

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest
import trustme

from schemas.settings import CrawlSettings
from tests.hostile_server import HANDLERS, PICTURE, HostileServer, Request, answer
from udfs.fetch import FETCHED, fetch_batches
from udfs.urls import url_id

SETTINGS = CrawlSettings(
    allowed_networks=("127.0.0.1/32",),
    connect_timeout_s=1,
    request_timeout_s=1.5,
    row_deadline_s=4,
    min_bytes_per_s=4000,
    min_rate_window_s=0.4,
    max_bytes=2**20,
    max_pending_bytes=16 * 2**20,
    max_redirects=3,
    retries=2,
    backoff_s=0.02,
    max_backoff_s=0.05,
    max_host_pause_s=5,
    circuit_breaker_failures=100,
)

OUTCOMES = {
    "picture": "ok",
    "untyped": "ok",
    "octets": "ok",
    "until-close": "ok",
    "gzipped": "ok",
    "conditional": "ok",
    "cookie": "ok",
    "chain/3": "ok",
    "chain/4": "too_many_redirects",
    "endless-chunks": "too_large",
    "endless-body": "too_large",
    "declared-large": "too_large",
    "gzip-bomb": "bomb",
    "deflate-bomb": "bomb",
    "brotli": "decode",
    "broken-gzip": "decode",
    "silent": "timeout",
    "slow-header": "timeout",
    "slow-body": "timeout",
    "stalled-body": "timeout",
    "continue-flood": "timeout",
    "empty": "decode",
    "short-body": "connect",
    "long-body": "ok",
    "short-chunks": "connect",
    "garbage-chunks": "connect",
    "garbage": "connect",
    "reset": "connect",
    "hang-up": "connect",
    "non-ascii-header": "ok",
    "huge-header": "connect",
    "many-headers": "connect",
    "endless-headers": "connect",
    "missing": "gone",
    "gone": "gone",
    "forbidden": "http_4xx",
    "no-content": "bad_type",
    "partial": "bad_type",
    "unasked-304": "bad_type",
    "switching": "bad_type",
    "no-location": "bad_type",
    "error": "http_5xx",
    "heals": "ok",
    "limited": "rate_limited",
    "limited-seconds": "ok",
    "limited-date": "ok",
    "limited-long": "rate_limited",
    "loop": "too_many_redirects",
    "to-metadata": "forbidden_address",
    "to-file": "forbidden_address",
    "to-mapped": "forbidden_address",
    "to-decimal": "forbidden_address",
    "to-octal": "forbidden_address",
    "to-hex": "forbidden_address",
    "to-private": "forbidden_address",
    "to-unspecified": "forbidden_address",
    "to-nat64": "forbidden_address",
    "to-credentials": "forbidden_address",
    "to-nowhere": "forbidden_address",
    "to-script": "forbidden_address",
    "onward/rebound.example/picture": "forbidden_address",
    "onward/unknown.example/picture": "dns",
    "html": "bad_type",
    "html-as-jpeg": "ok",
    "json": "bad_type",
    "svg": "bad_type",
    "noai": "opt_out",
    "noai-second": "opt_out",
    "noai-other": "ok",
    "noai-ours": "opt_out",
    "noai-302": "opt_out",
    "noai-endless": "opt_out",
    "tdm": "opt_out",
    "tdm-0": "ok",
}
"""Path to failure code, or `ok`. Each is asked of a host of its own, `<case>.example`."""


def lookup(host: str) -> Sequence[str]:
    """Every name is at 127.0.0.1, but for a few that tests are about."""
    special = {
        "rebound.example": ["127.0.0.2"],
        "mixed.example": ["127.0.0.2", "10.0.0.1", "127.0.0.1"],
        "mapped.example": ["::ffff:127.0.0.1"],
    }
    if host == "unknown.example":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return special.get(host, ["127.0.0.1"])


def batch_of(urls: Sequence[str | None], **columns: Sequence[Any]) -> pa.RecordBatch:
    ids = [None if url is None else url_id(url) for url in urls]
    return pa.RecordBatch.from_pydict({"url_id": ids, "url": list(urls), **columns})


def fetch(urls: Sequence[str | None], settings: CrawlSettings = SETTINGS, **keywords: Any) -> list[dict[str, Any]]:
    """Rows fetched, in the order of `urls` (which must differ)."""
    columns = keywords.pop("columns", {})
    rows: dict[str | None, dict[str, Any]] = {}
    for batch in fetch_batches([batch_of(urls, **columns)], settings, lookup=lookup, **keywords):
        assert batch.schema == FETCHED
        rows |= {row["url"]: row for row in batch.to_pylist()}
    assert rows.keys() == set(urls)
    return [rows[url] for url in urls]


def fetch_one(url: str, settings: CrawlSettings = SETTINGS, **keywords: Any) -> dict[str, Any]:
    return fetch([url], settings, **keywords)[0]


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer() as running:
        yield running


@pytest.fixture(scope="module")
def hostile_rows(server: HostileServer) -> dict[str, dict[str, Any]]:
    """All cases in one run, so that they meet each other."""
    urls = [server.url(f"{case.split('/')[0]}.example", case) for case in OUTCOMES]
    begun = time.monotonic()
    rows = fetch(urls)
    assert time.monotonic() - begun < 2 * SETTINGS.row_deadline_s
    return dict(zip(OUTCOMES, rows, strict=True))


def test_every_handler_of_the_hostile_server_is_asked() -> None:
    asked = {case.split("/")[0] for case in OUTCOMES}
    assert set(HANDLERS) - asked == {"slow-picture"}
    assert len(OUTCOMES) >= 30


@pytest.mark.parametrize("case", OUTCOMES)
def test_each_case_ends_in_its_own_outcome(hostile_rows: dict[str, dict[str, Any]], case: str) -> None:
    row = hostile_rows[case]
    outcome = row["failure_code"] or ("deferred" if row["deferred"] else "ok")
    assert outcome == OUTCOMES[case], row["failure_detail"]
    assert (row["image_id"] is not None) == (row["body"] is not None) == (outcome == "ok")
    assert row["duration_ms"] < SETTINGS.row_deadline_s * 1000 + 500
    detail = row["failure_detail"] or ""
    assert len(detail) <= 200
    assert detail.isprintable()
