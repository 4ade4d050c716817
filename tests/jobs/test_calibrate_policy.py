"""The job on a small published warehouse of synthetic scores: no picture, no Spark."""

import datetime as dt
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.calibrate_policy import main
from jobs.config.profile import load
from jobs.config.progress import log
from jobs.evaluation.stored_scores import worst_scores
from tests.lensfeed.tiny_warehouse import DAY, TinyWarehouse, image_id
from udfs.gate.content import gate_version
from udfs.urls import url_id

ROOT = Path(__file__).parents[2]
PROFILE = "conf/local.yaml"


class Calibration:
    """Runs the job on a warehouse of its own; `said` is what it logged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warehouse = TinyWarehouse(folder / "warehouse")
        self.into = folder / "report"
        self.said: list[str] = []

    def store(self, scores: dict[int, dict[str, float]], version: str | None = None) -> None:
        """Signals of the images with these numbers, under the profile's detectors where no version is given."""
        version = version or gate_version(load(PROFILE).policy)
        self.warehouse.write(
            "content_signals",
            [
                {"image_id": image_id(n), "detector_version": version, "scores": list(views.items()), "run_id": "run"}
                for n, views in scores.items()
            ],
        )

    def publish(self) -> None:
        self.warehouse.event("run-1", "published")

    def run(self, rows: Sequence[tuple[str, str]], *arguments: str, name: str = "image_id") -> int:
        """The job on a CSV of (image_id or URL, label)."""
        labels = self.folder / "labels.csv"
        labels.write_text("\n".join([f"{name},label", *(",".join(row) for row in rows)]) + "\n")
        given = ["--profile", PROFILE, "--set", f"warehouse={self.warehouse.root}", "--into", str(self.into)]
        return main([str(labels), *given, *arguments])

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.into / "calibration.json").read_text())
        return document


@pytest.fixture
def calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calibration]:
    monkeypatch.chdir(ROOT)
    made = Calibration(tmp_path)
    handler = logging.Handler()
    handler.emit = lambda record: made.said.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    yield made
    log.removeHandler(handler)


def thirds(count: int) -> tuple[dict[int, dict[str, float]], list[tuple[str, str]]]:
    """Scores and labels: a third explicit at .9, a third safe at .05, a third not labelled at .5."""
    scores = {n: {"nsfw:center": (0.9, 0.05, 0.5)[n % 3]} for n in range(count)}
    labels = [(image_id(n), ("explicit", "safe")[n % 3]) for n in range(count) if n % 3 < 2]
    return scores, labels


