"""The fetcher's promises to its caller: one row out for each row in, polite on the way, bounded in time and memory."""

import asyncio
import gzip
import hashlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from schemas.settings import CrawlSettings
from tests.crawling import SETTINGS, batch_of, fetch, fetch_one, lookup
from tests.hostile_server import (
    ETAG,
    HANDLERS,
    PICTURE,
    HostileServer,
    Request,
    answer,
    heals,
    redirect,
    reset,
    slow,
)
from udfs.crawl import crawler
from udfs.crawl.fetch import BATCH_ROWS, fetch_batches

ROBOTS = b"User-agent: *\nDisallow: /picture\nCrawl-delay: 0.2\n\nUser-agent: lensfeed\nDisallow: /svg\n"


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    robots = {
        "strict.example": answer(200, b"User-agent: *\nDisallow: /picture\n", content_type="text/plain"),
        "named.example": answer(200, ROBOTS, content_type="text/plain"),
        "delayed.example": answer(200, b"User-agent: *\nCrawl-delay: 0.2\n"),
        "patient.example": answer(200, b"User-agent: *\nCrawl-delay: 3600\n"),
        "broken.example": answer(500),
        "healing.example": heals(answer(500)),
        "limited.example": answer(429),
        "silent.example": slow(60, answer(404)),
        "moved.example": redirect("http://strict.example:1/robots.txt"),
        "lost.example": redirect("/robots.txt"),
        "large.example": answer(200, b"User-agent: *\nDisallow: /svg\n#" + bytes(2**20)),
        "unsafe.example": redirect("http://169.254.169.254/robots.txt"),
        "resetting.example": reset,
    }
    with HostileServer(robots=robots) as running:
        running.robots["moved.example"] = redirect(running.url("strict.example", "robots.txt"))
        yield running


def having(**changes: Any) -> CrawlSettings:
    return SETTINGS.model_copy(update=changes)


def outcome(row: dict[str, Any]) -> str:
    if row["deferred"]:
        return f"deferred:{row['failure_detail']}"
    return row["failure_code"] or row["blocked_reason"] or ("not_modified" if row["not_modified"] else "ok")


# ---- robots.txt ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "path", "expected", "evidence"),
    [
        ("strict.example", "picture", "robots", "disallowed:*"),
        ("strict.example", "untyped", "ok", "allowed"),
        ("named.example", "picture", "ok", "allowed"),
        ("named.example", "svg", "robots", "disallowed:lensfeed"),
        ("moved.example", "picture", "robots", "disallowed:*"),
        ("lost.example", "picture", "ok", "none:310"),
        ("large.example", "picture", "ok", "allowed"),
        ("large.example", "svg", "robots", "disallowed:*"),
        ("healing.example", "picture", "ok", "none:404"),
        ("broken.example", "picture", "deferred:robots_unavailable", None),
        ("limited.example", "picture", "deferred:robots_unavailable", None),
        ("silent.example", "picture", "deferred:robots_unavailable", None),
        ("unsafe.example", "picture", "deferred:robots_unavailable", None),
        ("resetting.example", "picture", "deferred:robots_unavailable", None),
    ],
)
def test_robots_txt_decides_and_leaves_its_evidence(
    server: HostileServer, host: str, path: str, expected: str, evidence: str | None
) -> None:
    if host == "healing.example":
        server.robots[host] = heals_to(answer(500), answer(404))
    row = fetch_one(server.url(host, path), having(request_timeout_s=1, row_deadline_s=1.2))
    assert (outcome(row), row["robots_evidence"]) == (expected, evidence)


def heals_to(before: Any, after: Any) -> Any:
    """`before` for the first request of a path, `after` from the second on."""

    async def handle(request: Any, writer: Any) -> None:
        await (before if request.count == 1 else after)(request, writer)

    return handle


