"""A comparison ends in a table, a chart and a recommendation that keeps the limits and says why."""

import json
from pathlib import Path

import pytest
from PIL import Image

from jobs.candidates import Candidate, Published, Shape, load_candidates, shape
from jobs.compare_embeddings import cost_of, main
from jobs.comparison import Comparison, Cost, Limits, Quality, pareto, recommend
from jobs.errors import UsageError
from readers.metrics import RetrievalScores
from tests.pictures import crops, encoded

COMMITTED = {candidate.name: candidate for candidate in load_candidates("conf/compare.yaml")}


def comparison(name: str, merit: float, latency_ms: float, dimension: int, text: str | None = None) -> Comparison:
    scores = RetrievalScores(10, merit, merit, merit)
    return Comparison(
        Candidate(name=name, licence="MIT", text_tower=text),
        Shape(dimension, 1, 1.0),
        Cost(latency_ms, 10, "cpu", None, None, 1),
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
        "- {name: ResNet-50, model: resnet50.a1_in1k, licence: Apache-2.0}\n"
    )
    into = tmp_path / "report"
    assert main(["--labelled", str(labelled), "--candidates", str(file), "--into", str(into)]) == 0
    document = json.loads((into / "comparison.json").read_text())
    histogram, resnet = document["candidates"]
    assert document["set"]["pictures"] == 12
    assert histogram["quality"]["overall"]["recall_at_1"] > 0.8
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
