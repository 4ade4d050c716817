"""docs/queries.md: its Python runs on a small warehouse, and so does its SQL, on another engine than Spark's (on Spark
itself in tests/e2e/test_nights.py).

That engine, DataFusion's, comes with deltalake. What it does not have is only held against the tables' columns.
"""

import datetime as dt
import hashlib
import re
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder

from jobs.run.names import outcome
from schemas.tables import PUBLISHED, TABLES
from tests.documented import ROOT
from tests.lensfeed.tiny_warehouse import DAY, TinyWarehouse, feed_row, image_id, image_row, member_row

PAGE = (ROOT / "docs/queries.md").read_text(encoding="utf-8")
_SECTION = re.compile(r"^## (.+?):.*?$\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SECTIONS = {name: _BLOCK.findall(text) for name, text in _SECTION.findall(PAGE)}
FIRST = "First"
QUERIED = [name for name in SECTIONS if name != FIRST]

_TABLE = re.compile(r"\b(?:FROM|JOIN)\s+([a-z_]+)(?:\s+AS\s+([a-z_]+))?")
_LABEL = re.compile(r"\bAS\s+([a-z_]+)")
_WORD = re.compile(r"(?:\b([a-z_]+)\.)?\b([a-z_]+)\b(?!\s*\(|\.)")


def sighting(number: int, day: dt.date, outcome: str, failure_code: str | None = None) -> dict[str, Any]:
    return {
        "ingest_date": day,
        "source_file": "part.jsonl",
        "row_number": number,
        "url": f"https://pictures.example/{number}.jpg",
        "outcome": outcome,
        "failure_code": failure_code,
        "reasons": [],
        "image_id": image_id(number) if outcome == "accepted" else None,
        "not_modified": False,
        "state_effect": "content" if outcome == "accepted" else "none",
        "policy_version": "policy-1",
        "run_id": "run",
    }


def cluster(number: int, representative: int, hamming: int) -> dict[str, Any]:
    return {
        "image_id": image_id(number),
        "rule_version": "rule-1",
        "representative_id": image_id(representative),
        "hamming": hamming,
        "hamming256": 4 * hamming,
        "group_id": image_id(number),
        "first_seen": DAY - dt.timedelta(days=number),
        "source_pixels": 1024 * 768,
    }


def decision(subject: str, said: str, reasons: list[str], source: str = "automatic") -> dict[str, Any]:
    return {
        "subject_kind": "image",
        "subject_id": hashlib.sha256(subject.encode()).hexdigest(),
        "policy_version": "policy-1",
        "decision": said,
        "reasons": reasons,
        "source": source,
        "decided_at": dt.datetime(2026, 2, 1, tzinfo=dt.UTC),
        "run_id": "run",
    }


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published run, and after it rows that no run has published."""
    tiny = TinyWarehouse(tmp_path_factory.mktemp("queries") / "warehouse")
    tiny.write("sightings", [sighting(n, DAY, "accepted") for n in range(3)])
    tiny.write("sightings", [sighting(n, DAY, "failed", "dns") for n in (3, 4)])
    tiny.write("sightings", [sighting(5, dt.date(2025, 12, 31), "accepted")])
    tiny.write("images", [image_row(n) for n in range(3)])
    tiny.write("clusters", [cluster(0, 0, 0), cluster(1, 0, 4), cluster(2, 2, 0)])
    tiny.write("index_feed", [feed_row(n) for n in (40, 41, 42, 43, 44)])
    tiny.kill("index_feed", [41])
    tiny.write("feed_members", [member_row(42, 1, "https://b.example/1.jpg", hamming=4)])
    tiny.write(
        "feed_members", [member_row(42, 42, "https://a.example/42.jpg"), member_row(43, 43, "https://c.example/")]
    )
    tiny.write("decisions", [decision("a", "block", ["nsfw", "text_explicit"]), decision("b", "block", ["nsfw"])])
    tiny.write("decisions", [decision("c", "allow", []), decision("d", "block", ["nsfw"], source="human")])
    tiny.event("early", "published", counts=[("outcome.accepted", 1)])
    tiny.kill("index_feed", [40])
    tiny.event("run", "started")
    tiny.event("run", "published", counts=[("outcome.accepted", 4), ("sightings", 5)])
    tiny.event("next", "started")
    for table, row in [
        ("sightings", sighting(9, DAY, "accepted")),
        ("images", image_row(9)),
        ("clusters", cluster(9, 0, 6)),
        ("index_feed", feed_row(99)),
        ("feed_members", member_row(42, 9, "https://d.example/9.jpg")),
        ("decisions", decision("e", "block", ["nsfw"])),
    ]:
        tiny.write(table, [row])
    return tiny.root


def blocks(section: str, library: str) -> list[str]:
    """The blocks of a section that are marked so in their first line."""
    return [text for kind, text in SECTIONS[section] if kind == "python" and text.startswith(f"# {library}")]


def run(warehouse: Path, section: str, library: str) -> Any:
    """What the block finds, after the first one of the page and nothing else."""
    first = SECTIONS[FIRST][0][1].replace("demo-output/warehouse", str(warehouse))
    (block,) = blocks(section, library)
    names: dict[str, Any] = {}
    exec(compile(first, "first", "exec"), names)
    exec(compile(block, f"{section}, {library}", "exec"), names)
    return names["found"]


def test_the_tables_that_matter_most_have_a_query_of_each_kind() -> None:
    of_the_feed = ["index_feed", "feed_tombstones"]
    assert ["sightings", "images", "clusters", *of_the_feed, "runs", "decisions", "feed_members"] == QUERIED
    for name in QUERIED:
        kinds = [(kind, text.split("\n")[0].partition(":")[0]) for kind, text in SECTIONS[name]]
        assert [kind for kind, _ in kinds] == ["sql", "python", "python"]
        assert [first for _, first in kinds[1:]] == ["# pyarrow", "# pandas"]


def test_sightings_are_counted_as_published(warehouse: Path) -> None:
    expected = {(DAY, "accepted", None): 3, (DAY, "failed", "dns"): 2}
    by_arrow = run(warehouse, "sightings", "pyarrow").to_pylist()
    assert {(row["ingest_date"], row["outcome"], row["failure_code"]): row["count_all"] for row in by_arrow} == expected
    by_pandas = run(warehouse, "sightings", "pandas").astype(object)
    by_pandas = by_pandas.where(by_pandas.notna(), None)
    assert {tuple(row[:3]): row[3] for row in by_pandas.itertuples(index=False)} == expected


def test_images_are_counted_and_one_is_written(
    warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(warehouse, "images", "pyarrow").to_pylist() == [
        {"source_format": "jpeg", "count_all": 3, "source_bytes_sum": 3000}
    ]
    (picture,) = tmp_path.iterdir()
    (shown,) = [row for row in map(image_row, range(3)) if f"{row['image_id']}.jpg" == picture.name]
    assert picture.read_bytes() == shown["pixels"]
    found = run(warehouse, "images", "pandas")
    assert found.loc["jpeg"].tolist() == [3, 3000]


def test_the_largest_clusters(warehouse: Path) -> None:
    since = DAY - dt.timedelta(days=1)
    (row,) = run(warehouse, "clusters", "pyarrow").to_pylist()
    assert (row["representative_id"], row["count_all"], row["hamming_max"]) == (image_id(0), 2, 4)
    assert row["first_seen_min"] == since
    found = run(warehouse, "clusters", "pandas")
    assert found.index.tolist() == [image_id(0)]
    assert found.iloc[0].tolist() == [2, 4, since]


def test_the_largest_clusters_by_polars(warehouse: Path) -> None:
    found = run(warehouse, FIRST, "polars")
    (row,) = run(warehouse, "clusters", "pyarrow").to_pylist()
    assert found.rows() == [(row["representative_id"], row["count_all"] - 1, row["hamming_max"])]


def test_the_feed(warehouse: Path) -> None:
    cosines = run(warehouse, "index_feed", "pyarrow")
    assert cosines.shape == (3,)
    assert np.isclose(cosines[0], 1)
    assert run(warehouse, "index_feed", "pandas")["feed_id"].tolist() == [42, 44]


def test_what_left_the_feed(warehouse: Path) -> None:
    assert run(warehouse, "feed_tombstones", "pyarrow")["feed_id"].to_pylist() == [40]
    assert run(warehouse, "feed_tombstones", "pandas").to_dict() == {2: 1}


def test_the_ledger(warehouse: Path) -> None:
    found = run(warehouse, "runs", "pyarrow")
    assert [(row["run_id"], row["counts"]["outcome.accepted"]) for row in found] == [("run", 4), ("early", 1)]
    assert found[0]["ingest_dates"] == [DAY]
    frame = run(warehouse, "runs", "pandas")
    assert list(zip(frame["run_id"], frame["accepted"], strict=True)) == [("run", 4), ("early", 1)]


def test_what_held_things_back(warehouse: Path) -> None:
    expected = {("image", "block", "nsfw"): 2, ("image", "block", "text_explicit"): 1}
    by_arrow = run(warehouse, "decisions", "pyarrow").to_pylist()
    assert {(row["subject_kind"], row["decision"], row["reason"]): row["count_all"] for row in by_arrow} == expected
    by_pandas = run(warehouse, "decisions", "pandas")
    assert {tuple(row[:3]): row[3] for row in by_pandas.itertuples(index=False)} == expected


def test_where_a_hit_was_seen(warehouse: Path) -> None:
    expected = ["https://a.example/42.jpg", "https://b.example/1.jpg"]
    by_arrow = run(warehouse, "feed_members", "pyarrow")
    assert isinstance(by_arrow, pa.Table)
    assert by_arrow["url"].to_pylist() == expected
    assert run(warehouse, "feed_members", "pandas")["url"].tolist() == expected


EXPECTED_BY_SQL: dict[str, list[tuple[Any, ...]]] = {
    "sightings": [(DAY, "accepted", None, 3), (DAY, "failed", "dns", 2)],
    "images": [("jpeg", 3, 512.0 * 384, 3000)],
    "clusters": [(image_id(0), 2, 4, DAY - dt.timedelta(days=1))],
    "index_feed": [(42, "picture 42", None, 1, 1, DAY), (44, "picture 44", None, 1, 1, DAY)],
    "feed_tombstones": [(2, "nightly", "run", 1)],
    "runs": [(3, "run", 4), (1, "early", 1)],
    "decisions": [("image", "block", "nsfw", 2), ("image", "block", "text_explicit", 1)],
    "feed_members": [
        (image_id(42), "https://a.example/42.jpg", "https://a.example/42.jpg.html", "pictures.example", 0),
        (image_id(1), "https://b.example/1.jpg", "https://b.example/1.jpg.html", "pictures.example", 4),
    ],
}


@pytest.mark.parametrize("name", QUERIED)
def test_the_sql_finds_the_same(warehouse: Path, name: str) -> None:
    ((_, sql), *_) = SECTIONS[name]
    names: dict[str, Any] = {}
    exec(SECTIONS[FIRST][0][1].replace("demo-output/warehouse", str(warehouse)), names)
    engine = QueryBuilder().register("runs", DeltaTable(str(warehouse / "runs")))
    for table in QUERIED:
        if table != "runs":
            engine = engine.register(table, names["table"](table))
    # Spark's name of it, and of no other function or operator in the page.
    rows = engine.execute(sql.replace("explode(", "unnest(")).read_all()
    # Column by column: pyarrow 14 knows no views of strings, which this engine gives.
    found = list(zip(*(rows.column(place).to_pylist() for place in range(rows.num_columns)), strict=True))
    shown = [(row[0], row[1], row[-1]) for row in found] if name == "runs" else found
    assert shown == EXPECTED_BY_SQL[name]


def test_the_ledger_counts_outcomes_under_that_name() -> None:
    assert PAGE.count(repr(outcome("accepted"))) + PAGE.count(f'"{outcome("accepted")}"') == 2


def test_sparks_views_are_all_tables_that_there_are() -> None:
    """With a stand-in for a session, which only remembers what it was asked for."""
    spark = MagicMock()
    ledger = spark.read.format.return_value.load.return_value
    newest = ledger.where.return_value.orderBy.return_value.first.return_value
    newest.table_versions = {name: -1 if name == "quarantine" else 7 for name in PUBLISHED}
    exec(compile(SECTIONS[FIRST][1][1], "spark", "exec"), {"spark": spark})
    at_version = spark.read.format.return_value.option.return_value.load
    expected = [name for name in PUBLISHED if name != "quarantine"]
    assert [call.args[0] for call in at_version.return_value.createOrReplaceTempView.call_args_list] == expected
    ledger.createOrReplaceTempView.assert_called_once_with("runs")
    assert {*QUERIED} <= {*PUBLISHED, "runs"}


def strangers(sql: str) -> list[str]:
    """Tables and columns that there are not. Keywords are in capitals in the page, functions are followed by `(`."""
    plain = re.sub(r"'[^']*'", "''", sql)
    named = _TABLE.findall(plain)
    unknown = [table for table, _ in named if table not in TABLES]
    known = {alias or table: set(TABLES[table].column_names) for table, alias in named if table in TABLES}
    labels = set(_LABEL.findall(plain))
    for of, word in _WORD.findall(plain):
        if of:
            unknown += [] if word in known.get(of, ()) else [f"{of}.{word}"]
        elif word not in labels | set(known) | {table for table, _ in named} | set().union(*known.values()):
            unknown.append(word)
    return unknown


@pytest.mark.parametrize("name", QUERIED)
def test_the_sql_names_tables_and_columns_that_there_are(name: str) -> None:
    (sql,) = [text for kind, text in SECTIONS[name] if kind == "sql"]
    assert strangers(sql) == []
    assert name in [table for table, _ in _TABLE.findall(sql)]


@pytest.mark.parametrize(
    ("sql", "unknown"),
    [
        ("SELECT url FROM sighting", ["sighting", "url"]),
        ("SELECT uri, count(*) AS n FROM sightings GROUP BY uri ORDER BY n", ["uri", "uri"]),
        ("SELECT m.url, m.feed_id FROM feed_members AS m WHERE m.url = 'nothing'", ["m.feed_id"]),
    ],
)
def test_a_stranger_in_sql_is_found(sql: str, unknown: list[str]) -> None:
    assert strangers(sql) == unknown
