"""A world of a few pages for tests whose point is what happens to rows, not to pictures: each page answers by date."""

import atexit
import datetime as dt
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from pyspark.sql import SparkSession

from demo.pictures import Picture
from demo.site import Answer, Site, show
from jobs.nightly import main
from jobs.warehouse.landing import Landing
from lensfeed.snapshot import Snapshot

DAYS = (dt.date(2026, 3, 1), dt.date(2026, 3, 2), dt.date(2026, 3, 3))

PROFILE = "conf/demo.yaml"


@dataclass
class SmallWorld:
    """Pages, manifests by date, and a policy file; `answers` may be changed between nights."""

    site: Site
    folder: Path
    answers: dict[str, Callable[[dt.date, int], Answer]]
    rows: dict[dt.date, list[dict[str, Any]]] = field(default_factory=dict)
    settings: list[str] = field(default_factory=list)
    """Further `key=value` settings of every job."""

    def page(self, path: str, answer: Answer | Callable[[dt.date, int], Answer]) -> None:
        """What a path answers from now on."""
        self.answers[path] = answer if callable(answer) else lambda *_: answer

    def row(self, date: dt.date, path: str, **fields: Any) -> None:
        """A manifest row of a date for a path."""
        self.rows.setdefault(date, []).append({"url": self.site.url(path), **fields})

    def picture(self, picture: Picture, dates: Sequence[dt.date] = DAYS[:1], **fields: Any) -> str:
        """A page that shows a picture, and a row for it on each of the dates; its path."""
        path = f"/{picture.file_name}"
        self.page(path, show(picture))
        for date in dates:
            self.row(date, path, **fields)
        return path

    def policy(self, name: str, rules: Sequence[Mapping[str, Any]]) -> str:
        """The setting that names a policy file with these rules."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, "rules": [{"comment": "test", **rule} for rule in rules]}))
        return f"policy.file={path}"

    def arguments(self, warehouse: Path, *settings: str) -> list[str]:
        """Arguments that every job takes."""
        given = [f"warehouse={warehouse}", f"manifest.path={self.folder / 'manifests' / '{date}.jsonl'}"]
        overrides = [part for setting in [*given, *self.settings, *settings] for part in ("--set", setting)]
        return ["--profile", PROFILE, *overrides]

    def night(self, date: dt.date, warehouse: Path, *more: str, settings: Sequence[str] = ()) -> int:
        """Run a night in this process, into a warehouse that has its tables; its exit code."""
        if not warehouse.exists() and SparkSession.getActiveSession() is not None:
            shutil.copytree(empty_warehouse(), warehouse)
        self.site.date = date
        self.write_manifest(date)
        return main([*self.arguments(warehouse, *settings), "--date", date.isoformat(), *more])

    def write_manifest(self, date: dt.date) -> None:
        """Write the manifest of a date, as its rows are now."""
        path = self.folder / "manifests" / f"{date}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in self.rows.get(date, [])))

    def outcomes(self, warehouse: Path) -> dict[tuple[str, str], str]:
        """`(date, path) -> outcome`, with the failure code behind a failure."""
        found = {}
        columns = ["ingest_date", "url", "outcome", "failure_code"]
        for row in Snapshot.open(str(warehouse)).rows("sightings", columns).to_pylist():
            path = row["url"].removeprefix(self.site.url(""))
            code = f" {row['failure_code']}" if row["failure_code"] else ""
            found[str(row["ingest_date"]), path] = row["outcome"] + code
        return found


@functools.cache
def empty_warehouse() -> Path:
    """A warehouse without rows, to be copied: making its tables takes longer than a small night's crawl."""
    folder = Path(tempfile.mkdtemp(prefix="empty-warehouse-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Landing(SparkSession.active(), str(folder / "warehouse")).ensure_tables()
    return folder / "warehouse"


def contents_on_disk(warehouse: Path) -> set[str]:
    """image_id of all of which any file below the warehouse, live or not, holds pixels, a vector or a hash."""
    found = set()
    for path in warehouse.rglob("*.parquet"):
        names = pq.read_schema(path).names
        if "image_id" in names and {"pixels", "vector", "phash64", "hashes"} & set(names):
            found |= set(pq.ParquetFile(path).read(columns=["image_id"]).column(0).to_pylist())
    return found


@contextmanager
def small_world(folder: Path) -> Iterator[SmallWorld]:
    """A running world without pages; its manifests and policies go into `folder`."""
    answers: dict[str, Callable[[dt.date, int], Answer]] = {}
    with Site(answers) as site:
        yield SmallWorld(site, folder, answers)
