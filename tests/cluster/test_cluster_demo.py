"""`make cluster-demo`, one of its nights: a real cluster beside local mode, and nothing left of it afterwards."""

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from demo.beside import LEAST_COSINE, least_cosine
from jobs.install.build_dist import build
from lensfeed.snapshot import Snapshot

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def into(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "cluster"


@pytest.fixture(scope="module")
def said(into: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the demo said at its end."""
    dist = tmp_path_factory.mktemp("dist")
    build(dist, ROOT / ".assets/jars")
    command = [sys.executable, "-m", "demo.cluster", "--night-only", "--dist", str(dist), "--into", str(into)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "our code from lensfeed.zip" in done.stderr
    return done.stdout


def test_both_ways_have_one_digest(said: str) -> None:
    digests = re.findall(r"^  (?:local mode|the cluster) +([0-9a-f]{64})$", said, re.MULTILINE)
    assert len(digests) == 2
    assert len(set(digests)) == 1
    assert "154 of 154 rows ended as planned" in said


def test_vectors_are_those_of_local_mode(said: str, into: Path) -> None:
    ways = [Snapshot.open(into / name / "warehouse") for name in ("local", "cluster")]
    assert least_cosine(*ways) >= LEAST_COSINE


def test_images_are_embedded_on_gpu_executors_and_nothing_else_is(said: str) -> None:
    rows = {line.split("  ")[1].strip(): line.split() for line in said.splitlines() if re.search(r"\d +\d+$", line)}
    assert int(rows["embed"][-1]) > 0
    assert {
        name for name, row in rows.items() if name in {"crawl and gate", "dedup", "feed"} and row[-1] != "0"
    } == set()
    assert "(a fake)" in said


def test_nothing_of_the_cluster_is_left(said: str, into: Path) -> None:
    left = []
    for process in psutil.process_iter(["cmdline"]):
        if str(into) in " ".join(process.info["cmdline"] or ()):
            left.append(process)
    assert left == []
    assert sorted(path.name for path in into.iterdir()) == [
        "cluster",
        "events",
        "fake-gpus",
        "local",
        "logs",
        "manifests",
    ]
