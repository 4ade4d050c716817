"""Files that a command was told to write: one that cannot be is refused before the work, and none is half there."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.config.errors import UsageError


def check_place(into: Path, option: str) -> None:
    """Raise UsageError, which names the option, where no file can be written there; makes the folders that it needs."""
    draft = _draft_of(into)
    try:
        found = into.stat().st_mode if into.exists() else None
        if found is not None and stat.S_ISDIR(found):
            raise UsageError(f"{option} {into}: expected a file, found a folder")
        if found is not None and not stat.S_ISREG(found):  # a new file would take the place of the device or pipe
            raise UsageError(f"{option} {into}: expected a file, found a device, pipe or socket")
        into.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise UsageError(f"{option} {into}: cannot be written ({error.filename}: {error.strerror})") from None
    except ValueError:  # NUL
        raise UsageError(f"{option} {into}: cannot be written (no file can have such a name)") from None


def check_folder(into: Path, option: str) -> None:
    """Raise UsageError, which names the option, where no files can be written in the folder, be it there or not yet."""
    place = into.absolute()
    try:
        nearest = next(path for path in (place, *place.parents) if path.exists())
    except OSError as error:
        raise UsageError(f"{option} {into}: cannot be written ({error.strerror})") from None
    if not nearest.is_dir():
        raise UsageError(f"{option} {into}: expected a folder, found the file {nearest}")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {into}: cannot be written ({nearest}: not writable)")


@contextmanager
def written_whole(into: Path) -> Iterator[Path]:
    """A path to write the file at: it takes its place when all went well, and leaves no trace where not."""
    into.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft_of(into)
    try:
        yield draft
        draft.replace(into)
    finally:
        draft.unlink(missing_ok=True)


def _draft_of(into: Path) -> Path:
    return into.with_name(f".{into.name}.{os.getpid()}")
