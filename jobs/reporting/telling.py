"""A story as plain text for a terminal: what came from the web is on one line, and controls nothing."""

import datetime as dt
from collections.abc import Iterable, Iterator

from jobs.config.texts import plain
from jobs.reporting.stories import ImageStory, Listed, Row, Story, UrlStory
from schemas.outcomes import FAILURE_MEANINGS, FailureCode
from udfs.credentials import redact_text

_WIDTH = 15
"""Of the labels on the left."""
_LONGEST = 400
_OTHER_REASONS = {
    "taken_down": "somebody asked for it",
    "reviewer_blocked": "a person's verdict",
    "verdict_withdrawn": "a person's verdict was taken back",
}
"""Reasons that no rule of a policy gives."""


def told(story: Story) -> str:
    """The story, its URLs first, then its images, then what people asked to be taken down."""
    parts = [_url(one, story) for one in story.urls]
    if story.more_rows:
        parts.append([f"and {story.more_rows:,} more rows of manifests came to the same content"])
    parts += [_image(one, story) for one in story.images]
    if story.takedowns:
        parts.append(["Takedowns", *(_line("asked", _fields(row)) for row in story.takedowns)])
    last = [f"As of run {story.run_id}, policy {story.policy_version}."]
    if story.policy_version != story.profile_policy_version:
        last.append(
            f"The rules named are those of this profile's policy, which is another: {story.profile_policy_version}."
        )
    parts.append(last)
    return "\n\n".join("\n".join(part) for part in parts)


def _line(label: str, *parts: str | None) -> str:
    shown = ", ".join(plain(redact_text(part), _LONGEST) for part in parts if part)
    return f"  {label:<{_WIDTH}}{shown}".rstrip()


def _fields(row: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items() if value not in (None, [], {}))


def _left_out(listed: Listed, what: str) -> list[str]:
    return [_line("", f"and {listed.left_out:,} {what} that are not told")] if listed.left_out else []


# A URL --------------------------------------------------------------------------------------------------------------


def _url(one: UrlStory, story: Story) -> list[str]:
    lines = [f"URL {plain(one.url, _LONGEST) or 'that could not be read'}"]
    lines.append(_line("url_id", one.url_id or "none: the row has no usable URL"))
    fetches = {row["ingest_date"]: row for row in one.fetches.rows}
    nights = sorted({row["ingest_date"] for row in one.sightings.rows} | fetches.keys())
    for date in nights:
        rows = [row for row in one.sightings.rows if row["ingest_date"] == date]
        lines += ["", f"  Night of {date}"]
        for row in rows:
            lines += _sighting(row, one, story)
        if date in fetches:
            lines += _fetch(fetches[date])
        elif rows:
            lines.append(_line("fetch", "none is recorded of that night"))
    lines += _left_out(one.sightings, "older sightings")
    lines += ["", "  Now"]
    for row in one.state:
        shows = f"shows {row['image_id']}" if row["image_id"] else "shows nothing any more"
        lines.append(_line("state", f"{row['state_effect']} since {row['ingest_date']}", row["outcome"], shows))
    if not one.state:
        lines.append(_line("state", "none: no sighting was conclusive"))
    lines += [_line("owed", row["owed"], f"under {row['ingest_date']}") for row in one.owed]
    for row in one.in_feed.rows:
        is_head = row["image_id"] == row["representative_id"]
        behind = "as the representative" if is_head else f"behind {row['representative_id']}, {_bits(row)}"
        lines.append(_line("in the feed", f"{row['image_id']} {behind}"))
    if not one.in_feed.of:
        lines.append(_line("in the feed", "no"))
    return lines


def _sighting(row: Row, one: UrlStory, story: Story) -> Iterator[str]:
    title = f'"{row["title"]}"' if row["title"] else "without a title"
    licence = f"licence {row['license']}" if row["license"] else None
    page = f"on {row['page_url']}" if row["page_url"] else None
    yield _line("manifest", f"{row['source_file']} row {row['row_number']}, counted from 0", title, page, licence)
    failed = f"{row['failure_code']}: {_meaning(row['failure_code'])}" if row["failure_code"] else None
    again = "the server says it is unchanged" if row["not_modified"] else None
    yield _line("outcome", row["outcome"], failed, row["failure_detail"], again)
    yield from _rules(row["reasons"], story)
    subject = f"{row['ingest_date']}/{row['source_file']}/{row['row_number']}"
    for verdict in one.verdicts:
        if verdict["subject_id"] == subject:
            yield _verdict(verdict)
    if row["image_id"]:
        yield _line("content", row["image_id"])
    yield _line("decided under", f"policy {row['policy_version']}", f"run {row['run_id']}")


def _meaning(code: str) -> str:
    return FAILURE_MEANINGS[FailureCode(code)] if code in set(FailureCode) else "a code of another release"


