"""Why two images are, or are not, in one cluster, as the newest published snapshot has them.

Hashes and clusters are read; buckets, distances and edges are worked out from the hashes by the functions with which
the job decides (`udfs.images.minhash`), as it does itself for groups that it has hashes of. The index (`lsh_bands`),
which follows from them and is long, is not read.
"""

import datetime as dt
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from jobs.config.errors import UsageError
from lensfeed.snapshot import Snapshot
from schemas.settings import HASHED_VIEWS, DedupSettings
from udfs.images.minhash import (
    HASH_BITS,
    Compared,
    are_near,
    band_keys,
    close_pairs,
    hamming64,
    hamming256,
    hash_words,
    hues_apart,
    most_apart,
    signatures,
    verified_pairs,
)
from udfs.images.phash import ViewHash, rule_version

SHORTEST_PREFIX = 8
"""Characters of an image_id that are enough where no other begins with them."""
AMBIGUOUS_SHOWN = 5
"""Images that an error message lists."""

_PREFIX = re.compile(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}")
_AFTER_HEX = "g"
_KNOWN_BY = ("images", "content_signals", "sightings")
"""Tables that know an image which is not live."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Image:
    """A live image: its hashes, and where it stands."""

    image_id: str
    hashes: tuple[ViewHash, ...]
    """Of the views that the rule looks at, each in its canonical orientations, best first."""
    upright: tuple[int, bytes] | None
    """64 and 256 bits of the whole, as it is; None where no pixels are stored."""
    size: tuple[int, int] | None
    """Stored width and height."""
    is_flat: bool
    flatness: float
    group_id: str
    representative_id: str
    hamming: int
    """Distance to the representative."""
    hamming256: int
    first_seen: dt.date
    source_pixels: int

    @property
    def is_representative(self) -> bool:
        """Whether it stands for itself."""
        return self.representative_id == self.image_id

    @property
    def place(self) -> tuple[dt.date, int, str]:
        """Where it stands in the order in which images become representatives (`jobs.stages.clusters.place`)."""
        return self.first_seen, -self.source_pixels, self.image_id

    def views(self) -> Iterator[tuple[int, list[int]]]:
        """Each view that it has, and the places of that view's hashes."""
        for view in sorted({one.view for one in self.hashes}):
            yield view, [number for number, one in enumerate(self.hashes) if one.view == view]

    def orientation(self, number: int) -> tuple[int, int]:
        """Which orientation of its view a hash is of, from 1, and in how many that is hashed."""
        same = [place for place, one in enumerate(self.hashes) if one.view == self.hashes[number].view]
        return same.index(number) + 1, len(same)

    def is_turned(self, number: int) -> bool | None:
        """Whether a hash of the whole is of it flipped or turned; None of other views, of which nothing says."""
        one = self.hashes[number]
        if not one.is_whole or self.upright is None:
            return None
        return (one.phash64, one.phash256) != self.upright


@dataclass(frozen=True)
class HashPair:
    """A hash of one image and a hash of another, one of the two of a full view."""

    first: int
    """Place among the first image's hashes."""
    second: int
    hamming: int
    hamming256: int
    bands: int
    """In which the two share a bucket: with one they are compared."""
    hues_apart: int
    """Degrees; 0 where one of the two is of no colour."""
    most_apart: int
    """Degrees that they may be apart at this distance."""
    is_near: bool
    """By both distances, as far as the shades of the two allow."""
    is_edge: bool
    """Near, not of two colours, and compared."""


class Obstacle(StrEnum):
    """Why no edge joins two images; where several do, the first of these."""

    FLAT = "flat"
    """One of them is: it has no bands."""
    TWO_COLOURS = "two_colours"
    """Their nearest hashes are near enough, and of hues that are too far apart."""
    NO_BUCKET = "no_bucket"
    """Their nearest hashes are near enough, and share no bucket."""
    TOO_FAR = "too_far"
    """Their nearest hashes are too far apart."""


