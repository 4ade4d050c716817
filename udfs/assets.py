"""Finding a shipped file on an executor, and refusing it when it is not the file that was pinned."""

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from schemas.settings import AssetSettings, Settings


class AssetError(Exception):
    """A pinned file is missing or is another file. The message names it and says what to do."""


@functools.cache
def locate(settings: AssetSettings) -> Path:
    """The local file of an asset, its SHA-256 checked once per process.

    In a Spark task this is the copy that Spark shipped under `shipped_name`, where there is one; elsewhere
    `settings.path` itself. Raises AssetError when there is no such file, when it cannot be read, or when its digest is
    not `settings.sha256`.
    """
    path = _shipped(settings) or Path(settings.path)
    try:
        if not path.is_file():
            raise AssetError(f"{settings.path}: no such file; run `make setup`")
        found = sha256_of(path)
    except OSError as error:  # a folder or a file that is not for us, a name that is too long, a disk that fails
        raise AssetError(f"{settings.path}: cannot be read ({error.strerror or error})") from None
    if found != settings.sha256:
        raise AssetError(f"{path}: SHA-256 expected {settings.sha256}, found {found}; run `make setup`")
    return path


def shipped_name(settings: AssetSettings) -> str:
    """The name under which Spark carries the file: half the hub's files are called model.safetensors."""
    return f"{settings.sha256[:16]}-{PurePosixPath(settings.path).name}"


def assets_of(settings: Settings, group: str = "") -> Iterator[tuple[str, AssetSettings]]:
    """Every asset that the settings name, with its place in them: `policy.detectors.0.weights`."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        place = f"{group}{name}"
        members = {f"{place}.{index}": one for index, one in enumerate(value)} if isinstance(value, tuple) else {}
        for path, member in ({place: value} | members).items():
            if isinstance(member, AssetSettings):
                yield path, member
            elif isinstance(member, Settings):
                yield from assets_of(member, f"{path}.")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shipped(settings: AssetSettings) -> Path | None:
    try:
        from pyspark import SparkFiles, TaskContext
    except ModuleNotFoundError:  # a reader that embeds queries
        return None
    if TaskContext.get() is None:
        return None
    path = Path(SparkFiles.get(shipped_name(settings)))
    return path if path.is_file() else None
