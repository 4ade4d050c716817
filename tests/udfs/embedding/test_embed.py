"""The visual tower against a bare timm loop, and the promise that a vector is its image's own, bit for bit."""

import hashlib
import io
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config

from schemas.assets import EFFICIENTNET_LITE0
from schemas.settings import AssetSettings, EmbeddingSettings
from tests.pictures import encoded, photograph
from udfs.assets import AssetError
from udfs.embedding.embed import (
    EmbedderError,
    GoldenError,
    Pixels,
    dimension,
    embed_batches,
    golden_vectors,
    in_format,
    load_embedder,
    model_version,
)
from udfs.embedding.golden import Golden
from udfs.embedding.vectors import FixedBatches, Pending, Vectors
from udfs.embedding.vision import describe

REPOSITORY = Path(__file__).parents[3]
PACKAGED = EmbeddingSettings(
    weights=EFFICIENTNET_LITE0.settings(REPOSITORY / ".assets"), licence=EFFICIENTNET_LITE0.licence, device="cpu"
)
STATED = {
    "dimension": 1280,
    "input_size": (224, 224),
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "crop_pct": 0.875,
    "crop_mode": "center",
}
NO_WEIGHTS = AssetSettings(path="absent", sha256="0" * 64)

Rows = list[tuple[str, bytes | None]]


def canonical(image: Image.Image, side: int = 512) -> bytes:
    """A JPEG as the staging table holds it."""
    small = image.copy()
    small.thumbnail((side, side))
    return encoded(small, quality=90)


