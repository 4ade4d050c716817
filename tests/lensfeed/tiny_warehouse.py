"""Small warehouses written without Spark, as jobs write them: Parquet files, a Delta log, a ledger of events."""

import base64
import datetime as dt
import hashlib
import itertools
import json
import string
import struct
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from lensfeed.snapshot import arrow_schema
from schemas.tables import ADDED_SEQ, CHANGED_SEQ, GONE_SEQ, PUBLISHED, TABLES, Table

DIMENSION = 8
TEXT_DIMENSION = 4
DAY = dt.date(2026, 1, 31)


def image_id(number: int) -> str:
    """The id of the image that stands for `number`."""
    return hashlib.sha256(f"image {number}".encode()).hexdigest()


def unit_vector(number: int, dimension: int) -> list[float]:
    """A unit vector of its own for every number, exact in float32."""
    vector = np.random.default_rng(number).normal(size=dimension)
    return [float(x) for x in (vector / np.linalg.norm(vector)).astype(np.float32)]


def feed_row(number: int, **given: Any) -> dict[str, Any]:
    """A row of `index_feed` with feed_id `number`; even numbers have a text."""
    has_text = number % 2 == 0
    row = {
        "feed_id": number,
        "image_id": image_id(number),
        "model_version": "model-1",
        "vector": unit_vector(number, DIMENSION),
        "text_model_version": "text-1",
        "text_vector": unit_vector(-number % 1000, TEXT_DIMENSION) if has_text else [0.0] * TEXT_DIMENSION,
        "has_text": has_text,
        "has_title": has_text,
        "has_alt_text": False,
        "has_description": False,
        "has_tags": False,
        "title": f"picture {number}" if has_text else None,
        "text_id": None,
        "member_count": 1,
        "url_count": 1,
        "domain_count": 1,
        "first_seen": DAY,
        "width": 512,
        "height": 384,
        "sharpness": 1.5,
        "row_digest": f"digest {number}",
        "row_id": next(_row_ids),
    }
    return row | given


_row_ids = itertools.count(2**40)


def member_row(representative: int, member: int, url: str, **given: Any) -> dict[str, Any]:
    """A row of `feed_members`: image `member` of the cluster of `representative`, shown at `url`."""
    row = {
        "representative_id": image_id(representative),
        "image_id": image_id(member),
        "url_id": hashlib.sha256(url.encode()).hexdigest(),
        "url": url,
        "page_url": f"{url}.html",
        "domain": "pictures.example",
        "title": f"seen at {url}",
        "hamming": 0,
    }
    return row | given


def image_row(number: int) -> dict[str, Any]:
    """A row of `images`; the pixels only begin like a JPEG."""
    return {
        "image_id": image_id(number),
        "pixels": b"\xff\xd8" + number.to_bytes(4, "big"),
        "width": 512,
        "height": 384,
        "source_width": 1024,
        "source_height": 768,
        "source_format": "jpeg",
        "source_bytes": 1000,
        "canonical_version": "canonical-1",
        "phash64": number,
        "phash256": bytes(32),
        "view_hashes": [bytes(43)],
        "flatness": 40.0,
        "sharpness": 1.5,
        "run_id": "run",
    }


