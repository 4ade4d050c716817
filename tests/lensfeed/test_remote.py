"""What readers do on a local disk they do on an object store."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from pyarrow import fs

from lensfeed import Snapshot, changes, changes_to, export, feed_vectors, load_export, open_feed, pinned, search
from lensfeed.feed_export import ExportError
from lensfeed.pins import FOLDER, Pin
from tests.jobs.warehouse.s3 import BUCKET
from tests.lensfeed.tiny_warehouse import TinyWarehouse, feed_row

SERVE = """
import json, sys
from tests.jobs.warehouse.s3 import s3_server
with s3_server() as options:
    print(json.dumps(options), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, Any]]:
    """In a process of its own: delta-rs waits for it with the interpreter's lock held."""
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield json.loads(process.stdout.readline())
        process.stdin.close()


def client(server: dict[str, Any]) -> Any:
    keys = {"aws_access_key_id": server["access_key_id"], "aws_secret_access_key": server["secret_access_key"]}
    return boto3.client("s3", endpoint_url=server["endpoint"], region_name=server["region"], **keys)


def upload(server: dict[str, Any], root: Path) -> None:
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        client(server).upload_file(str(file), BUCKET, f"ware house/{file.relative_to(root)}")


@pytest.fixture
def snapshot(server: dict[str, Any], warehouse: TinyWarehouse) -> Snapshot:
    """A warehouse of two nights in a bucket."""
    warehouse.write("index_feed", [feed_row(n) for n in range(4)])
    warehouse.event("first", "published")
    warehouse.merge("index_feed", deleted=[0], changed=[feed_row(1, title="new", row_digest="new")])
    warehouse.write("index_feed", [feed_row(9)])
    warehouse.event("second", "published")
    upload(server, warehouse.root)
    options = {
        "aws_access_key_id": server["access_key_id"],
        "aws_secret_access_key": server["secret_access_key"],
        "aws_region": server["region"],
        "aws_endpoint": server["endpoint"],
        "aws_allow_http": "true",
    }
    return open_feed(f"s3://{BUCKET}/ware house", storage_options=options)


def test_changes_are_told_from_an_object_store(server: dict[str, Any], snapshot: Snapshot) -> None:
    found = changes(snapshot, "first")
    assert [found.inserted.tolist(), found.updated.tolist(), found.deleted.tolist()] == [[9], [1], [0]]
    rows = [row for batch in found.upserts(["feed_id", "title"]) for row in batch.to_pylist()]
    assert sorted((row["feed_id"], row["title"]) for row in rows) == [(1, "new"), (9, None)]
    held = snapshot.rows("index_feed", ["feed_id", "row_digest"])
    assert len(changes_to(snapshot, held["feed_id"].to_numpy(), held["row_digest"].to_pylist())) == 0
    assert snapshot.rows("runs").num_rows == 2
    assert search(snapshot, feed_vectors(snapshot)[1][0], 1)[0].tolist() == [feed_vectors(snapshot)[0][0]]


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_an_object_store_takes_an_export(server: dict[str, Any], snapshot: Snapshot, kind: Any) -> None:
    place = fs.S3FileSystem(
        access_key=server["access_key_id"],
        secret_key=server["secret_access_key"],
        region=server["region"],
        endpoint_override=server["endpoint"],
    )
    export(snapshot, f"{BUCKET}/exports/{kind}", kind, filesystem=place)
    loaded = load_export(f"{BUCKET}/exports/{kind}", filesystem=place)
    assert sorted(loaded.feed_ids.tolist()) == [1, 2, 3, 9]
    assert loaded.vectors.tolist() == feed_vectors(snapshot)[1].tolist()
    with pytest.raises(ExportError, match="expected a new or empty folder"):
        export(snapshot, f"{BUCKET}/exports/{kind}", kind, filesystem=place)
    with pytest.raises(ExportError, match="not an export, or one that was not finished"):
        load_export(f"{BUCKET}/exports/none", filesystem=place)


def test_an_object_store_takes_a_pin(server: dict[str, Any], snapshot: Snapshot) -> None:
    def pins() -> list[str]:
        found = client(server).list_objects_v2(Bucket=BUCKET, Prefix=f"ware house/{FOLDER}/").get("Contents", ())
        return [client(server).get_object(Bucket=BUCKET, Key=one["Key"])["Body"].read().decode() for one in found]

    with pinned(snapshot, by="an index", hours=6) as pin:
        assert [Pin.of_json(text) for text in pins()] == [pin]
    assert pins() == []
