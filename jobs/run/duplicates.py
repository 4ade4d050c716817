"""Duplicates kept up to date: hashes, bands and clusters after images became live, stopped being so, or moved.

The greedy definition (`jobs.stages.clusters`) is decided again for the groups that a run touches, all others standing
as they are. A group outside can come out otherwise only where a group before it has become a head, or where the head
that it stood behind is none any more: such groups are asked about next, until there are none. So a run costs what it
touches and what flips because of that, however large the clusters around are.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import count

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from jobs.run.context import Work
from jobs.run.names import Count, Dataset, Metric
from jobs.stages import clusters, dedup
from jobs.stages.clusters import PLACE
from jobs.warehouse.history import Staged, near
from jobs.warehouse.landing import CHANGE
from schemas.settings import DedupSettings
from schemas.tables import TABLES
from udfs.images.minhash import share_met
from udfs.images.phash import VIEWS_REVISION

_IMAGE = ("image_id", "group_id", "first_seen", "source_pixels")
_HASHES = ("hashes", "flat")

_MET_AS_THEY_ARE = 1_000_000
"""Rows of what met up to which groups are named by all of them."""


def stage_duplicates(work: Work, affected: Staged, hashes_before: DataFrame, stored: DataFrame) -> None:
    """Stage what changes in `image_hashes`, `lsh_bands` and `clusters`.

    `affected` (`image_id`): images that may have become stored or live, stopped being so, or moved in the order.
    `hashes_before`: their rows of `image_hashes` as published; `stored`: those of them that are stored, as
    `jobs.run.derived.Touched` has them (both staged).
    """
    live = stored.where("is_live")
    new_bands = _stage_index(work, affected, hashes_before, stored)
    mine = work.stage(Dataset.CLUSTERS_BEFORE, work.past("clusters", affected))
    was, now = mine.select(*_IMAGE), live.select(*_IMAGE)
    moved = work.stage(
        "moved", was.join(now, [*_IMAGE], "left_anti").unionByName(now.join(was, [*_IMAGE], "left_anti"))
    )
    Regrouping(work, affected, live, mine, moved, new_bands).stage()


def stage_afresh(work: Work, affected: Staged, stored: DataFrame) -> None:
    """The same for all stored images under another rule: whatever lies in these tables was made by the old one and
    counts for nothing but as what has to change. Of `stored` it is the live ones' place that counts."""
    hashes = work.stage("hashed", _hash_all(work))
    work.stage_changes("image_hashes", work.landing.read("image_hashes"), hashes)
    place = stored.where("is_live").select("image_id", "first_seen", "source_pixels")
    live = work.stage("hashed_live", hashes.join(place, "image_id"))
    groups = hashes.where("not flat").select("group_id", "hashes").distinct()
    signed = _signed(work, groups)
    staged = work.stage_changes("lsh_bands", work.landing.read("lsh_bands"), signed)
    new_bands = staged.where(f.col(CHANGE) != "delete")
    mine = work.stage(Dataset.CLUSTERS_BEFORE, work.landing.read("clusters"))
    moved = work.stage("moved", live.select(*_IMAGE))
    Regrouping(work, affected, live, mine, moved, new_bands, afresh=True).stage()


def _hash_all(work: Work) -> DataFrame:
    """Rows of `image_hashes` of all stored images. Where an earlier release's views were hashed, those of this one are
    hashed of the pixels, so that a rule finds of what is there what it finds of what comes."""
    images, settings = work.landing.read("images"), work.config.dedup
    is_of_now = f.col("views_revision").eqNullSafe(VIEWS_REVISION)
    hashes = dedup.hash_rows(images.where(is_of_now), settings)
    older = images.where(~is_of_now)
    if older.select("image_id").isEmpty():
        return hashes
    return hashes.unionByName(dedup.hash_rows(dedup.hash_anew(older), settings))


