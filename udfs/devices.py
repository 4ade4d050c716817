"""The device that a task may compute on: Spark's assignment is honoured before torch sees a GPU."""

import ctypes
import os
from typing import Literal

Device = Literal["cpu", "cuda"]
Wanted = Literal["auto", "cpu", "cuda"]


class DeviceError(Exception):
    """The device asked for is not there, or this process already holds another. The message says what to do."""


def claim_device(wanted: Wanted) -> Device:
    """The device for this process; `auto` takes an NVIDIA GPU where there is one.

    In a Spark task with GPUs assigned, `CUDA_VISIBLE_DEVICES` is narrowed to them, which binds only until CUDA starts:
    DeviceError when this worker process already started it on other GPUs, or when `cuda` is wanted and there is none.
    """
    if wanted == "cpu":
        return "cpu"
    # Asking for GPUs would otherwise start the driver library, which reads CUDA_VISIBLE_DEVICES that once.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    _narrow_to(_assigned_gpus())
    if _has_driver():
        import torch

        if torch.cuda.is_available():
            return "cuda"
    if wanted == "cuda":
        raise DeviceError("device: expected cuda, found no usable NVIDIA GPU; set device to cpu or auto")
    return "cpu"


def _assigned_gpus() -> str | None:
    """The addresses that Spark assigned to the running task, comma-separated; None without any."""
    try:
        from pyspark import TaskContext
    except ModuleNotFoundError:  # a reader that embeds queries
        return None
    context = TaskContext.get()
    gpus = context.resources().get("gpu") if context is not None else None
    return ",".join(gpus.addresses) if gpus is not None else None


def _has_driver() -> bool:
    """Whether there is an NVIDIA driver: without one no GPU is of use, and importing torch to hear it costs seconds."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _narrow_to(addresses: str | None) -> None:
    if addresses is None or os.environ.get("CUDA_VISIBLE_DEVICES") == addresses:
        return
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise DeviceError(
            f"this Python worker runs on GPU {os.environ.get('CUDA_VISIBLE_DEVICES', 'of its own choice')}, but Spark "
            f"assigned it {addresses}: give each executor one GPU, or set spark.python.worker.reuse=false"
        )
    # Spark's discovery scripts number GPUs as nvidia-smi does; CUDA by default puts the fastest first.
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = addresses
