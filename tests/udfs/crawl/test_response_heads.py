"""What is wrong in a response's head and says nothing about the picture is forgiven; what may say something is not."""

import pytest

from udfs.crawl.response_heads import put_right

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
    "head",
    [
        PLAIN,
        b"HTTP/1.1 200 OK\r\n\r\n",
        PLAIN.replace(b"ETag: x", b"Content-Length: 8"),
        PLAIN.replace(b"7", b"7, 8"),
        PLAIN.replace(b"ETag: x", b"X-Content-Length: 7"),
        b"HTTP/1.1 200 OK\r\nX: Content-Length: 7\r\nY: Content-Length: 7\r\n\r\n",
    ],
)
def test_everything_else_stays_as_it_is(head: bytes) -> None:
    assert put_right(head) == head
