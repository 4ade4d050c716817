"""Files on an object store, opened by delta-rs for Arrow, and a process that ends only when Arrow has let go of them.

Arrow reads such files through Python objects. A thread of Arrow's that still lets go of one while the interpreter
finalises wants its lock, is ended for that, and takes the process with it ("terminate called without an active
exception"). So an exit waits for them.
"""

import atexit
import time
import weakref
from typing import Any

import pyarrow as pa
from deltalake.fs import DeltaStorageHandler
from pyarrow import fs

MOST_S = 1.0
"""How long an exit waits: whoever still holds a file open himself is not waited for."""

_PAUSE_S = 0.001

_open: "weakref.WeakSet[_File]" = weakref.WeakSet()


def remote_filesystem(uri: str, options: dict[str, str] | None) -> fs.FileSystem:
    """The file system whose root is the folder at a URI, spelt and with options as delta-rs wants them."""
    return fs.PyFileSystem(_Handler(uri, options))


class _File:
    """What delta-rs opened; unlike that, it can be watched."""

    def __init__(self, file: Any) -> None:
        self._file = file
        _open.add(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Handler(DeltaStorageHandler):
    def open_input_file(self, path: str) -> pa.PythonFile:
        """A file of the table, as Arrow reads it."""
        return pa.PythonFile(_File(self._handler.open_input_file(path)))


@atexit.register
def _wait_for_files() -> None:
    """Let Arrow's threads have the interpreter until they hold no file."""
    until = time.monotonic() + MOST_S
    while len(_open) and time.monotonic() < until:
        time.sleep(_PAUSE_S)