@dataclass(frozen=True)
class Pair:
    """Two images and what the rule says of them, whoever else there is."""

    first: Image
    second: Image
    hashes: tuple[HashPair, ...]
    """Every pair of hashes that may be compared: edges first, then what is near, and the least distances. None where
    one of the two is flat: it is not in the index."""

    @property
    def is_one_group(self) -> bool:
        """Whether all their hashes are equal: such images have the same neighbours."""
        return self.first.group_id == self.second.group_id

    @property
    def is_candidate(self) -> bool:
        """Whether the job compares them."""
        return any(one.bands for one in self.hashes)

    @property
    def edge(self) -> HashPair | None:
        """The edge of least distance, 256 bits first, which is what the job goes by; None where there is none."""
        return next((one for one in self.hashes if one.is_edge), None)

    @property
    def is_joined(self) -> bool:
        """Whether one may stand behind the other."""
        return self.is_one_group or self.edge is not None

    @property
    def obstacle(self) -> Obstacle | None:
        """What keeps them apart; None where they are joined."""
        if self.is_joined:
            return None
        if self.first.is_flat or self.second.is_flat:
            return Obstacle.FLAT
        least = self.hashes[0]
        if not least.is_near:
            return Obstacle.TOO_FAR
        return Obstacle.TWO_COLOURS if least.hues_apart > least.most_apart else Obstacle.NO_BUCKET

    @property
    def distances(self) -> tuple[int, int] | None:
        """By which one would stand behind the other: of 256 and of 64 bits; None where it may not."""
        if self.is_one_group:
            return 0, 0
        return None if self.edge is None else (self.edge.hamming256, self.edge.hamming)

    def in_order(self) -> tuple[Image, Image]:
        """The one that came first, by the order of the clusters, and the other one."""
        return (self.first, self.second) if self.first.place <= self.second.place else (self.second, self.first)

    def sides(self, one: HashPair) -> tuple[tuple[Image, int], tuple[Image, int]]:
        """Each image with the place of its hash in a pair of hashes."""
        return (self.first, one.first), (self.second, one.second)

    def views(self, one: HashPair) -> tuple[int, int]:
        """The views that a pair of hashes is of."""
        first, second = (image.hashes[number].view for image, number in self.sides(one))
        return first, second

    def by_views(self) -> list[tuple[tuple[int, int], list[HashPair]]]:
        """Pairs of hashes by the views that they are of, in the order of these; the least of each come first."""
        found: dict[tuple[int, int], list[HashPair]] = {}
        for one in self.hashes:
            found.setdefault(self.views(one), []).append(one)
        return sorted(found.items())

    def upright(self) -> tuple[int, int] | None:
        """How far the wholes are apart as they are, not turned to be hashed: of 64 bits and of 256; None where one has
        no pixels stored, or is flat."""
        if self.first.upright is None or self.second.upright is None or not self.hashes:
            return None
        (near, far), (other_near, other_far) = self.first.upright, self.second.upright
        hamming = int(hamming64(np.array([near]), np.array([other_near]))[0])
        return hamming, int(hamming256(hash_words([far]), hash_words([other_far]))[0])

    def is_turned(self, settings: DedupSettings) -> bool:
        """Whether one is the other flipped or turned: joined as wholes, and not near as they are."""
        upright, edge = self.upright(), self.edge
        if upright is None or edge is None or not all(image.hashes[at].is_whole for image, at in self.sides(edge)):
            return False
        return upright[0] > settings.outer_hamming or upright[1] > settings.max_hamming256


class Because(StrEnum):
    """Why two images are, or are not, in one cluster."""

    BEHIND = "one_behind_the_other"
    THIRD = "both_behind_a_third"
    NOT_JOINED = "nothing_joins_them"
    NO_HEAD = "earlier_is_no_representative"
    """They might be joined, but only representatives gather others."""
    NEARER = "later_chose_a_nearer"
    """They might be joined, but the later one stands behind a representative that is nearer."""
    OTHER_RULE = "another_rule"
    """They would be joined by the rule that is told of, which is not the warehouse's."""