def test_robots_txt_is_fetched_once_for_many_rows_of_a_host(server: HostileServer) -> None:
    fetch([server.url("once.example", f"picture?{i}") for i in range(40)])
    assert server.counts["once.example", "/robots.txt"] == 1


def test_robots_txt_of_a_redirect_target_is_obeyed(server: HostileServer) -> None:
    row = fetch_one(server.url("onward-robots.example", "onward/strict.example/picture"))
    assert outcome(row) == "robots"
    assert server.requests_to("strict.example") == [] or all(
        request.path != "/picture" for _, request in server.requests_to("strict.example")
    )


def test_robots_txt_is_left_alone_when_it_is_not_to_be_obeyed(server: HostileServer) -> None:
    row = fetch_one(server.url("strict.example", "picture"), having(obey_robots=False))
    assert (outcome(row), row["robots_evidence"]) == ("ok", None)


def test_a_disallowed_page_is_never_requested(server: HostileServer) -> None:
    before = len(server.requests_to("named.example"))
    fetch([server.url("named.example", f"svg?{i}") for i in range(5)])
    assert len(server.requests_to("named.example")) == before


# ---- politeness, as the server sees it -----------------------------------------------------------------------------


def starts(server: HostileServer, host: str) -> list[float]:
    return [at for at, _ in server.requests_to(host, robots=True)]


@pytest.mark.parametrize(("shards", "most"), [(None, 4), (2, 2), (9, 1)])
def test_a_host_never_sees_more_requests_at_once_than_configured(
    server: HostileServer, shards: int | None, most: int
) -> None:
    host = f"busy-{most}.example"
    urls = [server.url(host, f"slow-picture?{i}") for i in range(24)]
    columns = {} if shards is None else {"host_shards": [shards] * len(urls)}
    rows = fetch(urls, having(per_host_concurrency=4), columns=columns)
    assert Counter(map(outcome, rows)) == {"ok": 24}
    assert server.most_at_once[host] == most


def test_a_host_never_sees_more_requests_a_second_than_configured(server: HostileServer) -> None:
    fetch([server.url("rated.example", f"picture?{i}") for i in range(15)], having(per_host_rate=25.0))
    gaps = [later - earlier for earlier, later in pairwise(starts(server, "rated.example"))]
    assert len(gaps) == 15
    # One gap may be short by what the machine delayed the request before it; several in a row may not.
    assert min(sum(gaps[i : i + 5]) for i in range(11)) > 5 * 0.04 - 0.03


def test_waiting_for_a_slow_host_costs_no_cpu(server: HostileServer) -> None:
    begun, spent = time.monotonic(), time.thread_time()
    rows = fetch([server.url("waited.example", f"picture?{i}") for i in range(5)], having(per_host_rate=2.0))
    cpu, waited = time.thread_time() - spent, time.monotonic() - begun
    assert Counter(map(outcome, rows)) == {"ok": 5}
    assert waited > 1.9
    assert cpu < waited / 4  # a loop that spins takes all of it


def test_limits_hold_across_the_tasks_that_share_a_host(server: HostileServer) -> None:
    def task(number: int) -> None:
        urls = [server.url("hot-shared.example", f"slow-picture?{number}-{i}") for i in range(12)]
        fetch(urls, having(per_host_concurrency=4, per_host_rate=60.0), columns={"host_shards": [2] * len(urls)})

    tasks = [threading.Thread(target=task, args=(number,)) for number in range(2)]
    for running in tasks:
        running.start()
    for running in tasks:
        running.join()
    times = starts(server, "hot-shared.example")
    assert len(times) == 26
    assert server.most_at_once["hot-shared.example"] <= 4
    # Two tasks that start together are each at half the rate: at most one request more than the rate in any window.
    assert min(later - earlier for earlier, later in zip(times, times[8:], strict=False)) > (8 - 2) / 60 - 0.03


