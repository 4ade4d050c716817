"""What a report shows of the tables, read through the newest published snapshot, with bounds that are kept and told.

Counts of runs come from the ledger and are exact. What only the tables know is read from each table's newest files, as
many as `MOST_BYTES` hold: at any size of the warehouse a report reads a bounded part of it, and says which (`Looked`).
Thumbnails are of images that the newest snapshot has in its feed, whichever run the report is on: what has left the
feed since is in no report made afterwards.
"""

import datetime as dt
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.reporting.runs import Run
from lensfeed.feed import nearest, vector_matrix
from lensfeed.snapshot import Portion, Snapshot, SnapshotError
from schemas.outcomes import Outcome
from schemas.policy import NSFW, NsfwRule, Policy
from schemas.settings import GateSettings
from schemas.tables import PUBLISHED
from udfs.gate.content import gate_version

_MIB = 2**20
MOST_BYTES: Mapping[str, int] = {
    "sightings": 64 * _MIB,
    "content_signals": 32 * _MIB,
    "index_feed": 128 * _MIB,
    "feed_members": 16 * _MIB,
    "clusters": 32 * _MIB,
    "images": 128 * _MIB,
}
"""Bytes of a table's newest files that a report reads."""

MOST_VECTORS = 5000
"""Vectors among which neighbours are looked for, and of which the map is made: every n-th of those read."""
HOSTS, LANGUAGES = 12, 12
CLUSTERS, MEMBERS = 12, 10
"""Contact sheets, and thumbnails on each."""
QUERIES, NEIGHBOURS = 8, 6
ON_THE_MAP = 160
THUMBNAIL_SHARES = (0.064, 0.1)
"""Width and height of a thumbnail on the map, as shares of the map's."""
BINS = 20
GROWTH_RUNS = 6
"""Published runs over which the growth of tables is shown."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Looked:
    """How much of a table was read for a section."""

    portion: Portion
    rows: int
    """Rows that it had."""

    def __str__(self) -> str:
        portion = self.portion
        if portion.is_whole:
            return f"all {self.rows:,} rows of {portion.table}"
        return (
            f"{self.rows:,} of {portion.of_rows:,} rows of {portion.table}: the newest {len(portion.paths):,} of "
            f"{portion.of_files:,} files"
        )


@dataclass(frozen=True)
class Host:
    """Rows of one host, or of all the others together."""

    name: str | None
    """None for rows without a usable URL."""
    outcomes: Mapping[Outcome, int]

    @property
    def rows(self) -> int:
        """Rows with any outcome."""
        return sum(self.outcomes.values())

    @property
    def shares(self) -> list[tuple[str, int]]:
        """Rows by outcome, in the order of `Outcome`."""
        return [(one.value, self.outcomes.get(one, 0)) for one in Outcome]


@dataclass(frozen=True)
class Reason:
    """Rows held back for a reason, and the rules of the policy that give it."""

    code: str
    outcome: str
    count: int
    rules: tuple[tuple[str, str], ...]
    """Id and comment of each."""


@dataclass(frozen=True)
class Rows:
    """The dates' rows as they stand now: re-decisions and later answers included."""

    looked: Looked
    hosts: list[Host]
    other_hosts: int
    """Hosts behind the last entry of `hosts`; 0 where all are named."""
    reasons: list[Reason]


@dataclass(frozen=True)
class Band:
    """A range of scores and what the policy makes of it."""

    low: float
    high: float
    action: str


@dataclass(frozen=True)
class Scores:
    """NSFW scores, the worst view of each content."""

    looked: Looked
    counts: list[int]
    """By bin of equal width over [0, 1]."""
    bands: list[Band]
    by_action: Mapping[str, int]
    other_gates: int
    """Rows of signals that another gate than the profile's has made, which are not counted."""


@dataclass(frozen=True)
class Shown:
    """A live image with what is said under its thumbnail."""

    image_id: str
    title: str | None = None
    url: str | None = None
    hamming: int | None = None
    hamming256: int | None = None
    cosine: float | None = None


@dataclass(frozen=True)
class Cluster:
    """A representative and its near-duplicates, nearest first."""

    representative: Shown
    members: list[Shown]
    more: int
    """Members that have no place."""


@dataclass(frozen=True)
class Clusters:
    """Groups of near-duplicates."""

    looked: Looked
    sizes: Mapping[int, int]
    """Clusters by how many images they have."""
    distances: Mapping[int, int]
    """Members by distance of their 64-bit hash to the representative's."""
    sheets: list[Cluster]


