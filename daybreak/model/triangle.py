"""Causal attention on a CPU at the cost of its triangle: blocks of queries, each against the keys up to its last, in whole matrix products.

The square that `plain` fills is half masked; here a block of queries multiplies only with what it may see, and only the corner where
block and diagonal meet is masked. The gradient is written out, as autograd would add a whole gradient of the keys for every block.

P = softmax(Q Kᵀ / sqrt(D)) and O = P V, so for a gradient dO:  dV = Pᵀ dO,  dP = dO Vᵀ,  dS = P (dP - rowsum(P dP)),  dQ = dS K / sqrt(D),
dK = dSᵀ Q / sqrt(D)  (Dao et al. 2022, appendix B.2).

G batch times heads, T queries, S keys, D head size; a block has Q queries and sees E keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK = 128
"""Queries in a block: 64 is no quicker and 256 computes more of what is masked (docs/LOG.md)."""
KEPT_BYTES = 64 << 20
"""Up to how much the weights of one layer are kept for the backward pass; larger ones are computed again."""


def attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(B, H, T, D) queries, (B, H, S, D) keys and values -> (B, H, T, D), the last query at position S - 1."""
    B, H, T, D = queries.shape
    rows = (queries.reshape(B * H, T, D), keys.reshape(B * H, -1, D), values.reshape(B * H, -1, D))
    gathered: Tensor = _Triangle.apply(*rows)  # type: ignore[no-untyped-call]
    return gathered.view(B, H, T, D)


class _Triangle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(G, T, D), (G, S, D), (G, S, D) -> (G, T, D)."""
        (G, T, D), S = queries.shape, keys.shape[1]
        queries = queries * (1.0 / math.sqrt(D))  # here, where they lie together: scaling them apart is slower
        keep = any(ctx.needs_input_grad) and G * T * S * queries.element_size() // 2 <= KEPT_BYTES
        gathered, kept = torch.empty_like(queries), []
        for rows, E in _blocks(T, S):
            weights = _weights(queries[:, rows], keys[:, :E])
            gathered[:, rows] = torch.bmm(weights, values[:, :E])
            kept += [weights] if keep else []
        ctx.save_for_backward(queries, keys, values, *kept)
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values, *kept = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        for_queries, for_keys, for_values = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        for block, (rows, E) in enumerate(_blocks(queries.shape[1], keys.shape[1])):
            weights = kept[block] if kept else _weights(queries[:, rows], keys[:, :E])  # P (G, Q, E)
            for_weights = torch.bmm(gradient[:, rows], values[:, :E].transpose(1, 2))  # dP
            for_scores = torch._softmax_backward_data(for_weights, weights, -1, weights.dtype)  # dS
            for_queries[:, rows] = torch.bmm(for_scores, keys[:, :E])
            for_keys[:, :E].baddbmm_(for_scores.transpose(1, 2), queries[:, rows])
            for_values[:, :E].baddbmm_(weights.transpose(1, 2), gradient[:, rows])
        return for_queries.mul_(1.0 / math.sqrt(queries.shape[2])), for_keys, for_values


def _blocks(T: int, S: int) -> Iterator[tuple[slice, int]]:
    """The rows of each block of queries, and how many keys its last one sees."""
    for first in range(0, T, BLOCK):
        end = min(first + BLOCK, T)
        yield slice(first, end), S - T + end


def _weights(queries: Tensor, keys: Tensor) -> Tensor:
    """softmax(Q Kᵀ) of one block (G, Q, E): all but the last Q keys are seen by every query of it."""
    Q = queries.shape[1]
    scores = torch.bmm(queries, keys.transpose(1, 2))
    scores[:, :, -Q:].add_(torch.full((Q, Q), -math.inf, device=scores.device, dtype=scores.dtype).triu(1))
    return torch.softmax(scores, dim=-1)