@dataclass(frozen=True)
class Explanation:
    """All that is told of two images."""

    run_id: str
    settings: DedupSettings
    rule: str
    """Of these settings, by the pixels of the warehouse."""
    warehouse_rule: str | None
    """By which the clusters of the warehouse were made."""
    pair: Pair
    behind: tuple[Pair, ...]
    """What else decides: where the two stand in one cluster of a third, each of them and that one; where they stand in
    two clusters, the two representatives. Nothing where that is the pair itself."""

    @property
    def is_together(self) -> bool:
        """Whether both stand in one cluster."""
        return self.pair.first.representative_id == self.pair.second.representative_id

    @property
    def is_warehouse_rule(self) -> bool:
        """Whether the clusters were made by the rule that is told of."""
        return self.rule == self.warehouse_rule

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """All that decided."""
        return (self.pair, *self.behind)

    @property
    def names(self) -> dict[str, str]:
        """What each image is called, by its id: A and B are those asked for, R represents both, RA and RB one of them
        each."""
        first, second = self.pair.first, self.pair.second
        names = {first.image_id: "A", second.image_id: "B"}
        if self.is_together:
            names.setdefault(first.representative_id, "R")
        else:
            names.setdefault(first.representative_id, "RA")
            names.setdefault(second.representative_id, "RB")
        return names

    @property
    def images(self) -> dict[str, Image]:
        """By their names."""
        there = {one.image_id: one for pair in self.pairs for one in (pair.first, pair.second)}
        return {name: there[image_id] for image_id, name in self.names.items()}

    @property
    def because(self) -> Because:
        """Why the two are in one cluster or in two."""
        if self.is_together:
            return Because.THIRD if self.behind else Because.BEHIND
        if not self.pair.is_joined:
            return Because.NOT_JOINED
        earlier, later = self.pair.in_order()
        if not earlier.is_representative:
            return Because.NO_HEAD
        return Because.NEARER if not later.is_representative and self._chose_nearer(later) else Because.OTHER_RULE

    def _chose_nearer(self, later: Image) -> bool:
        """Whether an image's representative is before the other image in what it chooses by: distance, then order."""
        heads = [one for other in self.behind for one in (other.first, other.second)]
        head = next(one for one in heads if one.image_id == later.representative_id)
        earlier, _ = self.pair.in_order()
        distances = self.pair.distances
        return distances is not None and (later.hamming256, later.hamming, head.place) < (*distances, earlier.place)


def explain(snapshot: Snapshot, first: str, second: str, settings: DedupSettings) -> Explanation:
    """What there is to say of two images, given by image_id or a prefix of it that no other live image has.

    `settings`: the rule that is told of; the one of the warehouse, if it is to explain the clusters there.
    Raises UsageError for what is no prefix, not known, not unique, or the same image twice, and for an image that has
    no hashes; SnapshotError where the snapshot cannot be read.
    """
    first, second = _named(snapshot, first), _named(snapshot, second)
    if first == second:
        raise UsageError(f"both name image {first}: name two images")
    images = _read(snapshot, (first, second), settings)
    heads = {image.representative_id for image in images.values()}
    images |= _read(snapshot, heads - images.keys(), settings)
    one, other = images[first], images[second]
    if one.representative_id == other.representative_id:
        head = images[one.representative_id]
        behind = [] if head in (one, other) else [(one, head), (other, head)]
    else:
        behind = [(images[one.representative_id], images[other.representative_id])]
    return Explanation(
        run_id=snapshot.run_id,
        settings=settings,
        rule=rule_version(settings, snapshot.canonical_version or ""),
        warehouse_rule=snapshot.rule_version,
        pair=compare(one, other, settings),
        behind=tuple(compare(*ends, settings) for ends in behind if ends != (one, other)),
    )


def compare(first: Image, second: Image, settings: DedupSettings) -> Pair:
    """Two images by the rule: the same functions, on the same rows, as in the job's buckets."""
    if first.is_flat or second.is_flat:
        return Pair(first, second, ())
    hashes = [*first.hashes, *second.hashes]
    hues, shades = np.array([(one.hue, one.shades) for one in hashes], np.uint8).reshape(-1, 2).T
    compared = Compared(
        np.array([one.phash64 for one in hashes], np.int64), hash_words([one.phash256 for one in hashes]), hues, shades
    )
    is_full = np.array([one.is_full for one in hashes], np.bool_)
    # As rows of the index: a hash in each of its buckets.
    keys = band_keys(signatures(compared.phash64, settings), settings).reshape(-1)
    order = np.argsort(keys, kind="stable")
    row, keys = np.repeat(np.arange(len(hashes)), settings.bands)[order], keys[order]
    split = len(first.hashes)
    in_buckets = compared.take(row)
    met = _across(close_pairs(keys, in_buckets.phash64, HASH_BITS, is_full=is_full[row]), row, split)
    edges = _across(verified_pairs(keys, in_buckets, settings, is_full=is_full[row]), row, split)
    ones, others = np.nonzero(is_full[:split, None] | is_full[None, split:])
    others = others + split
    left, right = compared.take(ones), compared.take(others)
    near = hamming64(left.phash64, right.phash64)
    columns = (
        *(ones, others, near, hamming256(left.phash256, right.phash256)),
        *(hues_apart(left.hues, right.hues), most_apart(near, settings), are_near(left, right, settings)),
    )
    found = []
    for one, other, hamming, wide, apart, most, is_near in zip(*(column.tolist() for column in columns), strict=True):
        ends = (one, other)
        found.append(HashPair(one, other - split, hamming, wide, met[ends], apart, most, is_near, edges[ends] > 0))
    found.sort(key=lambda pair: (not pair.is_edge, not pair.is_near, pair.hamming256, pair.hamming))
    return Pair(first, second, tuple(found))


