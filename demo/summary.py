"""What came of the demo, as text a person can read; everything is read back through `lensfeed`, without Spark."""

import datetime as dt
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from demo.manifests import Key
from demo.pictures import HARD_VARIANTS, ORIGINAL, VARIANTS, Picture
from demo.site import Truth
from jobs.run.names import Count, seconds
from jobs.run.pipelines import NIGHT
from lensfeed.encoder import Encoder
from lensfeed.feed import feed_vectors, lookup, search
from lensfeed.snapshot import Snapshot, ledger_events
from schemas.outcomes import Outcome
from schemas.settings import ImageSettings
from schemas.tables import PUBLISHED

NEIGHBOURS = 5


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows under a header, columns aligned: the first to the left, the others to the right."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  "
        + "  ".join(
            f"{cell:{'<' if not i else '>'}{width}}" for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def section(title: str, *parts: str) -> str:
    """A heading and what stands under it; empty parts are left out."""
    return "\n".join([title, *(part for part in parts if part)])


# Funnel -------------------------------------------------------------------------------------------------------------


def funnel(sightings: Sequence[Mapping[str, Any]]) -> str:
    """Rows to outcomes a date, then the failure codes and reasons behind them."""
    dates = sorted({row["ingest_date"] for row in sightings})
    by_date = {date: [row for row in sightings if row["ingest_date"] == date] for date in dates}
    counts = [
        (date, len(rows), *(sum(row["outcome"] == outcome for row in rows) for outcome in Outcome))
        for date, rows in by_date.items()
    ]
    behind = [
        textwrap.fill(f"  {date}: {_causes(rows)}", 110, subsequent_indent=" " * 14) for date, rows in by_date.items()
    ]
    return section(
        "What became of the manifest rows",
        table(("date", "rows", *Outcome), counts),
        section("Why the others were not accepted", *behind),
    )


def _causes(rows: Iterable[Mapping[str, Any]]) -> str:
    causes: Counter[str] = Counter()
    for row in rows:
        causes.update([row["failure_code"]] if row["failure_code"] else row["reasons"])
    return ", ".join(f"{cause} {count}" for cause, count in causes.most_common()) or "none"


def unexpected(
    sightings: Iterable[Mapping[str, Any]], truths: Mapping[Key, Truth], pictures: Iterable[Picture]
) -> list[str]:
    """Where the sightings are not what the demo planned: a line for each row missing, too many, or of another end."""
    digests = {picture.name: image_id(picture) for picture in pictures}
    found = {(row["ingest_date"], row["source_file"], row["row_number"]): row for row in sightings}
    lines = [f"{_key(key)}: no sighting" for key in sorted(truths.keys() - found.keys())]
    lines += [f"{_key(key)}: a sighting of no row" for key in sorted(found.keys() - truths.keys())]
    for key in sorted(truths.keys() & found.keys()):
        row, truth = found[key], truths[key]
        ended = (row["outcome"], row["failure_code"], tuple(row["reasons"]))
        planned = (truth.outcome, truth.failure_code, truth.reasons)
        if ended != planned:
            lines.append(f"{_key(key)}: expected {_end(planned)}, found {_end(ended)} ({row['failure_detail']})")
        elif truth.picture and row["image_id"] != digests[truth.picture]:
            lines.append(f"{_key(key)}: expected the bytes of {truth.picture}, found other bytes")
    return lines


def _key(key: Key) -> str:
    return f"{key[0]}/{key[1]}/{key[2]}"


def _end(end: tuple[str, str | None, tuple[str, ...]]) -> str:
    return " ".join([end[0], *([end[1]] if end[1] else []), *end[2]])


# Duplicates ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlantedCopies:
    """What became of near-duplicates planted: by variant, pairs (original, variant) live and those in one cluster."""

    live: dict[str, int]
    found: dict[str, int]
    false_merges: tuple[tuple[str, str], ...]
    """Pictures, by name, in the cluster of a representative that is no copy of the same original."""

    @property
    def recall(self) -> float:
        """Share of the live pairs that are in one cluster, hard variants left out; 1 where there are none."""
        kinds = self.live.keys() - HARD_VARIANTS
        live = sum(self.live[kind] for kind in kinds)
        return sum(self.found[kind] for kind in kinds) / live if live else 1.0


def image_id(picture: Picture) -> str:
    """SHA-256 hex of the picture's bytes."""
    return sha256(picture.data).hexdigest()


def planted_copies(representatives: Mapping[str, str], pictures: Sequence[Picture]) -> PlantedCopies:
    """Hold clusters (image_id to representative's image_id, of live images) against how the pictures were made."""
    by_id = {image_id(picture): picture for picture in pictures}
    ids = {picture.name: image_id(picture) for picture in pictures}
    live, found = dict.fromkeys(VARIANTS, 0), dict.fromkeys(VARIANTS, 0)
    for picture in pictures:
        pair = (ids[picture.name], ids[picture.original])
        if picture.variant != ORIGINAL and all(member in representatives for member in pair):
            live[picture.variant] += 1
            found[picture.variant] += representatives[pair[0]] == representatives[pair[1]]
    merges = [
        (by_id[member].name, by_id[head].name)
        for member, head in representatives.items()
        if by_id[member].original != by_id[head].original
    ]
    return PlantedCopies(live, found, tuple(sorted(merges)))


def clusters_text(representatives: Mapping[str, str]) -> str:
    """How many clusters there are and how large the largest is."""
    sizes = Counter(representatives.values())
    return (
        f"  live images: {len(representatives)}; clusters: {len(sizes)}, of which with copies: "
        f"{sum(size > 1 for size in sizes.values())}; images in the largest: {max(sizes.values(), default=0)}"
    )


def planted_text(planted: PlantedCopies) -> str:
    """Recall over the planted pairs by kind; captioned copies, which hashes hardly find, apart."""
    easy = [kind for kind in VARIANTS if kind not in HARD_VARIANTS]
    merges = ", ".join(f"{a} with {b}" for a, b in planted.false_merges)
    return section(
        f"  planted near-duplicates found: {planted.recall:.1%} of {sum(planted.live[kind] for kind in easy)} pairs",
        f"    {_shares(planted, easy)}",
        f"  reported apart: {_shares(planted, sorted(HARD_VARIANTS))}",
        f"  false merges among tiles that do not overlap: {merges or 'none'}",
    )


def _shares(planted: PlantedCopies, kinds: Iterable[str]) -> str:
    return ", ".join(f"{kind} {planted.found[kind]}/{planted.live[kind]}" for kind in kinds)


# Speed, tables ------------------------------------------------------------------------------------------------------


def published_runs(warehouse: str) -> list[dict[str, Any]]:
    """Published events of a warehouse's ledger in order: `ingest_dates`, `counts` and `metrics` as dicts."""
    return [event for event in ledger_events(warehouse) if event["event"] == "published"]


def speed(runs: Sequence[Mapping[str, Any]]) -> str:
    """Seconds a step and night, and images a second over all nights; `staging` is all of a run's steps together."""
    known = {step.name: step.works_through for step in NIGHT}
    measured = {
        name.removeprefix(seconds("")) for run in runs for name in run["metrics"] if name.startswith(seconds(""))
    }
    rows = []
    for step in [*known, *sorted(measured - known.keys())]:
        took = [run["metrics"].get(seconds(step), 0.0) for run in runs]
        images = sum(run["counts"].get(known.get(step, Count.SIGHTINGS), 0) for run in runs)
        rows.append((step, *(f"{value:.1f}" for value in took), images, f"{images / max(sum(took), 1e-9):.1f}"))
    dates = [str(run["ingest_dates"][0]) for run in runs]
    return section("Seconds a step (starting Spark apart)", table(("step", *dates, "images", "images/s"), rows))


def where_tables_are(snapshot: Snapshot) -> str:
    """The warehouse's folder and the rows of every table in the published snapshot."""
    names = [name for name in PUBLISHED if name in snapshot.table_versions]
    rows = [(name, snapshot.row_count(name), snapshot.table_versions[name]) for name in names]
    return section(f"Tables (Delta) in {snapshot.warehouse}", table(("table", "rows", "version"), rows))


# Look-up ------------------------------------------------------------------------------------------------------------


def feed_text(snapshot: Snapshot) -> str:
    """Size of the feed."""
    feed_ids, vectors = feed_vectors(snapshot)
    return (
        f"Feed for index builders: {len(feed_ids)} representatives, vectors of {vectors.shape[1]} dimensions, "
        f"model version {str(snapshot.model_version)[:16]}"
    )


def look_up(snapshot: Snapshot, assets: Path, images: ImageSettings, queries: Mapping[str, bytes]) -> str:
    """The nearest neighbours in the feed of each query picture (name to file), by cosine."""
    if not snapshot.row_count("index_feed"):
        return "Nearest neighbours: the feed is empty, there is nothing to look up"
    encoder = Encoder.of(snapshot, assets, images=images)
    parts = []
    for name, data in queries.items():
        found, cosines = search(snapshot, encoder.image(data), NEIGHBOURS)
        entries = lookup(snapshot, found.tolist())
        rows = [
            (f"{cosine:.3f}", entry.title or "(no title)", entry.urls[0].url)
            for entry, cosine in zip(entries, cosines, strict=True)
        ]
        parts.append(section(f"  query: {name}", *(f"    {'  '.join(row)}" for row in rows)))
    return section("Nearest neighbours in the feed, looked up through the reader (cosine, title, URL)", *parts)


def took(seconds: float) -> str:
    """A duration as minutes and seconds."""
    return str(dt.timedelta(seconds=round(seconds)))
