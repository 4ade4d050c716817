"""Which commands there are: whatever `python -m jobs.NAME` runs, found by looking, so that a new job is one of them.

Nothing of a job is imported to list it: its docstring is read from its source.
"""

import ast
import importlib
import importlib.util
import pkgutil
from argparse import ArgumentParser
from dataclasses import dataclass
from types import ModuleType

import jobs

GROUPS = {
    "Nights": ("nightly", "backfill"),
    "Change what is stored": ("redecide", "review", "takedown", "reembed", "rededup", "rollback", "maintain"),
    "Look at it": ("report", "outcomes", "why", "dedup", "doctor", "config", "digest"),
    "Measure and choose": ("calibrate-policy", "compare-embeddings", "fit-alignment", "tune-dedup"),
    "Set up": ("completion",),
}
"""Commands in the order in which they are listed; those that no group names come last."""
_OTHERS = "More"


@dataclass(frozen=True)
class Command:
    """A job by its name on the command line."""

    name: str
    module: str
    """`main(arguments) -> exit code` and `command_line() -> parser` are in it."""
    documentation: str

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring, in one line."""
        return " ".join(self.documentation.split("\n\n")[0].split())

    def load(self) -> ModuleType:
        """The module, imported: most bring Spark with them, which takes a second or more."""
        return importlib.import_module(self.module)

    def parser(self) -> ArgumentParser:
        """The parser of its arguments."""
        parser: ArgumentParser = self.load().command_line()
        return parser


def commands() -> dict[str, Command]:
    """Every command by its name, in alphabetical order."""
    found = (_command(one.name, is_package=one.ispkg) for one in pkgutil.iter_modules(jobs.__path__))
    return {command.name: command for command in found if command is not None}


def grouped() -> dict[str, list[Command]]:
    """The commands by group."""
    there = commands()
    groups = {title: [there.pop(name) for name in names if name in there] for title, names in GROUPS.items()}
    return {title: members for title, members in (groups | {_OTHERS: list(there.values())}).items() if members}


def _command(name: str, *, is_package: bool) -> Command | None:
    """None for what is no entry point."""
    module = f"jobs.{name}.__main__" if is_package else f"jobs.{name}"
    spec = importlib.util.find_spec(module)
    loader = spec.loader if spec else None
    source = loader.get_source(module) if loader and hasattr(loader, "get_source") else None
    if name == "__main__" or not source:
        return None
    tree = ast.parse(source)
    if not any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
        return None
    return Command(name.replace("_", "-"), module, ast.get_docstring(tree) or "")
