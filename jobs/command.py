"""What every entry point does around its work: its configuration, exit codes, one clear line for what went wrong."""

import argparse
import logging
from collections.abc import Callable

from jobs.errors import RunError, UsageError
from jobs.progress import log, start_logging


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """`--profile FILE` and `--set KEY=VALUE ...`, as `profile` and `set`: what `jobs.config.load` takes."""
    parser.add_argument("--profile", required=True, help="YAML profile, for example conf/local.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")


def run_command(action: Callable[[], None]) -> int:
    """Run an entry point's action: 0 done, 1 the run failed, 2 bad usage or configuration."""
    start_logging()
    try:
        action()
    except UsageError as error:
        log.error("error: %s", _one_line(error))
        return 2
    except RunError as error:
        log.error("failed: %s", _one_line(error))
        return 1
    except Exception as error:  # noqa: BLE001 -- the last line of defence: whatever it was, nothing was published
        log.error("failed: %s: %s", type(error).__name__, _one_line(error)[:2000])
        log.log(logging.DEBUG, "traceback", exc_info=True)
        return 1
    return 0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
