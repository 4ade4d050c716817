"""What every entry point does around its work: its options, configuration, exit codes, one clear line for what went
wrong."""

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from jobs.config import output
from jobs.config.causes import cause_of
from jobs.config.errors import RunError, UsageError, printable
from jobs.config.progress import LOG_FORMATS, log, place_of, start_logging


class JobParser(argparse.ArgumentParser):
    """A parser that takes options by their whole name only, and says which one a misspelt option may have meant."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        # A prefix that is one option today may be two tomorrow, in a script that nobody looks at.
        super().__init__(*arguments, **({"allow_abbrev": False} | settings))

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, but a misspelt option is told before those that are missing for it."""
        output.stand_in()
        given = list(sys.argv[1:] if args is None else args)
        if self._subparsers is None:  # else most options are those of the action
            self._check_known(given[: given.index("--")] if "--" in given else given)
        return super().parse_known_args(given, namespace)

    def _check_known(self, arguments: Sequence[str]) -> None:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for argument in arguments:
            name = argument.partition("=")[0]
            if name.startswith("--") and name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
                self.error(f"unknown option {name}; {hint}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """As argparse's, with what was printed (`--help`) written before."""
        try:
            output.flush()
        except RunError as error:
            status, message = 1, f"failed: {error}\n"
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        """Usage, then the one line that says what is wrong; exit code 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"error: {message}\n")


def job_parser(job: str, documentation: str | None) -> JobParser:
    """The parser of `jobs.{job}`, still without options; its help says what the module's docstring says."""
    is_ours = Path(sys.argv[0]).name == "lensfeed"
    name = f"lensfeed {job.replace('_', '-')}" if is_ours else f"jobs.{job}"
    return JobParser(prog=name, description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """`--profile FILE` and `--set KEY=VALUE ...`, as `profile` and `set`, and what `add_output_arguments` adds."""
    parser.add_argument(
        "--profile", required=True, metavar="FILE", help="YAML profile, for example conf/production.yaml"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    add_output_arguments(parser)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """`--debug`, `--log-file`, `--log-format`: what `run_command` takes."""
    parser.add_argument(
        *("--verbose", "--debug"),
        dest="debug",
        action="store_true",
        help="show where an error came from, and what Spark says of it",
    )
    parser.add_argument("--log-file", type=Path, metavar="FILE", help="append the job's lines to this file too")
    parser.add_argument("--log-format", choices=LOG_FORMATS, default="text", help="lines of text, or of JSON")


def run_command(action: Callable[[], object], options: argparse.Namespace | None = None) -> int:
    """Run an entry point's action: 0 done, 1 the run failed, 2 bad usage or configuration, 141 (as of whom SIGPIPE
    ends) nobody read on, as of `| head`, before it was done.

    What went wrong is told in one line, the last one; with `--debug` its traces come before it. `options`: those of
    `add_output_arguments`, of which None has the defaults.
    """
    output.stand_in()
    options = options or argparse.Namespace(debug=False, log_file=None, log_format=LOG_FORMATS[0])
    try:
        start_logging(debug=options.debug, file=options.log_file, layout=options.log_format)
    except OSError as error:
        sys.stderr.write(f"error: --log-file {options.log_file}: cannot be written ({error.strerror or error})\n")
        return 2
    try:
        action()
        output.flush()
    except UsageError as error:
        log.debug("traceback", exc_info=True)
        return _ended(2, f"error: {what_failed(error)}")
    except Exception as error:  # noqa: BLE001 -- the last line of defence: whatever it was, nothing was published
        log.debug("traceback", exc_info=True)
        if output.is_unread(error):
            return output.UNREAD
        return _ended(1, f"failed: {what_failed(error)}")
    except KeyboardInterrupt:
        return _ended(1, "failed: interrupted; whoever comes next discards or finishes what was begun")
    return 0


def _ended(code: int, why: str) -> int:
    """Tell why, after what was printed before."""
    with suppress(RunError):
        output.flush()
    log.error("%s", why)
    return code


def what_failed(error: BaseException) -> str:
    """The error in one line: where it happened, where that is known, and its cause."""
    is_ours = isinstance(error, UsageError | RunError)
    # It may repeat what a manifest or a server has said.
    cause = printable(" ".join(str(error).split()) if is_ours else cause_of(error))
    place = place_of(error)
    return f"{place}: {cause}" if place and not isinstance(error, UsageError) else cause
