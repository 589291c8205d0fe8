"""Which way to compute a layer is the quickest right one on this machine: a short trial for each format and shape."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import Tensor

from daybreak.inference.formats import FORMATS, Pack
from daybreak.inference.native.panels import Linear
from daybreak.inference.rounding import GROUP

LARGEST = 1 << 21
"""Weights in a trial: enough to tell ways apart, few enough to take milliseconds. Longer matrices are cut to as many outputs."""

CLOSE = 1.15
"""Ways less than this apart count as equal, and the one that the table names first is taken: trials on a busy machine waver."""

AMONG = 32
"""Rows of a larger product in a trial: some ways are for one row alone, and a prompt and a full server bring many."""

Measured = tuple[tuple[str, float, float], ...]
"""(way, milliseconds of a row alone and of one among many, distance from the plain way); both infinite where a way is not there."""


def quickest(name: str, outputs: int, inputs: int) -> Pack:
    """How layers of a shape are computed in a format: the quickest way that is right, or the plain one where none is right."""
    outputs = min(outputs, max(64, LARGEST // inputs // 64 * 64))
    ways = [row for row in measure(name, outputs, inputs) if row[1] < float("inf")]
    if name == "int4" and inputs % GROUP:
        raise ValueError(f"int4: wanted layers with a multiple of {GROUP} inputs, came {inputs}; take int8")
    if not ways:
        return FORMATS[name].plain
    least = min(milliseconds for _, milliseconds, _ in ways)
    first = next(way for way, milliseconds, _ in ways if milliseconds <= CLOSE * least)
    return FORMATS[name].quick[first]


@cache
def measure(name: str, outputs: int, inputs: int) -> Measured:
    """The trial. Two calls a round apart, the quicker of several: what else runs on the machine only lengthens some."""
    form = FORMATS[name]
    if not form.quick or (name == "int4" and inputs % GROUP):
        return ()
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=draw) * 0.02
    x, bias = torch.randn(AMONG, inputs, generator=draw), torch.randn(outputs, generator=draw)
    with torch.inference_mode():
        plain = form.plain(weight, bias)(x)
        rows = []
        for way, pack in form.quick.items():
            try:
                layer = pack(weight, bias)
                error = float((layer(x) - plain).norm() / plain.norm())
            except (RuntimeError, AttributeError, NotImplementedError):  # this torch or this machine does not have it
                rows.append((way, float("inf"), float("inf")))
                continue
            right = error <= form.error
            rows.append((way, _milliseconds(layer, x) if right else float("inf"), error))
    return tuple(rows)


def _milliseconds(layer: Linear, x: Tensor) -> float:
    return 1000 * (_seconds(layer, x[:1]) + _seconds(layer, x) / len(x))


def _seconds(layer: Linear, x: Tensor) -> float:
    taken = []
    for _ in range(8):
        started = time.perf_counter()
        layer(x)
        taken.append(time.perf_counter() - started)
    return min(taken)
