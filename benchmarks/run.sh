#!/usr/bin/env bash
# Every benchmark of one stage against a bare loop or a peer library, one after the other, with results as JSON beside
# the hardware. On a quiet machine; a few minutes. `make bench` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p benchmarks/results
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 KERAS_BACKEND=torch HF_HUB_OFFLINE=1
for name in canonical minhash nsfw embed landing; do
  printf '\n== %s\n' "$name" >&2
  .venv/bin/python -m "benchmarks.$name" --json "benchmarks/results/$name.json"
done
