"""Causal self-attention: each position gathers from itself and from what came before, all of it or the nearest `band` tokens.

B batch, T tokens now, S tokens so far (S = T without a cache), C d_model, H heads, K heads of keys and values, D head size.
In `blocked`: N blocks of Q queries, W keys in the window of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daybreak.model import flash, flex, triangle
from daybreak.model.config import GPTConfig
from daybreak.model.norms import rms_norm
from daybreak.model.rotary import turned
from daybreak.model.shared import Shared
from daybreak.model.shortcuts import value_residual

Kernel = Callable[[Tensor, Tensor, Tensor, float, int | None], Tensor]
"""(queries (B, H, T, D), keys and values (B, H, S, D), dropout, band) -> (B, H, T, D), causal, the last query at position S - 1.

A query sees the `band` keys that end with its own, or all up to its own where the band is None."""

BLOCK = 128
"""How many queries `blocked` takes at once. On CPUs 64 is as quick and 256 slower (docs/LOG.md)."""


def plain(queries: Tensor, keys: Tensor, values: Tensor, dropout: float, band: int | None = None) -> Tensor:
    """The square of scores, written out: the reference for every other kernel, and quick on CPUs."""
    T, S = queries.shape[2], keys.shape[2]
    mask = None if T == 1 and _within(S, band) else _mask(_near, (T, S, band), queries)
    return _gather(queries, keys, values, dropout, mask)


def _gather(queries: Tensor, keys: Tensor, values: Tensor, dropout: float, mask: Tensor | None) -> Tensor:
    """softmax(Q Kᵀ / sqrt(D) + mask) V: (..., T, D) queries and (..., S, D) keys and values -> (..., T, D)."""
    scores = (queries * (1.0 / math.sqrt(queries.shape[-1]))) @ keys.transpose(-2, -1)  # (..., T, S)
    if mask is not None:
        scores = scores + mask
    weights = F.dropout(F.softmax(scores, dim=-1, dtype=scores.dtype), dropout, training=dropout > 0)
    return weights @ values


def fused(queries: Tensor, keys: Tensor, values: Tensor, dropout: float, band: int | None = None) -> Tensor:
    """torch's scaled_dot_product_attention, which takes FlashAttention where the device has it and the mask is a triangle."""
    T, S = queries.shape[2], keys.shape[2]
    if T in (1, S) and _within(S, band):
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=T > 1)
    mask = _mask(_near, (T, S, band), queries)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)


