"""`make demo`: pictures and manifests, a web server that misbehaves, three nights of the job, and what came of them.

    python -m demo.run [--warehouse DIR]
    python -m demo.run --images DIR       a folder of your own pictures, served and ingested as one date
    python -m demo.run --manifest FILE --user-agent TEXT    a manifest or a list of URLs, ingested as one date
    python -m demo.run --serve --date D   only serve the demo's pictures as on that date, for runs of your own

Exit codes: 0 done, 1 a night failed or ended otherwise than planned, 2 bad usage.
"""

import argparse
import datetime as dt
import io
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from PIL import Image

from demo import summary
from demo.manifests import expected_outcomes, plan_manifests, write_manifests
from demo.pictures import PHOTOGRAPHS, Picture, encode, make_pictures
from demo.site import DATES, Site, demo_site, folder_path, folder_site
from jobs import nightly, report
from jobs.config.command import JobParser, run_command
from jobs.config.errors import RunError, UsageError
from jobs.config.profile import load
from jobs.config.progress import log
from jobs.config.texts import plain
from jobs.startup.preflight import parse_date
from lensfeed.feed import feed_vectors, lookup
from lensfeed.snapshot import Snapshot, SnapshotError

ROOT = Path(__file__).resolve().parents[1]
PROFILE = "conf/demo.yaml"
OUTPUT = ROOT / "demo-output"

PORT = 8461
"""Asked for first, so that the URLs, and with them the tables' contents, are the same on every run."""

IMAGE_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".avif"})

MOST_NAMED = 5
"""Files that are left out and named."""

QUERIES = ("cat", "motorcycle")
"""Photographs that are looked up whole; the feed has tiles of them only."""


def command_line() -> JobParser:
    """The parser of the demo's arguments."""
    parser = JobParser(prog="python -m demo.run", description="Show the nightly job at work.")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--images", type=Path, metavar="DIR", help="ingest the pictures of this folder instead")
    mode.add_argument("--manifest", type=Path, metavar="FILE", help="ingest this manifest or list of URLs instead")
    parser.add_argument(
        "--user-agent", metavar="TEXT", help="with --manifest: 'name/1.0 (+URL)', by which the sites in it find you"
    )
    mode.add_argument("--serve", action="store_true", help="only serve the demo's pictures, and run nothing")
    parser.add_argument("--date", default=str(DATES[0]), help="day that it is for --serve, YYYY-MM-DD")
    parser.add_argument("--warehouse", type=Path, metavar="DIR", help="where the tables go; must be new or empty")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    begun = time.monotonic()
    if options.serve:
        serve(parse_date(options.date))
        return
    if options.images is not None:
        pictures = find_pictures(options.images)
        if others := left_out(options.images, pictures):
            log.info("demo: left out, since their names do not end as pictures' do: %s", others)
        with fresh_warehouse(options.warehouse) as warehouse:
            ingest_folder(options.images, pictures, warehouse)
    elif options.manifest is not None:
        if not options.manifest.exists():
            raise UsageError(f"--manifest {options.manifest}: there is no such file or folder")
        with fresh_warehouse(options.warehouse) as warehouse:
            ingest_manifest(options.manifest, warehouse, options.user_agent)
    else:
        with fresh_warehouse(options.warehouse) as warehouse:
            ingest_demo(warehouse)
    sys.stdout.write(f"\nAll of it took {summary.took(time.monotonic() - begun)}.\n")


# The three ways -----------------------------------------------------------------------------------------------------


