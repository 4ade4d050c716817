"""The report as one HTML file out of what was gathered."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from jobs.reporting import charts
from jobs.reporting.gathering import BINS, GROWTH_RUNS, MEMBERS, Contents
from jobs.reporting.pages import THUMBNAIL, caption, render_page, thumbnails, took
from jobs.reporting.runs import Run, drift, failures, funnel, step_costs, totals
from lensfeed.snapshot import Snapshot
from schemas.outcomes import OUTCOME_MEANINGS, Outcome
from schemas.settings import DedupSettings

MAP_THUMBNAIL = 56
"""Longest side in pixels of a thumbnail on the map."""
SECTIONS = (
    ("funnel", "Funnel"),
    ("failures", "Failures and hosts"),
    ("policy", "Policy"),
    ("cost", "Time and cost"),
    ("duplicates", "Duplicates"),
    ("neighbours", "Neighbours"),
    ("map", "Map"),
    ("texts", "Texts"),
    ("drift", "Drift"),
    ("tables", "Tables"),
)


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
    reported = {run.run_id for run in head.runs}
    nights = drift(head.history, reported)
    return render_page(
        "report.html",
        head.title,
        SECTIONS,
        ["report.css"],
        head=head,
        contents=contents,
        figures=_figures(head, contents),
        outcomes=_outcomes(head.runs),
        outcome_names=list(Outcome),
        funnel=funnel(head.runs),
        failures=failures(head.runs),
        steps=step_costs(head.runs),
        seconds=sum(run.seconds for run in head.runs),
        nights=nights,
        all_nights=sum(1 for run in head.history if run.is_night),
        thumbnails=thumbnails(contents.jpegs, THUMBNAIL),
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
    small = thumbnails(
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
