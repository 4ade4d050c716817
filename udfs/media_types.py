"""What a Content-Type says of a body: as browsers read it, for the fetch and for the decoder alike.

Sources: "extract a MIME type" of https://fetch.spec.whatwg.org, and https://mimesniff.spec.whatwg.org.
"""

import re

UNDECLARED = frozenset(
    {
        "",
        "*/*",
        "application/force-download",
        "application/octet-stream",
        "application/unknown",
        "application/x-download",
        "binary/octet-stream",
        "unknown/unknown",
    }
)
"""Types that say nothing: the first bytes decide."""

_OTHER_MEDIA = frozenset({"application", "audio", "font", "message", "model", "multipart", "text", "video"})
"""Top-level media types (IANA) whose members are no images."""

_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]*")


def declared_type(content_type: str | None) -> str | None:
    """The media type that a Content-Type declares, lower-case and without parameters; null where it says nothing.

    Of a list (a field that was sent several times comes as one) the last type counts; what is no type is left out.
    """
    declared = None
    for value in (content_type or "").lower().split(","):
        name = value.partition(";")[0].strip()
        if _TYPE.fullmatch(name) and name not in UNDECLARED:
            declared = name
    return declared


def is_other_media(content_type: str | None) -> bool:
    """Whether a Content-Type says plainly that the body is no raster image."""
    declared = declared_type(content_type)
    if declared is None:
        return False
    return declared.startswith("image/svg") or declared.partition("/")[0] in _OTHER_MEDIA
