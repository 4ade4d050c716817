"""One spelling a resource; nothing but http and https; no secrets."""

import hashlib
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import wild
from udfs.urls import (
    MAX_URL_LENGTH,
    BadUrl,
    host_of,
    hosts_named,
    join_url,
    matches_domain,
    named_host,
    normalise_url,
    origin_of,
    url_id,
)


@pytest.mark.parametrize(
    ("raw", "normalised"),
    [
        ("HTTP://Example.COM", "http://example.com/"),
        (" https://example.com/a \n", "https://example.com/a"),
        ("http://example.com:80/", "http://example.com/"),
        ("https://example.com:443/", "https://example.com/"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("http://example.com:/", "http://example.com/"),
        ("http://example.com:0080/", "http://example.com/"),
        ("http://example.com:" + "0" * 5000 + "80/", "http://example.com/"),
        ("http://example.com./a", "http://example.com/a"),
        ("http://example.com/a#b?c", "http://example.com/a"),
        ("http://example.com?", "http://example.com/"),
        ("http://example.com?b=2&a=1&b=1", "http://example.com/?b=2&a=1&b=1"),
        ("http://example.com/a/./b/../c/..", "http://example.com/a/"),
        ("http://example.com/../../a", "http://example.com/a"),
        ("http://example.com/a/%2e%2E/b", "http://example.com/b"),
        ("http://example.com/a//b/", "http://example.com/a//b/"),
        ("http://example.com/.well-known/x", "http://example.com/.well-known/x"),
        ("http://example.com/%7euser/%41%2fb", "http://example.com/~user/A%2Fb"),
        ("http://example.com/100%", "http://example.com/100%25"),
        ("http://example.com/a b?c d", "http://example.com/a%20b?c%20d"),
        ("http://example.com/\u00e9?\u00fc", "http://example.com/%C3%A9?%C3%BC"),
        ("http://example.com/\udce9", "http://example.com/%E9"),
        ('http://example.com/"<>^`{|}', "http://example.com/%22%3C%3E%5E%60%7B%7C%7D"),
        ("http://example.com\\a\\b", "http://example.com/a/b"),
        ("http://b\u00fccher.example/", "http://xn--bcher-kva.example/"),
        ("http://B\u00dcCHER.example/", "http://xn--bcher-kva.example/"),
        ("http://\u30c6\u30b9\u30c8.example/", "http://xn--zckzah.example/"),
        ("http://exa%6dple.com/", "http://example.com/"),
        ("http://my_host.example/", "http://my_host.example/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://0x7f000001/", "http://127.0.0.1/"),
        ("http://0x7F.1/", "http://127.0.0.1/"),
        ("http://0177.0.0.01/", "http://127.0.0.1/"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://\uff11\uff12\uff17.0.0.1/", "http://127.0.0.1/"),
        ("http://127\u30020\u30020\u30021/", "http://127.0.0.1/"),
        ("http://[::FFFF:127.0.0.1]:8080/", "http://[::ffff:7f00:1]:8080/"),
        ("http://[0:0:0:0:0:0:0:1]/", "http://[::1]/"),
    ],
)
def test_spellings_of_one_resource_are_one(raw: str, normalised: str) -> None:
    assert normalise_url(raw) == normalised


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("ftp://example.com/", "scheme"),
        ("file:///etc/passwd", "scheme"),
        ("data:image/png;base64,AAAA", "scheme"),
        ("javascript:alert(1)", "scheme"),
        ("//example.com/a", "scheme"),
        ("/a/b", "scheme"),
        ("example.com/a", "scheme"),
        ("http:/example.com", "host"),
        ("http:example.com", "host"),
        ("http:///a", "host"),
        ("http://a..b/", "host"),
        ("http://.a/", "host"),
        ("http://a b/", "host"),
        ("http://a%00b/", "host"),
        ("http://a%2fb/", "host"),
        ("http://%ff/", "host"),
        ("http://\u2603\ufe0f\u200d/", "host"),
        ("http://\ud800/", "host"),
        ("http://a%\udce9/", "host"),
        ("http://%61\ud800/", "host"),
        ("http://" + "a" * 64 + ".example/", "host"),
        ("http://" + "a." * 130 + "example/", "host"),
        ("http://256.0.0.1/", "host"),
        ("http://1.2.3.4.5/", "host"),
        ("http://09.1.1.1/", "host"),
        ("http://4294967296/", "host"),
        ("http://0x-1.0.0.1/", "host"),
        ("http://0x0x7f.0.0.1/", "host"),
        ("http://0o177.0.0.1/", "host"),
        ("http://12_7.0.0.1/", "host"),
        ("http://0x/../", None),
        ("http://example.0x1g/", None),
        ("http://[::1", "host"),
        ("http://[fe80::1%25eth0]/", "host"),
        ("http://[v1.a]/", "host"),
        ("http://example.com:0/", "port"),
        ("http://example.com:65536/", "port"),
        ("http://example.com:80a/", "port"),
        ("http://example.com:\u0661/", "port"),
        ("http://example.com:" + "9" * 5000 + "/", "port"),
        ("http://example.com:" + "0" * 5000 + "/", "port"),
        ("http://example.com:-1/", "port"),
        ("http://" + "9" * 5000 + "/", "host"),
        ("http://0x" + "f" * 5000 + "/", "host"),
        ("http://" + "0" * 5000 + "/", "host"),
        ("http://[" + "1" * 5000 + "]/", "host"),
        ("http://" + "\u00fc" * 5000 + "/", "host"),
        ("http://" + "%C3%BC" * 1000 + "/", "host"),
        ("http://user:secret@example.com/", "credentials"),
        ("http://secret@example.com/", "credentials"),
        ("http://good.example\\@evil.example/", None),
        ("http://example.com/a\tb", "control_character"),
        ("http://example.com/a\r\nHost: b", "control_character"),
        ("http://example.com/\ud800", "encoding"),
        ("http://example.com/" + "a" * MAX_URL_LENGTH, "too_long"),
        ("http://example.com/" + "\u00e9" * 2000, "too_long"),
    ],
)
def test_what_must_not_be_requested_has_a_reason_that_repeats_nothing(raw: str, reason: str | None) -> None:
    if reason is None:
        # Accepted, but the host is the one that is checked: nothing after it can be taken for a host.
        assert host_of(normalise_url(raw)) in {"0.0.0.0", "example.0x1g", "good.example"}
        return
    with pytest.raises(BadUrl) as refused:
        normalise_url(raw)
    assert refused.value.reason == reason
    assert "secret" not in repr(refused.value)


