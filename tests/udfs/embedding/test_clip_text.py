"""Text towers of CLIP and SigLIP against open_clip's own `encode_text`, on tiny random models."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from open_clip import factory
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from schemas.settings import AssetSettings, TextSettings
from udfs.assets import AssetError, sha256_of
from udfs.embedding.golden import GoldenError
from udfs.embedding.text import (
    TextModelError,
    embed_text_batches,
    golden_text_vectors,
    load_text_embedder,
    text_dimension,
    text_model_version,
)

TEXTS = ["a tabby cat asleep on a sofa", "Rocket", "an espresso in a white cup " * 30, "a tabby cat asleep on a sofa"]
TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
TINY_SIGLIP = TINY | {
    "custom_text": True,
    "init_logit_bias": -10,
    "text_cfg": {
        "context_length": 16, "vocab_size": 8, "width": 32, "heads": 2, "layers": 1, "hf_tokenizer_name": "org/words",
        "tokenizer_kwargs": {"clean": "canonicalize"}, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
    },
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def configurations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """open_clip knows three more models while these tests run."""
    folder = tmp_path_factory.mktemp("configurations")
    for name, configuration in {
        "tiny": TINY, "tiny-quickgelu": TINY | {"quick_gelu": True}, "tiny-siglip": TINY_SIGLIP
    }.items():  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(configuration))
    open_clip.add_model_config(folder)
    yield
    factory._MODEL_CONFIG_PATHS.remove(folder)
    for name in ("tiny", "tiny-quickgelu", "tiny-siglip"):
        del factory._MODEL_CONFIGS[name]


def pinned(path: Path) -> AssetSettings:
    return AssetSettings(path=str(path), sha256=sha256_of(path))


def checkpoint(name: str, folder: Path) -> TextSettings:
    """A random model of open_clip's, whole, in a file."""
    torch.manual_seed(1)
    path = folder / f"{name}.safetensors"
    save_file(open_clip.create_model(name, load_weights=False).state_dict(), path)
    return TextSettings(model=f"open_clip:{name}", weights=pinned(path), licence="none", device="cpu", batch_size=3)


def tokenizer_folder(folder: Path) -> Path:
    """A tokenizer of seven words as the hub keeps one, in a zip file; it pads with number 1, as SigLIP's does."""
    words = {word: index for index, word in enumerate(["<unk>", "</s>", "a", "cat", "on", "sofa", "cup"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "pad_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
    with zipfile.ZipFile(folder / "tokenizer.zip", "w") as packed:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            packed.write(folder / name, name)
    return folder / "tokenizer.zip"


def vectors(texts: list[str], settings: TextSettings) -> NDArray[np.float32]:
    keys = pa.array(map(str, range(len(texts))), pa.string())
    batch = pa.RecordBatch.from_arrays([keys, pa.array(texts, pa.string())], names=["text_id", "text"])
    rows = [row for found in embed_text_batches([batch], settings) for row in found.to_pylist()]
    assert [row["error"] for row in rows] == [None] * len(texts)
    return np.array([row["vector"] for row in rows], dtype=np.float32)


def reference(settings: TextSettings, tokens: torch.Tensor) -> NDArray[np.float32]:
    """What open_clip itself makes of the tokens."""
    name = settings.model.removeprefix("open_clip:")
    model = open_clip.create_model(name, load_weights=False)
    open_clip.load_checkpoint(model, settings.weights.path)
    with torch.inference_mode():
        found: NDArray[np.float32] = model.eval().encode_text(tokens, normalize=True).numpy()
    return found


@pytest.mark.parametrize("name", ["tiny", "tiny-quickgelu"])
def test_vectors_are_those_of_open_clip(name: str, tmp_path: Path) -> None:
    settings = checkpoint(name, tmp_path)
    found = vectors(TEXTS, settings)
    expected = reference(settings, open_clip.get_tokenizer(name)(TEXTS))
    assert found.shape == (4, 24) == (4, text_dimension(settings))
    assert np.abs(found - expected).max() < 1e-5
    assert np.array_equal(found[0], found[3])
    assert found[0] @ found[1] < 0.99


def test_siglip_reads_its_own_tokenizers_tokens(tmp_path: Path) -> None:
    plain = checkpoint("tiny-siglip", tmp_path)
    settings = plain.model_copy(update={"tokenizer": pinned(tokenizer_folder(tmp_path))})
    found = vectors(["A cat, on a sofa!", "a cup"], settings)
    tokens = torch.tensor([[2, 3, 4, 2, 5] + [1] * 11, [2, 6] + [1] * 14])
    assert np.abs(found - reference(settings, tokens)).max() < 1e-5
    assert text_model_version(settings) != text_model_version(plain)


def test_the_activation_is_the_architectures(tmp_path: Path) -> None:
    settings = checkpoint("tiny", tmp_path)
    quick = settings.model_copy(update={"model": "open_clip:tiny-quickgelu"})
    assert np.abs(vectors(TEXTS, settings) - vectors(TEXTS, quick)).max() > 1e-4
    with pytest.raises(GoldenError):
        load_text_embedder(quick).check(golden_text_vectors(settings))


def test_a_model_that_open_clip_lacks_is_refused(tmp_path: Path) -> None:
    settings = checkpoint("tiny", tmp_path).model_copy(update={"model": "open_clip:ViT-Q-99"})
    with pytest.raises(TextModelError, match=r"text\.model: open_clip knows no 'ViT-Q-99'"):
        text_dimension(settings)


def test_a_text_tower_that_would_have_to_be_fetched_is_refused(tmp_path: Path) -> None:
    settings = checkpoint("tiny", tmp_path).model_copy(update={"model": "open_clip:roberta-ViT-B-32"})
    with pytest.raises(TextModelError, match="expected CLIP's or SigLIP's own"):
        load_text_embedder(settings)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    settings = checkpoint("tiny", tmp_path).model_copy(update={"model": "open_clip:ViT-S-32-alt"})
    with pytest.raises(TextModelError, match=r"not a checkpoint of open_clip:ViT-S-32-alt: .*size mismatch"):
        load_text_embedder(settings)


def test_a_tokenizer_that_is_needed_and_not_given_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(TextModelError, match=r"text\.tokenizer: open_clip:tiny-siglip needs a zip file of .*org/words"):
        load_text_embedder(checkpoint("tiny-siglip", tmp_path))


def test_weights_with_another_digest_are_refused(tmp_path: Path) -> None:
    settings = checkpoint("tiny", tmp_path)
    wrong = settings.weights.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(AssetError, match="SHA-256 expected 0000"):
        load_text_embedder(settings.model_copy(update={"weights": wrong}))


def test_a_limit_that_would_cut_the_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextModelError, match=r"text\.max_tokens: open_clip:tiny reads 77"):
        load_text_embedder(checkpoint("tiny", tmp_path).model_copy(update={"max_tokens": 32}))
