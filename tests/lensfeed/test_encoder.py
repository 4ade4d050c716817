"""A query is embedded as the job embeds, or it is refused with both versions."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lensfeed import Snapshot, open_feed, search
from lensfeed.encoder import Encoder, EncoderError
from schemas.settings import ImageSettings
from tests.lensfeed.pictured_warehouse import ASSETS, pictures, versions, write
from tests.lensfeed.tiny_warehouse import TinyWarehouse
from udfs.assets import sha256_of
from udfs.embedding.alignment import Alignment, Projections, save_alignment
from udfs.embedding.golden import samples_digest


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse of real pictures; not to be changed."""
    warehouse = TinyWarehouse(tmp_path_factory.mktemp("encoder") / "ware house")
    write(warehouse, pictures())
    warehouse.event("run", "published", **versions())
    return warehouse.root


@pytest.fixture(scope="module")
def encoder(published: Path) -> Encoder:
    return Encoder.of(open_feed(published), ASSETS)


def test_a_live_image_is_encoded_to_its_stored_vector(encoder: Encoder, tmp_path: Path) -> None:
    for shown in pictures()[::5]:
        file = tmp_path / "picture.png"
        file.write_bytes(shown.file)
        stored = np.array(shown.vector, np.float32)
        queries = [
            encoder.image(shown.file),
            encoder.image(file),
            encoder.image(str(file)),
            encoder.image(shown.pixels, canonical=True),
        ]
        for vector in queries:
            assert vector.dtype == np.float32
            assert vector @ stored > 0.9999
        assert search(encoder.snapshot, queries[0], 1)[0].tolist() == [shown.feed_id]


def test_a_text_is_cleaned_and_encoded_as_the_job_does(encoder: Encoder) -> None:
    shown = pictures()[7]
    for text in (shown.title, f"<b>{shown.title.replace(' ', '  ')}</b>\n"):
        assert encoder.text(text) @ np.array(shown.text_vector, np.float32) > 0.9999
    best, _ = search(encoder.snapshot, encoder.text("a cat"), 4, column="text_vector")
    titles = {one.feed_id: one.title for one in pictures()}
    assert all("cat" in titles[feed_id] for feed_id in best.tolist())


def test_what_is_no_query_is_refused_in_words(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="the image cannot be decoded"):
        encoder.image(b"no picture")
    with pytest.raises(EncoderError, match="the image cannot be embedded"):
        encoder.image(b"no picture", canonical=True)
    with pytest.raises(EncoderError, match="the text: expected words, found ' <br> '"):
        encoder.text(" <br> ")
    with pytest.raises(FileNotFoundError):
        encoder.image(tmp_path / "absent.png")


def other(snapshot: Snapshot, **changed: Any) -> Snapshot:
    return replace(snapshot, **changed)


def test_decoders_other_than_the_jobs_are_refused_with_both_versions(encoder: Encoder) -> None:
    ours = versions()["canonical_version"]
    with pytest.raises(EncoderError, match=f"canonical_version: expected other, as in run 'run', found {ours}"):
        Encoder.of(other(encoder.snapshot, canonical_version="other"), ASSETS)
    with pytest.raises(EncoderError, match=f"canonical_version: expected {ours}, as in run 'run', found .* 256"):
        Encoder.of(encoder.snapshot, ASSETS, images=ImageSettings(max_side=256))


@pytest.mark.parametrize("name", ["model_version", "text_model_version"])
def test_a_model_that_the_warehouse_does_not_record_is_refused(encoder: Encoder, name: str) -> None:
    with pytest.raises(EncoderError, match=f"{name} unheard of run 'run': expected what it is in .*_models/unheard"):
        Encoder.of(other(encoder.snapshot, **{name: "unheard"}), ASSETS)
    with pytest.raises(EncoderError, match=f"published without a {name}"):
        Encoder.of(other(encoder.snapshot, **{name: None}), ASSETS)


@pytest.fixture
def record(published: Path, tmp_path: Path) -> tuple[Snapshot, dict[str, Path]]:
    """A copy of the warehouse, and its records of the models."""
    shutil.copytree(published, tmp_path / "copy")
    files = {name: tmp_path / "copy/_models" / f"{version}.json" for name, version in versions().items()}
    return open_feed(tmp_path / "copy"), files


