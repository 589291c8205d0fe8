"""GELU in its tanh form, GPT-2's (Hendrycks and Gimpel 2016): x (1 + tanh z) / 2 with z = sqrt(2/pi) (x + 0.044715 x³).

The same is x sigmoid(2 z), as (1 + tanh z) / 2 = sigmoid(2 z). What inductor writes for a CPU computes a tanh several times as slowly as a
sigmoid, so that is what it is given: forward and backward take a third of the time (docs/LOG.md).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_LINEAR = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _LINEAR


def gelu(x: Tensor) -> Tensor:
    """Torch's own, but where it is compiled for a CPU."""
    return by_sigmoid(x) if x.is_cpu and torch.compiler.is_compiling() else F.gelu(x, approximate="tanh")


def by_sigmoid(x: Tensor) -> Tensor:
    """x sigmoid(2 z), in fp32 at least: a compiler keeps it in registers, so it costs no memory."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.sigmoid(wide * (_LINEAR + _CUBIC * wide * wide))).to(x.dtype)
