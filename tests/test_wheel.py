"""What `pip install` of the wheel gives to somebody who only reads: an environment with nothing in it but that."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.lensfeed.tiny_warehouse import TinyWarehouse, feed_row, member_row

ROOT = Path(__file__).parents[1]
HEAVY = {"pyspark", "delta-spark", "torch", "petastorm", "keras", "pandas"}
"""What a reader must not be made to install."""

READ = """
import json, sys
from importlib.metadata import distributions
from lensfeed import changes, export, feed_vectors, load_export, lookup, open_feed, search

try:
    import lensfeed.encoder
except ImportError as error:
    refused = str(error)
snapshot = open_feed(sys.argv[1])
ids, vectors = feed_vectors(snapshot)
print(json.dumps({
    "ids": ids.tolist(),
    "shape": vectors.shape,
    "refused": refused,
    "changed": len(changes(snapshot, snapshot.run_id)),
    "nearest": search(snapshot, vectors, 1)[0][:, 0].tolist(),
    "exported": export(snapshot, sys.argv[2]) == load_export(sys.argv[2]).manifest,
    "urls": [[seen.url for seen in entry.urls] for entry in lookup(snapshot, ids)],
    "installed": sorted({d.metadata["Name"].lower() for d in distributions()}),
    "prefix": sys.prefix,
}))
"""


def run(*command: str, cwd: Path) -> str:
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{command}: {ran.stderr[-2000:]}"
    return ran.stdout


def build_wheel(into: Path) -> Path:
    """The wheel of a copy: setuptools leaves a `build` folder beside the sources, and packs what an older one holds."""
    sources = into / "sources"
    for folder in ("jobs", "udfs", "schemas", "lensfeed", "conf"):
        shutil.copytree(ROOT / folder, sources / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / file, sources / file)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(into)]
    run(*command, str(sources), cwd=into)
    (wheel,) = into.glob("lensfeed-*.whl")
    return wheel


@pytest.mark.slow  # half a minute, but it needs a package index, which CI does without
def test_the_wheel_with_readers_alone_reads_a_published_warehouse(tmp_path: Path) -> None:
    warehouse = TinyWarehouse(tmp_path / "warehouse")
    warehouse.write("index_feed", [feed_row(n) for n in range(3)])
    warehouse.write("feed_members", [member_row(n, n, f"https://pictures.example/{n}.jpg") for n in range(3)])
    warehouse.event("run", "published")

    wheel = build_wheel(tmp_path)
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "jobs/reporting/templates").iterdir()}
    assert templates <= set(ZipFile(wheel).namelist())
    run(sys.executable, "-m", "venv", "fresh", cwd=tmp_path)
    python = str(tmp_path / "fresh/bin/python")
    # -I: PYTHONPATH may name this checkout, which pip would take for an installed lensfeed.
    run(python, "-I", "-m", "pip", "install", "--quiet", f"{wheel}[readers]", cwd=tmp_path)
    read = json.loads(run(python, "-I", "-c", READ, str(warehouse.root), str(tmp_path / "out"), cwd=tmp_path))

    assert read["ids"] == [0, 1, 2]
    assert read["shape"] == [3, 8]
    assert "pip install 'lensfeed[encoder]'" in read["refused"]
    assert (read["changed"], read["nearest"], read["exported"]) == (0, read["ids"], True)
    assert read["urls"] == [[f"https://pictures.example/{n}.jpg"] for n in range(3)]
    assert not set(read["installed"]) & HEAVY
    assert "\n  nightly " in run(str(tmp_path / "fresh/bin/lensfeed"), "--help", cwd=tmp_path)
    conf = Path(read["prefix"]) / "share/lensfeed/conf"
    installed = {file.name for file in conf.iterdir()} - {"__pycache__"}  # pip compiles the file for Airflow
    assert installed == {file.name for file in (ROOT / "conf").iterdir()}
