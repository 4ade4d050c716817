"""A comparison ends in a table, a chart and a recommendation that keeps the limits and says why."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from jobs.compare_embeddings import cost_of, main, weights_here
from jobs.config.errors import UsageError
from jobs.config.profile import load as load_profile
from jobs.evaluation.candidates import (
    Candidate,
    Measured,
    Published,
    Running,
    Shape,
    load,
    load_candidates,
    measure,
    shape,
)
from jobs.evaluation.comparison import Comparison, Cost, Limits, Quality, difference, pareto, recommend
from jobs.evaluation.metrics import RetrievalScores
from schemas.settings import AssetSettings
from tests.pictures import crops, encoded
from udfs.embedding.vectors import Embedded
from udfs.embedding.vision import EmbedderError, describe

COMMITTED = {candidate.name: candidate for candidate in load_candidates("conf/compare.yaml")}


def comparison(name: str, merit: float, latency_ms: float, dimension: int, text: str | None = None) -> Comparison:
    scores = RetrievalScores(10, merit, merit, merit)
    return Comparison(
        Candidate(name=name, licence="MIT", text_tower=text),
        Shape(dimension, 1, 1.0),
        Cost(latency_ms, 10, 100, 11, "cpu", "float32", None, None, 1),
        Quality(scores, {"food": scores}, {}),
    )


SMALL, LARGE, SLOW = (
    comparison("small", 0.4, 5, 256),
    comparison("large", 0.6, 20, 2048),
    comparison("slow", 0.5, 90, 64),
)


def test_without_limits_the_best_is_recommended_with_the_next_and_the_faster() -> None:
    text = recommend([SMALL, LARGE, SLOW], Limits())
    assert text.startswith("Take large: ")
    assert "0.600, is the highest" in text
    assert "next: slow, 0.500" in text
    assert "small would be faster" in text


@pytest.mark.parametrize(
    ("limits", "taken", "reason"),
    [
        (Limits(max_dimension=512), "slow", "large: dimension 2,048 above 512"),
        (Limits(max_dimension=512, max_latency_ms=50), "small", "slow: latency 90 ms above 50"),
    ],
)
def test_limits_rule_candidates_out_and_say_which(limits: Limits, taken: str, reason: str) -> None:
    text = recommend([SMALL, LARGE, SLOW], limits)
    assert text.startswith(f"Take {taken}: ")
    assert reason in text


def test_what_is_unknown_does_not_keep_a_limit() -> None:
    assert recommend([SMALL], Limits(max_gpu_hours=10)).startswith("Take none: ")
    assert "GPU-hours for 1e9 unknown" in recommend([SMALL], Limits(max_gpu_hours=10))


def test_a_text_tower_can_be_asked_for() -> None:
    clip = comparison("clip", 0.1, 99, 512, "open_clip:ViT-B-32")
    text = recommend([LARGE, clip], Limits(needs_text=True))
    assert text.startswith("Take clip: ")
    assert "large: no text tower" in text


def quality(**precisions: list[float]) -> Quality:
    scores = RetrievalScores(1, 0, 0, 0)
    return Quality(scores, {"any": scores}, {}, {name: np.array(values) for name, values in precisions.items()})


def test_a_difference_counts_domains_alike_and_pairs_the_queries() -> None:
    below = quality(large=[0.1, 0.9] * 200, small=[0.5, 0.5])
    shifted = quality(large=[0.2, 1.0] * 200, small=[0.8, 0.8])
    found = difference(shifted, below)
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2, 0.2))


def test_the_interval_of_a_difference_is_as_wide_as_its_queries_disagree() -> None:
    generator = np.random.default_rng(1)
    gained = generator.normal(0.1, 0.2, 400)
    found = difference(quality(any=list(gained)), quality(any=[0.0] * 400))
    assert found.mean == pytest.approx(gained.mean())
    half = 1.96 * gained.std() / 20
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half), abs=0.003)
    assert str(found).endswith(f"{found.low:.3f} to {found.high:.3f}")


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    assert [one.candidate.name for one in pareto([SLOW, LARGE, SMALL])] == ["small", "large"]


@pytest.mark.parametrize(
    ("name", "dimension", "parameters", "gmacs"),
    [
        # Published by timm (infer_gmacs of its benchmark results); parameters there include classifiers.
        ("ResNet-50", 2048, 23.51e6, 4.11),
        ("ViT-B/16", 768, 85.80e6, 17.58),
        ("CLIP ViT-B/32", 512, 87.85e6, 4.41),
        ("EfficientNet-Lite0", 1280, 3.37e6, 0.40),
    ],
)
def test_cost_is_counted_without_weights_as_timm_publishes_it(
    name: str, dimension: int, parameters: float, gmacs: float
) -> None:
    counted = shape(COMMITTED[name].model_copy(update={"weights": None}))
    assert counted.dimension == dimension
    assert counted.parameters == pytest.approx(parameters, rel=0.001)
    assert counted.gmacs == pytest.approx(gmacs, rel=0.05)


def test_gpu_hours_follow_from_the_published_rate_and_say_so() -> None:
    published = Published(images_per_second=1000, hardware="a GPU", source="a page")
    cost = cost_of(Candidate(name="any", licence="MIT", published=published), 256, None)
    assert cost.gpu_hours == pytest.approx(277.8, abs=0.1)
    assert cost.gpu_hours_source == "published, a GPU"
    assert cost.storage_gb == 1024
    assert cost.latency_ms is None


def measured_on(device: str, dtype: str) -> Measured:
    """A thousand pictures a second through the model, fifty through one decoding thread."""
    return Measured(np.eye(2, dtype=np.float32), 30.0, 50.0, 1000.0, device, dtype)


def test_gpu_hours_come_from_the_forward_rate_of_a_gpu_and_not_from_what_decodes_for_it() -> None:
    published = Published(images_per_second=123, hardware="a GPU", source="a page")
    candidate = Candidate(name="any", licence="MIT", published=published)
    cost = cost_of(candidate, 256, measured_on("NVIDIA H100", "float16"))
    assert cost.gpu_hours == pytest.approx(277.8, abs=0.1)
    assert cost.gpu_hours_source == "measured, NVIDIA H100, float16"
    assert cost_of(candidate, 256, measured_on("cpu", "float32")).gpu_hours_source == "published, a GPU"


def test_one_thread_decodes_and_waits_for_the_model_in_turn() -> None:
    assert measured_on("cpu", "float32").images_per_second == pytest.approx(1 / (1 / 50 + 1 / 1000))


class FakeDevice:
    """A model and a clock of its own: decoding takes 20 ms, a picture by itself 5 ms, a batch of 128 rows 64 ms."""

    def __init__(self, batch: int, failing: bool = False) -> None:
        self.now, self.size, self.failing = 0.0, batch, failing

    def decode(self, pixels: bytes) -> int:
        self.now += 0.02
        return len(pixels)

    def alone(self, decoded: Sequence[Any]) -> list[Embedded]:
        assert len(decoded) == 1
        self.now += 0.005
        return self.result(decoded)

    def together(self, decoded: Sequence[Any]) -> list[Embedded]:
        self.now += -(-len(decoded) // self.size) * self.size * 0.0005
        return self.result(decoded)

    def result(self, decoded: Sequence[Any]) -> list[Embedded]:
        if self.failing:
            return [Embedded(error="the model's output is not finite")] * len(decoded)
        return [Embedded(np.array([number, 0], np.float32)) for number in decoded]

    def measured(self, pictures: int) -> Measured:
        model = Running(self.decode, self.together, self.alone, lambda: self.size, "a GPU", "float16")
        return measure(model, [bytes(number) for number in range(1, pictures + 1)], lambda: self.now)


@pytest.mark.parametrize("pictures", [5, 128, 1000])
def test_decoding_and_forward_pass_are_timed_apart_and_padding_is_no_picture(pictures: int) -> None:
    found = FakeDevice(batch=128).measured(pictures)
    assert found.decode_per_second == pytest.approx(50)
    assert found.forward_per_second == pytest.approx(2000)
    assert found.vectors[:, 0].tolist() == list(range(1, pictures + 1))


def test_latency_is_that_of_a_picture_by_itself_and_not_of_a_padded_batch() -> None:
    assert FakeDevice(batch=128).measured(60).latency_ms == pytest.approx(25)


def test_a_model_without_a_single_vector_is_an_error_with_its_reason() -> None:
    with pytest.raises(EmbedderError, match="expected vectors of 5 images, found none: the model's output is not fin"):
        FakeDevice(batch=128, failing=True).measured(5)


def test_on_a_gpu_candidates_run_as_the_gpu_profile_does_and_on_a_cpu_one_picture_at_a_time() -> None:
    gpu = load_profile("conf/nightly-gpu.yaml").embedding
    on_gpu, on_cpu = (COMMITTED["ResNet-50"].embedding(device) for device in ("cuda", "cpu"))
    assert (on_gpu.device, on_gpu.dtype, on_gpu.batch_size) == ("cuda", gpu.dtype, gpu.batch_size)
    assert (on_cpu.device, on_cpu.dtype, on_cpu.cpu_batch_size) == ("cpu", "float32", 1)


def test_centre_crop_is_the_local_profiles_embedding_and_every_other_model_sees_whole_pictures() -> None:
    timm = {name: candidate for name, candidate in COMMITTED.items() if candidate.kind == "timm"}
    default = timm.pop("EfficientNet-Lite0, centre crop").embedding()
    local = load_profile("conf/local.yaml").embedding
    assert describe(default) == describe(local)
    assert default.weights == local.weights
    assert {name: candidate.embedding().fit for name, candidate in timm.items()} == dict.fromkeys(timm, "pad")


def test_a_batch_of_one_gives_the_vectors_of_a_full_batch() -> None:
    name = "EfficientNet-Lite0"
    four = COMMITTED[name].model_copy(update={"preprocessing": COMMITTED[name].preprocessing | {"cpu_batch_size": 4}})
    model = load(four)
    decoded = [model.decode(encoded(crop)) for crop, _ in zip(crops(300), range(2), strict=False)]
    assert model.batch() == 4
    for one, together in zip(decoded, model.together(decoded), strict=True):
        (alone,) = model.alone([one])
        assert alone.vector is not None
        assert together.vector is not None
        assert float(alone.vector @ together.vector) == pytest.approx(1, abs=1e-4)


CONTENT = b"weights"
PINNED = hashlib.sha256(CONTENT).hexdigest()


def with_weights(path: str, sha256: str = PINNED) -> tuple[Candidate, ...]:
    return (Candidate(name="mine", licence="MIT", weights=AssetSettings(path=path, sha256=sha256)),)


def test_weights_come_from_the_hub_that_timm_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "blob").write_bytes(CONTENT)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(tmp_path / "blob"))
    (found,) = weights_here(with_weights("timm:resnet50.a1_in1k"), None)
    assert found.weights is not None
    assert Path(found.weights.path).read_bytes() == CONTENT


def test_weights_on_s3_without_a_profile_are_refused_with_what_is_missing() -> None:
    with pytest.raises(
        UsageError, match=r"candidates\.0\.weights: s3a://b/w\.bin: expected a profile .* --profile FILE"
    ):
        weights_here(with_weights("s3a://b/w.bin"), None)


def test_weights_that_are_not_there_or_not_the_pinned_ones_are_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match=r"candidate mine: nowhere\.bin: no such file"):
        weights_here(with_weights("nowhere.bin"), None)
    (tmp_path / "other.bin").write_bytes(b"other")
    with pytest.raises(UsageError, match=f"candidate mine: .*SHA-256 expected {PINNED}"):
        weights_here(with_weights(str(tmp_path / "other.bin")), None)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of two categories of three pictures each, told apart by their tint."""
    root = tmp_path_factory.mktemp("labelled")
    for number, crop in zip(range(12), crops(120), strict=False):
        category, index = divmod(number, 3)
        tint = Image.new("RGB", crop.size, [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)][category])
        path = root / f"domain{category % 2}/category{category}/{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(Image.blend(crop, tint, 0.7), "PNG"))
    return root


