"""What every entry point does around its work: exit codes and one clear line for what went wrong."""

import logging
from collections.abc import Callable

from jobs.errors import RunError, UsageError
from jobs.progress import log, start_logging


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
