"""What compact vectors of a published feed cost in recall: float16 and int8 against float32.

    python -m benchmarks.compact --warehouse DIR [--json FILE] [--queries 1000] [--sample 0.5]

Every query is looked up among all other vectors of the feed, exactly. int8 is calibrated on a part of the feed, and
recall is reported for queries from the rest.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.report import environment, publish
from lensfeed.compact import Int8Calibration, float16_vectors, recall_against
from lensfeed.feed import feed_vectors
from lensfeed.snapshot import Snapshot

CUTOFF = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="benchmarks.compact", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--warehouse", required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--sample", type=float, default=0.5)
    options = parser.parse_args(arguments)
    snapshot = Snapshot.open(options.warehouse)
    _, vectors = feed_vectors(snapshot)
    shuffled = np.random.default_rng(0).permutation(len(vectors))
    sampled, rest = np.split(shuffled, [round(len(vectors) * options.sample)])
    queries = rest[: options.queries]
    calibration = Int8Calibration.of(vectors[sampled], str(snapshot.model_version))
    decoded = calibration.decode(calibration.encode(vectors))
    report = {
        "environment": environment("numpy"),
        "vectors": len(vectors),
        "dimension": vectors.shape[1],
        "queries": len(queries),
        "int8 calibrated on": len(sampled),
        "recall@10 against float32": {
            "float16": recall_against(vectors, float16_vectors(vectors).astype(np.float32), queries, CUTOFF),
            "int8": recall_against(vectors, decoded, queries, CUTOFF),
        },
        "bytes a vector": {"float32": vectors.shape[1] * 4, "float16": vectors.shape[1] * 2, "int8": vectors.shape[1]},
    }
    publish(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
