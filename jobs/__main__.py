"""One command for every job: `lensfeed nightly --profile P --date D` is `python -m jobs.nightly --profile P --date D`.

    lensfeed --help               every command with a line
    lensfeed COMMAND --help       everything about one
    lensfeed --version

Exit codes as for every job: 0 done, 1 the run failed, 2 bad usage or configuration.
"""

import difflib
import sys
import textwrap
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from jobs.config.catalogue import Command, commands, grouped
from jobs.config.output import say, stand_in

_USAGE = "usage: lensfeed [--help | --version] COMMAND [ARGUMENTS]"
_WIDTH = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    stand_in()
    given = list(sys.argv[1:] if arguments is None else arguments)
    name, *rest = given or [""]
    if name in {"-h", "--help"}:
        return say(help_text())
    if name == "--version":
        return say(f"lensfeed {_version()}\n")
    known = commands()
    command = known.get(name.replace("_", "-"))
    if command is None:
        sys.stderr.write(f"{_USAGE}\nerror: {_unknown(name, list(known))}\n")
        return 2
    return _run(command, rest)


def help_text() -> str:
    """What `--help` prints."""
    parts = [_USAGE]
    for title, members in grouped().items():
        parts.append("\n".join([title, *(_line(command) for command in members)]))
    parts.append("lensfeed COMMAND --help says everything about one of them.")
    return "\n\n".join(parts) + "\n"


def _line(command: Command) -> str:
    first = f"  {command.name:<20}"
    return textwrap.fill(command.summary, _WIDTH, initial_indent=first, subsequent_indent=" " * len(first))


def _version() -> str:
    try:
        return version("lensfeed")
    except PackageNotFoundError:
        return "(not installed)"


def _unknown(name: str, known: list[str]) -> str:
    if not name:
        return f"expected a command, one of {', '.join(known)}"
    near = difflib.get_close_matches(name.replace("_", "-"), known, n=1)
    what = "option" if name.startswith("-") else "command"
    return f"unknown {what} {name}; " + (
        f"did you mean {near[0]}?" if near and what == "command" else "lensfeed --help lists the commands"
    )


def _run(command: Command, arguments: Sequence[str]) -> int:
    try:
        job = command.load()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in {"jobs", "udfs", "schemas", "lensfeed"}:
            raise
        sys.stderr.write(
            f"error: {command.name} needs {missing}, which is not installed: pip install 'lensfeed[job]'\n"
        )
        return 2
    code: int = job.main(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