def _stage_index(work: Work, affected: Staged, before: DataFrame, stored: DataFrame) -> DataFrame:
    """Stage the hashes of images that are stored from now on and the bands of groups that are new with them, and the
    end of those that no image is left of; the new bands.

    What is stored is in the index, live or not: a page that shows another image takes nothing out of it, and what a
    page shows again need not be put in again. Whether a group is live `clusters` says.
    """
    after = stored.select(*TABLES["image_hashes"].column_names)
    work.stage_changes("image_hashes", before, after)
    came, went = (
        rows.where("not flat").join(others.select("group_id"), "group_id", "left_anti").select("group_id", "hashes")
        for rows, others in ((after, before), (before, after))
    )
    named = work.keys("hashed_groups", came.unionByName(went).select("group_id"))
    others = work.past("image_hashes", named, columns=["group_id", "image_id"])
    held = work.keys("held_groups", others.join(affected.frame, "image_id", "left_anti").select("group_id"))

    def of_no_other(groups: DataFrame) -> DataFrame:
        # Equal groups have equal hashes: by both, for to drop duplicates of the one Spark would sort.
        return groups.join(held.frame, "group_id", "left_anti").distinct()

    signed = _signed(work, of_no_other(came))
    numbers = dedup.each_hash(of_no_other(went).select(dedup.group_number(), "hashes"))
    ended = numbers.select("group_number", "hash_number", f.lit("delete").alias(CHANGE))
    changed = signed.withColumn(CHANGE, f.lit("insert")).unionByName(ended, allowMissingColumns=True)
    return work.stage_changed("lsh_bands", changed).where(f.col(CHANGE) == "insert")


def _signed(work: Work, groups: DataFrame) -> DataFrame:
    """Groups (`group_id, hashes`, not flat) -> rows of `lsh_bands`, one a hash, by the run's rule."""
    return dedup.band_rows(groups, work.config.dedup, work.versions.rule_version)


def groups_left_by(work: Work, images: DataFrame) -> DataFrame:
    """`group_number` of the groups in the index that no image is left of once these (`image_id`) are stored no more."""
    hashed = work.landing.read("image_hashes").where("not flat").select("image_id", "group_id")
    leaving, staying = (hashed.join(images, "image_id", how) for how in ("left_semi", "left_anti"))
    left = leaving.select("group_id").distinct().join(staying, "group_id", "left_anti")
    return left.select(dedup.group_number())


def _joining() -> dict[str, Column]:
    """Of changes of `clusters`: images that come, and those of them that have a representative."""
    comes = f.col(CHANGE) == "insert"
    return {Count.BECAME_LIVE: comes, Count.BECAME_MEMBERS: comes & (f.col("image_id") != f.col("representative_id"))}


@dataclass(frozen=True)
class _Taken:
    """Images of groups that are decided again."""

    before: DataFrame
    """Rows of `clusters` of them, as published (staged)."""
    kept: DataFrame
    """As they will be, those that the run leaves as they are: `_IMAGE`."""
    own: DataFrame
    """As they will be, those that it has changed: `_IMAGE`, `_HASHES`."""

    @property
    def members(self) -> DataFrame:
        return self.kept.unionByName(self.own.select(*_IMAGE))

    def and_too(self, others: "_Taken") -> "_Taken":
        """These and the others."""
        return _Taken(
            self.before.unionByName(others.before), self.kept.unionByName(others.kept), self.own.unionByName(others.own)
        )


