"""Command lines out of the documents, and whether they are ones: held against the parsers that the jobs use."""

import re
import shlex
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

from jobs.config.catalogue import commands
from jobs.config.errors import UsageError
from jobs.config.profile import load

ROOT = Path(__file__).parents[1]

_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
_OURS = re.compile(r"(?:\.venv/bin/)?(?:python|lensfeed|make|spark-submit)(?= )")
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_|]*")
_NAMED = ("key.path=value", "KEY=VALUE")
_CHECKOUT = "/opt/lensfeed/"
"""Where documents have a checkout lie, in an image say."""
_ANY_COMMAND = frozenset({"COMMAND", "NAME", "X"})


@dataclass(frozen=True)
class Line:
    """A command line and where it stands."""

    place: str
    text: str


def lines_of_markdown(name: str, text: str) -> Iterator[Line]:
    """The command lines in fenced blocks and code spans."""
    for block in _FENCE.findall(text):
        yield from (Line(name, line) for line in _joined(block))
    for span in _SPAN.findall(_FENCE.sub("", text)):
        yield from (Line(name, line) for line in _joined(" ".join(span.split())))


def lines_of_source(name: str, text: str) -> Iterator[Line]:
    """The command lines in indented blocks of docstrings, and in comments of profiles."""
    plain = re.sub(r"^(# |#$)", "", text, flags=re.MULTILINE)
    yield from (Line(name, line) for line in _joined(plain) if "python -m" in line or "spark-submit" in line)


def _joined(block: str) -> Iterator[str]:
    """Logical lines that are commands of ours, without prompts, comments and what a shell does with them."""
    for raw in re.sub(r"\\\n\s*", " ", block).splitlines():
        line = re.sub(r"^\s*(?:\$ )?(?:source <\()?(?:[A-Z_]+=\S+ )*", "", raw)
        line = re.split(r"\s#\s|\s{3,}(?=\S)| [|>] |&& |\)\s*$", line + " ")[0].strip() if _OURS.match(line) else ""
        if line:
            yield re.sub(r"\s+", " ", line)


def problem(line: Line) -> str | None:
    """What is wrong with a command line; None where it is one."""
    words = [_bare(word) for word in shlex.split(line.text)]
    words = [word for word in words if word and word != "..."]
    program, *rest = words
    try:
        if program == "make":
            return _make(rest)
        if program == "spark-submit":
            script = next((number for number, word in enumerate(rest) if word.endswith(".py")), None)
            if script is None:
                return "spark-submit: names no job"
            return _job(Path(rest[script]).stem, rest[script + 1 :])
        if program.endswith("python"):
            return _module(rest)
        return _lensfeed(rest)
    except ModuleNotFoundError as error:
        return str(error)


def _bare(word: str) -> str:
    """The word without the brackets that mark what may be left out."""
    word = word.removeprefix("[")
    return word[:-1] if word.endswith("]") and "[" not in word else word


def _make(words: Sequence[str]) -> str | None:
    known = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    variables = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name = word.partition("=")[0]
        if name not in known and not ("=" in word and f"$({name}" in variables):
            return f"make: no target or variable {name}"
    return None


def _lensfeed(words: Sequence[str]) -> str | None:
    if words[0].startswith("--"):
        return None if words[0] in {"--help", "--version"} else f"lensfeed: no option {words[0]}"
    return None if words[0] in _ANY_COMMAND else _job(words[0], words[1:])


def _module(words: Sequence[str]) -> str | None:
    if words[0] != "-m" or len(words) == 1:
        return None
    package, _, name = words[1].partition(".")
    if package == "jobs" and name.replace("_", "-") in commands():
        return _job(name, words[2:])
    if name in _ANY_COMMAND:
        return None
    path = ROOT / Path(*words[1].split("."))
    if package in {"jobs", "schemas", "demo", "benchmarks", "udfs"}:
        if not path.with_suffix(".py").is_file() and not path.is_dir():
            return f"no module {words[1]}"
        module = import_module(words[1]) if package in {"jobs", "demo"} else None
        return _parsed(module.command_line(), words[2:]) if hasattr(module, "command_line") else None
    return None


def _job(name: str, arguments: Sequence[str]) -> str | None:
    command = commands().get(name.replace("_", "-"))
    if command is None:
        return f"no command {name}"
    return _parsed(_parser(command.name), arguments)


@cache
def _parser(name: str) -> ArgumentParser:
    return commands()[name].parser()


class _RefusedError(Exception):
    pass


def _parsed(parser: ArgumentParser, arguments: Sequence[str]) -> str | None:
    def refuse(message: str) -> None:
        raise _RefusedError(f"{parser.prog}: {message}")

    inner = [parser, *_actions_of(parser)]
    for one in inner:
        one.error = refuse  # type: ignore[method-assign, assignment]
    given = ["1" if _PLACEHOLDER.fullmatch(word) else word for word in arguments]
    if any(word in {"-h", "--help"} for word in given):
        return None
    try:
        options = parser.parse_args(given)
    except _RefusedError as refused:
        return str(refused)
    finally:
        for one in inner:
            del one.error
    return _settings(getattr(options, "profile", None), getattr(options, "set", None) or [])


def _actions_of(parser: ArgumentParser) -> list[ArgumentParser]:
    found = [
        action.choices for action in parser._actions if action.dest == "action" and isinstance(action.choices, dict)
    ]
    return [inner for choices in found for inner in choices.values()]


def _settings(profile: str | None, overrides: Sequence[str]) -> str | None:
    """What the profile's own loader says of the overrides; of the profile only whether there is one."""
    profile = profile and profile.removeprefix(_CHECKOUT)
    if profile and profile != "1" and not (ROOT / profile).is_file() and not (ROOT / "conf" / profile).is_file():
        return f"no profile {profile}"
    try:
        load(str(ROOT / "conf/local.yaml"), [one for one in overrides if one not in _NAMED])
    except UsageError as error:
        return str(error)
    return None
