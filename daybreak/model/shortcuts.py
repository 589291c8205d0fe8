"""Shortcuts: what the model knew at its beginning, mixed in again later by learned shares.

No parameter here is 0-dimensional, as such could not be divided among processes; how they begin is in `init.py`.

B batch, T tokens, C d_model, H heads of keys and values, D head size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from daybreak.model.config import GPTConfig
from daybreak.model.shared import Shared

Mix = Callable[[Tensor, Shared], Tensor]
"""(a tensor of this block, what the blocks share) -> one of the same shape."""


class EmbeddingShortcut(nn.Module):
    """A block's input becomes mix[0] x + mix[1] embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.empty(2))

    def forward(self, x: Tensor, shared: Shared) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        assert shared.embedding is not None
        return self.mix[0] * x + self.mix[1] * shared.embedding


class ValueResidual(nn.Module):
    """A layer's values become values + mix (first layer's values - values) (Zhou et al. 2024, "Value Residual Learning")."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.empty(1))

    def forward(self, values: Tensor, shared: Shared) -> Tensor:
        """(B, T, H, D) -> (B, T, H, D)."""
        assert shared.first_values is not None
        return values + self.mix.to(values.dtype) * (shared.first_values - values)


def embedding_shortcut(config: GPTConfig) -> Mix:
    """What becomes of a block's input."""
    return EmbeddingShortcut() if config.embedding_shortcut else unmixed


def value_residual(config: GPTConfig, layer: int) -> Mix:
    """What becomes of a layer's values."""
    if not config.value_residual:
        return unmixed
    return ValueResidual() if layer else left_for_later


def unmixed(x: Tensor, shared: Shared) -> Tensor:
    """The tensor as it is."""
    return x


def left_for_later(values: Tensor, shared: Shared) -> Tensor:
    """The first layer's values as they are; the others find them in what they share."""
    shared.first_values = values
    return values
