"""Out of everything that is wrapped around an error, the line that says what it was."""

import argparse
import time

import pytest
from py4j.protocol import Py4JNetworkError

from jobs.config.causes import _innermost, cause_of
from jobs.config.command import run_command, what_failed
from jobs.config.errors import RunError, UsageError
from jobs.config.progress import Progress, place_of
from tests.jobs.config.own_log import start_anew

WORKER = """org.apache.spark.SparkException: Job aborted due to stage failure: Task 1 in stage 3.0 failed 4 times, \
most recent failure: Lost task 1.3 in stage 3.0 (TID 9) (10.0.0.7 executor 2): \
org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "/x/udfs/gate/content.py", line 3, in judge
    raise ValueError("boom")

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/x/udfs/gate/content.py", line 5, in judge
    raise udfs.gate.content.GateError("no scores")
udfs.gate.content.GateError: expected 2 scores,
found 1

\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator.handlePythonException(PythonRunner.scala:581)
\t... 16 more

Driver stacktrace:
\tat org.apache.spark.scheduler.DAGScheduler.$anonfun$abortStage$3(DAGScheduler.scala:2935)
Caused by: org.apache.spark.api.python.PythonException: Traceback (most recent call last):
  File "/x/udfs/gate/content.py", line 5, in judge
    raise udfs.gate.content.GateError("no scores")
udfs.gate.content.GateError: expected 2 scores,
found 1

\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator.handlePythonException(PythonRunner.scala:581)
"""
CRASH = """org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 1.0 failed 1 times, \
most recent failure: Lost task 0.0 in stage 1.0 (TID 1) (host executor driver): \
org.apache.spark.SparkException: Python worker exited unexpectedly (crashed): Traceback unavailable
\tat org.apache.spark.api.python.BasePythonRunner.x(PythonRunner.scala:1)
Caused by: java.net.SocketException: Connection reset
\tat java.base/java.io.DataInputStream.readInt(DataInputStream.java:398)
\t... 22 more

Driver stacktrace:
\tat org.apache.spark.scheduler.DAGScheduler.x(DAGScheduler.scala:1)
"""
FILE = """org.apache.spark.SparkException: [FAILED_READ_FILE.NO_HINT] Encountered error while reading file \
file:///w/a.parquet. SQLSTATE: KD001
\tat org.apache.spark.sql.errors.QueryExecutionErrors$.x(QueryExecutionErrors.scala:1)
Caused by: java.lang.RuntimeException: file:/w/a.parquet is not a Parquet file. Expected magic number at tail
\tat org.apache.parquet.hadoop.ParquetFileReader.readFooter(ParquetFileReader.java:1)
\tSuppressed: java.io.IOException: closed
\t\tat x.Y.z(Y.java:1)
"""
PLAIN = "org.apache.spark.sql.AnalysisException: [X] no such column `a`. SQLSTATE: 42703;\n'Project ['a]\n+- Relation\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WORKER, "GateError: expected 2 scores,\nfound 1"),
        (CRASH, "SparkException: Python worker exited unexpectedly (crashed): Traceback unavailable"),
        (FILE, "RuntimeException: file:/w/a.parquet is not a Parquet file. Expected magic number at tail"),
        (PLAIN, "AnalysisException: [X] no such column `a`. SQLSTATE: 42703"),
        ("java.io.IOException: No space left on device", "IOException: No space left on device"),
        ("java.io.EOFException\n\tat a.B.c(B.java:1)", "EOFException"),
        ("x.Y$Z: message\n\tat a.B.c(B.java:1)\nCaused by: x.Y: null\n", "Y$Z: message"),
        ("", ""),
    ],
)  # fmt: skip
def test_the_innermost_cause_that_says_anything_is_told(text: str, expected: str) -> None:
    assert _innermost(text) == expected


def test_a_cause_is_one_line_that_is_not_endless() -> None:
    assert cause_of(ValueError("two\n  lines")) == "ValueError: two lines"
    assert len(cause_of(ValueError("x" * 9999))) < 2100


def test_a_jvm_that_is_gone_is_told_in_words_and_another_connection_is_not_taken_for_it() -> None:
    assert cause_of(Py4JNetworkError("Answer from Java side is empty")).startswith(
        "Spark's JVM is gone (Py4JNetworkError)"
    )
    assert cause_of(ConnectionRefusedError("no")) == "ConnectionRefusedError: no"


def test_a_cause_that_quotes_much_is_told_as_fast_as_any() -> None:
    """In many dots without an end each part was taken for the beginning of a package's name."""
    text = f"org.apache.spark.SparkException: found {'a.' * 40_000}b in org.example.Thing: x"
    begun = time.process_time()
    assert _innermost(text) == f"SparkException: found {'a.' * 40_000}b in Thing: x"
    assert time.process_time() - begun < 10


def failed_in(progress: Progress, error: Exception) -> Exception:
    with pytest.raises(type(error)) as raised, progress.stage("outer"), progress.stage("crawl and gate"):
        raise error
    return raised.value


def test_what_failed_names_date_run_and_innermost_stage() -> None:
    progress = Progress("2026-01-31", "run-1")
    expected = "2026-01-31, run run-1, stage 'crawl and gate': "
    assert what_failed(failed_in(progress, RunError("expected 2, found 1"))) == f"{expected}expected 2, found 1"
    assert what_failed(failed_in(progress, KeyError("a"))) == f"{expected}KeyError: 'a'"
    assert what_failed(failed_in(progress, UsageError("say so"))) == "say so"


@pytest.mark.parametrize("kind", [UsageError, RunError])
def test_what_others_have_said_controls_no_terminal(kind: type[Exception]) -> None:
    """A message names the columns of a manifest, which may be any file."""
    assert what_failed(kind("found:\n \x1b[2Jgr\u00f6\u00dfe\x00, \u202etxt.exe \udcff")) == (
        "found: \\x1b[2Jgr\u00f6\u00dfe\\x00, \\u202etxt.exe \\udcff"
    )
    assert place_of(ValueError()) == ""


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(("error", "code"), [(UsageError("a\nb"), 2), (RunError("a\nb"), 1), (ValueError("a\nb"), 1)])
def test_traces_are_for_those_who_ask_and_the_line_is_the_last(
    error: Exception, code: int, debug: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_anew(monkeypatch)

    def fails() -> None:
        raise error

    options = argparse.Namespace(debug=debug, log_file=None, log_format="text")
    assert run_command(fails, options) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].endswith("a b")
    assert ("Traceback (most recent call last):" in lines) == debug
    assert debug or len(lines) == 1
