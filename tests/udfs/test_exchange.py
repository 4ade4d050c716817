"""The parts of an exchange that need no server."""

import gzip
import time
from email.utils import formatdate
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile_server import GZIP_BOMB
from udfs.crawler import is_other_media
from udfs.exchange import PIECE, FetchError, _decoder, printable, retry_after_s


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        (" 120 ", 120),
        ("9" * 400, 999_999_999),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("\u0661", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value) == seconds


def test_a_retry_after_date_is_counted_from_now() -> None:
    found = retry_after_s(formatdate(time.time() + 90, usegmt=True))
    assert found is not None
    assert 85 < found <= 90


@given(st.text())
def test_what_is_stored_is_one_short_line_that_can_be_encoded(text: str) -> None:
    clean = printable(text)
    assert len(clean) <= 200
    assert clean.isprintable()
    clean.encode()


def test_bytes_of_a_header_that_are_no_text_can_be_stored() -> None:
    assert printable("caf\udce9\r\nX: y") == "caf?  X: y"


@pytest.mark.parametrize(
    ("content_type", "other"),
    [
        ("image/jpeg", False),
        ("IMAGE/PNG; charset=x", False),
        ("image/svg+xml", True),
        ("application/octet-stream", False),
        ("", False),
        ("jpeg", False),
        ("image", False),
        ("Text/HTML; charset=utf-8", True),
        ("application/json", True),
        ("video/mp4", True),
    ],
)
def test_declared_types(content_type: str, other: bool) -> None:
    assert is_other_media(content_type) is other


@given(body=st.binary(max_size=5000), cuts=st.lists(st.integers(1, 700), max_size=20), members=st.integers(1, 3))
def test_content_is_decoded_whole_however_it_arrives(body: bytes, cuts: list[int], members: int) -> None:
    packed = gzip.compress(body) * members
    decode = _decoder("gzip", 20_000)
    assert decode is not None
    pieces, start = [], 0
    for cut in [*cuts, len(packed)]:
        pieces += decode(packed[start : start + cut])
        start += cut
    assert b"".join(pieces) == body * members


def test_a_bomb_is_decoded_in_small_pieces_and_no_further_than_the_limit() -> None:
    decode = _decoder("gzip", 10 * PIECE)
    assert decode is not None
    pieces = map(len, decode(GZIP_BOMB))
    assert list(islice(pieces, 10)) == [PIECE] * 10
    with pytest.raises(FetchError, match="expands beyond"):
        next(pieces)