REASONS = {
    "empty", "too_long", "control_character", "scheme", "credentials", "host", "port", "encoding", "location"
}  # fmt: skip

URLS = st.builds(
    "{}://{}{}{}{}".format,
    st.sampled_from(["http", "HTTPS", "https"]),
    st.sampled_from(["example.com", "EXAMPLE.com.", "b\u00fccher.example", "0x7f.1", "[::1]", "a_b.example"]),
    st.sampled_from(["", ":80", ":443", ":8080", ":"]),
    st.just("") | st.text(st.sampled_from("/.%2eEaA4 \\\u00e9\udce9~?&=+[]'\"|"), max_size=30).map("/".__add__),
    st.sampled_from(["", "#f", "?", "?a=%2f&b=%C3", "?%"]),
)


@given(URLS)
def test_normalising_is_idempotent(raw: str) -> None:
    once = normalise_url(raw)
    assert normalise_url(once) == once
    assert once.isascii()
    assert "#" not in once
    assert "/../" not in once


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_has_a_reason(text: str) -> None:
    for raw in (text, "http://" + text, "http://example.com/" + text, "http://example.com:" + text):
        try:
            normalised = normalise_url(raw)
        except BadUrl:
            continue
        assert normalise_url(normalised) == normalised
        assert origin_of(normalised) in {f"{scheme}://{_bracketed(normalised)}" for scheme in ("http", "https")}


@settings(max_examples=500, deadline=None)
@given(wild.URLS)
def test_any_url_from_the_wild_has_one_spelling_or_a_reason(raw: str) -> None:
    normalised, reason = _read(normalise_url, raw)
    assert (normalised is None) == (reason in REASONS)
    if normalised is None:
        return
    assert normalise_url(normalised) == normalised
    assert normalised.isascii()
    assert host_of(normalised)
    assert host_of(normalised) in origin_of(normalised)
    assert "@" not in origin_of(normalised)
    assert len(url_id(normalised)) == 64


@settings(max_examples=500, deadline=None)
@given(wild.URLS | wild.TEXTS)
def test_any_redirect_leads_to_a_url_or_has_a_reason(location: str) -> None:
    target, reason = _read(lambda raw: join_url("https://example.com/a/x", raw), location)
    assert (target is None) == (reason in REASONS)
    assert target is None or normalise_url(target) == target


def _read(read: Callable[[str], str], raw: str) -> tuple[str | None, str | None]:
    """The URL, or the reason why there is none."""
    try:
        return read(raw), None
    except BadUrl as error:
        return None, error.reason


