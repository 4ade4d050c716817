"""What a night would begin with: what its manifest holds, and what the pre-gate says of it. Nothing is fetched, held or
written."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from jobs.config.errors import UsageError
from jobs.config.texts import plain
from jobs.manifests.count import count_rows
from jobs.manifests.rows import column_names
from jobs.run import audit
from jobs.run.ingest import manifest_rows
from jobs.run.introduction import check_hosts
from jobs.run.nights import OpenedJob, Outlook, look, look_at
from jobs.stages.pregate import fetch_requests
from udfs.credentials import redact_text

MOST_SHOWN = 20
"""Lines of one kind; how many more there are is told."""
_LONGEST = 400
"""Characters of a file's name, or of what is wrong with a row, that are shown."""


@dataclass(frozen=True)
class Counted:
    """The largest groups of rows, and what is left of them."""

    groups: tuple[tuple[str, int], ...]
    """Name and rows, the largest first, `MOST_SHOWN` at most."""
    more_groups: int
    more_rows: int


@dataclass(frozen=True)
class Preview:
    """What is known of a date before anything is fetched."""

    outlook: Outlook
    format: str
    rows: int
    files: Counted
    verdicts: Counted
    """By outcome and reason; of what is to be fetched more may follow."""
    urls: int
    """That would be asked for, at most: those with a later conclusive sighting are not."""
    hosts: int
    owed: int
    """Rows of earlier dates that are asked for first."""

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.outlook.date}: {self.outlook.action}, {self.outlook.why}"
        if self.owed:
            yield f"first: {self.owed} rows that earlier nights are owed"
        yield f"manifest ({self.format}): {self.rows} rows"
        yield from _told(self.files, "files")
        yield "the pre-gate:"
        yield from _told(self.verdicts, "outcomes")
        yield f"to be asked for: at most {self.urls} URLs of {self.hosts} hosts"
        yield "nothing was fetched, and nothing written"


def preview(opened: OpenedJob, date: dt.date, *, force: bool) -> Preview:
    """Read the date's manifest as a night would. Raises UsageError where there is none that can be read, and for
    whatever else the night would refuse; RunError where a second count of its rows differs, or none has a URL."""
    outlook = look_at(opened, date, force=force)
    if outlook.manifest is None:
        raise UsageError(outlook.why)
    ledger = opened.ledger()
    reading = look(opened, ledger)
    try:
        rows = reading.stage("rows", manifest_rows(reading, date, outlook.manifest))
        total = rows.count()
        audit.check_rows_read(count_rows(opened.spark, outlook.manifest), total)
        requests = fetch_requests(rows)
        check_hosts(opened.config.crawl, requests)
        asked = requests.agg(f.countDistinct("url_id"), f.countDistinct("host")).first()
        urls, hosts = asked or (0, 0)
        if not urls:
            named = column_names(opened.config.manifest)["url"]
            usable = rows.where(f.col("url_id").isNotNull()).count()
            audit.check_urls(outlook.manifest.root, named, rows, usable, total)
        return Preview(
            outlook,
            outlook.manifest.format,
            total,
            _counted(rows, f.col("source_file")),
            _counted(rows, _verdict()),
            urls,
            hosts,
            ledger.landing.read("refetch_queue").count(),
        )
    finally:
        reading.release()


def _verdict() -> Column:
    reasons = f.concat_ws(", ", "reasons")
    return (
        f.when(f.col("bad_row").isNotNull(), f.concat(f.lit("failed, bad_row: "), "bad_row"))
        .when(f.col("reviewer_block"), "blocked by a reviewer, not fetched")
        .when(f.col("decision") == "block", f.concat(f.lit("blocked, not fetched: "), reasons))
        .when(f.col("decision") == "review", f.concat(f.lit("review, fetched all the same: "), reasons))
        .otherwise("to be fetched")
    )


def _counted(rows: DataFrame, name: Column) -> Counted:
    groups = rows.groupBy(name.alias("name")).agg(f.count("*").alias("rows"))
    largest: Sequence[tuple[str, int]] = [
        (row["name"], row["rows"]) for row in groups.orderBy(f.desc("rows"), "name").limit(MOST_SHOWN).collect()
    ]
    whole = groups.agg(f.count("*"), f.sum("rows")).first()
    count, total = (whole[0], whole[1] or 0) if whole else (0, 0)
    return Counted(tuple(largest), count - len(largest), total - sum(number for _, number in largest))


def _told(counted: Counted, what: str) -> Iterator[str]:
    for name, number in counted.groups:
        yield f"  {number:>10}  {plain(redact_text(name), _LONGEST)}"
    if counted.more_groups:
        yield f"  {counted.more_rows:>10}  in {counted.more_groups} more {what}"
