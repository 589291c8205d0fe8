"""Causal self-attention: each position gathers from itself and from what came before.

B batch, T tokens now, S tokens so far (S = T without a cache), C d_model, H heads, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daybreak.model.config import GPTConfig
from daybreak.model.kv_cache import KVCache

Kernel = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(queries (B, H, T, D), keys and values (B, H, S, D), dropout) -> (B, H, T, D), causal, the last query at position S - 1."""


def plain(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
    """softmax(Q Kᵀ / sqrt(D) + mask) V, written out: the reference for every other kernel, and quick on CPUs."""
    T, S = queries.shape[2], keys.shape[2]
    scores = (queries * (1.0 / math.sqrt(queries.shape[3]))) @ keys.transpose(2, 3)  # (B, H, T, S)
    if T > 1:
        scores = scores + _mask(T, S, scores.device, scores.dtype)
    weights = F.dropout(F.softmax(scores, dim=-1, dtype=scores.dtype), dropout, training=dropout > 0)
    return weights @ values  # (B, H, T, D)


def fused(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
    """torch's scaled_dot_product_attention, which takes FlashAttention where the device has it."""
    T, S = queries.shape[2], keys.shape[2]
    if T in (1, S):
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=T > 1)
    mask = torch.ones(T, S, dtype=torch.bool, device=queries.device).tril(S - T)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)


def automatic(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
    """The fused kernel on accelerators; on CPUs the plain one while the square of scores is small enough to stay near the cache."""
    # torch's flash kernel for CPUs is far slower than plain matrix products while the context is short, and wins when it is long.
    small = queries.device.type == "cpu" and queries.shape[2] <= 512
    return (plain if small else fused)(queries, keys, values, dropout)


KERNELS: dict[str, Kernel] = {"auto": automatic, "fused": fused, "plain": plain}


class Attention(nn.Module):
    """Multi-head attention with one fused projection for queries, keys and values (GPT-2 `attn`)."""

    def __init__(self, config: GPTConfig, kernel: Kernel = automatic) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.kernel = kernel
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, layer: int = 0, kv_cache: KVCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        queries, keys, values = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
        if kv_cache is not None:
            keys, values = kv_cache.extend(layer, keys, values)  # (B, H, S, D)
        gathered = self.kernel(queries, keys, values, self.dropout if self.training else 0.0)
        out: Tensor = self.out(gathered.transpose(1, 2).reshape(B, T, C))
        return out


def _mask(T: int, S: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(T, S): 0 where query t may look (s <= t + S - T), minus infinity elsewhere."""
    return torch.full((T, S), -math.inf, device=device, dtype=dtype).triu(1 + S - T)
