"""The job's log in a test."""

import pytest

from jobs.config.progress import log


def start_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log as in a process that has not logged yet. Not a fixture: pytest adds handlers before each test's call."""
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "level", log.level)
    monkeypatch.setattr(log, "propagate", log.propagate)