def _across(
    pairs: Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]], row: NDArray[np.int64], split: int
) -> Counter[tuple[int, int]]:
    """In how many buckets two hashes were found, one of each image: those before `split` are the first one's."""
    found: Counter[tuple[int, int]] = Counter()
    for block in pairs:
        ends = np.sort(np.stack([row[side] for side in block]), axis=0)
        found.update((one, other) for one, other in ends.T.tolist() if one < split <= other)
    return found


def _named(snapshot: Snapshot, given: str) -> str:
    """The image_id that begins so: of a live image, for others are in no cluster."""
    prefix = given.strip().lower()
    if not _PREFIX.fullmatch(prefix):
        raise UsageError(
            f"{given!r} names no image: expected an image_id (64 hex characters), or {SHORTEST_PREFIX} or more of its "
            "first characters"
        )
    where = (pc.field("image_id") >= prefix) & (pc.field("image_id") < prefix + _AFTER_HEX)
    found = _ids(snapshot, "clusters", where)
    if len(found) > 1:
        shown = ", ".join(sorted(found)[:AMBIGUOUS_SHOWN])
        raise UsageError(
            f"{prefix} is the beginning of {len(found)} images: {shown}{', ...' * (len(found) > AMBIGUOUS_SHOWN)}"
        )
    if found:
        return found.pop()
    for table in _KNOWN_BY:
        if others := _ids(snapshot, table, where):
            raise UsageError(
                f"image {min(others)} is not live as of run {snapshot.run_id}, so that it is in no cluster; "
                "python -m jobs.why tells its story"
            )
    raise UsageError(f"no image {prefix} is known in the warehouse {snapshot.warehouse} as of run {snapshot.run_id}")


def _ids(snapshot: Snapshot, table: str, where: ds.Expression) -> set[str]:
    found: set[str] = set()
    for batch in snapshot.batches(table, ["image_id"], where):
        found |= set(batch.column("image_id").to_pylist())
    return found


def _read(snapshot: Snapshot, image_ids: Collection[str], settings: DedupSettings) -> dict[str, Image]:
    """Live images by their ids. Raises UsageError for one that is not there."""
    hashes = _rows(snapshot, "image_hashes", image_ids, ("hashes", "flat", "flatness", "group_id"))
    standing = _rows(
        snapshot,
        "clusters",
        image_ids,
        ("representative_id", "hamming", "hamming256", "first_seen", "source_pixels"),
    )
    stored = _rows(snapshot, "images", image_ids, ("width", "height", "phash64", "phash256"))
    for image_id in image_ids:
        if image_id not in hashes or image_id not in standing:
            missing = "image_hashes" if image_id not in hashes else "clusters"
            raise UsageError(f"image {image_id} has no row of {missing} as of run {snapshot.run_id}")
    return {one: _image(one, hashes[one], standing[one], stored.get(one), settings) for one in image_ids}


def stored_hashes(stored: Sequence[bytes]) -> list[ViewHash]:
    """Hashes of a row of `image_hashes`. Raises UsageError where an earlier release made them."""
    try:
        return [ViewHash.of(one) for one in stored]
    except ValueError as error:
        raise UsageError(
            f"the warehouse's images were hashed by another release ({error}): run python -m jobs.rededup first"
        ) from None


def _image(image_id: str, hashes: Row, standing: Row, stored: Row | None, settings: DedupSettings) -> Image:
    seen = stored_hashes(hashes["hashes"])
    return Image(
        image_id=image_id,
        hashes=tuple(one for one in seen if HASHED_VIEWS[one.view] in settings.views),
        upright=(stored["phash64"], stored["phash256"]) if stored else None,
        size=(stored["width"], stored["height"]) if stored else None,
        is_flat=hashes["flat"],
        flatness=hashes["flatness"],
        group_id=hashes["group_id"],
        **{name: standing[name] for name in ("representative_id", "hamming", "hamming256")},
        first_seen=standing["first_seen"],
        source_pixels=standing["source_pixels"],
    )


def _rows(snapshot: Snapshot, table: str, image_ids: Collection[str], columns: Sequence[str]) -> dict[str, Row]:
    """Rows of a table by image_id."""
    if not image_ids:
        return {}
    where = pc.field("image_id").isin(pa.array(sorted(image_ids), pa.string()))
    return {row["image_id"]: row for row in snapshot.rows(table, ["image_id", *columns], where).to_pylist()}
