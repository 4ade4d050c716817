"""What every entry point does around its work: its configuration, exit codes, one clear line for what went wrong."""

import argparse
from collections.abc import Callable

from jobs.config.causes import cause_of
from jobs.config.errors import RunError, UsageError
from jobs.config.progress import log, place_of, start_logging


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """`--profile FILE`, `--set KEY=VALUE ...` and `--debug`, as `profile`, `set` and `debug`."""
    parser.add_argument("--profile", required=True, help="YAML profile, for example conf/local.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    add_debug_argument(parser)


def add_debug_argument(parser: argparse.ArgumentParser) -> None:
    """`--debug`, as `debug`: what `run_command` takes."""
    parser.add_argument("--debug", action="store_true", help="show where an error came from, and what Spark says of it")


def run_command(action: Callable[[], object], *, debug: bool = False) -> int:
    """Run an entry point's action: 0 done, 1 the run failed, 2 bad usage or configuration.

    What went wrong is told in one line, the last one; with `debug` its traces come before it.
    """
    start_logging(debug=debug)
    try:
        action()
    except UsageError as error:
        log.debug("traceback", exc_info=True)
        log.error("error: %s", what_failed(error))
        return 2
    except Exception as error:  # noqa: BLE001 -- the last line of defence: whatever it was, nothing was published
        log.debug("traceback", exc_info=True)
        log.error("failed: %s", what_failed(error))
        return 1
    except KeyboardInterrupt:
        log.error("failed: interrupted; whoever comes next discards or finishes what was begun")
        return 1
    return 0


def what_failed(error: BaseException) -> str:
    """The error in one line: where it happened, where that is known, and its cause."""
    is_ours = isinstance(error, UsageError | RunError)
    cause = " ".join(str(error).split()) if is_ours else cause_of(error)
    place = place_of(error)
    return f"{place}: {cause}" if place and not isinstance(error, UsageError) else cause
