"""The review band, for people: what the policy leaves to them goes out as a file, and their verdicts come back.

    python -m jobs.review export --profile conf/local.yaml --into review.csv
    python -m jobs.review import --profile conf/local.yaml review.csv

The file (CSV or Parquet) has a row a subject, a content or a sighting, with the reasons why it is held back and a URL
to fetch it by; no pixels. People fill in `verdict` (allow, block, or withdraw for an earlier verdict that no longer
holds), `reviewer` and `comment`; rows without a verdict are passed over. An allow clears the review reasons in its row,
those that the reviewer saw: other reasons and blocks that come later still hold. Import publishes what flips, and
queues what has to be fetched for it, as jobs.redecide does. Titles and addresses are strangers' texts: in a CSV file
what a spreadsheet would take for a formula has an apostrophe before it, which import takes off again. Exit codes as for
every job.
"""

import argparse
import csv
import datetime as dt
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

from jobs.config.command import add_config_arguments, run_command
from jobs.config.errors import UsageError
from jobs.config.profile import Config, load
from jobs.config.progress import Progress, log
from jobs.run import contents
from jobs.run.context import Work
from jobs.run.lifecycle import Warehouse, check_versions, held, summary
from jobs.run.overrides import Overrides
from jobs.run.pipelines import REDECISION, stage_run
from jobs.run.redecision import Redecision
from jobs.stages.outcomes import human_decision_rows
from jobs.stages.review import sighting_id
from jobs.startup.assets import local_assets
from jobs.startup.preflight import check
from jobs.startup.session import open_session
from jobs.warehouse.landing import CHANGE, Landing
from jobs.warehouse.ledger import Ledger, Versions
from schemas.policy import Policy
from schemas.tables import OVERRIDES

COLUMNS = (
    "subject_kind",
    "subject_id",
    "reasons",
    "url",
    "page_url",
    "title",
    "scores",
    "verdict",
    "reviewer",
    "comment",
)
"""Columns of the file; lists and maps are text in it: `a|b`, `name=value|...`."""

_NEEDED = ("subject_kind", "subject_id", "reasons", "verdict", "reviewer")
_BETWEEN = "|"

