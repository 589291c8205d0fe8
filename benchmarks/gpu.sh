#!/usr/bin/env bash
# Checks, trains and times everything that needs a GPU, within ten minutes, and writes benchmarks/results/gpu.json.
# Needs only a Python with torch, safetensors, tiktoken, tokenizers, typer and rich; nothing is installed or downloaded.
# On a machine without a GPU it runs the same code on a tiny model.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH=. PYTHONUNBUFFERED=1 exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
