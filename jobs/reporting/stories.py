"""The whole story of a URL, an image or a row of the feed across nights, as the newest published snapshot has it.

Tables are streamed with a condition on a key, by which readers pass over row groups of sorted files; of rows that may
be many the first or the newest are kept, and how many there are in all is said (`Listed`).
"""

import datetime as dt
import heapq
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from jobs.config.errors import RunError
from jobs.config.texts import plain
from lensfeed.snapshot import Snapshot
from schemas.policy import HASH_BYTES, Policy
from schemas.tables import TABLES
from udfs.credentials import redact_text, redact_url
from udfs.urls import BadUrl, host_of, named_host, normalise_url, url_id

MOST = 50
"""Rows of one kind that a story tells: of sightings, fetches and decisions the newest, of others the first."""
MOST_URLS = 10
"""URLs of an image whose own story is told: those that showed it first."""
MOST_NAMED = 10
"""Of what a part of a URL or id may mean."""
MOST_MEANT = 10_000
"""At so many the search ends: nobody looks through them."""

Row = dict[str, Any]
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_FEED_ID = re.compile(r"[0-9]{1,19}")
_LONGEST = 400
"""Characters of what was asked for that an error repeats."""
_LEAST_OF_ID, _LEAST_OF_URL = 8, 3
"""Characters of a part that is looked for."""
_PART_OF_ID = re.compile(rf"[0-9a-fA-F]{{{_LEAST_OF_ID},63}}")
_NOT_TOLD = {
    "sightings": {"description", "tags", "attributes", "expected_sha256", "normalised_url", "text_id"},
    "images": {"pixels", "phash64", "phash256"},
    "content_signals": {"phash256s", "pdqs"},
    "index_feed": {"vector", "text_vector", "tokens", "attributes"},
}
"""Columns that a story goes without: large, or of no bearing."""


@dataclass(frozen=True)
class Listed:
    """Rows that are told, and how many there are."""

    rows: list[Row]
    of: int

    @property
    def left_out(self) -> int:
        """Rows that are there and not told."""
        return self.of - len(self.rows)


@dataclass(frozen=True)
class UrlStory:
    """What became of a URL."""

    url_id: str | None
    """None for rows without a usable URL."""
    url: str | None
    sightings: Listed
    fetches: Listed
    decisions: Listed
    """On its sightings; those on contents stand with the images."""
    verdicts: list[Row]
    """What people said of its sightings."""
    state: list[Row]
    """The last conclusive sighting, if there is one."""
    owed: list[Row]
    in_feed: Listed


@dataclass(frozen=True)
class ImageStory:
    """What became of a content."""

    image_id: str
    sightings: int
    """Rows of all URLs and nights that came to it."""
    signals: list[Row]
    quarantine: list[Row]
    decisions: Listed
    verdicts: list[Row]
    stored: list[Row]
    models: list[str]
    """Models by which it has a vector."""
    cluster: list[Row]
    members: Listed
    """URLs of the cluster that it is in, nearest to the representative first."""
    feed: list[Row]
    """The row of its representative."""
    feed_id: list[Row]
    """The id that it has for good, if it was ever a representative."""
    left: list[Row]
    """Runs by which that id left the feed, oldest first: `run_id`, `job`, and `at`, when it started."""

    @property
    def is_live(self) -> bool:
        """Whether it is in the feed, by itself or behind its representative."""
        return bool(self.cluster)


