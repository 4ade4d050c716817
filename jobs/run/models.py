"""Another embedding model for what is stored: what is filled in parts, and the switch of the feed."""

import datetime as dt
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from jobs.config.errors import RunError
from jobs.config.progress import log
from jobs.run import contents
from jobs.run.context import Work
from jobs.run.expectations import NOTHING, Accepted, Expectations
from jobs.run.filling import FillImages, FillTexts, texts_without_vector
from jobs.run.lifecycle import SWITCHED, Warehouse
from jobs.run.names import Count, Dataset, Metric
from jobs.run.pipelines import FILL_IMAGES, FILL_TEXTS, SWITCH, stage_run
from jobs.run.switch import Switch
from jobs.warehouse.lease import POLL_S
from jobs.warehouse.ledger import Versions

Place = TypeVar("Place")

_SHARE, _MOST_PAUSE_S = 0.05, 10.0
"""The pause between two parts, in which a waiting night can take the warehouse: this share of the time that the part
took, at most so many seconds."""


@dataclass(frozen=True)
class Plan:
    """What the job is asked for."""

    batch: int
    """Images, or texts, embedded by one run."""
    switch: bool
    most_failed: float
    """Share of the stored images that may have no vector of the new model."""
    accepted: Accepted = NOTHING
    """Expectations that the switch may break."""


Waiting = dict[Place, tuple[int, int]]
"""What has no vector yet, by the file or date that it is in: how many there are, and a hash over their ids."""


@dataclass
class Tried:
    """What the models had no vector for when this process asked: asking again would not help."""

    files: Waiting[str] = field(default_factory=dict)
    dates: Waiting[dt.date] = field(default_factory=dict)


def reembed(hold: Callable[[], AbstractContextManager[Warehouse]], plan: Plan) -> None:
    """Fill what the models lack, holding the warehouse for one part at a time; switch the feed where nothing is left.

    Raises RunError where nothing was ever published, and where too much has no vector of the model to switch to it.
    """
    tried = Tried()
    while True:
        begun = time.monotonic()
        with hold() as warehouse:
            if not _fill_part(warehouse, plan.batch, tried):
                _finish(warehouse, plan)
                return
        time.sleep(min(max(_SHARE * (time.monotonic() - begun), 1.5 * POLL_S), _MOST_PAUSE_S))


def _finish(warehouse: Warehouse, plan: Plan) -> None:
    before, model = _before(warehouse), warehouse.config.embedding.model
    if not plan.switch or before == warehouse.versions:
        log.info("reembed: what %s can embed is embedded; the feed stays as it is", model)
        return
    work = warehouse.work()
    expectations = Expectations(warehouse.config.run.expectations, [], plan.accepted)
    switch = Switch(work, before.model_version, plan.most_failed, expectations)
    warehouse.publish(work, partial(stage_run, switch, SWITCH))
    if (overlap := work.metrics.get(Metric.NEIGHBOUR_OVERLAP)) is not None:
        log.info(
            "reembed: %.0f %% of an image's nearest neighbours are the same as under the model before", 100 * overlap
        )
    log.info("reembed: the feed is under %s and its alignment now; name it under embedding in the profile", model)


def _before(warehouse: Warehouse) -> Versions:
    """The versions that the feed is under until it is switched. Raises RunError where nothing was ever published."""
    published = warehouse.ledger.last_published()
    if published is None or published.model_version is None:
        raise RunError(
            f"the warehouse {warehouse.landing.storage.root} has no published run: there is nothing to embed"
        )
    kept = {one.name: getattr(published, one.name) for one in fields(Versions) if one.name in SWITCHED}
    return replace(warehouse.versions, **kept)


# Filling --------------------------------------------------------------------------------------------------------------


def _fill_part(warehouse: Warehouse, batch: int, tried: Tried) -> bool:
    """Embed and publish the next part of what is missing; False where nothing is."""
    before, work = _before(warehouse), warehouse.work()
    files, left = _part(_waiting_images(work), tried.files, batch)
    if files:
        warehouse.publish(work, partial(stage_run, FillImages(work, files), FILL_IMAGES), versions=before)
        log.info("reembed: %d images embedded, %d more to go", work.counts[Count.EMBEDDED], left)
        if work.counts[Count.EMBEDDED] < work.rows(Dataset.VECTORS).rows:
            tried.files |= _of(_waiting_images(warehouse.work()), files)
        return True
    dates, left = _part(_waiting_texts(work), tried.dates, batch)
    if dates:
        warehouse.publish(work, partial(stage_run, FillTexts(work, dates), FILL_TEXTS), versions=before)
        log.info("reembed: %d texts embedded, at most %d more to go", work.counts[Count.TEXTS_EMBEDDED], left)
        if work.counts[Count.TEXTS_FAILED]:
            tried.dates |= _of(_waiting_texts(warehouse.work()), dates)
        return True
    return False


def _waiting_images(work: Work) -> Waiting[str]:
    """By files of `images`, so that filling reads each image once however many parts it takes."""
    lying = work.landing.files("images").select("image_id", "file")
    missing = contents.missing_vectors(work)
    return _counted(lying.join(missing, "image_id", "left_semi"), "file", "image_id")


def _waiting_texts(work: Work) -> Waiting[dt.date]:
    return _counted(texts_without_vector(work), "ingest_date", "text_id")


def _counted(rows: DataFrame, place: str, key: str) -> Waiting[Any]:
    which = f.sum(f.xxhash64(key).cast("decimal(38,0)")).alias("which")
    counted = rows.groupBy(place).agg(f.count("*").alias("rows"), which).orderBy(place).collect()
    return {row[place]: (row["rows"], int(row["which"])) for row in counted}


def _part(waiting: Waiting[Place], tried: Waiting[Place], batch: int) -> tuple[list[Place], int]:
    """The places to work on next, and how many wait at the places after them. Left out is a place where only that waits
    which was tried before; taken are the first of the others that hold up to `batch` together, at least one."""
    untried = [(place, count) for place, (count, which) in waiting.items() if tried.get(place) != (count, which)]
    chosen = max(1, sum(total <= batch for total in accumulate(count for _, count in untried)))
    return [place for place, _ in untried[:chosen]], sum(count for _, count in untried[chosen:])


def _of(waiting: Waiting[Place], places: Sequence[Place]) -> Waiting[Place]:
    return {place: waiting[place] for place in places if place in waiting}
