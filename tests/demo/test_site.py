"""The site answers as the demo and the end-to-end tests rely on, by date, and counts what it is asked."""

import http.client
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from demo.pictures import ORIGINAL, Picture
from demo.site import (
    BOMB_SIDE,
    DATES,
    RESERVED,
    SLOW_S,
    Site,
    bomb,
    cast,
    demo_site,
    folder_path,
    folder_site,
    misbehaving_pages,
)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


def get(site: Site, path: str, headers: Mapping[str, str] | None = None, host: int = 0) -> Reply:
    """One GET, redirects not followed; the path as it stands."""
    parts = urlsplit(site.url("/", host))
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        response = connection.getresponse()
        return Reply(response.status, dict(response.headers.items()), response.read())
    finally:
        connection.close()


def test_every_picture_is_served_as_it_is_over_one_connection(site: Site, pictures: tuple[Picture, ...]) -> None:
    parts = urlsplit(site.url("/"))
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
    connection.connect()
    kept = connection.sock
    for picture in pictures:
        connection.request("GET", f"/photos/{picture.file_name}")
        response = connection.getresponse()
        assert (response.status, response.headers["Content-Type"]) == (200, picture.content_type)
        assert response.read() == picture.data
    assert connection.sock is kept
    connection.close()


def test_it_listens_on_loopback_only(site: Site) -> None:
    hosts = [str(urlsplit(site.url("/", host)).hostname) for host in range(2)]
    assert all(host.startswith("127.") for host in hosts)


def test_what_is_not_there_is_404(site: Site) -> None:
    assert get(site, "/photos/nothing.jpg").status == 404


def test_the_500_heals_on_the_second_try_of_each_date(site: Site) -> None:
    for date in DATES[:2]:
        site.date = date
        assert [get(site, "/heals.jpg").status for _ in range(2)] == [500, 200]


def test_the_slow_one_takes_its_time(site: Site) -> None:
    import time

    begun = time.monotonic()
    assert get(site, "/slow.jpg").status == 200
    assert time.monotonic() - begun >= SLOW_S


def test_the_cut_one_announces_more_than_it_sends(site: Site) -> None:
    with pytest.raises(http.client.IncompleteRead):
        get(site, "/cut.jpg")


def test_the_truncated_one_is_whole_as_http_and_broken_as_jpeg(site: Site) -> None:
    reply = get(site, "/truncated.jpg")
    assert len(reply.body) == int(reply.headers["Content-Length"])
    image = Image.open(io.BytesIO(reply.body))
    with pytest.raises(OSError, match="truncated"):
        image.load()


def test_html_poses_as_jpeg(site: Site) -> None:
    reply = get(site, "/html.jpg")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "image/jpeg")
    assert reply.body.startswith(b"<!doctype html>")


def test_the_bomb_is_small_and_declares_more_than_any_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert len(bomb()) < 400_000
    with Image.open(io.BytesIO(bomb())) as image:
        assert image.size == (BOMB_SIDE, BOMB_SIDE)
        image.verify()  # all checksums are right: a decoder would believe it


def test_opt_outs_are_stated(site: Site) -> None:
    assert get(site, "/noai.jpg").headers["X-Robots-Tag"] == "noai"
    assert b"Disallow: /private/" in get(site, "/robots.txt").body


def test_redirects_lead_on(site: Site) -> None:
    path, steps = "/moved/3.jpg", 0
    while (reply := get(site, path)).status == 302:
        path, steps = reply.headers["Location"], steps + 1
    assert (reply.status, steps) == (200, 3)
    assert get(site, "/loop.jpg").headers["Location"] == "/loop.jpg"
    assert "blocked.example" in get(site, "/elsewhere.jpg").headers["Location"]
    assert get(site, "/forbidden.jpg").status == 403


def test_content_changes_on_the_second_date_and_stays(site: Site) -> None:
    bodies = bodies_by_date(site, "/changes.jpg")
    assert bodies[0] != bodies[1] == bodies[2]


def test_a_page_goes_away_on_the_third_date(site: Site) -> None:
    assert [reply.status for reply in replies_by_date(site, "/leaves.jpg")] == [200, 200, 410]


def test_consent_is_withdrawn_on_the_second_date(site: Site) -> None:
    tags = [reply.headers.get("X-Robots-Tag") for reply in replies_by_date(site, "/withdraws.jpg")]
    assert tags == [None, "noai", "noai"]


def replies_by_date(site: Site, path: str) -> list[Reply]:
    replies = []
    for date in DATES:
        site.date = date
        replies.append(get(site, path))
    return replies


def bodies_by_date(site: Site, path: str) -> list[bytes]:
    return [reply.body for reply in replies_by_date(site, path)]


def test_a_validator_that_still_holds_is_answered_by_304(site: Site) -> None:
    etag = get(site, "/changes.jpg").headers["ETag"]
    unchanged = get(site, "/changes.jpg", {"If-None-Match": etag})
    assert (unchanged.status, unchanged.body, unchanged.headers["ETag"]) == (304, b"", etag)
    site.date = DATES[1]
    assert get(site, "/changes.jpg", {"If-None-Match": etag}).status == 200


def test_requests_are_counted_by_date_and_url(site: Site) -> None:
    get(site, "/missing.jpg")
    get(site, "/missing.jpg", host=1)
    get(site, "/robots.txt")
    site.date = DATES[1]
    get(site, "/missing.jpg")
    first, second = site.url("/missing.jpg"), site.url("/missing.jpg", 1)
    # Where loopback has one address only, both hosts are the same.
    expected = {first: 1, second: 1} if first != second else {first: 2}
    assert site.requests_on(DATES[0]) == expected
    assert site.requests_on(DATES[1]) == {first: 1}
    assert site.requests[DATES[0], site.url("/robots.txt")] == 1


def test_reserved_pictures_are_originals_without_copies_and_shown_by_nothing_else(
    pictures: tuple[Picture, ...],
) -> None:
    parts = cast(pictures)
    copied = {picture.original for picture in pictures if picture.variant != ORIGINAL}
    assert len(parts.reserved) == RESERVED
    assert not {picture.name for picture in parts.reserved} & copied
    assert not set(parts.reserved) & set(parts.ordinary)
    assert len(parts.ordinary) + len(parts.reserved) == len(pictures)


def test_too_few_pictures_for_the_parts_are_refused(pictures: tuple[Picture, ...]) -> None:
    with pytest.raises(ValueError, match="needs 14 originals without variants, but there are 1"):
        demo_site([picture for picture in pictures if picture.original == cast(pictures).reserved[0].name])


def test_every_misbehaving_page_has_a_path_of_its_own(pictures: tuple[Picture, ...]) -> None:
    paths = [page.path for page in misbehaving_pages(cast(pictures).reserved)]
    assert len(set(paths)) == len(paths) >= 15


def test_a_folder_is_served_whatever_its_files_are_called(tmp_path: Path, pictures: tuple[Picture, ...]) -> None:
    names = ["plain.jpg", "with space & 100%.jpg", "deep/est?#1.jpg", "größe.jpg", "a+b;c.jpg"]
    files = []
    for name, picture in zip(names, pictures, strict=False):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(picture.data)
        files.append(file)
    with folder_site(tmp_path, files) as own:
        for file in files:
            reply = get(own, folder_path(tmp_path, file))
            assert (reply.status, reply.headers["Content-Type"], reply.body) == (200, "image/jpeg", file.read_bytes())
        assert get(own, "/photos/../secret.jpg").status == 404
