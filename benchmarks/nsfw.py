"""CPU time an image of the gate, against a bare ONNX Runtime loop and opennsfw2's own API, in one run; and what each
further view, hash and frame costs.

`python -m benchmarks.nsfw --weights .assets/open_nsfw.onnx --json benchmarks/results/nsfw.json`. All three get the same
JPEG files, one thread, batches of 16, and decode and preprocess them themselves: the bare loop and opennsfw2 by Pillow
and `opennsfw2.preprocess_image`, lensfeed by all that its UDF does (safe decoding, one YAHOO view, time limit, policy).
Rounds are interleaved, so that a noisy neighbour hits all alike. Exit code 1 when a target is missed.
"""

import os

# Before numpy and torch are imported: their thread pools are sized once.
os.environ |= {"KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import opennsfw2
import pandas as pd
import skimage.data
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.report import environment, publish
from jobs.config.profile import load_policy
from schemas.assets import OPEN_NSFW
from schemas.settings import CrawlSettings, GateSettings
from udfs.gate.content import judge_batches
from udfs.gate.nsfw import keras_model

BATCH = 16
MOST_OF_BARE_LOOP = 1.15
LEAST_BELOW_OPENNSFW2 = 2.5

FURTHER: dict[str, dict[str, Any]] = {
    "center, plain (default)": {},
    "and squash": {"views": ("center", "plain", "squash")},
    "and corners": {"views": ("center", "plain", "corners")},
    "and tiles": {"views": ("center", "plain", "tiles")},
    "and trimmed": {"views": ("center", "plain", "trimmed")},
    "and turned": {"views": ("center", "plain", "turned")},
    "and phash256": {"hashes": ("phash256",)},
    "and pdq": {"hashes": ("pdq",)},
}
"""Settings of the gate beside the default ones. The photographs have neither borders nor transparency nor frames."""

Pictures = list[bytes]
Scorer = Callable[[Pictures], list[float]]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, default=Path(".assets") / OPEN_NSFW.file)
    parser.add_argument("--images", type=int, default=48, help="images a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pictures = photographs(options.images)
    with tempfile.TemporaryDirectory() as scratch:
        scorers = {
            "lensfeed": gate_scorer(options.weights),
            "bare ONNX Runtime": bare_scorer(options.weights),
            "opennsfw2.predict_images": opennsfw2_scorer(options.weights, Path(scratch)),
        }
        report = measure(scorers, pictures, options.rounds)
    report["cpu_ms_per_image_of_settings"] = measure_settings(options.weights, pictures[:BATCH], options.rounds)
    publish(report, options.json)
    return 0 if report["within_targets"] else 1


def photographs(count: int) -> Pictures:
    """JPEG files of photographs of 300 to 640 pixels a side, repeated in turn."""
    arrays = [getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")]
    arrays += load_sample_images().images
    files = []
    for array in arrays:
        file = io.BytesIO()
        Image.fromarray(array).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return [files[i % len(files)] for i in range(count)]


def gate_scorer(weights: Path, **changes: Any) -> Scorer:
    gate = GateSettings(file="conf/policy.yaml", detector=OPEN_NSFW.settings(weights.parent), batch_size=BATCH)
    gate = gate.model_copy(update=changes)
    policy = load_policy(gate)

    def score(pictures: Pictures) -> list[float]:
        nothing = [None] * len(pictures)
        batch = tuple(pd.Series(column, dtype=object) for column in (pictures, nothing, nothing))
        (frame,) = judge_batches(iter([batch]), policy, gate, CrawlSettings(), {})
        return [scores["nsfw:center"] for scores in frame["scores"]]

    return score


def bare_scorer(weights: Path) -> Scorer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])

    def score(pictures: Pictures) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(pictures), BATCH):
            batch = np.stack([opennsfw2.preprocess_image(p) for p in opened(pictures[start : start + BATCH])])
            scores += session.run(None, {"input:0": batch})[0][:, 1].tolist()
        return scores

    return score


def opennsfw2_scorer(weights: Path, scratch: Path) -> Scorer:
    h5 = scratch / "open_nsfw.weights.h5"
    keras_model(weights).save_weights(h5)

    def score(pictures: Pictures) -> list[float]:
        # To its advantage: outside inference mode it records gradients, and on torch it then fails on its own result.
        with torch.inference_mode():
            scores: list[float] = opennsfw2.predict_images(opened(pictures), batch_size=BATCH, weights_path=str(h5))
        return scores

    return score


def opened(pictures: Pictures) -> list[Image.Image]:
    return [Image.open(io.BytesIO(picture)) for picture in pictures]


def measure(scorers: dict[str, Scorer], pictures: Pictures, rounds: int) -> dict[str, Any]:
    """Median over rounds of CPU ms an image (user and system, whole process), with ratios and score differences."""
    warm = {name: scorer(pictures[:BATCH]) for name, scorer in scorers.items()}
    spent: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(rounds):
        for name, scorer in scorers.items():
            started = time.process_time()
            scorer(pictures)
            spent[name].append((time.process_time() - started) * 1000 / len(pictures))
    medians = {name: statistics.median(times) for name, times in spent.items()}
    ours, bare, theirs = medians.values()
    return {
        "cpu_ms_per_image": {name: round(median, 2) for name, median in medians.items()},
        "cpu_ms_per_image_rounds": {name: [round(t, 2) for t in times] for name, times in spent.items()},
        "of_bare_loop": round(ours / bare, 3),
        "below_opennsfw2": round(theirs / ours, 2),
        "largest_score_difference": max(
            float(np.abs(np.subtract(warm["lensfeed"], scores)).max()) for scores in warm.values()
        ),
        "at_most_of_bare_loop": MOST_OF_BARE_LOOP,
        "at_least_below_opennsfw2": LEAST_BELOW_OPENNSFW2,
        "within_targets": ours <= MOST_OF_BARE_LOOP * bare and theirs >= LEAST_BELOW_OPENNSFW2 * ours,
        "images_per_round": len(pictures),
        "batch": BATCH,
        "threads": 1,
        "environment": environment("onnxruntime", "opennsfw2", "keras", "torch", "pillow", "numpy"),
    }


def measure_settings(weights: Path, pictures: Pictures, rounds: int) -> dict[str, float]:
    """Median over rounds of CPU ms an image through the gate, by settings."""
    scorers = {name: gate_scorer(weights, **changes) for name, changes in FURTHER.items()}
    spent: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(rounds):
        for name, scorer in scorers.items():
            started = time.process_time()
            scorer(pictures)
            spent[name].append((time.process_time() - started) * 1000 / len(pictures))
    return {name: round(statistics.median(times), 2) for name, times in spent.items()}


if __name__ == "__main__":
    sys.exit(main())
