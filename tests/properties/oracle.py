"""A warehouse as a plain program: what nights, forced dates, retries, re-decisions, verdicts, rollbacks leave behind.

`tests.model` says what follows from facts; this page says which facts each job adds or replaces, and when it asks the
web again. It is the oracle of `test_sequences`: no Spark, no files, a few dictionaries.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tests import model

TRANSIENT = {"http_5xx", "rate_limited"}
"""Of the failures that the pages of these worlds have, those worth asking again."""


@dataclass(frozen=True)
class Page:
    """How a path answers on a day: an image, a failure, or a redirect to another path."""

    image: str | None = None
    failure: str | None = None
    redirect: str | None = None


@dataclass(frozen=True)
class Manifested:
    """A manifest row."""

    path: str
    title: str = ""
    licence: str | None = None
    expected: str | None = None  # image_id


@dataclass(frozen=True)
class Rules:
    """A policy of these worlds."""

    name: str
    blocked_images: frozenset[str] = frozenset()
    doubtful_images: frozenset[str] = frozenset()
    refused_paths: frozenset[str] = frozenset()
    refused_word: str | None = None
    refused_licence: str | None = None


@dataclass(frozen=True)
class Recorded:
    """What asking for a URL on a date came to, as stored."""

    image: str | None = None
    failure: str | None = None
    hops: tuple[str, ...] = ()
    stopped: bool = False  # at a redirect into what the policy of that time refused


@dataclass(frozen=True)
class Person:
    """What a person said about an image or a sighting."""

    block: bool
    cleared: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Evidence:
    """What a rollback goes back to, as it was when a run was published."""

    published: frozenset[dt.date]
    recorded: Mapping[tuple[dt.date, str], Recorded]
    erased: frozenset[model.Key]
    brought: int  # how many runs had brought evidence by then


@dataclass
class Oracle:
    """The state of a warehouse, and of the web around it.

    Attributes:
        web: `(path, day) -> Page`.
        contents: image_id -> hashes and size of every image there is.
        manifests: rows by date, in order.
        recorded: by date and path, what was asked for.
        stored: image_ids with pixels.
        taken_down: kind (`image`, `url`) and subject (an image_id, a path) of what was asked to be taken down.
        erased: sightings of which nothing that was said is stored.
        brought: the dates of each run that asked the web, or went back to an earlier state.
    """

    web: Callable[[str, dt.date], Page]
    contents: Mapping[str, model.Content]
    manifests: Mapping[dt.date, Sequence[Manifested]]
    rules: Rules
    published: set[dt.date] = field(default_factory=set)
    recorded: dict[tuple[dt.date, str], Recorded] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    people: dict[tuple[str, str], Person] = field(default_factory=dict)
    taken_down: set[tuple[str, str]] = field(default_factory=set)
    erased: set[model.Key] = field(default_factory=set)
    brought: list[set[dt.date]] = field(default_factory=list)

    # What jobs do ------------------------------------------------------------------------------------------------

    def run_date(self, date: dt.date, now: dt.date) -> None:
        """A date from its manifest, whether for the first time or forced."""
        states = model.url_states(self.sightings())
        wanted = {row.path for key, row in self._manifested(date) if not self._is_refused(key, row)}
        known = {path for day, path in self.recorded if day == date}
        asked = wanted - (model.carried_over(date, known, states) if date in self.published else set())
        for path in asked:
            self.recorded[date, path] = self._ask(path, now)
        self.published.add(date)
        self.brought.append({date})
        self.erased = {key for key in self.erased if key[0] != date}
        self._keep({self.recorded[date, path].image for path in asked})

    def drain(self, now: dt.date) -> None:
        """Ask again for all that is owed."""
        self._ask_again(list(self.owed()), now)

    def retry_failed(self, date: dt.date, now: dt.date) -> None:
        """Ask again for what failed for now or was deferred on a date and has no later answer."""
        sightings = self.sightings()
        states = model.url_states(sightings)
        open_ = [
            s
            for s in sightings
            if s.key[0] == date and s.url and (s.outcome == "deferred" or s.failure in TRANSIENT)
            if not (s.url in states and states[s.url].key[0] > date)
        ]
        self._ask_again([(date, s.url) for s in open_ if s.url], now)

    def redecide(self, rules: Rules) -> None:
        """Another policy."""
        self.rules = rules
        self._keep(set())

    def review(self, kind: str, subject: str, said: str, seen: frozenset[str]) -> None:
        """A person's verdict."""
        before = self.people.get((kind, subject))
        if said == "withdraw":
            self.people.pop((kind, subject), None)
        else:
            cleared = before.cleared if before and not before.block else frozenset()
            self.people[kind, subject] = Person(said == "block", cleared | seen if said == "allow" else frozenset())
        self._keep(set())

    def take_down(self, kind: str, subject: str, lift: bool) -> None:
        """Somebody's request, or its lifting."""
        (self.taken_down.discard if lift else self.taken_down.add)((kind, subject))
        self._keep(set())

    def collect(self) -> None:
        """Pixels that nothing which is shown needs go."""
        self.stored &= set(model.live(self.sightings()))

    def roll_back(self, to: Evidence) -> None:
        """An earlier state of the evidence, under the policy, verdicts and takedowns of now."""
        dates = self.dates_since(to)
        self.published = (self.published - dates) | (to.published & dates)
        self.recorded = {at: found for at, found in self.recorded.items() if at[0] not in dates}
        self.recorded |= {at: found for at, found in to.recorded.items() if at[0] in dates}
        self.erased = {key for key in self.erased if key[0] not in dates} | {k for k in to.erased if k[0] in dates}
        self.brought.append(dates)
        self._keep(set())

    def evidence(self) -> Evidence:
        """As it is now."""
        return Evidence(frozenset(self.published), dict(self.recorded), frozenset(self.erased), len(self.brought))

    def dates_since(self, earlier: Evidence) -> set[dt.date]:
        """Dates of which evidence has come since then."""
        return set().union(*self.brought[earlier.brought :])

    # What follows ------------------------------------------------------------------------------------------------

    def sightings(self) -> list[model.Sighting]:
        """Every sighting of every published date, decided by the current policy and people."""
        found = []
        for date in sorted(self.published):
            for key, row in self._rows(date):
                decision, reasons, withdraws = self._own_verdict(row)
                judged = model.Row(
                    key,
                    row.path,
                    decision,
                    reasons,
                    withdraws,
                    expected_sha256=row.expected,
                    reviewer_block=self._reviewer_blocks(key),
                )
                found.append(model.sight(judged, self._answer(date, row.path)))
        return found

    def owed(self) -> dict[tuple[dt.date, str], str | None]:
        """What has to be fetched: date and path, and the image that is expected."""
        return model.owed(self.sightings(), self.stored)

    def live(self) -> dict[str, dt.date]:
        """Live images and their first_seen."""
        return {image: date for image, date in model.live(self.sightings()).items() if image in self.stored}

    def accepted(self) -> set[str]:
        """Images with an accepted sighting."""
        return {s.image_id for s in self.sightings() if s.outcome == "accepted" and s.image_id}

    # Inside ------------------------------------------------------------------------------------------------------

    def _ask(self, path: str, now: dt.date) -> Recorded:
        page, hops = self.web(path, now), []
        while page.redirect is not None:
            hops.append(page.redirect)
            if self._refused(page.redirect):
                return Recorded(hops=tuple(hops), stopped=True)
            page = self.web(page.redirect, now)
        return Recorded(page.image, page.failure, tuple(hops))

    def _ask_again(self, places: Sequence[tuple[dt.date, str]], now: dt.date) -> None:
        sightings = self.sightings()
        came = {path: self._ask(path, now) for _, path in places}
        seen = {answer.image for answer in came.values()}
        self.brought.append({date for date, _ in places})
        for date, path in set(places):
            mine = [s for s in sightings if (s.key[0], s.url) == (date, path)]
            expected = min(
                (s.image_id for s in mine if s.outcome in {"accepted", "deferred"} and s.image_id), default=None
            )
            answer = came[path]
            if expected and answer.failure in TRANSIENT:
                continue
            if expected and answer.image and answer.image != expected:
                answer = replace(answer, failure="hash_mismatch")
            self.recorded[date, path] = answer
        self._keep(seen)

    def _keep(self, seen: set[str | None]) -> None:
        """Pixels are kept only with an accepted sighting, what was said only of what is not taken down."""
        for date in self.published:
            for key, row in self._rows(date):
                image = self._shown(key, row)
                if image and ("image", image) in self.taken_down:
                    self.erased.add(key)
        self.stored = (self.stored | {image for image in seen if image}) & self.accepted()

    def _answer(self, date: dt.date, path: str) -> model.Answer:
        known = self.recorded.get((date, path))
        if known is None:
            return model.Answer(deferred=True)
        reason = next((reason for hop in known.hops if (reason := self._refused(hop))), None)
        if reason:
            return model.Answer(blocked_reason=reason)
        if known.stopped:
            return model.Answer(deferred=True)
        if known.failure:
            return model.Answer(failure=known.failure)
        assert known.image is not None
        return model.Answer(self._judged(known.image))

    def _judged(self, image: str) -> model.Content:
        person = self.people.get(("image", image), Person(False))
        decision, reasons = "allow", ()
        if image in self.rules.blocked_images:
            decision, reasons = "block", ("image_blocked",)
        elif image in self.rules.doubtful_images and "image_doubtful" not in person.cleared:
            decision, reasons = "review", ("image_doubtful",)
        if person.block:
            reasons = (*(reasons if decision == "block" else ()), "reviewer_blocked")
            decision = "block"
        if ("image", image) in self.taken_down:
            return replace(self.contents[image], decision="block", reasons=("taken_down",), taken_down=True)
        return replace(self.contents[image], decision=decision, reasons=reasons)

    def _shown(self, key: model.Key, row: Manifested) -> str | None:
        """The image that a sighting showed, whatever became of it."""
        answer = model.Answer() if self._is_refused(key, row) else self._answer(key[0], row.path)
        return answer.content.image_id if answer.content else None

    def _refused(self, path: str) -> str | None:
        """Why a path is not to be asked for; the policy's own reason comes first."""
        if path in self.rules.refused_paths:
            return "path_refused"
        return "taken_down" if ("url", path) in self.taken_down else None

    def _rows(self, date: dt.date) -> Iterator[tuple[model.Key, Manifested]]:
        """As they are stored."""
        return ((key, replace(row, title="") if key in self.erased else row) for key, row in self._manifested(date))

    def _manifested(self, date: dt.date) -> Iterator[tuple[model.Key, Manifested]]:
        return (((date, f"{date}.jsonl", number), row) for number, row in enumerate(self.manifests[date]))

    def _own_verdict(self, row: Manifested) -> tuple[str, tuple[str, ...], bool]:
        reasons = []
        if self.rules.refused_licence and row.licence == self.rules.refused_licence:
            reasons.append("licence_refused")
        if row.path in self.rules.refused_paths:
            reasons.append("path_refused")
        if ("url", row.path) in self.taken_down:
            reasons.append("taken_down")
        withdraws = bool(reasons)
        if self.rules.refused_word and self.rules.refused_word in row.title.split():
            reasons.append("word_refused")
        return ("block" if reasons else "allow"), tuple(reasons), withdraws

    def _reviewer_blocks(self, key: model.Key) -> bool:
        said = self.people.get(("sighting", f"{key[0]}/{key[1]}/{key[2]}"))
        return said is not None and said.block

    def _is_refused(self, key: model.Key, row: Manifested) -> bool:
        return self._own_verdict(row)[0] == "block" or self._reviewer_blocks(key)
