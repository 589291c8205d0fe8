"""The keys and values of the tokens already read, so that the next token costs one column and not the whole square.

L layers, B batch, H heads, S capacity, T new tokens, D head size.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from daybreak.model.config import GPTConfig

if TYPE_CHECKING:
    from daybreak.model.attention import Kernel


PAGE = 16
"""Tokens that lie side by side wherever keys and values are kept in pages."""


IN_PLACE = (torch.float32, torch.float16)
"""What a cache on a CPU may be kept in for a kernel that works on it in place."""


class Layout(NamedTuple):
    """Where a cache keeps the new tokens of a pass and those before them, for a kernel that works on it in place.

    The key of a layer and head at position t of a text stands layer, text and head strides behind the beginning, and from there in page
    pages[text, t // PAGE], at t % PAGE.
    """

    keys: Tensor
    """(L, ...), of one of IN_PLACE."""
    values: Tensor
    """Laid out as the keys."""
    text_stride: int
    head_stride: int
    pages: Tensor
    """(texts, pages) int32, or (1, pages) the same for all."""
    page_stride: int
    """From a text's pages to the next one's; 0 where they are the same for all."""
    texts: Tensor
    """(N,) int32: whose each new token is."""
    positions: Tensor
    """(N,) int32: where it stands in its text."""


class Cache(Protocol):
    """What a model asks of any cache: fixed, growing, or in pages that many texts share."""

    def positions(self, count: int) -> Tensor:
        """(count,) the positions of the `count` new tokens."""

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, kernel: Kernel, band: int | None = None) -> Tensor:
        """Stores a layer's new keys and values (B, K, T, D) and gathers for its queries (B, H, T, D) from all so far: (B, H, T, D)."""

    def advance(self, tokens: int) -> None:
        """Counts the new tokens as read, once every layer has stored them."""


class KVCache:
    """A buffer of fixed capacity for one batch of sequences of equal length.

    `length` tokens are in it. A forward pass writes each layer's new keys and values behind them with `extend`; the
    model calls `advance` once all layers have.
    """

    def __init__(
        self,
        config: GPTConfig,
        batch: int = 1,
        capacity: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.capacity = capacity or config.context_length
        self.context_length = config.context_length
        self.length = 0
        shape = (config.n_layer, batch, config.kv_heads, self.capacity, config.head_size)
        self._keys = torch.empty(shape, device=device, dtype=dtype)  # (L, B, H, S, D), in memory only as far as it is filled
        self._values = torch.empty(shape, device=device, dtype=dtype)

    def positions(self, count: int) -> Tensor:
        """(count,) the positions of the next `count` tokens. Raises ValueError beyond the context length."""
        end = self.length + count
        if end > self.context_length:
            raise ValueError(f"tokens: wanted at most context_length = {self.context_length} positions, came {end}")
        return torch.arange(self.length, end, device=self._keys.device)

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, kernel: Kernel, band: int | None = None) -> Tensor:
        """Stores a layer's new keys and values (B, H, T, D) and gathers for its queries from all so far: (B, H, T, D)."""
        keys, values = self.extend(layer, keys, values, band)  # (B, H, S, D)
        if queries.shape[2] == 1:  # it sees all that is left, so that kernels differ in time alone; this is one call
            return F.scaled_dot_product_attention(queries, keys, values, enable_gqa=queries.shape[1] != keys.shape[1])
        return kernel(queries, keys, values, 0.0, band)

    def extend(self, layer: int, keys: Tensor, values: Tensor, band: int | None = None) -> tuple[Tensor, Tensor]:
        """Stores a layer's new keys and values (B, H, T, D) and returns all of them so far (B, H, length + T, D).

        A layer with a band gets only those that its new tokens see, the last T + band - 1. Raises ValueError if they do not fit.
        """
        end = self._end(keys.shape[0], keys.shape[2])
        all_keys, all_values = self._keys[layer], self._values[layer]  # (B, H, capacity, D)
        all_keys.narrow(2, self.length, end - self.length).copy_(keys)
        all_values.narrow(2, self.length, end - self.length).copy_(values)
        start = 0 if band is None else max(0, self.length + 1 - band)
        return all_keys.narrow(2, start, end - start).to(keys.dtype), all_values.narrow(2, start, end - start).to(values.dtype)

    def layout(self, batch: int, tokens: int) -> Layout | None:
        """Where B T new tokens, row by row, are to be kept; None where no kernel can work in place. Raises ValueError as `extend`."""
        end = self._end(batch, tokens)
        if self._keys.dtype not in IN_PLACE or self._keys.device.type != "cpu":
            return None
        pages = torch.arange(-(-self.capacity // PAGE), dtype=torch.int32)[None]
        texts = torch.arange(batch, dtype=torch.int32).repeat_interleave(tokens)
        positions = torch.arange(self.length, end, dtype=torch.int32).repeat(batch)
        return Layout(self._keys, self._values, self._keys.stride(1), self._keys.stride(2), pages, 0, texts, positions)

    def _end(self, batch: int, tokens: int) -> int:
        if batch != self._keys.shape[1]:
            raise ValueError(f"kv_cache: wanted a batch of {self._keys.shape[1]}, for which it was made, came {batch}")
        end = self.length + tokens
        if end > self.capacity:
            raise ValueError(f"kv_cache: wanted at most {self.capacity} tokens, came {end}; rewind it or make a larger one")
        return end

    def advance(self, tokens: int) -> None:
        """Counts `tokens` more as read, once every layer has stored them."""
        self.length += tokens

    def rewind(self, length: int = 0) -> None:
        """Forgets all but the first `length` tokens: 0 empties it, less than all undoes a rejected guess."""
        if not 0 <= length <= self.length:
            raise ValueError(f"kv_cache: wanted a length from 0 to {self.length}, came {length}")
        self.length = length

    def spread(self, rows: Tensor, capacity: int) -> KVCache:
        """Another cache that holds, for each of `rows`, a copy of that sequence of the batch: one text that goes on in many ways."""
        other = copy.copy(self)
        other.capacity = capacity
        shape = (self._keys.shape[0], len(rows), self._keys.shape[2], capacity, self._keys.shape[4])
        other._keys, other._values = self._keys.new_zeros(shape), self._values.new_zeros(shape)
        for mine, its in ((self._keys, other._keys), (self._values, other._values)):
            for layer in range(len(mine)):  # layer by layer, as a copy of all at once would be held beside the new cache
                its[layer, :, :, : self.length] = mine[layer, rows, :, : self.length]
        return other
