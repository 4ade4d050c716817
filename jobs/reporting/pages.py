"""What every HTML file of ours is made with: one that stands alone, runs nothing, asks for nothing and links to itself.

Everything goes through jinja2 with autoescape or through `charts.element`. URLs are text and never the target of a
link. A file's Content-Security-Policy allows its own style sheet, by digest, and `data:` images: nothing else, scripts
least of all, whatever a title might hold.
"""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from jobs.config.output_file import written_whole
from jobs.config.texts import LONGEST, plain
from udfs.credentials import redact_text

THUMBNAIL = 176
"""Longest side in pixels of a thumbnail in a row or on a sheet."""
_QUALITY = 72


def render_page(
    template: str, title: str, sections: Sequence[tuple[str, str]], styles: Sequence[str], **values: Any
) -> str:
    """A template that extends `base.html`, as HTML text.

    `sections`: id and name of each, in the order in which they stand. `styles`: names of the style sheets.
    """
    environment = Environment(
        loader=PackageLoader("jobs.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": shown,
        "caption": caption,
        "coded": coded,
        "short": short_id,
        "bytes": in_bytes,
        "took": took,
    }
    loader = environment.loader
    sources = [loader.get_source(environment, name)[0].strip() for name in styles] if loader else []
    style = "\n".join(sources)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template(template).render(
        title=title,
        sections=sections,
        style=Markup(style),  # our own files, and the text that the digest is of
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'",
        **values,
    )


def thumbnails(jpegs: Mapping[str, bytes], side: int) -> dict[str, str]:
    """`data:` URIs by image_id, `side` pixels at the longest; an image that cannot be read has none."""
    found = {}
    for image_id, jpeg in jpegs.items():
        try:
            with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
                image.draft("RGB", (side, side))
                small = image.convert("RGB")
        except (OSError, Image.DecompressionBombError):  # a broken head may tell of billions of pixels
            continue
        small.thumbnail((side, side))
        data = io.BytesIO()
        small.save(data, "JPEG", quality=_QUALITY, optimize=True)
        found[image_id] = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    return found


def write_page(html: str, into: Path) -> int:
    """Write the file, whole or not at all; its size in bytes."""
    data = html.encode()
    with written_whole(into) as draft:
        draft.write_bytes(data)
    return len(data)


# Filters ------------------------------------------------------------------------------------------------------------


class Titled(Protocol):
    """An image with what it is called."""

    @property
    def image_id(self) -> str | None:
        """SHA-256 of the fetched bytes."""

    @property
    def title(self) -> str | None:
        """As given, if one was."""


def caption(image: Titled) -> str:
    """What is said of an image: its title, or that it has none."""
    return shown(image.title) or f"image {short_id(image.image_id)} without a title"


def shown(text: str | None, longest: int = LONGEST) -> str:
    """A text from the web as `plain` has it, without the credentials of URLs in it."""
    return plain(redact_text(text), longest) if text else ""


def coded(text: str) -> Markup:
    """A text of ours in which what stands between back-ticks is code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    )


def short_id(text: str | None) -> str:
    """Enough of a digest to find it by."""
    return (text or "none")[:12]


def in_bytes(count: float) -> str:
    """A size in a unit that fits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def took(seconds: float) -> str:
    """A duration in a unit that fits."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 120 else f"{minutes} min {rest:02} s"
