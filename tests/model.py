"""The design as a plain program: no Spark, brute force, everything in memory. The oracle of the end-to-end tests.

It takes the facts (sightings with their outcomes' causes, contents with their verdicts and hashes) and says what the
warehouse must hold, whatever the order in which dates were processed. Where the job and this page disagree, one of
the two is wrong, and this page is short enough to be read.
"""

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from schemas.settings import DedupSettings

Key = tuple[dt.date, str, int]


@dataclass(frozen=True)
class Hash:
    """One view of a picture in one orientation."""

    near: int  # 64 bits
    far: int  # 256 bits
    view: int = 0  # the whole, trimmed, an object; then what is cut
    hue: int = 0  # tens of degrees from 1 to 36, of a tint from 37 to 72; 0 for none
    shades: int = 0  # 1 to 8; a made-up hash has none

    @property
    def full(self) -> bool:
        """Whether it is of all that the picture shows."""
        return self.view < 3


@dataclass(frozen=True)
class Content:
    """What the gate and the decoder say of some bytes."""

    image_id: str
    decision: str  # allow, review, block
    reasons: tuple[str, ...] = ()
    taken_down: bool = False  # by a request of its own; then decision is block
    failure: str | None = None  # decode, bomb, ...: then there is no decision
    source_pixels: int = 0
    hashes: tuple["Hash", ...] = ()
    flat: bool = False
    has_vector: bool = True
    halves: tuple[str, ...] = ()  # combined rules whose content half it meets


@dataclass(frozen=True)
class Answer:
    """What fetching a URL on a date came to: a content, or a failure, or neither for now."""

    content: Content | None = None
    failure: str | None = None
    deferred: bool = False
    blocked_reason: str | None = None


