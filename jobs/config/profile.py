"""The one place that reads configuration: YAML profile, then `--set key.path=value`, validated, frozen, digested.

A profile may say `extends: FILE`, relative to its own folder: it then holds only what differs. Groups are merged key by
key, but a group that names a `model` stands for itself: the rest of it would describe another model. Other relative
paths in a profile are relative to the working directory, as on every command line. Unknown keys are refused with the
nearest known one named; every error is a `UsageError` of one line.
"""

import difflib
import hashlib
import json
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from jobs.config.errors import UsageError, printable
from schemas.policy import LIST_FIELDS, AnyRule, CombinedRule, Policy, TextRule, TextTest, UrlRule
from schemas.settings import (
    CrawlSettings,
    DedupSettings,
    EmbeddingSettings,
    Expectation,
    GateSettings,
    ImageSettings,
    Settings,
    TextSettings,
)
from udfs.gate.patterns import PatternError, comparable_word, compiled
from udfs.urls import BadUrl, normalise_url

M = TypeVar("M", bound=BaseModel)
_Path = tuple[str | int, ...]
"""Keys and indices, from the top of a file down to one of its settings."""

_EXTENDS, _MODEL = "extends", "model"
_DISCRIMINATOR = "kind"
"""The key by which one of several groups is told from the others, in every union of groups."""
_SHOWN = 80
"""Characters of a wrong value that an error shows."""
_BRIEF = reprlib.Repr()
"""Of what anchors share a file of a page can say more than memory holds: what is beyond `_SHOWN` is left out unseen."""
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 3 * _SHOWN
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxset = _BRIEF.maxdict = _SHOWN
_BRIEF.maxlevel = 3
_MERGE, _MOST_MERGED = "tag:yaml.org,2002:merge", 100_000
_NULL = frozenset({"", "null", "~"})
"""What an override says for null where the setting may be null."""
_SCALARS = frozenset({"string", "integer", "number", "boolean"})
_WHOLE = re.compile("[+-]?[0-9]{1,30}")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})([eE][+-]?[0-9]{1,3})?")
_LIST_COMMENT = re.compile(r"(^|\s)#.*")
_MISTAGGED = (LookupError, AttributeError)
"""What PyYAML raises for a value that is not what its tag says (`!!bool maybe`)."""

ManifestFormat = Literal["auto", "parquet", "jsonl", "csv", "delta", "text"]


class ManifestSettings(Settings):
    """Where a date's manifest lies; `{date}` in the path is replaced by the date (YYYY-MM-DD)."""

    path: str = Field(min_length=1)
    """A file, a folder, or a Delta table."""
    format: ManifestFormat = "auto"
    """`auto` goes by the names of the files."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our name -> the manifest's name, where they differ."""


class SparkSettings(Settings):
    """How the session is opened; `properties` are passed on as they are."""

    master: str = "local[2]"
    """As Spark spells it; spark-submit's own `--master` wins."""
    app_name: str = "lensfeed"
    """What Spark shows."""
    jars: str | None = None
    """Folder of jars (Delta's) to start from; null where spark-submit brings them."""
    class_archive: str | None = None
    """Class-data archive of a local session's JVM (jobs.install.class_archive); passed over where there is no such
    file."""
    crawl_tasks: int = Field(default=2, ge=1)
    """Partitions of the crawl; a host belongs to one of them."""
    embed_tasks: int = Field(default=2, ge=1)
    """Partitions of the images to embed."""
    text_tasks: int = Field(default=1, ge=1)
    """Partitions of the texts to embed, which cost a fifth of an image each."""
    properties: dict[str, str] = Field(default_factory=dict)
    """Any property of Spark's, its value a text."""


