"""Pins: who is going to read a snapshot for long says so, and maintenance leaves its files alone until then.

A pin is a small file of the warehouse, in `_pins`. It holds back `jobs.maintain` and nothing else: what a block or a
takedown takes out leaves the disk at once, whoever reads it.
"""

import datetime as dt
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from numbers import Real
from typing import Self

from pyarrow import fs

from lensfeed.snapshot import Snapshot, SnapshotError

FOLDER = "_pins"
MOST_HOURS = 30 * 24.0
"""A pin that somebody has forgotten must not hold files for ever, and the tables' logs tell of versions no longer."""

_DRAFT = re.compile(r"\..*-[0-9a-f]{8}\.json")
_ABANDONED = dt.timedelta(days=1)
"""A pin is written at once, nor is a file server's clock so far from ours."""


@dataclass(frozen=True)
class Pin:
    """Somebody reads a published run until some time."""

    run_id: str
    published_at: dt.datetime
    """When the run was published: what was live then is kept."""
    by: str
    """Who reads, in words."""
    until: dt.datetime

    def as_json(self) -> str:
        """The file's text."""
        at = {"published_at": self.published_at.isoformat(), "until": self.until.isoformat()}
        return json.dumps({"run_id": self.run_id, "by": self.by, **at})

    @classmethod
    def of_json(cls, text: str) -> Self:
        """A file's text -> the pin. Raises ValueError where it is none."""
        try:
            given = json.loads(text)
            times = [dt.datetime.fromisoformat(given[name]) for name in ("published_at", "until")]
            pin = cls(str(given["run_id"]), times[0], str(given["by"]), times[1])
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"expected run_id, by, published_at and until, found {text[:200]!r}") from error
        if any(time.tzinfo is None for time in times):
            raise ValueError(f"expected times with their zones, found {text[:200]!r}")
        return pin


@contextmanager
def pinned(snapshot: Snapshot, *, by: str, hours: float) -> Iterator[Pin]:
    """Keep the files of a snapshot while the block runs, and for `hours` at most, should it never end.

    To be entered right after the snapshot was opened: maintenance that is under way does not look again. Raises
    SnapshotError where `hours` are none or more than `MOST_HOURS`, or the warehouse cannot be written to.
    """
    if not isinstance(hours, Real) or isinstance(hours, bool):
        raise SnapshotError(f"hours: expected a number, found {hours!r}")
    if not 0 < hours <= MOST_HOURS:
        raise SnapshotError(f"hours: expected more than 0 and at most {MOST_HOURS:g}, found {hours:g}")
    until = dt.datetime.now(dt.UTC) + dt.timedelta(hours=float(hours))  # numpy's are none to it
    pin = Pin(snapshot.run_id, snapshot.published_at, by, until)
    name = f"{snapshot.run_id}-{uuid.uuid4().hex[:8]}.json"
    filesystem = snapshot.filesystem("")
    try:
        filesystem.create_dir(FOLDER)
        _sweep(filesystem)
        _write(filesystem, name, pin.as_json().encode())
    except OSError as error:
        raise SnapshotError(f"{snapshot.warehouse} cannot be written to, and nothing pinned in it: {error}") from error
    try:
        yield pin
    finally:
        # Its time may be over, and maintenance have come by. A storage that fails must not hide what came of the block.
        with suppress(OSError):
            filesystem.delete_file(f"{FOLDER}/{name}")


def _write(filesystem: fs.FileSystem, name: str, data: bytes) -> None:
    """Whoever lists pins sees a whole one or none; object stores see to that themselves."""
    if isinstance(filesystem, fs.PyFileSystem):
        # Past Arrow, which hands buffers on to delta-rs's stream: that takes nothing but bytes.
        file = filesystem.handler._handler.open_output_stream(f"{FOLDER}/{name}")
        file.write(data)
        file.close()
        return
    try:
        with filesystem.open_output_stream(f"{FOLDER}/.{name}") as file:
            file.write(data)
        filesystem.move(f"{FOLDER}/.{name}", f"{FOLDER}/{name}")
    except OSError:
        with suppress(OSError):
            filesystem.delete_file(f"{FOLDER}/.{name}")
        raise


def _sweep(filesystem: fs.FileSystem) -> None:
    """Take away the drafts of pins whose processes were killed at them; object stores have none."""
    if isinstance(filesystem, fs.PyFileSystem):
        return
    before = dt.datetime.now(dt.UTC) - _ABANDONED
    with suppress(OSError):  # another pin takes it away, too, or it is not ours to delete
        for found in filesystem.get_file_info(fs.FileSelector(FOLDER)):
            if found.is_file and _DRAFT.fullmatch(found.base_name) and found.mtime < before:
                filesystem.delete_file(f"{FOLDER}/{found.base_name}")
