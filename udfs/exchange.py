"""One HTTP exchange with a server that may be slow, broken or hostile: bounded in time, bytes and memory.

Nothing here decides what to ask next: redirects, retries and politeness are `udfs.crawler`'s.
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
from udfs.addresses import ForbiddenAddressError, NameResolutionError, SafeResolver
from udfs.bounded import Budget

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
            connector=aiohttp.TCPConnector(
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
        decode = _decoder(self._response.headers.get("Content-Encoding", ""), self._limit)
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
            for piece in (chunk,) if decode is None else decode(chunk):
                chunks.append(piece)
                size += len(piece)
                if size > self._small_body and size > self._booked:
                    await self._book(self._limit)
            if max(size, received) > self._limit:
                if self._cut:
                    break
                raise FetchError(FailureCode.TOO_LARGE, f"more than {self._limit} bytes")
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


def _decoder(encoding: str, limit: int) -> Callable[[bytes], Iterator[bytes]] | None:
    """An incremental content decoder, in pieces of at most `PIECE` bytes; null for none needed.

    Raises:
        FetchError: the coding is not one that can be undone (it was not asked for either); when decoding, what comes
            out is broken or more than `limit` bytes in all.
    """
    name = encoding.strip().lower()
    if name in {"", "identity", "none"}:
        return None
    if name not in {"gzip", "x-gzip", "deflate"}:
        raise FetchError(FailureCode.DECODE, f"content coding {encoding!r} was not asked for")
    produced = 0
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, by its header

    def decode(chunk: bytes) -> Iterator[bytes]:
        nonlocal produced, inflater
        while chunk:
            try:
                piece = inflater.decompress(chunk, PIECE)
            except zlib.error as error:
                raise FetchError(FailureCode.DECODE, f"broken content coding {name}") from error
            produced += len(piece)
            if produced > limit:
                raise FetchError(FailureCode.BOMB, f"{name} expands beyond {limit} bytes")
            yield piece
            if inflater.eof:  # the next member of a concatenated gzip
                chunk = inflater.unused_data
                inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
            else:
                chunk = inflater.unconsumed_tail

    return decode


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
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - time.time())