def ingest_demo(warehouse: Path) -> None:
    """The demo's three nights, then the summary. Raises RunError where a row ended otherwise than planned."""
    log.info("demo: making pictures from the photographs in scikit-image and scikit-learn ...")
    pictures = make_pictures()
    with _open_site(pictures) as site:
        files = plan_manifests(site, pictures)
        truths = expected_outcomes(files)
        folder = fresh_folder(OUTPUT / "manifests")
        for date, path in write_manifests(folder, files).items():
            site.date = date
            log.info("demo: the night of %s, served from %s", date, site.url("/"))
            run_night(date, path, warehouse)
        asked = {date: site.requests_on(date) for date in DATES}
    snapshot = Snapshot.open(str(warehouse))
    sightings = snapshot.rows("sightings").to_pylist()
    surprises = summary.unexpected(sightings, truths, pictures)
    whole = {photograph.name: photograph for photograph in PHOTOGRAPHS}
    queries = {f"{whole[name].subject}, the whole photograph": encode(whole[name].open()) for name in QUERIES}
    planned = f"  {len(truths) - len(surprises)} of {len(truths)} rows ended as planned"
    requests = f"  requests: {', '.join(f'{sum(urls.values())} on {date}' for date, urls in asked.items())}"
    _tell(_summary(snapshot, queries, pictures, about_rows=(planned, requests)))
    leave_report(warehouse, (DATES[0], DATES[-1]))
    if surprises:
        raise RunError(f"{len(surprises)} rows did not end as planned: " + "; ".join(surprises[:5]))


def ingest_folder(folder: Path, files: Sequence[Path], warehouse: Path) -> None:
    """One night over a folder's pictures, served from here, then the summary."""
    date = _today()
    with folder_site(folder, files) as site:
        # Where conf/demo.yaml looks for it: later commands need nothing but the profile.
        manifest = fresh_folder(OUTPUT / "manifests") / date.isoformat()
        manifest.mkdir()
        lines = (
            {
                "url": site.url(folder_path(folder, file), number),
                "title": os.fsencode(file.stem).decode(errors="replace"),
            }
            for number, file in enumerate(files)
        )
        (manifest / "pictures.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
        log.info("demo: %d pictures of %s, served from %s", len(files), folder, site.url("/"))
        run_night(date, manifest, warehouse)
    _tell_of_own(warehouse)


def ingest_manifest(manifest: Path, warehouse: Path, user_agent: str | None) -> None:
    """One night over a manifest of the user's own, then the summary."""
    run_night(_today(), manifest.resolve(), warehouse, {"crawl.user_agent": user_agent} if user_agent else {})
    _tell_of_own(warehouse)


def serve(date: dt.date) -> None:
    """Serve the demo's pictures as on a date until interrupted, after its manifests are written."""
    pictures = make_pictures()
    with _open_site(pictures) as site:
        site.date = date
        folder = OUTPUT / "manifests"
        write_manifests(fresh_folder(folder), plan_manifests(site, pictures))
        log.info("demo: serving %s as on %s; manifests: %s/{date}; stop with Ctrl-C", site.url("/"), date, folder)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            log.info("demo: stopped")


# Parts --------------------------------------------------------------------------------------------------------------


def find_pictures(folder: Path) -> list[Path]:
    """Picture files anywhere below a folder, sorted. Raises UsageError for a missing folder or one without pictures."""
    if not folder.is_dir():
        raise UsageError(f"--images {folder}: there is no such folder")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS and path.is_file())
    if not found:
        raise UsageError(
            f"--images {folder}: no pictures there; expected files named {', '.join(sorted(IMAGE_ENDINGS))}"
        )
    return found


def left_out(folder: Path, pictures: Sequence[Path]) -> str:
    """What else there is below the folder: how many files of each ending, and some names. Empty where there is none."""
    taken = set(pictures)
    others = sorted(path for path in folder.rglob("*") if path not in taken and path.is_file())
    endings = Counter(path.suffix.lower() or "no ending" for path in others)
    counted = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
    named = ", ".join(str(path.relative_to(folder)) for path in others[:MOST_NAMED])
    more = ", ..." if len(others) > MOST_NAMED else ""
    return plain(f"{counted} ({named}{more})", 500) if others else ""


@contextmanager
def fresh_warehouse(chosen: Path | None) -> Iterator[Path]:
    """An empty folder for the tables: the demo's own, whose tables are put aside until there are others; or another
    one, which must be empty (UsageError)."""
    if chosen is not None:
        if chosen.exists() and (not chosen.is_dir() or any(chosen.iterdir())):
            raise UsageError(f"--warehouse {chosen}: expected a new or empty folder; the demo never writes over tables")
        yield chosen.resolve()
        return
    folder, before = OUTPUT / "warehouse", OUTPUT / "warehouse-before"
    _settle(folder, before)
    if folder.exists():
        folder.rename(before)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        _settle(folder, before)


