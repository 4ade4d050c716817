"""Completion of commands, options and settings for a shell.

    source <(lensfeed completion bash)                                    in ~/.bashrc
    source <(lensfeed completion zsh)                                     in ~/.zshrc, after compinit
    lensfeed completion fish > ~/.config/fish/completions/lensfeed.fish

What is printed holds all words itself: nothing is started when a key is pressed. Print it anew after an upgrade.
"""

import argparse
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence

from jobs.config import reference
from jobs.config.catalogue import commands
from jobs.config.command import JobParser, job_parser, run_command

SHELLS = ("bash", "zsh", "fish")

_BASH = """\
# Completion of lensfeed's commands for bash; made by `lensfeed completion bash`.
_lensfeed() {
  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words
  if [ "$COMP_CWORD" -eq 1 ]; then
    words=%(commands)s
  elif [ "$before" = --set ]; then
    compopt -o nospace
    words=%(settings)s
  else
    case "${COMP_WORDS[1]//_/-}:$before" in
%(values)s
    esac
    if [ -z "$words" ] && [[ "$current" == -* ]]; then
      case "${COMP_WORDS[1]//_/-}" in
%(options)s
      esac
    fi
  fi
  COMPREPLY=()
  [ -z "$words" ] || COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _lensfeed lensfeed
"""

_ZSH = """\
autoload -U +X bashcompinit && bashcompinit
"""


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("completion", __doc__)
    parser.add_argument("shell", choices=SHELLS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _print(options.shell))


def _print(shell: str) -> None:
    sys.stdout.write(fish() if shell == "fish" else bash(for_zsh=shell == "zsh"))


def bash(*, for_zsh: bool = False) -> str:
    """The script for bash; for zsh the same, by its own emulation."""
    values: dict[str, None] = {}
    options = []
    for name, command in commands().items():
        words: dict[str, None] = {}
        for action in _actions(command.parser()):
            choices = [str(choice) for choice in action.choices or ()]
            words |= dict.fromkeys(action.option_strings or choices)
            if choices:
                after = action.option_strings or [name]
                values |= {f"      {name}:{one}) words={_quoted(choices)} ;;": None for one in after}
        options.append(f"        {name}) words={_quoted(words)} ;;")
    filled = _BASH % {
        "commands": _quoted([*commands(), "--help", "--version"]),
        "settings": _quoted(_settings()),
        "values": "\n".join(values),
        "options": "\n".join(options),
    }
    return (_ZSH if for_zsh else "") + filled


def fish() -> str:
    """The script for fish, with what each command and option does."""
    lines = ["# Completion of lensfeed's commands for fish; made by `lensfeed completion fish`."]
    for name, command in commands().items():
        lines.append(_fish("__fish_use_subcommand", f"-f -a {name}", command.summary))
        seen = f"__fish_seen_subcommand_from {name}"
        for action in _actions(command.parser()):
            long = [option.removeprefix("--") for option in action.option_strings if option.startswith("--")]
            what = " ".join(f"-l {option}" for option in long)
            if action.option_strings and action.nargs != 0:
                what += " -r"
            choices = _settings() if action.dest == "set" else [str(choice) for choice in action.choices or ()]
            if choices:
                what += f" -f -a {_quoted(choices)}"
            if what:
                lines.append(_fish(seen, what, action.help or ""))
    return "\n".join(lines) + "\n"


def _settings() -> list[str]:
    """Every setting as `--set` takes it."""
    return [f"{path}=" for path in reference.paths()]


def _quoted(words: Iterable[str]) -> str:
    return shlex.quote(" ".join(words))


def _fish(condition: str, what: str, about: str) -> str:
    return f"complete -c lensfeed -n {shlex.quote(condition)} {what} -d {shlex.quote(about)}".strip()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Arguments of a parser and of its actions."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in dict.fromkeys(action.choices.values()):
                yield from _actions(inner)


if __name__ == "__main__":
    sys.exit(main())
