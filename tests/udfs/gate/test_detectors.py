"""Detectors beside open_nsfw, on tiny models made here: right pixels, right labels, and other files refused."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.config.profile import load, load_policy
from schemas.settings import AssetSettings, CrawlSettings, DetectorSettings
from tests.pictures import encoded, photograph
from udfs.gate.content import Given, judge_batch
from udfs.gate.detectors import GateDetector, load_detectors
from udfs.gate.nsfw import DetectorError
from udfs.gate.views import View

CONF = load("conf/local.yaml").policy
TINY = "test_efficientnet"
RED, GREEN, BLUE = ("#ff0000", "#00ff00", "#0000ff")


def colour_model(path: Path, shape: list[Any]) -> AssetSettings:
    """An ONNX file whose three outputs are the means of red, green and blue, times ten."""
    from onnx import TensorProto, helper, numpy_helper, save

    axes = [2, 3] if shape[1] == 3 else [1, 2]
    ten = numpy_helper.from_array(np.full((1, 3), 10, dtype=np.float32), "ten")
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
            helper.make_node("Mul", ["means", "ten"], ["logits"]),
        ],
        "colours",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(np.array(axes, dtype=np.int64), "axes"), ten],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return asset(path)


def asset(path: Path) -> AssetSettings:
    return AssetSettings(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def colours(weights: AssetSettings, **changes: Any) -> DetectorSettings:
    given: dict[str, Any] = {
        "name": "colour",
        "kind": "onnx",
        "weights": weights,
        "labels": ("red", "green", "blue"),
        "input_size": (12, 16),
        "mean": (0, 0, 0),
        "std": (1, 1, 1),
    }
    return DetectorSettings(**given | changes)


def loaded(settings: DetectorSettings) -> GateDetector:
    return load_detectors(CONF.model_copy(update={"detectors": (settings,)}))[1]


def scores(detector: GateDetector, *pictures: Image.Image) -> list[dict[str, float]]:
    inputs = [detector.prepare(View("center", picture, False)) for picture in pictures]
    batch = np.stack([one for one in inputs if one is not None])
    return [dict(zip(detector.labels, map(float, row), strict=True)) for row in detector.score(batch)]


@pytest.mark.parametrize("shape", [[1, 3, 12, 16], ["n", 3, "h", "w"], [1, 12, 16, 3], [None, 12, 16, 3]])
def test_an_onnx_file_is_fed_as_it_wants_to_be(tmp_path: Path, shape: list[Any]) -> None:
    detector = loaded(colours(colour_model(tmp_path / "colour.onnx", shape)))
    assert detector.labels == ("colour.red", "colour.green", "colour.blue")
    for place, colour in enumerate((RED, GREEN, BLUE)):
        (row,) = scores(detector, Image.new("RGB", (50, 40), colour))
        assert list(row.values())[place] == pytest.approx(np.exp(10) / (np.exp(10) + 2))
        assert sum(row.values()) == pytest.approx(1)


@pytest.mark.parametrize(("activation", "expected"), [("sigmoid", 1 / (1 + np.exp(-10))), ("none", 10.0)])
def test_outputs_become_probabilities_as_the_settings_say(tmp_path: Path, activation: str, expected: float) -> None:
    settings = colours(colour_model(tmp_path / "colour.onnx", [1, 3, 12, 16]), activation=activation)
    (row,) = scores(loaded(settings), Image.new("RGB", (9, 9), RED))
    assert row["colour.red"] == pytest.approx(expected)


def test_pixels_are_normalised_by_mean_and_deviation(tmp_path: Path) -> None:
    settings = colours(colour_model(tmp_path / "c.onnx", [1, 3, 12, 16]), mean=(1, 0, 0), std=(1, 1, 0.5))
    magenta = Image.new("RGB", (9, 9), "#ff00ff")
    pixels = loaded(settings).prepare(View("center", magenta, False))
    assert pixels is not None
    assert (pixels.shape, pixels.dtype) == ((3, 12, 16), np.float32)
    assert [float(channel.mean()) for channel in pixels] == [0, 0, 2]


def test_it_looks_at_the_squash_only_once(tmp_path: Path) -> None:
    detector = loaded(colours(colour_model(tmp_path / "colour.onnx", [1, 3, 12, 16])))
    picture = Image.new("RGB", (9, 9))
    assert detector.prepare(View("squash", picture, True)) is None
    assert detector.prepare(View("last-squash", picture, True)) is None
    assert detector.prepare(View("tile-1", picture, True)) is not None


@pytest.mark.parametrize("shape", [[1, 3, 16, 12], [1, 16, 12, 3], [16, 3, 12, 16]])
def test_an_onnx_file_of_another_input_is_refused_naming_both(tmp_path: Path, shape: list[Any]) -> None:
    weights = colour_model(tmp_path / "colour.onnx", shape)
    with pytest.raises(DetectorError, match=r"expected one input of shape \(1, 3, 12, 16\) or .*found 1 of which"):
        loaded(colours(weights))


def test_an_onnx_file_of_more_outputs_than_labels_is_refused(tmp_path: Path) -> None:
    detector = loaded(colours(colour_model(tmp_path / "c.onnx", [1, 3, 12, 16]), labels=("red", "green")))
    with pytest.raises(DetectorError, match=r"expected outputs of shape \(1, 2\), found \(1, 3\)"):
        scores(detector, Image.new("RGB", (9, 9)))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(DetectorError, match=r"x\.onnx: expected an ONNX model, found: "):
        loaded(colours(asset(tmp_path / "x.onnx")))


@pytest.fixture
def classifier(tmp_path: Path) -> tuple[DetectorSettings, Any]:
    """A timm model of two classes with random weights saved to a file."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(7)
    model = timm.create_model(TINY, pretrained=False, num_classes=2).eval()
    save_file(model.state_dict(), tmp_path / "tiny.safetensors")
    settings = DetectorSettings(
        name="tiny",
        kind="timm",
        model=TINY,
        weights=asset(tmp_path / "tiny.safetensors"),
        labels=("unsafe", "safe"),
        input_size=(160, 160),
    )
    return settings, model


