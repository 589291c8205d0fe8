"""Normalisation: the same direction at a standard length.

LayerNorm takes away the mean and divides by the standard deviation (Ba et al. 2016). RMSNorm leaves out the mean, and divides by the root
of the mean square (Zhang and Sennrich 2019).

C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from daybreak.model.config import GPTConfig

NORMS: dict[str, Callable[[GPTConfig], nn.Module]] = {
    "layernorm": lambda config: nn.LayerNorm(config.d_model, config.layer_norm_epsilon, bias=config.bias),
    "rmsnorm": lambda config: RMSNorm(config.d_model, config.layer_norm_epsilon),
    "rmsnorm-no-gain": lambda config: RMSNorm(config.d_model, config.layer_norm_epsilon, gain=False),
}


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + epsilon), times a gain for each channel if there is one."""

    def __init__(self, channels: int, epsilon: float, gain: bool = True) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels)) if gain else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return rms_norm(x, self.weight, self.epsilon)


def rms_norm(x: Tensor, weight: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """(..., C) -> (..., C), with a weight (C,) or without."""
    if x.is_cpu and not torch.compiler.is_compiling():
        out: Tensor = _RMSNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
        return out
    return F.rms_norm(x, (x.shape[-1],), weight, epsilon)


class _RMSNorm(torch.autograd.Function):
    """torch fuses it on GPUs and when compiling; on CPUs it is many passes over memory there, and some less here.

    With n = x r, r = 1 / sqrt(mean(x²) + epsilon) and d the gradient of n:  dx = r (d - n mean(d n)).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, epsilon: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        r = lengths.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()  # (..., 1)
        ctx.save_for_backward(x, weight, r)
        n = x * r
        out: Tensor = n if weight is None else n.mul_(weight)
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, r = ctx.saved_tensors
        n = x * r
        dn = gradient * n  # (..., C)
        for_weight = None if weight is None else dn.sum_to_size(weight.shape).to(weight.dtype)
        d = gradient if weight is None else gradient * weight
        mean = (dn if weight is None else dn * weight).mean(-1, keepdim=True)
        return n.mul_(mean.neg_()).add_(d).mul_(r).to(x.dtype), for_weight, None
