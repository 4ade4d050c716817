"""The ledger: events of runs in the table `runs`, and what whoever starts next owes to runs that did not finish.

A run is `started`, then `prepared` (everything staged and audited), then `published` (live tables brought up to date;
the event names every table's version: that is what readers go by) or `discarded`. A run that was started and never
prepared is discarded by the next one; a prepared one is rolled forward, for its staging folder says all. A published
run that took contents out says so in its counts, and owes it to the disk until it is `purged`.

Events are appended under one application id of Delta's, with a version made of the lease's generation and the event's
number: once a newer holder has written anything (`take` does), what an older one appends is skipped.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from jobs.warehouse.landing import Landing
from jobs.warehouse.lease import LeaseLostError

_GENERATION = 2**32
"""Events that a generation of the lease has numbers for; as many generations fit below Delta's largest version."""
MOST_FILES = 100
"""Of events, one each: some thirty nights. With 6,400 of them, opening a warehouse took six seconds of CPU."""


@dataclass(frozen=True)
class Versions:
    """The versions of everything that decides what a warehouse holds."""

    policy_version: str
    gate_version: str
    """Of the detectors, by whose signals the policy decides contents."""
    model_version: str
    text_model_version: str
    rule_version: str
    canonical_version: str
    alignment_version: str | None = None
    """Null where images and texts are not compared."""


REMOVED = ("contents_removed", "texts_removed")
"""Counts of what a run takes out of the tables, and thereby owes to the disk."""
TEXTS_ERASED = "texts_erased"
"""Count of sightings of which a run erased what was said, for a content that was taken down; where there was none, of
rows and files in which there still is something of it. Owed to the disk, too."""


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
    gate_version: str | None = None
    model_version: str | None = None
    text_model_version: str | None = None
    rule_version: str | None = None
    canonical_version: str | None = None
    alignment_version: str | None = None
    rolled_back_to: str | None = None
    detail: str | None = None


@dataclass
class Ledger:
    """Events in order; appended to by the holder of the lease only."""

    landing: Landing
    lease_generation: int
    events: list[Event] = field(default_factory=list)

    def take(self) -> "Ledger":
        """`load`, and have nothing appended from now on by whoever held the lease before: what was read is all."""
        self._append([], 0)
        return self.load()

    def load(self) -> "Ledger":
        """Read the events so far."""
        rows = self.landing.read("runs").orderBy("seq", "lease_generation").collect()
        self.events = [Event(**(row.asDict() | {"ingest_dates": tuple(row["ingest_dates"])})) for row in rows]
        return self

    def compact(self) -> bool:
        """Put the files of events together, for there is one an event; whether that was due. For the holder."""
        return self.landing.compact("runs", MOST_FILES)

    @property
    def next_seq(self) -> int:
        """The number that the next event gets."""
        return self.events[-1].seq + 1 if self.events else 1

    def append(self, event: Event) -> Event:
        """Write one event; it is durable when this returns. LeaseLostError where a newer holder has the ledger."""
        seq, now = self.next_seq, dt.datetime.now(dt.UTC)
        numbered = replace(event, seq=seq, at=now, lease_generation=self.lease_generation)
        row: dict[str, Any] = asdict(numbered) | {"ingest_dates": list(numbered.ingest_dates)}
        self._append([row], seq)
        self.events.append(numbered)
        return numbered

    def _append(self, rows: Sequence[dict[str, Any]], seq: int) -> None:
        version = self.lease_generation * _GENERATION + seq
        if not self.landing.append("runs", rows, version=version):
            raise LeaseLostError(
                f"generation {self.lease_generation} of the lease no longer writes to the ledger of "
                f"{self.landing.storage.root}, which has seen generation {self.recorded_generation()}: another driver "
                "holds the warehouse now. If none does, the folder _lease is an older copy: delete it, and start again"
            )

    def recorded_generation(self) -> int:
        """The highest generation of the lease that has written to the ledger, 0 where none has."""
        return self.landing.recorded_version("runs") // _GENERATION

    def unfinished(self) -> list[Event]:
        """The last event of every run that is neither published nor discarded, oldest first.

        What came after that is the word of a driver that did not know.
        """
        last = {event.run_id: event for event in self.events}
        finished = {event.run_id for event in self.events if event.event in {"published", "discarded"}}
        return sorted((e for run_id, e in last.items() if run_id not in finished), key=lambda event: event.seq)

    def owing(self) -> list[Event]:
        """The `published` events of runs whose removals are still owed to the disk, oldest first."""
        last = {event.run_id: event for event in self.events if event.event in {"published", "purged"}}
        owing = [e for e in last.values() if e.event == "published" and owes(e.counts or {})]
        return sorted(owing, key=lambda event: event.seq)

    def last_published(self) -> Event | None:
        """The event that readers go by."""
        return next((event for event in reversed(self.events) if event.event == "published"), None)

    def published_for(self, date: dt.date) -> Event | None:
        """The newest published run that took that date from its manifest, and that no rollback has taken back."""
        return next((night for night in reversed(self.nights()) if date in night.ingest_dates), None)

    def published_dates(self) -> set[dt.date]:
        """Dates for which `published_for` has a run."""
        return {date for night in self.nights() for date in night.ingest_dates}

    def nights(self, until: str | None = None) -> list[Event]:
        """Published runs that took dates from their manifests (revisions of these have no inputs) and that no rollback
        had taken back by the end of the published run `until`, or by now; oldest first."""
        published = {event.run_id: event for event in self.events if event.event == "published"}
        told = [(event.run_id, event.inputs_digest is not None, event.rolled_back_to) for event in published.values()]
        return [published[run_id] for run_id in standing_nights(told, until)]

    def recover(self) -> Sequence[Event]:
        """Discard runs that were never prepared, roll prepared ones forward; returns the events written.

        A prepared run whose plan is gone cannot go forward: the live tables go back to what was published.
        """
        written = []
        for event in self.unfinished():
            if event.event == "prepared" and self.landing.has_plan(event.run_id):
                written.append(self.publish(event))
                continue
            why = "never prepared"
            if event.event == "prepared":
                before = self.last_published()
                back = self.landing.restore((before and before.table_versions) or {})
                why = f"its plan is gone; taken back from: {', '.join(back) or 'nothing, it had not been applied'}"
            written.append(self.append(replace(event, event="discarded", detail=why)))
            self.landing.discard(event.run_id)
        return written

    def publish(self, prepared: Event, *, keep_staging: bool = False) -> Event:
        """Apply a prepared run to the live tables and say so; may be repeated after a kill anywhere."""
        versions = self.landing.apply(prepared.run_id)
        published = self.append(replace(prepared, event="published", table_versions=versions))
        if not keep_staging:
            self.landing.discard(prepared.run_id)
        return published


def standing_nights(published: Sequence[tuple[str, bool, str | None]], until: str | None = None) -> list[str]:
    """Of published runs, oldest first (id, whether it took dates from manifests, the run that it went back to), the
    nights that no rollback had taken back by the end of the run `until`, or by now."""
    targets = {rolled_back_to for _, _, rolled_back_to in published} | {until}
    standing: list[str] = []
    at: dict[str | None, list[str]] = {}
    for run_id, is_night, rolled_back_to in published:
        if rolled_back_to is not None:
            standing = list(at[rolled_back_to])
        elif is_night:
            standing.append(run_id)
        if run_id in targets:
            at[run_id] = list(standing)
    return standing if until is None else at[until]


def owes(counts: Mapping[str, int]) -> bool:
    """Whether a run that has counted these takes out what has to leave the disk."""
    return any(counts.get(name) for name in (*REMOVED, TEXTS_ERASED))