def asset(path: Path) -> AssetSettings:
    return AssetSettings(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def random_model(name: str, directory: Path, **arguments: object) -> EmbeddingSettings:
    """One of timm's tiny architectures with random weights in a file."""
    torch.manual_seed(1)
    path = directory / f"{name}.safetensors"
    save_file(timm.create_model(name, pretrained=False).state_dict(), path)
    return EmbeddingSettings.model_validate(
        {"model": name, "weights": asset(path), "licence": "none", "device": "cpu"} | arguments
    )


def embedded(rows: Rows, chosen: EmbeddingSettings, split: Sequence[int] = ()) -> list[dict[str, object]]:
    """The rows that come out, the input split into Arrow batches at the given places."""
    cuts = [0, *sorted(split), len(rows)]
    parts = [rows[start:end] for start, end in pairwise(cuts)]
    return [row for batch in embed_batches(map(arrow, parts), chosen) for row in batch.to_pylist()]


def arrow(rows: Rows) -> pa.RecordBatch:
    keys = pa.array([key for key, _ in rows], pa.string())
    return pa.RecordBatch.from_arrays(
        [keys, pa.array([pixels for _, pixels in rows], pa.binary())], names=["image_id", "pixels"]
    )


def bits(row: dict[str, object]) -> bytes:
    assert row["error"] is None
    return np.asarray(row["vector"], dtype=np.float32).tobytes()


@pytest.fixture(scope="module")
def photographs() -> list[bytes]:
    """Photographs of all shapes: wide, tall, grey, smaller than the model's input."""
    cat = photograph("chelsea.png")
    return [
        *(canonical(photograph(name)) for name in ("astronaut.png", "china.jpg", "flower.jpg", "coffee.png")),
        *(canonical(cat), canonical(cat.rotate(90, expand=True)), canonical(cat.resize((400, 37)))),
        *(encoded(photograph("camera.png").convert("L"), quality=90), canonical(cat, side=60)),
    ]


@pytest.fixture(scope="module", params=["test_efficientnet", "test_resnet", "test_vit", "test_convnext"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSettings:
    return random_model(request.param, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def tiny_alone(tiny: EmbeddingSettings, photographs: list[bytes]) -> list[bytes]:
    """The bits of each photograph's vector when it is embedded alone."""
    return [bits(embedded([("x", image)], tiny)[0]) for image in photographs]


@pytest.fixture(scope="module")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingSettings:
    return random_model("test_vit", tmp_path_factory.mktemp("weights"))


def bare_timm(images: list[bytes], batch: int) -> NDArray[np.float32]:
    """What timm alone makes of the images, in full batches: raw vectors `(N, 1280)`."""
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(load_file(PACKAGED.weights.path))
    model.reset_classifier(0)
    model = model.eval().to(memory_format=torch.channels_last)
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    tensors = [transform(Image.open(io.BytesIO(image)).convert("RGB")) for image in images]
    tensors += [torch.full_like(tensors[0], -1)] * (-len(images) % batch)
    rows = []
    with torch.inference_mode():
        for start in range(0, len(tensors), batch):
            stacked = torch.stack(tensors[start : start + batch])
            rows.append(model(stacked.contiguous(memory_format=torch.channels_last)))
    found: NDArray[np.float32] = torch.cat(rows)[: len(images)].numpy()
    return found


def test_vectors_are_those_of_a_bare_timm_loop_bit_for_bit(photographs: list[bytes]) -> None:
    rows = embedded([(str(index), image) for index, image in enumerate(photographs)], PACKAGED)
    raw = bare_timm(photographs, PACKAGED.cpu_batch_size).astype(np.float64)
    expected = (raw / np.sqrt(np.square(raw).sum(axis=1, keepdims=True))).astype(np.float32)
    assert np.array_equal(np.array([row["vector"] for row in rows], dtype=np.float32), expected)


def test_a_re_encoded_copy_is_near_and_another_picture_is_not() -> None:
    cat, cup = photograph("chelsea.png"), photograph("coffee.png")
    copy = encoded(cat.resize((cat.width // 2, cat.height // 2)), quality=60)
    rows = embedded([("cat", canonical(cat)), ("copy", copy), ("cup", canonical(cup))], PACKAGED)
    vectors = np.array([row["vector"] for row in rows], dtype=np.float32)
    assert vectors[0] @ vectors[1] > 0.85
    assert vectors[0] @ vectors[2] < 0.4


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_vector_does_not_depend_on_its_neighbours_or_its_position(
    tiny: EmbeddingSettings, tiny_alone: list[bytes], photographs: list[bytes], data: st.DataObject
) -> None:
    order = data.draw(st.lists(st.integers(0, len(photographs) - 1), min_size=1, max_size=9))
    split = data.draw(st.lists(st.integers(0, len(order)), max_size=3))
    rows = embedded([(str(index), photographs[index]) for index in order], tiny, split)
    assert [row["image_id"] for row in rows] == [str(index) for index in order]
    assert [bits(row) for row in rows] == [tiny_alone[index] for index in order]


def test_the_packaged_model_gives_the_same_bits_in_any_company(photographs: list[bytes]) -> None:
    alone = [bits(embedded([("x", image)], PACKAGED)[0]) for image in photographs]
    generator = np.random.default_rng(5)
    for _ in range(3):
        order = generator.integers(0, len(photographs), size=7).tolist()
        rows = embedded([("x", photographs[index]) for index in order], PACKAGED)
        assert [bits(row) for row in rows] == [alone[index] for index in order]


def test_a_damaged_image_fails_alone(tiny_vit: EmbeddingSettings, photographs: list[bytes]) -> None:
    good = photographs[0]
    png = encoded(photograph("chelsea.png"), "PNG")
    rows = embedded([("a", good), ("cut", good[:900]), ("none", None), ("b", good), ("png", png), ("", b"")], tiny_vit)
    assert [row["image_id"] for row in rows] == ["a", "cut", "none", "b", "png", ""]
    assert [row["error"] is None for row in rows] == [True, False, False, True, False, False]
    assert [row["vector"] is None for row in rows] == [False, True, True, False, True, True]
    assert str(rows[1]["error"]).startswith("OSError: image file is truncated")
    assert bits(rows[0]) == bits(rows[3])


def test_memory_that_runs_out_costs_no_picture_and_is_remembered(
    tiny_vit: EmbeddingSettings, photographs: list[bytes]
) -> None:
    chosen = tiny_vit.model_copy(update={"cpu_batch_size": 8})
    batches = load_embedder(chosen).batches
    forward, sizes = batches.forward, []

    def short_of_memory(images: Sequence[Pixels], size: int) -> Vectors | Pending:
        sizes.append(size)
        if size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(images, size)

    batches.forward = short_of_memory
    rows: Rows = [(str(index), image) for index, image in enumerate(photographs)]
    assert all(row["error"] is None for row in embedded(rows, chosen))
    embedded(rows[:3], chosen)
    assert sizes == [8, 6, 4, 3, 3, 3, 3]


def test_a_model_that_makes_no_number_of_a_picture_makes_an_error_of_it(
    tiny_vit: EmbeddingSettings, photographs: list[bytes], tmp_path: Path
) -> None:
    state = load_file(tiny_vit.weights.path)
    state["norm.bias"][0] = torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    chosen = tiny_vit.model_copy(update={"weights": asset(tmp_path / "nan.safetensors")})
    [row] = embedded([("x", photographs[0])], chosen)
    assert (row["vector"], row["error"]) == (None, "the model's output is not finite")
    with pytest.raises(GoldenError, match="no vector for a golden sample"):
        golden_vectors(chosen)


def test_no_rows_in_means_no_rows_out(tiny_vit: EmbeddingSettings) -> None:
    assert embedded([], tiny_vit) == []


def test_decoding_ahead_changes_neither_order_nor_bits(tiny_vit: EmbeddingSettings, photographs: list[bytes]) -> None:
    rows: Rows = [(str(index), photographs[index % len(photographs)]) for index in range(40)]
    ahead = tiny_vit.model_copy(update={"decode_threads": 3, "batch_size": 4})
    assert embedded(rows, ahead) == embedded(rows, tiny_vit)


def test_input_is_taken_as_it_comes_and_not_all_at_once(tiny_vit: EmbeddingSettings, photographs: list[bytes]) -> None:
    taken: list[int] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for index in range(100):
            taken.append(index)
            yield arrow([("x", photographs[0])])

    next(embed_batches(batches(), tiny_vit.model_copy(update={"decode_threads": 2, "batch_size": 4})))
    assert len(taken) <= 16


@pytest.mark.parametrize("most", [1, 25_000, 60_000, 10**9])
def test_pictures_decoded_together_are_bounded_by_their_bytes(
    tiny_vit: EmbeddingSettings, photographs: list[bytes], most: int
) -> None:
    sizes = [len(image) for image in photographs]
    rows: Rows = [(str(index), image) for index, image in enumerate(photographs)]
    together = list(embed_batches([arrow(rows)], tiny_vit.model_copy(update={"max_batch_bytes": most})))
    assert [key for batch in together for key in batch.column("image_id").to_pylist()] == [key for key, _ in rows]
    for batch in together:
        held = [sizes[int(key)] for key in batch.column("image_id").to_pylist()]
        assert sum(held) <= most or len(held) == 1


def test_golden_vectors_are_those_of_this_process(tiny: EmbeddingSettings) -> None:
    golden = golden_vectors(tiny)
    assert np.array(golden.vectors).shape == (4, dimension(tiny))
    load_embedder(tiny).check(golden)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_each_number_format_makes_the_golden_vectors_within_its_tolerance(dtype: str) -> None:
    load_embedder(PACKAGED.model_copy(update={"dtype": dtype})).check(golden_vectors(PACKAGED))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "wrong", [{"interpolation": "bilinear"}, {"mean": (0.485, 0.456, 0.406)}, {"crop_pct": 1.0}, {"fit": "pad"}]
)
def test_a_process_that_prepares_pictures_otherwise_does_not(dtype: str, wrong: dict[str, object]) -> None:
    other = load_embedder(PACKAGED.model_copy(update=wrong | {"dtype": dtype}))
    with pytest.raises(GoldenError, match=r"expected a mean cosine of at least 0\.99"):
        other.check(golden_vectors(PACKAGED))


def test_a_process_that_makes_other_vectors_writes_none(tiny_vit: EmbeddingSettings, photographs: list[bytes]) -> None:
    golden = golden_vectors(tiny_vit)
    other = Golden(golden.samples, tuple(row[::-1] for row in golden.vectors))
    out = embed_batches([arrow([("x", photographs[0])])], tiny_vit, other)
    with pytest.raises(GoldenError):
        next(out)
    short = Golden(golden.samples, tuple(row[:-1] for row in golden.vectors))
    with pytest.raises(GoldenError, match="expected 4 of dimension 63, found 4 of 64"):
        next(embed_batches([arrow([("x", photographs[0])])], tiny_vit, short))


def test_golden_vectors_are_checked_once_a_process(tiny_vit: EmbeddingSettings) -> None:
    embedder, golden = load_embedder(tiny_vit), golden_vectors(tiny_vit)
    embedder.check(golden)
    runs: list[int] = []
    counted = FixedBatches(lambda items, size: runs.append(size) or embedder.batches.forward(items, size), 4)
    replace(embedder, batches=counted).check(golden)
    assert runs == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_compiled_says_its_number_format(dtype: str) -> None:
    """Torch's caches on disk know a graph by its nodes, and of what is entered around it only that autocast is on."""
    entered: list[object] = []

    def read(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        entered.extend(node.args for node in graph.graph.nodes if "enter_autocast" in str(node.target))
        return graph.forward

    torch.compile(in_format(torch.nn.Linear(4, 2), "cpu", dtype), backend=read)(torch.zeros(1, 4))
    assert [arguments[1] for arguments in entered] == [getattr(torch, dtype)]  # type: ignore[index]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_gpu_makes_the_golden_vectors_and_embeds_every_row(
    photographs: list[bytes], dtype: str, compiled: bool
) -> None:
    on_gpu = {"device": "cuda", "dtype": dtype, "compile": compiled, "decode_threads": 4, "batch_size": 8}
    rows: Rows = [(str(index), photographs[index % len(photographs)]) for index in range(50)]
    rows[20] = ("20", b"")
    chosen = PACKAGED.model_copy(update=on_gpu)
    golden = golden_vectors(PACKAGED)
    found = [row for batch in embed_batches([arrow(rows)], chosen, golden) for row in batch.to_pylist()]
    assert [row["image_id"] for row in found] == [key for key, _ in rows]
    for index, expected in enumerate(embedded(rows, PACKAGED)):
        assert (found[index]["error"] is None) == (expected["error"] is None)
        if expected["error"] is None:
            assert np.dot(found[index]["vector"], expected["vector"]) > 0.99  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "head", "pooling", "length"),
    [
        ("resnet50.a1_in1k", "features", "model", 2048),
        ("vit_base_patch16_clip_quickgelu_224.openai", "projection", "model", 512),
        ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", "features", "model", 768),
        ("resnet50_clip.openai", "projection", "model", 1024),
        ("vit_base_patch16_siglip_224.webli", "features", "model", 768),
        ("vit_pe_core_tiny_patch16_384.fb", "projection", "model", 512),
        ("vit_small_patch14_dinov2.lvd142m", "features", "model", 384),
        ("vit_small_patch16_dinov3.lvd1689m", "features", "token", 384),
    ],
)
def test_head_and_pooling_are_those_of_the_model_family(name: str, head: str, pooling: str, length: int) -> None:
    found = describe(EmbeddingSettings(model=name, weights=NO_WEIGHTS, licence="none"))
    assert (found.head, found.pooling, found.dimension) == (head, pooling, length)


def test_dinov3_is_pooled_by_its_class_token(tmp_path: Path, photographs: list[bytes]) -> None:
    chosen = random_model("vit_small_patch16_dinov3.lvd1689m", tmp_path)
    model = timm.create_model(chosen.model, pretrained=False, num_classes=0)
    model.load_state_dict(load_file(chosen.weights.path))
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    picture = transform(Image.open(io.BytesIO(photographs[0])).convert("RGB")).unsqueeze(0)
    with torch.inference_mode():
        token = model.eval().forward_features(picture)[0, 0]
    found = torch.tensor(embedded([("x", photographs[0])], chosen)[0]["vector"])
    assert torch.cosine_similarity(found, token, dim=0) > 0.9999


def test_clip_vectors_are_projected_into_the_space_of_the_text_tower(tmp_path: Path) -> None:
    chosen = random_model("resnet50_clip.openai", tmp_path)
    image = canonical(photograph("coffee.png"))
    assert len(embedded([("x", image)], chosen)[0]["vector"]) == 1024  # type: ignore[arg-type]
    bare = chosen.model_copy(update={"head": "features"})
    assert describe(bare).dimension == 2048


def test_stated_preprocessing_gives_the_version_that_timm_gives() -> None:
    stated = PACKAGED.model_copy(update=STATED)
    assert describe(stated) == describe(PACKAGED)
    assert model_version(stated, "c") == model_version(PACKAGED, "c")
    assert dimension(PACKAGED) == 1280


def test_with_everything_stated_the_version_needs_neither_timm_nor_torch() -> None:
    stated = PACKAGED.model_copy(update=STATED).model_dump_json()
    code = (
        "import sys; from schemas.settings import EmbeddingSettings; from udfs.embedding.embed import model_version\n"
        f"model_version(EmbeddingSettings.model_validate_json({stated!r}), 'c')\n"
        "print(sorted({'timm', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "change",
    [
        {"model": "efficientnet_lite0"},
        {"weights": NO_WEIGHTS},
        {"dtype": "bfloat16"},
        {"mean": (0.4, 0.5, 0.5)},
        {"std": (0.4, 0.5, 0.5)},
        {"input_size": (256, 256)},
        {"interpolation": "bilinear"},
        {"crop_pct": 1.0},
        {"crop_mode": "squash"},
        {"fit": "pad"},
        {"pooling": "avg"},
    ],
)
def test_the_version_changes_with_all_that_moves_a_vector(change: dict[str, object]) -> None:
    stated = PACKAGED.model_copy(update=STATED)
    assert model_version(stated.model_copy(update=change), "c") != model_version(stated, "c")


def test_the_version_changes_with_the_canonical_image_and_not_with_how_it_is_computed() -> None:
    assert model_version(PACKAGED, "other") != model_version(PACKAGED, "c")
    tuned = {"batch_size": 7, "cpu_batch_size": 2, "threads": 2, "decode_threads": 3, "device": "auto"}
    tuned |= {"max_batch_bytes": 1000, "compile": True, "gpus_per_task": 0.25, "cores_per_task": 2}
    assert model_version(PACKAGED.model_copy(update=tuned), "c") == model_version(PACKAGED, "c")


def test_a_model_is_loaded_once_per_process(tiny_vit: EmbeddingSettings) -> None:
    assert load_embedder(tiny_vit) is load_embedder(tiny_vit.model_copy())


def test_an_unknown_model_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(EmbedderError, match=r"knows no 'tf_efficientnet_lite00'; nearest: .*tf_efficientnet_lite0"):
        dimension(PACKAGED.model_copy(update={"model": "tf_efficientnet_lite00"}))


def test_a_hub_name_is_refused_and_not_fetched() -> None:
    with pytest.raises(EmbedderError, match="knows no 'hf-hub:timm/resnet50'"):
        dimension(PACKAGED.model_copy(update={"model": "hf-hub:timm/resnet50"}))


def test_an_unknown_tag_is_refused_with_the_known_ones() -> None:
    with pytest.raises(EmbedderError, match=r"resnet50 has no tag 'nope'; it has: .*a1_in1k"):
        dimension(PACKAGED.model_copy(update={"model": "resnet50.nope"}))


def test_weights_trained_with_quickgelu_are_refused_for_plain_gelu() -> None:
    with pytest.raises(EmbedderError, match=r"use vit_base_patch16_clip_quickgelu_224\.openai"):
        dimension(PACKAGED.model_copy(update={"model": "vit_base_patch16_clip_224.openai"}))


def test_weights_of_another_model_are_refused_with_what_differs() -> None:
    with pytest.raises(EmbedderError, match=r"expected the tensors of timm's resnet50, found missing: .* unexpected: "):
        load_embedder(PACKAGED.model_copy(update={"model": "resnet50"}))


def test_tensors_of_another_shape_are_refused(tiny_vit: EmbeddingSettings, tmp_path: Path) -> None:
    state = load_file(tiny_vit.weights.path)
    state["norm.weight"] = state["norm.weight"][:-1].clone()
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(EmbedderError, match=r"of another shape: norm\.weight \(63,\) for \(64,\)"):
        load_embedder(tiny_vit.model_copy(update={"weights": asset(tmp_path / "cut.safetensors")}))


def test_weights_with_another_digest_are_refused() -> None:
    wrong = AssetSettings(path=PACKAGED.weights.path, sha256="0" * 64)
    with pytest.raises(AssetError, match=f"expected {'0' * 64}, found {PACKAGED.weights.sha256}"):
        load_embedder(PACKAGED.model_copy(update={"weights": wrong}))


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"weight": Hostile()}))
    with pytest.raises(EmbedderError, match="not a file of tensors alone"):
        load_embedder(PACKAGED.model_copy(update={"weights": asset(path)}))
    assert not (tmp_path / "ran").exists()


def test_a_torch_file_of_tensors_alone_is_read(
    tiny_vit: EmbeddingSettings, photographs: list[bytes], tmp_path: Path
) -> None:
    torch.save({"state_dict": load_file(tiny_vit.weights.path)}, tmp_path / "vit.pth")
    from_torch = tiny_vit.model_copy(update={"weights": asset(tmp_path / "vit.pth")})
    rows: Rows = [("x", photographs[0])]
    assert embedded(rows, from_torch) == embedded(rows, tiny_vit)


def test_a_file_that_is_not_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(EmbedderError, match="not a safetensors file"):
        load_embedder(PACKAGED.model_copy(update={"weights": asset(path)}))


def test_a_dimension_other_than_the_stated_one_is_refused(tiny_vit: EmbeddingSettings) -> None:
    with pytest.raises(EmbedderError, match=r"embedding.dimension: test_vit makes vectors of 64, expected 65"):
        load_embedder(tiny_vit.model_copy(update={"dimension": 65}))
