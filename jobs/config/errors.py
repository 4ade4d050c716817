"""The errors that end a job with a clear line instead of a traceback."""


class UsageError(Exception):
    """Bad usage or configuration: exit code 2, nothing was touched. The message says what to do."""


class RunError(Exception):
    """The run failed: exit code 1, nothing was published."""


def printable(text: str) -> str:
    """The text with escapes for what would not be seen in a terminal, or control it."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
