"""Every hostile or broken server gets its own outcome, in time, and takes no other row down."""

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from schemas.settings import ImageSettings
from tests.crawling import SETTINGS, fetch, fetch_one
from tests.hostile_server import ETAG, HANDLERS, PICTURE, HostileServer
from udfs.images.canonical import canonicalise
from udfs.images.decode import ImageError

UNDECODABLE = {
    "png-bomb": "bomb",
    "thousand-frames": "bomb",
    "jpeg-as-png": "bad_type",
    "html-as-jpeg": "bad_type",
    "svg-as-jpeg": "bad_type",
    "tiff": "bad_type",
    "cut-jpeg": "decode",
}
"""Bodies that are fetched whole, and what the decoder then says."""

PATIENT = SETTINGS.model_copy(update={"connect_timeout_s": 4, "request_timeout_s": 4, "row_deadline_s": 12})
"""All cases at once, on a machine that does other things too: what answers at once may be late by a second."""

OUTCOMES = {
    "picture": "ok",
    "untyped": "ok",
    "octets": "ok",
    "until-close": "ok",
    "gzipped": "ok",
    "conditional": "ok",
    "conditional-terse": "ok",
    "cookie": "ok",
    "chain/3": "ok",
    "chain/4": "too_many_redirects",
    "endless-chunks": "too_large",
    "endless-body": "too_large",
    "declared-large": "too_large",
    "gzip-bomb": "bomb",
    "deflate-bomb": "bomb",
    "brotli": "decode",
    **dict.fromkeys(("raw-deflate", "listed-gzip", "twice-gzipped", "no-coding", "padded-gzip"), "ok"),
    "cut-gzip": "decode",
    "broken-gzip": "decode",
    "silent": "timeout",
    "slow-header": "timeout",
    "slow-body": "timeout",
    "stalled-body": "timeout",
    "continue-flood": "timeout",
    "continue-torrent": "connect",
    "empty": "decode",
    "short-body": "connect",
    "long-body": "connect",
    "short-chunks": "connect",
    "garbage-chunks": "connect",
    "garbage": "connect",
    "reset": "connect",
    "hang-up": "connect",
    "non-ascii-header": "ok",
    **dict.fromkeys(("large-field", "large-fields", "fields-in-pieces", "lengths", "types", "early-hints"), "ok"),
    **dict.fromkeys(("typed-as-nothing", "transformed", "lengthy-chunks", "no-framing", "no-fields"), "ok"),
    "two-lengths": "connect",
    "heads-too-large": "connect",
    "huge-header": "connect",
    "many-headers": "connect",
    "endless-headers": "connect",
    "missing": "gone",
    "gone": "gone",
    "forbidden": "http_4xx",
    "no-content": "bad_type",
    "no-content-but-body": "bad_type",
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
    "past-credentials": "ok",
    "to-nowhere": "forbidden_address",
    "to-script": "forbidden_address",
    "onward/rebound.example/picture": "forbidden_address",
    "onward/unknown.example/picture": "dns",
    "html": "bad_type",
    "real": "ok",
    **dict.fromkeys(UNDECODABLE, "ok"),
    "json": "bad_type",
    "svg": "bad_type",
    "noai": "opt_out",
    "noai-second": "opt_out",
    "noai-other": "ok",
    "noai-ours": "opt_out",
    "noai-apart": "opt_out",
    "noai-302": "opt_out",
    "noai-endless": "opt_out",
    "tdm": "opt_out",
    "tdm-0": "ok",
}
"""Path to failure code, or `ok`. Each is asked of a host of its own, `<case>.example`."""


@pytest.fixture(scope="module")
def server() -> Iterator[HostileServer]:
    with HostileServer() as running:
        yield running


@pytest.fixture(scope="module")
def hostile_rows(server: HostileServer) -> dict[str, dict[str, Any]]:
    """All cases in one run, so that they meet each other."""
    urls = [server.url(f"{case.split('/')[0]}.example", case) for case in OUTCOMES]
    begun = time.monotonic()
    rows = fetch(urls, PATIENT)
    # Each row keeps to its deadline (below); all of them together also wait for the processor, which others use.
    assert time.monotonic() - begun < 5 * PATIENT.row_deadline_s
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
    assert row["duration_ms"] < PATIENT.row_deadline_s * 1000 + 500
    detail = row["failure_detail"] or ""
    assert len(detail) <= 200
    assert detail.isprintable()


@pytest.mark.parametrize(("case", "code"), UNDECODABLE.items())
def test_a_body_that_is_no_picture_is_refused_by_the_decoder(
    hostile_rows: dict[str, dict[str, Any]], case: str, code: str
) -> None:
    row = hostile_rows[case]
    with pytest.raises(ImageError) as refused:
        canonicalise(row["body"], ImageSettings(), SETTINGS, row["content_type"])
    assert refused.value.code == code


@pytest.mark.parametrize(
    "case",
    [
        *("gzipped", "raw-deflate", "listed-gzip", "twice-gzipped", "no-coding", "padded-gzip", "large-field"),
        *("large-fields", "fields-in-pieces", "lengths", "types", "early-hints", "typed-as-nothing", "transformed"),
        *("lengthy-chunks", "no-framing", "no-fields"),
    ],
)
def test_what_is_an_image_to_every_browser_arrives_whole(hostile_rows: dict[str, dict[str, Any]], case: str) -> None:
    assert hostile_rows[case]["body"] == PICTURE