@dataclass(frozen=True)
class Point:
    """An image on the map; `x` and `y` in [0, 1]."""

    x: float
    y: float
    image: Shown | None
    """None for a point without a thumbnail."""


@dataclass(frozen=True)
class Space:
    """What the vectors of the feed look like."""

    looked: Looked
    dimension: int
    sampled: int
    """Vectors that were looked at, of images whose pixels are within reach."""
    rows: list[tuple[Shown, list[Shown]]]
    """A query and its nearest others, best first."""
    points: list[Point]
    explained: float
    """Share of the variance that the map keeps."""


@dataclass(frozen=True)
class Texts:
    """Which texts the feed's rows have."""

    looked: Looked
    masks: Mapping[str, int]
    """Rows that have it, by what it is."""
    languages: list[tuple[str | None, int]]
    other_languages: int
    cosines: list[int] | None
    """Image-text cosines by bin of equal width over [-1, 1]; None where they are not compared."""


@dataclass(frozen=True)
class TableSize:
    """A table at the newest snapshot, and how it came to that."""

    name: str
    rows: int
    bytes: int
    files: int
    growth: list[int | None]
    """Rows after each of the last runs, oldest first; None where that version is gone."""


@dataclass(frozen=True)
class Contents:
    """All that a report shows of the tables."""

    snapshot: Snapshot
    rows: Rows
    scores: Scores
    clusters: Clusters
    space: Space
    texts: Texts
    sizes: list[TableSize]
    jpegs: Mapping[str, bytes] = field(repr=False)
    """Canonical JPEGs of the images shown, by image_id."""


def gather(
    snapshot: Snapshot, runs: Sequence[Run], policy: Policy, gate: GateSettings, history: Sequence[Run]
) -> Contents:
    """Read it. `runs`: what the report is on; `history`: every published run; `gate`: whose scores count.

    Raises SnapshotError where a table cannot be read.
    """
    dates = sorted({date for run in runs for date in run.ingest_dates})
    stored = _StoredImages(snapshot)
    feed = _Feed.read(snapshot, stored.image_ids)
    clusters = _clusters(snapshot, stored.image_ids)
    space = _space(feed)
    return Contents(
        snapshot=snapshot,
        rows=_rows(snapshot, dates, policy),
        scores=_scores(snapshot, policy, gate_version(gate)),
        clusters=clusters,
        space=space,
        texts=_texts(feed),
        sizes=_sizes(snapshot, history),
        jpegs=stored.jpegs(_shown_ids(clusters, space)),
    )


def _read(
    snapshot: Snapshot, table: str, columns: Sequence[str], partitions: Mapping[str, Collection[Any]] | None = None
) -> tuple[Portion, Iterator[pa.RecordBatch]]:
    portion = snapshot.portion(table, MOST_BYTES[table], partitions)
    return portion, snapshot.batches(table, columns, portion=portion)


def _tally(counter: Counter[Any], *columns: pa.Array) -> None:
    """Count the batch's distinct combinations: memory goes by these, not by rows."""
    names = [str(number) for number in range(len(columns))]
    grouped = pa.table(list(columns), names).group_by(names).aggregate([([], "count_all")])
    for row in grouped.to_pylist():
        counter[tuple(row[name] for name in names)] += row["count_all"]


# Rows ---------------------------------------------------------------------------------------------------------------


