"""A real web server for the demo and the end-to-end tests: real pictures, and every way the web goes wrong.

It listens on loopback only, counts what it is asked, and answers by `Site.date`, which stands for the day on which a
night's crawl comes along: contents change at a URL, pages go away, consent is withdrawn.
"""

import datetime as dt
import hashlib
import mimetypes
import os
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, unquote_to_bytes

from demo.pictures import ORIGINAL, Picture
from schemas.outcomes import FailureCode, Outcome

DATES = (dt.date(2026, 1, 29), dt.date(2026, 1, 30), dt.date(2026, 1, 31))
"""The demo's three nights."""

HOSTS = ("127.0.0.1", "127.0.0.2")
"""Two, since a host belongs to one task of the crawl. Where loopback has one address only, the first serves alone."""

SLOW_S = 1.0
ROBOTS = b"User-agent: *\nDisallow: /private/\n"
HTML = b"<!doctype html><title>Sorry</title><p>This picture is shown on our own pages only.</p>"
BOMB_SIDE = 50_000
"""Pixels: one bit each they are 313 MB, which deflate packs into 300 kB."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response.

    Attributes:
        delay_s: seconds to wait before it.
        cut_after: bytes of the body after which the connection is closed although more were announced.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = "image/jpeg"
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    cut_after: int | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """What must become of a sighting.

    Attributes:
        reasons: reason codes of conf/policy.yaml; empty unless blocked or under review.
        picture: name of the picture whose whole bytes were fetched, whatever became of them; None for anything else.
    """

    outcome: Outcome
    failure_code: FailureCode | None = None
    reasons: tuple[str, ...] = ()
    picture: str | None = None


Responder = Callable[[dt.date, int], Answer]
"""(date, how often it was asked on that date, from 1) -> answer."""


@dataclass(frozen=True, slots=True)
class Page:
    """One path, how it answers, and what must become of a sound row that names it.

    Attributes:
        truth: the truth on a date.
        requests: how often a night's crawl asks for it; None where it tries as often as `crawl.retries` says.
    """

    path: str
    respond: Responder
    truth: Callable[[dt.date], Truth]
    requests: int | None = 1


def picture_page(picture: Picture, path: str | None = None) -> Page:
    """The page that simply shows a picture, under `/photos/` unless told otherwise."""
    shown = show(picture)
    return Page(path or f"/photos/{picture.file_name}", lambda *_: shown, lambda _: accepted(picture))


def show(picture: Picture) -> Answer:
    """The response that a well-behaved server gives for a picture."""
    return Answer(body=picture.data, content_type=picture.content_type)


def accepted(picture: Picture) -> Truth:
    """The truth of a row that shows the picture."""
    return Truth(Outcome.ACCEPTED, picture=picture.name)


def failed(code: FailureCode) -> Truth:
    """The truth of a row without a picture."""
    return Truth(Outcome.FAILED, code)


@dataclass(frozen=True, slots=True)
class Cast:
    """The pictures by the part they play.

    Attributes:
        ordinary: originals and variants shown by `picture_page` alone.
        reserved: originals without variants, for pages and rows with which something is amiss.
    """

    ordinary: tuple[Picture, ...]
    reserved: tuple[Picture, ...]


RESERVED = 14


def cast(pictures: Sequence[Picture]) -> Cast:
    """Give out the parts. Raises ValueError when fewer than `RESERVED` originals have no variants."""
    copied = {picture.original for picture in pictures if picture.variant != ORIGINAL}
    single = [picture for picture in pictures if picture.name not in copied and picture.variant == ORIGINAL]
    if len(single) < RESERVED:
        raise ValueError(f"the demo needs {RESERVED} originals without variants, but there are {len(single)}")
    reserved = tuple(single[:RESERVED])
    return Cast(tuple(picture for picture in pictures if picture not in reserved), reserved)


def misbehaving_pages(reserved: Sequence[Picture]) -> list[Page]:
    """Pages that fail, heal, lie, move, change or go away; they take the first of the reserved pictures."""
    healed, slow, moved, before, after, left, withdrawn, spare, *_ = reserved
    changed_on, withdrawn_on, left_on = DATES[1], DATES[1], DATES[2]
    plain = show(spare)
    gone, opted_out = failed(FailureCode.GONE), failed(FailureCode.OPT_OUT)
    refused = replace(plain, headers=(("X-Robots-Tag", "noai"),))

    def chain(step: int) -> Page:
        onward = Answer(302, headers=(("Location", f"/moved/{step - 1}.jpg"),))
        return Page(f"/moved/{step}.jpg", lambda *_: onward if step else show(moved), lambda _: accepted(moved))

    def always(path: str, answer: Answer, truth: Truth, requests: int | None = 1) -> Page:
        return Page(path, lambda *_: answer, lambda _: truth, requests)

    half = len(spare.data) // 2
    to_blocked = Answer(302, headers=(("Location", "http://blocked.example/picture.jpg"),))
    to_itself = Answer(302, headers=(("Location", "/loop.jpg"),))
    return [
        always("/missing.jpg", Answer(404, b"not here", "text/plain"), gone),
        always("/forbidden.jpg", Answer(403, b"not for you", "text/plain"), failed(FailureCode.HTTP_4XX)),
        Page("/heals.jpg", lambda _, count: show(healed) if count > 1 else Answer(500), lambda _: accepted(healed), 2),
        always("/slow.jpg", replace(show(slow), delay_s=SLOW_S), accepted(slow)),
        always("/cut.jpg", replace(plain, cut_after=half), failed(FailureCode.CONNECT), None),
        always("/truncated.jpg", replace(plain, body=spare.data[:half]), failed(FailureCode.DECODE)),
        always("/html.jpg", Answer(body=HTML), failed(FailureCode.BAD_TYPE)),
        always("/bomb.png", Answer(body=bomb(), content_type="image/png"), failed(FailureCode.BOMB)),
        always("/noai.jpg", refused, opted_out),
        always("/private/picture.jpg", plain, failed(FailureCode.ROBOTS), 0),
        chain(3),
        always("/loop.jpg", to_itself, failed(FailureCode.TOO_MANY_REDIRECTS)),
        always("/elsewhere.jpg", to_blocked, Truth(Outcome.BLOCKED, reasons=("domain_blocked",))),
        Page(
            "/changes.jpg",
            lambda date, _: show(after if date >= changed_on else before),
            lambda date: accepted(after if date >= changed_on else before),
        ),
        Page(
            "/leaves.jpg",
            lambda date, _: Answer(410) if date >= left_on else show(left),
            lambda date: gone if date >= left_on else accepted(left),
        ),
        Page(
            "/withdraws.jpg",
            lambda date, _: refused if date >= withdrawn_on else show(withdrawn),
            lambda date: opted_out if date >= withdrawn_on else accepted(withdrawn),
        ),
        # Not in any manifest: where /moved/3.jpg leads.
        chain(2),
        chain(1),
        chain(0),
    ]


MISBEHAVING_PICTURES = 8
"""How many reserved pictures `misbehaving_pages` takes; the others are for rows with which something is amiss."""


@cache
def bomb() -> bytes:
    """A small PNG of `BOMB_SIDE` x `BOMB_SIDE` one-bit pixels, all black, that really unpacks to that."""
    packer = zlib.compressobj(9)
    row = bytes(1 + BOMB_SIDE // 8)
    rows = b"".join(packer.compress(row * 100) for _ in range(BOMB_SIDE // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


class Site:
    """A running server. Use as a context manager.

    Attributes:
        date: the day it is for the server; set it before each night.
        requests: requests so far by (date, URL), robots.txt included.
    """

    def __init__(self, responders: Mapping[str, Responder], port: int = 0) -> None:
        """Serve these paths (percent-encoded, without query) on `HOSTS`, as they are whenever asked; `port` 0 takes
        free ones.

        Raises OSError where the port is taken.
        """
        self.date = DATES[0]
        self.requests: Counter[tuple[dt.date, str]] = Counter()
        self._responders = responders
        self._lock = threading.Lock()
        self._servers = [_Server((HOSTS[0], port), self)]
        with suppress(OSError):
            self._servers += [_Server((host, port), self) for host in HOSTS[1:]]

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), name="demo-site", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def url(self, path: str, host: int = 0) -> str:
        """The URL of a path at one of the hosts (`host` counts them round and round)."""
        return f"{self._servers[host % len(self._servers)].origin}{path}"

    def requests_on(self, date: dt.date) -> dict[str, int]:
        """How often each URL was asked for on a date, robots.txt left out."""
        with self._lock:
            return {
                url: n for (day, url), n in self.requests.items() if day == date and not url.endswith("/robots.txt")
            }

    def answer(self, origin: str, path: str) -> Answer:
        """Count a request and say what it gets."""
        with self._lock:
            date = self.date
            self.requests[date, origin + path] += 1
            count = self.requests[date, origin + path]
        responder = self._responders.get(path) or (_robots if path == "/robots.txt" else None)
        return responder(date, count) if responder else Answer(404)


def demo_site(pictures: Sequence[Picture], port: int = 0) -> Site:
    """The demo's server: every picture under `/photos/`, and the misbehaving pages."""
    pages = [*(picture_page(picture) for picture in pictures), *misbehaving_pages(cast(pictures).reserved)]
    return Site({page.path: page.respond for page in pages}, port)


