"""The quickest attention for one shape on one device, found by trying, and remembered for the next run.

    names = {"dense": choose(Shape(device, torch.bfloat16, 16, 6, 256, 64)), "banded": "rule"}
    model = GPT(config, kernel(names, config.context_length))

Each candidate computes forward and backward a few times, in turns, for half a second in all. What was found lies in the user's cache, by
device, version of torch and shape. Where other programs took the processors meanwhile, or the rule of `attention.automatic` could not be
timed, nothing was found: the rule holds, and the next run tries again. DAYBREAK_MEASURE=0 tries nothing and takes the rule, as shapes do
that are too small to matter.

B batch, H heads, T tokens, D head size.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daybreak import compiling, files, machine
from daybreak.model import flash, flex, triangle
from daybreak.model.attention import Kernel, automatic, blocked, daybreak, fused, plain

RULE = "rule"
"""The name of `attention.automatic`, which knows no figures of this machine."""
SECONDS = 0.5
"""For all candidates of a shape together, their compilation and first use apart."""
_ROUNDS = 7
_BETTER = 0.95
"""What is to take the rule's place takes at most so much of its time; the clock cannot tell less."""
_WORTH_IT = 2**29
"""Operations, forward, below which all kernels are quick enough."""
_MOST_BYTES = 2**30
"""What the square of scores may take for `plain` to be tried."""


@dataclass(frozen=True)
class Shape:
    """What the choice depends on."""

    device: torch.device
    dtype: torch.dtype
    B: int
    H: int
    T: int
    D: int
    band: int | None = None
    compiled: bool = False
    """Whether the kernels are to be compiled by torch.compile, as parts of a block."""

    @property
    def operations(self) -> int:
        """Of the two products, forward."""
        return 4 * self.B * self.H * self.T * min(self.T, 2 * (self.band or self.T)) * self.D

    @property
    def key(self) -> str:
        """By what it is remembered. Batches are taken together up to the next power of two."""
        where = f"{machine.device_name(self.device)}, torch {torch.__version__}, {str(self.dtype).removeprefix('torch.')}"
        size = f"B{self.batch} H{self.H} T{self.T} D{self.D} band {self.band}"
        return f"{where}, {size}{', compiled' if self.compiled else ''}"

    @property
    def batch(self) -> int:
        """The power of two that stands for B; many sequences at once differ little."""
        return 1 << (min(self.B, 16).bit_length() - 1)


def _half(queries: Tensor, keys: Tensor, values: Tensor, dropout: float, band: int | None = None) -> Tensor:
    return triangle.attention(queries, keys, values)


KERNELS: dict[str, Kernel] = {
    RULE: automatic,
    "plain": plain,
    "fused": fused,
    "triangle": _half,
    "blocked": blocked,
    "flex": flex.attention,
    "daybreak": daybreak,
}


def candidates(shape: Shape) -> list[str]:
    """The kernels to try, the rule's first."""
    wide = shape.dtype.itemsize
    square = shape.batch * shape.H * shape.T**2 * wide <= _MOST_BYTES
    if shape.device.type == "cpu":
        return [RULE, "fused", *(["plain"] if square else []), "triangle" if shape.band is None else "blocked"]
    if shape.device.type != "cuda":
        return [RULE, "fused", *(["plain"] if square else [])]
    ours = ["daybreak"] if flash.TRITON and wide == 2 else []
    if shape.band is None:
        return [RULE, *ours]  # the rule's is torch's FlashAttention
    tiles = flex.COMPILER and shape.T % flex.TILE == 0 and shape.D >= 16
    return [RULE, "blocked", "fused", *(["flex"] if tiles else []), *ours]


