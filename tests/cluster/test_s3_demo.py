"""`make demo-s3`, one of its nights: manifests and warehouse on an S3 on loopback, beside a folder.

Its jars come with `make setup-s3`, which `make test-cluster` runs first; without them this fails and says so.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the demo said at its end."""
    into = tmp_path_factory.mktemp("demo") / "s3"
    command = [sys.executable, "-m", "demo.on_s3", "--night-only", "--into", str(into)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_both_ways_have_one_digest(said: str) -> None:
    digests = re.findall(r"^  (?:a folder|S3) +([0-9a-f]{64})$", said, re.MULTILINE)
    assert len(digests) == 2
    assert len(set(digests)) == 1
    assert "147 of 147 rows ended as planned" in said


def test_a_second_driver_is_refused_by_the_lease(said: str) -> None:
    assert re.search(r"exit code 1: .*the warehouse s3a://\S+ is held by backfill 2026-01-29 \(pid \d+ on ", said)


def test_a_reader_finds_the_feed_there(said: str) -> None:
    for table in ("index_feed", "images", "sightings"):
        found = re.search(rf"{table}: (\d+) rows, (\d+) in the folder", said)
        assert found is not None
        assert found[1] == found[2] != "0"


def test_no_pixel_of_the_staging_is_copied(said: str) -> None:
    assert "COPY in _staging" not in said
    assert "COPY in data" not in said
