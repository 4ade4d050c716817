"""One HTTP exchange with a server that may be slow, broken or hostile: bounded in time, bytes and memory.

Nothing here decides what to ask next: redirects, retries and politeness are `udfs.crawl.crawler`'s.
"""

import asyncio
import ssl
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import ceil
from typing import Any, Self

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from schemas.outcomes import FailureCode
from schemas.settings import CrawlSettings
from udfs.bounded import Budget
from udfs.crawl.addresses import ForbiddenAddressError, NameResolutionError, SafeResolver
from udfs.crawl.response_heads import MAX_FIELDS, MAX_HEAD, forgiving_connector

MAX_DETAIL = 200
KEEPALIVE_S = 4.0
"""Below the five seconds after which Apache and Node.js close idle connections: a request never meets a closing one."""

SMALL_BODY = 2**20
"""Bytes that every running exchange may hold beside the budget of bodies."""

PIECE = 2**18
"""Bytes that a content decoder makes at a time: what it makes is booked before it makes more."""

Headers = CIMultiDictProxy[str]


class FetchError(Exception):
    """An outcome of a row, as data. `retryable`: another try in the same run may help. `reached`: the server was."""

    def __init__(
        self,
        code: FailureCode,
        detail: str,
        *,
        retryable: bool = False,
        reached: bool = True,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = printable(detail)
        self.retryable = retryable
        self.reached = reached
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class Deadline:
    """When a row must have ended, in the loop's clock; moved on by waits that are not the server's fault."""

    at: float


@dataclass(frozen=True, slots=True)
class Reply:
    """A response. `body` is null where it was not wanted, and whole otherwise (cut at the limit where allowed)."""

    status: int
    headers: Headers
    body: bytes | None


class Exchanges:
    """The HTTP client of one task, on one event loop. Use as an asynchronous context manager."""

    def __init__(self, settings: CrawlSettings, resolver: SafeResolver) -> None:
        self._settings = settings
        self._resolver = resolver
        self._small_body = min(SMALL_BODY, settings.max_pending_bytes // (4 * settings.concurrency))
        self.budget = Budget(settings.max_pending_bytes - self._small_body * settings.concurrency)

    async def __aenter__(self) -> Self:
        settings = self._settings
        self._session = aiohttp.ClientSession(
            connector=forgiving_connector(
                limit=0,  # the gates limit, per host and in all
                resolver=self._resolver,
                use_dns_cache=False,  # the resolver has one, which also holds failures
                keepalive_timeout=KEEPALIVE_S,
                ssl=ssl.create_default_context(),
            ),
            headers={
                "User-Agent": settings.user_agent,
                "Accept": "image/jpeg,image/png,image/webp,image/gif,image/*;q=0.8,*/*;q=0.1",
                "Accept-Encoding": "identity",
            },
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=settings.connect_timeout_s),
            # A policy for scripts or a report's address in one field takes more than aiohttp's 8 kB.
            max_line_size=MAX_HEAD,
            max_field_size=MAX_HEAD,
            max_headers=MAX_FIELDS,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # content decoding is capped here, against bombs
            trust_env=False,
        )
        # A request that fails is sent again by the crawler, which keeps to the host's rate; aiohttp would not.
        self._session._retry_connection = False
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(
        self,
        url: str,
        deadline: Deadline,
        *,
        wants_body: Callable[[int, Headers], bool],
        headers: Mapping[str, str] | None = None,
        limit: int,
        cut: bool = False,
    ) -> Reply:
        """One GET of a normalised URL, without following redirects.

        Args:
            deadline: of the row; the exchange ends before it and before `request_timeout_s`. Time spent waiting for
                memory moves it on.
            wants_body: called with status and headers; false skips the body, an exception ends the exchange.
            limit: most bytes of body, before and after content decoding.
            cut: take the first `limit` bytes of a longer body instead of failing.

        The bytes of the body returned stay booked in `budget` until the caller releases them.

        Raises:
            FetchError: whatever the server or the network did wrong.
        """
        loop = asyncio.get_running_loop()
        end = min(loop.time() + self._settings.request_timeout_s, deadline.at)
        try:
            async with asyncio.timeout_at(end) as timer:
                response = await self._session.get(URL(url, encoded=True), headers=headers, allow_redirects=False)
                try:
                    if not wants_body(response.status, response.headers):
                        return Reply(response.status, response.headers, None)
                    reader = _BodyReader(
                        exchanges=self,
                        response=response,
                        timer=timer,
                        end=end,
                        deadline=deadline,
                        limit=limit,
                        cut=cut,
                    )
                    return Reply(response.status, response.headers, await reader.read())
                finally:
                    response.release()
        except FetchError:
            raise
        except Exception as error:
            failure = failure_of(error)
            if failure is None:
                raise
            raise failure from error


class _BodyReader:
    """Reads one body within its limits."""

    def __init__(
        self,
        *,
        exchanges: Exchanges,
        response: aiohttp.ClientResponse,
        timer: asyncio.Timeout,
        end: float,
        deadline: Deadline,
        limit: int,
        cut: bool,
    ) -> None:
        settings = exchanges._settings
        self._budget = exchanges.budget
        self._small_body = exchanges._small_body
        self._response = response
        self._timer = timer
        self._end = end
        self._deadline = deadline
        self._limit = limit
        self._cut = cut
        self._window_s = settings.min_rate_window_s
        self._window_bytes = ceil(settings.min_bytes_per_s * settings.min_rate_window_s)
        self._booked = 0

    async def read(self) -> bytes:
        try:
            body = await self._read()
            await self._book(len(body))
        except BaseException:
            self._budget.release(self._booked)
            raise
        self._budget.release(self._booked - len(body))
        return body

    async def _read(self) -> bytes:
        declared = self._response.content_length
        if declared is not None and declared > self._limit and not self._cut:
            raise FetchError(FailureCode.TOO_LARGE, f"Content-Length {declared} of at most {self._limit} bytes")
        decode = decoder(", ".join(self._response.headers.getall("Content-Encoding", ())), self._limit)
        if declared is not None and declared > self._small_body:
            # All that may be needed in one go: readers that hold a part and wait for more would wait for each other.
            await self._book(min(declared, self._limit) if decode is None else self._limit)
        chunks: list[bytes] = []
        received = size = window = 0
        self._restart_window()
        while chunk := await self._response.content.readany():
            received += len(chunk)
            window += len(chunk)
            if 0 < self._window_bytes <= window:
                window = 0
                self._restart_window()
            for piece in (chunk,) if decode is None else decode.pieces(chunk):
                chunks.append(piece)
                size += len(piece)
                if size > self._small_body and size > self._booked:
                    await self._book(self._limit)
            if max(size, received) > self._limit:
                if self._cut:
                    break
                raise FetchError(FailureCode.TOO_LARGE, f"more than {self._limit} bytes")
        else:
            if decode is not None:
                decode.finish()
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return body[: self._limit] if self._cut else body

    def _restart_window(self) -> None:
        """Every window, a minimum of bytes must arrive: a server that trickles does not hold a slot for long."""
        if self._window_bytes == 0:
            self._timer.reschedule(self._end)
            return
        self._timer.reschedule(min(self._end, asyncio.get_running_loop().time() + self._window_s))

    async def _book(self, count: int) -> None:
        """Takes up to `count` bytes of the budget; the clocks stand still while others hold it."""
        if count <= self._booked:
            return
        loop = asyncio.get_running_loop()
        before = loop.time()
        self._timer.reschedule(None)
        await self._budget.acquire(count - self._booked)
        self._booked = count
        waited = loop.time() - before
        self._end += waited
        self._deadline.at += waited
        self._restart_window()


MAX_CODINGS = 3
MAX_STREAMS = 10_000
"""That a body may be packed as, one after the other: empty ones take time and come to no bytes."""
_INFLATABLE = frozenset({"gzip", "x-gzip", "deflate"})
_OTHER_CODINGS = frozenset({"aes128gcm", "br", "compress", "dcb", "dcz", "exi", "pack200-gzip", "x-compress", "zstd"})
"""The rest of IANA's content codings."""


def decoder(encoding: str, limit: int) -> "Inflating | None":
    """What undoes a Content-Encoding, a list of codings in the order in which they were applied; null for none needed.

    What is no content coding at all (`UTF-8`, `none`, `aws-chunked`) is left out, as browsers do.

    Raises:
        FetchError: `DECODE` where a coding cannot be undone (it was not asked for either), or there are too many.
    """
    names = [name for part in encoding.lower().split(",") if (name := part.strip()) in _INFLATABLE | _OTHER_CODINGS]
    if len(names) > MAX_CODINGS or not _INFLATABLE.issuperset(names):
        raise FetchError(FailureCode.DECODE, f"content coding {encoding!r} was not asked for")
    inflating = None
    for name in names:  # the last one applied is undone first
        inflating = Inflating(name, limit, inflating)
    return inflating


class Inflating:
    """Undoes gzip or deflate, however the bytes arrive, in pieces of at most `PIECE` bytes.

    Forgiving as browsers are: deflate comes with or without zlib's header; gzip in one member or several; whatever
    follows the end is ignored.

    Args:
        name: the coding.
        limit: most bytes that may come out.
        inner: what undoes the coding below this one.
    """

    def __init__(self, name: str, limit: int, inner: "Inflating | None" = None) -> None:
        self._name = name
        self._limit = limit
        self._inner = inner
        self._produced = self._streams = 0
        self._waiting = b""  # the first byte of what may be a stream
        self._inflater: zlib._Decompress | None = None
        self._has_ended = False

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """What comes out of the next bytes.

        Raises:
            FetchError: `DECODE` where they are broken, `BOMB` where more than `limit` bytes come out in all, or they
                are packed as more than `MAX_STREAMS` streams.
        """
        for piece in self._own_pieces(chunk):
            yield from (piece,) if self._inner is None else self._inner.pieces(piece)

    def finish(self) -> None:
        """There are no more bytes.

        Raises:
            FetchError: `DECODE` where the end is missing.
        """
        if self._inflater is not None or (self._waiting and not self._streams):
            raise FetchError(FailureCode.DECODE, f"truncated content coding {self._name}")
        if self._inner is not None:
            self._inner.finish()

    def _own_pieces(self, chunk: bytes) -> Iterator[bytes]:
        chunk, self._waiting = self._waiting + chunk, b""
        is_full = False
        while (chunk or is_full) and not self._has_ended:
            if self._inflater is None:
                if len(chunk) < 2:
                    self._waiting = chunk
                    return
                self._has_ended = self._streams > 0 and not chunk.startswith(_GZIP)
                if self._has_ended:
                    return
                self._streams += 1
                if self._streams > MAX_STREAMS:
                    raise FetchError(FailureCode.BOMB, f"{self._name} in more than {MAX_STREAMS} streams")
                self._inflater = zlib.decompressobj(_window_bits(chunk, self._name))
            try:
                piece = self._inflater.decompress(chunk, PIECE)
            except zlib.error as error:
                raise FetchError(FailureCode.DECODE, f"broken content coding {self._name}") from error
            self._produced += len(piece)
            if self._produced > self._limit:
                raise FetchError(FailureCode.BOMB, f"{self._name} expands beyond {self._limit} bytes")
            yield piece
            if self._inflater.eof:
                chunk, self._inflater, is_full = self._inflater.unused_data, None, False
            else:
                # A full piece may not be all that the bytes taken come to, though none are left.
                chunk, is_full = self._inflater.unconsumed_tail, len(piece) == PIECE


_GZIP = b"\x1f\x8b"


def _window_bits(start: bytes, name: str) -> int:
    """What zlib calls the format of a stream that begins so: gzip, zlib, or deflate without either's header."""
    if start.startswith(_GZIP):
        return zlib.MAX_WBITS | 16
    if start[0] & 0x8F == 8 and int.from_bytes(start[:2], "big") % 31 == 0:  # RFC 1950 section 2.2
        return zlib.MAX_WBITS
    return -zlib.MAX_WBITS if name == "deflate" else zlib.MAX_WBITS | 16


_OUTCOMES: tuple[tuple[tuple[type[Exception], ...], Callable[[Any], FetchError]], ...] = (
    ((ForbiddenAddressError,), lambda e: FetchError(FailureCode.FORBIDDEN_ADDRESS, str(e), reached=False)),
    (
        (NameResolutionError,),
        lambda e: FetchError(FailureCode.DNS, str(e), retryable=e.temporary, reached=False),
    ),
    (
        # Not retried in the run: a certificate does not get better within seconds.
        (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError, ssl.SSLError),
        lambda e: FetchError(FailureCode.TLS, _tls_detail(e), reached=False),
    ),
    (
        (aiohttp.ConnectionTimeoutError,),
        lambda _: FetchError(FailureCode.TIMEOUT, "connecting took too long", retryable=True, reached=False),
    ),
    ((TimeoutError,), lambda _: FetchError(FailureCode.TIMEOUT, "no whole response in time", retryable=True)),
    (
        (aiohttp.ClientConnectorError,),
        lambda e: FetchError(FailureCode.CONNECT, e.strerror or "refused", retryable=True, reached=False),
    ),
    ((aiohttp.ClientPayloadError,), lambda _: FetchError(FailureCode.CONNECT, "truncated", retryable=True)),
    ((aiohttp.ClientResponseError,), lambda e: FetchError(FailureCode.CONNECT, f"malformed response: {e.message}")),
    (
        (aiohttp.ServerDisconnectedError,),
        lambda _: FetchError(FailureCode.CONNECT, "closed without a response", retryable=True),
    ),
    ((aiohttp.InvalidURL,), lambda _: FetchError(FailureCode.BAD_ROW, "host")),
    ((OSError,), lambda e: FetchError(FailureCode.CONNECT, e.strerror or type(e).__name__, retryable=True)),
    ((aiohttp.ClientConnectionError,), lambda e: FetchError(FailureCode.CONNECT, type(e).__name__, retryable=True)),
)
"""What exceptions of the HTTP client stand for; the first that fits. Anything else is a bug of ours."""


def failure_of(error: Exception) -> FetchError | None:
    """The outcome that an exception of the HTTP client stands for; null for what is a bug of ours."""
    for kinds, outcome in _OUTCOMES:
        if isinstance(error, kinds):
            return outcome(error)
    return None


def _tls_detail(error: Exception) -> str:
    cause = error.__cause__ or error
    return getattr(cause, "verify_message", None) or getattr(cause, "reason", None) or type(cause).__name__


def printable(text: str, limit: int = MAX_DETAIL) -> str:
    """One line of printable characters, at most `limit` of them; bytes that were no UTF-8 become `?`."""
    clean = text[: 4 * limit].encode("utf-8", "replace").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else " " for character in clean).strip()[:limit]


def retry_after_s(value: str | None) -> float | None:
    """Seconds from a Retry-After header, either form (RFC 9110 section 10.2.3); null for none or nonsense."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, OverflowError, TypeError, IndexError):  # as years, zones and numbers are absurd
        return None
