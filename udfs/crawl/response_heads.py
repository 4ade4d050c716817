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
_INTERIM = re.compile(rb"HTTP/1\.\d 1(?!01)\d\d\s")


def forgiving_connector(**options: Any) -> aiohttp.TCPConnector:
    """A connector of the running loop whose connections read heads of `MAX_HEAD` bytes at most, and forgive what
    `put_right` puts right."""
    connector = aiohttp.TCPConnector(**options)
    connection: type[ResponseHandler] = _ForgivingHandler
    connector._factory = functools.partial(connection, loop=asyncio.get_running_loop())
    return connector


def put_right(head: bytes) -> bytes:
    """A head in which a Content-Length that is repeated with one value stands once (RFC 9110 section 8.6 allows that,
    aiohttp's parser does not). Different values stay as they are, and are refused."""
    fields = _LENGTHS.findall(head)
    values: set[bytes] = {value.strip() for field in fields for value in field.split(b",")}
    if len(values) != 1 or (len(fields) == 1 and b"," not in fields[0]):
        return head
    without = _LENGTHS.sub(b"", head)
    first_line, _, rest = without.partition(b"\n")
    return b"%s\nContent-Length: %s\r\n%s" % (first_line, values.pop(), rest)


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
                super().data_received(put_right(head) + rest)
                return
            super().data_received(head)  # such as 100 Continue: the response itself is yet to come
            begin = searched = found.end()
        # Taken off once, not with each of the interim responses: there may be thousands.
        del self._head[:begin]
        self._passed += begin
        if self._passed + len(self._head) > MAX_HEAD:
            self._refuse()
        elif not self._head.startswith(b"HTTP/"[: len(self._head)]):
            head, self._head = bytes(self._head), None
            super().data_received(head)  # which says what is wrong with it

    def _refuse(self) -> None:
        self._head = None
        if self.transport is not None:
            self.transport.close()
        self.set_exception(HttpProcessingError(message=f"a head of more than {MAX_HEAD} bytes"))
