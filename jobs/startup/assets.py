"""Brings every pinned file to the driver, whatever its address; executors get it from there and ask nobody else.

An asset's `path` is one of

    weights.safetensors, /models/weights.safetensors, file:///models/weights.safetensors
    s3a://bucket/weights.safetensors        any file system that the cluster's Hadoop knows
    hf-hub:ORG/REPO[@REVISION][/FILE]       the Hugging Face hub; FILE is model.safetensors unless stated
    timm:resnet50.a1_in1k                   the hub repository that timm names for those weights

and its SHA-256 is stated beside it. What came from elsewhere is kept under its digest in a cache (`XDG_CACHE_HOME`, or
`~/.cache`, then `lensfeed`): it is fetched once, and a file that changed at its source is refused.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from jobs.config.errors import UsageError
from jobs.config.profile import Config
from jobs.startup.session import open_session
from schemas.settings import AssetSettings, Settings
from udfs.assets import assets_of, sha256_of

S = TypeVar("S", bound=Settings)

_HUB = re.compile(r"hf-hub:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>.+))?")
_HUB_FILE = "model.safetensors"


def local_assets(config: Config) -> Config:
    """The configuration with every asset's path on this machine; a job calls it before anything looks at an asset.

    Opens the session if a file has to come from a file system of Hadoop's. Raises as `brought`.
    """
    return brought(config, config)


def brought(settings: S, config: Config | None) -> S:
    """Any settings with every asset's path on this machine.

    `config` is the profile whose session reads the file systems of Hadoop; None for none. Raises UsageError for an
    address that cannot be read, and for a file that is not the pinned one; local paths are left as they are, unread.
    """
    remote = {place: asset for place, asset in assets_of(settings) if ":" in asset.path.partition("/")[0]}
    # The session takes its process off the hub (HF_HUB_OFFLINE), so what it has to read comes last.
    order = sorted(remote, key=lambda place: _scheme(remote[place].path) not in _WITHOUT_SESSION)
    return with_assets(settings, {place: _brought(place, remote[place], config) for place in order})


def with_assets(settings: S, changed: Mapping[str, AssetSettings], group: str = "") -> S:
    """The settings with the assets at these places (as `assets_of` names them) replaced."""

    def replaced(value: Any, place: str) -> Any:
        if isinstance(value, AssetSettings):
            return changed.get(place, value)
        if isinstance(value, Settings):
            return with_assets(value, changed, f"{place}.")
        if isinstance(value, tuple):
            return tuple(replaced(member, f"{place}.{index}") for index, member in enumerate(value))
        return value

    fields = {name: getattr(settings, name) for name in type(settings).model_fields}
    return settings.model_copy(update={name: replaced(value, f"{group}{name}") for name, value in fields.items()})


def _brought(place: str, asset: AssetSettings, config: Config | None) -> AssetSettings:
    local = on_this_machine(asset)
    if local is not None:
        return local
    scheme = _scheme(asset.path)
    kept = _cache() / asset.sha256 / _file_name(asset.path)
    if not (kept.is_file() and sha256_of(kept) == asset.sha256):
        bring: Callable[[str, Path], None] = _WITHOUT_SESSION.get(
            scheme, lambda address, into: _from_hadoop(config, address, into)
        )
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
                draft = Path(scratch) / kept.name
                bring(asset.path, draft)
                _accept(draft, kept, asset)
        except UsageError as error:
            raise UsageError(f"{place}: {error}") from None
        except Exception as error:  # noqa: BLE001 - whatever client or file system it was, it has its own errors
            reason = str(error).strip().split("\n")[0]
            raise UsageError(f"{place}: {asset.path} cannot be fetched: {type(error).__name__}: {reason}") from None
    return asset.model_copy(update={"path": str(kept)})


def on_this_machine(asset: AssetSettings) -> AssetSettings | None:
    """The asset with the path that its address (`file:///...`, or a path) names; None for one that is elsewhere."""
    if ":" not in asset.path.partition("/")[0]:
        return asset
    if _scheme(asset.path) == "file":
        return asset.model_copy(update={"path": unquote(urlsplit(asset.path).path)})
    return None


def _scheme(address: str) -> str:
    return address.partition(":")[0]


def _accept(draft: Path, kept: Path, asset: AssetSettings) -> None:
    found = sha256_of(draft)
    if found != asset.sha256:
        raise UsageError(f"{asset.path}: SHA-256 expected {asset.sha256}, found {found}")
    draft.replace(kept)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lensfeed"


def _file_name(address: str) -> str:
    hub = _HUB.fullmatch(address)
    if hub or address.startswith("timm:"):
        return PurePosixPath((hub and hub["file"]) or _HUB_FILE).name
    return PurePosixPath(urlsplit(address).path).name


def _from_hub(address: str, into: Path) -> None:
    parts = _HUB.fullmatch(address)
    if parts is None:
        raise UsageError(f"{address}: expected hf-hub:ORG/REPO, hf-hub:ORG/REPO/FILE or hf-hub:ORG/REPO@REVISION/FILE")
    from huggingface_hub import hf_hub_download

    found = hf_hub_download(parts["repository"], parts["file"] or _HUB_FILE, revision=parts["revision"])
    shutil.copyfile(found, into)


def _from_timm(address: str, into: Path) -> None:
    from timm.models import get_pretrained_cfg

    name = address.removeprefix("timm:")
    configuration = get_pretrained_cfg(name)
    if configuration is None or not configuration.hf_hub_id:
        raise UsageError(f"{address}: timm names no hub repository for {name}; give the weights' path or address")
    _from_hub(f"hf-hub:{configuration.hf_hub_id}", into)


def _from_hadoop(config: Config | None, address: str, into: Path) -> None:
    if config is None:
        raise UsageError(
            f"{address}: expected a profile whose Spark session reads {_scheme(address)}://, found none; "
            f"give one by --profile FILE"
        )
    copy_from_hadoop(open_session(config), address, into)


_WITHOUT_SESSION: dict[str, Callable[[str, Path], None]] = {"hf-hub": _from_hub, "timm": _from_timm}


def copy_from_hadoop(spark: SparkSession, address: str, into: Path) -> None:
    """Copy one file of any file system that Hadoop knows to a local path; OSError where that fails."""
    jvm: Any = spark._jvm  # pyspark offers no public way to Hadoop's FileSystem
    source, target = (jvm.org.apache.hadoop.fs.Path(path) for path in (address, into.as_uri()))
    try:
        files = source.getFileSystem(spark._jsc.hadoopConfiguration())
        files.copyToLocalFile(False, source, target, True)  # keep the source; leave no checksum file beside the copy
    except Py4JJavaError as error:
        raise OSError(error.java_exception.toString()) from None
