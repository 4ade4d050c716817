"""What one canonical image costs: `canonicalise` beside its parts, and beside Pillow and OpenCV used in the usual way.

`python -m benchmarks.canonical [--json FILE]` prints a JSON document: CPU milliseconds an image, one thread, on JPEGs
of about 60 kB.
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import imagehash
import numpy as np
from PIL import Image, features

from benchmarks.report import environment, publish
from schemas.settings import CrawlSettings, ImageSettings
from tests.pictures import encoded, names, photograph
from udfs.images.canonical import canonicalise
from udfs.images.phash import hash_pixels

SIZES = ((640, 480), (800, 600), (1024, 768))
TARGET = (512, 384)
ROUNDS = 15


def sources(size: tuple[int, int]) -> list[bytes]:
    """The photographs at `size`, each at the highest JPEG quality that keeps it below 66 kB."""
    made = []
    for name in names():
        image = photograph(name).resize(size, Image.Resampling.LANCZOS)
        candidates = (encoded(image, quality=quality) for quality in range(95, 10, -4))
        made.append(next(data for data in candidates if len(data) <= 66_000))
    return made


def milliseconds(work: Callable[[bytes], object], inputs: Sequence[bytes]) -> float:
    """CPU time of `work` an input: the best of `ROUNDS` rounds, since the machine may be shared."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for one in inputs:
            work(one)
        rounds.append((time.process_time() - start) / len(inputs) * 1e3)
    return round(min(rounds), 3)


def decode_only(data: bytes) -> None:
    """Pillow's decode alone, scaled inside the decoder where that is possible."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", TARGET)
    image.load()


def with_pillow(data: bytes) -> None:
    """The usual way with Pillow and imagehash: full decode, Lanczos, JPEG, both hashes of the image in memory."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize(TARGET, Image.Resampling.LANCZOS)
    encoded(image, quality=90)
    imagehash.phash(image)
    imagehash.phash(image, hash_size=16)


def with_opencv(data: bytes) -> None:
    """The usual way with OpenCV, no hashes and no checks: full decode, area filter, JPEG."""
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    cv2.imencode(".jpg", cv2.resize(array, TARGET, interpolation=cv2.INTER_AREA), [cv2.IMWRITE_JPEG_QUALITY, 90])


def main() -> None:
    """Measure, print, and write where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    images, limits = ImageSettings(), CrawlSettings()
    results = {}
    for size in SIZES:
        inputs = sources(size)
        stored = [canonicalise(data, images, limits).pixels for data in inputs]
        results[f"{size[0]}x{size[1]}"] = {
            "mean_bytes": round(sum(map(len, inputs)) / len(inputs)),
            "canonicalise": milliseconds(lambda data: canonicalise(data, images, limits), inputs),
            "of which decode": milliseconds(decode_only, inputs),
            "of which hashes": milliseconds(hash_pixels, stored),
            "pillow, lanczos, imagehash": milliseconds(with_pillow, inputs),
            "opencv, area, no hashes": milliseconds(with_opencv, inputs),
        }
    versions = {"pillow": features.version("pil"), "libjpeg_turbo": features.version("libjpeg_turbo")}
    measured_with = environment("opencv-python-headless", "imagehash") | versions
    report = {"unit": "CPU ms an image", "environment": measured_with, "results": results}
    publish(report, options.json)


if __name__ == "__main__":
    main()
