#!/usr/bin/env bash
# Tells Spark which GPUs this machine has, as it asks (spark.{worker,executor}.resource.gpu.discoveryScript): one line,
# {"name": "gpu", "addresses": ["0", "1"]}, numbered as nvidia-smi numbers them. Fails, and so keeps the worker or
# executor from starting, where nvidia-smi does: a GPU node without its driver should be noticed.
set -euo pipefail
indices=$(nvidia-smi --query-gpu=index --format=csv,noheader)
addresses=$(printf '%s\n' "$indices" | sed '/^$/d; s/.*/"&"/' | paste -sd, -)
printf '{"name": "gpu", "addresses": [%s]}\n' "$addresses"
