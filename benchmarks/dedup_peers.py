"""A full dedup of the same made-up 64-bit pHashes by this project's stage, by datasketch's `MinHashLSH` in one process
and by Spark MLlib's `MinHashLSH.approxSimilarityJoin` in a session with the same settings.

    python -m benchmarks.dedup_peers [--hashes 20000 50000] [--peers kernel datasketch mllib] [--skew 2.0]
        [--limit-s 900] [--tables N] [--json FILE]

The hashes are those of `benchmarks.dedup`, one an image, one in ten near another. How many are near one and the same
follows a power law with the exponent `--skew`, up to one in a hundred of all; 0: one each, as they are made there.

* `ours`: a night into nothing as `benchmarks.dedup` runs it: both hashes, colours, clusters, index, commits.
* `kernel`: what that stage computes with, in one process without tables: `signatures`, `band_keys`, and of each band
  what is near in a bucket (`close_pairs`). Pairs, in memory.
* `datasketch`: the same signatures (`MinHash.bulk`), all inserted with the same bands and rows, all asked for, and what
  is found verified by the 64-bit distance. Pairs, in memory.
* `mllib`: the same tokens as sparse vectors, joined with themselves. It knows no bands: two vectors are compared where
  one of `--tables` hashes is equal; by default as many as reach the rule's recall at its distance. The threshold is
  midway between the Jaccard distances of that Hamming distance and the next. Pairs.

Making the peers' input is apart, and so is the start of sessions, which are warm. Each runs in a process of its own,
and a peer is stopped once it has worked for `--limit-s`: its costs until then are a lower bound. Of each: wall and CPU
seconds as `benchmarks.dedup` takes them; the most memory, preparations included (`benchmarks.bounded_run`); by distance
the share of all exact pairs up to the rule's 64-bit distance that are told (`pairs_found`), and that stand in one
cluster, which for peers is a connected component of what they tell.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from itertools import pairwise
from math import ceil, inf
from pathlib import Path
from typing import Any

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray
from pyspark.ml.feature import MinHashLSH as MinHashJoin
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import DataFrame
from pyspark.sql.types import IntegerType, StructField, StructType
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks.bounded_run import begin, bounded
from benchmarks.dedup import (
    AS_ON_A_CLUSTER,
    PLANTED_SHARE,
    PROFILE,
    Bits,
    Tables,
    found_shares,
    moved,
    planted,
    random_bits,
    watched,
)
from benchmarks.report import environment, publish
from jobs.config.profile import Config, load
from jobs.startup.session import THREAD_LIMITS, open_session
from schemas.settings import DedupSettings
from udfs.images.minhash import HASH_BITS, band_keys, bands_needed, close_pairs, hamming64, recall, signatures

LARGEST_SHARE = 0.01
QUERIES_AT_ONCE = 1000
SIGNED_AT_ONCE = 10_000

Pairs = NDArray[np.int64]
"""(P, 2): numbers of hashes, the lower one first."""


def skewed(count: int, rule: DedupSettings, exponent: float, random: np.random.Generator) -> Bits:
    """`planted`, but that the sizes of what is near one original follow a power law."""
    near_ones = round(count * PLANTED_SHARE)
    sizes = np.minimum(random.zipf(exponent, near_ones), round(count * LARGEST_SHARE))
    originals = np.repeat(np.arange(near_ones), sizes)[:near_ones]
    bits, distances = random_bits(count - near_ones, random), np.arange(near_ones) % (rule.max_hamming + 1)
    far = np.minimum(4 * distances, rule.max_hamming256)
    return np.concatenate([bits, moved(bits[originals], distances, far, random)])


class Given:
    """The hashes, and what there is to be found."""

    def __init__(self, bits: Bits, rule: DedupSettings, exact: Pairs | None = None) -> None:
        self.bits, self.rule = bits, rule
        self.near = np.packbits(bits[:, :HASH_BITS], axis=1).view(">u8").reshape(-1).astype(np.uint64)
        self.tokens = 2 * np.arange(HASH_BITS) + bits[:, :HASH_BITS]
        self.exact = self._all_pairs() if exact is None else exact
        self.distances = self.distances_of(self.exact).astype(np.int64)

    def distances_of(self, pairs: Pairs) -> NDArray[np.uint8]:
        """64-bit distances."""
        return hamming64(self.near[pairs[:, 0]], self.near[pairs[:, 1]])

    def told(self, pairs: Pairs) -> dict[str, Any]:
        """What of the exact pairs is among these, and within their connected components."""
        count = len(self.bits)
        graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), (count, count))
        cluster = connected_components(graph, directed=False)[1]
        numbers = np.array([count, 1])
        return {
            "pairs": len(pairs),
            "pairs_found": self._shares(np.isin(self.exact @ numbers, pairs @ numbers)),
            "in_one_cluster": self._shares(cluster[self.exact[:, 0]] == cluster[self.exact[:, 1]]),
        }

    def _shares(self, found: NDArray[np.bool_]) -> dict[str, float]:
        each = np.unique(self.distances)
        return {str(distance): round(float(found[self.distances == distance].mean()), 4) for distance in each}

    def _all_pairs(self) -> Pairs:
        """All that agree in a block of bits against each other: of blocks there is one more than bits may differ."""
        found: list[Pairs] = []
        for low, high in pairwise(np.linspace(0, HASH_BITS, self.rule.max_hamming + 2, dtype=int).tolist()):
            block = self.bits[:, low:high] @ (1 << np.arange(high - low))
            order = np.argsort(block, kind="stable")
            for rows in np.split(order, np.flatnonzero(np.diff(block[order])) + 1):
                close = np.argwhere(hamming64(self.near[rows, None], self.near[rows]) <= self.rule.max_hamming)
                found.append(rows[close[close[:, 0] < close[:, 1]]])
        pairs: Pairs = np.unique(np.concatenate(found), axis=0)
        return pairs


def by_ours(given: Given, config: Config, folder: Path, _: int) -> dict[str, Any]:
    """The stage, with its tables."""
    spark = open_session(config)
    Tables(spark, config, Path(folder, "warm")).night(random_bits(100, np.random.default_rng(3)))
    tables = Tables(spark, config, Path(folder, "tables"))
    begin(folder)
    costs = tables.night(given.bits)
    pairs = [(int(one), int(other)) for one, other in given.exact]
    return costs | {"in_one_cluster": found_shares(tables.clusters(), pairs, given.distances)}


def by_kernel(given: Given, config: Config, folder: Path, _: int) -> dict[str, Any]:
    """Sign, cut into bands, and verify what shares a bucket."""
    rule, found = config.dedup, []
    begin(folder)
    with watched() as costs:
        begun = time.perf_counter()
        keys = np.concatenate(
            [
                band_keys(signatures(some, rule), rule)
                for some in np.array_split(given.near, ceil(len(given.near) / SIGNED_AT_ONCE))
            ]
        )
        signing = time.perf_counter() - begun
        for band in keys.T:
            order = np.argsort(band)
            for first, second in close_pairs(band[order], given.near[order], rule.max_hamming):
                ends = order[first], order[second]
                found.append(np.minimum(*ends) * len(given.bits) + np.maximum(*ends))
        pairs = np.stack(np.divmod(np.unique(np.concatenate(found)), len(given.bits)), axis=1)
    return costs | {"signing_s": round(signing, 2)} | given.told(pairs)


def by_datasketch(given: Given, config: Config, folder: Path, _: int) -> dict[str, Any]:
    """Sign, insert, ask, verify."""
    rule, names = config.dedup, [bytes([token]) for token in range(2 * HASH_BITS)]
    tokens = [[names[token] for token in row] for row in given.tokens.tolist()]
    many, query, found, candidates = rule.bands * rule.rows, 0.0, [], 0
    begin(folder)
    with watched() as costs:
        clock = [time.perf_counter()]
        signed = MinHash.bulk(tokens, num_perm=many, seed=rule.seed, scheme="affine32")
        clock.append(time.perf_counter())
        index = MinHashLSH(num_perm=many, params=(rule.bands, rule.rows))
        with index.insertion_session() as session:
            for number, one in enumerate(signed):
                session.insert(number, one, check_duplication=False)
        clock.append(time.perf_counter())
        for start in range(0, len(signed), QUERIES_AT_ONCE):
            begun = time.perf_counter()
            met = [index.query(one) for one in signed[start : start + QUERIES_AT_ONCE]]
            query += time.perf_counter() - begun
            second = np.concatenate([np.array(one, dtype=np.int64) for one in met])
            first = np.repeat(np.arange(start, start + len(met)), [len(one) for one in met])
            pairs = np.stack([first, second], axis=1)[first < second]
            candidates += len(pairs)
            found.append(pairs[given.distances_of(pairs) <= rule.max_hamming])
        clock.append(time.perf_counter())
    if not np.array_equal(signed[-1].hashvalues, signatures(given.near[-1:], rule)[0]):
        raise RuntimeError("datasketch was given other tokens than the stage")
    signing, insertion, rest = np.diff(clock).tolist()
    steps = {"signing_s": signing, "insertion_s": insertion, "query_s": query, "verification_s": rest - query}
    costs |= {name: round(spent, 2) for name, spent in steps.items()} | {"candidates": candidates}
    return costs | given.told(np.concatenate(found))


def by_mllib(given: Given, config: Config, folder: Path, tables: int) -> dict[str, Any]:
    """One join of the vectors with themselves."""
    spark, rule = open_session(config), config.dedup
    ones = [1.0] * HASH_BITS
    rows = [(number, Vectors.sparse(2 * HASH_BITS, row, ones)) for number, row in enumerate(given.tokens.tolist())]
    schema = StructType([StructField("id", IntegerType()), StructField("features", VectorUDT())])
    vectors = spark.createDataFrame(rows, schema).cache()
    vectors.count()
    least = HASH_BITS - rule.max_hamming - 0.5
    threshold = 1 - least / (2 * HASH_BITS - least)

    def join(frame: DataFrame) -> Pairs:
        lsh = MinHashJoin(inputCol="features", outputCol="minima", numHashTables=tables, seed=rule.seed)
        joined = lsh.fit(frame).approxSimilarityJoin(frame, frame, threshold, "distance")
        found = joined.selectExpr("datasetA.id AS one", "datasetB.id AS other").where("one < other").toArrow()
        return np.stack([np.asarray(found.column(end), dtype=np.int64) for end in ("one", "other")], axis=1)

    join(vectors.where("id < 100"))
    begin(folder)
    with watched() as costs:
        pairs = join(vectors)
    arithmetic = {str(distance): round(recall(distance, tables, 1), 4) for distance in range(rule.max_hamming + 1)}
    return costs | {"tables": tables, "recall_by_arithmetic": arithmetic} | given.told(pairs)


BY = {"ours": by_ours, "kernel": by_kernel, "datasketch": by_datasketch, "mllib": by_mllib}


def measured(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What one of them does in a process of its own with the hashes that lie in `folder`."""
    command = [sys.executable, "-m", "benchmarks.dedup_peers", "--child", name, str(folder)]
    command += [f"--set={one}" for one in options.set] + ([f"--tables={options.tables}"] if options.tables else [])
    costs = bounded(command, folder, inf if name == "ours" else options.limit_s)
    if name == "ours" and "ended" in costs:
        raise RuntimeError(costs["ended"])
    return costs if "ended" in costs else json.loads(Path(folder, f"{name}.json").read_text()) | costs


