"""Every setting there is, out of the classes that hold them: docs/settings.md, and a JSON Schema for editors.

    python -m jobs.config document > docs/settings.md
    python -m jobs.config schema > docs/settings.schema.json

Tests hold the committed files against these.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo
from pydantic_core import to_json

from jobs.config.profile import Config
from schemas.settings import Settings

Node = Mapping[str, Any]
"""A part of a JSON Schema."""

_HEADER = """\
# Settings

<!-- Do not edit: made from the settings' own docstrings by `python -m jobs.config document > docs/settings.md`. -->

What a profile may say, and `--set key.path=value`. What it does not say has the default. `lensfeed config show
--profile P` prints what holds, each setting with the file and line, or the `--set`, that says so.

A setting marked *o* is operational: it says where things lie, how fast the work is done or how patiently. Every other
one decides what comes out: where it changes, published dates are reported as stale, or jobs refuse to go on.

`extends: FILE`, relative to the file that says it, has a profile hold only what differs. Editors that know
`yaml-language-server` check and complete a profile whose first line is

    # yaml-language-server: $schema=../docs/settings.schema.json
"""

_EXTENDS = {
    "type": "string",
    "minLength": 1,
    "description": "Another profile, relative to this file: this one then holds only what differs.",
}


@dataclass(frozen=True)
class Setting:
    """One setting of a group."""

    name: str
    kind: str
    """Its type and bounds, in words."""
    default: str
    """As JSON; `required` where there is none."""
    meaning: str
    is_operational: bool


def groups() -> dict[type[Settings], list[str]]:
    """Every class of settings with the paths at which it stands, a list's members as `[]`, in order of appearance."""
    found: dict[type[Settings], list[str]] = {}
    for model, path, _ in _visited(Config, "", is_operational=False):
        found.setdefault(model, []).append(path)
    return found


def _visited(model: type[Settings], path: str, *, is_operational: bool) -> Iterator[tuple[type[Settings], str, bool]]:
    """Class, path, and whether nothing in it decides contents, of a group and of those within."""
    yield model, path, is_operational
    for name, info in model.model_fields.items():
        for inner, is_listed in _settings_in(info):
            place = f"{path}.{name}".lstrip(".") + ("[]" if is_listed else "")
            yield from _visited(inner, place, is_operational=is_operational or name in model.operational)


def paths() -> list[str]:
    """Every setting that holds a value and no group, as `--set` names it; members of lists left out."""
    named = [
        f"{place}.{name}".lstrip(".")
        for model, places in groups().items()
        for place in places
        if "[]" not in place
        for name, info in model.model_fields.items()
        if not any(not is_listed for _, is_listed in _settings_in(info))
    ]
    return sorted(named)


def settings_of(model: type[Settings]) -> Iterator[Setting]:
    """The settings of a group, in their order."""
    schema = model.model_json_schema()
    whole = all(operational for one, _, operational in _visited(Config, "", is_operational=False) if one is model)
    for name, info in model.model_fields.items():
        node = schema["properties"][name]
        is_group = any(not is_listed for _, is_listed in _settings_in(info))
        meaning = " ".join((info.description or "").split())
        default = "required" if info.is_required() else "" if is_group else _code(_default(model, name))
        yield Setting(name, _kind(node), default, meaning, whole or name in model.operational)


def document() -> str:
    """docs/settings.md as text."""
    sections = [_section(model, places) for model, places in groups().items()]
    return "\n".join([_HEADER, *sections])


def schema() -> dict[str, Any]:
    """The JSON Schema of a profile. Nothing is required: what a profile leaves out may be said by the one it extends,
    or by `--set`."""
    whole = Config.model_json_schema()
    for group in (whole, *whole["$defs"].values()):
        group.pop("required", None)
    properties = {"extends": _EXTENDS, **whole["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **whole,
        "title": "A profile of lensfeed",
        "properties": properties,
    }


def _settings_in(info: FieldInfo) -> Iterator[tuple[type[Settings], bool]]:
    """The classes of settings that a field holds, and whether in a list."""
    for part in (info.annotation, *get_args(info.annotation)):
        if isinstance(part, type) and issubclass(part, Settings):
            yield part, part is not info.annotation and isinstance(info.default, tuple)


def _default(model: type[Settings], name: str) -> str:
    value = model.model_fields[name].get_default(call_default_factory=True)
    return to_json(value).decode()


def _section(model: type[Settings], places: list[str]) -> str:
    title = " ".join(f"`{place}`" for place in places) if places != [""] else "The profile"
    anchor = f'<a id="{model.__name__}"></a>'
    rows = [["setting", "", "value", "default", "meaning"], ["---"] * 5]
    rows += [
        [_code(one.name), "*o*" if one.is_operational else "", one.kind, one.default, one.meaning]
        for one in settings_of(model)
    ]
    grid = "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)
    about = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    return f"{anchor}\n\n## {title}\n\n{about}\n\n{grid}"


def _kind(node: Node) -> str:  # noqa: PLR0911 -- a case a kind
    if "$ref" in node:
        return f"[a group](#{node['$ref'].rpartition('/')[2]})"
    if "anyOf" in node:
        return " or ".join(_kind(one) for one in node["anyOf"])
    if "enum" in node:
        return ", ".join(_code(str(value)) for value in node["enum"])
    if "prefixItems" in node:
        return f"{len(node['prefixItems'])} of: {_kind(node['prefixItems'][0])}"
    if "items" in node:
        return f"list of: {_kind(node['items'])}"
    if "additionalProperties" in node:
        return f"mapping of text to {_kind(node['additionalProperties'])}"
    names = {"integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}
    text = f"text like {_code(node['pattern'])}" if "pattern" in node else "text"
    return names.get(node["type"], text) + _bounds(node)


def _bounds(node: Node) -> str:
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    said = [f"{word} {node[key]}" for key, word in words.items() if key in node]
    return f", {' and '.join(said)}" if said else ""


def _code(text: str) -> str:
    return f"`{text}`"
