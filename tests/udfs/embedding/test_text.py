"""The text tower against sentence-transformers' own encode."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from schemas.assets import ALL_MINILM_L6_V2
from schemas.settings import AssetSettings, TextSettings
from udfs.assets import AssetError
from udfs.embedding.text import (
    TextModelError,
    Tokens,
    embed_text_batches,
    load_text_embedder,
    text_model_version,
)

REPOSITORY = Path(__file__).parents[3]
PACKAGED = TextSettings(
    weights=ALL_MINILM_L6_V2.settings(REPOSITORY / ".assets"), licence=ALL_MINILM_L6_V2.licence, device="cpu"
)
TEXTS = [
    "a tabby cat asleep on a sofa",
    "an espresso in a white cup",
    "Rocket",
    "名前のない猫が窓辺で眠っている",
    "Ein sehr langer Satz über Fahrräder, Kaffee und den Hafen. " * 3,
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen",
    "astronaut 👩‍🚀 in orbit",
    "words beyond what the model reads " * 80,
]


def embedded(texts: list[str | None], chosen: TextSettings = PACKAGED) -> list[dict[str, object]]:
    keys = pa.array([f"id{index}" for index in range(len(texts))])
    batch = pa.RecordBatch.from_arrays([keys, pa.array(texts, pa.string())], names=["text_id", "text"])
    return [row for found in embed_text_batches([batch], chosen) for row in found.to_pylist()]


def vectors(rows: list[dict[str, object]]) -> NDArray[np.float32]:
    return np.array([row["vector"] for row in rows], dtype=np.float32)


def repacked(into: Path, changes: dict[str, bytes | None]) -> TextSettings:
    """The packaged model without its weights, some of its files replaced or (None) left out."""
    with zipfile.ZipFile(PACKAGED.weights.path) as packed, zipfile.ZipFile(into, "w") as changed:
        for name in packed.namelist():
            content = changes.get(name, b"" if name == "model.safetensors" else packed.read(name))
            if content is not None:
                changed.writestr(name, content)
    weights = AssetSettings(path=str(into), sha256=hashlib.sha256(into.read_bytes()).hexdigest())
    return PACKAGED.model_copy(update={"weights": weights})


def test_vectors_agree_with_sentence_transformers(tmp_path: Path) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    from sentence_transformers import SentenceTransformer

    with zipfile.ZipFile(PACKAGED.weights.path) as packed:
        packed.extractall(tmp_path)
    reference = SentenceTransformer(str(tmp_path), device="cpu")
    reference.max_seq_length = PACKAGED.max_tokens
    expected = reference.encode(TEXTS, normalize_embeddings=True)
    assert np.abs(vectors(embedded([*TEXTS])) - expected).max() < 1e-5


def test_a_vector_does_not_depend_on_its_neighbours_or_its_position() -> None:
    alone = [vectors(embedded([text]))[0].tobytes() for text in TEXTS]
    generator = np.random.default_rng(3)
    for count in (2, 8, 9, 21):
        order = generator.integers(0, len(TEXTS), size=count).tolist()
        together = vectors(embedded([TEXTS[index] for index in order]))
        assert [row.tobytes() for row in together] == [alone[index] for index in order]


def test_every_row_comes_out_in_order_and_one_without_text_fails_alone() -> None:
    rows = embedded(["a cat", "", "a dog", None])
    assert [row["text_id"] for row in rows] == ["id0", "id1", "id2", "id3"]
    assert [row["error"] for row in rows] == [None, "no text", None, "no text"]
    assert [row["vector"] is None for row in rows] == [False, True, False, True]


def test_a_text_on_which_the_tokenizer_fails_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = load_text_embedder(PACKAGED)
    works = embedder.tokenize

    def fail(texts: Sequence[str]) -> list[Tokens]:
        if "a dog" in texts:
            raise ValueError("a dog")
        return works(texts)

    expected = embedded(["a cat", "a bird"])
    monkeypatch.setattr(embedder, "tokenize", fail)
    rows = embedded(["a cat", "a dog", "a bird"])
    assert [row["error"] for row in rows] == [None, "tokenizer: ValueError", None]
    assert np.array_equal(vectors([rows[0], rows[2]]), vectors(expected))


def test_no_rows_in_means_no_rows_out() -> None:
    assert embedded([]) == []


def test_only_the_tokens_within_the_limit_are_read() -> None:
    short = PACKAGED.model_copy(update={"max_tokens": 8})
    rows = vectors(embedded(["one two three four five six", "one two three four five six seven eight"], short))
    assert np.array_equal(rows[0], rows[1])


def test_a_model_is_loaded_once_per_process() -> None:
    assert load_text_embedder(PACKAGED) is load_text_embedder(PACKAGED.model_copy())


def test_dimension_and_version_need_no_model() -> None:
    code = (
        "import sys; from schemas.settings import TextSettings\n"
        "from udfs.embedding.text import text_dimension, text_model_version\n"
        f"settings = TextSettings.model_validate_json({PACKAGED.model_dump_json()!r})\n"
        "print(text_dimension(settings), len(text_model_version(settings)))\n"
        "print(sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["384 64", "[]"]


def test_the_version_changes_with_weights_and_tokens_read_and_not_with_how_it_is_computed() -> None:
    version = text_model_version(PACKAGED)
    for change in ({"max_tokens": 64}, {"weights": AssetSettings(path="absent", sha256="0" * 64)}, {"model": "x"}):
        assert text_model_version(PACKAGED.model_copy(update=change)) != version
    assert text_model_version(PACKAGED.model_copy(update={"batch_size": 3, "threads": 2})) == version


def test_weights_with_another_digest_are_refused() -> None:
    wrong = AssetSettings(path=PACKAGED.weights.path, sha256="0" * 64)
    with pytest.raises(AssetError, match="SHA-256 expected 0000"):
        load_text_embedder(PACKAGED.model_copy(update={"weights": wrong}))


def test_a_file_that_is_no_zip_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(b"no zip")
    weights = AssetSettings(path=str(path), sha256=hashlib.sha256(b"no zip").hexdigest())
    with pytest.raises(TextModelError, match=r"model\.zip: expected a zip file with "):
        load_text_embedder(PACKAGED.model_copy(update={"weights": weights}))


def test_a_folder_that_lacks_a_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(TextModelError, match=r"expected a zip file with 1_Pooling/config\.json"):
        load_text_embedder(repacked(tmp_path / "model.zip", {"1_Pooling/config.json": None}))


def test_a_model_that_is_not_pooled_by_the_mean_is_refused(tmp_path: Path) -> None:
    pooling = json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}).encode()
    with pytest.raises(TextModelError, match="expected pooling_mode_mean_tokens alone, found pooling_mode_cls_token"):
        load_text_embedder(repacked(tmp_path / "model.zip", {"1_Pooling/config.json": pooling}))


def test_a_model_with_another_last_layer_is_refused(tmp_path: Path) -> None:
    modules = json.dumps([{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Dense")])
    with pytest.raises(TextModelError, match="expected Transformer, Pooling and Normalize, found Transformer, Dense"):
        load_text_embedder(repacked(tmp_path / "model.zip", {"modules.json": modules.encode()}))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TextModelError, match=r"model\.safetensors is not what config\.json describes"):
        load_text_embedder(repacked(tmp_path / "model.zip", {}))
