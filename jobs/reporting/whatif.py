"""What a re-decision would change as one HTML file, for whoever has to say yes to a policy.

Thumbnails of what is accepted as things are lie behind a veil, which a click or the Enter key lifts. Of what is held
back as things are, and stored all the same for another sighting of the same content, `MOSAIC` pixels a side are in the
file and no more: nothing lifts that. What is not stored is listed without an image.
"""

import datetime as dt

from jobs.reporting import charts
from jobs.reporting.pages import THUMBNAIL, render_page, thumbnails
from jobs.run.effects import CHANGES, Effects, Seen
from schemas.outcomes import Outcome
from schemas.policy import Policy

MOSAIC = 8
"""Longest side in pixels of what is shown of an image that is held back."""

SECTIONS = (
    ("outcomes", "Outcomes and reasons"),
    ("leaves", "What leaves"),
    ("enters", "What enters"),
    ("otherwise", "What else changes"),
    ("representatives", "Representatives"),
    ("feed", "Rows of the feed"),
)
_ROWS = {"insert": "Inserted", "update": "Updated", "delete": "Deleted"}


def render_effects(effects: Effects, policy: Policy, made_at: dt.datetime) -> str:
    """The file as HTML text; `policy`: the one decided by, as its file has it, whose rules explain reasons."""
    clear, mosaics = _uris(effects)

    def uri_of(seen: Seen) -> str | None:
        return (clear if seen.is_accepted else mosaics).get(seen.image_id or "")

    return render_page(
        "whatif.html",
        f"under policy {policy.name}",
        SECTIONS,
        ["report.css", "whatif.css"],
        effects=effects,
        policy_name=policy.name,
        made_at=made_at,
        figures=_figures(effects),
        matrix=_matrix(effects),
        outcome_names=list(Outcome),
        rules={
            reason.code: [(rule.id, rule.comment) for rule in policy.rules if rule.reason == reason.code]
            for reason in effects.reasons
        },
        charts=charts,
        changes=[(change, _ROWS[change]) for change in CHANGES],
        uri_of=uri_of,
    )


def _uris(effects: Effects) -> tuple[dict[str, str], dict[str, str]]:
    """`data:` URIs by image_id: thumbnails of what is accepted, mosaics of what is held back."""

    def some(*, is_accepted: bool) -> dict[str, bytes]:
        ids = {seen.image_id for seen in effects.shown() if seen.is_accepted is is_accepted}
        return {image_id: jpeg for image_id, jpeg in effects.jpegs.items() if image_id in ids}

    return thumbnails(some(is_accepted=True), THUMBNAIL), thumbnails(some(is_accepted=False), MOSAIC)


def _figures(effects: Effects) -> list[tuple[str, str, str]]:
    """The few numbers that one wants first: (value, what it is, more about it)."""
    images = effects.images
    feed = sum(change.count for change in effects.feed.values())
    replaced = len(effects.replaced) + effects.more_replaced
    return [
        (f"{effects.changed:,}", "sightings decided otherwise", f"of {effects.sightings:,}"),
        (f"{effects.kinds['leaves'].count:,}", "sightings leave", f"{images.get('delete', 0):,} images of the index"),
        (f"{effects.kinds['enters'].count:,}", "sightings enter", f"{effects.owed:,} fetches owed to the next night"),
        (f"{feed:,}", "rows of the feed change", f"{images.get('insert', 0):,} images come at once"),
        (f"{replaced:,}", "representatives replaced", f"{images.get('update', 0):,} images stand elsewhere"),
    ]


def _matrix(effects: Effects) -> list[tuple[Outcome, list[int]]]:
    """By outcome now, sightings by outcome then, in the order of `Outcome`; outcomes that nothing flips from are left
    out."""
    rows = [(now, [effects.outcomes.get((now, then), 0) for then in Outcome]) for now in Outcome]
    return [(now, counts) for now, counts in rows if any(counts)]
