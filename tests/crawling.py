"""Fetching in tests: small time-outs, a name service of its own, rows in the order of their URLs."""

import socket
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from schemas.settings import CrawlSettings
from udfs.crawl.fetch import FETCHED, fetch_batches
from udfs.credentials import redact_url
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
    keywords.setdefault("lookup", lookup)
    rows: dict[str | None, dict[str, Any]] = {}
    for batch in fetch_batches([batch_of(urls, **columns)], settings, **keywords):
        assert batch.schema == FETCHED
        rows |= {row["url_id"]: row for row in batch.to_pylist()}
    ids = batch_of(urls).column("url_id").to_pylist()
    assert rows.keys() == set(ids)
    assert [rows[key]["url"] for key in ids] == [redact_url(url) if url is not None else None for url in urls]
    return [rows[key] for key in ids]


def fetch_one(url: str, settings: CrawlSettings = SETTINGS, **keywords: Any) -> dict[str, Any]:
    return fetch([url], settings, **keywords)[0]
