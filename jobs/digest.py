"""One digest of what a warehouse has published: equal contents, equal digest, whatever the way there.

    python -m jobs.digest --profile conf/local.yaml [--tables]

It covers every sighting's key, outcome, reasons and accepted image_id, and the live rows of every derived table
without the columns that `schemas` marks volatile. `--tables` prints a line a table, to find what differs.
Exit codes as for every job.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as f

from jobs.config.command import JobParser, add_config_arguments, job_parser, run_command
from jobs.config.errors import RunError
from jobs.config.profile import load
from jobs.startup.session import open_session
from jobs.warehouse.landing import Landing
from jobs.warehouse.ledger import Ledger
from schemas.tables import TABLES, Table


def command_line() -> JobParser:
    """The parser of the job's arguments."""
    parser = job_parser("digest", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--tables", action="store_true", help="a line a table")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = command_line().parse_args(arguments)
    return run_command(lambda: _run(options), options)


def _run(options: argparse.Namespace) -> None:
    config = load(options.profile, options.set)
    digests = table_digests(Landing(open_session(config), config.warehouse))
    if options.tables:
        for name, digest in digests.items():
            sys.stdout.write(f"{name} {digest}\n")
    sys.stdout.write(f"{combined(digests)}\n")


def combined(digests: Mapping[str, str]) -> str:
    """The one digest of the digests of the tables."""
    return hashlib.sha256(
        "\n".join(f"{name} {digest}" for name, digest in sorted(digests.items())).encode()
    ).hexdigest()


def table_digests(landing: Landing) -> dict[str, str]:
    """Rows and digest of every digested table, as published: `count:hash`. RunError when nothing was published."""
    published = Ledger(landing, 0).load().last_published()
    if published is None or published.table_versions is None:
        raise RunError(f"the warehouse {landing.storage.root} has no published run")
    versions = published.table_versions
    live = landing.read("clusters", versions["clusters"]).select("image_id")
    texts = landing.read("index_feed", versions["index_feed"]).select("text_id")
    digests = {}
    for table in TABLES.values():
        if table.digested:
            rows = landing.read(table.name, versions.get(table.name, 0))  # a table may be new
            if table.kind == "content":
                key, alive = ("text_id", texts) if table.name == "text_embeddings" else ("image_id", live)
                rows = rows.join(alive, key, "left_semi")
            digests[table.name] = _digest(_contents(rows, table))
    return digests


def _contents(rows: DataFrame, table: Table) -> DataFrame:
    if table.name == "sightings":
        image = f.when(f.col("outcome") == "accepted", f.col("image_id")).alias("image_id")
        return rows.select(*table.keys, "outcome", f.array_sort("reasons").alias("reasons"), image)
    kept = [column for column in table.columns if not column.volatile]
    return rows.select(*[_short(f.col(column.name), column.type).alias(column.name) for column in kept])


def _short(value: Column, type_name: str) -> Column:
    return f.sha2(value, 256) if type_name == "binary" else value


def _digest(rows: DataFrame) -> str:
    """Sums of two 60-bit parts of each row's SHA-256: independent of the order of the rows, nothing is collected."""
    row = f.sha2(f.to_json(f.struct(*rows.columns), {"ignoreNullFields": "false"}), 256)
    parts = [f.conv(f.substring("row", start, 15), 16, 10).cast("decimal(38,0)") for start in (1, 16)]
    total = rows.select(row.alias("row")).agg(f.count("*"), *[f.sum(part) for part in parts]).first()
    if total is None:
        raise RunError("an aggregate came back without a row")
    return f"{total[0]}:{hashlib.sha256(f'{total[1]} {total[2]}'.encode()).hexdigest()[:32]}"


if __name__ == "__main__":
    sys.exit(main())
