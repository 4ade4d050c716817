"""The one place that reads configuration: YAML profile, then `--set key.path=value`, validated, frozen, digested.

Relative paths in a profile are relative to the working directory, as on every command line. Unknown keys are refused
with the nearest known one named; every error is a `UsageError` of one line.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from jobs.errors import UsageError
from schemas.policy import Policy
from schemas.settings import (
    AssetSettings,
    CrawlSettings,
    DedupSettings,
    EmbeddingSettings,
    ImageSettings,
    Settings,
    TextSettings,
)

M = TypeVar("M", bound=BaseModel)

ManifestFormat = Literal["auto", "parquet", "jsonl", "csv", "delta", "text"]


class ManifestSettings(Settings):
    """Where a date's manifest lies; `{date}` in the path is replaced by the date (YYYY-MM-DD)."""

    path: str = Field(min_length=1)
    format: ManifestFormat = "auto"
    """`auto` goes by the names of the files."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our name -> the manifest's name, where they differ."""


class PolicySettings(Settings):
    """The policy file and the detector it relies on."""

    file: str
    detector: AssetSettings
    batch_size: int = Field(default=16, ge=1)


class SparkSettings(Settings):
    """How the session is opened; `properties` are passed on as they are."""

    master: str = "local[2]"
    app_name: str = "lensfeed"
    jars: str | None = None
    """Folder of jars (Delta's) to start from; null where spark-submit brings them."""
    crawl_tasks: int = Field(default=2, ge=1)
    """Partitions of the crawl; a host belongs to one of them."""
    embed_tasks: int = Field(default=2, ge=1)
    properties: dict[str, str] = Field(default_factory=dict)


class RunSettings(Settings):
    """The ledger's own."""

    lease_ttl_s: float = Field(default=120, gt=0)
    """A lease whose holder has not renewed it for this long may be taken over."""
    keep_staging: bool = False
    """Keep a published run's staging folder, for looking into."""


class Config(Settings):
    """The whole effective configuration of a job."""

    warehouse: str = Field(min_length=1)
    manifest: ManifestSettings
    crawl: CrawlSettings
    images: ImageSettings = ImageSettings()
    policy: PolicySettings
    embedding: EmbeddingSettings
    text: TextSettings
    dedup: DedupSettings = DedupSettings()
    spark: SparkSettings = SparkSettings()
    run: RunSettings = RunSettings()

    def contents_digest(self) -> str:
        """Digest of what decides a warehouse's contents: where it runs and where it lies is left out."""
        data = self.model_dump(mode="json")
        for key in ("warehouse", "spark", "run"):
            del data[key]
        data["policy"].pop("file")
        for key in ("policy", "embedding", "text"):
            asset = data[key].get("weights") or data[key].get("detector")
            asset.pop("path")
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def load(profile: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration of `profile` (a path) with `key.path=value` overrides (values are YAML) on top.

    Raises UsageError for a missing or unreadable file, an unknown key, a value of the wrong type.
    """
    data = _read_yaml(profile, "profile")
    for override in overrides:
        _apply_override(data, override)
    return _validate(Config, data, profile)


def load_policy(settings: PolicySettings) -> Policy:
    """The policy named by the configuration; UsageError as in `load`."""
    return _validate(Policy, _read_yaml(settings.file, "policy file"), settings.file)


def _read_yaml(path: str, what: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{what} {path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} {path}: not UTF-8 text (byte {error.start})") from None
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "malformed"
        raise UsageError(f"{what} {path}: not valid YAML{where}: {problem}") from None
    if not isinstance(data, dict):
        raise UsageError(f"{what} {path}: expected a mapping of settings, found {type(data).__name__}")
    return data


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, raw = override.partition("=")
    if not separator or not key:
        raise UsageError(f"--set {override}: expected key.path=value, for example crawl.retries=5")
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError:
        raise UsageError(f"--set {override}: the value is not valid YAML") from None
    *parents, last = key.split(".")
    node = data
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UsageError(f"--set {override}: {parent} is not a group of settings")
        node = child
    node[last] = value


def _validate(model: type[M], data: Mapping[str, Any], source: str) -> M:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{source}: {_explain(model, first)}") from None


def _explain(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    location = error["loc"]
    name = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.4)
        hint = f"; did you mean {'.'.join([*map(str, location[:-1]), near[0]])}?" if near else ""
        return f"unknown key {name}{hint}"
    if error["type"] == "missing":
        return f"{name} is required and is not set"
    found = "" if isinstance(error.get("input"), dict) else f" (found {error.get('input')!r})"
    return f"{name or 'the file'}: {error['msg']}{found}"


def _known_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Keys that the model knows at the group named by `location`; empty where that is no settings group."""
    current: Any = model
    for part in location:
        if isinstance(part, int) or not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        info = current.model_fields.get(part)
        current = info.annotation if info else None
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []
