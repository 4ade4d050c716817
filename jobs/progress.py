"""What a job says while it works: one line a stage on stderr, with its seconds kept for the ledger."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("lensfeed")


def start_logging() -> None:
    """Send the job's lines to stderr; called by entry points only."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False


class Progress:
    """Names the stage under way and keeps what each took, in seconds."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage under that name; announces it, so that a long one is seen to have begun."""
        log.info("%s %s ...", self.prefix, name)
        begun = time.monotonic()
        yield
        took = time.monotonic() - begun
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        log.info("%s %s done in %.1f s", self.prefix, name, took)

    def say(self, text: str) -> None:
        """One line."""
        log.info("%s %s", self.prefix, text)
