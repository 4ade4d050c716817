"""Signing, band keys and verification: hashes and pairs a second on one core, beside datasketch's own `MinHash.bulk`.

`python -m benchmarks.minhash [--json FILE]` prints a JSON document; rates are per CPU second.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasketch import MinHash

from benchmarks.report import environment, publish
from schemas.settings import DedupSettings
from udfs.images.minhash import Compared, band_keys, candidate_rate, hamming64, recall, signatures, verified_pairs

HASHES = 100_000
BULK_HASHES = 2_000
LAYOUTS = ((18, 7), (28, 9), (45, 9), (42, 12))


def per_second(work: Callable[[], object], count: int) -> int:
    """How many of `count` a CPU second: the best of three, since the machine may be shared."""
    spent = []
    for _ in range(3):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return round(count / min(spent))


def with_datasketch(hashes: np.ndarray, rule: DedupSettings) -> None:
    """The same signatures by datasketch."""
    tokens = [[bytes([2 * p + (word >> (63 - p) & 1)]) for p in range(64)] for word in hashes.tolist()]
    MinHash.bulk(tokens, num_perm=rule.bands * rule.rows, seed=rule.seed, scheme="affine32")


def layout(bands: int, rows: int, hashes: np.ndarray) -> dict[str, float]:
    """All rates of one number of bands and rows."""
    rule = DedupSettings(bands=bands, rows=rows)
    signed = signatures(hashes, rule)
    keys = band_keys(signed, rule).reshape(-1)
    order = np.argsort(keys, kind="stable")
    sizes = np.unique(keys, return_counts=True)[1]
    pairs = int((sizes * (sizes - 1) // 2).sum())
    keys, near = keys[order], np.repeat(hashes, bands)[order]
    none = np.zeros(len(near), dtype=np.uint8)
    rows_of_index = Compared(near, np.zeros((len(near), 4), dtype=np.uint64), none, none)
    return {
        "recall at max_hamming": round(recall(rule.max_hamming, bands, rows), 4),
        "candidate rate": candidate_rate(bands, rows),
        "largest bucket": int(sizes.max()),
        "signatures/s": per_second(lambda: signatures(hashes, rule), len(hashes)),
        "band keys of signatures/s": per_second(lambda: band_keys(signed, rule), len(hashes)),
        "verified pairs/s": per_second(
            lambda: sum(len(one) for one, _ in verified_pairs(keys, rows_of_index, rule)), pairs
        ),
        "datasketch bulk signatures/s": per_second(lambda: with_datasketch(hashes[:BULK_HASHES], rule), BULK_HASHES),
    }


def main() -> None:
    """Measure, print, and write where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    hashes = np.random.default_rng(1).integers(0, 2**64, HASHES, dtype=np.uint64)
    results = {f"{bands} x {rows}": layout(bands, rows, hashes) for bands, rows in LAYOUTS}
    few = hashes[:1000]
    popcounts = per_second(lambda: [hamming64(hashes, one) for one in few[:100]], 100 * HASHES)
    measured_with = environment("numpy", "datasketch")
    report = {"environment": measured_with, "hamming64 pairs/s": popcounts, "layouts": results}
    publish(report, options.json)


if __name__ == "__main__":
    main()