@dataclass
class Regrouping:
    """Groups decided again, and what was found out about them so far; see `stage_duplicates`."""

    work: Work
    affected: Staged
    live: DataFrame
    mine: DataFrame
    """Rows of `clusters` of the affected, as published."""
    moved: DataFrame
    """Images that came, went or moved: `_IMAGE`, as published and as they will be."""
    new_bands: DataFrame
    """Rows of `lsh_bands` that are not in the table as published, or do not count there (staged)."""
    afresh: bool = False
    """Whether nothing counts that is stored."""
    asked: list[Staged] = field(default_factory=list)
    """Groups that are decided again (`group_id`), and those that no image is left of."""
    before: list[DataFrame] = field(default_factory=list)
    """Rows of `clusters` of their images, as published (staged)."""
    members: list[DataFrame] = field(default_factory=list)
    """Their images as they will be (`_IMAGE`)."""
    nodes: list[DataFrame] = field(default_factory=list)
    """Those that live on: `group_id, group_number`, `PLACE`, `_HASHES`, and `was_head`, in this same place (staged)."""
    met: list[Staged] = field(default_factory=list)
    """Rows of `dedup.meeting_rows` of buckets with one of them (staged)."""
    strangers: list[DataFrame] = field(default_factory=list)
    """Rows of `clusters` of groups that were met (staged)."""
    stranger_nodes: list[DataFrame] = field(default_factory=list)
    """These groups, with the same columns (staged)."""
    numbers: Iterator[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.checkpoint = self.work.checkpoint("settling")

    def stage(self) -> None:
        """Ask until nothing outside can come out otherwise, and stage where all images stand then."""
        work = self.work
        named = work.keys("moved_groups", self.moved.select("group_id"))
        taken = self._take(named, "moved_members")
        # Not those that have an image that came: it is still there.
        left = self.mine.select("group_id").join(named.frame, "group_id", "left_semi")
        dead = work.keys("dead_groups", left.join(taken.members, "group_id", "left_anti"))
        if named.rows == 0:
            nothing = work.stage(Dataset.REGROUPED, taken.before)
            work.stage_changes("clusters", nothing, nothing, _joining())
            return
        first = clusters.first_images(taken.members)
        fallen = _heads(taken.before).join(first, ["group_id", *PLACE], "left_anti")
        taken = taken.and_too(
            self._take(work.keys("behind_moved", self._behind(fallen, "moved_heads")), "behind_members")
        )
        rounds = 0
        while True:
            self._meet(taken, dead, rounds)
            heads, covered = self._settle()
            pairs = self._neighbouring_heads(heads, rounds)
            reached = work.keys(f"reached_{rounds}", self._reached(covered, pairs, rounds))
            rounds += 1
            if reached.rows == 0:
                break
            taken = self._take(reached, f"reached_members_{rounds}")
        work.metrics[Metric.DEDUP_ROUNDS] = float(rounds)
        work.metrics[Metric.DEDUP_REACHED] = float(sum(groups.rows for groups in self.asked[1:]))
        self._assign(heads, pairs)

    def _past(self, table: str, keys: Staged, *by: str, columns: Sequence[str] = ()) -> DataFrame:
        """`Work.past` of what counts."""
        return self.work.past(table, Staged(keys.frame, 0) if self.afresh else keys, *by, columns=columns)

    def _take(self, groups: Staged, name: str) -> _Taken:
        """Groups are decided again."""
        before = self.work.stage(name, self._past("clusters", groups))
        kept = before.join(self.affected.frame, "image_id", "left_anti").select(*_IMAGE)
        taken = _Taken(before, kept, near(self.live.select(*_IMAGE, *_HASHES), groups))
        self.asked.append(groups)
        self.before.append(before)
        self.members.append(taken.members)
        return taken

    def _behind(self, heads: DataFrame, name: str) -> DataFrame:
        """`group_id` of the groups, none asked about yet, of whatever stands behind these images."""
        representatives = self.work.keys(name, heads.select(f.col("image_id").alias("representative_id")))
        return self._not_asked(self._past("clusters", representatives).select("group_id"))

    def _not_asked(self, groups: DataFrame) -> DataFrame:
        for asked in self.asked:
            groups = groups.join(asked.frame, "group_id", "left_anti")
        return groups

    def _meet(self, taken: _Taken, dead: Staged, number: int) -> None:
        """Look groups up in the index: what they are, and whom they are near. What is met there and is not live is in
        no row of `clusters`, and is heard of no more."""
        work = self.work
        nodes = work.stage(f"asked_{number}", self._nodes(taken, f"asked_images_{number}"))
        self.nodes.append(nodes)
        hashes = self._hashes_of(nodes, number)
        index = work.landing.read("lsh_bands")
        settings = work.config.dedup
        others = _met_by(hashes, index.where(f.lit(False)) if self.afresh else index, settings)
        if number:  # those of this run are not in the table
            others = others.unionByName(_met_by(hashes, self.new_bands.select(*index.columns), settings))
        gone = dead.frame.select(dedup.group_number()).unionByName(nodes.select("group_number"))
        others = others.join(gone, "group_number", "left_anti")
        looked_at = 0 if self.afresh else work.landing.bytes_of("lsh_bands") / dedup.bytes_of_bands(settings)
        looked_at += work.rows("lsh_bands").rows if number else 0
        expected = settings.bands * (hashes.rows + looked_at * share_met(hashes.rows, settings.rows))
        met = work.counted(f"met_{number}", dedup.meeting_rows(hashes.frame, others, settings, expected))
        self.met.append(met)
        strangers = met.frame.select("group_number")
        for known in (*self.nodes, *self.stranger_nodes):
            strangers = strangers.join(known.select("group_number"), "group_number", "left_anti")
        standing = work.landing.read("clusters")
        if self.afresh:  # all that are live are asked about, and who stood by the old rule counts for nothing
            standing = standing.where(f.lit(False))
        numbered = standing.withColumn("group_number", dedup.group_number())
        named = near(numbered, work.keys(f"met_groups_{number}", strangers))
        rows = work.stage(f"strangers_{number}", named.drop("group_number"))
        self.strangers.append(rows)
        standing_still = _Taken(rows, rows.select(*_IMAGE), self.live.select(*_IMAGE, *_HASHES).where(f.lit(False)))
        known = self._nodes(standing_still, f"stranger_images_{number}")
        self.stranger_nodes.append(work.stage(f"stranger_groups_{number}", known))

    def _hashes_of(self, nodes: DataFrame, number: int) -> Staged:
        """Rows of `lsh_bands`, one a hash, of groups asked about. Of those that are new in the index they are staged
        already; such that are live are all asked about at first."""
        work = self.work
        staged = Staged(self.new_bands.where(f.lit(False)), 0)
        if not number:
            asked = Staged(nodes.select("group_number"), work.rows(f"asked_{number}").rows)
            staged = Staged(near(self.new_bands, asked), work.rows("lsh_bands").rows)
        new = self.new_bands.select("group_number")
        old = nodes.where("not flat").join(new, "group_number", "left_anti").select("group_id", "hashes")
        signing = work.keys(f"known_groups_{number}", old)
        if signing.rows == 0:
            return staged
        signed = work.counted(f"bands_{number}", _signed(work, signing.frame))
        return Staged(staged.frame.unionByName(signed.frame, allowMissingColumns=True), staged.rows + signed.rows)

    def _nodes(self, taken: _Taken, name: str) -> DataFrame:
        """Groups with these members as such: `group_id, group_number`, `PLACE`, `_HASHES`, `was_head`."""
        kept = clusters.first_images(taken.kept)
        hashes = self._past(
            "image_hashes", self.work.keys(name, kept.select("image_id")), columns=["image_id", *_HASHES]
        )
        images = kept.join(hashes, "image_id").unionByName(taken.own)
        stood = _heads(taken.before).select("group_id", *PLACE, f.lit(True).alias("was_head"))
        joined = clusters.first_images(images, *_HASHES).join(stood, ["group_id", *PLACE], "left")
        return joined.withColumn("was_head", f.coalesce("was_head", f.lit(False))).select("*", dedup.group_number())

    def _settle(self) -> tuple[DataFrame, DataFrame]:
        """Decide what was asked about: the heads, those that stand outside among them (columns as of `nodes`), and
        the groups that are none (`group_id`)."""
        work = self.work
        undecided, heads = self._asked_nodes(), self._outside_nodes().where("was_head")
        covered = undecided.select("group_id").where(f.lit(False))
        while any(met.rows for met in self.met):
            number = next(self.numbers)
            roles = undecided.withColumn("is_head", f.lit(False)).unionByName(heads.withColumn("is_head", f.lit(True)))
            roles = self._that_met(roles)
            pairs = work.counted(
                f"earlier_{number}", dedup.earlier_neighbours(self._rows_met(roles), work.config.dedup)
            )
            if pairs.rows == 0:
                break
            places = undecided.select("group_id", *PLACE)
            found = clusters.settle(pairs, places, self.checkpoint, clusters.MOST_IN_ONE_TASK)
            is_open = f.col("status") == clusters.OPEN
            settled = work.stage(f"settled_{number}", found, None, **{clusters.OPEN: is_open})
            covered = covered.unionByName(settled.where(~is_open).select("group_id"))
            heads = heads.unionByName(undecided.join(settled, "group_id", "left_anti"))
            undecided = undecided.join(settled.where(is_open), "group_id", "left_semi")
            if work.rows(f"settled_{number}").counted[clusters.OPEN] == 0:
                return heads, covered
        return heads.unionByName(undecided), covered

    def _neighbouring_heads(self, heads: DataFrame, number: int) -> DataFrame:
        """`dedup.neighbouring_heads` of all that were met, the heads being these."""
        nodes = self._asked_nodes().withColumn("is_asked", f.lit(True))
        nodes = self._that_met(nodes.unionByName(self._outside_nodes().withColumn("is_asked", f.lit(False))))
        is_head = self._that_met(heads).select("group_id", f.lit(True).alias("is_head"))
        nodes = nodes.join(is_head, "group_id", "left").withColumn("is_head", f.coalesce("is_head", f.lit(False)))
        nodes = nodes.withColumn("is_risen", f.expr("is_asked and is_head and not was_head"))
        found = dedup.neighbouring_heads(self._rows_met(nodes), self.work.config.dedup)
        if not any(met.rows for met in self.met):
            found = found.where(f.lit(False))
        return self.work.stage(f"neighbouring_heads_{number}", found)

    def _reached(self, covered: DataFrame, pairs: DataFrame, number: int) -> DataFrame:
        """`group_id` of what may come out otherwise now: heads outside that a head stands before, and whatever stood
        behind a head that is none any more."""
        dethroned = self._outside_nodes().where("was_head").join(pairs, "group_id", "left_semi")
        fallen = self._asked_nodes().where("was_head").join(covered, "group_id", "left_semi")
        return dethroned.select("group_id").unionByName(self._behind(fallen, f"fallen_heads_{number}"))

    def _assign(self, heads: DataFrame, pairs: DataFrame) -> None:
        """Stage where the images of these groups stand, and those outside that a new head may be nearer to."""
        work = self.work
        nearer = self._not_asked(pairs.select("group_id")).distinct()
        outside = _union(self.strangers).join(nearer, "group_id", "left_semi")
        before = work.stage(Dataset.REGROUPED, _union(self.before).unionByName(outside))
        outside = self._not_asked(before)
        representatives = work.keys("standing_heads", outside.select(f.col("representative_id").alias("image_id")))
        placed = self._past("clusters", representatives, columns=PLACE)
        placed = placed.select(*[f.col(name).alias(f"head_{name}") for name in PLACE])
        standing = outside.select("image_id", "representative_id", "hamming", "hamming256").join(
            placed, f.col("representative_id") == f.col("head_image_id")
        )
        members = _union(self.members).unionByName(outside.select(*_IMAGE))
        assigned = clusters.assign(members, pairs, heads, standing, work.versions.rule_version)
        gone = self.mine.join(self.moved.select("image_id"), "image_id", "left_semi")
        gone = gone.join(before, "image_id", "left_anti")
        work.stage_changes("clusters", before.unionByName(gone), assigned, _joining())

    def _asked_nodes(self) -> DataFrame:
        return _union(self.nodes)

    def _outside_nodes(self) -> DataFrame:
        return self._not_asked(_union(self.stranger_nodes))

    def _rows_met(self, nodes: DataFrame) -> DataFrame:
        """What was met so far, with what is known of these groups and hashes."""
        rows = _union([met.frame for met in self.met])
        hashes = dedup.each_hash(nodes)
        return (rows if len(self.met) == 1 else rows.distinct()).join(hashes, ["group_number", "hash_number"])

    def _that_met(self, nodes: DataFrame) -> DataFrame:
        """Those of the groups that were found near another one: most never are."""
        numbers, rows = (
            _union([met.frame.select("group_number") for met in self.met]),
            sum(met.rows for met in self.met),
        )
        # A group is told of in each bucket: they are sent as they are where that is cheaper than to count them.
        return near(nodes, Staged(numbers if rows <= _MET_AS_THEY_ARE else numbers.distinct(), rows))


def _heads(rows: DataFrame) -> DataFrame:
    """Rows of `clusters` of representatives."""
    return rows.where("image_id = representative_id")


def _met_by(hashes: Staged, index: DataFrame, settings: DedupSettings) -> DataFrame:
    """Hashes of the index in buckets with these rows of it, a row for each (`dedup.each_band`). Views that are not full
    are met by full ones alone.

    A key says which band it is of, and to look one number up takes a third of what a struct does: so of all the index
    rows are found by that, and of the few that are found by their views.
    """
    asked, rows = dedup.each_band(hashes.frame), hashes.rows * settings.bands
    found = near(dedup.each_band(index), Staged(asked.select("band_key"), rows))
    full, any_view = f.array(f.lit(True)), f.array(f.lit(True), f.lit(False))
    met_by = f.explode(f.when(dedup.is_full(), any_view).otherwise(full)).alias("is_full")
    buckets = Staged(asked.select("band_key", met_by), 2 * rows)
    return near(found.withColumn("is_full", dedup.is_full()), buckets)


def _union(frames: Iterable[DataFrame]) -> DataFrame:
    return reduce(DataFrame.unionByName, frames)
