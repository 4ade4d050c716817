"""The ledger: events of runs in the table `runs`, and what whoever starts next owes to runs that did not finish.

A run is `started`, then `prepared` (everything staged and audited), then `published` (live tables brought up to date;
the event names every table's version: that is what readers go by) or `discarded`. A run that was started and never
prepared is discarded by the next one; a prepared one is rolled forward, for its staging folder says all.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from jobs.landing import Landing


@dataclass(frozen=True)
class Versions:
    """The versions of everything that decides what a warehouse holds."""

    policy_version: str
    model_version: str
    text_model_version: str
    rule_version: str
    canonical_version: str
    alignment_version: str | None = None
    """Null where pictures and texts are not compared."""


@dataclass(frozen=True)
class Event:
    """One row of `runs`; see schemas.tables.RUNS."""

    run_id: str
    job: str
    event: str
    ingest_dates: tuple[dt.date, ...]
    lease_generation: int
    seq: int = 0
    at: dt.datetime | None = None
    table_versions: Mapping[str, int] | None = None
    counts: Mapping[str, int] | None = None
    metrics: Mapping[str, float] | None = None
    config_digest: str | None = None
    inputs_digest: str | None = None
    policy_version: str | None = None
    model_version: str | None = None
    text_model_version: str | None = None
    rule_version: str | None = None
    canonical_version: str | None = None
    alignment_version: str | None = None
    detail: str | None = None


@dataclass
class Ledger:
    """Events in order; appended to by the holder of the lease only."""

    landing: Landing
    lease_generation: int
    events: list[Event] = field(default_factory=list)

    def load(self) -> "Ledger":
        """Read the events so far."""
        rows = self.landing.read("runs").orderBy("seq").collect()
        self.events = [Event(**(row.asDict() | {"ingest_dates": tuple(row["ingest_dates"])})) for row in rows]
        return self

    def append(self, event: Event) -> Event:
        """Write one event; it is durable when this returns."""
        seq = self.events[-1].seq + 1 if self.events else 1
        now = dt.datetime.now(dt.UTC)
        numbered = replace(event, seq=seq, at=now, lease_generation=self.lease_generation)
        row: dict[str, Any] = asdict(numbered) | {"ingest_dates": list(numbered.ingest_dates)}
        self.landing.append("runs", [row])
        self.events.append(numbered)
        return numbered

    def unfinished(self) -> list[Event]:
        """The last event of every run that is neither published nor discarded, oldest first."""
        last = {event.run_id: event for event in self.events}
        unfinished = [event for event in last.values() if event.event in {"started", "prepared"}]
        return sorted(unfinished, key=lambda event: event.seq)

    def last_published(self) -> Event | None:
        """The event that readers go by."""
        return next((event for event in reversed(self.events) if event.event == "published"), None)

    def published_for(self, date: dt.date) -> Event | None:
        """The newest published run that took that date from its manifest (revisions of it have no inputs)."""
        published = (
            e for e in reversed(self.events) if e.event == "published" and e.inputs_digest and date in e.ingest_dates
        )
        return next(published, None)

    def recover(self) -> Sequence[Event]:
        """Discard runs that were never prepared, roll prepared ones forward; returns the events written."""
        written = []
        for event in self.unfinished():
            if event.event == "prepared":
                written.append(self.publish(event))
            else:
                self.landing.discard(event.run_id)
                written.append(self.append(replace(event, event="discarded", detail="never prepared")))
        return written

    def publish(self, prepared: Event, *, keep_staging: bool = False) -> Event:
        """Apply a prepared run to the live tables and say so; may be repeated after a kill anywhere."""
        versions = self.landing.apply(prepared.run_id)
        published = self.append(replace(prepared, event="published", table_versions=versions))
        if not keep_staging:
            self.landing.discard(prepared.run_id)
        return published
