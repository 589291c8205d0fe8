"""Normalisation: the same direction at a standard length.

LayerNorm takes away the mean and divides by the standard deviation (Ba et al. 2016). RMSNorm leaves out the mean, and divides by the root
of the mean square (Zhang and Sennrich 2019).

C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
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
    return F.rms_norm(x, (x.shape[-1],), weight, epsilon)
