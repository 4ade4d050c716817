"""Jobs that are killed at one of their commit points, in this process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jobs.warehouse.landing import Landing

COMMITS = (
    "append",
    "write_plan",
    "_write",
    "_merge",
    "_remove",
    "versions",
    "put_together",
    "vacuum",
    "purge",
    "discard",
)
"""Methods of `Landing` around which a job may be killed."""


class Killed(BaseException):
    """Stands in for SIGKILL: nobody catches it. The tests in tests/e2e kill processes for real."""


@dataclass
class Killer:
    """Kills a job at its n-th commit point, a call of one of `COMMITS`: before it and after it are two points. Whatever
    other threads of it do then, it commits nothing more."""

    at: int | None
    passed: int = 0
    dead: bool = False

    def point(self) -> None:
        self.passed += 1
        if self.dead or self.passed == self.at:
            self.dead = True
            raise Killed

    @contextmanager
    def around(self) -> Iterator["Killer"]:
        """Commit points count in here."""
        kept = {name: getattr(Landing, name) for name in COMMITS}

        def watched(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                self.point()
                result = method(*arguments, **named)
                self.point()
                return result

            return call

        for name, method in kept.items():
            setattr(Landing, name, watched(method))
        try:
            yield self
        except Killed:
            pass
        finally:
            for name, method in kept.items():
                setattr(Landing, name, method)
