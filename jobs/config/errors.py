"""The errors that end a job with a clear line instead of a traceback."""


class UsageError(Exception):
    """Bad usage or configuration: exit code 2, nothing was touched. The message says what to do."""


class RunError(Exception):
    """The run failed: exit code 1, nothing was published."""
