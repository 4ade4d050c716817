"""What went wrong, in the one line that says it, out of what Spark, Java and Python workers wrap around it."""

import re
from collections.abc import Iterator
from contextlib import suppress

from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError
from pyspark.errors.exceptions.captured import CapturedException

LONGEST = 2000
"""Characters of a cause that are told."""

_TRACEBACK = "Traceback (most recent call last):"
_JAVA_FRAME = re.compile(r"\s+(at\s|\.\.\. \d+ (more|common))|Suppressed: ")
_JAVA_PACKAGE = re.compile(r"(?<![\w.])(?:[a-z_][a-z0-9_]*+\.)++(?=[A-Z]\w*(?:\$\w+)*(?:: |$))")
_PYTHON_PACKAGE = re.compile(r"^(?:\w+\.)+(?=[A-Z]\w*(?:: |$))")
_BARE = re.compile(r"[\w.$]+|[\w.$]+: (null)?")
"""The name of an exception and nothing more: what it came out of says more."""
_PLAN = re.compile(r"(?<=SQLSTATE: \w{5});\s.*", re.DOTALL)
"""The plan of the query, which Spark appends to what it says of it."""
_WORKER_DIED = "Python worker exited unexpectedly"
_JOB_FAILED = re.compile(r"^SparkException: Job aborted.*?\(TID \d+\)\s*(?:\([^()]*\))?:\s*", re.DOTALL)


def cause_of(error: BaseException) -> str:
    """One line: the innermost cause that says anything, with its type where the error is not one of ours."""
    if isinstance(error, Py4JNetworkError | ConnectionError) and _is_of_the_gateway(error):
        return f"Spark's JVM is gone ({type(error).__name__}): was it killed, or out of memory?"
    text = _java_text(error)
    found = f"{type(error).__name__}: {error}" if text is None else _innermost(text)
    return _one_line(found)


def _is_of_the_gateway(error: BaseException) -> bool:
    """Whether it is the connection to the JVM that failed, and no other one."""
    trace, last = error.__traceback__, ""
    while trace is not None:
        last, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return isinstance(error, Py4JNetworkError) or last.startswith(("py4j.", "socket"))


def _java_text(error: BaseException) -> str | None:
    """Messages and traces of an error that came through the JVM; None for one that did not."""
    if isinstance(error, CapturedException):
        return error._stackTrace or error._desc
    if isinstance(error, Py4JJavaError):
        with suppress(Py4JError, OSError):  # asks the JVM, which may be gone
            return str(error).partition("\n: ")[2] or str(error)
        return str(error.errmsg)
    return None


def _innermost(text: str) -> str:
    """Of the Python worker's exception if there is one, for what is Java's is then only how it got here."""
    raised = list(_raised_in_python(text.split("\n")))
    if raised:
        return _PYTHON_PACKAGE.sub("", raised[-1])
    causes = list(_java_causes(text.split("\n")))
    telling = [cause for cause in causes if not _BARE.fullmatch(cause)]
    died = [cause for cause in telling if _WORKER_DIED in cause]  # whatever broke in the connection to it by that
    cause = (died or telling or causes or [text])[-1]
    return _JOB_FAILED.sub("", _JAVA_PACKAGE.sub("", _PLAN.sub("", cause)))


def _raised_in_python(lines: list[str]) -> Iterator[str]:
    """The exception at the end of each traceback, its message's later lines with it."""
    position = 0
    while position < len(lines):
        if not lines[position].strip().endswith(_TRACEBACK):
            position += 1
            continue
        position += 1
        while position < len(lines) and (lines[position].startswith(" ") or not lines[position]):
            position += 1
        message = []
        while position < len(lines) and lines[position].strip() and not _JAVA_FRAME.match(lines[position]):
            message.append(lines[position])
            position += 1
        if message:
            yield "\n".join(message)


def _java_causes(lines: list[str]) -> Iterator[str]:
    """The exception itself and its causes, outermost first."""
    message: list[str] = []
    for line in lines:
        is_cause = line.lstrip().startswith("Caused by: ")
        if is_cause or _JAVA_FRAME.match(line) or line.strip() == "Driver stacktrace:":
            if "".join(message).strip():
                yield "\n".join(message).strip()
            message = [line.lstrip().removeprefix("Caused by: ")] if is_cause else []
        elif message or not line.startswith("\t"):
            message.append(line)
    if "".join(message).strip():
        yield "\n".join(message).strip()


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
