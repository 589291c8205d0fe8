"""What a band saves: milliseconds of attention, forward and backward, over all tokens before and over the nearest ones.

python benchmarks/attention.py
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from record import bar, record

from daybreak import machine
from daybreak.model.attention import Kernel, automatic, blocked, fused, plain

ROUNDS = 15
# (tokens, band, sequences): the same number of tokens in each. Eight heads of 64.
SHAPES = [(2048, 256, 2), (1024, 256, 4), (512, 128, 8)]


def milliseconds(
    kernels: dict[str, tuple[Kernel, int | None]], shape: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype, rounds: int
) -> dict[str, float]:
    """Each kernel with its band, forward and backward on inputs of `shape` (B, H, T, D), in turns; the medians."""
    B, H, T, D = shape
    qkv, upstream = torch.randn(B, T, 3, H, D, device=device, dtype=dtype), torch.randn(shape, device=device, dtype=dtype)
    taken: dict[str, list[float]] = {name: [] for name in kernels}
    for _ in range(rounds + 1):
        for name, (kernel, band) in kernels.items():
            inputs = qkv.clone().requires_grad_()
            _wait(device)
            started = time.perf_counter()
            kernel(*inputs.permute(2, 0, 3, 1, 4), 0.0, band).backward(upstream)
            _wait(device)
            taken[name].append(time.perf_counter() - started)
    return {name: round(1000 * statistics.median(times[1:]), 2) for name, times in taken.items()}  # the first is warm-up


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Every shape in fp32, and in bf16 where the processor has it."""
    device = torch.device("cpu")
    machine.prepare_cpu()
    rows: list[dict[str, Any]] = []
    bars = []
    for dtype in [torch.float32, torch.bfloat16][: 2 if machine.cpu_has_bf16() else 1]:
        for T, band, B in SHAPES:
            kernels: dict[str, tuple[Kernel, int | None]] = {
                "dense plain": (plain, None),
                "dense fused": (fused, None),
                "banded plain": (plain, band),
                "banded fused": (fused, band),
                "banded blocked": (blocked, band),
                "banded auto": (automatic, band),
            }
            took = milliseconds(kernels, (B, 8, T, 64), device, dtype, ROUNDS)
            rows.append({"tokens": T, "band": band, "dtype": str(dtype).removeprefix("torch."), "milliseconds": took})
            print(rows[-1], flush=True)
            ratio = took["banded blocked"] / min(took["dense plain"], took["dense fused"])
            bars.append(bar(f"time of blocks to the quicker dense kernel, {T} tokens, band {band}, {rows[-1]['dtype']}", ratio, "< 1"))
    record("attention", bars, rows)


if __name__ == "__main__":
    main()