_BLANK = "[ \\t\\n\\v\\f\\r\u00a0\u3000]"
_FORMULA = f"{_BLANK}*[=+\\-@\uff1d\uff0b\uff0d\uff20\\t\\n\\r]"
"""How a cell begins that some spreadsheet takes for a formula, or for more than one cell: full-width signs count in
some locales, blanks before a sign in some programs."""
_DEFUSED = re.compile(f"'+{_FORMULA}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="jobs.review", description="Hand out what is under review; take verdicts back."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    export = actions.add_parser("export", help="write what is under review to a file")
    export.add_argument("--into", required=True, type=Path, metavar="FILE", help="a .csv or .parquet file")
    take = actions.add_parser("import", help="take the verdicts of a file, and publish what follows")
    take.add_argument("file", type=Path, help="a .csv or .parquet file with verdicts filled in")
    for action in (export, take):
        add_config_arguments(action)
    options = parser.parse_args(arguments)
    return run_command(
        lambda: _export(options) if options.action == "export" else _import(options), debug=options.debug
    )


# Export ---------------------------------------------------------------------------------------------------------


def _export(options: argparse.Namespace) -> None:
    write = _writer(options.into)
    config = local_assets(load(options.profile, options.set))
    policy, versions = check(config)
    table = under_review(config, policy, versions).toArrow()
    write(table, options.into)
    log.info("review: %d subjects written to %s", table.num_rows, options.into)


def under_review(config: Config, policy: Policy, versions: Versions) -> DataFrame:
    """What people have to decide, as published: `COLUMNS`, a row a content or sighting, the last three empty.

    A content under review holds back all its sightings and stands here once; a sighting stands here for reasons of its
    own only. Raises UsageError where the warehouse is under another policy, or nothing is published.
    """
    spark = open_session(config)
    published = Ledger(Landing(spark, config.warehouse), 0).load().last_published()
    if published is None or published.table_versions is None:
        raise UsageError(f"warehouse {config.warehouse}: no run is published there yet, so nothing is under review")
    check_versions(published, versions)
    landing = _Published(spark, config.warehouse, published.table_versions)
    work = Work(landing.spark, landing, config, policy, versions, "", Progress("review"))
    held_back = landing.read("sightings").where("outcome = 'review'")
    judged = contents.verdicts(work, held_back.select("image_id"))
    joined = held_back.join(judged, "image_id", "left").withColumn("subject", sighting_id())
    nothing = f.array().cast("array<string>")
    of_content = f.when(f.col("decision") == "review", f.col("content_reasons")).otherwise(nothing)
    joined = joined.withColumn("of_content", of_content)
    first = f.struct("ingest_date", "source_file", "row_number", "url", "page_url", "title")
    images = (
        joined.where("decision = 'review'")
        .groupBy("image_id")
        .agg(f.first("content_reasons").alias("reasons"), f.min(first).alias("first"))
    )
    scores = landing.read("content_signals").select("image_id", "scores").dropDuplicates(["image_id"])
    images = images.join(scores, "image_id", "left").select(
        f.lit("image").alias("subject_kind"), f.col("image_id").alias("subject_id"), "reasons", "first.*", "scores"
    )
    own = joined.withColumn("own", f.array_except("reasons", "of_content")).where("size(own) > 0")
    sightings = own.select(
        f.lit("sighting").alias("subject_kind"),
        f.col("subject").alias("subject_id"),
        f.col("own").alias("reasons"),
        "url",
        "page_url",
        "title",
    )
    pairs = f.transform(f.map_entries("scores"), lambda e: f.concat(e["key"], f.lit("="), f.round(e["value"], 4)))
    empty = [f.lit(None).cast("string").alias(name) for name in ("verdict", "reviewer", "comment")]
    return (
        images.unionByName(sightings, allowMissingColumns=True)
        .withColumn("reasons", f.array_join(f.array_sort("reasons"), _BETWEEN))
        .withColumn("scores", f.array_join(f.array_sort(pairs), _BETWEEN))
        .select(*COLUMNS[:-3], *empty)
        .orderBy("subject_kind", "subject_id")
    )


class _Published(Landing):
    """The tables at the versions that a published event names, whatever is being applied to them meanwhile."""

    def __init__(self, spark: SparkSession, root: str, versions: Mapping[str, int]) -> None:
        super().__init__(spark, root)
        self._versions = versions

    def version(self, table: str) -> int:
        """The published version; -1 where there is none."""
        return self._versions.get(table, -1)


def _writer(path: Path) -> Any:
    return {".csv": write_csv, ".parquet": pq.write_table}[_kind(path)]


def write_csv(table: pa.Table, path: Path) -> None:
    """Write text columns as CSV that is safe to open in a spreadsheet. One more apostrophe goes before what begins like
    a formula, apostrophes before it or not, so that taking one off restores every cell."""
    begins = f"^('*{_FORMULA})"
    columns = [pc.replace_substring_regex(column, begins, r"'\1") for column in table.columns]
    pa.csv.write_csv(pa.table(columns, table.column_names), path)


def _restored_row(path: Path, number: int, row: dict[str | Any, str | Any], columns: int) -> dict[str, str | None]:
    """The row as it went out; UsageError where it has more cells than the header."""
    if beyond := row.pop(None, None):
        raise UsageError(f"{path}, row {number}: expected {columns} cells, found {columns + len(beyond)}")
    return {name: cell[1:] if cell and _DEFUSED.match(cell) else cell for name, cell in row.items()}


def _kind(path: Path) -> str:
    if path.suffix not in {".csv", ".parquet"}:
        raise UsageError(f"{path}: expected a file named .csv or .parquet")
    return path.suffix


# Import ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Verdict:
    """One row of the file that holds a verdict."""

    subject_kind: str
    subject_id: str
    reasons: tuple[str, ...]
    verdict: str
    reviewer: str
    comment: str | None


def read_verdicts(path: Path) -> list[_Verdict]:
    """Rows of the file that hold a verdict. Raises UsageError with the row's position for anything unusable."""
    verdicts: dict[tuple[str, str], _Verdict] = {}
    for number, row in enumerate(_rows(path), start=1):
        where = f"{path}, row {number}"
        values = {name: str(value).strip() for name, value in row.items() if value is not None}
        if not values.get("verdict"):
            continue
        if values["verdict"] not in {"allow", "block", "withdraw"}:
            raise UsageError(f"{where}: verdict must be allow, block or withdraw, found {values['verdict']!r}")
        if values.get("subject_kind") not in {"image", "sighting"}:
            raise UsageError(f"{where}: subject_kind must be image or sighting, found {values.get('subject_kind')!r}")
        for name in ("subject_id", "reviewer"):
            if not values.get(name):
                raise UsageError(f"{where}: {name} is required beside a verdict")
        reasons = tuple(sorted(filter(None, values.get("reasons", "").split(_BETWEEN))))
        if values["verdict"] == "allow" and not reasons:
            raise UsageError(f"{where}: an allow clears the reasons in its row, and there are none")
        subject = values["subject_kind"], values["subject_id"]
        if subject in verdicts:
            raise UsageError(f"{where}: {' '.join(subject)} has a verdict in an earlier row already")
        verdicts[subject] = _Verdict(
            *subject, reasons, values["verdict"], values["reviewer"], values.get("comment") or None
        )
    return list(verdicts.values())


def _rows(path: Path) -> list[Mapping[str, Any]]:
    kind = _kind(path)
    try:
        if kind == ".parquet":
            table = pq.read_table(path)
            names = table.column_names
            rows: list[Mapping[str, Any]] = table.to_pylist()
        else:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, strict=True)
                names = list(reader.fieldnames or ())
                rows = [_restored_row(path, number, row, len(names)) for number, row in enumerate(reader, start=1)]
    except (OSError, pa.ArrowInvalid, csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as {kind[1:]} ({error})") from None
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise UsageError(f"{path}: no column {', '.join(missing)}; columns found: {', '.join(names) or 'none'}")
    return rows


def _import(options: argparse.Namespace) -> None:
    verdicts = read_verdicts(options.file)
    config = local_assets(load(options.profile, options.set))
    policy, versions = check(config)
    if not verdicts:
        log.info("review: no row of %s holds a verdict: nothing to do", options.file)
        return
    spark = open_session(config)
    with held(spark, config, policy, versions, job="review", what="review") as warehouse:
        take_verdicts(warehouse, verdicts)


def take_verdicts(warehouse: Warehouse, verdicts: Sequence[_Verdict]) -> None:
    """Publish what follows from people's verdicts. Raises UsageError for a subject that the warehouse does not have."""
    work = warehouse.work()
    landing = warehouse.landing
    said = warehouse.spark.createDataFrame(
        pa.table(
            {
                "subject_kind": [v.subject_kind for v in verdicts],
                "subject_id": [v.subject_id for v in verdicts],
                "said": [v.verdict for v in verdicts],
                "seen": pa.array([list(v.reasons) for v in verdicts], pa.list_(pa.string())),
                "said_by": [v.reviewer for v in verdicts],
                "said_why": pa.array([v.comment for v in verdicts], pa.string()),
            }
        )
    )
    images = said.where("subject_kind = 'image'").select(f.col("subject_id").alias("image_id"))
    subjects = said.where("subject_kind = 'sighting'").select("subject_id")
    sightings = landing.read("sightings").withColumn("subject_id", sighting_id())
    of_images = sightings.join(images, "image_id", "left_semi")
    concerned = of_images.unionByName(sightings.join(subjects, "subject_id", "left_semi"))
    concerned = concerned.dropDuplicates(["subject_id"])
    _require_known(said, of_images, sightings)

    def stage() -> None:
        old = landing.read("overrides").join(said, ["subject_kind", "subject_id"], "left_semi")
        work.overrides = Overrides(work.after("overrides", work.stage_changed("overrides", _changed(said, old, work))))
        human = human_decision_rows(said, work.versions.policy_version, work.run_id)
        work.stage("human_decisions", human, {"decisions": "true"})
        work.plan_rows("decisions", "human_decisions")
        stage_run(Redecision(work, concerned.drop("subject_id")), REDECISION)

    event = warehouse.publish(work, stage)
    if event is not None:
        log.info("review: %d verdicts taken; %s", len(verdicts), summary(event))


def _changed(said: DataFrame, old: DataFrame, work: Work) -> DataFrame:
    """What people said, as changes of `overrides`. What one allow cleared stays cleared by the next."""
    before = old.select("subject_kind", "subject_id", f.col("verdict").alias("was"), f.col("cleared").alias("had"))
    joined = said.join(before, ["subject_kind", "subject_id"], "left")
    nothing = f.array().cast("array<string>")
    earlier = f.when(f.col("was") == "allow", f.col("had")).otherwise(nothing)
    cleared = f.when(f.col("said") == "allow", f.array_sort(f.array_union(f.coalesce(earlier, nothing), "seen")))
    change = f.when(f.col("said") == "withdraw", "delete").when(f.col("was").isNull(), "insert").otherwise("update")
    columns = {
        "verdict": f.when(f.col("said") == "withdraw", "allow").otherwise(f.col("said")),
        "cleared": f.coalesce(cleared, nothing),
        "reviewer": f.col("said_by"),
        "comment": f.col("said_why"),
        "decided_at": f.lit(dt.datetime.now(dt.UTC)),
        "run_id": f.lit(work.run_id),
    }
    rows = joined.select(
        "subject_kind", "subject_id", *[value.alias(name) for name, value in columns.items()], change.alias(CHANGE)
    )
    return rows.select(*OVERRIDES.column_names, CHANGE)


def _require_known(said: DataFrame, of_images: DataFrame, sightings: DataFrame) -> None:
    images = of_images.select(f.lit("image").alias("subject_kind"), f.col("image_id").alias("subject_id"))
    known = images.unionByName(sightings.select(f.lit("sighting").alias("subject_kind"), "subject_id"))
    unknown = said.join(known, ["subject_kind", "subject_id"], "left_anti").limit(3).collect()
    if unknown:
        named = ", ".join(f"{row['subject_kind']} {row['subject_id']}" for row in unknown)
        raise UsageError(f"verdicts on what this warehouse has never seen: {named}")


if __name__ == "__main__":
    sys.exit(main())
