"""Embedding on executors with a GPU of their own: real scheduling over several processes, no GPU needed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
import timm
import torch
from pyspark.sql import SparkSession
from safetensors.torch import save_file

from jobs.stages.embed import embed_images
from schemas.settings import AssetSettings, EmbeddingSettings
from tests.pictures import crops, encoded
from udfs.assets import sha256_of
from udfs.embedding.embed import golden_vectors

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
COUNT = 24

# Every worker of the cluster asks for its GPUs: the first is told of number 0, the second of number 1.
NVIDIA_SMI = """#!/bin/sh
for index in 0 1; do mkdir "{folder}/gpu$index" 2>/dev/null && echo "$index" && exit 0; done
exit 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the application on the cluster is given: a tiny model, its golden vectors, pictures of which one is none."""
    folder = tmp_path_factory.mktemp("cluster")
    torch.manual_seed(1)
    weights = folder / "tiny.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), weights)
    settings = EmbeddingSettings(
        model="test_vit",
        weights=AssetSettings(path=str(weights), sha256=sha256_of(weights)),
        licence="none",
        gpus_per_task=1,
        executor={"cores": 1, "memory": "512m", "memory_overhead": "512m"},
    )
    golden = golden_vectors(settings)
    pictures = [encoded(picture, quality=90) for picture, _ in zip(crops(128), range(COUNT), strict=False)]
    pictures[7] = pictures[7][:200]
    ids = [f"{index:02d}" for index in range(COUNT)]
    pq.write_table(pa.table({"image_id": ids, "pixels": pa.array(pictures, pa.binary())}), folder / "pictures.parquet")
    (folder / "settings.json").write_text(settings.model_dump_json())
    (folder / "golden.json").write_text(json.dumps([golden.samples, golden.vectors]))
    return folder


@pytest.fixture(scope="module")
def local(spark: SparkSession, folder: Path) -> dict[str, Any]:
    """Vectors of the same pictures in local mode, by image_id; None where there is none."""
    settings = EmbeddingSettings.model_validate_json((folder / "settings.json").read_text())
    frame = spark.read.parquet(str(folder / "pictures.parquet"))
    return {row.image_id: row.vector for row in embed_images(frame, settings, 2).collect()}


@pytest.fixture(scope="module")
def report(folder: Path, local: dict[str, Any]) -> dict[str, Any]:
    """What the application saw."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "nvidia-smi"
    program.write_text(NVIDIA_SMI.format(folder=folder))
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYSPARK_PYTHON": sys.executable}
    # Workers keep their files where Spark is installed: let that be here.
    (folder / "spark").mkdir()
    for part in Path(pyspark.__file__).parent.iterdir():
        (folder / "spark" / part.name).symlink_to(part)
    environment |= {"SPARK_HOME": str(folder / "spark"), "SPARK_LOCAL_DIRS": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.session", str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, "\n".join(line for line in done.stderr.splitlines() if not line.startswith("\tat"))
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_a_stage_without_the_profile_sees_no_gpu(report: dict[str, Any]) -> None:
    assert len(report["noted"]) == COUNT
    assert {row["before"] for row in report["noted"]} == {json.dumps({"assigned": {}, "visible": None})}


def test_the_embedding_stage_sees_exactly_its_own_gpu(report: dict[str, Any]) -> None:
    within = [json.loads(row["within"]) for row in report["noted"]]
    assert {tuple(seen["assigned"]["gpu"]) for seen in within} == {("0",), ("1",)}
    assert all(seen["visible"] == seen["assigned"]["gpu"][0] for seen in within)


def test_vectors_are_those_of_local_mode(report: dict[str, Any], local: dict[str, Any]) -> None:
    assert_the_same(report["embedded"], local)


def test_a_corrupt_image_fails_alone(report: dict[str, Any]) -> None:
    assert {row["image_id"] for row in report["embedded"] if row["error"] is not None} == {"07"}


def test_a_worker_killed_within_a_partition_loses_and_repeats_nothing(
    report: dict[str, Any], local: dict[str, Any]
) -> None:
    assert report["died"]
    assert_the_same(report["killed"], local)


def test_an_executor_lost_within_a_partition_loses_and_repeats_nothing(
    report: dict[str, Any], local: dict[str, Any]
) -> None:
    assert report["executor died"]
    assert_the_same(report["executor killed"], local)


def test_other_weights_than_the_pinned_ones_fail_the_stage(report: dict[str, Any]) -> None:
    assert "AssetError: " in report["other weights"]
    assert f"SHA-256 expected {'f' * 64}, found " in report["other weights"]


def test_an_executor_that_makes_other_vectors_fails_the_stage(report: dict[str, Any]) -> None:
    assert "GoldenError: golden vectors: expected a mean cosine of at least 0.999990" in report["other golden"]


def assert_the_same(rows: list[dict[str, Any]], local: dict[str, Any]) -> None:
    """Each picture once, each vector within cosine 0.9999 of local mode's."""
    assert sorted(row["image_id"] for row in rows) == sorted(local)
    for row in rows:
        expected = local[row["image_id"]]
        assert (row["vector"] is None) == (expected is None)
        if expected is not None:
            assert np.dot(row["vector"], expected) > 0.9999