def folder_site(folder: Path, files: Sequence[Path], port: int = 0) -> Site:
    """A server of these files of a folder, read when asked for, under `folder_path`."""
    return Site({folder_path(folder, file): _file_responder(file) for file in files}, port)


def folder_path(folder: Path, file: Path) -> str:
    """The path of the URL under which `folder_site` shows a file."""
    return "/photos/" + quote(os.fsencode(file.relative_to(folder).as_posix()))


def _file_responder(file: Path) -> Responder:
    media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return lambda *_: Answer(body=file.read_bytes(), content_type=media_type)


def _robots(date: dt.date, count: int) -> Answer:
    del date, count
    return Answer(body=ROBOTS, content_type="text/plain")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], site: Site) -> None:
        super().__init__(address, _Handler)
        self.site = site
        self.origin = f"http://{address[0]}:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        """Answer one request as the site says."""
        answer = self.server.site.answer(self.server.origin, quote(unquote_to_bytes(self.path)))
        time.sleep(answer.delay_s)
        etag = f'"{hashlib.sha256(answer.body).hexdigest()[:32]}"'
        if answer.status == 200 and self.headers.get("If-None-Match") == etag:
            answer = replace(answer, status=304, body=b"")
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if answer.status in {200, 304}:
            self.send_header("ETag", etag)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body[: answer.cut_after])
        self.close_connection |= answer.cut_after is not None

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """The console belongs to the job's own lines."""