@dataclass(frozen=True)
class Story:
    """All that is known of what was asked for."""

    asked: str
    run_id: str
    policy_version: str | None
    """Of the warehouse."""
    profile_policy_version: str
    """Of the profile, whose rules explain the reasons: another one, if the warehouse is under another policy."""
    urls: list[UrlStory]
    more_rows: int
    """Rows that came to the images, and are not told: of other URLs, or older."""
    images: list[ImageStory]
    takedowns: list[Row]
    rules: Mapping[str, list[Row]] = field(default_factory=dict)
    """By reason code, the rules of the profile's policy that give it: `id`, `kind`, `action`, `comment`."""

    def document(self) -> Row:
        """JSON types only."""
        document: Row = _json(asdict(self))
        return document


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _json(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_json(member) for member in value]
    if isinstance(value, dt.date | dt.datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return redact_text(value) if isinstance(value, str) else value


def tell(snapshot: Snapshot, asked: str, policy: Policy) -> Story:
    """The story of a URL, of an image_id or url_id (SHA-256 hex), or of a feed_id; where that is not found, of the one
    that begins so, or whose URL has it as a part. RunError where nothing is known, or several are meant.

    `policy`: the profile's, by whose rules reasons are explained.
    """
    reader = _Reader(snapshot)
    asked = asked.strip()
    if _SHA256.fullmatch(asked):
        urls, more, images = _by_digest(reader, asked.lower())
    elif _FEED_ID.fullmatch(asked):
        heads = reader.rows("feed_ids", pc.field("feed_id") == int(asked)) if int(asked) < 2**63 else []
        urls, more, images = _by_images(reader, [row["image_id"] for row in heads])
    else:
        urls, more, images = _by_url(reader, asked)
    if not urls and not images:
        urls, more, images = _by_part(reader, asked)
    if not urls and not images:
        raise RunError(
            f"nothing is known of {plain(redact_url(asked), _LONGEST)!r} in the warehouse {snapshot.warehouse} "
            f"as of run {snapshot.run_id}: expected a URL of a manifest or a part of one, an image_id or url_id (64 "
            f"hex characters, or the first {_LEAST_OF_ID} and more), or a feed_id"
        )
    reasons = sorted({reason for url in urls for row in url.sightings.rows for reason in row["reasons"]})
    reasons += sorted({reason for image in images for row in image.decisions.rows for reason in row["reasons"]})
    return Story(
        asked=redact_url(asked),
        run_id=snapshot.run_id,
        policy_version=snapshot.policy_version,
        profile_policy_version=policy.version,
        urls=urls,
        more_rows=more,
        images=images,
        takedowns=_takedowns(reader, asked, urls, images),
        rules={reason: _rules(policy, reason) for reason in reasons},
    )


def _rules(policy: Policy, reason: str) -> list[Row]:
    return [
        {"id": rule.id, "kind": rule.kind, "action": rule.action, "comment": rule.comment}
        for rule in policy.rules
        if rule.reason == reason
    ]


class _Reader:
    """Rows of a snapshot by a condition on their keys."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def has(self, table: str) -> bool:
        """Whether the table is known to this release and to the snapshot."""
        return table in TABLES and table in self._snapshot.table_versions

    def stream(self, table: str, columns: Sequence[str] | None, where: ds.Expression | None) -> Iterator[Row]:
        """One row at a time; maps are dicts."""
        if not self.has(table):
            return
        maps = [column.name for column in TABLES[table].columns if column.type.startswith("map<")]
        for batch in self._snapshot.batches(table, columns, where):
            for row in batch.to_pylist():
                yield row | {name: dict(row[name]) for name in maps if row.get(name) is not None}

    def rows(self, table: str, where: ds.Expression) -> list[Row]:
        """All of them: for conditions that few rows meet."""
        return list(self.stream(table, _told(table), where))

    def started(self, seqs: Sequence[int]) -> list[Row]:
        """Of runs by the numbers at which they started: `run_id`, `job` and `at`, oldest first."""
        if not seqs:
            return []
        found = self._snapshot.rows("runs", ["seq", "run_id", "job", "at"], pc.field("seq").isin(seqs)).sort_by("seq")
        rows: list[Row] = found.drop(["seq"]).to_pylist()
        return rows

    def newest(self, table: str, where: ds.Expression, *by: str) -> Listed:
        """The last of them by some columns, oldest first."""
        counted = _Counted(self.stream(table, _told(table), where))
        kept = heapq.nlargest(MOST, counted, key=_key(by))
        return Listed(kept[::-1], counted.count)

    def first(self, table: str, where: ds.Expression, *by: str) -> Listed:
        """The first of them by some columns."""
        counted = _Counted(self.stream(table, _told(table), where))
        return Listed(heapq.nsmallest(MOST, counted, key=_key(by)), counted.count)


def _told(table: str) -> list[str] | None:
    """The columns that a story has of the table; None for all."""
    left_out = _NOT_TOLD.get(table)
    return None if left_out is None else [name for name in TABLES[table].column_names if name not in left_out]


def _key(by: Sequence[str]) -> Callable[[Row], tuple[Any, ...]]:
    return lambda row: tuple(row[name] for name in by)


class _Counted:
    """Rows as they pass, and how many have."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            self.count += 1
            yield row


def _one_of(name: str, values: Sequence[str]) -> ds.Expression:
    return pc.field(name).isin(pa.array(list(values), pa.string()))


_IN_ORDER = ("ingest_date", "source_file", "row_number")


def _by_url(reader: _Reader, asked: str) -> tuple[list[UrlStory], int, list[ImageStory]]:
    try:
        normalised = normalise_url(asked)
    except BadUrl:
        return _by_raw(reader, redact_url(asked))
    story = _url_story(reader, url_id(normalised))
    if story is None:
        return [], 0, []
    shown = sorted({row["image_id"] for row in story.sightings.rows if row["image_id"]})
    return [story], 0, [_image_story(reader, image_id) for image_id in shown]


def _by_raw(reader: _Reader, url: str) -> tuple[list[UrlStory], int, list[ImageStory]]:
    """Of rows without a url_id, which are known by what the manifest says alone."""
    where = pc.field("url_id").is_null() & (pc.field("url") == url)
    sightings = reader.newest("sightings", where, *_IN_ORDER)
    return ([_of_rows_without_url(reader, sightings)] if sightings.of else []), 0, []


def _by_part(reader: _Reader, asked: str) -> tuple[list[UrlStory], int, list[ImageStory]]:
    """What begins with it as an id, or has it in its URL. Raises RunError, which names some, where these are several.

    What was asked for stands here with its credentials, if it has any, and so is no part of a stored URL.
    """
    meant: dict[str, str] = {}
    """By id, or by URL where there is none: what it is, in words."""
    if _PART_OF_ID.fullmatch(asked):
        meant = _beginning_with(reader, asked.lower())
    if not meant and len(asked) >= _LEAST_OF_URL:
        columns, where = ["url", "url_id"], pc.match_substring(pc.field("url"), asked)
        for row in reader.stream("sightings", columns, where):
            key = row["url_id"] or row["url"]
            meant[key] = f"{plain(row['url'])} ({'url_id ' + key if row['url_id'] else 'no usable URL'})"
            if len(meant) > MOST_MEANT:
                break
    if len(meant) > 1:
        count = f"{len(meant)}" if len(meant) <= MOST_MEANT else f"more than {MOST_MEANT}"
        named = "; ".join(sorted(meant.values())[:MOST_NAMED])
        more = "; ..." if len(meant) > MOST_NAMED else ""
        raise RunError(f"{plain(redact_text(asked))!r} may mean {count}: {named}{more}. Ask for one of them")
    for key in meant:
        return _by_digest(reader, key) if _SHA256.fullmatch(key) else _by_raw(reader, key)
    return [], 0, []


def _beginning_with(reader: _Reader, start: str) -> dict[str, str]:
    """Ids of images and URLs that begin so, in words."""
    meant: dict[str, str] = {}
    for name in ("image_id", "url_id"):
        column = pc.field(name)
        # Bounds, not a prefix: by those readers pass over row groups.
        for row in reader.stream("sightings", ["url", name], (column >= start) & (column < f"{start}g")):
            meant.setdefault(row[name], f"{name} {row[name]} ({plain(row['url'])})")
            if len(meant) > MOST_MEANT:
                return meant
    return meant


def _by_digest(reader: _Reader, digest: str) -> tuple[list[UrlStory], int, list[ImageStory]]:
    story = _url_story(reader, digest)
    if story is not None:
        shown = sorted({row["image_id"] for row in story.sightings.rows if row["image_id"]})
        return [story], 0, [_image_story(reader, image_id) for image_id in shown]
    return _by_images(reader, [digest])


def _by_images(reader: _Reader, image_ids: Sequence[str]) -> tuple[list[UrlStory], int, list[ImageStory]]:
    urls: list[UrlStory] = []
    images: list[ImageStory] = []
    told = rows = 0
    for image_id in image_ids:
        first: dict[str, tuple[Any, ...]] = {}
        for row in reader.stream("sightings", ["url_id", *_IN_ORDER], pc.field("image_id") == image_id):
            rows += 1
            key = tuple(row[name] for name in _IN_ORDER)
            first[row["url_id"]] = min(key, first.get(row["url_id"], key))
            if len(first) > 10 * MOST_URLS:  # an image may be shown at a million URLs
                first = _earliest(first)
        stories = [story for one in _earliest(first) if (story := _url_story(reader, one)) is not None]
        told += sum(1 for story in stories for row in story.sightings.rows if row["image_id"] == image_id)
        urls += stories
        image = _image_story(reader, image_id)
        if rows or image.signals or image.decisions.of or image.feed_id or image.quarantine:
            images.append(image)
    return urls, max(0, rows - told), images


def _earliest(first: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return dict(sorted(first.items(), key=lambda pair: pair[1])[:MOST_URLS])


def _url_story(reader: _Reader, one: str) -> UrlStory | None:
    of_url = pc.field("url_id") == one
    sightings = reader.newest("sightings", of_url, *_IN_ORDER)
    fetches = reader.newest("fetches", of_url, "ingest_date")
    if not sightings.of and not fetches.of:
        return None
    url = sightings.rows[-1]["url"] if sightings.rows else fetches.rows[-1]["url"]
    subjects = _subjects(sightings)
    return UrlStory(
        url_id=one,
        url=url,
        sightings=sightings,
        fetches=fetches,
        decisions=_decisions(reader, "sighting", subjects),
        verdicts=_verdicts(reader, "sighting", subjects),
        state=reader.rows("url_state", of_url),
        owed=reader.rows("refetch_queue", of_url),
        in_feed=reader.first("feed_members", of_url, "image_id"),
    )


def _of_rows_without_url(reader: _Reader, sightings: Listed) -> UrlStory:
    nothing = Listed([], 0)
    subjects = _subjects(sightings)
    decisions, verdicts = _decisions(reader, "sighting", subjects), _verdicts(reader, "sighting", subjects)
    return UrlStory(None, sightings.rows[-1]["url"], sightings, nothing, decisions, verdicts, [], [], nothing)


def _subjects(sightings: Listed) -> list[str]:
    """How decisions name sightings."""
    return [f"{row['ingest_date']}/{row['source_file']}/{row['row_number']}" for row in sightings.rows]


def _decisions(reader: _Reader, kind: str, subjects: Sequence[str]) -> Listed:
    where = (pc.field("subject_kind") == kind) & _one_of("subject_id", subjects)
    return reader.newest("decisions", where, "decided_at", "subject_id", "source")


def _verdicts(reader: _Reader, kind: str, subjects: Sequence[str]) -> list[Row]:
    return reader.rows("overrides", (pc.field("subject_kind") == kind) & _one_of("subject_id", subjects))


def _image_story(reader: _Reader, image_id: str) -> ImageStory:
    of_image = pc.field("image_id") == image_id
    cluster = reader.rows("clusters", of_image)
    heads = [row["representative_id"] for row in cluster]
    feed_id = reader.rows("feed_ids", of_image)
    gone = reader.rows("feed_tombstones", pc.field("feed_id").isin([row["feed_id"] for row in feed_id]))
    return ImageStory(
        image_id=image_id,
        sightings=sum(1 for _ in reader.stream("sightings", ["row_number"], of_image)),
        signals=reader.rows("content_signals", of_image),
        quarantine=reader.rows("quarantine", of_image),
        decisions=_decisions(reader, "image", [image_id]),
        verdicts=_verdicts(reader, "image", [image_id]),
        stored=reader.rows("images", of_image),
        models=sorted(row["model_version"] for row in reader.stream("embeddings", ["model_version"], of_image)),
        cluster=cluster,
        members=reader.first("feed_members", _one_of("representative_id", heads), "hamming", "image_id", "url"),
        feed=reader.rows("index_feed", _one_of("image_id", heads)),
        feed_id=feed_id,
        left=reader.started([row["gone_seq"] for row in gone]),
    )


def _takedowns(reader: _Reader, asked: str, urls: Sequence[UrlStory], images: Sequence[ImageStory]) -> list[Row]:
    """Requests that name the URL, one of its hosts' domains, a content, or a hash that is near one."""
    if not reader.has("takedowns"):
        return []
    named = {asked, *(image.image_id for image in images)}
    for story in urls:
        named |= {one for one in (story.url, story.url_id) if one}
        for row in story.sightings.rows:
            named |= _domains(row["host"])
    try:
        normalised = normalise_url(asked)
        named |= {normalised, url_id(normalised)} | _domains(host_of(normalised))
    except BadUrl:
        pass
    of_images = _one_of("image_id", [image.image_id for image in images])
    hashes = list(reader.stream("content_signals", ["phash256s", "pdqs"], of_images))
    return [
        row for row in reader.stream("takedowns", None, None) if row.get("subject") in named or _is_near(row, hashes)
    ]


def _is_near(takedown: Row, hashes: Sequence[Row]) -> bool:
    """Whether a hash that is to be taken down is within its distance of one of the contents, however turned."""
    most = takedown.get("max_distance")
    column = {"phash256": "phash256s", "pdq": "pdqs"}.get(str(takedown.get("kind")))
    if most is None or column is None:
        return False
    wanted = int(str(takedown["subject"]), 16)
    turned = [
        row[column][start : start + HASH_BYTES]
        for row in hashes
        if row[column]
        for start in range(0, len(row[column]), HASH_BYTES)
    ]
    return any((int.from_bytes(one) ^ wanted).bit_count() <= most for one in turned)


def _domains(host: str | None) -> set[str]:
    """The host and the domains above it."""
    labels = named_host(host).split(".") if host else []
    return {".".join(labels[start:]) for start in range(len(labels))}
