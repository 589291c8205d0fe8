"""FlashAttention for CUDA devices, in Triton: the loops of flash.py, with a program for every tile on one side of the square.

`_forward_kernel` and `_dqueries_kernel` have a program for each tile of queries, which goes over the keys that it sees; `_dkeys_kernel`
one for each tile of keys, which goes over the queries that see it. No two programs write to one place, so there are no atomic
additions, and the same inputs give the same bits. What is not seen is not visited; only tiles on an edge of what is seen are masked.
Exponents are of base 2, as the hardware's.

Imported only where it is used (flash.py): the package needs no Triton. Letters as in flash.py; WIDE is D up to the next power of two,
as Triton's tiles must be. Outputs and gradients are laid out as (B, T, H, D), queries, keys and values as they come.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from daybreak.model.flash import LOWEST, empty_output


class Tile(NamedTuple):
    """How a kernel is cut: queries and keys of a tile, warps that share it, and how many tiles are on their way from memory."""

    queries: int
    keys: int
    warps: int
    stages: int


CANDIDATES: dict[tuple[str, int, bool], tuple[Tile, ...]] = {
    ("forward", 64, True): (Tile(128, 64, 4, 3), Tile(128, 128, 8, 2), Tile(64, 64, 4, 3)),
    ("forward", 128, True): (Tile(128, 64, 8, 3), Tile(128, 128, 8, 2), Tile(64, 64, 4, 3)),
    ("dqueries", 64, True): (Tile(128, 64, 8, 2), Tile(128, 32, 4, 3), Tile(64, 64, 4, 3)),
    ("dqueries", 128, True): (Tile(128, 64, 8, 2), Tile(128, 32, 8, 3), Tile(64, 64, 4, 2)),
    ("dkeys", 64, True): (Tile(64, 128, 8, 2), Tile(32, 128, 4, 3), Tile(64, 64, 4, 3)),
    ("dkeys", 128, True): (Tile(32, 128, 8, 3), Tile(64, 128, 8, 2), Tile(64, 64, 4, 2)),
    ("forward", 64, False): (Tile(64, 32, 8, 2),),
    ("forward", 128, False): (Tile(32, 32, 8, 2),),
    ("dqueries", 64, False): (Tile(32, 32, 4, 2),),
    ("dqueries", 128, False): (Tile(32, 32, 4, 2),),
    ("dkeys", 64, False): (Tile(32, 32, 8, 2),),
    ("dkeys", 128, False): (Tile(16, 32, 8, 2),),
}
"""For each kernel, size of heads up to which it serves, and whether numbers take 16 bits: cuts worth a try, the first of which is taken.