def change(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


@pytest.mark.parametrize(
    ("name", "changed"), [("model_version", {"crop_pct": 0.9}), ("text_model_version", {"max_tokens": 64})]
)
def test_a_model_of_another_version_is_refused_with_both(
    record: tuple[Snapshot, dict[str, Path]], name: str, changed: dict[str, Any]
) -> None:
    snapshot, files = record
    change(files[name], **changed)
    with pytest.raises(EncoderError, match=f"{name}: expected {versions()[name]}, as in run 'run', found [0-9a-f]+"):
        Encoder.of(snapshot, ASSETS)
    files[name].write_text('{"model": "x"}')
    with pytest.raises(EncoderError, match=r"(?s)not the record of a model"):
        Encoder.of(snapshot, ASSETS)
    files[name].write_text("[")
    with pytest.raises(EncoderError, match="expected JSON"):
        Encoder.of(snapshot, ASSETS)


def test_a_record_of_lists_within_lists_is_refused_in_words(record: tuple[Snapshot, dict[str, Path]]) -> None:
    snapshot, files = record
    files["model_version"].write_text("[" * 100_000)
    with pytest.raises(EncoderError, match="expected JSON"):
        Encoder.of(snapshot, ASSETS)


@pytest.mark.parametrize("vectors", [[[1.0], [1.0, 2.0]], [["a"]], [[{}]], [], [[1.0] * 1280] * 9, [[None] * 1280] * 4])
def test_golden_vectors_that_are_none_are_refused_in_words(
    record: tuple[Snapshot, dict[str, Path]], vectors: list[Any]
) -> None:
    snapshot, files = record
    change(files["model_version"], golden={"samples": samples_digest(), "vectors": vectors})
    with pytest.raises(EncoderError, match="golden vectors"):
        Encoder.of(snapshot, ASSETS).image(pictures()[0].file)


def test_weights_are_found_by_their_digest_and_named_where_they_are_missing(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"weights of tf_efficientnet_lite0: expected a file .* found nothing"):
        Encoder.of(encoder.snapshot, tmp_path)
    with pytest.raises(EncoderError, match="assets: expected a folder"):
        Encoder.of(encoder.snapshot, tmp_path / "absent")
    for number, asset in enumerate((encoder.visual.weights, encoder.textual.weights)):
        (tmp_path / f"{number}.bin").symlink_to(Path(asset.path).resolve())
    found = Encoder.of(encoder.snapshot, tmp_path)
    assert [Path(one.weights.path).name for one in (found.visual, found.textual)] == ["0.bin", "1.bin"]


def test_a_file_that_cannot_be_read_is_passed_over(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "others").touch()

    def digest(path: Path) -> str:
        if path.name == "others":
            raise PermissionError(13, "Permission denied")
        return sha256_of(path)

    monkeypatch.setattr("lensfeed.encoder.sha256_of", digest)
    with pytest.raises(EncoderError, match=r"found others \(which cannot be read: Permission denied\)"):
        Encoder.of(encoder.snapshot, tmp_path)
    for number, asset in enumerate((encoder.visual.weights, encoder.textual.weights)):
        (tmp_path / f"{number}.bin").symlink_to(Path(asset.path).resolve())
    assert Encoder.of(encoder.snapshot, tmp_path).visual.weights.path == str(tmp_path / "0.bin")


def test_a_process_that_does_not_make_the_golden_vectors_embeds_nothing(
    record: tuple[Snapshot, dict[str, Path]],
) -> None:
    snapshot, files = record
    golden = json.loads(files["model_version"].read_text())["golden"]
    turned = golden | {"vectors": [vector[::-1] for vector in golden["vectors"]]}
    change(files["model_version"], golden=turned)
    with pytest.raises(EncoderError, match="golden vectors: expected a mean cosine"):
        Encoder.of(snapshot, ASSETS).image(pictures()[0].file)
    change(files["model_version"], golden=golden | {"samples": "0" * 64})
    with pytest.raises(EncoderError, match="its golden vectors are of other samples"):
        Encoder.of(snapshot, ASSETS).image(pictures()[0].file)


def test_an_alignment_is_the_runs_own_or_refused(encoder: Encoder, tmp_path: Path) -> None:
    models = (versions()["model_version"], versions()["text_model_version"])
    with pytest.raises(EncoderError, match="alignment_version: run 'run' was published without one"):
        _ = encoder.alignment
    shared = Alignment(*models, None, None)
    assert replace(encoder, snapshot=other(encoder.snapshot, alignment_version=shared.version)).alignment == shared

    generator = np.random.default_rng(1)
    shapes = ((1280,), (1280, 8), (384,), (384, 8))
    projections = Projections(*(generator.normal(size=shape).astype(np.float32) for shape in shapes))
    fitted = Alignment(*models, projections, None)
    save_alignment(fitted, tmp_path, {})
    aligned = replace(encoder, snapshot=other(encoder.snapshot, alignment_version=fitted.version), assets=tmp_path)
    assert aligned.alignment.version == fitted.version
    assert aligned.alignment.texts(encoder.text("a cat")[None]).shape == (1, 8)
    gone = replace(aligned, snapshot=other(encoder.snapshot, alignment_version="0" * 64))
    with pytest.raises(EncoderError, match=f"alignment_version {'0' * 64}, as in run 'run'"):
        _ = gone.alignment


def test_queries_need_no_spark(published: Path) -> None:
    script = """
import sys
sys.modules["pyspark"] = None  # as where it is not installed
from lensfeed import open_feed
from lensfeed.encoder import Encoder
encoder = Encoder.of(open_feed(sys.argv[1]), sys.argv[2], device="auto")
print(len(encoder.text("a cat")))
"""
    command = [sys.executable, "-c", script, str(published), str(ASSETS)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "384\n"


def test_an_environment_that_cannot_embed_is_told_the_extra() -> None:
    script = "import sys; sys.modules['selectolax'] = None; import lensfeed.encoder"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ImportError: lensfeed.encoder needs what the job embeds with: pip install 'lensfeed[encoder]'" in ran.stderr