def test_a_timm_checkpoint_gives_what_timm_gives(classifier: tuple[DetectorSettings, Any]) -> None:
    import torch
    from timm.data import create_transform

    settings, model = classifier
    pictures = [photograph("coffee.png"), photograph("rocket.jpg")]
    transform = create_transform((3, 160, 160), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1, interpolation="bilinear")
    squashed = [picture.resize((160, 160), Image.Resampling.BILINEAR) for picture in pictures]
    with torch.inference_mode():
        expected = model(torch.stack([transform(one) for one in squashed])).softmax(dim=1).numpy()
    found = [list(row.values()) for row in scores(loaded(settings), *pictures)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_checkpoint_of_another_model_is_refused(classifier: tuple[DetectorSettings, Any]) -> None:
    settings, _ = classifier
    with pytest.raises(DetectorError, match=r"with 3 classes, found: .*classifier"):
        loaded(settings.model_copy(update={"labels": ("a", "b", "c")}))
    with pytest.raises(DetectorError, match="timm knows no model 'no_such_model'"):
        loaded(settings.model_copy(update={"model": "no_such_model"}))


def test_both_detectors_score_a_picture_in_the_gate(classifier: tuple[DetectorSettings, Any]) -> None:
    gate = CONF.model_copy(update={"detectors": (classifier[0],), "views": ("center", "squash")})
    given = [Given(encoded(photograph("coffee.png")), None, "a" * 64)]
    (row,) = judge_batch(load_policy(CONF), load_detectors(gate), gate, CrawlSettings(), given, {})
    assert row["decision"] == "allow"
    assert row["scores"].keys() == {"nsfw:center", "nsfw:squash", "tiny.unsafe:center", "tiny.safe:center"}
    assert row["scores"]["tiny.unsafe:center"] + row["scores"]["tiny.safe:center"] == pytest.approx(1)