def compared(count: int, rule: DedupSettings, options: argparse.Namespace) -> dict[str, Any]:
    """All that are asked for, one after the other, with so many hashes."""
    random = np.random.default_rng(1)
    given = Given(skewed(count, rule, options.skew, random) if options.skew else planted(count, rule, random)[0], rule)
    report: dict[str, Any] = {"exact_pairs": dict(enumerate(np.bincount(given.distances).tolist()))}
    with tempfile.TemporaryDirectory(prefix="lensfeed-peers-") as folder:
        np.save(Path(folder, "bits.npy"), given.bits)
        np.save(Path(folder, "exact.npy"), given.exact)
        for name in ("ours", *options.peers):
            report[name] = measured(name, Path(folder), options)
    for peer, one in itertools.product(options.peers, ("ours", "kernel")):
        if one in report and peer != "kernel":
            ratios = {cost: round(report[peer][f"{cost}_s"] / report[one][f"{cost}_s"], 2) for cost in ("wall", "cpu")}
            report[f"{peer}_to_{one}"] = ratios | {"at_least": "ended" in report[peer]}
    return report


def main() -> None:
    """Measure, print, and write where `--json` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hashes", type=int, nargs="*", default=[20_000, 50_000], help="how many, a run each")
    parser.add_argument("--peers", nargs="*", choices=list(BY)[1:], default=list(BY)[1:], help="beside ours")
    parser.add_argument("--skew", type=float, default=2.0, help="exponent (above 1) of what is near one; 0: one each")
    parser.add_argument("--limit-s", type=float, default=900, help="seconds that each may work")
    parser.add_argument("--tables", type=int, help="MLlib's numHashTables")
    parser.add_argument("--set", action="append", default=[], help="a setting, as for a job")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.update(THREAD_LIMITS)
    config = load(PROFILE, ["manifest.path=none", *AS_ON_A_CLUSTER, *options.set])
    rule = config.dedup
    if options.child:
        name, folder = options.child[0], Path(options.child[1])
        given = Given(np.load(folder / "bits.npy"), rule, np.load(folder / "exact.npy"))
        tables = options.tables or bands_needed(rule.max_hamming, 1, rule.target_recall)
        Path(folder, f"{name}.json").write_text(json.dumps(BY[name](given, config, folder, tables)))
        return
    report = {"environment": environment("pyspark", "numpy", "datasketch"), "rule": rule.model_dump()}
    report |= {name: getattr(options, name) for name in ("skew", "limit_s")}
    publish(report | {f"hashes {count}": compared(count, rule, options) for count in options.hashes}, options.json)


if __name__ == "__main__":
    main()
