"""What a job says while it works: one line a stage on stderr, with its seconds kept for the ledger."""

import datetime as dt
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from jobs.config.live import Look, UnderWay, aside, watched
from udfs.credentials import redact_text

log = logging.getLogger("lensfeed")

_PYSPARK_LOGGERS = ("SQLQueryContextLogger", "DataFrameQueryContextLogger")
"""By which PySpark logs, with trace and as JSON, each exception that it raises as well."""


class WithoutCredentials(logging.Formatter):
    """Lines, traces of errors included, without the user names and passwords of URLs: a path or an error may hold
    some."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return redact_text(super().format(record))


class JsonLines(WithoutCredentials):
    """A JSON object a line: `at` (UTC, ISO 8601), `level`, `message`, which may be of several lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
        said = {"at": at, "level": record.levelname.lower(), "message": super().format(record)}
        return json.dumps(said, ensure_ascii=False)


class ToStderr(logging.Handler):
    """Lines to whatever is stderr when they are said: a process that runs several jobs may have put another there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        try:
            with aside():
                sys.stderr.write(f"{self.format(record)}\n")
                sys.stderr.flush()
        except Exception:  # noqa: BLE001 -- what logging does with whatever ails it
            self.handleError(record)


class ToFile(logging.FileHandler):
    """Lines to the end of a file, as long as they can be written there; names of files in them may be no Unicode, and
    are written as on stderr."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, encoding="utf-8", errors="backslashreplace")
        self._is_lost = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, unless one could not be written before."""
        if not self._is_lost:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        """Tell once, in a line, of a disk that is full and the like: a log is no reason to end a job."""
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self._is_lost = True
        log.warning("no more lines go to --log-file %s (%s)", self.baseFilename, error.strerror or error)

    def close(self) -> None:
        """Close the file; what is still buffered of lines that cannot be written goes nowhere."""
        with suppress(OSError):
            super().close()


LOG_FORMATS = ("text", "json")
_CONSOLE, _FILE = "lensfeed console", "lensfeed file"
"""Names of the log's handlers."""


def start_logging(*, debug: bool = False, file: Path | None = None, layout: str = "text") -> None:
    """Send the job's lines to stderr, and to the end of a file; called by entry points only.

    `layout`: one of `LOG_FORMATS`. With `debug` traces too, Spark's own included. Raises OSError where the file cannot
    be written.
    """
    if not log.handlers:
        handler = ToStderr()
        handler.set_name(_CONSOLE)
        log.addHandler(handler)
        log.propagate = False
    ours = {handler.name: handler for handler in log.handlers if handler.name in {_CONSOLE, _FILE}}
    if _CONSOLE in ours:
        ours[_CONSOLE].setFormatter(_formatter(layout, "%H:%M:%S"))
    if _FILE in ours:  # of another job in this process
        log.removeHandler(ours[_FILE])
        ours[_FILE].close()
    if file is not None:
        to_file = ToFile(file)
        to_file.set_name(_FILE)
        to_file.setFormatter(_formatter(layout, "%Y-%m-%dT%H:%M:%S%z"))
        log.handlers.insert(0, to_file)  # what it says of itself comes before the line on stderr, which may be the last
    log.setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug and not logging.root.handlers:
        logging.root.addHandler(logging.NullHandler())  # py4j's, which logs what it raises as well
    for name in _PYSPARK_LOGGERS:
        logging.getLogger(name).disabled = not debug


def _draws() -> bool:
    """Whether stderr is a terminal that people read."""
    console = next((handler for handler in log.handlers if handler.name == _CONSOLE), None)
    return console is not None and not isinstance(console.formatter, JsonLines) and sys.stderr.isatty()


def _formatter(layout: str, times: str) -> logging.Formatter:
    return JsonLines() if layout == "json" else WithoutCredentials("%(asctime)s %(message)s", times)


class Progress:
    """Names the stage under way and keeps what each took, in seconds."""

    def __init__(self, prefix: str, run_id: str | None = None, look: Look | None = None) -> None:
        """`look`: what is under way while a stage lasts; None where that is not told of."""
        self.prefix = prefix
        self.run_id = run_id
        self.look = look
        self.outcomes: Callable[[], Mapping[str, int]] | None = None
        """What came of how many rows so far in the stage under way, which sets this where it knows."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage under that name; announces it, so that a long one is seen to have begun.

        What fails in it is noted with the stage and the run (`place_of`).
        """
        log.info("%s %s ...", self.prefix, name)
        begun = time.monotonic()
        self.outcomes = None
        telling = watched(name, self._look, self.say, in_terminal=_draws()) if self.look else nullcontext()
        try:
            with telling:
                yield
        except Exception as error:
            if not place_of(error):
                run = f"run {self.run_id}, " if self.run_id else ""
                error.add_note(f"{_PLACE}{self.prefix}, {run}stage {name!r}")
            raise
        took = time.monotonic() - begun
        self.seconds[name] = self.seconds.get(name, 0.0) + took
        log.info("%s %s done in %.1f s", self.prefix, name, took)

    def _look(self) -> UnderWay | None:
        now = self.look() if self.look else None
        return replace(now, outcomes=self.outcomes()) if now and self.outcomes else now

    def say(self, text: str) -> None:
        """One line."""
        log.info("%s %s", self.prefix, text)


_PLACE = "in "


def place_of(error: BaseException) -> str:
    """Where an error came from: what the job was at, its run and its stage; empty where it came from no stage."""
    notes = (str(note) for note in getattr(error, "__notes__", ()))
    return next((note.removeprefix(_PLACE) for note in notes if note.startswith(_PLACE)), "")