def choose(shape: Shape, time_it: Callable[[Shape, Kernel], float] | None = None, folder: Path | None = None, rounds: int = _ROUNDS) -> str:
    """The name of the quickest kernel, as remembered or as found now. `time_it` takes a kernel's time once, in seconds."""
    if os.environ.get("DAYBREAK_MEASURE") == "0" or shape.operations < _WORTH_IT:
        return RULE
    path = (folder or files.cache_folder()) / "attention.json"
    remembered = _read(path).get(shape.key)
    if isinstance(remembered, dict) and remembered.get("kernel") in KERNELS and remembered.get("undisturbed"):
        return str(remembered["kernel"])
    taken, undisturbed = _race(shape, time_it or _time, rounds)
    if not undisturbed or RULE not in taken:
        return RULE
    name = best(taken)
    milliseconds = {each: round(1000 * seconds, 3) for each, seconds in taken.items()}
    row = {"kernel": name, "milliseconds": milliseconds, "undisturbed": True}
    with contextlib.suppress(OSError):  # a cache that cannot be written is none
        files.write_json(path, {**_read(path), shape.key: row})
    return name


def best(taken: Mapping[str, float]) -> str:
    """The quickest, but the rule where it is as quick."""
    if not taken:
        return RULE
    quickest = min(taken, key=taken.__getitem__)
    return RULE if taken[quickest] > _BETTER * taken.get(RULE, float("inf")) else quickest


def kernel(names: Mapping[str, str], length: int) -> Kernel:
    """One kernel of two: `names` says which for "dense" layers and which for "banded", for whole windows of `length` tokens. For other
    lengths, and with dropout, nothing was tried, and the rule holds."""
    dense, banded = KERNELS[names["dense"]], KERNELS[names["banded"]]

    def chosen(queries: Tensor, keys: Tensor, values: Tensor, dropout: float, band: int | None = None) -> Tensor:
        whole = queries.shape[2] == keys.shape[2] == length and dropout == 0
        return ((dense if band is None else banded) if whole else automatic)(queries, keys, values, dropout, band)

    return chosen


def _race(shape: Shape, time_it: Callable[[Shape, Kernel], float], rounds: int) -> tuple[dict[str, float], bool]:
    """The median seconds of each candidate that works here, and whether other programs left it the processors meanwhile."""
    names, taken, spent = candidates(shape), dict[str, list[float]](), 0.0
    ready = {name: _compiled(KERNELS[name]) if shape.compiled else KERNELS[name] for name in names}
    for name in names:  # the first time compiles and finds memory
        with contextlib.suppress(Exception):  # a kernel that cannot be built here, or runs out of memory, is no candidate
            time_it(shape, ready[name])
            taken[name] = []
    company = machine.Company()
    for _ in range(rounds):
        for name in taken:
            taken[name].append(time_it(shape, ready[name]))
            spent += taken[name][-1]
        if spent > SECONDS:
            break
    undisturbed = shape.device.type != "cpu" or company.leaves_room()
    return {name: statistics.median(seconds) for name, seconds in taken.items()}, undisturbed


def _compiled(written: Kernel) -> Kernel:
    compiling.keep()
    return torch.compile(written, dynamic=False)


def _time(shape: Shape, kernel: Kernel) -> float:
    """Seconds of forward and backward, once."""
    B, H, T, D = shape.batch, shape.H, shape.T, shape.D
    qkv = torch.randn(B, T, 3, H, D, device=shape.device, dtype=shape.dtype, requires_grad=True)
    upstream = torch.randn(B, H, T, D, device=shape.device, dtype=shape.dtype)
    machine.wait(shape.device)
    started = time.perf_counter()
    queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # laid out as a block has them
    kernel(queries, keys, values, 0.0, shape.band).backward(upstream)  # type: ignore[no-untyped-call]
    machine.wait(shape.device)
    return time.perf_counter() - started


def _read(path: Path) -> dict[str, Any]:
    """What is remembered; nothing where there is no such file, or a broken one."""
    with contextlib.suppress(files.FileProblem):
        if isinstance(found := files.read_json(path), dict):
            return found
    return {}
