"""A Content-Type is read as browsers read it, by the fetch and by the decoder alike."""

import pytest

from udfs.media_types import declared_type, is_other_media


@pytest.mark.parametrize(
    ("content_type", "other"),
    [
        ("image/jpeg", False),
        ("IMAGE/PNG; charset=x", False),
        ("image/svg+xml", True),
        ("application/octet-stream", False),
        ("", False),
        (None, False),
        ("application/x-download", False),
        ("jpeg", False),
        ("image", False),
        ("Text/HTML; charset=utf-8", True),
        ("application/json", True),
        ("video/mp4", True),
    ],
)
def test_declared_types(content_type: str | None, other: bool) -> None:
    assert is_other_media(content_type) is other


@pytest.mark.parametrize(
    ("content_type", "declared"),
    [
        ("image/jpeg", "image/jpeg"),
        (" IMAGE/JPEG ;q=1", "image/jpeg"),
        ("image/jpeg, image/jpeg", "image/jpeg"),
        ("text/html, image/png", "image/png"),
        ("image/png, */*", "image/png"),
        ("image/png, application/octet-stream", "image/png"),
        ('image/png; name="a,b.png"', "image/png"),
        ('image/png; name="a,text/html"', "image/png"),
        ("image/png,", "image/png"),
        ("image/", "image/"),
        ("jpeg", None),
        ("image", None),
        ("image /png", None),
        ("", None),
        (None, None),
        ("*/*", None),
        ("unknown/unknown", None),
        ("application/unknown", None),
        ("application/octet-stream", None),
        ("binary/octet-stream", None),
        ("application/force-download; x=y", None),
        ("application/x-download", None),
    ],
)
def test_the_last_type_that_says_something_counts(content_type: str | None, declared: str | None) -> None:
    assert declared_type(content_type) == declared
