"""FlashAttention: exact attention that never holds the square of its scores; here as a lecture in torch, on CUDA devices in Triton.

Forward goes over the square in tiles, with a softmax that can be continued (Milakov and Gimelshein 2018, "Online normalizer calculation
for softmax"), and leaves one number per query besides its output. From that number backward computes each tile once more in place of
having kept it. After Dao et al. 2022, "FlashAttention", algorithms 1 and 4 and appendix B, and Dao 2023, "FlashAttention-2",
algorithms 1 and 2; docs/flash-attention.md derives it.

B batch, H heads, T queries, S keys, D head size, and in a tile Q queries and K keys. Query t is at position t + S - T and sees the `band`
keys that end with its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 128
LOWEST = -1e30
"""Where a running maximum begins: below every score, but finite, so that what is masked, at minus infinity, is never compared to itself."""

TRITON = find_spec("triton") is not None


def attention(queries: Tensor, keys: Tensor, values: Tensor, band: int | None = None) -> Tensor:
    """(B, H, T, D) queries, (B, H, S, D) keys and values -> (B, H, T, D), with gradients once, not twice."""
    S = keys.shape[2]
    out: Tensor = FlashAttention.apply(queries, keys, values, S if band is None else min(band, S))[0]  # type: ignore[no-untyped-call]
    return out


class FlashAttention(torch.autograd.Function):
    """What is kept for backward: the inputs, the output, and one number for each query. No tile."""

    @staticmethod
    def forward(queries: Tensor, keys: Tensor, values: Tensor, band: int) -> tuple[Tensor, Tensor]:
        """The output and, for backward only, the logarithm of each softmax's sum."""
        out, logsumexp = _forward(queries, keys, values, band)
        return out, logsumexp

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.band = inputs
        ctx.save_for_backward(*tensors, *output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return (*_backward(upstream, *ctx.saved_tensors, ctx.band), None)


# --- the lecture -------------------------------------------------------------------------------------------------------------


def forward(queries: Tensor, keys: Tensor, values: Tensor, band: int) -> tuple[Tensor, Tensor]:
    """O = softmax(Q Kᵀ / sqrt(D)) V and L = logsumexp(Q Kᵀ / sqrt(D)): (B, H, T, D) and (B, H, T).

    For each query three things are carried from tile to tile: m, the largest score so far, l = sum exp(s - m) and o = sum exp(s - m) v.
    Where a tile has a larger score, m', both sums shrink by exp(m - m') and go on as if m' had been known from the start.
    """
    (B, H, T, D), S = queries.shape, keys.shape[2]
    out, logsumexp = empty_output(queries)
    for rows in _tiles(0, T):
        q = _wide(queries[:, :, rows]) / math.sqrt(D)  # (B, H, Q, D)
        largest = q.new_full((B, H, q.shape[2], 1), LOWEST)
        total, gathered = torch.zeros_like(largest), torch.zeros_like(q)
        for columns in _seen(rows, T, S, band):
            k, v = _wide(keys[:, :, columns]), _wide(values[:, :, columns])  # (B, H, K, D)
            scores = _masked(q @ k.mT, rows, columns, S - T, band)  # (B, H, Q, K)
            larger = torch.maximum(largest, scores.amax(-1, keepdim=True))
            shrink, weights = torch.exp(largest - larger), torch.exp(scores - larger)
            total = shrink * total + weights.sum(-1, keepdim=True)
            gathered = shrink * gathered + weights @ v
            largest = larger
        out[:, :, rows] = gathered / total
        logsumexp[:, :, rows] = (largest + total.log()).squeeze(-1)
    return out, logsumexp


def backward(
    upstream: Tensor, queries: Tensor, keys: Tensor, values: Tensor, out: Tensor, logsumexp: Tensor, band: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values, from that of the output.

    P = exp(S - L) comes back from the scores in one step. With dP = dO Vᵀ the softmax's gradient is dS = P (dP - delta), where
    delta = rowsum(P dP) would need a whole row; but it is rowsum(dO O) too, as O = P V, and O is there (FlashAttention, appendix B.2).
    """
    (T, D), S = queries.shape[2:], keys.shape[2]
    scale = 1.0 / math.sqrt(D)
    delta = (_wide(upstream) * _wide(out)).sum(-1, keepdim=True)  # (B, H, T, 1)
    dqueries, dkeys, dvalues = (_wide(empty_output(each)[0]).zero_() for each in (queries, keys, values))
    for rows in _tiles(0, T):
        q, dout = _wide(queries[:, :, rows]) * scale, _wide(upstream[:, :, rows])  # (B, H, Q, D)
        for columns in _seen(rows, T, S, band):
            k, v = _wide(keys[:, :, columns]), _wide(values[:, :, columns])  # (B, H, K, D)
            scores = _masked(q @ k.mT, rows, columns, S - T, band)  # (B, H, Q, K)
            weights = torch.exp(scores - logsumexp[:, :, rows, None])
            dscores = weights * (dout @ v.mT - delta[:, :, rows])
            dvalues[:, :, columns] += weights.mT @ dout
            dqueries[:, :, rows] += dscores @ k * scale
            dkeys[:, :, columns] += dscores.mT @ q
    return dqueries.to(queries.dtype), dkeys.to(keys.dtype), dvalues.to(values.dtype)


def _tiles(first: int, last: int) -> Iterator[slice]:
    """first to last in whole tiles, and what is left over."""
    for start in range(first, last, TILE):
        yield slice(start, min(start + TILE, last))


def _seen(rows: slice, T: int, S: int, band: int) -> Iterator[slice]:
    """The tiles of keys that any of these queries sees: about half the square where the band holds all."""
    return _tiles(max(0, rows.start + S - T - band + 1), rows.stop + S - T)


def _masked(scores: Tensor, rows: slice, columns: slice, before: int, band: int) -> Tensor:
    """Minus infinity where a query does not see a key. Only tiles on an edge, the diagonal's or the band's, have such places."""
    if columns.stop - 1 <= rows.start + before and rows.stop - 1 + before - columns.start < band:
        return scores
    positions = torch.arange(rows.start, rows.stop, device=scores.device)[:, None] + before
    distance = positions - torch.arange(columns.start, columns.stop, device=scores.device)
    return scores.masked_fill((distance < 0) | (distance >= band), -math.inf)


def _wide(tensor: Tensor) -> Tensor:
    """What sums are kept in: fp64 as it is, all else fp32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


# --- where it runs -----------------------------------------------------------------------------------------------------------


def empty_output(queries: Tensor) -> tuple[Tensor, Tensor]:
    """Room for O, laid out as (B, T, H, D), which is what the output projection reads, and for L."""
    B, H, T, D = queries.shape
    wide = torch.float64 if queries.dtype == torch.float64 else torch.float32
    return queries.new_empty(B, T, H, D).transpose(1, 2), queries.new_empty(B, H, T, dtype=wide)


def triton_serves(queries: Tensor) -> bool:
    """Whether flash_triton.py computes it; if not, the lecture does, which is slow but goes everywhere."""
    return TRITON and queries.is_cuda and queries.dtype in (torch.float16, torch.bfloat16, torch.float32) and queries.shape[3] <= 128


# Operators of their own, so that torch.compile takes each as one thing and does not unroll the tiles.


@torch.library.custom_op("daybreak::flash_forward", mutates_args=())
def _forward(queries: Tensor, keys: Tensor, values: Tensor, band: int) -> tuple[Tensor, Tensor]:
    with torch.autocast(queries.device.type, enabled=False):
        if triton_serves(queries):
            from daybreak.model import flash_triton

            return flash_triton.forward(queries, keys, values, band)
        return forward(queries, keys, values, band)


@_forward.register_fake
def _forward_shapes(queries: Tensor, keys: Tensor, values: Tensor, band: int) -> tuple[Tensor, Tensor]:
    return empty_output(queries)


@torch.library.custom_op("daybreak::flash_backward", mutates_args=())
def _backward(
    upstream: Tensor, queries: Tensor, keys: Tensor, values: Tensor, out: Tensor, logsumexp: Tensor, band: int
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(queries.device.type, enabled=False):
        if triton_serves(queries):
            from daybreak.model import flash_triton

            return flash_triton.backward(upstream, queries, keys, values, out, logsumexp, band)
        return backward(upstream, queries, keys, values, out, logsumexp, band)


@_backward.register_fake
def _backward_shapes(
    upstream: Tensor, queries: Tensor, keys: Tensor, values: Tensor, out: Tensor, logsumexp: Tensor, band: int
) -> tuple[Tensor, Tensor, Tensor]:
    dqueries, dkeys, dvalues = (empty_output(each)[0] for each in (queries, keys, values))
    return dqueries, dkeys, dvalues
