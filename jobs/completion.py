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
_FIRST = {"--help": "show every command", "--version": "show the version"}
"""What there is in place of a command."""

_BASH = """\
# Completion of lensfeed's commands for bash; made by `lensfeed completion bash`.
_lensfeed() {
  local command="${COMP_WORDS[1]//_/-}" current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" found
  local given=
  # --option=value comes in three words, or, where = is not in COMP_WORDBREAKS, in one.
  if [ "$before" = = ]; then
    before="${COMP_WORDS[COMP_CWORD-2]}"
  elif [ "$current" = = ]; then
    current=
  elif [[ "$current" == --*=* ]]; then
    before="${current%%%%=*}" current="${current#*=}" given="$before="
  fi
  if [ "$COMP_CWORD" -eq 1 ]; then
    found=%(commands)s
  elif [ "$before" = --set ]; then
    compopt -o nospace
    found=%(settings)s
  else
%(cases)s
  fi
  COMPREPLY=()
  [ -z "$found" ] || COMPREPLY=($(compgen -P "$given" -W "$found" -- "$current"))
}
complete -o default -F _lensfeed lensfeed
"""

_ZSH = """\
# Completion of lensfeed's commands for zsh; made by `lensfeed completion zsh`.
_lensfeed() {
  local command="${words[2]//_/-}" before="${words[CURRENT-1]}" found
  if [[ "$PREFIX" == --*=* ]]; then
    before="${PREFIX%%%%=*}"
    compset -P 1 '*='
  fi
  local current="$PREFIX"
  if (( CURRENT == 2 )); then
    found=%(commands)s
  elif [[ "$before" == --set ]]; then
    found=%(settings)s
    compadd -S '' -- ${=found}
    return
  else
%(cases)s
  fi
  if [[ -n "$found" ]]; then
    compadd -- ${=found}
  else
    _files
  fi
}
compdef _lensfeed lensfeed
"""

_CASES = """\
    case "$command:$before" in
%(values)s
    esac
    if [ -z "$found" ] && [[ "$current" == -* ]]; then
      case "$command" in
%(options)s
      esac
    fi"""


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
    sys.stdout.write({"bash": bash, "zsh": zsh, "fish": fish}[shell]())


def bash() -> str:
    """The script for bash."""
    return _BASH % _words()


def zsh() -> str:
    """The script for zsh: its own functions, for what it has of bash's puts a space behind `--set NAME=`."""
    return _ZSH % _words()


def _words() -> dict[str, str]:
    """What both scripts are filled with."""
    values: dict[str, None] = {}
    options = []
    for name, command in commands().items():
        words: dict[str, None] = {}
        for action in _actions(command.parser()):
            choices = [str(choice) for choice in action.choices or ()]
            words |= dict.fromkeys(action.option_strings or choices)
            if choices:
                after = action.option_strings or [name]
                values |= {f"      {name}:{one}) found={_quoted(choices)} ;;": None for one in after}
        options.append(f"        {name}) found={_quoted(words)} ;;")
    return {
        "commands": _quoted([*commands(), *_FIRST]),
        "settings": _quoted(_settings()),
        "cases": _CASES % {"values": "\n".join(values), "options": "\n".join(options)},
    }


def fish() -> str:
    """The script for fish, with what each command and option does."""
    lines = ["# Completion of lensfeed's commands for fish; made by `lensfeed completion fish`."]
    first = "__fish_use_subcommand"
    lines += [_fish(first, f"-f -l {option.removeprefix('--')}", about) for option, about in _FIRST.items()]
    for name, command in commands().items():
        lines.append(_fish(first, f"-f -a {name}", command.summary))
        written = dict.fromkeys([name, name.replace("-", "_")])
        seen = f"__fish_seen_subcommand_from {' '.join(written)}"
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