def test_limits_hold_for_the_targets_of_redirects(server: HostileServer) -> None:
    urls = [server.url(f"from{i}.example", f"onward/target.example/slow-picture?{i}") for i in range(16)]
    rows = fetch(urls, having(per_host_concurrency=2))
    assert Counter(map(outcome, rows)) == {"ok": 16}
    assert server.most_at_once["target.example"] <= 2


def test_limits_of_the_targets_of_redirects_are_divided_among_tasks(server: HostileServer) -> None:
    urls = [server.url(f"via{i}.example", f"onward/shared.example/slow-picture?{i}") for i in range(8)]
    fetch(urls, having(per_host_concurrency=4), foreign_host_shards=4)
    assert server.most_at_once["shared.example"] == 1


def test_hosts_of_one_address_share_a_limit_where_configured(server: HostileServer) -> None:
    settings = having(per_host_rate=25.0, share_limits_by_address=True, obey_robots=False)
    urls = [server.url(f"neighbour{i}.example", "picture") for i in range(11)]
    begun = time.monotonic()
    assert Counter(map(outcome, fetch(urls, settings))) == {"ok": 11}
    assert time.monotonic() - begun > 10 * 0.04


def test_crawl_delay_is_obeyed(server: HostileServer) -> None:
    fetch([server.url("delayed.example", f"picture?{i}") for i in range(4)])
    pictures = [at for at, request in server.requests_to("delayed.example")]
    assert min(later - earlier for earlier, later in pairwise(pictures)) > 0.17


def test_crawl_delay_is_ignored_when_it_is_not_to_be_obeyed(server: HostileServer) -> None:
    begun = time.monotonic()
    fetch([server.url("delayed.example", f"picture?{i}") for i in range(60)], having(obey_crawl_delay=False))
    assert time.monotonic() - begun < 60 * 0.2 / 2


def test_a_crawl_delay_beyond_the_longest_pause_defers_all_rows_but_the_first(server: HostileServer) -> None:
    rows = fetch([server.url("patient.example", f"picture?{i}") for i in range(5)])
    assert Counter(map(outcome, rows)) == {"ok": 1, "deferred:host_pause": 4}


def test_a_crawl_delay_is_no_longer_pause_for_being_divided_among_tasks(server: HostileServer) -> None:
    """Each task waits longer, so that all together keep to it: their rows would be deferred night after night."""
    settings, urls = having(max_host_pause_s=0.3), [server.url("delayed.example", f"picture?{i}") for i in range(3)]
    rows = fetch(urls, settings, columns={"host_shards": [2] * 3}, foreign_host_shards=2)
    assert Counter(map(outcome, rows)) == {"ok": 3}
    led_there = [server.url(f"leads{i}.example", f"onward/delayed.example/picture?{i}") for i in range(3)]
    rows = fetch(led_there, settings, foreign_host_shards=2)
    assert Counter(map(outcome, rows)) == {"ok": 1, "deferred:host_pause": 2}


def test_retry_after_holds_back_the_other_rows_of_the_host(server: HostileServer) -> None:
    rows = fetch([server.url("paused.example", path) for path in ("limited-seconds", "limited-seconds?2")])
    assert Counter(map(outcome, rows)) == {"ok": 2}
    first, *_, last = server.requests_to("paused.example")
    assert last[0] - first[0] > 0.95


def test_a_pause_that_is_too_long_defers_the_other_rows_of_the_host(server: HostileServer) -> None:
    urls = [server.url("closed-for-today.example", f"limited-long?{i}") for i in range(20)]
    rows = fetch(urls, having(per_host_concurrency=1))
    assert Counter(map(outcome, rows)) == {"rate_limited": 1, "deferred:host_pause": 19}


def test_a_host_that_keeps_failing_is_left_alone(server: HostileServer) -> None:
    urls = [server.url("flaky.example", f"reset?{i}") for i in range(30)]
    rows = fetch(urls, having(circuit_breaker_failures=5, per_host_concurrency=1, retries=0))
    assert Counter(map(outcome, rows)) == {"connect": 5, "deferred:circuit_open": 25}
    assert len(server.requests_to("flaky.example")) == 5


