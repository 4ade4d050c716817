"""A backfill of several dates, one by one and with dates fetched ahead: wall time, and whether the contents are equal.

    python -m benchmarks.backfill [--dates 8] [--images 40] [--delay 1.0] [--parallel 1 2 3] [--json FILE]

Each date shows pictures of its own, and a few of the date before, on a server of this machine that takes `--delay`
seconds for each answer: what is fetched ahead is mostly waited for. Both go through `jobs.backfill` in a process of its
own, by conf/demo.yaml with four task slots, into an empty warehouse. Two dates that are asked for at the same time each
have half of a host's connections: with hosts that are slow and few, a crawl takes longer beside another, as it should.
"""

import argparse
import datetime as dt
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.process_tree import measured
from benchmarks.report import environment, publish
from demo.pictures import make_pictures
from demo.site import Answer, Responder, Site, show

PROFILE = "conf/demo.yaml"
FIRST = dt.date(2026, 3, 1)
SHOWN_AGAIN = 5
"""Pictures of the date before that a date shows too."""
SETTINGS = {"spark.master": "local[4]", "spark.crawl_tasks": 2}


@contextmanager
def world(folder: Path, dates: int, images: int, delay_s: float) -> Iterator[list[str]]:
    """A running server, and the manifests of so many dates below the folder; settings that name them."""
    pictures = make_pictures()
    answers = {f"/{one.file_name}": replace(show(one), delay_s=delay_s) for one in pictures}
    with Site({path: _always(answer) for path, answer in answers.items()}) as site:
        paths = list(answers)
        for number in range(dates):
            begin = max(0, number * images - SHOWN_AGAIN)
            shown = [paths[place % len(paths)] for place in range(begin, (number + 1) * images)]
            rows = [{"url": site.url(path, place), "title": path} for place, path in enumerate(shown)]
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
            (folder / f"{FIRST + dt.timedelta(days=number)}.jsonl").write_text(text)
        yield [f"manifest.path={folder}/{{date}}.jsonl", *(f"{name}={value}" for name, value in SETTINGS.items())]


def _always(answer: Answer) -> Responder:
    return lambda *_: answer


def run(settings: Sequence[str], warehouse: Path, dates: int, parallel: int) -> dict[str, Any]:
    """Run a backfill of the dates into a new warehouse; its figures, and the digest of what it has published."""
    given = ["--profile", PROFILE]
    given += [part for setting in (*settings, f"warehouse={warehouse}") for part in ("--set", setting)]
    span = ["--start", FIRST.isoformat(), "--end", (FIRST + dt.timedelta(days=dates - 1)).isoformat()]
    tree = measured([sys.executable, "-m", "jobs.backfill", *given, *span, "--parallel", str(parallel)])
    asked = [sys.executable, "-m", "jobs.digest", *given]
    digest = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    return {"parallel": parallel, "wall_s": tree["wall_s"], "cpu_s": tree["cpu_s"], "digest": digest}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dates", type=int, default=8)
    parser.add_argument("--images", type=int, default=40, help="new ones a date")
    parser.add_argument("--delay", type=float, default=1.0, help="seconds until the server answers")
    parser.add_argument("--parallel", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="backfill-") as name:
        folder = Path(name)
        with world(folder, options.dates, options.images, options.delay) as settings:
            runs = [run(settings, folder / f"warehouse-{n}", options.dates, n) for n in options.parallel]
    if len({one["digest"] for one in runs}) > 1:
        raise RuntimeError(f"what is published depends on how many dates are fetched at a time: {runs}")
    given = {"profile": PROFILE, "settings": SETTINGS, "dates": options.dates, "images": options.images}
    report = {"environment": environment("pyspark", "delta-spark", "torch"), **given, "delay_s": options.delay}
    publish(report | {"runs": runs}, options.json)


if __name__ == "__main__":
    main()