def _settle(folder: Path, before: Path) -> None:
    """Of new tables and those before them, leave the new ones where something of them is published: what refuses a
    manifest may be known late, and nothing is to be lost by it."""
    if not before.exists():
        return
    try:
        Snapshot.open(str(folder))
    except (SnapshotError, OSError):
        log.info("demo: nothing was published; %s is as it was before", folder)
        shutil.rmtree(folder, ignore_errors=True)
        before.rename(folder)
    else:
        shutil.rmtree(before)


def fresh_folder(folder: Path) -> Path:
    """One of the demo's own folders, emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def run_night(date: dt.date, manifest: Path, warehouse: Path, more: Mapping[str, str] = MappingProxyType({})) -> None:
    """One date through the entry point that spark-submit uses. The nights share this process, and so one Spark session.

    `more`: further settings. Raises UsageError or RunError by its exit code.
    """
    settings = {"manifest.path": str(manifest), "warehouse": str(warehouse), **more}
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    code = nightly.main(["--profile", PROFILE, "--date", date.isoformat(), *overrides])
    if code == 2:
        raise UsageError(f"the night of {date} was refused; the line above says why")
    if code != 0:
        raise RunError(f"the night of {date} failed with exit code {code}; the lines above say why")


def _open_site(pictures: Sequence[Picture]) -> Site:
    try:
        return demo_site(pictures, PORT)
    except OSError:
        log.info("demo: port %d is taken, taking another", PORT)
        return demo_site(pictures)


def _today() -> dt.date:
    return dt.datetime.now(dt.UTC).date()


def _tell_of_own(warehouse: Path) -> None:
    snapshot = Snapshot.open(str(warehouse))
    feed_ids, _ = feed_vectors(snapshot)
    queries = {}
    for entry in lookup(snapshot, feed_ids[:: max(1, len(feed_ids) // 2)][:2].tolist(), pixels=True):
        queries[f"the middle of {entry.title or entry.urls[0].url}"] = _middle(entry.pixels or b"")
    _tell(_summary(snapshot, queries))
    leave_report(warehouse)


def leave_report(warehouse: Path, dates: tuple[dt.date, dt.date] | None = None) -> None:
    """Into the demo's own folder, wherever the tables are."""
    config = load(str(ROOT / PROFILE), [f"warehouse={warehouse}"])
    report.write_report(config, OUTPUT / "report.html", dates=dates)
    _tell(f"The report, with pictures: {OUTPUT / 'report.html'}")


def _tell(text: str) -> None:
    sys.stdout.write(f"\n{text}\n")


def _middle(jpeg: bytes) -> bytes:
    """The picture without a tenth on each side: a query that is not itself in the feed."""
    with Image.open(io.BytesIO(jpeg)) as image:
        width, height = image.size
        return encode(image.crop((width // 10, height // 10, width - width // 10, height - height // 10)))


def _summary(
    snapshot: Snapshot,
    queries: Mapping[str, bytes],
    pictures: Sequence[Picture] = (),
    about_rows: Sequence[str] = (),
) -> str:
    config = load(str(ROOT / PROFILE))
    clusters = snapshot.rows("clusters", ["image_id", "representative_id"]).to_pylist()
    representatives = {row["image_id"]: row["representative_id"] for row in clusters}
    planted = summary.planted_text(summary.planted_copies(representatives, pictures)) if pictures else ""
    parts = [
        summary.section(summary.funnel(snapshot.rows("sightings").to_pylist()), *about_rows),
        summary.section("Near-duplicates", summary.clusters_text(representatives), planted),
        summary.feed_text(snapshot),
        summary.speed(summary.published_runs(snapshot.warehouse)),
        summary.where_tables_are(snapshot),
        summary.look_up(snapshot, Path(config.embedding.weights.path).parent, config.images, queries),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
