"""A task computes on the GPUs that Spark assigned to it, or says why it cannot."""

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pyspark
import pytest
import torch

from udfs import devices
from udfs.devices import DeviceError, claim_device


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has: no GPU variables, and changes undone afterwards."""
    monkeypatch.setattr(devices, "_has_driver", lambda: True)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PYTORCH_NVML_BASED_CUDA_CHECK"):
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


def test_without_an_nvidia_driver_auto_is_the_cpu_and_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> bool:
        raise AssertionError

    monkeypatch.setattr(devices, "_has_driver", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", asked)
    assert claim_device("auto") == "cpu"
    with pytest.raises(DeviceError, match="expected cuda, found no usable NVIDIA GPU"):
        claim_device("cuda")


def test_a_task_sees_exactly_the_gpus_that_spark_assigned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assign(monkeypatch, "3", "5")
    assert claim_device("auto") == "cuda"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_asking_for_gpus_does_not_start_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else CUDA_VISIBLE_DEVICES, set by a later task of this worker, would not be read any more."""
    claim_device("auto")
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"


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


def discover(nvidia_smi: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the discovery script with this for nvidia-smi."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{nvidia_smi}\n")
    program.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    script = Path(__file__).parents[2] / "conf" / "discover_gpus.sh"
    return subprocess.run([script], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("listed", "addresses"), [("0\\n1\\n10\\n", ["0", "1", "10"]), ("3\\n", ["3"])])
def test_spark_is_told_which_gpus_there_are(listed: str, addresses: list[str], tmp_path: Path) -> None:
    found = discover(f"printf '{listed}'", tmp_path)
    assert json.loads(found.stdout) == {"name": "gpu", "addresses": addresses}
    assert found.stdout.count("\n") == 1


def test_a_machine_whose_driver_fails_does_not_pass_for_one_without_gpus(tmp_path: Path) -> None:
    assert discover("echo 'NVIDIA-SMI has failed' >&2; exit 9", tmp_path).returncode != 0