def _rules(reasons: Iterable[str], story: Story) -> Iterator[str]:
    for reason in reasons:
        rules = story.rules.get(reason) or []
        for rule in rules:
            yield _line("rule", f"{rule['id']} ({rule['kind']}, {rule['action']}) gives {reason}: {rule['comment']}")
        if not rules:
            yield _line("reason", f"{reason}: {_OTHER_REASONS.get(reason, 'no rule of the policy gives it')}")


def _verdict(row: Row) -> str:
    cleared = f"passing over {', '.join(row['cleared'])}" if row["cleared"] else None
    return _line(
        "person", f"{row['verdict']} by {row['reviewer']}", cleared, row["comment"], f"at {_time(row['decided_at'])}"
    )


def _fetch(row: Row) -> Iterator[str]:
    if row["robots_evidence"]:
        yield _line("robots.txt", row["robots_evidence"])
    status = f"status {row['status']}" if row["status"] is not None else "no status"
    size = f"{row['bytes']:,} bytes" if row["bytes"] is not None else None
    took = f"{row['duration_ms']:.0f} ms" if row["duration_ms"] is not None else None
    asked = f"{row['attempts']} requests" if row["attempts"] != 1 else "1 request"
    yield _line("fetch", status, row["content_type"], size, asked, took, f"at {_time(row['fetched_at'])}")
    for hop in row["hops"] or ():
        yield _line("hop", f"to {hop}")
    if row["final_url"] not in {None, row["url"], *(row["hops"] or ())[-1:]}:
        yield _line("ended at", row["final_url"])
    headers = {"ETag": "etag", "Last-Modified": "last_modified", "X-Robots-Tag": "x_robots_tag"}
    headers["TDM-Reservation"] = "tdm_reservation"
    said = [f"{name} {row[column]}" for name, column in headers.items() if row[column]]
    if said:
        yield _line("headers", *said)
    if row["failure_code"]:
        yield _line("failed", row["failure_code"], row["failure_detail"])
    if row["blocked_reason"]:
        yield _line("refused", row["blocked_reason"])
    if row["embed_error"]:
        yield _line("no vector", row["embed_error"], f"model {row['embed_model']}")


# An image -----------------------------------------------------------------------------------------------------------


def _image(one: ImageStory, story: Story) -> list[str]:
    lines = [f"Image {one.image_id}", _line("seen", f"in {one.sightings:,} rows of manifests")]
    for row in one.signals:
        scores = [f"{view} {score:.4f}" for view, score in sorted(row["scores"].items())]
        lines.append(_line("scores", *scores, f"gate {row['detector_version'][:12]}"))
    lines += [_line("quarantine", row["detail"]) for row in one.quarantine]
    for row in one.decisions.rows:
        by = row["source"] if not row["reference"] else f"{row['source']} {row['reference']}"
        lines.append(
            _line("decision", row["decision"], by, f"policy {row['policy_version']}", f"at {_time(row['decided_at'])}")
        )
        lines += _rules(row["reasons"], story)
    lines += _left_out(one.decisions, "older decisions")
    lines += [_verdict(row) for row in one.verdicts]
    for row in one.stored:
        source = f"{row['source_width']} x {row['source_height']} {row['source_format']}"
        lines.append(
            _line("pixels", f"{row['width']} x {row['height']}", f"from {source}, {row['source_bytes']:,} bytes")
        )
    if not one.stored:
        lines.append(_line("pixels", "none are stored"))
    lines.append(
        _line("vectors", *(f"model {model[:12]}" for model in one.models)) if one.models else _line("vectors", "none")
    )
    lines += _cluster(one)
    return lines


def _cluster(one: ImageStory) -> Iterator[str]:
    if not one.is_live:
        yield _line("in the feed", "no: not live")
    for row in one.cluster:
        if row["representative_id"] == row["image_id"]:
            yield _line("cluster", "the representative", f"first seen {row['first_seen']}")
        else:
            yield _line("cluster", f"behind {row['representative_id']}", _bits(row), f"first seen {row['first_seen']}")
    for row in one.members.rows:
        yield _line("shown at", row["url"], f"image {row['image_id'][:12]}", _bits(row))
    yield from _left_out(one.members, "more URLs of the cluster")
    for row in one.feed:
        size = "1 image" if row["member_count"] == 1 else f"{row['member_count']:,} images"
        title = f'"{row["title"]}"' if row["title"] else "without a title"
        yield _line("in the feed", f"feed_id {row['feed_id']}", title, size, f"first seen {row['first_seen']}")
    for row in one.feed_id:
        if row["feed_id"] not in [head["feed_id"] for head in one.feed]:
            yield _line("feed_id", f"{row['feed_id']} was and stays its own")
    for row in one.left:
        yield _line("left the feed", f"with run {row['run_id']} ({row['job']})", f"started {_time(row['at'])}")


def _time(at: dt.datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else "an unknown time"


def _bits(row: Row) -> str:
    wide = f", {row['hamming256']} of 256" if row.get("hamming256") is not None else ""
    return f"{row['hamming']} of 64 bits apart{wide}"
