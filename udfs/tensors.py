"""Weights as files: the one way in which tensors are read from the disk, whatever model they are for."""

import pickle
from pathlib import Path
from typing import Any


class TensorsError(Exception):
    """A file does not hold tensors alone. The message says what was expected and found."""


def read_tensors(weights: Path) -> dict[str, Any]:
    """Tensors by name, of a safetensors file or of what `torch.load(weights_only=True)` reads; TensorsError else."""
    if weights.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(weights))
        except SafetensorError as error:
            raise TensorsError(f"{weights}: not a safetensors file: {error}") from error
    import torch

    try:
        read = torch.load(weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise TensorsError(f"{weights}: not a file of tensors alone; convert it to safetensors") from error
    if not isinstance(read, dict):
        raise TensorsError(f"{weights}: expected a state dict, found a {type(read).__name__}")
    state: dict[str, Any] = read.get("state_dict", read)
    return state