class RunSettings(Settings):
    """The ledger's own."""

    lease_ttl_s: float = Field(default=120, gt=0)
    """A lease whose holder has not renewed it for this long may be taken over."""
    single_driver: bool = False
    """Whether somebody else sees to it that one driver at a time writes to the warehouse: needed where its storage
    keeps nobody apart (see jobs.warehouse.fencing)."""
    lease_wait_s: float = Field(default=0, ge=0)
    """How long a job waits for another one to let go of the warehouse before it gives up."""
    keep_staging: bool = False
    """Keep a published run's staging folder, for looking into: until a job runs without this setting, or a purge, which
    deletes them all."""
    expectations: tuple[Expectation, ...] = ()
    """What a night is expected to look like; one that does not is not published, unless it is told to be."""
    expectation_nights: int = Field(default=7, ge=3)
    """Earlier nights that an expectation against `earlier` looks at."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [one.name for one in self.expectations]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"expectations: expected different names, found {repeated[0]} more than once")
        return self


class Config(Settings):
    """The whole effective configuration of a job."""

    operational: ClassVar[frozenset[str]] = frozenset({"warehouse", "manifest", "spark", "run"})
    """What a manifest's rows amount to, however read, is digested by itself, as `inputs_digest`."""

    warehouse: str = Field(min_length=1)
    """Where the tables lie: a folder, or an address of any file system that the cluster's Hadoop knows."""
    manifest: ManifestSettings
    """What a night reads."""
    crawl: CrawlSettings
    """How it asks for images."""
    images: ImageSettings = ImageSettings()
    """What is stored of them."""
    policy: GateSettings
    """What may enter the index."""
    embedding: EmbeddingSettings
    """The model whose vectors the feed carries."""
    embedding_beside: EmbeddingSettings | None = None
    """Another model whose vectors nights keep up to date beside the feed's: to switch to, or back to (jobs.reembed)."""
    text: TextSettings
    """The model of titles and descriptions."""
    dedup: DedupSettings = DedupSettings()
    """What a near-duplicate is."""
    spark: SparkSettings = SparkSettings()
    """How Spark is started."""
    run: RunSettings = RunSettings()
    """How jobs take turns."""

    def contents_digest(self) -> str:
        """SHA-256 hex of the settings that decide what a warehouse holds, given manifest and policy."""
        return hashlib.sha256(json.dumps(self.decisive(), sort_keys=True).encode()).hexdigest()


def load(profile: str, overrides: Sequence[str] = ()) -> Config:
    """The configuration of `profile` (a path) with `key.path=value` overrides on top.

    A text setting takes the value as it is given, `#`, quotes and all; a number or a flag, what people write for one;
    groups and lists are YAML, the texts in them as they are spelt. Nothing, `null` and `~` are null where a setting may
    be null. Raises UsageError for a missing or unreadable file, an unknown key, a value of the wrong type.
    """
    return _validate(Config, _layered(profile, overrides))


def load_with_places(profile: str, overrides: Sequence[str] = ()) -> tuple[Config, Callable[[_Path], str | None]]:
    """As `load`, and where each setting's value comes from: a file and line, a `--set`, or None for its default."""
    source = _layered(profile, overrides)
    return _validate(Config, source), lambda path: source.place(path) if _is_said(source.data, path) else None


def _layered(profile: str, overrides: Sequence[str]) -> "_Source":
    source = _read_profile(Path(profile), ())
    for override in overrides:
        _apply_override(source, override)
    return source


def _is_said(data: Any, path: _Path) -> bool:
    for part in path:
        is_there = part in data if isinstance(data, dict) else isinstance(data, list) and part in range(len(data))
        if not is_there:
            return False
        data = data[part]
    return True


def _read_profile(path: Path, through: tuple[Path, ...]) -> "_Source":
    """The profile with what it extends below it; `through`: the profiles that extend this one, the outermost first."""
    source = _read(str(path), "profile")
    if path.resolve() in [one.resolve() for one in through]:
        chain = ", which extends ".join(map(str, (*through, path)))
        raise UsageError(f"profile {chain}: a profile cannot extend itself")
    if _EXTENDS not in source.data:
        return source
    given = source.data[_EXTENDS]
    if not isinstance(given, str) or not given:
        raise _refused(source, (_EXTENDS,), "expected a file relative to this one", given)
    base = _read_profile(path.parent / given, (*through, path))
    own = {name: value for name, value in source.data.items() if name != _EXTENDS}
    return replace(source, data=_merged(base.data, own), base=base)


