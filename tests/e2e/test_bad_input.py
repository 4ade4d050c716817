"""Bad input: exit code 2, one clear line that says what to do, no traceback, nothing written."""

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.config.progress import log
from jobs.nightly import main

pytestmark = pytest.mark.spark

PROFILE = "conf/local.yaml"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "2026-01-29.jsonl"
    path.write_text('{"url": "http://127.0.0.1:9/a.jpg"}\n', encoding="utf-8")
    return path


@pytest.fixture
def said() -> "Said":
    return Said()


class Said(logging.Handler):
    """What the job said while it was installed."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def failing(said: Said, warehouse: Path, *arguments: str) -> str:
    """Run the job; it must end with exit code 2, one error line, and no warehouse. The line."""
    log.addHandler(said)
    try:
        code = main(arguments)
    finally:
        log.removeHandler(said)
    assert code == 2, said.lines
    errors = [line for line in said.lines if line.startswith("error:")]
    assert len(errors) == 1
    assert "Traceback" not in errors[0]
    assert "\n" not in errors[0]
    assert not warehouse.exists()
    return errors[0]


CASES = {
    "missing manifest": (["manifest.path=/nowhere/{date}"], ["/nowhere/2026-01-29", "no such file"]),
    "unknown key": (["crawl.retrys=3"], ["crawl.retrys", "did you mean", "crawl.retries"]),
    "wrong type": (["crawl.retries=many"], ["crawl.retries", "integer", "many"]),
    "missing weights": (["embedding.weights.path=/nowhere/model.safetensors"], ["/nowhere/model.safetensors"]),
    "wrong digest": ([f"embedding.weights.sha256={'f' * 64}"], ["SHA-256", "expected ffff"]),
    "unknown model": (["embedding.model=resnet5"], ["resnet5", "resnet"]),
    "warehouse below a file": (["warehouse=README.md/warehouse"], ["README.md", "not a folder"]),
    "unwritable warehouse": (["warehouse=/proc/warehouse"], ["/proc", "cannot write"]),
    "missing policy": (["policy.file=/nowhere/policy.yaml"], ["/nowhere/policy.yaml", "cannot be read"]),
    "a rule that cannot find": (["dedup.bands=2"], ["dedup.bands", "target_recall"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_settings_end_with_a_clear_line(case: str, said: Said, warehouse: Path, manifest: Path) -> None:
    settings, expected = CASES[case]
    every = [f"manifest.path={manifest.parent}/{{date}}.jsonl", f"warehouse={warehouse}", *settings]
    overrides = [part for setting in every for part in ("--set", setting)]
    line = failing(said, warehouse, "--profile", PROFILE, "--date", "2026-01-29", *overrides)
    for text in expected:
        assert text in line


def test_a_bad_date_is_named(said: Said, warehouse: Path) -> None:
    line = failing(said, warehouse, "--profile", PROFILE, "--date", "2026-02-30", "--set", f"warehouse={warehouse}")
    assert "2026-02-30" in line
    assert "YYYY-MM-DD" in line


def test_unreadable_yaml_is_located(said: Said, warehouse: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    profile.write_text("warehouse: [1,\nmanifest: {", encoding="utf-8")
    line = failing(said, warehouse, "--profile", str(profile), "--date", "2026-01-29")
    assert str(profile) in line
    assert "line" in line


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_manifest_without_urls_lists_its_columns(name: str, said: Said, warehouse: Path, tmp_path: Path) -> None:
    folder = tmp_path / "manifest"
    folder.mkdir()
    if name.endswith(".parquet"):
        pq.write_table(pa.table({"link": ["http://a.example/"], "caption": ["x"]}), folder / name)
    else:
        text = '{"link": "a", "caption": "x"}\n' if name.endswith(".jsonl") else "link,caption\na,x\n"
        (folder / name).write_text(text, encoding="utf-8")
    overrides = ["--set", f"manifest.path={folder}", "--set", f"warehouse={warehouse}"]
    line = failing(said, warehouse, "--profile", PROFILE, "--date", "2026-01-29", *overrides)
    assert "'url'" in line
    assert "caption, link" in line or "link, caption" in line