def test_a_host_that_is_given_no_time_by_the_one_that_led_to_it_is_not_left_alone(server: HostileServer) -> None:
    late = slow(0.8, redirect(server.url("innocent.example", "unhurried")))
    patience = having(row_deadline_s=1, per_host_concurrency=20, circuit_breaker_failures=3, retries=0)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(HANDLERS, "unhurried", slow(0.4, answer(200, PICTURE)))
        patched.setitem(HANDLERS, "late", late)
        rows = fetch([server.url("roundabout.example", f"late?{number}") for number in range(40)], patience)
        assert {outcome(row) for row in rows} == {"timeout"}
        # Its own slowness counts, however little time rows have.
        patched.setitem(HANDLERS, "unhurried", slow(60, answer(200, PICTURE)))
        rows = fetch([server.url("slow.example", f"unhurried?{number}") for number in range(40)], patience)
    counted = Counter(map(outcome, rows))
    # The first ones of a wave to end let others begin, until there were three.
    assert 20 <= counted["timeout"] < 20 + 3
    assert counted.keys() == {"timeout", "deferred:circuit_open"}


def test_a_host_may_not_cost_more_than_its_budget_of_retries(server: HostileServer) -> None:
    urls = [server.url("costly.example", f"error?{i}") for i in range(40)]
    rows = fetch(urls, having(per_host_concurrency=16))
    assert Counter(map(outcome, rows)) == {"http_5xx": 40}
    assert 40 < len(server.requests_to("costly.example")) <= 64  # 120 without a budget


def test_our_user_agent_is_the_configured_one_and_no_cookie_is_sent(server: HostileServer) -> None:
    settings = having(user_agent="honestbot/2.0 (+https://a.example/bot)")
    assert outcome(fetch_one(server.url("polite.example", "cookie"), settings)) == "ok"
    agents = {request.headers["user-agent"] for _, request in server.requests_to("polite.example", robots=True)}
    assert agents == {"honestbot/2.0 (+https://a.example/bot)"}


# ---- what the caller asks for --------------------------------------------------------------------------------------