def test_a_picture_is_not_refused_by_the_decoder(hostile_rows: dict[str, dict[str, Any]]) -> None:
    row = hostile_rows["real"]
    assert canonicalise(row["body"], ImageSettings(), SETTINGS, row["content_type"]).width == 96


def test_what_the_server_said_is_kept_as_evidence(hostile_rows: dict[str, dict[str, Any]]) -> None:
    picture = hostile_rows["picture"]
    assert (picture["status"], picture["content_type"], picture["bytes"]) == (200, "image/jpeg", len(PICTURE))
    assert (picture["etag"], picture["last_modified"]) == (ETAG, "Mon, 02 Nov 2026 00:00:00 GMT")
    assert picture["robots_evidence"] == "none:404"
    assert hostile_rows["noai-second"]["x_robots_tag"] == "nofollow, max-snippet: 5, NoImageAI"
    assert hostile_rows["noai-second"]["failure_detail"] == "X-Robots-Tag: noimageai"
    assert hostile_rows["tdm"]["tdm_reservation"] == "1"
    assert hostile_rows["chain/3"]["redirects"] == 3
    assert hostile_rows["chain/3"]["final_url"].endswith("/chain/0")
    assert hostile_rows["limited-long"]["attempts"] == 1
    assert hostile_rows["heals"]["attempts"] == 2
    assert hostile_rows["error"]["attempts"] == 1 + PATIENT.retries
    assert hostile_rows["missing"]["attempts"] == 1
    assert hostile_rows["gzipped"]["body"] == PICTURE
    assert hostile_rows["until-close"]["body"] == PICTURE


def test_an_unrepeatable_validator_is_not_kept(hostile_rows: dict[str, dict[str, Any]]) -> None:
    assert hostile_rows["non-ascii-header"]["etag"] is None


def test_credentials_of_a_redirect_are_stored_nowhere(hostile_rows: dict[str, dict[str, Any]]) -> None:
    assert "secret" not in repr(hostile_rows["to-credentials"])
    row = hostile_rows["past-credentials"]
    assert "secret" not in repr(row)
    assert row["hops"] == [row["final_url"]]
    assert row["final_url"].endswith("/picture?next=http://a.example/")
    # Sent to what is left of the URL, they would be another resource's.
    assert (row["etag"], row["last_modified"]) == (None, None)


def test_credentials_of_a_row_end_it_as_a_bad_row_that_does_not_repeat_them(server: HostileServer) -> None:
    url = server.url("user:secret@credentials.example", "picture")
    row = fetch_one(url)
    assert (row["failure_code"], row["failure_detail"]) == ("bad_row", "url: credentials")
    assert server.requests_to("credentials.example") == []
    assert row["final_url"] is None
    assert "secret" not in repr(row)


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("mixed.example", None),
        ("rebound.example", "forbidden_address"),
        ("mapped.example", "forbidden_address"),
        ("unknown.example", "dns"),
        ("127.0.0.1", None),
        ("2130706433", None),
        ("0x7f.1", None),
        ("127.0.0.2", "forbidden_address"),
        ("0177.0.0.2", "forbidden_address"),
    ],
)
def test_the_connection_goes_only_to_an_address_that_was_allowed(
    server: HostileServer, host: str, code: str | None
) -> None:
    before = len(server.requests)
    row = fetch_one(server.url(host, "picture"))
    assert row["failure_code"] == code
    arrived_at = {request.local_address for _, request in server.requests[before:]}
    assert arrived_at == (set() if code else {"127.0.0.1"})


def test_a_name_that_moves_to_a_private_address_is_not_followed_there(server: HostileServer) -> None:
    answers = iter([["127.0.0.1"], ["127.0.0.2"], ["127.0.0.2"]])
    settings = SETTINGS.model_copy(update={"dns_cache_s": 0.0, "obey_robots": False})
    urls = [server.url("moving.example", f"picture?{i}") for i in range(2)]
    rows = fetch(urls, settings.model_copy(update={"per_host_concurrency": 1}), lookup=lambda _: next(answers))
    assert {row["failure_code"] for row in rows} == {"forbidden_address"}
    assert server.requests_to("moving.example") == []


def test_a_closed_port_is_a_connection_failure() -> None:
    with HostileServer() as gone:
        url = gone.url("closed.example", "picture")
    assert fetch_one(url)["failure_code"] == "connect"


def test_a_certificate_that_nobody_vouches_for_is_a_tls_failure_and_a_good_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("good.example").configure_cert(context)
    with HostileServer(tls=context) as secure:
        assert fetch_one(secure.url("good.example", "picture"))["failure_code"] == "tls"
        authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        good, wrong_name, no_tls = fetch(
            [
                secure.url("good.example", "picture"),
                secure.url("wrong.example", "picture"),
                secure.url("good.example", "picture").replace("https:", "http:"),
            ]
        )
    assert good["body"] == PICTURE
    assert wrong_name["failure_code"] == "tls"
    assert (no_tls["deferred"], no_tls["failure_detail"]) == (True, "robots_unavailable")
