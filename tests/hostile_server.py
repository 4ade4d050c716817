"""A real HTTP server on loopback that does what hostile and broken servers do, and keeps count of who asked what.

Raw sockets on an event loop in a thread of its own: an HTTP library would refuse to send most of this. A handler gets
the `Request` and the stream to answer on; `HANDLERS` maps the first segment of a path to one.
"""

import asyncio
import gzip
import io
import ssl
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from itertools import pairwise
from typing import Self

from PIL import Image

PICTURE = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8 + b"\xff\xd9"
"""Stands for an image: the fetcher looks at no pixels."""

ETAG = '"v1"'


@dataclass(frozen=True)
class Request:
    """One request as it arrived. `local_address` is the address of ours that the client connected to."""

    method: str
    path: str
    headers: dict[str, str]
    local_address: str
    count: int
    """How many requests for this host and path there have been, this one included."""

    @property
    def host(self) -> str:
        return self.headers.get("host", "").rpartition(":")[0]


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class HostileServer:
    """Listens on several loopback addresses under one port. Use as a context manager."""

    robots: dict[str, Handler] = field(default_factory=dict)
    """Handlers of /robots.txt by host; other hosts have none (404)."""
    tls: ssl.SSLContext | None = None
    addresses: tuple[str, ...] = ("127.0.0.1", "127.0.0.2")

    port: int = 0
    requests: list[tuple[float, Request]] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    most_at_once: Counter[str] = field(default_factory=Counter)
    _at_once: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Self:
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="hostile-server")
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def url(self, host: str, path: str) -> str:
        """The URL of a path under a host name that the test's look-up sends here."""
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{host}:{self.port}/{path.lstrip('/')}"

    def requests_to(self, host: str, *, robots: bool = False) -> list[tuple[float, Request]]:
        """Arrivals (monotonic seconds) at a host, in order."""
        return [
            (at, request)
            for at, request in self.requests
            if request.host == host and (robots or request.path != "/robots.txt")
        ]

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        first, *others = self.addresses
        servers = [await asyncio.start_server(self._serve, first, 0, ssl=self.tls)]
        self.port = servers[0].sockets[0].getsockname()[1]
        servers += [await asyncio.start_server(self._serve, other, self.port, ssl=self.tls) for other in others]
        self._ready.set()
        await self._stop.wait()
        for server in servers:
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await self._read(reader, writer):
                with self._counted(request.host):
                    await self._handler(request)(request, writer)
                    await writer.drain()
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
        host = headers.get("host", "").rpartition(":")[0]
        self.counts[host, path] += 1
        request = Request(method, path, headers, writer.get_extra_info("sockname")[0], self.counts[host, path])
        self.requests.append((time.monotonic(), request))
        return request

    @contextmanager
    def _counted(self, host: str) -> Iterator[None]:
        self._at_once[host] += 1
        self.most_at_once[host] = max(self.most_at_once[host], self._at_once[host])
        try:
            yield
        finally:
            self._at_once[host] -= 1

    def _handler(self, request: Request) -> Handler:
        if request.path == "/robots.txt":
            return self.robots.get(request.host, answer(404))
        return HANDLERS.get(request.path.split("/")[1].partition("?")[0], answer(404))


