"""The demo's world, and two warehouses that went through its three nights in different orders."""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from demo.manifests import ManifestFile, plan_manifests, write_manifests
from demo.pictures import Picture, make_pictures
from demo.site import DATES, Site, demo_site
from jobs.digest import combined, table_digests
from jobs.nightly import main
from jobs.warehouse.landing import Landing
from lensfeed.snapshot import Snapshot

PROFILE = "conf/demo.yaml"


@dataclass(frozen=True)
class World:
    """The demo's pictures, served, and its manifests, written."""

    pictures: tuple[Picture, ...]
    site: Site
    files: list[ManifestFile]
    folder: Path

    def arguments(self, date: dt.date, warehouse: Path, folder: Path | None = None) -> list[str]:
        """The command line of a night."""
        manifest = (folder or self.folder) / date.isoformat()
        settings = [f"manifest.path={manifest}", f"warehouse={warehouse}"]
        overrides = [part for setting in settings for part in ("--set", setting)]
        return ["--profile", PROFILE, "--date", date.isoformat(), *overrides]

    def night(self, date: dt.date, warehouse: Path, *more: str, folder: Path | None = None) -> int:
        """Run a night in this process; its exit code."""
        self.site.date = date
        return main([*self.arguments(date, warehouse, folder), *more])


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    pictures = make_pictures()
    with demo_site(pictures) as site:
        folder = tmp_path_factory.mktemp("manifests")
        files = plan_manifests(site, pictures)
        write_manifests(folder, files)
        yield World(pictures, site, files, folder)


@dataclass(frozen=True)
class Nights:
    """A warehouse and what the site was asked for by the nights that made it: requests by date and URL."""

    warehouse: Path
    asked: dict[dt.date, dict[str, int]]

    @property
    def snapshot(self) -> Snapshot:
        """Its newest published run."""
        return Snapshot.open(str(self.warehouse))


def _nights(world: World, warehouse: Path, order: tuple[dt.date, ...]) -> Nights:
    world.site.requests.clear()
    for date in order:
        assert world.night(date, warehouse) == 0
    return Nights(warehouse, {date: world.site.requests_on(date) for date in order})


@pytest.fixture(scope="session")
def in_order(spark: SparkSession, world: World, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """The three nights, oldest first."""
    return _nights(world, tmp_path_factory.mktemp("in_order") / "warehouse", DATES)


@pytest.fixture(scope="session")
def backwards(spark: SparkSession, world: World, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """The same nights, the last one first: two backfills."""
    first, second, third = DATES
    return _nights(world, tmp_path_factory.mktemp("backwards") / "warehouse", (third, first, second))


@pytest.fixture(scope="session")
def digest_of(spark: SparkSession) -> Callable[[Path], dict[str, str]]:
    """Digests of a warehouse's tables, and of the whole under the name `all`."""

    def digest(warehouse: Path) -> dict[str, str]:
        tables = table_digests(Landing(spark, str(warehouse)))
        return tables | {"all": combined(tables)}

    return digest