def test_a_comparison_writes_table_document_and_chart(labelled: Path, tmp_path: Path) -> None:
    file = tmp_path / "candidates.yaml"
    file.write_text(
        "candidates:\n- {name: histogram, kind: colour_histogram, licence: MIT}\n"
        "- {name: the same, kind: colour_histogram, licence: MIT}\n"
        "- {name: ResNet-50, model: resnet50.a1_in1k, licence: Apache-2.0}\n"
    )
    into = tmp_path / "report"
    assert main(["--labelled", str(labelled), "--candidates", str(file), "--into", str(into)]) == 0
    document = json.loads((into / "comparison.json").read_text())
    histogram, _, resnet = document["candidates"]
    assert document["best_above"] == {"the same": {"mean": 0.0, "low": 0.0, "high": 0.0}}
    assert "0.000 higher, 95 % interval 0.000 to 0.000" in document["recommendation"]
    assert document["set"]["pictures"] == 12
    assert histogram["quality"]["overall"]["recall_at_1"] > 0.8
    assert histogram["forward_per_second"] > histogram["images_per_second"] < histogram["decode_per_second"]
    assert (histogram["device"], histogram["gpu_hours"]) == ("cpu", None)
    assert set(histogram["quality"]["alone"]) == {"domain0", "domain1"}
    assert resnet["quality"] == "weights not available"
    assert resnet["dimension"] == 2048
    assert "Take histogram" in document["recommendation"]
    assert "| ResNet-50 | weights not available |" in (into / "comparison.md").read_text()
    assert Image.open(into / "comparison.png").width > 300


@pytest.mark.parametrize("text", ["candidates: []", "candidates:\n- {name: a, licence: MIT, modell: resnet50}", "- 1"])
def test_a_wrong_file_of_candidates_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "candidates.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="candidates file"):
        load_candidates(str(path))


def test_bad_usage_ends_with_exit_code_two(labelled: Path, tmp_path: Path) -> None:
    assert main(["--labelled", str(tmp_path / "nowhere"), "--into", str(tmp_path)]) == 2
    assert main(["--labelled", str(labelled / "domain0/category0"), "--into", str(tmp_path)]) == 2
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text("candidates: [{name: a, licence: MIT, model: resnet51}]")
    assert main(["--labelled", str(labelled), "--candidates", str(unknown), "--into", str(tmp_path)]) == 2
    assert main(["--labelled", str(labelled), "--profile", str(tmp_path / "none"), "--into", str(tmp_path)]) == 2