def answer(
    status: int = 200,
    body: bytes = b"",
    *headers: str,
    content_type: str | None = "image/jpeg",
    length: int | None = None,
) -> Handler:
    """Answers at once; `headers` are whole lines, `length` overrides the true Content-Length."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body) if length is None else length}", *headers]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def handle(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head + body)
        if length is not None:
            await close(writer)

    return handle


def in_pieces(data: bytes, *cuts: int) -> Handler:
    """Sends bytes in parts that end at such places, and closes."""

    async def handle(_: Request, writer: asyncio.StreamWriter) -> None:
        for start, end in pairwise([0, *cuts, len(data)]):
            writer.write(data[start:end])
            await writer.drain()
            await asyncio.sleep(0.02)
        await close(writer)

    return handle


async def close(writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    writer.close()


def raw(data: bytes) -> Handler:
    """Sends bytes as they are, and closes."""

    async def handle(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await close(writer)

    return handle


def redirect(location: str, status: int = 302) -> Handler:
    return answer(status, b"", f"Location: {location}")


def heals(before: Handler, after: int = 1) -> Handler:
    """Answers with `before` the first `after` times, then with the picture."""
    healed = answer(200, PICTURE)

    async def handle(request: Request, writer: asyncio.StreamWriter) -> None:
        await (before if request.count <= after else healed)(request, writer)

    return handle


def slow(seconds: float, then: Handler) -> Handler:
    async def handle(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await then(request, writer)

    return handle


def endless(head: bytes, piece: bytes, pause_s: float = 0.0) -> Handler:
    """Sends `head`, then `piece` for ever."""

    async def handle(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return handle


async def chain(request: Request, writer: asyncio.StreamWriter) -> None:
    """/chain/N redirects to /chain/N-1; /chain/0 is the picture."""
    left = int(request.path.rsplit("/", 1)[1])
    await (redirect(f"/chain/{left - 1}") if left else answer(200, PICTURE))(request, writer)


async def onward(request: Request, writer: asyncio.StreamWriter) -> None:
    """/onward/HOST/PATH redirects to that path of that host, on this port."""
    _, _, host, path = request.path.split("/", 3)
    port = request.headers["host"].rpartition(":")[2]
    await redirect(f"http://{host}:{port}/{path}")(request, writer)


async def reset(_: Request, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def conditional(request: Request, writer: asyncio.StreamWriter) -> None:
    """304 for the current validator, the picture for another or none."""
    unchanged = request.headers.get("if-none-match") == ETAG
    reply = answer(304, b"", f"ETag: {ETAG}") if unchanged else answer(200, PICTURE, f"ETag: {ETAG}")
    await reply(request, writer)


async def conditional_terse(request: Request, writer: asyncio.StreamWriter) -> None:
    """304 that repeats no validator, for a date as for an ETag."""
    asked = "if-none-match" in request.headers or "if-modified-since" in request.headers
    await (answer(304) if asked else answer(200, PICTURE, f"ETag: {ETAG}"))(request, writer)


async def retry_after_date(request: Request, writer: asyncio.StreamWriter) -> None:
    await heals(answer(429, b"", f"Retry-After: {formatdate(time.time() + 1, usegmt=True)}"))(request, writer)


async def cookie(request: Request, writer: asyncio.StreamWriter) -> None:
    """Sets a cookie and redirects; whoever sends it back is told 403."""
    if "cookie" in request.headers:
        await answer(403)(request, writer)
    elif request.path.endswith("/landed"):
        await answer(200, PICTURE)(request, writer)
    else:
        await answer(302, b"", "Set-Cookie: id=1; Path=/", "Location: /cookie/landed")(request, writer)


def _zeros(compressor: "zlib._Compress", mib: int) -> bytes:
    block = bytes(2**20)
    return b"".join(compressor.compress(block) for _ in range(mib)) + compressor.flush()


def _real(image_format: str, frames: int = 1) -> bytes:
    """A small real image, of so many different frames."""
    first, *others = (Image.new("L", (96, 96), number % 256) for number in range(frames))
    buffer = io.BytesIO()
    first.save(buffer, image_format, **({"save_all": True, "append_images": others} if others else {}))
    return buffer.getvalue()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims this size and holds next to no pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


GZIP_BOMB = _zeros(zlib.compressobj(9, wbits=31), 64)
DEFLATE_BOMB = _zeros(zlib.compressobj(9), 64)
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"

HANDLERS: dict[str, Handler] = {
    "picture": answer(200, PICTURE, f"ETag: {ETAG}", "Last-Modified: Mon, 02 Nov 2026 00:00:00 GMT"),
    "slow-picture": slow(0.03, answer(200, PICTURE)),
    "untyped": answer(200, PICTURE, content_type=None),
    "octets": answer(200, PICTURE, content_type="application/octet-stream"),
    "until-close": raw(b"HTTP/1.0 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + PICTURE),
    "gzipped": answer(200, gzip.compress(PICTURE), "Content-Encoding: gzip"),
    "conditional": conditional,
    "conditional-terse": conditional_terse,
    "cookie": cookie,
    "chain": chain,
    "onward": onward,
    # bodies without end or measure
    "endless-chunks": endless(CHUNKED, b"10000\r\n" + bytes(65536) + b"\r\n"),
    "endless-body": endless(PLAIN + b"\r\n", bytes(65536)),
    "declared-large": answer(200, b"x", length=10**12),
    "gzip-bomb": answer(200, GZIP_BOMB, "Content-Encoding: gzip"),
    "deflate-bomb": answer(200, DEFLATE_BOMB, "Content-Encoding: deflate"),
    "brotli": answer(200, b"\x0b\x02\x80abc", "Content-Encoding: br"),
    "raw-deflate": answer(200, zlib.compress(PICTURE)[2:-4], "Content-Encoding: deflate"),
    "listed-gzip": answer(200, gzip.compress(PICTURE), "Content-Encoding: identity, gzip"),
    "twice-gzipped": answer(
        200, gzip.compress(gzip.compress(PICTURE)), "Content-Encoding: gzip", "Content-Encoding: gzip"
    ),
    "no-coding": answer(200, PICTURE, "Content-Encoding: UTF-8"),
    "padded-gzip": answer(200, gzip.compress(PICTURE) + bytes(512), "Content-Encoding: gzip"),
    "cut-gzip": answer(200, gzip.compress(PICTURE)[:-4], "Content-Encoding: gzip"),
    "broken-gzip": answer(200, b"\x1f\x8b\x08" + bytes(64), "Content-Encoding: gzip"),
    # too slow
    "silent": slow(60, answer(200, PICTURE)),
    "slow-header": endless(PLAIN, b"X-Slow: 1\r\n", pause_s=0.1),
    "slow-body": endless(PLAIN + b"Content-Length: 100000\r\n\r\n", b"x", pause_s=0.05),
    "stalled-body": endless(PLAIN + b"Content-Length: 100000\r\n\r\n" + bytes(4096), b"", pause_s=0.05),
    "continue-flood": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause_s=0.001),
    "continue-torrent": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000),
    # broken HTTP
    "empty": answer(200, b""),
    "short-body": answer(200, PICTURE, length=len(PICTURE) + 100),
    "long-body": answer(200, PICTURE, length=100),
    "short-chunks": raw(CHUNKED + b"10\r\n0123456789"),
    "garbage-chunks": raw(CHUNKED + b"zzzz\r\nnot a chunk\r\n"),
    "garbage": raw(b"\x00\xff\x13 this is not HTTP\r\n\r\n"),
    "reset": reset,
    "hang-up": raw(b""),
    "non-ascii-header": raw(
        PLAIN + b'X-Name: \xe4\xf6\xfc\xff\r\nETag: "\xe9"\r\n' + b"Content-Length: %d\r\n\r\n" % len(PICTURE) + PICTURE
    ),
    "large-field": answer(200, PICTURE, "Content-Security-Policy: " + "a" * 60_000),
    "large-fields": answer(200, PICTURE, *(f"X-{i}: " + "a" * 8000 for i in range(30))),
    "fields-in-pieces": in_pieces(PLAIN + b"\r\n" + PICTURE, 1, 6, len(PLAIN) - 1, len(PLAIN), len(PLAIN) + 1),
    "lengths": answer(
        200, PICTURE, f"Content-Length: {len(PICTURE)}", f"Content-Length: {len(PICTURE)}, {len(PICTURE)}"
    ),
    "lengthy-chunks": raw(CHUNKED[:-2] + b"Content-Length: 9\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(PICTURE), PICTURE)),
    "no-framing": answer(200, PICTURE, "Transfer-Encoding: identity"),
    "no-fields": answer(200, PICTURE, "no colon", ": no name", "no token: x", "\xe9: x\r\n\tand more", "X-Apart : x"),
    "two-lengths": answer(200, PICTURE, f"Content-Length: {len(PICTURE) - 1}"),
    "types": answer(200, PICTURE, "Content-Type: image/jpeg", content_type="image/jpeg"),
    "typed-as-nothing": answer(200, PICTURE, content_type="application/force-download"),
    "early-hints": raw(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + PLAIN + b"\r\n" + PICTURE),
    "transformed": answer(203, PICTURE),
    "heads-too-large": answer(200, PICTURE, *(f"X-{i}: " + "a" * 9000 for i in range(30))),
    "huge-header": raw(PLAIN + b"X-Huge: " + b"a" * 2**20 + b"\r\n\r\n"),
    "many-headers": raw(PLAIN + b"".join(b"X-%d: 1\r\n" % i for i in range(20_000)) + b"\r\n"),
    "endless-headers": endless(PLAIN, b"X-More: 1\r\n" * 1000),
    # whole responses, whose bodies are for the decoder to refuse
    "real": answer(200, _real("JPEG")),
    "png-bomb": answer(200, _png_header(50_000, 50_000), content_type="image/png"),
    "thousand-frames": answer(200, _real("GIF", 1000), content_type="image/gif"),
    "jpeg-as-png": answer(200, _real("JPEG"), content_type="image/png"),
    "cut-jpeg": answer(200, _real("JPEG")[:-40]),
    "tiff": answer(200, _real("TIFF"), content_type="image/tiff"),
    "svg-as-jpeg": answer(200, b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    # statuses
    "missing": answer(404),
    "gone": answer(410),
    "forbidden": answer(403),
    "no-content": answer(204),
    "no-content-but-body": answer(204, PICTURE),
    "partial": answer(206, PICTURE),
    "unasked-304": answer(304),
    "switching": answer(101),
    "no-location": answer(302),
    "error": answer(500),
    "heals": heals(answer(503)),
    "limited": answer(429),
    "limited-seconds": heals(answer(429, b"", "Retry-After: 1")),
    "limited-date": retry_after_date,
    "limited-long": answer(429, b"", "Retry-After: 86400"),
    # redirects
    "loop": redirect("/loop"),
    "to-metadata": redirect("http://169.254.169.254/latest/meta-data/"),
    "to-file": redirect("file:///etc/passwd"),
    "to-mapped": redirect("http://[::ffff:127.0.0.1]/x"),
    "to-decimal": redirect("http://2852039166/latest"),
    "to-octal": redirect("http://0251.0376.0251.0376/latest"),
    "to-hex": redirect("http://0xa9fea9fe/latest"),
    "to-private": redirect("http://10.0.0.1/"),
    "to-unspecified": redirect("http://0.0.0.0/"),
    "to-nat64": redirect("http://[64:ff9b::7f00:1]/"),
    "to-credentials": redirect("http://user:secret@a.example/"),
    "past-credentials": redirect("/picture?next=http://user:secret@a.example/"),
    "to-nowhere": redirect("http://[half"),
    "to-script": redirect("javascript:alert(1)"),
    # types and opt-outs
    "html": answer(200, b"<html>", content_type="text/html; charset=utf-8"),
    "html-as-jpeg": answer(200, b"<html>"),
    "json": answer(200, b"{}", content_type="application/json"),
    "svg": answer(200, b"<svg/>", content_type="image/svg+xml"),
    "noai": answer(200, PICTURE, "X-Robots-Tag: noai"),
    "noai-second": answer(200, PICTURE, "X-Robots-Tag: nofollow", "x-robots-tag: max-snippet: 5, NoImageAI"),
    "noai-other": answer(200, PICTURE, "X-Robots-Tag: otherbot: noai, noimageai"),
    "noai-ours": answer(200, PICTURE, "X-Robots-Tag: otherbot: nofollow, LensFeed: noai"),
    "noai-apart": answer(200, PICTURE, "X-Robots-Tag : noai"),
    "noai-302": answer(302, b"", "X-Robots-Tag: noai", "Location: /picture"),
    "noai-endless": endless(CHUNKED.replace(b"\r\n\r\n", b"\r\nX-Robots-Tag: noai\r\n\r\n"), b"1\r\nx\r\n"),
    "tdm": answer(200, PICTURE, "TDM-Reservation: 1", "TDM-Policy: https://a.example/policy.json"),
    "tdm-0": answer(200, PICTURE, "TDM-Reservation: 0"),
}