def test_rates_bands_and_threshold_come_out_as_counted(
    calibration: Calibration, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, labels = thirds(900)
    scores[0] = {"nsfw:center": 0.2}  # explicit, and missed by the policy
    calibration.store(scores)
    calibration.publish()

    assert calibration.run(labels, "--target-miss-rate", "0.02") == 0

    found = calibration.document()
    assert found["counts"]["explicit"] == found["counts"]["safe"] == 300
    assert found["policy"] == {"review": 0.35, "block": 0.8}
    rates = {row["threshold"]: (row["missed"]["events"], row["over_blocked"]["events"]) for row in found["thresholds"]}
    assert rates[0.05] == (0, 300)
    assert rates[0.35] == (1, 0)
    assert rates[1.0] == (300, 0)
    # 1 of 300 is at most 1.57 % with 95 % confidence, 2 of 300 at most 2.08 %: one may be missed.
    assert found["threshold"] == 0.9
    (band,) = [band for band in found["bands"] if (band["review"], band["block"]) == (0.35, 0.8)]
    assert (band["stored_to_people"]["events"], band["stored_to_people"]["of"]) == (300, 900)
    assert band["safe_to_people"]["events"] == 0
    printed = capsys.readouterr().out
    assert "0 of 300, at most 1.00% (3/n)" in printed
    assert found["advice"] in printed
    assert "hold back from 0.9000 on: misses 1 of 300 explicit" in found["advice"]
    assert (calibration.into / "calibration.png").stat().st_size > 0


def test_the_worst_view_counts_whatever_its_name(calibration: Calibration) -> None:
    calibration.store({1: {"nsfw:center": 0.1, "nsfw:plain": 0.95}, 2: {"nsfw:center": 0.1, "other.nsfw:center": 0.9}})
    calibration.publish()
    assert calibration.run([(image_id(1), "1"), (image_id(2), "0")]) == 0
    rates = {row["threshold"]: row for row in calibration.document()["thresholds"]}
    assert rates[0.95]["missed"]["events"] == 0
    assert rates[0.15]["over_blocked"]["events"] == 0


def test_another_detector_is_calibrated_by_its_own_scores_and_rules(calibration: Calibration) -> None:
    calibration.store(
        {n: {"nsfw:center": 0.0, "gore.blood:center": n / 10, "gore.none:center": 1.0} for n in range(10)}
    )
    calibration.publish()
    policy = calibration.folder / "policy.yaml"
    rule = (
        "{id: blood, kind: detector, name: gore, label: blood, action: block, reason: gore, comment: -, at_least: .7}"
    )
    text = (ROOT / "conf/policy.yaml").read_text().rstrip()
    policy.write_text(f"{text}\n  - {rule}\n")
    rows = [(image_id(8), "explicit"), (image_id(2), "safe")]
    assert calibration.run(rows, "--rule", "gore.blood", "--set", f"policy.file={policy}") == 0
    found = calibration.document()
    assert found["policy"] == {"block": 0.7}
    assert {row["threshold"]: row["missed"]["events"] for row in found["thresholds"]}[0.7] == 0
    (band,) = [band for band in found["bands"] if (band["review"], band["block"]) == (0.2, 0.7)]
    assert (band["stored_to_people"]["events"], band["stored_to_people"]["of"]) == (5, 10)


def test_too_few_labels_are_said_to_be_too_few(calibration: Calibration, capsys: pytest.CaptureFixture[str]) -> None:
    scores, labels = thirds(90)
    calibration.store(scores)
    calibration.publish()
    assert calibration.run(labels) == 0
    assert calibration.document()["threshold"] is None
    assert "30 explicit labels are too few; with 299, none of them missed, one could" in capsys.readouterr().out


def test_labels_without_a_stored_score_are_counted_and_named(
    calibration: Calibration, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, labels = thirds(9)
    calibration.store(scores)
    calibration.store({100: {"nsfw:center": 0.9}}, version="another detector's")
    calibration.store({101: {"nsfw:center": float("nan")}, 102: {"other.label:center": 0.9}})
    calibration.publish()
    missing = [(image_id(n), "explicit") for n in (100, 101, 102, 103)]
    assert calibration.run([*labels, *missing]) == 0
    found = calibration.document()
    assert found["counts"]["without a stored score"] == 4
    assert [row["named"] for row in found["without_a_stored_score"]] == [name for name, _ in missing]
    assert found["stored_scores"] == 9
    assert f"line 8: {image_id(100)}" in capsys.readouterr().out


def sighting(number: int, url: str, date: dt.date, shown: int | None) -> dict[str, Any]:
    return {
        "ingest_date": date,
        "source_file": "a.csv",
        "row_number": number,
        "url": url,
        "url_id": url_id(url),
        "outcome": "accepted" if shown else "failed",
        "image_id": image_id(shown) if shown else None,
    }


def test_a_url_stands_for_the_content_it_showed_last(calibration: Calibration) -> None:
    url, later = "http://pictures.example/1", DAY + dt.timedelta(days=1)
    calibration.store({1: {"nsfw:center": 0.1}, 2: {"nsfw:center": 0.9}, 3: {"nsfw:center": 0.1}})
    calibration.warehouse.write("sightings", [sighting(1, url, later, 2), sighting(2, url, DAY, 1)])
    calibration.warehouse.write("sightings", [sighting(1, url, later + dt.timedelta(days=1), None)])
    calibration.warehouse.write(
        "sightings", [sighting(3, f"{url}/{n}", DAY, shown) for n, shown in ((3, 3), (4, 3), (5, None))]
    )
    calibration.publish()
    rows = [(url, "explicit"), (f"{url}/3", "safe"), (f"{url}/4", "safe"), (f"{url}/5", "safe")]
    assert calibration.run(rows, name="url") == 0
    found = calibration.document()
    assert {row["threshold"]: row["missed"]["events"] for row in found["thresholds"]}[0.9] == 0
    assert found["counts"] == {
        "labels": 4,
        "same content under another URL": 1,
        "without a stored score": 1,
        "explicit": 1,
        "safe": 1,
    }


def test_two_urls_of_one_content_may_not_contradict_each_other(calibration: Calibration) -> None:
    urls = [f"http://pictures.example/{n}" for n in (1, 2)]
    calibration.store({1: {"nsfw:center": 0.1}})
    calibration.warehouse.write("sightings", [sighting(n, url, DAY, 1) for n, url in enumerate(urls)])
    calibration.publish()
    assert calibration.run([(urls[0], "explicit"), (urls[1], "safe")], name="url") == 2
    assert f"line 3: {urls[1]} is the content {image_id(1)}, which has another label on line 2" in calibration.said[-1]


@pytest.mark.parametrize(
    ("labels", "arguments", "code", "says"),
    [
        ([(image_id(0), "maybe")], [], 2, "line 2: label: expected explicit, safe, 1 or 0, found 'maybe'"),
        ([(image_id(0), "1")], [], 2, "at least one of each; found 1 explicit and 0 safe"),
        ([(image_id(77), "1")], [], 2, f"without a stored score: 1 (line 2: {image_id(77)})"),
        ([(image_id(0), "1")], ["--rule", "gore"], 2, "--rule gore: run run-1 stores no such score"),
        ([(image_id(0), "1")], ["--rule", "gore"], 2, "; found nsfw"),
        ([(image_id(0), "1")], ["--profile", "conf/absent.yaml"], 2, "profile conf/absent.yaml: cannot be read"),
        ([(image_id(0), "1")], ["--set", "warehouse=/absent"], 1, "no warehouse at /absent"),
        ([(image_id(0), "1")], ["--into", "README.md"], 2, "--into README.md: expected a folder, found a file"),
    ],
)
def test_what_cannot_be_calibrated_ends_with_one_clear_line_and_no_report(
    calibration: Calibration, labels: list[tuple[str, str]], arguments: list[str], code: int, says: str
) -> None:
    calibration.store(thirds(9)[0])
    calibration.publish()
    assert calibration.run(labels, *arguments) == code
    assert says in calibration.said[-1]
    assert not calibration.into.exists()


@pytest.mark.parametrize("rate", ["0", "1", "-0.1", "nan", "one"])
def test_a_target_that_is_no_rate_is_refused(calibration: Calibration, rate: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        calibration.run([(image_id(0), "1")], f"--target-miss-rate={rate}")


def test_worst_scores_are_those_of_the_rows_though_the_array_is_a_slice() -> None:
    rows = [[("nsfw:a", 0.9)], [("nsfw:a", 0.1), ("x.y:a", 1.0), ("nsfw:b", 0.3)], [("x.y:a", 0.5)], [("nsfw:a", None)]]
    scores = pa.array(rows, pa.map_(pa.string(), pa.float64()))
    np.testing.assert_equal(worst_scores(scores[1:], "nsfw:"), [0.3, -np.inf, np.nan])
