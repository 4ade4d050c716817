"""Where the embedding stage runs, and what it asks of Spark."""

import re
from typing import Any

import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from jobs.config.profile import load
from jobs.stages import devices, embed
from jobs.stages.embed import embed_images, embedding_profile
from schemas.settings import EmbeddingSettings
from tests.jobs.frames import frame

PROFILE = load("conf/nightly-gpu.yaml").embedding


@pytest.fixture
def on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's master counts as a cluster's; profiles of other tests are forgotten."""
    monkeypatch.setattr(devices, "is_local", lambda _: False)
    embed._profile.cache_clear()


@pytest.fixture
def dynamic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark may start executors."""
    monkeypatch.setattr(devices, "property_of", lambda _, name: {"spark.dynamicAllocation.enabled": "true"}.get(name))


def changed(**changes: Any) -> EmbeddingSettings:
    return EmbeddingSettings.model_validate(PROFILE.model_dump() | changes)


def test_local_mode_has_one_kind_of_executor(spark: SparkSession) -> None:
    assert embedding_profile(spark, PROFILE) is None


def test_pixels_are_exchanged_once_and_only_the_chosen_are_embedded(spark: SparkSession) -> None:
    rows = [(f"url {n}", f"image {n % 7}", b"no picture") for n in range(20)]
    pixels = frame(spark, "url_id string, image_id string, pixels binary", rows)
    only = frame(spark, "url_id string", [("url 3",), ("url 11",)])
    embedded = embed_images(pixels, load("conf/local.yaml").embedding, 3, only=only)
    plan = embedded._jdf.queryExecution().executedPlan().toString()  # what Spark's explain() prints
    assert len(re.findall(r"Exchange.*hashpartitioning\(url_id", plan)) == 2  # the pixels, and the ids that choose
    assert len(re.findall(r"Exchange", plan)) == 2
    assert sorted(row.image_id for row in embedded.collect()) == ["image 3", "image 4"]


@pytest.mark.usefixtures("on_a_cluster")
def test_without_gpus_the_stage_runs_where_all_do(spark: SparkSession) -> None:
    assert embedding_profile(spark, changed(gpus_per_task=0)) is None


@pytest.mark.usefixtures("on_a_cluster", "dynamic")
def test_the_stage_asks_for_executors_with_a_gpu_and_for_its_share_of_it(spark: SparkSession) -> None:
    profile = embedding_profile(spark, PROFILE)
    assert profile is not None
    assert {name: share.amount for name, share in profile.taskResources.items()} == {"cpus": 2.0, "gpu": 0.125}
    wanted = profile.executorResources
    assert {name: wanted[name].amount for name in ("cores", "memory", "memoryOverhead", "gpu")} == {
        "cores": 16, "memory": 8 * 1024, "memoryOverhead": 36 * 1024, "gpu": 1
    }  # fmt: skip
    assert wanted["gpu"].discoveryScript == "./discover_gpus.sh"


@pytest.mark.usefixtures("on_a_cluster")
def test_where_no_executors_can_be_started_only_the_share_is_asked_for(spark: SparkSession) -> None:
    profile = embedding_profile(spark, PROFILE)
    assert profile is not None
    assert "gpu" not in profile.executorResources
    assert profile.taskResources["gpu"].amount == 0.125


@pytest.mark.usefixtures("on_a_cluster", "dynamic")
def test_stages_of_one_application_share_executors(spark: SparkSession) -> None:
    first, again = (embedding_profile(spark, changed(model=name)) for name in ("resnet18", "resnet50"))
    assert first is again
    assert embedding_profile(spark, changed(gpus_per_task=0.5)) is not first


@pytest.mark.usefixtures("on_a_cluster")
def test_a_task_without_a_gpu_of_its_own_computes_on_the_cpu(spark: SparkSession) -> None:
    for settings in (changed(device="auto", gpus_per_task=0), load("conf/nightly.yaml").text):
        assert settings.device == "auto"
        assert devices.device_for(spark, settings.device) == "cpu"
    assert devices.device_for(spark, "cuda") == "cuda"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus_per_task": 0.75}, "gpus_per_task must be 0, 1 or at most 0.5 (Spark shares a GPU evenly), not 0.75"),
        ({"cores_per_task": 4}, "executor.cores: a GPU is filled by 8 tasks of 4 cores, which need 32, not 16"),
        ({"executor": {"memory": "8 GB"}}, "memory"),
    ],
)
def test_a_share_that_leaves_a_gpu_idle_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        changed(**changes)
