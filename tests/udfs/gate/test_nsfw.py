"""The detector against opennsfw2's own Keras forward and a bare ONNX Runtime session, on real photographs."""

import ctypes
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from schemas.assets import OPEN_NSFW
from schemas.settings import AssetSettings
from tests.pictures import photograph
from udfs.assets import AssetError
from udfs.devices import DeviceError
from udfs.gate import nsfw
from udfs.gate.nsfw import Batch, Detector, DetectorError, detector_version, load_detector, preprocess

os.environ["KERAS_BACKEND"] = "torch"

MODES = ("RGB", "L", "LA", "RGBA", "P", "PA", "1", "CMYK", "YCbCr", "I", "F", "I;16")
AGREEMENT = 1e-4


@pytest.fixture(scope="module")
def weights() -> AssetSettings:
    path = distribution(OPEN_NSFW.distribution).locate_file(OPEN_NSFW.member)
    return AssetSettings(path=str(path), sha256=OPEN_NSFW.sha256)


@pytest.fixture(scope="module")
def detector(weights: AssetSettings) -> Detector:
    return load_detector(weights, device="cpu")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Photographs, and what differs from one: grey, palette, alpha, one pixel, wide and large."""
    cat, cup = photograph("chelsea.png"), photograph("coffee.png")
    faded = cup.copy()
    faded.putalpha(Image.linear_gradient("L").resize(cup.size))
    palette = cat.quantize(32)
    palette.info["transparency"] = 0
    return [
        *(photograph(name) for name in ("astronaut.png", "chelsea.png", "rocket.jpg", "china.jpg", "flower.jpg")),
        *(photograph("camera.png").convert("L"), faded, palette, cat.convert("CMYK"), Image.new("RGB", (1, 1))),
        *(cup.resize((3000, 40)), photograph("retina.jpg").resize((3000, 2400))),
    ]


@pytest.fixture(scope="module")
def batch(pictures: list[Image.Image]) -> Batch:
    return np.stack([preprocess(picture) for picture in pictures])


@pytest.fixture(scope="module")
def keras_forward(weights: AssetSettings) -> nsfw.Forward:
    return nsfw.keras_forward(Path(weights.path), "cpu", threads=1)


def test_preprocessing_is_bit_equal_to_opennsfw2_on_photographs(pictures: list[Image.Image], batch: Batch) -> None:
    import opennsfw2

    for picture, ours in zip(pictures, batch, strict=True):
        theirs = opennsfw2.preprocess_image(picture, opennsfw2.Preprocessing.YAHOO)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(MODES), width=st.integers(1, 400), height=st.integers(1, 400), seed=st.integers(0, 2**32 - 1)
)
def test_preprocessing_is_bit_equal_to_opennsfw2_for_any_mode_and_size(
    mode: str, width: int, height: int, seed: int
) -> None:
    import opennsfw2

    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image = image.convert("L").convert(mode) if mode in {"PA", "I;16"} else image.convert(mode)
    theirs = opennsfw2.preprocess_image(image, opennsfw2.Preprocessing.YAHOO)
    np.testing.assert_array_equal(preprocess(image), theirs)


def test_scores_agree_with_opennsfw2s_keras_forward(
    detector: Detector, batch: Batch, keras_forward: nsfw.Forward
) -> None:
    scores = detector.score(batch)
    assert scores.dtype == np.float32
    assert scores.shape == (len(batch),)
    np.testing.assert_allclose(scores, keras_forward(batch), rtol=0, atol=AGREEMENT)


def test_scores_agree_with_a_bare_onnx_runtime_session(
    detector: Detector, batch: Batch, weights: AssetSettings
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(weights.path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        detector.score(batch), session.run(None, {"input:0": batch})[0][:, 1], rtol=0, atol=AGREEMENT
    )


def test_photographs_of_people_and_things_score_apart_from_each_other_and_far_from_certain(
    detector: Detector, batch: Batch
) -> None:
    """The weights are the real ones: random ones give every picture about the same score."""
    scores = detector.score(batch)
    assert 0 < min(scores) < 1e-3
    assert 0.1 < max(scores) < 0.8


def test_a_score_is_exactly_the_same_alone_and_among_others(detector: Detector, batch: Batch) -> None:
    together = detector.score(batch)
    for image, score in zip(batch, together, strict=True):
        assert detector.score(image[None])[0] == score
    np.testing.assert_array_equal(detector.score(batch[::-1]), together[::-1])


def test_on_batches_a_score_does_not_depend_on_its_neighbours(batch: Batch, keras_forward: nsfw.Forward) -> None:
    batched = Detector("0" * 64, "cpu", 4, keras_forward)
    together = batched.score(batch)
    alone = np.concatenate([batched.score(image[None]) for image in batch])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


def test_the_whole_picture_is_what_the_squash_sees_and_the_crop_does_not() -> None:
    picture = Image.new("RGB", (448, 448), "white")
    picture.paste((0, 0, 0), (0, 0, 16, 448))
    assert preprocess(picture).min() > 100
    squashed = preprocess(picture, whole=True)
    assert squashed.shape == (224, 224, 3)
    assert squashed[112, 1].max() < 0 < squashed[112, 100].min()


def test_no_images_give_no_scores(detector: Detector) -> None:
    assert detector.score(np.empty((0, 224, 224, 3), dtype=np.float32)).shape == (0,)


def test_a_batch_of_another_shape_is_refused_naming_both_shapes(detector: Detector) -> None:
    with pytest.raises(ValueError, match=r"expected shape \(N, 224, 224, 3\), found \(1, 3, 224, 224\)"):
        detector.score(np.zeros((1, 3, 224, 224), dtype=np.float32))


def test_the_version_follows_the_weights_and_not_where_they_lie(detector: Detector) -> None:
    here = AssetSettings(path="a/open_nsfw.onnx", sha256=OPEN_NSFW.sha256)
    there = AssetSettings(path="b/open_nsfw.onnx", sha256=OPEN_NSFW.sha256)
    other = AssetSettings(path="a/open_nsfw.onnx", sha256="0" * 64)
    assert detector_version(here) == detector_version(there) == detector.version
    assert detector_version(other) != detector.version
    # Stored with every score: a change of this value must be meant, and re-scores everything.
    assert detector.version == "bd351cb700748cfa22ab6865b4892bf112fe75b8d5ce5b8dd55fd2ef70848bfd"


def test_the_detector_is_loaded_once_per_process(weights: AssetSettings, detector: Detector) -> None:
    assert load_detector(weights, device="cpu") is detector


def test_weights_with_another_digest_are_refused(weights: AssetSettings) -> None:
    with pytest.raises(AssetError, match="SHA-256 expected 0000"):
        load_detector(AssetSettings(path=weights.path, sha256="0" * 64), device="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_a_gpu_scores_as_a_core_does_whatever_lies_beside_an_image(
    weights: AssetSettings, detector: Detector, batch: Batch
) -> None:
    on_gpu = load_detector(weights, device="cuda")
    assert on_gpu.version == detector.version
    together = on_gpu.score(batch)
    np.testing.assert_allclose(together, detector.score(batch), atol=AGREEMENT)
    assert [on_gpu.score(one[None])[0] for one in batch] == together.tolist()


def test_without_an_nvidia_driver_cuda_is_refused_and_auto_is_the_cpu(
    weights: AssetSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_such_library(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_such_library)
    with pytest.raises(DeviceError, match="found no usable NVIDIA GPU"):
        load_detector(weights, device="cuda")
    assert load_detector(weights, device="auto").device == "cpu"


def test_the_weights_of_another_network_are_refused_by_name_of_layer(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    names = ("x", "w", "fc_other/MatMul:0", "fc_other/BiasAdd/ReadVariableOp:0")
    graph = helper.make_graph(
        [helper.make_node("MatMul", names[:2], [names[2]])],
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info(names[2], TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.ones((2, 2), dtype=np.float32), name) for name in (names[1], names[3])],
    )
    save(helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(DetectorError, match=r"expected the layers of open_nsfw.*conv_1"):
        nsfw.keras_model(tmp_path / "other.onnx")


def test_scoring_on_a_cpu_imports_neither_torch_nor_keras_nor_opennsfw2(weights: AssetSettings) -> None:
    """They cost a worker seconds and hundreds of megabytes, and opennsfw2 can download."""
    program = (
        "import sys; from PIL import Image; from schemas.settings import AssetSettings; "
        "from udfs.gate.nsfw import load_detector, preprocess; "
        f"detector = load_detector(AssetSettings(path={weights.path!r}, sha256={weights.sha256!r}), device='cpu'); "
        "assert detector.score(preprocess(Image.new('RGB', (9, 9)))[None])[0] >= 0; "
        "sys.exit(str(sorted({'torch', 'keras', 'opennsfw2', 'tensorflow'} & sys.modules.keys()) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) in {(0, ""), (1, "")}, done.stderr
