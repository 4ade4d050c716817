"""One running demo site and its manifests, shared by the tests of the demo."""

from collections.abc import Iterator

import pytest

from demo.manifests import ManifestFile, plan_manifests
from demo.pictures import Picture, make_pictures
from demo.site import DATES, Site, demo_site


@pytest.fixture(scope="session")
def pictures() -> tuple[Picture, ...]:
    return make_pictures()


@pytest.fixture(scope="session")
def running_site(pictures: tuple[Picture, ...]) -> Iterator[Site]:
    with demo_site(pictures) as site:
        yield site


@pytest.fixture
def site(running_site: Site) -> Site:
    """The site on the demo's first date, with nothing counted yet."""
    running_site.date = DATES[0]
    running_site.requests.clear()
    return running_site


@pytest.fixture(scope="session")
def manifests(running_site: Site, pictures: tuple[Picture, ...]) -> list[ManifestFile]:
    return plan_manifests(running_site, pictures)
