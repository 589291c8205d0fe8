"""A cache that grows by concatenation: the plainest there is, and the oracle that the others are tested against."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from daybreak.model.attention import Kernel


@final
class GrowingCache:
    """Keys and values of a batch of sequences of equal length, without a limit of its own.

    B batch, H heads, S tokens so far, T new tokens, D head size.
    """

    def __init__(self) -> None:
        self.length = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def positions(self, count: int) -> Tensor:
        """(count,) the positions of the next `count` tokens."""
        return torch.arange(self.length, self.length + count)

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, kernel: Kernel, band: int | None = None) -> Tensor:
        """Puts a layer's new keys and values (B, H, T, D) behind the others and gathers for its queries from all: (B, H, T, D)."""
        if layer in self._layers:
            before = self._layers[layer]
            keys, values = (torch.cat([old[:, :, : self.length], new], dim=2) for old, new in zip(before, (keys, values), strict=True))
        self._layers[layer] = keys, values
        return kernel(queries, keys, values, 0.0, band)

    def advance(self, tokens: int) -> None:
        """Counts `tokens` more as read, once every layer has stored them."""
        self.length += tokens

    def rewind(self, length: int = 0) -> None:
        """Forgets all but the first `length` tokens."""
        self.length = length
