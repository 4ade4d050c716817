"""One self-contained HTML file out of what was gathered: no script, no request, nothing from the web that is markup.

Everything goes through jinja2 with autoescape or through `charts.element`. URLs are text and never the target of a
link. The file's Content-Security-Policy allows its own style sheet, by digest, and `data:` images: nothing else,
scripts least of all, whatever a title might hold.
"""

import base64
import datetime as dt
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from jobs.reporting import charts
from jobs.reporting.gathering import BINS, GROWTH_RUNS, MEMBERS, Contents, Shown
from jobs.reporting.runs import Run, drift, failures, funnel, step_costs, totals
from jobs.reporting.texts import plain
from lensfeed.snapshot import Snapshot
from schemas.outcomes import OUTCOME_MEANINGS, Outcome
from schemas.settings import DedupSettings

THUMBNAIL, MAP_THUMBNAIL = 176, 56
"""Longest side in pixels of a thumbnail in a row or on a sheet, and of one on the map."""
_QUALITY = 72


@dataclass(frozen=True)
class Head:
    """What stands above everything else."""

    runs: Sequence[Run]
    history: Sequence[Run]
    snapshot: Snapshot
    profile_policy_version: str
    """Of the profile, whose rules explain reasons and whose bands are drawn."""
    made_at: dt.datetime

    @property
    def title(self) -> str:
        """The dates, or the run where it has none."""
        dates = sorted({date for run in self.runs for date in run.ingest_dates})
        if not dates:
            return f"run {self.runs[0].run_id}"
        return str(dates[0]) if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"


def render(head: Head, contents: Contents, dedup: DedupSettings) -> str:
    """The report as HTML text; `dedup` says what verified the near-duplicates."""
    environment = Environment(
        loader=PackageLoader("jobs.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": plain,
        "caption": caption,
        "coded": coded,
        "short": short_id,
        "bytes": in_bytes,
        "took": took,
    }
    source = environment.loader.get_source(environment, "report.css")[0] if environment.loader else ""
    style = source.strip()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    thumbnails = _thumbnails(contents.jpegs, THUMBNAIL)
    reported = {run.run_id for run in head.runs}
    nights = drift(head.history, reported)
    return environment.get_template("report.html").render(
        head=head,
        contents=contents,
        style=Markup(style),  # our own file, and the text that the digest is of
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'",
        figures=_figures(head, contents),
        outcomes=_outcomes(head.runs),
        outcome_names=list(Outcome),
        funnel=funnel(head.runs),
        failures=failures(head.runs),
        steps=step_costs(head.runs),
        seconds=sum(run.seconds for run in head.runs),
        nights=nights,
        all_nights=sum(1 for run in head.history if run.is_night),
        thumbnails=thumbnails,
        charts=charts,
        scores=charts.histogram(
            "NSFW scores, the worst view of each content",
            contents.scores.counts,
            (0.0, 1.0),
            [(band.low, band.high, band.action) for band in contents.scores.bands],
        ),
        cosines=contents.texts.cosines
        and charts.histogram("Cosines of images and their texts", contents.texts.cosines, (-1.0, 1.0)),
        columns=charts.columns(
            "Outcomes by night",
            [
                (str(night.run.ingest_dates[0]), {str(k): v for k, v in night.run.outcomes.items()}, night.is_reported)
                for night in nights
            ],
        ),
        plane=_plane(contents),
        bins=BINS,
        members=MEMBERS,
        dedup=dedup,
        sizes=sorted(contents.clusters.sizes.items()),
        distances=sorted(contents.clusters.distances.items()),
        growth_runs=min(GROWTH_RUNS, len(head.history)),
    )


def _figures(head: Head, contents: Contents) -> list[tuple[str, str, str]]:
    """The few numbers that one wants first: (value, what it is, more about it)."""
    rows = sum(run.sightings for run in head.runs)
    accepted = sum(run.outcomes[Outcome.ACCEPTED] for run in head.runs)
    sizes = {size.name: size.rows for size in contents.sizes}
    live, heads = sizes.get("clusters", 0), sizes.get("index_feed", 0)
    changed = totals(head.runs).get("changed.index_feed", 0)
    return [
        (f"{rows:,}", "manifest rows", f"{len(head.runs)} published {'run' if len(head.runs) == 1 else 'runs'}"),
        (f"{accepted / rows:.1%}" if rows else "none", "accepted", f"{accepted:,} rows"),
        (f"{heads:,}", "images in the feed", f"{changed:,} rows changed"),
        (f"{live - heads:,}", "near-duplicates behind them", f"of {live:,} live images"),
        (took(sum(run.seconds for run in head.runs)), "to make", "staging, without starting Spark"),
    ]


def _outcomes(runs: Sequence[Run]) -> list[tuple[Outcome, int, str]]:
    return [(one, sum(run.outcomes[one] for run in runs), OUTCOME_MEANINGS[one]) for one in Outcome]


def _plane(contents: Contents) -> Markup:
    small = _thumbnails(
        {
            point.image.image_id: contents.jpegs[point.image.image_id]
            for point in contents.space.points
            if point.image and point.image.image_id in contents.jpegs
        },
        MAP_THUMBNAIL,
    )
    points = [
        (
            point.x,
            point.y,
            small.get(point.image.image_id) if point.image else None,
            caption(point.image) if point.image else "",
        )
        for point in contents.space.points
    ]
    return charts.plane(
        "Map of the embedding space",
        f"{len(points):,} vectors on the plane of their two principal components, {len(small)} with their thumbnails",
        points,
    )


def _thumbnails(jpegs: Mapping[str, bytes], side: int) -> dict[str, str]:
    """`data:` URIs by image_id; an image that cannot be read has none."""
    found = {}
    for image_id, jpeg in jpegs.items():
        try:
            with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
                image.draft("RGB", (side, side))
                small = image.convert("RGB")
        except OSError:
            continue
        small.thumbnail((side, side))
        data = io.BytesIO()
        small.save(data, "JPEG", quality=_QUALITY, optimize=True)
        found[image_id] = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    return found


# Filters ------------------------------------------------------------------------------------------------------------


def caption(image: Shown) -> str:
    """What is said of an image: its title, or that it has none."""
    return plain(image.title) or f"image {short_id(image.image_id)} without a title"


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