def blocked(queries: Tensor, keys: Tensor, values: Tensor, dropout: float, band: int | None = None) -> Tensor:
    """The plain one on blocks of queries, each with its own keys and the band before them: T W scores in place of T S."""
    T = queries.shape[2]
    if band is None or band >= keys.shape[2]:
        return plain(queries, keys, values, dropout)
    keys, values = (each[:, :, -(T + band - 1) :] for each in (keys, values))  # what no query sees
    Q = min(BLOCK, band)
    N, before = -(-T // Q), -(-(band - 1) // Q)  # blocks of queries, and blocks of keys before each
    front, end = before * Q - (keys.shape[2] - T), N * Q - T  # zeros make all blocks and windows whole
    blocks = _windows(F.pad(queries, (0, 0, 0, end)), Q, 0)  # (B, H, N, Q, D)
    keys, values = (_windows(F.pad(each, (0, 0, front, end)), Q, before) for each in (keys, values))  # (B, H, N, W, D)
    gathered = _gather(blocks, keys, values, dropout, _mask(_near_in_window, (N, Q, before, front, band), queries))
    return gathered.flatten(2, 3)[:, :, :T]


def automatic(queries: Tensor, keys: Tensor, values: Tensor, dropout: float, band: int | None = None) -> Tensor:
    """The quickest for the device and the shape. A band that holds all keys, as when one token is decoded, is dense."""
    T, S = queries.shape[2], keys.shape[2]
    # torch's flash kernel for CPUs is far slower than plain matrix products while the context is short; products that leave out the masked
    # half are quicker than both when it is long.
    square = plain if queries.device.type == "cpu" and T <= 512 else fused
    if band is None or band >= S:
        half = queries.device.type == "cpu" and T > 2 * triangle.BLOCK and dropout == 0
        return triangle.attention(queries, keys, values) if half else square(queries, keys, values, dropout, None)
    if flex.serves(queries, keys, dropout):
        return flex.attention(queries, keys, values, dropout, band)
    pays = T > 512 or 2 * (band + BLOCK) <= S  # copying the windows costs as much as the scores that it saves, in small squares
    return (blocked if pays else square)(queries, keys, values, dropout, band)


def daybreak(queries: Tensor, keys: Tensor, values: Tensor, dropout: float, band: int | None = None) -> Tensor:
    """FlashAttention as `flash.py` writes it. That has no dropout: where some is asked for, `fused` takes over."""
    return fused(queries, keys, values, dropout, band) if dropout else flash.attention(queries, keys, values, band)


KERNELS: dict[str, Kernel] = {"auto": automatic, "rule": automatic, "fused": fused, "plain": plain, "daybreak": daybreak}


def grouped(kernel: Kernel) -> Kernel:
    """A kernel for fewer heads of keys and values than of queries, each shared by a group of these (Ainslie et al. 2023, "GQA")."""
    return partial(_grouped, kernel)


def _grouped(kernel: Kernel, queries: Tensor, keys: Tensor, values: Tensor, dropout: float, band: int | None = None) -> Tensor:
    (B, H, T, D), (K, S) = queries.shape, keys.shape[1:3]
    if T == 1 and _within(S, band) and not dropout:  # a group's queries stand side by side, and the many keys need not be copied for each
        return _gather(queries.view(B, K, H // K, D), keys, values, 0.0, None).view(B, H, T, D)
    keys, values = (each.repeat_interleave(H // K, dim=1) for each in (keys, values))
    return kernel(queries, keys, values, dropout, band)


def _as_it_is(kernel: Kernel) -> Kernel:
    return kernel


class Attention(nn.Module):
    """Multi-head attention with one fused projection for queries, keys and values (GPT-2 `attn`)."""

    def __init__(self, config: GPTConfig, kernel: Kernel = automatic, layer: int = 0) -> None:
        super().__init__()
        self.layer = layer
        self.band = config.band(layer)
        self.dropout = config.dropout
        self.head_size = config.head_size
        self.heads = (config.n_head, config.kv_heads, config.kv_heads)
        self.qkv_rows = [heads * config.head_size for heads in self.heads]
        """How many rows of `qkv` make the queries, the keys and the values: three matrices that lie together for speed."""
        self.kernel = kernel
        self.for_heads = _as_it_is if config.kv_heads == config.n_head else grouped
        self.qkv = nn.Linear(config.d_model, sum(self.qkv_rows), bias=config.bias)
        self.meeting = before_they_meet(config)
        self.value_residual = value_residual(config, layer)
        self.out = nn.Linear(config.d_model, config.d_model, bias=config.bias)

    def forward(self, x: Tensor, shared: Shared) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        queries, keys, values = self.qkv(x).view(B, T, -1, self.head_size).split(self.heads, dim=2)  # (B, T, H or K, D)
        for prepare in self.meeting:
            queries, keys = prepare(queries, shared), prepare(keys, shared)
        values = self.value_residual(values, shared)
        queries, keys, values = (each.transpose(1, 2) for each in (queries, keys, values))  # (B, H or K, T, D)
        kernel = self.for_heads(self.kernel)
        if shared.kv_cache is None:
            gathered = kernel(queries, keys, values, self.dropout if self.training else 0.0, self.band)
        else:
            gathered = shared.kv_cache.attend(self.layer, queries, keys, values, kernel, self.band)
        out: Tensor = self.out(gathered.transpose(1, 2).reshape(B, T, C))
        return out


def before_they_meet(config: GPTConfig) -> tuple[Callable[[Tensor, Shared], Tensor], ...]:
    """What is done to queries and keys (B, T, H, D) between projection and scores, one after the other."""
    steps: list[Callable[[Tensor, Shared], Tensor]] = []
    if config.qk_norm:
        steps.append(_normalised)
    if config.position == "rotary":
        steps.append(_turned)
    return tuple(steps)


def _normalised(x: Tensor, shared: Shared) -> Tensor:
    """RMSNorm of each head, so that no score passes sqrt(D) (Henry et al. 2020, "Query-Key Normalization")."""
    return rms_norm(x)


def _turned(x: Tensor, shared: Shared) -> Tensor:
    assert shared.rotation is not None
    return turned(x, shared.rotation)


def _windows(padded: Tensor, Q: int, before: int) -> Tensor:
    """(B, H, (before + N) Q, D) -> (B, H, N, (before + 1) Q, D): each block together with those before it."""
    B, H, length, D = padded.shape
    blocks = padded.reshape(B, H, length // Q, Q, D)
    N = blocks.shape[2] - before
    return torch.cat([blocks[:, :, first : first + N] for first in range(before + 1)], dim=3)


# --- masks -------------------------------------------------------------------------------------------------------------------


def _within(S: int, band: int | None) -> bool:
    """Whether the last query sees every key."""
    return band is None or band >= S


def _near(device: torch.device, T: int, S: int, band: int | None) -> Tensor:
    """(T, S): whether query t, which is at position t + S - T, sees key s."""
    distance = torch.arange(S - T, S, device=device)[:, None] - torch.arange(S, device=device)
    return (distance >= 0) & (distance < (S if band is None else band))


def _near_in_window(device: torch.device, N: int, Q: int, before: int, front: int, band: int) -> Tensor:
    """(N, Q, W): whether query q of block n sees key w of its window, whose first `before` Q keys come before the block.

    The first `front` keys of all are padding and seen by none.
    """
    W = (before + 1) * Q
    real = torch.arange(0, N * Q, Q, device=device)[:, None] + torch.arange(W, device=device) >= front  # (N, W)
    return _near(device, Q, W, band) & real[:, None]


def _mask(visible: Callable[..., Tensor], shape: tuple[int | None, ...], like: Tensor) -> Tensor:
    """0 where `visible(device, *shape)`, minus infinity elsewhere. The last few are kept: every layer of a kind asks for the same.

    Not while compiling, where the compiler folds it into what follows, nor for tensors that only pretend to hold numbers.
    """
    keep = type(like) is Tensor and not torch.compiler.is_compiling()
    return (_kept if keep else _built)(visible, shape, like.device, like.dtype)


def _built(visible: Callable[..., Tensor], shape: tuple[int | None, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    seen = visible(device, *shape)
    return torch.zeros(seen.shape, device=device, dtype=dtype).masked_fill(~seen, -math.inf)


@lru_cache(maxsize=4)
def _kept(visible: Callable[..., Tensor], shape: tuple[int | None, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # it may be used for training later
        return _built(visible, shape, device, dtype)
