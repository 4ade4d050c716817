"""The parts of an exchange that need no server."""

import gzip
import random
import time
import zlib
from collections.abc import Callable, Sequence
from email.utils import formatdate
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.outcomes import FailureCode
from tests.hostile_server import GZIP_BOMB
from udfs.crawl.exchange import MAX_CODINGS, MAX_STREAMS, PIECE, FetchError, decoder, printable, retry_after_s


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
        ("Wed, 21 Oct 2015 07:28:00 +9999999999999999", None),
        ("Wed, 21 Oct 2015 07:28:00 -99999999999", None),
        ("Wed, 21 Oct 2015 07:28:00 +9999", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct " + "9" * 5000 + " 07:28:00 GMT", None),
        ("Mon, 01 Jan 0001 00:00:00 +2300", 0),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value) == seconds


def test_a_retry_after_date_is_counted_from_now() -> None:
    found = retry_after_s(formatdate(time.time() + 90, usegmt=True))
    assert found is not None
    assert 85 < found <= 90


dates = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Wed", "", "x"]),
    st.integers(-1, 10**12) | st.integers(0, 60),
    st.sampled_from(["Oct", "Feb", "13", ""]),
    st.integers(-1, 10**12) | st.integers(0, 9999),
    *[st.integers(-1, 10**12) | st.integers(0, 60)] * 3,
    st.from_regex(r"[+-]?[0-9]{0,20}|[A-Z]{0,4}", fullmatch=True),
)


@given(st.text() | dates)
def test_no_retry_after_raises(value: str) -> None:
    seconds = retry_after_s(value)
    assert seconds is None or 0 <= seconds < 10**12


@given(st.text())
def test_what_is_stored_is_one_short_line_that_can_be_encoded(text: str) -> None:
    clean = printable(text)
    assert len(clean) <= 200
    assert clean.isprintable()
    clean.encode()


def test_bytes_of_a_header_that_are_no_text_can_be_stored() -> None:
    assert printable("caf\udce9\r\nX: y") == "caf?  X: y"


def zlib_packed(body: bytes, window_bits: int) -> bytes:
    compressor = zlib.compressobj(wbits=window_bits)
    return compressor.compress(body) + compressor.flush()


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZip ": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": lambda body: zlib_packed(body, -15),  # without zlib's header, as some servers send it
    "identity, gzip": gzip.compress,
    "gzip, UTF-8": gzip.compress,
    "gzip,": gzip.compress,
    "gzip, gzip": lambda body: gzip.compress(gzip.compress(body)),
    "deflate, gzip": lambda body: gzip.compress(zlib.compress(body)),
    "gzip, deflate": lambda body: zlib_packed(gzip.compress(body), -15),
}


def undone(encoding: str, packed: bytes, cuts: Sequence[int] = (), limit: int = 10**7) -> bytes:
    """What comes out of a body that arrives in parts of such lengths."""
    inflating = decoder(encoding, limit)
    assert inflating is not None
    pieces: list[bytes] = []
    start = 0
    for cut in [*cuts, len(packed)]:
        pieces += inflating.pieces(packed[start : start + cut])
        start += cut
    inflating.finish()
    return b"".join(pieces)


cuttings = st.lists(st.integers(1, 700), max_size=20)


@given(body=st.binary(max_size=5000), cuts=cuttings, members=st.integers(1, 3))
def test_content_is_decoded_whole_however_it_arrives(body: bytes, cuts: list[int], members: int) -> None:
    assert undone("gzip", gzip.compress(body) * members, cuts) == body * members


@given(body=st.binary(max_size=5000), cuts=cuttings, encoding=st.sampled_from(sorted(PACKINGS)))
def test_every_way_of_packing_that_browsers_undo_is_undone(body: bytes, cuts: list[int], encoding: str) -> None:
    assert undone(encoding, PACKINGS[encoding](body), cuts) == body


@given(
    body=st.binary(max_size=500),
    cuts=st.lists(st.integers(1, 3)),
    padding=st.sampled_from([b"\0", b"\x1f", b"\0\x1f\x8b", b"<html>"]),
)
@pytest.mark.parametrize("encoding", sorted(PACKINGS))
def test_what_follows_the_end_is_ignored(encoding: str, body: bytes, cuts: list[int], padding: bytes) -> None:
    packed = PACKINGS[encoding](body)
    assert undone(encoding, packed + padding, [*cuts, len(packed) - sum(cuts)][: len(packed)]) == body


@pytest.mark.parametrize("encoding", sorted(PACKINGS))
def test_what_is_cut_off_is_no_content(encoding: str) -> None:
    body = random.Random(3).randbytes(400)
    packed = PACKINGS[encoding](body)
    for kept in range(1, len(packed)):
        with pytest.raises(FetchError, match="content coding") as caught:
            undone(encoding, packed[:kept])
        assert caught.value.code is FailureCode.DECODE
    assert undone(encoding, b"") == b""  # which the crawl refuses as an empty body


@pytest.mark.parametrize("encoding", sorted(PACKINGS))
@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 4 * PIECE + 77])
def test_pieces_are_small_and_none_is_lost(encoding: str, size: int) -> None:
    body = bytes(size)
    inflating = decoder(encoding, 10**7)
    assert inflating is not None
    pieces = list(inflating.pieces(PACKINGS[encoding](body)))
    inflating.finish()
    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= PIECE


@pytest.mark.parametrize(
    "encoding", ["", "identity", "none", "UTF-8", "aws-chunked", "identity, identity", "image/jpeg"]
)
def test_what_is_no_coding_needs_no_decoding(encoding: str) -> None:
    assert decoder(encoding, 100) is None


@pytest.mark.parametrize(
    "encoding", ["br", "zstd", "compress", "gzip, br", "br, gzip", ", ".join(["gzip"] * (MAX_CODINGS + 1))]
)
def test_a_coding_that_cannot_be_undone_is_refused(encoding: str) -> None:
    with pytest.raises(FetchError, match="was not asked for") as caught:
        decoder(encoding, 100)
    assert caught.value.code is FailureCode.DECODE


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip"])
def test_empty_streams_without_end_are_a_bomb(encoding: str) -> None:
    packed = gzip.compress(b"") * MAX_STREAMS
    assert undone(encoding, packed if encoding == "gzip" else gzip.compress(packed)) == b""
    packed += gzip.compress(b"")
    with pytest.raises(FetchError, match="streams") as caught:
        undone(encoding, packed if encoding == "gzip" else gzip.compress(packed))
    assert caught.value.code is FailureCode.BOMB


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip"])
def test_a_bomb_is_decoded_in_small_pieces_and_no_further_than_the_limit(encoding: str) -> None:
    inflating = decoder(encoding, 10 * PIECE)
    assert inflating is not None
    packed = GZIP_BOMB if encoding == "gzip" else gzip.compress(GZIP_BOMB)
    pieces = (size for size in map(len, inflating.pieces(packed)) if size)
    assert list(islice(pieces, 10)) == [PIECE] * 10
    with pytest.raises(FetchError, match="expands beyond"):
        next(pieces)
