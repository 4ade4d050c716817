"""Visual towers: any timm model by name, its preprocessing and head made right, its weights from one pinned file.

Preprocessing is timm's own (`timm.data.resolve_model_data_config`, `timm.data.create_transform`), overridden by what
the settings state. Three things that timm alone does not get right for an embedding are settled here: CLIP's projection
is timm's head, so that `num_classes=0` would leave the space it shares with its text tower; OpenAI's and some other
CLIP weights need the architecture with QuickGELU (timm issue 2031); DINOv3 pools by its class token, timm by average.
"""

import difflib
import functools
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from schemas.settings import EmbeddingSettings
from udfs.tensors import TensorsError, read_tensors

_REVISION = 1
"""Raised whenever another treatment of pixels (`udfs.embedding.pixels`) or weights changes what comes out."""
_LISTED = 5
"""Names that an error lists before it says how many more there are."""
_CLIP_FAMILIES = ("clip", "pe_core")
"""In the names of models whose head may be the projection into the space of a text tower; timm says whether it is."""


class EmbedderError(Exception):
    """The settings name no model, or the weights are another model's. The message says what was expected and found."""


@dataclass(frozen=True)
class ModelDescription:
    """All that decides a vector besides weights and number format."""

    architecture: str
    head: Literal["features", "projection"]
    pooling: Literal["model", "token", "avg"]
    dimension: int
    input_size: tuple[int, int]
    """Height and width in pixels."""
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_pct: float
    crop_mode: str
    fit: Literal["model", "pad"]


@functools.cache
def describe(settings: EmbeddingSettings) -> ModelDescription:
    """The model that the settings ask for, what they leave open filled in from timm.

    Imports timm (some ten seconds of CPU) only if something is left open. Raises EmbedderError for an unknown model.
    """
    stated = _stated(settings)
    return ModelDescription(**(stated if _complete(stated) else _resolved(settings, stated)))


def dimension(settings: EmbeddingSettings) -> int:
    """Length of the model's vectors; loads no weights. Raises EmbedderError for an unknown model."""
    return describe(settings).dimension


def model_version(settings: EmbeddingSettings, canonical_version: str) -> str:
    """SHA-256 hex over architecture, weights, preprocessing, pooling, dimension, number format and canonical image.

    `canonical_version` digests how bytes became the stored JPEG. Device, threads and batch sizes are left out: they
    move a vector by rounding only. Raises EmbedderError for an unknown model.
    """
    parts = asdict(describe(settings)) | {
        "weights": settings.weights.sha256,
        "dtype": settings.dtype,
        "canonical_version": canonical_version,
        "revision": _REVISION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def build(description: ModelDescription, weights: Path) -> Any:
    """The timm model (`torch.nn.Module`) in eval mode, on the CPU, with the weights of `weights`.

    `weights` is a safetensors file or what `torch.load(weights_only=True)` reads. Raises EmbedderError when it is
    neither, or when its tensors are not exactly the model's (only a classifier that is not asked for may be there too).
    """
    model = _create(description.architecture, description.head, description.pooling)
    try:
        state = read_tensors(weights)
    except TensorsError as error:
        raise EmbedderError(str(error)) from error
    if description.head == "features":
        state = _without_classifier(state, model.pretrained_cfg["classifier"])
    _load_strictly(model, state, description.architecture, weights)
    return model.eval()


def _stated(settings: EmbeddingSettings) -> dict[str, Any]:
    """What the settings decide by themselves; None where only timm knows."""
    named_clip = any(name in settings.model for name in _CLIP_FAMILIES)
    return {
        "architecture": settings.model,
        "head": (None if named_clip else "features") if settings.head == "auto" else settings.head,
        "pooling": _pooling(settings),
        "fit": settings.fit,
        **{name: getattr(settings, name) for name in ("dimension", *_PREPROCESSING)},
    }


_PREPROCESSING = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")


def _pooling(settings: EmbeddingSettings) -> str:
    if settings.pooling != "auto":
        return settings.pooling
    # DINOv3's authors take the class token; timm's default for its vision transformers is the average.
    return "token" if settings.model.startswith("vit_") and "dinov3" in settings.model else "model"


def _complete(stated: dict[str, Any]) -> bool:
    return all(value is not None for value in stated.values())


def _resolved(settings: EmbeddingSettings, stated: dict[str, Any]) -> dict[str, Any]:
    import torch
    from timm.data import resolve_model_data_config

    known = {name: value for name, value in stated.items() if value is not None}
    with torch.device("meta"):
        head = known.get("head") or _native_head(settings.model)
        model = _create(settings.model, head, known["pooling"]).eval()
        data = resolve_model_data_config(model)
        data["input_size"] = tuple(data["input_size"][1:])
        resolved = {"head": head} | {name: data[name] for name in _PREPROCESSING} | known
        if "dimension" not in resolved:
            resolved["dimension"] = model(torch.zeros(1, 3, *resolved["input_size"])).shape[1]
    return resolved


def _native_head(name: str) -> Literal["features", "projection"]:
    """CLIP's own weights carry a projection as their head; those fine-tuned on ImageNet a classifier."""
    import timm
    from timm.data import infer_imagenet_subset

    _check_name(name)
    configuration = timm.get_pretrained_cfg(name).to_dict()
    is_projection = configuration["num_classes"] and infer_imagenet_subset(configuration) is None
    return "projection" if is_projection else "features"


def _create(name: str, head: str, pooling: str) -> Any:
    import timm

    _check_name(name)
    arguments: dict[str, Any] = {} if head == "projection" else {"num_classes": 0}
    if pooling != "model":
        arguments["global_pool"] = pooling
    return timm.create_model(name, pretrained=False, **arguments)


def _check_name(name: str) -> None:
    import timm
    from timm.models import get_arch_pretrained_cfgs

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        nearest = difflib.get_close_matches(architecture, timm.list_models(), n=_LISTED)
        raise EmbedderError(f"embedding.model: timm knows no {name!r}; nearest: {', '.join(nearest) or 'none'}")
    tags = [known.partition(".")[2] for known in get_arch_pretrained_cfgs(architecture)]
    if tag and tag not in tags:
        raise EmbedderError(f"embedding.model: {architecture} has no tag {tag!r}; it has: {', '.join(sorted(tags))}")
    quick = name.replace("_clip_", "_clip_quickgelu_")
    if quick != name and tag and quick in timm.list_pretrained("*_clip_quickgelu_*"):
        raise EmbedderError(f"embedding.model: the weights of {name} were trained with QuickGELU; use {quick}")


def _without_classifier(state: dict[str, Any], classifier: str | tuple[str, ...]) -> dict[str, Any]:
    names = (classifier,) if isinstance(classifier, str) else classifier
    prefixes = tuple(f"{name}." for name in names)
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


def _load_strictly(model: Any, state: dict[str, Any], name: str, weights: Path) -> None:
    expected = model.state_dict()
    # Batch norms count the batches they were trained on; nothing reads it, and converted files often lack it.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    misshapen = [
        f"{key} {tuple(state[key].shape)} for {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    found = "; ".join(f"{what}: {_first(names)}" for what, names in problems.items() if names)
    if found:
        raise EmbedderError(f"{weights}: expected the tensors of timm's {name}, found {found}")
    model.load_state_dict(state, strict=False)


def _first(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
