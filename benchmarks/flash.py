"""FlashAttention of our own beside torch's and the naive form: errors against fp64, and milliseconds forward and backward by context.

PYTHONPATH=. python benchmarks/flash.py      on a GPU; on a CPU a tiny run of the lecture in place of the Triton kernels
"""

from __future__ import annotations

from typing import Any

import torch
from attention import milliseconds
from record import bar, record

from daybreak import machine
from daybreak.model import flash
from daybreak.model.attention import KERNELS, Kernel

DEVICE = machine.choose_device()
ON_GPU = DEVICE.type == "cuda"
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
CONTEXTS = (1024, 2048, 4096, 8192) if ON_GPU else (256,)
TOKENS = 16384 if ON_GPU else 256
"""In all sequences together."""
WIDTH = 768 if ON_GPU else 128
"""Of all heads together."""
NAMES = {"daybreak": "daybreak", "sdpa": "fused", "naive": "plain"}


def errors(T: int, D: int) -> dict[str, Any]:
    """The largest relative error of the output and the three gradients against the naive form in fp64."""
    exact = [torch.randn(1, 2, T, D, device=DEVICE, dtype=DTYPE).double().requires_grad_() for _ in range(3)]
    upstream = torch.randn(1, 2, T, D, device=DEVICE, dtype=DTYPE)
    reference = KERNELS["plain"](*exact, 0.0, None)
    wanted = [reference, *torch.autograd.grad(reference, exact, upstream.double())]
    found = {}
    for name, kernel in NAMES.items():
        inputs = [tensor.detach().to(DTYPE).requires_grad_() for tensor in exact]
        out = KERNELS[kernel](*inputs, 0.0, None)
        came = [out, *torch.autograd.grad(out, inputs, upstream)]
        found[name] = max(float((a.detach().double() - b.detach()).norm() / b.detach().norm()) for a, b in zip(came, wanted, strict=True))
    return {"check": "flash errors", "tokens": T, "head_size": D, "dtype": str(DTYPE), "relative_error": found}


def times(T: int, D: int) -> dict[str, Any]:
    """Milliseconds forward and backward, and TFLOP/s of ours by the count of 3.5 forward passes and half the square."""
    B, H = TOKENS // T, WIDTH // D
    kernels: dict[str, tuple[Kernel, int | None]] = {name: (KERNELS[kernel], None) for name, kernel in NAMES.items()}
    took = milliseconds(kernels, (B, H, T, D), DEVICE, DTYPE, rounds=10 if ON_GPU else 2)
    reached = 3.5 * 4 * B * H * T * T * D / 2 / (took["daybreak"] / 1000) / 1e12
    where = {"check": "flash times", "tokens": T, "head_size": D, "sequences": B, "heads": H, "dtype": str(DTYPE)}
    return {**where, "milliseconds": took, "tflops": round(reached, 3)}


def tiles(D: int) -> list[dict[str, Any]]:
    """Milliseconds forward and backward with each candidate for each kernel, the other two as they are; the first is what is taken."""
    from daybreak.model.flash_triton import CANDIDATES

    T, rows = 2048, []
    for place in [place for place in CANDIDATES if place[1:] == (D, True)]:
        known, took = CANDIDATES[place], {}
        for tile in known:
            CANDIDATES[place] = (tile,)
            took[str(tuple(tile))] = milliseconds(
                {"daybreak": (KERNELS["daybreak"], None)}, (TOKENS // T, WIDTH // D, T, D), DEVICE, DTYPE, rounds=10
            )["daybreak"]
        CANDIDATES[place] = known
        rows.append({"check": "flash tiles", "kernel": place[0], "head_size": D, "milliseconds": took})
    return rows


def measure() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Bars and rows."""
    shapes = [(T, 64) for T in CONTEXTS] + ([(2048, 128)] if ON_GPU else [])
    wrong, took = [errors(*shape) for shape in shapes], [times(*shape) for shape in shapes]
    rows = [*wrong, *took]
    bars = []
    for row in wrong:
        what = f"daybreak's FlashAttention, {row['tokens']} tokens, heads of {row['head_size']}"
        bars.append(bar(f"{what}: error, in errors of SDPA", row["relative_error"]["daybreak"] / row["relative_error"]["sdpa"], "<= 2"))
    if ON_GPU and flash.TRITON:
        for row in took:
            what = f"daybreak's FlashAttention, {row['tokens']} tokens, heads of {row['head_size']}, forward and backward"
            ours = row["milliseconds"]["daybreak"]
            bars.append(bar(f"{what}: speed, in speeds of SDPA", row["milliseconds"]["sdpa"] / ours, ">= 0.5"))
            bars.append(bar(f"{what}: speed, in speeds of the naive form", row["milliseconds"]["naive"] / ours, ">= 3"))
        rows += [*tiles(64), *tiles(128)]
    return bars, rows


def main() -> None:
    """Alone; benchmarks/gpu.py measures the same among the rest."""
    record("flash" if ON_GPU else "flash_tiny", *measure())


if __name__ == "__main__":
    main()
