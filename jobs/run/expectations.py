"""What a night is expected to look like: bounds on what it counts and measures, checked before it is prepared.

A night that breaks one is discarded, and the run says which, the bound and the value. What somebody has looked into is
accepted by name, with a reason that the ledger keeps.
"""

import argparse
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median

from jobs.config.command import JobParser
from jobs.config.errors import RunError, UsageError
from jobs.run.names import Metric
from jobs.warehouse.ledger import Event
from schemas.settings import Expectation

LEAST_NIGHTS = 3
"""Earlier nights without which there is nothing to compare with."""

Counts = Mapping[str, float]
"""A night's counts and metrics. A count that is not there is none; a metric that is not there is not known."""


@dataclass(frozen=True)
class Accepted:
    """Expectations that a night may break this once."""

    names: frozenset[str] = frozenset()
    why: str = ""


NOTHING = Accepted()


class UnexpectedError(RunError):
    """A night is not as expected, and nobody has accepted that."""


@dataclass(frozen=True)
class Expectations:
    """What a night is held against."""

    expected: Sequence[Expectation]
    earlier: Sequence[Counts]
    """Counts of the nights before, one a date."""
    accepted: Accepted = NOTHING

    def check(self, counts: Counts, *, complete: bool = True) -> str | None:
        """Hold a night's counts against what is expected; in words, which breaches were accepted and why.

        Not `complete`: the night is at its beginning, and only what its counts tell by now is looked at. Raises
        UnexpectedError for a breach that nobody has accepted.
        """
        broken = {}
        for one in self.expected:
            if complete or {*one.counts, *one.of} <= counts.keys():
                breach = _breach(one, counts, self.earlier)
                if breach is not None:
                    broken[one.name] = breach
        refused = [f"{name}: {said}" for name, said in broken.items() if name not in self.accepted.names]
        if refused:
            raise UnexpectedError(
                f"not as expected: {'; '.join(refused)}. Nothing is published. Once it is looked into: --accept-breach "
                "NAME --why TEXT"
            )
        said = "; ".join(f"{name}: {breach}" for name, breach in broken.items())
        return f"accepted though not as expected: {said} ({self.accepted.why})" if said else None


def earlier_nights(nights: Iterable[Event], date: dt.date, most: int) -> list[Counts]:
    """Counts of the `most` last of the published nights (`Ledger.nights`), of other dates, each as it was last."""
    counts: dict[tuple[dt.date, ...], Counts] = {}
    for night in nights:
        if date not in night.ingest_dates:
            counts.pop(night.ingest_dates, None)
            counts[night.ingest_dates] = {**(night.counts or {}), **(night.metrics or {})}
    return list(counts.values())[-most:]


def _breach(one: Expectation, counts: Counts, earlier: Sequence[Counts]) -> str | None:
    """In words, how a night's counts break an expectation; None where they keep it, or where it says nothing."""
    value = _value(one, counts)
    if value is None:
        return None
    what = " + ".join(one.counts) + (f" of {' + '.join(one.of)}" if one.of else "")
    found = f"{what} is {value:.4g}"
    if one.against == "earlier":
        values = [_value(one, night) for night in earlier]
        known = [before for before in values if before is not None and isfinite(before)]
        usual = median(known) if len(known) >= LEAST_NIGHTS else 0
        if not usual:
            return None
        value /= usual
        found += f", {value:.3g} times the median of {len(known)} nights ({usual:.4g})"
    # What is no number (NaN) is within no bounds.
    if one.at_least is not None and not value >= one.at_least:
        return f"{found}; at least {one.at_least:g} is expected"
    if one.at_most is not None and not value <= one.at_most:
        return f"{found}; at most {one.at_most:g} is expected"
    return None


def _value(one: Expectation, counts: Counts) -> float | None:
    """The sum, or the share; None for a share of nothing, and where something was not measured."""
    if not {*one.counts, *one.of}.intersection(Metric) <= counts.keys():
        return None
    total = sum(counts.get(name, 0) for name in one.counts)
    if not one.of:
        return total
    whole = sum(counts.get(name, 0) for name in one.of)
    return total / whole if whole else None


# Accepting -----------------------------------------------------------------------------------------------------------


def add_accepting_arguments(parser: JobParser) -> None:
    """The options by which a breach is accepted."""
    parser.add_argument(
        "--accept-breach", action="append", default=[], metavar="NAME", help="an expectation that may be broken"
    )
    parser.add_argument("--why", default="", metavar="TEXT", help="with --accept-breach: why; the ledger keeps it")


def accepted_by(options: argparse.Namespace) -> Accepted:
    """What the options accept. Raises UsageError for one without the other."""
    why = " ".join(options.why.split())
    if bool(options.accept_breach) != bool(why):
        raise UsageError("--accept-breach NAME and --why TEXT go together: the ledger keeps the reason")
    return Accepted(frozenset(options.accept_breach), why)


def check_names(accepted: Accepted, expected: Sequence[Expectation]) -> None:
    """Raises UsageError where a name that is accepted is none that is expected."""
    known = [one.name for one in expected]
    unknown = sorted(accepted.names.difference(known))
    if unknown:
        names = ", ".join(known) or "there are none"
        raise UsageError(f"--accept-breach {unknown[0]}: expected a name of run.expectations ({names})")
