"""Text towers of CLIP and SigLIP models through open_clip: vectors in the space of the visual tower they came with.

Only the text side of a checkpoint is built and loaded. Whether a checkpoint was trained with QuickGELU is not written
in it: OpenAI's, MetaCLIP's and DFN's were, and need the architecture of that name (`ViT-B-32-quickgelu`).
"""

import tempfile
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from schemas.settings import TextSettings
from udfs.assets import locate
from udfs.devices import Device
from udfs.embedding.text_models import CLIP_PREFIX, TextEmbedder, TextModelError, Tokens
from udfs.embedding.vectors import Vectors
from udfs.tensors import TensorsError, read_tensors

_CONTEXT = 77
"""Tokens that a CLIP reads, where its configuration does not say otherwise."""


def clip_dimension(settings: TextSettings) -> int:
    """Length of the model's vectors; loads no weights. Raises TextModelError for a model that open_clip lacks."""
    dimension: int = _configuration(settings)["embed_dim"]
    return dimension


def load_clip_text(settings: TextSettings, device: Device) -> TextEmbedder:
    """The text tower of the settings' checkpoint.

    Raises AssetError for files that are missing or not the pinned ones; TextModelError for an unknown model, one whose
    tower or tokenizer is not in these files, a checkpoint of another model, a `max_tokens` that would cut its context.
    """
    configuration = _configuration(settings)
    context = configuration["text_cfg"].get("context_length", _CONTEXT)
    if settings.max_tokens < context:
        raise TextModelError(f"text.max_tokens: {settings.model} reads {context}, expected at least that")
    return TextEmbedder(
        dimension=configuration["embed_dim"],
        device=device,
        tokenize=_tokenizer(settings, configuration["text_cfg"], context),
        forward=_forward(_tower(settings, configuration).to(device), device),
        lengths=(context,),
        batch_size=settings.batch_size,
    )


def _configuration(settings: TextSettings) -> dict[str, Any]:
    import open_clip

    name = settings.model.removeprefix(CLIP_PREFIX)
    configuration: dict[str, Any] | None = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if configuration is None:
        raise TextModelError(f"text.model: open_clip knows no {name!r}; it knows ViT-B-32, ViT-B-16-SigLIP and others")
    if "hf_model_name" in configuration["text_cfg"] or "multimodal_cfg" in configuration:
        raise TextModelError(f"text.model: {name} has a text tower of transformers'; expected CLIP's or SigLIP's own")
    return configuration


def _tower(settings: TextSettings, configuration: dict[str, Any]) -> Any:
    from open_clip.model import _build_text_tower, convert_to_custom_text_state_dict

    weights = locate(settings.weights)
    quick_gelu = configuration.get("quick_gelu", False)
    tower = _build_text_tower(configuration["embed_dim"], configuration["text_cfg"], quick_gelu)
    try:
        state = read_tensors(weights)
        if "positional_embedding" in state:  # the first CLIPs' text side has no name of its own
            state = convert_to_custom_text_state_dict(state)
        text = {key.removeprefix("text."): tensor for key, tensor in state.items() if key.startswith("text.")}
        # The mask follows from the architecture; some files hold it all the same.
        tower.load_state_dict({key: tensor for key, tensor in text.items() if key != "attn_mask"})
    except (TensorsError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TextModelError(f"{weights}: not a checkpoint of {settings.model}: {reason}") from error
    return tower.eval()


def _tokenizer(
    settings: TextSettings, text_cfg: dict[str, Any], context: int
) -> Callable[[Sequence[str]], list[Tokens]]:
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    options = text_cfg.get("tokenizer_kwargs", {})
    needed = text_cfg.get("hf_tokenizer_name")
    if needed and not settings.tokenizer:
        raise TextModelError(f"text.tokenizer: {settings.model} needs a zip file of the tokenizer of {needed}")
    if settings.tokenizer:
        path = locate(settings.tokenizer)
        with tempfile.TemporaryDirectory() as folder:
            try:
                with zipfile.ZipFile(path) as packed:
                    packed.extractall(folder)
                tokenizer: Any = HFTokenizer(folder, context_length=context, **options)
            except (zipfile.BadZipFile, OSError, ValueError) as error:
                reason = str(error).split("\n", maxsplit=1)[0]
                raise TextModelError(f"{path}: expected a zip file of a tokenizer's folder: {reason}") from error
    else:
        tokenizer = SimpleTokenizer(context_length=context, **options)
    return lambda texts: [tuple(row) for row in tokenizer(list(texts)).tolist()]


def _forward(tower: Any, device: Device) -> Callable[[Sequence[Tokens], int, int], Vectors]:
    import torch

    @torch.inference_mode()
    def forward(tokens: Sequence[Tokens], size: int, length: int) -> Vectors:
        ids = np.zeros((size, length), dtype=np.int64)
        ids[: len(tokens)] = tokens
        vectors: Vectors = tower(torch.from_numpy(ids).to(device))[: len(tokens)].float().cpu().numpy()
        return vectors

    return forward
