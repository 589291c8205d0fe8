"""How fast matrices multiply on this machine: the ceiling that training is measured against, where no maker's figure is known or to be had.

Square products of a few sizes, the best of many tries of each: a rate that the device has reached, so nothing that trains honestly passes
it by much. It takes about a second for each number format, and is measured once in a process.
"""

from __future__ import annotations

import functools
import time

import torch
from torch import Tensor

from daybreak import machine
from daybreak.machine import Precision

_SIZES = {"cpu": (512, 1024, 2048), "mps": (1024, 2048, 4096), "cuda": (4096, 8192, 16384)}
_AT_ONCE = {"cpu": 1, "mps": 8, "cuda": 8}
"""Products between two looks at the clock; a GPU is to have the next one queued."""


@functools.cache
def matmul_flops(device: torch.device, precision: Precision, seconds: float = 1.0) -> float:
    """The operations a second of the quickest product found in about so many seconds; a multiplication and an addition are two."""
    return measure(device, precision, seconds)


def measure(device: torch.device, precision: Precision, seconds: float = 1.0) -> float:
    """The same, measured anew."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    before = torch.get_float32_matmul_precision()
    machine.use_precision(precision)
    try:
        sizes = _SIZES[device.type]
        return max(_rate(device, dtype, size, seconds / len(sizes)) for size in sizes)
    finally:
        torch.set_float32_matmul_precision(before)


def _rate(device: torch.device, dtype: torch.dtype, size: int, seconds: float) -> float:
    # Random numbers, as zeros switch fewer transistors and so run at a higher clock.
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out, best, count = torch.empty_like(left), float("inf"), _AT_ONCE[device.type]
    _multiply(left, right, out, 2)
    until = time.perf_counter() + seconds
    while True:
        best = min(best, _multiply(left, right, out, count) / count)
        if time.perf_counter() > until:
            return 2 * size**3 / best


def _multiply(left: Tensor, right: Tensor, out: Tensor, count: int) -> float:
    """How long so many products take, the device's work waited for."""
    machine.wait(left.device)
    started = time.perf_counter()
    for _ in range(count):
        torch.mm(left, right.T, out=out)  # as a linear layer multiplies by its weight
    machine.wait(left.device)
    return time.perf_counter() - started