def _merged(base: Any, own: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(own, dict) or _MODEL in own:
        return own
    return base | {name: _merged(base.get(name), value) for name, value in own.items()}


def load_policy(settings: GateSettings) -> Policy:
    """The policy named by the configuration, the entries of its lists (`file:`) read into the rules and URLs
    normalised; UsageError as in `load`, with the line of the policy or of the list."""
    source = _read(settings.file, "policy file")
    rules = source.data.get("rules")
    for number, rule in enumerate(rules if isinstance(rules, list) else ()):
        field_name = LIST_FIELDS.get(str(rule.get(_DISCRIMINATOR))) if isinstance(rule, dict) else None
        if field_name is not None and "file" in rule:
            _read_list(source, Path(settings.file).parent, ("rules", number), rule, field_name)
    policy = _validate(Policy, source)
    checked = tuple(_checked(source, ("rules", number), rule) for number, rule in enumerate(policy.rules))
    return policy.model_copy(update={"rules": checked})


def _read_list(source: "_Source", folder: Path, path: _Path, rule: dict[str, Any], field_name: str) -> None:
    """Append the entries of the list that a rule names to those that stand in the rule itself.

    One entry a line; `#` at the start of a line, or after white space, begins a comment.
    """
    file = rule.pop("file")
    inline = rule.setdefault(field_name, [])
    refusal = f"{source.place((*path, 'file'))}: {'.'.join(map(str, path))}.file"
    if not isinstance(file, str) or not file:
        raise UsageError(f"{refusal}: expected a path relative to the policy file, found {file!r}")
    name = f"list {folder / file}"
    text = _text_of(folder / file, f"{refusal}: {name}")
    lines = [_LIST_COMMENT.sub("", line).strip() for line in text.split("\n")]
    entries = [(number, line) for number, line in enumerate(lines, start=1) if line]
    if not entries:
        raise UsageError(f"{refusal}: {name}: expected at least one entry, found none")
    if isinstance(inline, list):  # else to be refused where it stands
        source.lists[(*path, field_name)] = _List(name, len(inline), [number for number, _ in entries])
        rule[field_name] = [*inline, *(entry for _, entry in entries)]


def _checked(source: "_Source", path: _Path, rule: AnyRule) -> AnyRule:
    """The rule, sound in what only the executors' own code can tell."""
    if isinstance(rule, UrlRule):
        return rule.model_copy(update={"urls": tuple(_normalised(source, (*path, "urls"), rule.urls))})
    if isinstance(rule, TextRule):
        _check_text_test(source, path, rule)
    elif isinstance(rule, CombinedRule):
        _check_text_test(source, (*path, "text"), rule.text)
    return rule


def _normalised(source: "_Source", path: _Path, urls: Sequence[str]) -> Iterator[str]:
    for number, url in enumerate(urls):
        try:
            yield normalise_url(url)
        except BadUrl as error:
            raise _refused(source, (*path, number), f"expected a URL that could be fetched ({error})", url) from None


def _check_text_test(source: "_Source", path: _Path, test: TextTest) -> None:
    for name, entries, made_ready in (("words", test.words, comparable_word), ("patterns", test.patterns, compiled)):
        for number, entry in enumerate(entries):
            try:
                made_ready(entry)
            except PatternError as error:
                raise _refused(source, (*path, name, number), str(error), entry) from None


def _refused(source: "_Source", path: _Path, problem: str, found: object) -> UsageError:
    return UsageError(f"{source.place(path)}: {'.'.join(map(str, path))}: {problem}, found {_shortened(found)}")


@dataclass(frozen=True)
class _List:
    """Where the entries of a list that a rule names came from."""

    name: str
    inline: int
    """Entries before them, which stand in the rule itself."""
    lines: list[int]


def load_settings(model: type[M], path: str, what: str) -> M:
    """The settings of another YAML file than a profile; UsageError as in `load`."""
    return _validate(model, _read(path, what))


@dataclass(frozen=True)
class _Source:
    """What was read, and where each part of it came from."""

    name: str
    data: dict[str, Any]
    node: yaml.Node
    overrides: dict[tuple[str, ...], str] = field(default_factory=dict)
    """The `--set` arguments by the path of keys that they set, the last one last: it wins."""
    lists: dict[tuple[str | int, ...], _List] = field(default_factory=dict)
    """By the path of the field that they were appended to."""
    base: "_Source | None" = None
    """What it extends."""

    def place(self, path: Sequence[str | int]) -> str:
        """Where a person has to look for the setting at `path`."""
        beneath: list[str] = []
        for overridden, argument in reversed(self.overrides.items()):
            if tuple(path[: len(overridden)]) == overridden:
                return f"--set {argument}" + ",".join(beneath)
            if path and overridden[: len(path)] == tuple(map(str, path)):  # of a group, whose parts do not go together
                beneath.insert(0, f" with --set {argument}")
        return self._place_in_files(path) + ",".join(beneath)

    def _place_in_files(self, path: Sequence[str | int]) -> str:
        *parents, last = path or ("",)
        listed = self.lists.get(tuple(parents))
        if listed is not None and isinstance(last, int) and last >= listed.inline:
            return f"{listed.name}, line {listed.lines[last - listed.inline]}"
        if self.base is not None and len(_found(self.node, path)) < self.base.depth(path):
            return self.base._place_in_files(path)
        line = _line(self.node, path)
        return f"{self.name}, line {line}" if line else self.name

    def depth(self, path: Sequence[str | int]) -> int:
        """How many parts of `path` are said in the file, or in what it extends."""
        return max(len(_found(self.node, path)), self.base.depth(path) if self.base else 0)


def _read(path: str, what: str) -> _Source:
    name = f"{what} {path}"
    text = _text_of(Path(path), name)
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        _check_merges(node)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, *_MISTAGGED) as error:  # ValueError: a date or number that is none
        mark = getattr(error, "problem_mark", None) or _unreadable(text)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        if isinstance(error, _MISTAGGED):
            problem = "a value that is not what its tag says"
        raise UsageError(f"{name}{where}: not valid YAML: {problem}") from None
    except RecursionError:
        raise UsageError(f"{name}: not a file of settings: groups within groups, hundreds deep") from None
    if not isinstance(data, dict) or node is None:
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise UsageError(f"{name}: expected a mapping of settings, found {found}")
    try:
        for repeated in _repeated_keys(node):
            line = repeated.start_mark.line + 1
            raise UsageError(f"{name}, line {line}: {repeated.value} is given a second time in the same group")
    except _CircleError as circle:
        raise UsageError(f"{name}, line {circle}: a group that holds itself") from None
    return _Source(name, data, node)


