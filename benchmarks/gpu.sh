#!/usr/bin/env bash
# Checks, trains and times everything that needs a GPU, within ten minutes, and writes benchmarks/results/gpu.json.
# Needs only a Python with torch, numpy, safetensors, tiktoken, tokenizers, typer and rich; nothing is installed or downloaded.
#   --peer nanogpt=DIR   nanoGPT's folder, to be measured beside
#   --seconds N          how long all may take (560); the most important comes first, and what no longer fits is left out
#   --only TEXT          only the parts whose name contains it
# On a machine without a GPU it runs the same code on a tiny model, in under a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH=. PYTHONUNBUFFERED=1 exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
