"""A task computes on the GPUs that Spark assigned to it, or says why it cannot."""

import os
from types import SimpleNamespace

import pyspark
import pytest
import torch

from udfs.devices import DeviceError, claim_device


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has: no GPU variables, and changes undone afterwards."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def assign(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let this process be a Spark task with these GPUs."""
    resources = {"gpu": SimpleNamespace(name="gpu", addresses=list(addresses))} if addresses else {}
    context = SimpleNamespace(resources=lambda: resources)
    monkeypatch.setattr(pyspark.TaskContext, "get", staticmethod(lambda: context))


@pytest.mark.parametrize(("has_gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch, has_gpu: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert claim_device("auto") == device


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="expected cuda, found no usable NVIDIA GPU"):
        claim_device("cuda")


def test_a_task_sees_exactly_the_gpus_that_spark_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assign(monkeypatch, "3", "5")
    assert claim_device("auto") == "cuda"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_a_task_on_the_cpu_leaves_the_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assign(monkeypatch, "3")
    assert claim_device("cpu") == "cpu"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_worker_that_already_runs_on_another_gpu_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assign(monkeypatch, "1")
    with pytest.raises(DeviceError, match=r"runs on GPU 0, but Spark assigned it 1: .*worker\.reuse=false"):
        claim_device("auto")
