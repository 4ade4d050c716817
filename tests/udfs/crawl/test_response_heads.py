"""What is wrong in a response's head and says nothing about the picture is forgiven; what may say something is not."""

import time

import pytest

from udfs.crawl.response_heads import MAX_HEAD, put_right

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 7\r\nETag: x\r\n\r\n"


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 7\r\nContent-Length: 7\r\n",
        b"content-length:7\r\nX: y\r\nContent-length : 7 \r\nCONTENT-LENGTH: 7\r\n",
        b"Content-Length: 7, 7\r\n",
        b"Content-Length: 7,7\nX: y\n",
    ],
)
def test_a_length_that_is_repeated_stands_once(fields: bytes) -> None:
    head = put_right(b"HTTP/1.1 200 OK\r\nA: b\r\n" + fields + b"C: d\r\n\r\n")
    assert head.lower().count(b"content-length") == 1
    assert b"\nContent-Length: 7\r\n" in head
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"A: b\r\n" in head
    assert head.endswith(b"C: d\r\n\r\n")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (b"X-Robots-Tag : noai\r\nX \t:y\r\n", b"X-Robots-Tag: noai\r\nX:y\r\n"),
        (b"A: b\r\nno colon\r\n\tmore: of it\r\nC: d\r\n e\r\n", b"A: b\r\nC: d\r\n e\r\n"),
        (b": x\r\nX Y: z\r\n\xe9: x\nHTTP/1.1 200 OK\r\n(x): y\r\n", b""),
        (b"Transfer-Encoding: Chunked\r\nContent-Length: 7\r\n", b"Transfer-Encoding: Chunked\r\n"),
        (b"Content-Length: 7\r\ntransfer-encoding : gzip, chunked\r\n", b"transfer-encoding: gzip, chunked\r\n"),
        (b"Content-Length: 7\r\nTransfer-Encoding: identity\r\n", b"Content-Length: 7\r\n"),
    ],
)
def test_what_browsers_do_not_mind_is_put_right(given: bytes, wanted: bytes) -> None:
    for start in (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200\n", b"\r\nHTTP/1.1 200 OK\r\n"):
        assert put_right(start + given + b"Z: z\r\n\r\n") == start + wanted + b"Z: z\r\n\r\n"


@pytest.mark.parametrize("line", [b"a" * 100, b"a :" * 40, b" " * 100, b"", b"\xff" * 100, b"a\t" * 50])
def test_a_head_costs_no_more_than_its_length(line: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + (line + b"\r\n") * (MAX_HEAD // (len(line) + 2))
    before = time.perf_counter()
    put_right(head + b"\r\n")
    put_right(head.replace(b"\r\n", b"") + b"\r\n\r\n")
    assert time.perf_counter() - before < 0.5


@pytest.mark.parametrize(
    "head",
    [
        PLAIN,
        b"HTTP/1.1 200 OK\r\n\r\n",
        PLAIN.replace(b"ETag: x", b"Content-Length: 8"),
        PLAIN.replace(b"7", b"7, 8"),
        PLAIN.replace(b"ETag: x", b"X-Content-Length: 7"),
        PLAIN.replace(b"\r\n", b"\n"),
        PLAIN.replace(b"ETag", b" folded"),
        PLAIN.replace(b"Content-Length: 7", b"Transfer-Encoding: identity"),
        b"ICY 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: Content-Length: 7\r\nY: Content-Length: 7\r\n\r\n",
    ],
)
def test_everything_else_stays_as_it_is(head: bytes) -> None:
    assert put_right(head) == head
