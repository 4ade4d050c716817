"""What was fetched and embedded for a date before the warehouse was held for it: answers, pixels, vectors.

Asking for a date's URLs and embedding what they show takes most of a night, and little of it follows from history. A
parallel backfill does it for the dates to come while it works on one; a night that was not as expected leaves it for
whoever accepts that. What is kept lies in the warehouse's folder `_ahead`, a folder a run, and is a cache and no more:
a run of the date takes of it what it would ask for itself, and embeds what it would embed, under the lease. Without it,
or where anything has changed that it follows from, everything is fetched again.
"""

import datetime as dt
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pyspark.sql import DataFrame

from jobs.run.context import Work, is_older
from jobs.run.names import Dataset
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Versions
from jobs.warehouse.storage import Storage

FOLDER = "_ahead"
KEPT_HOURS = 48
"""How long it is kept that nothing has asked for."""

_STAMP = "stamp.json"
"""Says what the datasets follow from; written last, so that they are whole where it is."""
_DATE, _VERSIONS, _TABLES, _UNEXPECTED = "date", "versions", "tables", "unexpected"

_DATASETS = (Dataset.CRAWL, Dataset.VECTORS, Dataset.VECTORS_BESIDE, Dataset.TEXTS)

_DECIDING = ("overrides", "quarantine", "takedowns")
"""Tables that decide, beside policy and configuration, what is asked for and how an answer is judged."""


@dataclass(frozen=True)
class Ahead:
    """What is kept of a date, as a run has staged it."""

    crawled: DataFrame
    vectors: Mapping[str, DataFrame]
    """Vectors of images and failures, by what they are staged under."""
    texts: DataFrame


def deciding(landing: Landing) -> dict[str, int]:
    """Which versions of the tables decide now."""
    return {table: landing.version(table) for table in _DECIDING}


def find(work: Work, date: dt.date, inputs: str, *, accepting: bool = False) -> Ahead | None:
    """What is kept of a date whose manifest has the digest `inputs`, if a run of now would come to the same.

    `accepting`: whether the run may be other than expected. One that may not asks again, for hosts may be well by now.
    """
    storage = work.landing.storage
    if not storage.names(FOLDER):
        return None
    wanted = _stamp(work, date, inputs)
    for run_id, stamp in _kept(storage):
        if wanted.items() <= stamp.items() and (accepting or not stamp[_UNEXPECTED]):
            kept = Landing(work.spark, storage.root, staging=FOLDER)
            there = set(storage.names(FOLDER, run_id)).intersection(_DATASETS)
            found = {name: kept.staged(run_id, name) for name in there}
            crawled, texts = found.pop(Dataset.CRAWL), found.pop(Dataset.TEXTS)
            return Ahead(crawled, found, texts)
    return None


def keep(work: Work, date: dt.date, inputs: str, *, unexpected: bool = False) -> None:
    """Keep what a run has fetched and embedded; what it has staged under these names is then gone from its staging.

    `unexpected`: whether that is because it was not as expected.
    """
    storage, run_id = work.landing.storage, work.run_id
    if work.landing.staging == FOLDER:
        for name in set(storage.names(FOLDER, run_id)).difference(_DATASETS):
            storage.delete(FOLDER, run_id, name)  # rows of the manifest, among others, which may hold passwords
    else:
        for name in _DATASETS:
            storage.move((work.landing.staging, run_id, name), (FOLDER, run_id, name))
    stamp = _stamp(work, date, inputs) | {_UNEXPECTED: unexpected}
    storage.write_text(json.dumps(stamp, indent=1), FOLDER, run_id, _STAMP)


def forget(storage: Storage, date: dt.date) -> None:
    """Delete what is kept of a date: it is published."""
    _delete(storage, [run_id for run_id, stamp in _kept(storage) if stamp[_DATE] == date.isoformat()])


def sweep(landing: Landing, versions: Versions | None = None) -> None:
    """Delete what verdicts, takedowns or, where they are given, other versions have overtaken, and what is too old to
    be waited for."""
    storage = landing.storage
    if not (names := storage.names(FOLDER)):
        return
    current = {_TABLES: deciding(landing)} | ({_VERSIONS: asdict(versions)} if versions else {})
    outdated = [run_id for run_id, stamp in _kept(storage) if not current.items() <= stamp.items()]
    old = [run_id for run_id in names if is_older(run_id, dt.timedelta(hours=KEPT_HOURS))]
    _delete(storage, {*outdated, *old})


def sweep_all(storage: Storage) -> None:
    """Delete all of it. Who is fetching ahead at this time has to fetch again."""
    storage.delete(FOLDER)


def _stamp(work: Work, date: dt.date, inputs: str) -> dict[str, Any]:
    of_date = {_DATE: date.isoformat(), "inputs": inputs, "configuration": work.config.contents_digest()}
    return of_date | {_VERSIONS: asdict(work.versions), _TABLES: deciding(work.landing)}


def _kept(storage: Storage) -> Iterator[tuple[str, dict[str, Any]]]:
    """Runs whose datasets are whole, the newest first, with what these follow from."""
    for run_id in reversed(storage.names(FOLDER)):
        try:
            yield run_id, json.loads(storage.read_text(FOLDER, run_id, _STAMP))
        except (FileNotFoundError, json.JSONDecodeError):  # still being made, or its driver was killed
            continue


def _delete(storage: Storage, run_ids: Iterable[str]) -> None:
    for run_id in run_ids:
        storage.delete(FOLDER, run_id)
