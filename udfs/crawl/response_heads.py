"""What servers get wrong in the head of a response and browsers forgive, put right before aiohttp's parser sees it."""

import asyncio
import functools
import re
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

MAX_HEAD = 256 * 2**10
"""Bytes of a response's status line and fields together; Chrome's limit. Interim responses before it count, too."""

MAX_FIELDS = 1000

_END = re.compile(rb"\r?\n\r?\n")
_LENGTHS = re.compile(rb"^content-length[ \t]*:([^\r\n]*)\r?\n", re.IGNORECASE | re.MULTILINE)
_CODINGS = re.compile(rb"^transfer-encoding[ \t]*:([^\r\n]*)\r?\n", re.IGNORECASE | re.MULTILINE)
_STATUS_LINE = re.compile(rb"\s*HTTP/[^\n]*\n")
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_NO_FIELD = re.compile(rb"^(?!%s:|[ \t]|\r?$)[^\n]*\n(?:[ \t][^\n]*\n)*" % _TOKEN, re.MULTILINE)
"""A line that is no field, with the lines that continue it."""
_APART = re.compile(rb"(%s)[ \t]+:" % _TOKEN)
"""A name that is not followed by its colon at once."""
_INTERIM = re.compile(rb"HTTP/1\.\d 1(?!01)\d\d\s")
_BODILESS = re.compile(rb"\s*HTTP/1\.\d (204|304)\s")
"""Statuses that end with their head (RFC 9112 section 6.3)."""


def forgiving_connector(**options: Any) -> aiohttp.TCPConnector:
    """A connector of the running loop whose connections read heads of `MAX_HEAD` bytes at most, and forgive what
    `put_right` puts right."""
    connector = aiohttp.TCPConnector(**options)
    connection: type[ResponseHandler] = _ForgivingHandler
    connector._factory = functools.partial(connection, loop=asyncio.get_running_loop())
    return connector


def put_right(head: bytes) -> bytes:
    """A head without what browsers do not mind and aiohttp's parser refuses; it says the same.

    Lines that are no fields are left out, and so is white space before a colon. A Transfer-Encoding overrides a
    Content-Length (RFC 9112 section 6.3), unless it is none. A Content-Length that is repeated with one value stands
    once (RFC 9110 section 8.6); different values stay as they are, and are refused.
    """
    start = _STATUS_LINE.match(head)
    if start is None:
        return head
    status_line, fields = start[0], head[start.end() :]
    return status_line + _one_length(_one_framing(_NO_FIELD.sub(_field, fields)))


def _field(line: re.Match[bytes]) -> bytes:
    apart = _APART.match(line[0])
    return b"%s:%s" % (apart[1], line[0][apart.end() :]) if apart else b""


def _one_framing(fields: bytes) -> bytes:
    codings = _CODINGS.findall(fields)
    if not codings or not _LENGTHS.search(fields):
        return fields
    is_chunked = any(coding.strip().lower() == b"chunked" for given in codings for coding in given.split(b","))
    return (_LENGTHS if is_chunked else _CODINGS).sub(b"", fields)


def _one_length(fields: bytes) -> bytes:
    found = _LENGTHS.findall(fields)
    values: set[bytes] = {value.strip() for field in found for value in field.split(b",")}
    if len(values) != 1 or (len(found) == 1 and b"," not in found[0]):
        return fields
    return b"Content-Length: %s\r\n%s" % (values.pop(), _LENGTHS.sub(b"", fields))


class _ForgivingHandler(ResponseHandler):
    """Holds a head back until it is whole; a body passes through."""

    _head: bytearray | None = None
    """What has come of the head that is being read; null while a body is."""
    _passed = 0
    """Bytes of the interim responses before it."""

    def set_response_params(self, **params: Any) -> None:
        """A request was sent: a head comes next."""
        self._head, self._passed = bytearray(), 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._head is None or self._parser is None:
            if self._is_answered() and data:
                # Nobody has asked for it: whoever is next on this connection would take it for an answer.
                self._end()
            else:
                super().data_received(data)
            return
        searched = max(0, len(self._head) - 3)
        self._head += data
        begin, limit = 0, MAX_HEAD - self._passed
        while (found := _END.search(self._head, searched)) is not None and found.end() <= limit:
            head = bytes(self._head[begin : found.end()])
            if not _INTERIM.match(head):
                rest = bytes(self._head[found.end() :])
                self._head = None
                if rest and _BODILESS.match(head):
                    self.force_close()  # a body all the same, which is no response either
                    rest = b""
                super().data_received(put_right(head) + rest)
                return
            super().data_received(put_right(head))  # such as 100 Continue: the response itself is yet to come
            begin = searched = found.end()
        # Taken off once, not with each of the interim responses: there may be thousands.
        del self._head[:begin]
        self._passed += begin
        if self._passed + len(self._head) > MAX_HEAD:
            self._refuse()
        elif not self._head.startswith(b"HTTP/"[: len(self._head)]):
            head, self._head = bytes(self._head), None
            super().data_received(head)  # which says what is wrong with it

    def _is_answered(self) -> bool:
        """Whether the response has come whole: a connection that waits for its next request, mostly."""
        return not self._upgraded and self._parser is not None and self._payload is not None and self._payload.is_eof()

    def _end(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.close()

    def _refuse(self) -> None:
        self._head = None
        self._end()
        self.set_exception(HttpProcessingError(message=f"a head of more than {MAX_HEAD} bytes"))