def _unreadable(text: str) -> yaml.Mark | None:
    """Where the value begins that looks like a date or a number, or is said to be something, and is none."""
    try:
        nodes = [yaml.compose(text, yaml.SafeLoader)]
    except (yaml.YAMLError, RecursionError):
        return None
    seen: set[int] = set()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            try:
                yaml.SafeLoader("").construct_object(node)
            except yaml.YAMLError:  # a tag that is none: not what is looked for
                continue
            except (ValueError, *_MISTAGGED):
                mark: yaml.Mark = node.start_mark
                return mark
        elif isinstance(node, yaml.MappingNode):
            nodes += [one for pair in reversed(node.value) for one in reversed(pair)]
        elif isinstance(node, yaml.SequenceNode):
            nodes += reversed(node.value)
    return None


def _text_of(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8 text (byte {error.start})") from None
    except ValueError:  # NUL, or half of a surrogate pair
        raise UsageError(f"{printable(name)}: cannot be read (no file can have such a name)") from None


class _CircleError(Exception):
    """A group that holds itself by an anchor. The message is its line."""


def _check_merges(root: yaml.Node | None) -> None:
    """Raise yaml.YAMLError where `<<` makes more of a file than any has in it: PyYAML writes out what it merges, and
    what merges another twice doubles it."""
    sizes: dict[int, int] = {}

    def entries(node: yaml.Node | None) -> int:
        """Of a mapping as it is written out, of a list those of all in it, as of a merge of several."""
        if not isinstance(node, yaml.CollectionNode):
            return 0
        if id(node) in sizes:
            return sizes[id(node)]
        sizes[id(node)] = 0  # of one that holds itself, which is told elsewhere
        if isinstance(node, yaml.SequenceNode):
            size = sum(map(entries, node.value))
        else:
            merged = sum(entries(value) for key, value in node.value if key.tag == _MERGE)
            if merged > _MOST_MERGED:
                problem = f"merges of more than {_MOST_MERGED} entries"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
            size = merged + sum(key.tag != _MERGE for key, _ in node.value)
            for key, value in node.value:
                if key.tag != _MERGE:
                    entries(value)
        sizes[id(node)] = size
        return size

    entries(root)


def _repeated_keys(root: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Keys that stand twice in one mapping, of which YAML silently takes the last. Raises _CircleError.

    What anchors share is looked at once: written out, it may be larger by any factor.
    """
    done: set[int] = set()
    around: set[int] = set()

    def looked_at(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
        if id(node) in around:
            raise _CircleError(node.start_mark.line + 1)
        if id(node) in done or isinstance(node, yaml.ScalarNode):
            return
        done.add(id(node))
        around.add(id(node))
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        yield key
                    seen.add(key.value)
                yield from looked_at(value)
        else:
            for item in node.value:
                yield from looked_at(item)
        around.remove(id(node))

    return looked_at(root)


def _line(node: yaml.Node, path: Sequence[str | int]) -> int | None:
    """Line, from 1, of the deepest part of `path` that the document has; None where it has not even the first."""
    found = _found(node, path)
    return found[-1] if found else None


def _found(node: yaml.Node, path: Sequence[str | int]) -> list[int]:
    """Lines, from 1, of the parts of `path` that the document has."""
    lines: list[int] = []
    for part in path:
        if isinstance(node, yaml.MappingNode):
            children = {key.value: (key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)}
        elif isinstance(node, yaml.SequenceNode):
            children = {index: (item, item) for index, item in enumerate(node.value)}
        else:
            break
        if part not in children:
            break
        key, node = children[part]
        lines.append(key.start_mark.line + 1)
    return lines


def _apply_override(source: _Source, override: str) -> None:
    key, separator, raw = override.partition("=")
    path = _override_path(key)
    if not separator or not all(path):
        raise UsageError(f"--set {override}: expected key.path=value, for example crawl.retries=5")
    try:
        value = _value(raw, path)
    except (yaml.YAMLError, ValueError, *_MISTAGGED, RecursionError, _CircleError):
        raise UsageError(f"--set {override}: the value is not valid YAML") from None
    except _RepeatedKeyError as repeated:
        raise UsageError(f"--set {override}: {repeated} is given a second time in the same group") from None
    group = source.data
    for depth, part in enumerate(path[:-1]):
        inner = {} if group.get(part) is None else group[part]
        if not isinstance(inner, dict):
            raise UsageError(f"--set {override}: {'.'.join(path[: depth + 1])} is not a group of settings")
        group[part] = dict(inner)  # an anchor may share it with another group
        group = group[part]
    group[path[-1]] = value
    source.overrides.pop(path, None)
    source.overrides[path] = override


class _RepeatedKeyError(Exception):
    """A key that stands twice in one group of an override's value."""


def _value(raw: str, path: _Path) -> Any:
    """What the text of an override stands for, by the type of the setting at `path`."""
    schema = _schema_at(Config, path)
    if schema.get("type", "string") in _SCALARS and not {"anyOf", "discriminator"} & schema.keys():
        return _scalar(raw, schema)
    if raw.strip() in _NULL and schema.get("nullable"):
        return None
    node = yaml.compose(raw, yaml.SafeLoader)
    if node is None:
        return None
    for repeated in _repeated_keys(node):
        raise _RepeatedKeyError(repeated.value)
    return _built(node, path)


def _built(node: yaml.Node, path: _Path) -> Any:
    """A YAML value by the types of the settings in it."""
    if isinstance(node, yaml.MappingNode):
        if any(not isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise ValueError("expected keys that are texts")
        return {key.value: _built(value, (*path, key.value)) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_built(item, (*path, index)) for index, item in enumerate(node.value)]
    schema = _schema_at(Config, path)
    if schema.get("type") in _SCALARS:
        return _scalar(node.value, schema)
    return yaml.SafeLoader("").construct_object(node)


def _scalar(raw: str, schema: Mapping[str, Any]) -> Any:
    """One value of a text, number or flag; left as it is where it is none, to be refused by name."""
    if schema.get("nullable") and raw.strip() in _NULL:
        return None
    if schema.get("type") in {"integer", "number"}:
        text = raw.strip()
        if _WHOLE.fullmatch(text):
            return int(text)
        if _DECIMAL.fullmatch(text):
            return float(text)
    return raw


def _override_path(key: str) -> tuple[str, ...]:
    """The keys that `key` names, one within the other; dots separate none in a free mapping (Spark's properties)."""
    parts = key.split(".")
    for depth in range(1, len(parts)):
        group = _schema_at(Config, parts[:depth])
        if not group:  # no setting, nor is anything in it
            break
        if isinstance(group.get("additionalProperties"), dict):
            return (*parts[:depth], ".".join(parts[depth:]))
    return tuple(parts)


def _validate(model: type[M], source: _Source) -> M:
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        # A misspelt key also leaves the right one missing: of the two, the misspelling is what to tell.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        path = _path_in(source.data, first)
        raise UsageError(f"{source.place(path)}: {_explain(model, first, path)}") from None


def _path_in(data: Any, error: Mapping[str, Any]) -> tuple[str | int, ...]:
    """Where in `data` the error is: pydantic's location without the names of union members between the keys."""
    path: list[str | int] = []
    for depth, part in enumerate(error["loc"], start=1):
        found = part in (data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ())
        is_absent_key = depth == len(error["loc"]) and error["type"] == "missing"
        if found or is_absent_key:
            path.append(part)
        if found:
            data = data[part]
    return tuple(path)


def _explain(model: type[BaseModel], error: Mapping[str, Any], path: Sequence[str | int]) -> str:
    name = ".".join(map(str, path))
    found = _shortened(error["input"])
    match error["type"]:
        case "extra_forbidden":
            return f"unknown key {name}{_hint(model, error['loc'], path)}"
        case "invalid_key":
            return f"keys must be text, found {found}; put it in quotes"
        case "missing":
            problem = f"{name} is required and is not set"
        case "union_tag_not_found":
            problem = f"{name}.{_DISCRIMINATOR} is required and is not set"
        case "union_tag_invalid":
            tag, known = error["ctx"]["tag"], error["ctx"]["expected_tags"]
            problem = f"{name}.{_DISCRIMINATOR}: must be {known}, found {tag!r}"
        case "model_type":
            problem = f"{name}: must be a group of settings, found {found}"
        case _:
            problem = ": ".join(filter(None, [name, error["msg"]]))
            problem = problem.replace("Value error, ", "").replace("Input should be", "must be")
            problem += "" if isinstance(error["input"], dict) else f", found {found}"
    return problem


def _shortened(value: object) -> str:
    text = _BRIEF.repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _hint(model: type[BaseModel], location: Sequence[str | int], path: Sequence[str | int]) -> str:
    """What may have been meant by an unknown key: the same name in another group, else the nearest in its own."""
    *group, key = map(str, path)
    known = list(_schema_at(model, location[:-1]).get("properties", ()))
    elsewhere = [other for other in _key_paths(model) if other.split(".")[-1] == key]
    near = difflib.get_close_matches(key, known, n=1)
    meant = elsewhere or [".".join([*group, name]) for name in near]
    return f"; did you mean {' or '.join(meant)}?" if meant else f"; known here: {', '.join(known)}"


def _key_paths(model: type[BaseModel]) -> Iterator[str]:
    """Every setting of every group, as a path with dots; of groups within groups, but not of lists."""
    for name, info in model.model_fields.items():
        yield name
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from (f"{name}.{path}" for path in _key_paths(info.annotation))


def _schema_at(model: type[BaseModel], location: Sequence[str | int]) -> dict[str, Any]:
    """The JSON schema of what stands at one of pydantic's locations, with `nullable` where it may be null instead;
    empty where the model has nothing."""
    schema = model.model_json_schema()
    node = _resolved(schema, schema)
    for part in location:
        node = _resolved(_member(node, part), schema)
    return node


def _member(node: Mapping[str, Any], part: str | int) -> dict[str, Any]:
    if isinstance(part, int):
        members = node.get("prefixItems", ())
        found = members[part] if part < len(members) else node.get("items", {})
    elif "discriminator" in node:
        found = {"$ref": node["discriminator"]["mapping"].get(part, "")}
    else:
        free = node.get("additionalProperties")
        found = node.get("properties", {}).get(part, free if isinstance(free, dict) else {})
    return dict(found)


def _resolved(node: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """What a reference, or a choice between one thing and null, comes down to."""
    nullable = False
    while "$ref" in node or "anyOf" in node:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
            continue
        others = [one for one in node["anyOf"] if one.get("type") != "null"]
        nullable = nullable or len(others) < len(node["anyOf"])
        if len(others) > 1:
            break
        node = others[0]
    return node | {"nullable": True} if nullable else node
