"""Cleaned texts (`udfs.cleaning`) embedded by a sentence-transformers or CLIP model.

The text towers of CLIP and SigLIP are in `udfs.embedding.clip_text`. A sentence-transformers model runs through
`transformers` and `tokenizers` alone, read straight from the zip file it is shipped as: importing sentence-transformers
costs another eight CPU seconds in every worker of every night, and its batches are shaped by their longest text, so
that a text's last bits would depend on its neighbours. Vectors agree with `SentenceTransformer.encode` within 1e-5
(tested).
"""

import functools
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.settings import TextSettings
from udfs.assets import locate
from udfs.devices import Device, claim_device
from udfs.embedding.clip_text import clip_dimension, load_clip_text
from udfs.embedding.golden import GOLDEN_TEXTS, Golden
from udfs.embedding.text_models import CLIP_PREFIX, TextEmbedder, TextModelError, Tokens
from udfs.embedding.vectors import Vectors, embedded_batch

TEXT_EMBEDDED_DDL = "text_id string, vector array<float>, error string"
"""Spark schema of what `embed_text_batches` yields."""

_LENGTHS: tuple[int, ...] = (*range(8, 64, 8), *range(64, 128, 16), *range(128, 513, 32))
"""Token counts that sentence-transformers' texts are padded to: cost is linear in them."""
_WEIGHTS = "model.safetensors"


def text_dimension(settings: TextSettings) -> int:
    """Length of the model's vectors; loads no weights. Raises AssetError and TextModelError as `load_text_embedder`."""
    if settings.model.startswith(CLIP_PREFIX):
        return clip_dimension(settings)
    dimension: int = _Folder(locate(settings.weights)).configuration["hidden_size"]
    return dimension


def text_model_version(settings: TextSettings) -> str:
    """SHA-256 hex over model, weights, tokenizer and pooling (mostly in the same file as the weights), tokens read."""
    parts: dict[str, Any] = {"model": settings.model, "weights": settings.weights.sha256}
    parts["max_tokens"] = settings.max_tokens
    if settings.tokenizer:
        parts["tokenizer"] = settings.tokenizer.sha256
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_text_embedder(settings: TextSettings) -> TextEmbedder:
    """The text tower that the settings describe, on its device; loaded once per process.

    Raises AssetError for weights that are missing or not the pinned ones, TextModelError for a zip file without a model
    of mean-pooled tokens or for a checkpoint of another CLIP, DeviceError for a GPU that is not there or not ours.
    """
    return _load(settings, claim_device(settings.device))


def golden_text_vectors(settings: TextSettings) -> Golden:
    """What the model makes of the golden texts on this machine's CPU; raises as `load_text_embedder`."""
    return Golden.of(load_text_embedder(settings.model_copy(update={"device": "cpu"})).embed(GOLDEN_TEXTS))


def embed_text_batches(
    batches: Iterable[pa.RecordBatch], settings: TextSettings, golden: Golden | None = None
) -> Iterator[pa.RecordBatch]:
    """Unit vectors of texts, for `mapInArrow`.

    In: `text_id string, text string`, more columns are ignored. Out: `text_id string, vector list<float32>, error
    string`, one row for every row that came in, in order; of vector and error exactly one is null. Raises as
    `load_text_embedder` does, and GoldenError when this process does not make the golden vectors.
    """
    embedder = load_text_embedder(settings)
    if golden is not None:
        embedder.check(golden)
    for batch in batches:
        results = embedder.embed(batch.column("text").to_pylist())
        yield embedded_batch("text_id", batch.column("text_id").to_pylist(), results)


@dataclass(frozen=True)
class _Folder:
    """A sentence-transformers folder inside a zip file."""

    path: Path

    @functools.cached_property
    def configuration(self) -> dict[str, Any]:
        configuration: dict[str, Any] = self._json("config.json")
        return configuration

    def read(self, name: str) -> bytes:
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(name)
        except (zipfile.BadZipFile, KeyError) as error:
            raise TextModelError(f"{self.path}: expected a zip file with {name}: {error}") from error

    def token_limit(self) -> int:
        """Tokens that the model was trained to read."""
        limit: int = self._json("sentence_bert_config.json")["max_seq_length"]
        return limit

    def check_pooling(self) -> None:
        """Raises TextModelError unless a text's vector is the mean of its tokens', at most scaled afterwards."""
        kinds = [module["type"].rpartition(".")[2] for module in self._json("modules.json")]
        pooling = [name for name, used in self._json("1_Pooling/config.json").items() if used is True]
        if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
            raise TextModelError(f"{self.path}: expected Transformer, Pooling and Normalize, found {', '.join(kinds)}")
        if "pooling_mode_mean_tokens" not in pooling or len(pooling) > 1:
            raise TextModelError(f"{self.path}: expected pooling_mode_mean_tokens alone, found {', '.join(pooling)}")

    def _json(self, name: str) -> Any:
        return json.loads(self.read(name))


@functools.lru_cache(maxsize=1)
def _load(settings: TextSettings, device: Device) -> TextEmbedder:
    # Nothing may be fetched at run time; and the tokenizer's threads would contend with Spark's other tasks.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    import torch

    torch.set_num_threads(settings.threads)
    if settings.model.startswith(CLIP_PREFIX):
        return load_clip_text(settings, device)
    folder = _Folder(locate(settings.weights))
    folder.check_pooling()
    model = _model(folder).to(device)
    return TextEmbedder(
        dimension=folder.configuration["hidden_size"],
        device=device,
        tokenize=_tokenizer(folder, settings.max_tokens),
        forward=_forward(model, device),
        lengths=_LENGTHS,
        batch_size=settings.batch_size,
    )


def _model(folder: _Folder) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load
    from transformers import AutoConfig, AutoModel

    configuration = AutoConfig.for_model(**folder.configuration)
    model = AutoModel.from_config(configuration, attn_implementation="sdpa")
    try:
        # Older files also hold the position numbers, which are no weights.
        state = {key: value for key, value in load(folder.read(_WEIGHTS)).items() if not key.endswith("position_ids")}
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        raise TextModelError(f"{folder.path}: {_WEIGHTS} is not what config.json describes: {error}") from error
    return model.eval()


def _tokenizer(folder: _Folder, max_tokens: int) -> Callable[[Sequence[str]], list[Tokens]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(folder.read("tokenizer.json").decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(max_tokens, folder.token_limit(), _LENGTHS[-1]))
    return lambda texts: [tuple(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]


def _forward(model: Any, device: Device) -> Callable[[Sequence[Tokens], int, int], Vectors]:
    import torch

    @torch.inference_mode()
    def forward(tokens: Sequence[Tokens], size: int, length: int) -> Vectors:
        ids = np.full((size, length), model.config.pad_token_id, dtype=np.int64)
        mask = np.zeros((size, length), dtype=np.int64)
        # A row of padding alone would divide by no token at all.
        mask[:, 0] = 1
        for row, known in enumerate(tokens):
            ids[row, : len(known)] = known
            mask[row, : len(known)] = 1
        attention = torch.from_numpy(mask).to(device)
        states = model(input_ids=torch.from_numpy(ids).to(device), attention_mask=attention).last_hidden_state
        weights = attention.unsqueeze(-1).to(states.dtype)
        pooled = (states * weights).sum(dim=1) / weights.sum(dim=1)
        vectors: Vectors = pooled[: len(tokens)].float().cpu().numpy()
        return vectors

    return forward
