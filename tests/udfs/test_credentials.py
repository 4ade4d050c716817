import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from udfs.credentials import redact_text, redact_url
from udfs.urls import BadUrl, host_of, normalise_url

SECRET = "s3cretw0rd"


def encoded(text: str, times: int = 1) -> str:
    """Percent-encoded as `encodeURIComponent` does, so many times over."""
    for _ in range(times):
        text = "".join(c if (c.isascii() and c.isalnum()) or c in "-._~" else f"%{ord(c):02X}" for c in text)
    return text


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example/img//logo@2x.png",
        "https://cdn.example//logo@2x.png",
        "https://cdn.example/@someone/1.jpg?to=me@b.example",
        "https://cdn.example/a?src=//logo@2x.png",
        "https://cdn.example/a?src=%2F%2Flogo%402x.png",
        "https://cdn.example/a?ref=http://b.example&mail=me@c.example",
        "https://cdn.example/a?ref=http%3A%2F%2Fb.example%2F%40someone",
        "https://cdn.example:8080//x@y",
        "https://cdn.example/photos/1234%40N00//5@2x.jpg",
    ],
)
def test_an_at_sign_elsewhere_is_left_alone(url: str) -> None:
    assert redact_url(url) == url


NESTED = [
    "https://{}@h.example/x",
    "https://u:{}@h.example/x",
    "https://{}:p@h.example",
    "https://u:p@{}@h.example/x",
    "https://u:a&{}@h.example/x",
    "https://u@corp.example:{}@h.example/x",
    "https://u:pa%2F{}@h.example/x",
    "ftp://u:{}@h.example/x",
    "https:\\\\u:{}@h.example/x",
    "https:///u:{}@h.example/x",
    "//u:{}@h.example/x",
]


@pytest.mark.parametrize("nested", NESTED)
@pytest.mark.parametrize(
    "around", ["https://a.example/?url={}", "https://a.example/?x=1&url={}&y=2", "https://u:{s}@a.example/?url={}"]
)
@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_a_password_in_a_query_is_removed_however_often_it_is_encoded(nested: str, around: str, times: int) -> None:
    url = around.replace("{s}", SECRET).replace("{}", encoded(nested.replace("{}", SECRET), times))
    redacted = redact_url(url)
    assert SECRET not in redacted
    assert "a.example/?" in redacted
    assert "h.example" in redacted
    assert ("&y=2" in redacted) == ("&y=2" in url)
    assert SECRET not in redact_url(normalise_url(url.replace(f"u:{SECRET}@a", "a")))
    assert redact_url(redacted) == redacted


@pytest.mark.parametrize("nested", [one for one in NESTED if not one.startswith("//")])
def test_a_password_in_a_path_is_removed(nested: str) -> None:
    assert SECRET not in redact_url("https://archive.example/web/" + nested.replace("{}", SECRET))


@pytest.mark.parametrize("given", ["https%3A//u%3As3cretw0rd%40h.example/", "https://u:p s3cretw0rd@h.example/x"])
def test_a_password_that_is_encoded_by_halves_is_removed(given: str) -> None:
    assert SECRET not in redact_url(f"https://a.example/?url={given}")


@pytest.mark.parametrize("url", ["https://u%3As3cretw0rd%40a.example/x", "u:s3cretw0rd%40a.example"])
def test_of_a_url_that_is_not_sound_nothing_is_left_before_an_encoded_at_sign(url: str) -> None:
    assert SECRET not in redact_url(url)


def test_urls_inside_texts_lose_their_credentials_and_texts_nothing_else() -> None:
    text = "see http://user:pw@b.example/x, //u:p@c.example and img//logo@2x.png, or mail me@c.example"
    assert redact_text(text) == "see http://b.example/x, //c.example and img//logo@2x.png, or mail me@c.example"


PIECES = st.sampled_from(
    ["http://", "https:", "//", "/", "\\", "@", "%40", "%2540", ":", "%3A", "%253A", "%2F%2F", "%2f", "%252F", "%25",
     "?", "#", "&", "=", "a=", "u", "p", "ä", " ", "\n", ".", "2x.png", "h.example", "%", "[", "]", "40", "25"]
)  # fmt: skip
JOINED = st.lists(PIECES, max_size=14).map("".join)


@settings(deadline=None, max_examples=1000)
@given(JOINED)
@example("//%3A%2F%2F@u:%5Cp%40")
@example("//%3A%2F%2F@%3f%40:%40")
def test_redacting_twice_changes_nothing(text: str) -> None:
    once = redact_text(text)
    assert redact_text(once) == once
    for url in (text, f"https://a.example/{text}"):
        once = redact_url(url)
        assert redact_url(once) == once


@settings(deadline=None, max_examples=500)
@given(JOINED)
def test_a_sound_url_stays_one_of_the_same_host(text: str) -> None:
    try:
        normalised = normalise_url(f"https://a.example/{text}")
    except BadUrl:
        return
    assert host_of(normalise_url(redact_url(normalised))) == host_of(redact_url(normalised)) == "a.example"


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        *(("", piece) for piece in ("//@/", "://@", "%3A%2F%2F", "%25", "&", "@", "//", "=//", "a:", "://a&b")),
        ("", "%2F%2Fa%3A"),
        ("", ":%5C%5C"),
        ("", "%3A%255C%255C"),
        ("", "%253A%2F%2F"),
        (":", "%5C"),
        ("%253A", "%2F"),
        (" %2F", "%252F"),
        ("://a@", "%2F"),
    ],
)
def test_hostile_texts_cost_no_more_than_their_length(before: str, piece: str) -> None:
    text = "@ " + before + piece * (100_000 // len(piece))
    begun = time.process_time()
    redact_text(text)
    redact_url(f"https://a.example/{text[:8000]}")
    assert time.process_time() - begun < 2