It is never chosen while running: two runs from one seed would round differently. `benchmarks/flash.py` measures all."""


LN2 = tl.constexpr(math.log(2.0))
LOG2_E = tl.constexpr(math.log2(math.e))


# --- what a program does -----------------------------------------------------------------------------------------------------


@triton.jit
def _load(start, rows, length, stride, D: tl.constexpr, WIDE: tl.constexpr):
    """(rows, WIDE) of a (length, D) matrix, zero outside."""
    columns = tl.arange(0, WIDE)
    inside = rows[:, None] < length
    if D != WIDE:
        inside = inside & (columns[None, :] < D)
    return tl.load(start + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store(start, tile, rows, length, stride, D: tl.constexpr, WIDE: tl.constexpr):
    columns = tl.arange(0, WIDE)
    inside = rows[:, None] < length
    if D != WIDE:
        inside = inside & (columns[None, :] < D)
    tl.store(start + rows[:, None] * stride + columns[None, :], tile.to(start.dtype.element_ty), mask=inside)


@triton.jit
def _visible(rows, columns, before, band):
    distance = rows + before - columns
    return (distance >= 0) & (distance < band)


@triton.jit
def _keys_seen(start, T, before, band, Q: tl.constexpr, K: tl.constexpr):
    """Where the keys of the queries from `start` on begin, cease to cross the band's edge, begin to cross the diagonal, and end."""
    last = tl.minimum(start + Q, T) + before
    first = tl.maximum(start + before - band + 1, 0) // K * K
    whole = tl.minimum((tl.maximum(start + Q + before - band, 0) + K - 1) // K * K, last)
    diagonal = tl.maximum((start + before + 1) // K * K, whole)
    return first, whole, diagonal, last


@triton.jit
def _queries_seeing(start, T, before, band, Q: tl.constexpr, K: tl.constexpr):
    """Where the queries that see the keys from `start` on begin, leave the diagonal, begin to cross the band's edge, and end."""
    last = tl.maximum(tl.minimum(start + K - 1 + band - before, T), 0)
    first = tl.maximum(start - before, 0) // Q * Q
    whole = tl.minimum((tl.maximum(start + K - 1 - before, 0) + Q - 1) // Q * Q, last)
    edge = tl.maximum(tl.minimum(tl.maximum(start + band - before, 0) // Q * Q, last), whole)
    return first, whole, edge, last


@triton.jit
def _gather(
    largest, total, gathered, q, keys, values, rows, first, last, S, before, band, k_row, v_row, scale,
    D: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr, EDGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Algorithm 1 of FlashAttention-2 from key `first` to `last`: the three running values of flash.forward, in base 2."""
    for start in range(first, last, K):
        columns = start + tl.arange(0, K)
        k = _load(keys, columns, S, k_row, D, WIDE)
        v = _load(values, columns, S, v_row, D, WIDE)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale  # (Q, K)
        if EDGE:
            scores = tl.where(_visible(rows[:, None], columns[None, :], before, band), scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        shrink = tl.exp2(largest - larger)
        weights = tl.exp2(scores - larger[:, None])
        total = shrink * total + tl.sum(weights, 1)
        gathered = tl.dot(weights.to(v.dtype), v, gathered * shrink[:, None], input_precision=PRECISION)
        largest = larger
    return largest, total, gathered


@triton.jit(do_not_specialize=["H", "T", "S", "band"])
def _forward_kernel(
    queries, keys, values, out, logsumexp,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, H, T, S, band, scale,
    D: tl.constexpr, WIDE: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, BOTTOM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(T, Q)
    pair = (tl.program_id(0) // tiles).to(tl.int64)  # all offsets from it take 64 bits
    start = (tiles - 1 - tl.program_id(0) % tiles) * Q  # the longest rows first, so that the last programs are short
    batch, head = pair // H, pair % H
    keys += batch * k_batch + head * k_head
    values += batch * v_batch + head * v_head
    rows, before = start + tl.arange(0, Q), S - T

    q = _load(queries + batch * q_batch + head * q_head, rows, T, q_row, D, WIDE)
    largest = tl.full([Q], BOTTOM, tl.float32)
    total = tl.zeros([Q], tl.float32)
    gathered = tl.zeros([Q, WIDE], tl.float32)
    ends = _keys_seen(start, T, before, band, Q, K)
    for part in tl.static_range(3):
        largest, total, gathered = _gather(
            largest, total, gathered, q, keys, values, rows, ends[part], ends[part + 1], S, before, band, k_row, v_row, scale,
            D, WIDE, K, part != 1, PRECISION,
        )  # fmt: skip
    _store(out + batch * T * H * D + head * D, gathered / total[:, None], rows, T, H * D, D, WIDE)
    tl.store(logsumexp + pair * T + rows, (largest + tl.log2(total)) * LN2, mask=rows < T)


@triton.jit
def _add_dqueries(
    dq, q, dout, lse, delta, keys, values, rows, first, last, S, before, band, k_row, v_row, scale,
    D: tl.constexpr, WIDE: tl.constexpr, K: tl.constexpr, EDGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds dS K of the keys from `first` to `last`."""
    for start in range(first, last, K):
        columns = start + tl.arange(0, K)
        k = _load(keys, columns, S, k_row, D, WIDE)
        v = _load(values, columns, S, v_row, D, WIDE)
        weights = tl.exp2(tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale - lse[:, None])  # (Q, K)
        if EDGE:
            weights = tl.where(_visible(rows[:, None], columns[None, :], before, band), weights, 0.0)
        dscores = weights * (tl.dot(dout, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dq = tl.dot(dscores.to(k.dtype), k, dq, input_precision=PRECISION)
    return dq


@triton.jit(do_not_specialize=["H", "T", "S", "band"])
def _dqueries_kernel(
    upstream, queries, keys, values, out, logsumexp, delta, dqueries,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, H, T, S, band, scale,
    D: tl.constexpr, WIDE: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of queries; and delta = rowsum(dO O), which `_dkeys_kernel` needs too."""
    tiles = tl.cdiv(T, Q)
    pair = (tl.program_id(0) // tiles).to(tl.int64)
    start = (tiles - 1 - tl.program_id(0) % tiles) * Q
    batch, head = pair // H, pair % H
    keys += batch * k_batch + head * k_head
    values += batch * v_batch + head * v_head
    ours = batch * T * H * D + head * D
    rows, before = start + tl.arange(0, Q), S - T

    q = _load(queries + batch * q_batch + head * q_head, rows, T, q_row, D, WIDE)
    dout = _load(upstream + ours, rows, T, H * D, D, WIDE)
    lse = tl.load(logsumexp + pair * T + rows, mask=rows < T, other=0.0) * LOG2_E
    products = dout.to(tl.float32) * _load(out + ours, rows, T, H * D, D, WIDE).to(tl.float32)
    row_delta = tl.sum(products, 1)
    tl.store(delta + pair * T + rows, row_delta, mask=rows < T)
    dq = tl.zeros([Q, WIDE], tl.float32)
    ends = _keys_seen(start, T, before, band, Q, K)
    for part in tl.static_range(3):
        dq = _add_dqueries(
            dq, q, dout, lse, row_delta, keys, values, rows, ends[part], ends[part + 1], S, before, band, k_row, v_row, scale,
            D, WIDE, K, part != 1, PRECISION,
        )  # fmt: skip
    _store(dqueries + ours, dq * (scale * LN2), rows, T, H * D, D, WIDE)


@triton.jit
def _add_dkeys(
    dk, dv, k, v, queries, upstream, logsumexp, delta, columns, first, last, T, before, band, q_row, o_row, scale,
    D: tl.constexpr, WIDE: tl.constexpr, Q: tl.constexpr, EDGE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds dSᵀ Q and Pᵀ dO of the queries from `first` to `last`. All tiles are transposed, with a row for each key."""
    for start in range(first, last, Q):
        rows = start + tl.arange(0, Q)
        q = _load(queries, rows, T, q_row, D, WIDE)
        dout = _load(upstream, rows, T, o_row, D, WIDE)
        # A query beyond the last weighs exp(-infinity) = 0.
        lse = tl.load(logsumexp + rows, mask=rows < T, other=float("inf")) * LOG2_E
        row_delta = tl.load(delta + rows, mask=rows < T, other=0.0)
        weights = tl.exp2(tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale - lse[None, :])  # (K, Q)
        if EDGE:
            weights = tl.where(_visible(rows[None, :], columns[:, None], before, band), weights, 0.0)
        dv = tl.dot(weights.to(dout.dtype), dout, dv, input_precision=PRECISION)
        dscores = weights * (tl.dot(v, tl.trans(dout), input_precision=PRECISION) - row_delta[None, :])
        dk = tl.dot(dscores.to(q.dtype), q, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit(do_not_specialize=["H", "T", "S", "band"])
def _dkeys_kernel(
    upstream, queries, keys, values, logsumexp, delta, dkeys, dvalues,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, H, T, S, band, scale,
    D: tl.constexpr, WIDE: tl.constexpr, Q: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(S, K)
    pair = (tl.program_id(0) // tiles).to(tl.int64)
    start = tl.program_id(0) % tiles * K  # the first keys are seen by most
    batch, head = pair // H, pair % H
    queries += batch * q_batch + head * q_head
    upstream += batch * T * H * D + head * D
    logsumexp += pair * T
    delta += pair * T
    columns, before = start + tl.arange(0, K), S - T

    k = _load(keys + batch * k_batch + head * k_head, columns, S, k_row, D, WIDE)
    v = _load(values + batch * v_batch + head * v_head, columns, S, v_row, D, WIDE)
    dk = tl.zeros([K, WIDE], tl.float32)
    dv = tl.zeros([K, WIDE], tl.float32)
    ends = _queries_seeing(start, T, before, band, Q, K)
    for part in tl.static_range(3):
        dk, dv = _add_dkeys(
            dk, dv, k, v, queries, upstream, logsumexp, delta, columns, ends[part], ends[part + 1], T, before, band, q_row, H * D, scale,
            D, WIDE, Q, part != 1, PRECISION,
        )  # fmt: skip
    ours = batch * S * H * D + head * D
    _store(dkeys + ours, dk * (scale * LN2), columns, S, H * D, D, WIDE)
    _store(dvalues + ours, dv, columns, S, H * D, D, WIDE)


# --- launching ---------------------------------------------------------------------------------------------------------------


def forward(queries: Tensor, keys: Tensor, values: Tensor, band: int) -> tuple[Tensor, Tensor]:
    """As flash.forward, on one device."""
    queries, keys, values = (_unit_stride(each) for each in (queries, keys, values))
    out, logsumexp = empty_output(queries)
    tile = _tile("forward", queries)
    arguments = (queries, keys, values, out, logsumexp, *_numbers(queries, keys, values, band))
    with torch.cuda.device_of(queries):
        _forward_kernel[_programs(queries, tile.queries)](*arguments, BOTTOM=LOWEST, **_constants(queries, tile))
    return out, logsumexp


def backward(
    upstream: Tensor, queries: Tensor, keys: Tensor, values: Tensor, out: Tensor, logsumexp: Tensor, band: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As flash.backward, on one device."""
    queries, keys, values = (_unit_stride(each) for each in (queries, keys, values))
    upstream, out = (each.transpose(1, 2).contiguous() for each in (upstream, out))  # (B, T, H, D), as they most often are
    (dqueries, _), (dkeys, _), (dvalues, _) = (empty_output(each) for each in (queries, keys, values))
    delta = torch.empty_like(logsumexp)
    numbers = _numbers(queries, keys, values, band)
    by_query, by_key = _tile("dqueries", queries), _tile("dkeys", queries)
    with torch.cuda.device_of(queries):
        _dqueries_kernel[_programs(queries, by_query.queries)](
            upstream, queries, keys, values, out, logsumexp, delta, dqueries, *numbers, **_constants(queries, by_query)
        )
        _dkeys_kernel[_programs(keys, by_key.keys)](
            upstream, queries, keys, values, logsumexp, delta, dkeys, dvalues, *numbers, **_constants(queries, by_key)
        )
    return dqueries, dkeys, dvalues


def _unit_stride(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(3) == 1 else tensor.contiguous()


def _tile(kernel: str, queries: Tensor) -> Tile:
    """The first candidate, and no more queries than there are: the few of a decoded token would fill a corner of it."""
    T, D = queries.shape[2:]
    tile = CANDIDATES[kernel, 64 if D <= 64 else 128, queries.dtype != torch.float32][0]
    return tile._replace(queries=min(tile.queries, max(16, triton.next_power_of_2(T))))


def _programs(along: Tensor, length: int) -> tuple[int]:
    """One for each head of each sequence and `length` rows."""
    B, H, rows, _ = along.shape
    return (B * H * triton.cdiv(rows, length),)


def _numbers(queries: Tensor, keys: Tensor, values: Tensor, band: int) -> tuple[int | float, ...]:
    """What all kernels are told: strides, lengths and the scale of the scores, times log2(e) as the exponents are of base 2."""
    (_, H, T, D), S = queries.shape, keys.shape[2]
    strides = [stride for each in (queries, keys, values) for stride in each.stride()[:3]]
    return (*strides, H, T, S, band, math.log2(math.e) / math.sqrt(D))


def _constants(queries: Tensor, tile: Tile) -> dict[str, int | str]:
    """What kernels are compiled for. fp32 products are as exact as torch's own are told to be."""
    D = queries.shape[3]
    precision = "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
    return {
        "D": D,
        "WIDE": max(16, triton.next_power_of_2(D)),
        "Q": tile.queries,
        "K": tile.keys,
        "PRECISION": precision,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