def _rows(snapshot: Snapshot, dates: Sequence[dt.date], policy: Policy) -> Rows:
    portion, batches = _read(snapshot, "sightings", ["host", "outcome", "reasons"], {"ingest_date": dates})
    by_host: Counter[tuple[str | None, str]] = Counter()
    by_reason: Counter[tuple[str, str]] = Counter()
    for batch in batches:
        _tally(by_host, batch.column("host"), batch.column("outcome"))
        reasons = batch.column("reasons")
        _tally(by_reason, reasons.flatten(), batch.column("outcome").take(pc.list_parent_indices(reasons)))
    hosts: dict[str | None, Counter[Outcome]] = {}
    for (host, outcome), count in by_host.items():
        hosts.setdefault(host, Counter())[Outcome(outcome)] += count
    ordered = sorted(hosts.items(), key=lambda pair: (-pair[1].total(), pair[0] is None, pair[0] or ""))
    shown, rest = ordered[:HOSTS], ordered[HOSTS:]
    listed = [Host(name, outcomes) for name, outcomes in shown]
    if rest:
        together: Counter[Outcome] = sum((outcomes for _, outcomes in rest), Counter())
        listed.append(Host(f"{len(rest):,} other hosts", together))
    reasons_found = [
        Reason(code, outcome, count, tuple((rule.id, rule.comment) for rule in policy.rules if rule.reason == code))
        for (code, outcome), count in sorted(by_reason.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    return Rows(Looked(portion, by_host.total()), listed, len(rest), reasons_found)


# Scores -------------------------------------------------------------------------------------------------------------


def bands_of(policy: Policy) -> list[Band]:
    """What the policy's rules on NSFW scores make of them, from 0 up to 1."""
    rules = sorted((rule for rule in policy.rules if isinstance(rule, NsfwRule)), key=lambda rule: rule.at_least)
    bands, low, action = [], 0.0, "allow"
    for rule in rules:
        if action in {"block", rule.action}:
            continue  # the strictest rule decides: a milder one above it changes nothing
        if rule.at_least > low:
            bands.append(Band(low, rule.at_least, action))
        low, action = rule.at_least, rule.action
    return [*bands, Band(low, 1.0, action)]


def _scores(snapshot: Snapshot, policy: Policy, version: str) -> Scores:
    portion, batches = _read(snapshot, "content_signals", ["detector_version", "scores"])
    bands = bands_of(policy)
    counts = np.zeros(BINS, np.int64)
    by_action: Counter[str] = Counter()
    rows = others = 0
    for batch in batches:
        rows += batch.num_rows
        of_gate = batch.filter(pc.equal(batch.column("detector_version"), version))
        others += batch.num_rows - of_gate.num_rows
        worst = _worst(of_gate.column("scores"))
        counts += np.histogram(worst, BINS, (0.0, 1.0))[0]
        edges = np.searchsorted([band.low for band in bands], worst, side="right") - 1
        for number, count in enumerate(np.bincount(edges, minlength=len(bands))):
            by_action[bands[number].action] += int(count)
    return Scores(Looked(portion, rows), counts.tolist(), bands, by_action, others)


def _worst(scores: pa.MapArray) -> NDArray[np.float64]:
    """The highest NSFW score of each content over its views, of those that have one."""
    offsets = scores.offsets.to_numpy()
    owners = np.repeat(np.arange(len(scores)), np.diff(offsets))
    views = scores.keys.slice(offsets[0], offsets[-1] - offsets[0])
    values = scores.items.slice(offsets[0], offsets[-1] - offsets[0]).to_numpy(zero_copy_only=False)
    chosen = pc.starts_with(views, pattern=f"{NSFW}:").to_numpy(zero_copy_only=False).astype(bool)
    worst = np.full(len(scores), -np.inf)
    np.maximum.at(worst, owners[chosen], values[chosen])
    found: NDArray[np.float64] = worst[np.isfinite(worst)]
    return found


# Stored images --------------------------------------------------------------------------------------------------------


class _StoredImages:
    """Images whose pixels are within reach: those in the newest files of `images`, live or not."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._portion, batches = _read(snapshot, "images", ["image_id"])
        self.image_ids = frozenset(image_id for batch in batches for image_id in batch.column(0).to_pylist())

    def jpegs(self, image_ids: Collection[str]) -> dict[str, bytes]:
        """Canonical JPEGs by image_id, of those asked for that are within reach."""
        wanted = pc.field("image_id").isin(pa.array(sorted(image_ids), pa.string()))
        found: dict[str, bytes] = {}
        for batch in self._snapshot.batches("images", ["image_id", "pixels"], wanted, self._portion):
            found |= zip(*(column.to_pylist() for column in batch.columns), strict=True)
        return found


def _shown_ids(clusters: Clusters, space: Space) -> set[str]:
    sheets = [one for sheet in clusters.sheets for one in (sheet.representative, *sheet.members)]
    rows = [one for query, others in space.rows for one in (query, *others)]
    return {one.image_id for one in (*sheets, *rows, *(point.image for point in space.points if point.image))}


# Clusters -----------------------------------------------------------------------------------------------------------


def _clusters(snapshot: Snapshot, within_reach: Collection[str]) -> Clusters:
    columns = ["representative_id", "image_id", "url", "title", "hamming"]
    portion, batches = _read(snapshot, "feed_members", columns)
    members: dict[str, dict[str, Shown]] = {}
    rows = 0
    for batch in batches:
        rows += batch.num_rows
        for row in batch.to_pylist():
            representative = row.pop("representative_id")
            shown = members.setdefault(representative, {})
            if row["image_id"] not in shown or row["url"] < (shown[row["image_id"]].url or ""):
                shown[row["image_id"]] = Shown(**row)
    complete = {one: of for one, of in members.items() if one in of}  # else its own row is in a file not read
    sizes = Counter(len(of) for of in complete.values())
    distances = Counter(
        one.hamming
        for head, of in complete.items()
        for one in of.values()
        if one.image_id != head and one.hamming is not None
    )
    chosen = _telling(complete, within_reach)
    wide = _wide_distances(snapshot, {image_id for head in chosen for image_id in complete[head]})
    sheets = []
    for head in chosen:
        others = [
            replace(one, hamming256=wide.get(one.image_id)) for one in complete[head].values() if one.image_id != head
        ]
        others.sort(key=lambda one: (one.hamming, one.hamming256 or 0, one.image_id))
        sheets.append(Cluster(complete[head][head], others[:MEMBERS], max(0, len(others) - MEMBERS)))
    return Clusters(Looked(portion, rows), sizes, distances, sheets)


def _telling(members: Mapping[str, Mapping[str, Shown]], within_reach: Collection[str]) -> list[str]:
    """Representatives of the clusters worth looking at: half of them the largest, half those that reach farthest."""
    several = [head for head, of in members.items() if len(of) > 1 and head in within_reach]
    largest = sorted(several, key=lambda head: (-len(members[head]), head))[: CLUSTERS // 2]
    reach = {head: max(one.hamming or 0 for one in members[head].values()) for head in several}
    farthest = sorted(set(several) - set(largest), key=lambda head: (-reach[head], head))
    return largest + farthest[: CLUSTERS - len(largest)]


def _wide_distances(snapshot: Snapshot, image_ids: Collection[str]) -> dict[str, int]:
    wanted = pc.field("image_id").isin(pa.array(sorted(image_ids), pa.string()))
    portion = snapshot.portion("clusters", MOST_BYTES["clusters"])
    found: dict[str, int] = {}
    for batch in snapshot.batches("clusters", ["image_id", "hamming256"], wanted, portion):
        found |= zip(*(column.to_pylist() for column in batch.columns), strict=True)
    return found


# Feed ---------------------------------------------------------------------------------------------------------------

_MASKS = {
    "has_title": "a title",
    "has_alt_text": "an alternative text",
    "has_description": "a description",
    "has_tags": "tags",
    "has_text": "a text vector",
}


@dataclass(frozen=True)
class _Feed:
    """What was read of the feed: facts of every row, vectors of some."""

    looked: Looked
    masks: Counter[str]
    languages: Counter[str | None]
    cosines: NDArray[np.int64]
    compared: int
    images: list[Shown]
    """Some of those whose pixels are within reach."""
    vectors: Vectors
    """(N, D), of `images`."""

    @classmethod
    def read(cls, snapshot: Snapshot, within_reach: Collection[str]) -> "_Feed":
        columns = ["image_id", "title", "vector", "language", "image_text_cosine", *_MASKS]
        portion, batches = _read(snapshot, "index_feed", columns)
        reachable = pa.array(sorted(within_reach), pa.string())
        step = max(1, -(-min(portion.rows, len(within_reach)) // MOST_VECTORS))
        masks: Counter[str] = Counter()
        languages: Counter[str | None] = Counter()
        cosines = np.zeros(BINS, np.int64)
        images: list[Shown] = []
        blocks: list[Vectors] = []
        rows = shown = compared = 0
        for batch in batches:
            rows += batch.num_rows
            shown_rows = batch.filter(pc.is_in(batch.column("image_id"), reachable))
            some = shown_rows.take(pa.array(np.arange(-shown % step, shown_rows.num_rows, step)))
            shown += shown_rows.num_rows
            masks.update({meaning: pc.sum(batch.column(name)).as_py() or 0 for name, meaning in _MASKS.items()})
            counted: Counter[tuple[str | None]] = Counter()
            _tally(counted, batch.column("language"))
            languages.update({language: count for (language,), count in counted.items()})
            known = batch.column("image_text_cosine").drop_null().to_numpy()
            compared += len(known)
            cosines += np.histogram(known, BINS, (-1.0, 1.0))[0]
            if some.num_rows:
                ids, titles = some.column("image_id").to_pylist(), some.column("title").to_pylist()
                images += [Shown(image_id, title) for image_id, title in zip(ids, titles, strict=True)]
                blocks.append(vector_matrix(some.column("vector"), "vector").copy())
        vectors = np.concatenate(blocks) if blocks else np.empty((0, 0), np.float32)
        return cls(Looked(portion, rows), masks, languages, cosines, compared, images, vectors)


def _texts(feed: _Feed) -> Texts:
    ordered = sorted(feed.languages.items(), key=lambda pair: (-pair[1], pair[0] or ""))
    return Texts(
        feed.looked,
        {meaning: feed.masks[meaning] for meaning in _MASKS.values()},
        ordered[:LANGUAGES],
        sum(count for _, count in ordered[LANGUAGES:]),
        feed.cosines.tolist() if feed.compared else None,
    )


def _space(feed: _Feed) -> Space:
    values, explained = principal_plane(feed.vectors)
    places = opened_up(values)
    spread = set(_spread(places))
    points = [
        Point(float(x), float(y), feed.images[number] if number in spread else None)
        for number, (x, y) in enumerate(places)
    ]
    along = values[:, 0].argsort(kind="stable")  # so that queries are of all kinds
    step = max(1, len(along) // QUERIES)
    queries = along[step // 2 :: step][:QUERIES]
    rows = []
    if len(feed.images) > 1:
        numbers = np.arange(len(feed.images), dtype=np.int64)
        found, cosines = nearest(feed.vectors[queries], numbers, feed.vectors, NEIGHBOURS + 1)
        for query, others, alike in zip(queries, found, cosines, strict=True):
            beside = [
                replace(feed.images[other], cosine=float(cosine))
                for other, cosine in zip(others, alike, strict=True)
                if other != query
            ]
            rows.append((feed.images[query], beside[:NEIGHBOURS]))
    return Space(feed.looked, feed.vectors.shape[1], len(feed.images), rows, points, explained)


def principal_plane(vectors: Vectors) -> tuple[NDArray[np.float64], float]:
    """Where vectors (N, D) lie on the plane of their two principal components, scaled to [0, 1], (N, 2), and the share
    of the variance that the plane keeps. The sign of a component is that of its largest weight: the same on every call.
    """
    if len(vectors) < 2:
        return np.full((len(vectors), 2), 0.5), 0.0
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    total = float((centred**2).sum())
    if len(vectors) < vectors.shape[1]:
        _, axes = np.linalg.eigh(centred @ centred.T)
        components = centred.T @ axes[:, :-3:-1]
    else:
        _, axes = np.linalg.eigh(centred.T @ centred)
        components = axes[:, :-3:-1]
    lengths = np.linalg.norm(components, axis=0)
    components = components / np.where(lengths > 0, lengths, 1.0)
    strongest = components[np.abs(components).argmax(axis=0), np.arange(components.shape[1])]
    placed = centred @ (components * np.where(strongest < 0, -1.0, 1.0))
    if placed.shape[1] < 2:
        placed = np.column_stack([placed, np.zeros(len(placed))])
    explained = float((placed**2).sum()) / total if total else 0.0
    low, high = placed.min(axis=0), placed.max(axis=0)
    scaled: NDArray[np.float64] = (placed - low) / np.where(high > low, high - low, 1.0)
    return scaled, explained


def opened_up(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places (N, 2) in [0, 1], each coordinate half by its value and half by its rank: crowds open up, order stays."""
    ranks = places.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable") / max(1, len(places) - 1)
    opened: NDArray[np.float64] = (places + ranks) / 2
    return opened


def _spread(places: NDArray[np.float64]) -> list[int]:
    """Numbers of those whose thumbnails do not cover one another on the map, the first come first."""
    taken: list[int] = []
    for number, place in enumerate(places):
        apart = np.abs(places[taken] - place) >= THUMBNAIL_SHARES
        if apart.any(axis=1).all():
            taken.append(number)
            if len(taken) == ON_THE_MAP:
                break
    return taken


# Tables -------------------------------------------------------------------------------------------------------------


def _sizes(snapshot: Snapshot, history: Sequence[Run]) -> list[TableSize]:
    sizes = []
    for table in PUBLISHED:
        if table in snapshot.table_versions:
            now = snapshot.portion(table, 0)
            known: dict[int, int | None] = {snapshot.table_versions[table]: now.of_rows}
            growth = [_rows_at(snapshot, run, table, known) for run in history[-GROWTH_RUNS:]]
            sizes.append(TableSize(table, now.of_rows, now.of_bytes, now.of_files, growth))
    return sizes


def _rows_at(snapshot: Snapshot, run: Run, table: str, known: dict[int, int | None]) -> int | None:
    """The table's rows as that run published it, by version in `known`; None where the version is gone or another
    release's, or the table was not there."""
    version = run.table_versions.get(table)
    if version is not None and version not in known:
        earlier = replace(snapshot, run_id=run.run_id, table_versions=run.table_versions)
        try:
            known[version] = earlier.portion(table, 0).of_rows
        except SnapshotError:
            known[version] = None
    return None if version is None else known[version]