@pytest.mark.parametrize(
    "raw",
    [
        "http://" + "\u00fc." * 4000,
        "http://" + "\u00fc" * 8000,
        "http://" + "%75" * 2700,
        "http://" + "a." * 4000,
        "http://" + "xn--" * 2000,
        "http://\u0627" + "\u0660" * 8000,
        "http://" + "\ufdfa" * 8000,
        "http://" + "\u0301\u0316" * 4000,
        "http://a/" + "../" * 2700,
        "http://a/" + "%2e%2e/" * 1100,
        "http://a" + "@" * 8000,
        "http:" + "/" * 8000,
        "http://a:" + "0" * 8000,
        " " * 10**6 + "x",
        "a" * 10**6 + ":",
    ],
    ids=lambda raw: raw[:14],
)
def test_no_url_costs_much(raw: str) -> None:
    start = time.process_time()
    _read(normalise_url, raw)
    _read(lambda location: join_url("http://example.com/", location), raw)
    assert time.process_time() - start < 1


def _bracketed(normalised: str) -> str:
    return normalised.split("/")[2]


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b", "https://example.com/b"),
        ("b?c", "https://example.com/a/b?c"),
        ("//other.example/b", "https://other.example/b"),
        ("http://other.example", "http://other.example/"),
        ("?q", "https://example.com/a/x?q"),
        ("", "https://example.com/a/x"),
        ("../../..", "https://example.com/"),
    ],
)
def test_redirects_are_seen_from_where_they_came(location: str, target: str) -> None:
    assert join_url("https://example.com/a/x", location) == target


@pytest.mark.parametrize(
    ("base", "location", "target"),
    [
        ("http://a/b//c/d", "e", "http://a/b//c/e"),
        ("http://a/b//c/d", "../e", "http://a/b//e"),
        ("http://a/b//c/d?x/y", "e//f?g//h", "http://a/b//c/e//f?g//h"),
        ("http://a//b", "", "http://a//b"),
        ("http://a/b//c", "?d", "http://a/b//c?d"),
        ("http://a/b", "c//d", "http://a/c//d"),
        ("http://a/b", "c\td", "http://a/cd"),
        ("http://a//b", "/..//c", "http://a//c"),
        ("http://a/b", "//c//d", "http://c//d"),
    ],
)
def test_slashes_that_repeat_are_kept_as_browsers_keep_them(base: str, location: str, target: str) -> None:
    assert join_url(base, location) == target


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/b;", "http://a/b;"),
        ("http://c/d;", "http://c/d;"),
        ("//c/d;?e;", "http://c/d;?e;"),
        ("http:d", "http://a/b/d"),
        ("HTTP:/d", "http://a/d"),
        ("https:c/d", "https://c/d"),
        ("https:/c/d", "https://c/d"),
        ("http:///c/d", "http://c/d"),
        ("\\\\c\\d", "http://c/d"),
        ("/\\c/d", "http://c/d"),
        ("\\d", "http://a/d"),
        ("#d", "http://a/b/x?y"),
        ("ht\ntp://c/d", "http://c/d"),
        ("d:e", None),
        ("./d:e", "http://a/b/d:e"),
    ],
)
def test_redirects_lead_where_browsers_go(location: str, target: str | None) -> None:
    assert _read(lambda raw: join_url("http://a/b/x?y", raw), location)[0] == target


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://[half", "http://u:p@b/", "\\\\b\x00"])
def test_redirects_that_are_no_url_have_a_reason(location: str) -> None:
    with pytest.raises(BadUrl):
        join_url("https://example.com/a/x", location)


def test_ids_hosts_and_origins() -> None:
    url = "http://example.com:8080/a?b:c/d"
    assert url_id(url) == hashlib.sha256(url.encode()).hexdigest()
    assert (host_of(url), origin_of(url)) == ("example.com", "http://example.com:8080")
    assert (host_of("http://[::1]:8080/"), origin_of("http://[::1]:8080/")) == ("::1", "http://[::1]:8080")
    assert host_of("http://example.com/") == "example.com"


def test_an_ipv4_address_is_one_host_to_rules_however_it_is_spelled() -> None:
    """What is connected to stays as it is spelled: it is checked as such."""
    hosts = [host_of(normalise_url(url)) for url in ("http://93.184.216.34/", "http://[::FFFF:93.184.216.34]/")]
    assert tuple(hosts) == hosts_named("93.184.216.34")
    assert [matches_domain(host, frozenset({"93.184.216.34"})) for host in hosts] == ["93.184.216.34"] * 2
    for other in ("example.com", "2001:db8::1", "1.2.3"):
        assert hosts_named(other) == (other,)
        assert named_host(other) == other


@pytest.mark.parametrize(
    ("host", "matched"),
    [
        ("example.com", "example.com"),
        ("a.b.example.com", "b.example.com"),
        ("a.example.com", "example.com"),
        ("notexample.com", None),
        ("com", None),
        ("", None),
    ],
)
def test_domains_match_themselves_and_what_is_below_them(host: str, matched: str | None) -> None:
    assert matches_domain(host, frozenset({"example.com", "b.example.com"})) == matched