class TinyWarehouse:
    """Writes tables and ledger events below one folder, byte for byte in Spark's manner where readers could tell."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._live: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self._versions: dict[str, int] = {}
        self._stored: dict[str, list[dict[str, Any]]] = {}
        self._dead: dict[str, frozenset[int]] = {}
        self._events = 0
        self._fed: dict[int, int] = {}
        """Ids in the feed as last published, and since which event they are there."""
        self._started: dict[str, int] = {}

    def write(self, table: str, rows: Iterable[Mapping[str, Any]], overwrite: bool = False) -> int:
        """Append rows, a file for every partition, or replace all there are; returns the table's version."""
        removed = list(self._live.get(table, {})) if overwrite else []
        return self._commit(table, removed, self._files(table, map(self._told_by_run, rows)))

    def _told_by_run(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row, of the feed with what says which run wrote it, as jobs do: the one that is published next."""
        if "feed_id" not in row or "row_digest" not in row:
            return dict(row)
        run = self._events + 1
        return {ADDED_SEQ: self._fed.get(row["feed_id"], run), CHANGED_SEQ: run} | row

    def delete(self, table: str, column: str, value: Any) -> int:
        """Delete rows as copy-on-write does: their files leave the log, not the disk, the other rows are rewritten."""
        live = self._live[table]
        removed = [path for path, rows in live.items() if any(row[column] == value for row in rows)]
        kept = [row for path in removed for row in live[path] if row[column] != value]
        return self._commit(table, removed, self._files(table, kept))

    def kill(self, table: str, ids: Iterable[Any]) -> int:
        """Delete rows by key as a DELETE with deletion vectors does: the files stay, the log says which of their rows
        are dead. Also those that were dead already."""
        key, gone = TABLES[table].keys[0], set(ids)
        touched = [path for path, rows in self._live[table].items() if any(row[key] in gone for row in rows)]
        before = {path: self._add(table, path) for path in touched}
        for path in touched:
            dead = {at for at, row in enumerate(self._stored[path]) if row[key] in gone}
            self._dead[path] = self._dead.get(path, frozenset()) | dead
            self._live[table][path] = [row for row in self._live[table][path] if row[key] not in gone]
        removed = [{"remove": {"dataChange": True, "deletionTimestamp": 1} | add} for add in before.values()]
        added = [{"add": self._add(table, path)} for path in before]
        return self._commit(table, [], {}, more=[*removed, *added])

    def merge(self, table: str, deleted: Iterable[Any] = (), changed: Iterable[Mapping[str, Any]] = ()) -> int:
        """Delete rows by key and update others, as a MERGE does: files with such a row are rewritten."""
        key = TABLES[table].keys[0]
        gone, new = set(deleted), {row[key]: self._told_by_run(row) for row in changed}
        touched = {
            path: rows
            for path, rows in self._live[table].items()
            if any(row[key] in gone or row[key] in new for row in rows)
        }
        kept = [new.get(row[key], row) for rows in touched.values() for row in rows if row[key] not in gone]
        return self._commit(table, list(touched), self._files(table, kept))

    def compact(self, table: str) -> int:
        """Put all rows into new files, as OPTIMIZE does: nothing changes."""
        live = self._live[table]
        rows = [row for path in live for row in live[path]]
        return self._commit(table, list(live), self._files(table, rows), data_change=False)

    def vacuum(self, table: str) -> None:
        """Remove from disk the files that the newest version does not hold."""
        for file in (self.root / table).rglob("*.parquet"):  # deletion vectors are in the log
            if str(file.relative_to(self.root / table)) not in self._live[table]:
                file.unlink()

    def event(self, run_id: str, event: str, **given: Any) -> None:
        """Append an event to the ledger; a published one names every table's newest version."""
        if event == "published":
            self._bury(self._started.get(run_id, self._events + 1))
        self._events += 1
        if event == "started":
            self._started[run_id] = self._events
        versions = [(name, self._versions.get(name, -1)) for name in PUBLISHED] if event == "published" else None
        row = {
            "seq": self._events,
            "run_id": run_id,
            "job": "nightly",
            "event": event,
            "ingest_dates": [DAY],
            "at": dt.datetime(2026, 2, 1, 3, self._events, tzinfo=dt.UTC),
            "table_versions": versions,
            "counts": [("accepted", 4)],
            "model_version": "model-1",
            "text_model_version": "text-1",
            "policy_version": "policy-1",
            "rule_version": "rule-1",
            "canonical_version": "canonical-1",
            "lease_generation": 1,
        }
        self.write("runs", [row | given])

    def _bury(self, run: int) -> None:
        """Say of what left the feed since the event before that it did with this run."""
        rows = [row for file in self._live.get("index_feed", {}).values() for row in file]
        now = {row["feed_id"]: row[ADDED_SEQ] for row in rows}
        left = [{"feed_id": n, ADDED_SEQ: self._fed[n], GONE_SEQ: run} for n in self._fed.keys() - now.keys()]
        if left:
            self.write("feed_tombstones", left)
        self._fed = now

    def _files(self, table: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        """Writes the rows, a file for every partition; returns the rows of each file by its path."""
        described = TABLES[table]
        written: dict[str, list[dict[str, Any]]] = {}
        stem = f"part-{uuid.uuid4()}"
        for row in rows:
            folder = "".join(f"{name}={row[name]}/" for name in described.partition_by)
            written.setdefault(f"{folder}{stem}.snappy.parquet", []).append(dict(row))
        stored = [name for name in described.column_names if name not in described.partition_by]
        for path, content in written.items():
            (self.root / table / path).parent.mkdir(parents=True, exist_ok=True)
            frame = pa.Table.from_pylist(content, arrow_schema(described, stored))
            # Spark stores INT96 timestamps and no Arrow schema.
            parquet.write_table(
                frame,
                self.root / table / path,
                row_group_size=2,
                use_deprecated_int96_timestamps=True,
                store_schema=False,
            )
        return written

    def _commit(
        self,
        table: str,
        removed: list[str],
        added: dict[str, list[dict[str, Any]]],
        more: Iterable[Mapping[str, Any]] = (),
        data_change: bool = True,
    ) -> int:
        live = self._live.setdefault(table, {})
        version = self._versions.get(table, -1) + 1
        protocol = KEEPING_FILES if TABLES[table].keeps_files else PROTOCOL
        actions = [] if version else [{"protocol": protocol}, {"metaData": delta_metadata(TABLES[table])}]
        removal = {"dataChange": data_change, "deletionTimestamp": 1}
        actions += [{"remove": self._add(table, path) | removal} for path in removed]
        self._stored |= {path: list(rows) for path, rows in added.items()}
        actions += [{"add": self._add(table, path) | {"dataChange": data_change}} for path in added]
        actions += more
        for path in removed:
            del live[path]
        live |= added
        log = self.root / table / "_delta_log"
        log.mkdir(parents=True, exist_ok=True)
        (log / f"{version:020}.json").write_text("\n".join(json.dumps(action) for action in actions))
        self._versions[table] = version
        return version

    def _add(self, table: str, path: str) -> dict[str, Any]:
        rows = self._stored[path]
        vector = {"deletionVector": deletion_vector(self._dead[path])} if path in self._dead else {}
        return vector | {
            "path": path,
            "partitionValues": {name: str(rows[0][name]) for name in TABLES[table].partition_by},
            "size": (self.root / table / path).stat().st_size,
            "modificationTime": 1,
            "dataChange": True,
            "stats": json.dumps({"numRecords": len(rows)} | _measured(TABLES[table], rows)),
        }


def _measured(table: Table, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Statistics of the columns that are numbers, which stand in JSON as they are."""
    names = [name for name in table.measured if table.column(name).type == "bigint"]
    known = {name: [row[name] for row in rows if row.get(name) is not None] for name in names}
    return {
        "minValues": {name: min(values) for name, values in known.items() if values},
        "maxValues": {name: max(values) for name, values in known.items() if values},
        "nullCount": {name: len(rows) - len(values) for name, values in known.items()},
    }


PROTOCOL = {"minReaderVersion": 1, "minWriterVersion": 4}
"""What CHECK constraints and a change data feed ask for."""
KEEPING_FILES = {
    "minReaderVersion": 3,
    "minWriterVersion": 7,
    "readerFeatures": ["deletionVectors"],
    "writerFeatures": ["deletionVectors", "changeDataFeed", "checkConstraints", "appendOnly", "invariants"],
}
"""And deletion vectors besides."""

_Z85 = string.digits + string.ascii_lowercase + string.ascii_uppercase + ".-:+=^!/*?&<>()[]{}@%$#"
_RFC_1924 = string.digits + string.ascii_uppercase + string.ascii_lowercase + "!#$%&()*+-;<=>?@^_`{|}~"


def deletion_vector(positions: Iterable[int]) -> dict[str, Any]:
    """A deletion vector in the log itself, of fewer than 4,096 positions below 65,536: a RoaringBitmapArray of one
    bitmap of one array container (Delta's PROTOCOL.md, "Deletion Vector Format"; RoaringFormatSpec)."""
    values = sorted(positions)
    bitmap = struct.pack("<IIHHI", 12346, 1, 0, len(values) - 1, 16) + struct.pack(f"<{len(values)}H", *values)
    raw = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    encoded = base64.b85encode(raw + bytes(-len(raw) % 4)).decode().translate(str.maketrans(_RFC_1924, _Z85))
    return {
        "storageType": "i",
        "pathOrInlineDv": encoded,
        "sizeInBytes": len(raw),
        "cardinality": len(values),
    }


def delta_metadata(table: Table, **configuration: str) -> dict[str, Any]:
    """The `metaData` action with which jobs create the table."""
    properties = {"delta.enableDeletionVectors": str(table.keeps_files).lower()}
    properties["delta.dataSkippingStatsColumns"] = ",".join(table.measured)
    properties |= {f"delta.constraints.{name}": text for name, text in table.constraints.items()}
    properties |= {"delta.enableChangeDataFeed": "true"} if table.change_data_feed else {}
    fields = [
        {"name": c.name, "type": delta_type(c.type), "nullable": c.nullable, "metadata": {"comment": c.comment}}
        for c in table.columns
    ]
    return {
        "id": str(uuid.uuid4()),
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": fields}),
        "partitionColumns": list(table.partition_by),
        "configuration": properties | configuration,
        "createdTime": 1,
    }


def delta_type(name: str) -> Any:
    """The type in Delta's JSON of a simple type string."""
    if name.startswith("array<"):
        return {"type": "array", "elementType": delta_type(name[6:-1]), "containsNull": True}
    if name.startswith("map<string,"):
        value = delta_type(name[11:-1])
        return {"type": "map", "keyType": "string", "valueType": value, "valueContainsNull": True}
    return {"int": "integer", "bigint": "long"}.get(name, name)
