"""Weights to the nearest of a few numbers: int8 with a scale for each output, int4 with a scale and a middle for each group of inputs.

K inputs, M outputs of a linear layer, G weights that share a scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 32
"""G in int4."""

TINY = 1e-30
"""What a scale is at least, so that zeros can be divided by it."""

_AT_ONCE = 256
"""Rows that are rounded at once, so that what is between stays in the cache and out of the process's memory."""


def int8_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(M, K) -> int8 (M, K) and scales (M,): weight ~ int8 * scale."""
    q, scale = torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight))
    for first in range(0, len(weight), _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        torch.div(weight[some].abs().amax(dim=1).clamp_min_(TINY), 127, out=scale[some])
        q[some] = (weight[some] / scale[some, None]).round_()
    return q, scale


def int4_groups(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(M, K) -> uint8 (M, K) from 0 to 15, and bf16 scales and middles (M, K/G): weight ~ (int - 8) * scale + middle."""
    M, K = weight.shape
    q = torch.empty(M, K, dtype=torch.uint8)
    scale, middle = (torch.empty(M, K // GROUP, dtype=torch.bfloat16) for _ in range(2))
    for first in range(0, M, _AT_ONCE):
        some = slice(first, first + _AT_ONCE)
        groups = weight[some].view(-1, K // GROUP, GROUP)
        low, high = groups.aminmax(dim=-1)
        scale[some] = ((high - low) / 15).clamp_min_(TINY)
        middle[some] = low + 8 * scale[some].float()
        steps = (groups - middle[some].float()[..., None]) / scale[some].float()[..., None]
        q[some] = steps.round_().add_(8).clamp_(0, 15).view(-1, K)
    return q, scale, middle