def held(*urls: str, **columns: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """Columns of rows that hold validators, each given by the row's own URL."""
    return {"validated_url": list(urls), **columns}


def test_a_validator_that_still_holds_costs_no_body(server: HostileServer) -> None:
    urls = [server.url("recrawl.example", f"conditional?{i}") for i in range(3)]
    rows = fetch(urls, columns=held(*urls, etag=[ETAG, '"old"', None], image_id=["a" * 64] * 3))
    assert [outcome(row) for row in rows] == ["not_modified", "ok", "ok"]
    assert [row["status"] for row in rows] == [304, 200, 200]
    assert rows[0]["body"] is None
    assert rows[0]["bytes"] is None
    assert rows[0]["etag"] == ETAG


def test_a_304_names_the_content_that_it_confirms_and_a_new_body_its_own(server: HostileServer) -> None:
    urls = [server.url("confirmed.example", f"conditional?{i}") for i in range(2)]
    rows = fetch(urls, columns=held(*urls, etag=[ETAG, '"old"'], image_id=["a" * 64, "b" * 64]))
    assert [row["image_id"] for row in rows] == ["a" * 64, hashlib.sha256(PICTURE).hexdigest()]


def test_validators_that_a_304_does_not_repeat_are_kept_for_the_next_night(server: HostileServer) -> None:
    date = "Mon, 02 Nov 2026 00:00:00 GMT"
    urls = [server.url("terse.example", f"conditional-terse?{i}") for i in range(2)]
    columns = held(*urls, etag=['"kept"', None], last_modified=[None, date], image_id=["a" * 64] * 2)
    rows = fetch(urls, columns=columns)
    assert [outcome(row) for row in rows] == ["not_modified", "not_modified"]
    assert [(row["etag"], row["last_modified"]) for row in rows] == [('"kept"', None), (None, date)]


def test_the_content_of_a_row_that_fails_is_not_confirmed(server: HostileServer) -> None:
    url = server.url("vanished.example", "missing")
    row = fetch_one(url, columns=held(url, etag=[ETAG], image_id=["a" * 64]))
    assert (outcome(row), row["image_id"]) == ("gone", None)


VALIDATORS = {"if-none-match", "if-modified-since"}


def test_validators_go_only_to_the_url_that_gave_them(server: HostileServer) -> None:
    """Equal ETags of other URLs say nothing: here every URL of the server has the same one."""
    last = server.url("last.example", "conditional")
    chain = server.url("first.example", "onward/middle.example/onward/last.example/conditional")
    row = fetch_one(chain, columns=held(last, etag=[ETAG], last_modified=["x"], image_id=["a" * 64]))
    assert (outcome(row), row["image_id"], row["final_url"], row["redirects"]) == ("not_modified", "a" * 64, last, 2)
    for host, expected in {"first.example": set(), "middle.example": set(), "last.example": VALIDATORS}.items():
        ((_, request),) = server.requests_to(host)
        assert VALIDATORS & request.headers.keys() == expected, host


def test_a_redirect_that_leads_elsewhere_since_confirms_nothing(server: HostileServer) -> None:
    before = server.url("before.example", "conditional")
    moved = server.url("moving.example", "onward/after.example/conditional")
    row = fetch_one(moved, columns=held(before, etag=[ETAG], image_id=["a" * 64]))
    assert (outcome(row), row["image_id"]) == ("ok", hashlib.sha256(PICTURE).hexdigest())
    ((_, request),) = server.requests_to("after.example")
    assert not VALIDATORS & request.headers.keys()


def test_a_url_that_no_longer_redirects_is_asked_without_the_validators_of_its_old_target(
    server: HostileServer,
) -> None:
    url = server.url("settled.example", "conditional")
    old = server.url("target.example", "conditional")
    row = fetch_one(url, columns=held(old, etag=[ETAG], image_id=["a" * 64]))
    assert (outcome(row), row["image_id"]) == ("ok", hashlib.sha256(PICTURE).hexdigest())


def test_validators_whose_url_is_not_known_are_not_sent(server: HostileServer) -> None:
    url = server.url("unbound.example", "conditional")
    assert outcome(fetch_one(url, columns={"etag": [ETAG], "image_id": ["a" * 64]})) == "ok"


def test_a_304_without_a_content_to_confirm_is_never_asked_for(server: HostileServer) -> None:
    url = server.url("nothing-held.example", "conditional")
    assert outcome(fetch_one(url, columns=held(url, etag=[ETAG]))) == "ok"


def test_a_redirect_to_a_304_that_was_not_asked_for_confirms_nothing(server: HostileServer) -> None:
    url = server.url("unasked-onward.example", "onward/unasked-target.example/unasked-304")
    row = fetch_one(url, columns=held(url, etag=[ETAG], image_id=["a" * 64]))
    assert (outcome(row), row["image_id"], row["not_modified"]) == ("bad_type", None, False)


OLD, NEW = "Mon, 02 Nov 2026 00:00:00 GMT", "Tue, 03 Nov 2026 00:00:00 GMT"


@pytest.mark.parametrize(
    ("sent", "repeated", "expected"),
    [
        ({"etag": ['"v1"']}, ['ETag: "v1"'], "not_modified"),
        ({"etag": ['"v1"']}, ['ETag: W/"v1"'], "not_modified"),
        ({"etag": ['W/"v1"']}, ['ETag: "v1"', f"Last-Modified: {NEW}"], "not_modified"),
        ({"etag": ['"v1"'], "last_modified": [OLD]}, [f"Last-Modified: {OLD}"], "not_modified"),
        ({"last_modified": [OLD]}, ['ETag: "v2"'], "not_modified"),
        ({"etag": ['"v1"']}, ['ETag: "v2"'], "ok"),
        ({"etag": ['"v1"'], "last_modified": [OLD]}, ['ETag: "v2"', f"Last-Modified: {OLD}"], "ok"),
        # An older version was put back: it is not modified since, and another one.
        ({"last_modified": [NEW]}, [f"Last-Modified: {OLD}"], "ok"),
        # Machines of one name may have written equal files at different times.
        ({"etag": ['"v1"'], "last_modified": [NEW]}, ['ETag: "v1"', f"Last-Modified: {OLD}"], "not_modified"),
    ],
)
def test_a_304_that_speaks_of_another_version_confirms_nothing_and_the_row_is_asked_again(
    server: HostileServer, sent: dict[str, Any], repeated: list[str], expected: str
) -> None:
    async def contradict(request: Request, writer: asyncio.StreamWriter) -> None:
        reply = answer(304, b"", *repeated) if VALIDATORS & request.headers.keys() else answer(200, PICTURE)
        await reply(request, writer)

    HANDLERS["contradict"] = contradict
    try:
        url = server.url("contradict.example", "contradict")
        row = fetch_one(url, columns=held(url, image_id=["a" * 64], **sent))
    finally:
        del HANDLERS["contradict"]
    assert outcome(row) == expected
    assert row["image_id"] == ("a" * 64 if expected == "not_modified" else hashlib.sha256(PICTURE).hexdigest())


def test_a_304_that_was_not_asked_for_confirms_nothing(server: HostileServer) -> None:
    row = fetch_one(server.url("unasked.example", "unasked-304"), columns={"image_id": ["a" * 64]})
    assert (outcome(row), row["image_id"], row["not_modified"]) == ("bad_type", None, False)


def test_a_304_with_a_body_confirms_what_is_held(server: HostileServer) -> None:
    """Some servers pack nothing at all, which comes to twenty bytes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(HANDLERS, "packed-304", answer(304, gzip.compress(b""), f"ETag: {ETAG}"))
        url = server.url("packed.example", "packed-304")
        row = fetch([url], columns=held(url, etag=[ETAG], image_id=["a" * 64]))[0]
    assert outcome(row) == "not_modified"


def test_what_comes_without_being_asked_for_is_nobodys_answer(server: HostileServer) -> None:
    async def double(request: Request, writer: asyncio.StreamWriter) -> None:
        for body in (request.path.encode(), b"of another"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
            await asyncio.sleep(0.05)

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(HANDLERS, "double", double)
        urls = [server.url("double.example", f"double?{number}") for number in range(6)]
        rows = fetch(urls, having(per_host_concurrency=1, per_host_rate=5.0, obey_robots=False))
    assert [row["body"] for row in rows] == [f"/double?{number}".encode() for number in range(6)]


def test_a_validator_that_would_split_the_header_is_not_sent(server: HostileServer) -> None:
    url = server.url("splitting.example", "conditional")
    row = fetch_one(url, columns=held(url, etag=['"a"\r\nCookie: x=1'], image_id=["a" * 64]))
    assert outcome(row) == "ok"
    ((_, request),) = server.requests_to("splitting.example")
    assert not {"cookie", *VALIDATORS} & request.headers.keys()


def test_refused_urls_are_never_requested_and_end_with_the_callers_reason(server: HostileServer) -> None:
    def refuse(url: str) -> str | None:
        return "taken_down" if "secret" in url else None

    direct, redirected, allowed = fetch(
        [
            server.url("refuse.example", "picture?secret"),
            server.url("refuse.example", "onward/secret.example/picture"),
            server.url("refuse.example", "picture"),
        ],
        refuse=lambda url: refuse(url) if "/onward/" not in url else None,
    )
    assert (outcome(direct), outcome(redirected), outcome(allowed)) == ("taken_down", "taken_down", "ok")
    assert server.requests_to("secret.example", robots=True) == []
    assert [request.path for _, request in server.requests_to("refuse.example")].count("/picture?secret") == 0


def test_a_rule_of_the_callers_that_raises_ends_its_row_as_internal(server: HostileServer) -> None:
    def refuse(_: str) -> str | None:
        raise KeyError("a secret that must not be stored")

    row = fetch_one(server.url("raises.example", "picture"), refuse=refuse)
    assert (row["failure_code"], row["failure_detail"]) == ("internal", "KeyError")


def test_what_is_left_at_the_deadline_is_deferred(server: HostileServer) -> None:
    urls = [server.url("night.example", f"silent?{i}") for i in range(3)]
    urls += [server.url("evening.example", f"picture?{i}") for i in range(600)]
    fetch_one(server.url("afternoon.example", "picture"))  # what is made for the first request of a process is there
    begun = time.monotonic()
    settings = having(per_host_rate=20.0, obey_robots=False, request_timeout_s=60, row_deadline_s=60)
    rows = fetch(urls, settings, deadline_at=time.time() + 3)
    assert time.monotonic() - begun < 15  # without a deadline: 30 s for the pictures' rate, 60 s for the silent ones
    kinds = Counter(map(outcome, rows))
    assert set(kinds) == {"ok", "deferred:deadline"}
    assert 1 <= kinds["ok"] <= 3 * 20 + 2


def test_a_deadline_that_has_passed_defers_everything_and_asks_nobody(server: HostileServer) -> None:
    rows = fetch([server.url("late.example", f"picture?{i}") for i in range(600)], deadline_at=time.time() - 1)
    assert Counter(map(outcome, rows)) == {"deferred:deadline": 600}
    assert server.requests_to("late.example", robots=True) == []


# ---- rows and batches ----------------------------------------------------------------------------------------------

CASES = {
    "picture": "ok",
    "missing": "gone",
    "reset": "connect",
    "html": "bad_type",
    "to-metadata": "forbidden_address",
    "noai": "opt_out",
    "gzip-bomb": "bomb",
    "ftp": "bad_row",
    "null": "bad_row",
    "garbage": "connect",
}


@given(cases=st.lists(st.sampled_from(sorted(CASES)), max_size=40), size=st.integers(1, 7))
@hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_comes_back_exactly_once_with_its_own_outcome(
    server: HostileServer, cases: list[str], size: int
) -> None:
    special = {"ftp": "ftp://a.example/x", "null": None}
    urls = [special.get(case, server.url(f"{case}.mix.example", case)) for case in cases]
    batches = [batch_of(urls[start : start + size]) for start in range(0, len(urls), size)]
    settings = having(retries=0)
    found = [row for out in fetch_batches(batches, settings, lookup=lookup) for row in out.to_pylist()]
    expected = Counter((url, CASES[case]) for url, case in zip(urls, cases, strict=True))
    assert Counter((row["url"], outcome(row)) for row in found) == expected
    for row in found:
        exclusive = [row["body"] is not None, row["failure_code"], row["deferred"], row["blocked_reason"]]
        assert sum(map(bool, exclusive)) == 1


def test_no_input_is_no_output() -> None:
    assert list(fetch_batches([], SETTINGS)) == []
    assert list(fetch_batches([batch_of([])], SETTINGS)) == []


def test_a_slow_row_holds_back_no_other(server: HostileServer) -> None:
    urls = [server.url("straggler.example", "silent")]
    urls += [server.url(f"quick{i % 8}.example", f"picture?{i}") for i in range(BATCH_ROWS)]
    rows = fetch_batches([batch_of(urls)], having(request_timeout_s=30, row_deadline_s=30), lookup=lookup)
    arrived: list[str] = []
    begun = time.monotonic()
    while len(arrived) < BATCH_ROWS:
        arrived += [row["url"] for row in next(rows).to_pylist()]
    assert time.monotonic() - begun < 15
    assert sorted(arrived) == sorted(urls[1:])
    rows.close()  # type: ignore[attr-defined]


def test_a_hot_host_holds_back_no_other(server: HostileServer) -> None:
    urls = [server.url("hot.example", f"picture?{i}") for i in range(60)]
    urls += [server.url(f"cool{i}.example", "picture") for i in range(20)]
    settings = having(per_host_rate=40.0, concurrency=4, obey_robots=False)
    order = [
        row["url"] for batch in fetch_batches([batch_of(urls)], settings, lookup=lookup) for row in batch.to_pylist()
    ]
    assert max(order.index(url) for url in urls[60:]) < 50


def test_a_robots_txt_waits_for_no_name_that_hangs(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crawler, "DNS_THREADS", 1)
    over = threading.Event()

    def hanging(host: str) -> Sequence[str]:
        if host == "dead.example":
            over.wait(20)
        return lookup(host)

    urls = [server.url("strict.example", "untyped"), server.url("dead.example", "picture")]
    rows = fetch_batches([batch_of(urls)], SETTINGS, lookup=hanging)
    first = next(rows).to_pylist()
    over.set()
    assert [(row["url"], outcome(row)) for row in first] == [(urls[0], "ok")]
    assert sum(batch.num_rows for batch in rows) == 1


def test_a_name_whose_server_keeps_failing_is_not_asked_for_by_every_row(server: HostileServer) -> None:
    asked = []

    def failing(host: str) -> Sequence[str]:
        if host == "dead.example":
            asked.append(host)
            raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")
        return lookup(host)

    urls = [server.url("dead.example", f"picture?{number}") for number in range(40)]
    rows = fetch(urls, having(circuit_breaker_failures=2), lookup=failing)
    assert {outcome(row) for row in rows} == {"deferred:circuit_open"}
    assert len(asked) == 2


def test_bodies_beyond_the_memory_allowed_wait_for_the_consumer(server: HostileServer) -> None:
    """Each body needs more than the small part every exchange has; a slow consumer must not run into time-outs."""
    settings = having(max_bytes=2**12, max_pending_bytes=2**13, concurrency=8)
    urls = [server.url(f"wide{i % 5}.example", f"picture?{i}") for i in range(40)]
    found = []
    for batch in fetch_batches([batch_of(urls)], settings, lookup=lookup):
        assert batch.nbytes < 2 * 2**13
        found += batch.to_pylist()
    assert Counter(map(outcome, found)) == {"ok": 40}


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("lensfeed")}


def wait_until_gone(seconds: float = 5) -> set[str]:
    limit = time.monotonic() + seconds
    while threads() and time.monotonic() < limit:
        time.sleep(0.01)
    return threads()


def test_a_consumer_that_stops_early_leaves_no_thread_behind(server: HostileServer) -> None:
    urls = [server.url(f"early{i % 8}.example", f"picture?{i}") for i in range(400)]
    urls += [server.url("early.example", "silent")]
    rows = fetch_batches([batch_of(urls)], having(request_timeout_s=60, row_deadline_s=60), lookup=lookup)
    next(rows)
    assert "lensfeed-fetch" in threads()
    begun = time.monotonic()
    rows.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 10  # not the 60 s of the silent one
    assert wait_until_gone() == set()


def test_an_input_that_raises_is_passed_on_and_leaves_no_thread_behind(server: HostileServer) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield batch_of([server.url("breaks.example", f"picture?{i}") for i in range(300)])
        raise LookupError("the shuffle file is gone")

    with pytest.raises(LookupError, match="shuffle"):
        list(fetch_batches(batches(), SETTINGS, lookup=lookup))
    assert wait_until_gone() == set()


def test_the_image_id_is_the_digest_of_the_body(server: HostileServer) -> None:
    row = fetch_one(server.url("digest.example", "picture"))
    assert row["image_id"] == hashlib.sha256(PICTURE).hexdigest()