@dataclass(frozen=True)
class Fetch:
    """What is recorded of asking for a URL on a date: what it came to then, and the redirects on the way."""

    answer: Answer
    hops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A manifest row with its own verdict."""

    key: Key
    url: str | None  # normalised; None where there is none that could be used
    decision: str = "allow"
    reasons: tuple[str, ...] = ()
    withdraws: bool = False
    bad: bool = False
    expected_sha256: str | None = None
    text: str | None = None
    halves: tuple[str, ...] = ()  # combined rules whose text half it meets
    cleared: tuple[str, ...] = ()  # review reasons that a person has cleared
    reviewer_block: bool = False


@dataclass(frozen=True)
class Combined:
    """A rule of the policy that needs both halves, the text's and the content's."""

    id: str
    action: str
    reason: str


@dataclass(frozen=True)
class Sighting:
    """What became of a row."""

    key: Key
    url: str | None
    outcome: str
    failure: str | None
    reasons: tuple[str, ...]
    image_id: str | None
    effect: str  # content, withdrawal, none


WITHDRAWN_BY_FAILURE = {"opt_out", "robots", "gone"}


STRICTNESS = ["allow", "review", "block"]


def recall(fetch: Fetch | None, refused: Mapping[str, str], verdicts: Mapping[str, Content]) -> Answer:
    """What a recorded fetch, made today or long ago, comes to now. `refused`: URLs that the policy refuses, with
    reasons; `verdicts`: what it says of contents, those left out of which it needs more than is stored."""
    if fetch is None:
        return Answer(deferred=True)
    answer = fetch.answer
    reason = next((refused[hop] for hop in fetch.hops if hop in refused), None)
    if reason is not None:
        return replace(answer, blocked_reason=reason)
    if answer.blocked_reason:  # allowed since, and never fetched
        return replace(answer, blocked_reason=None, deferred=True)
    content = answer.content
    if content is None or content.failure or answer.failure:
        return answer
    judged = verdicts.get(content.image_id)
    if judged is None:
        return replace(answer, deferred=True)
    return replace(answer, content=replace(judged, has_vector=content.has_vector))


def carried_over(date: dt.date, fetched: Collection[str], states: Mapping[str, "Sighting"]) -> set[str]:
    """URLs that a forced date does not ask for again, of those that its earlier run asked for: they have a later
    conclusive sighting, and what was recorded then is recalled. Everything else is asked for."""
    return {url for url in fetched if url in states and states[url].key[0] > date}


def sight(row: Row, answer: Answer | None, combined: Sequence[Combined] = ()) -> Sighting:
    """The outcome of one row."""
    refused = row.decision == "block" or row.reviewer_block

    def made(outcome: str, effect: str, failure: str | None = None, reasons: Sequence[str] = ()) -> Sighting:
        content = answer.content if answer and not refused else None
        image_id = content.image_id if content else None
        return Sighting(row.key, row.url, outcome, failure, tuple(sorted(set(reasons))), image_id, effect)

    if row.bad or row.url is None:
        return made("failed", "none", "bad_row")
    withdrawn = "withdrawal" if row.withdraws else "none"
    if refused:
        return made("blocked", withdrawn, reasons=[*row.reasons, *["reviewer_blocked"] * row.reviewer_block])
    assert answer is not None, f"{row.key}: neither blocked nor fetched"
    if answer.blocked_reason:
        return made("blocked", "withdrawal", reasons=[*row.reasons, answer.blocked_reason])
    if answer.deferred:
        return made("deferred", withdrawn)
    if answer.failure:
        return made("failed", "withdrawal" if answer.failure in WITHDRAWN_BY_FAILURE else withdrawn, answer.failure)
    content = answer.content
    assert content is not None
    if content.failure:
        return made("failed", withdrawn, content.failure)
    if row.expected_sha256 and row.expected_sha256.lower() != content.image_id:
        return made("failed", withdrawn, "hash_mismatch")
    if content.decision == "allow" and not content.has_vector:
        return made("failed", withdrawn, "embed_error")
    if content.taken_down:  # nothing that was said of it counts, for it is erased
        return made("blocked", "content", reasons=["taken_down"])
    met = [rule for rule in combined if rule.id in row.halves and rule.id in content.halves]
    met = [rule for rule in met if rule.action == "block" or rule.reason not in row.cleared]
    own = max([row.decision, *(rule.action for rule in met)], key=STRICTNESS.index)
    reasons = [*row.reasons, *(rule.reason for rule in met), *content.reasons]
    verdict = max([own, content.decision], key=STRICTNESS.index)
    outcome = {"allow": "accepted", "review": "review", "block": "blocked"}[verdict]
    if verdict == "allow":
        return made("accepted", "content")
    shows = content.decision != "allow" or own == "allow"  # a rule on texts says nothing about what the URL shows
    return made(outcome, withdrawn if row.withdraws or not shows else "content", reasons=reasons)


def url_states(sightings: Sequence[Sighting]) -> dict[str, Sighting]:
    """The last conclusive sighting of each URL: the latest date; in it a withdrawal, then an accepted one, then key."""
    rank = {"withdrawal": 0, "content": 2}
    states: dict[str, Sighting] = {}
    for url in {s.url for s in sightings if s.url}:
        mine = [s for s in sightings if s.url == url and s.effect != "none"]
        if mine:
            latest = max(s.key[0] for s in mine)
            of_date = [s for s in mine if s.key[0] == latest]
            states[url] = min(of_date, key=lambda s: (rank[s.effect] - (s.outcome == "accepted"), s.key))
    return states


def live(sightings: Sequence[Sighting]) -> dict[str, dt.date]:
    """Live images and their first_seen."""
    shown = {s.image_id for s in url_states(sightings).values() if s.outcome == "accepted" and s.effect == "content"}
    dates: dict[str, dt.date] = {}
    for s in sightings:
        if s.outcome == "accepted" and s.image_id in shown:
            assert s.image_id is not None
            dates[s.image_id] = min(s.key[0], dates.get(s.image_id, s.key[0]))
    return dates


def owed(sightings: Sequence[Sighting], stored: set[str]) -> dict[tuple[dt.date, str], str | None]:
    """What has to be fetched (again): date and URL, and the content that is expected, if one is known."""
    states = url_states(sightings)
    queue: dict[tuple[dt.date, str], str | None] = {}
    shown: dict[str, list[tuple[dt.date, str]]] = {}
    for url, state in states.items():
        if state.outcome == "accepted" and state.image_id and state.image_id not in stored:
            shown.setdefault(state.image_id, []).append((state.key[0], url))
    for image, places in shown.items():
        queue[min(places)] = image
    for s in sightings:
        if s.url and s.outcome == "deferred" and not (s.url in states and states[s.url].key[0] > s.key[0]):
            queue[s.key[0], s.url] = s.image_id or queue.get((s.key[0], s.url))
    return queue


def stored_hashes(hashes: Sequence[bytes]) -> tuple[Hash, ...]:
    """Hashes as `images` holds them: the number of the view; 64 bits; 256 bits; the hue; the shades."""
    return tuple(
        Hash(int.from_bytes(one[1:9], "big"), int.from_bytes(one[9:41], "big"), one[0], one[41], one[42])
        for one in hashes
    )


def hash_bytes(one: Hash) -> bytes:
    """The same the other way round."""
    return bytes([one.view]) + one.near.to_bytes(8, "big") + one.far.to_bytes(32, "big") + bytes([one.hue, one.shades])


def of_two_colours(one: Hash, other: Hash, max_hue_apart: int) -> bool:
    """Whether both have a hue, or both a tint, and these are further apart on the circle than so many degrees."""
    if not one.hue or not other.hue or (one.hue > 36) != (other.hue > 36):
        return False
    apart = 10 * abs(one.hue - other.hue)
    return min(apart, 360 - apart) > max_hue_apart


def is_edge(one: Hash, other: Hash, rule: DedupSettings) -> bool:
    """Whether two hashes are near and not of two colours: up to the outer distance, where both show many shades."""
    near, far = (one.near ^ other.near).bit_count(), (one.far ^ other.far).bit_count()
    if far > rule.max_hamming256 or not (one.full or other.full):
        return False
    if near <= rule.max_hamming:
        return not of_two_colours(one, other, rule.max_hue_apart)
    many = min(one.shades, other.shades) >= rule.outer_shades
    most_apart = min(rule.max_hue_apart, rule.outer_hue_apart)
    return many and near <= rule.outer_hamming and not of_two_colours(one, other, most_apart)


def always(one: Hash, other: Hash) -> bool:
    """Any two hashes are compared."""
    return True


Meeting = Callable[[Hash, Hash], bool]


def verified(a: Content, b: Content, rule: DedupSettings, meet: Meeting = always) -> tuple[int, int] | None:
    """Least distances (256, 64) of a verified near-duplicate pair, else None: a view of one, a full view of the other,
    that are compared at all. Flat pictures have no hash to speak of."""
    if a.flat or b.flat:
        return None
    edges = (
        ((one.far ^ other.far).bit_count(), (one.near ^ other.near).bit_count())
        for one in a.hashes
        for other in b.hashes
        if is_edge(one, other, rule) and meet(one, other)
    )
    return min(edges, default=None)


def clusters(
    dates: Mapping[str, dt.date], contents: Mapping[str, Content], rule: DedupSettings, meet: Meeting = always
) -> dict[str, str]:
    """image_id -> representative, over live images in the order (first_seen, source pixels descending, image_id)."""
    order = sorted(dates, key=lambda image: (dates[image], -contents[image].source_pixels, image))
    representatives: list[str] = []
    chosen: dict[str, str] = {}
    for image in order:
        candidates = [
            (*distance, place, head)
            for place, head in enumerate(representatives)
            if (distance := verified(contents[image], contents[head], rule, meet)) is not None
        ]
        if candidates:
            chosen[image] = min(candidates)[-1]
        else:
            chosen[image] = image
            representatives.append(image)
    return chosen
