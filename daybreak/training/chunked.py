"""Cross-entropy over a large vocabulary, some tokens at a time: logits in fp32 exist for one chunk, never for a whole batch.

The gradient of a token's loss by its logits is softmax - one-hot. It takes as much room as the logits, so it is written over them as soon
as the loss is known. What later multiplies the loss multiplies a row of it, and a row's factor may as well be applied to the C channels
of the hidden state as to the V logits: so any weights are exact.

In 16 bits that gradient is kept for the backward pass, 2 bytes for each logit where the plain way holds 12 at once. In fp32 nothing of the
size of all logits is kept; each chunk's are computed again, a fourth matrix product in place of three.

B batch, T tokens, N = B T, C d_model, V padded vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from daybreak.data.batches import Batch
from daybreak.model.config import GPTConfig
from daybreak.model.gpt import softcapped
from daybreak.training.objectives import Objective

CHUNK = 1024
"""Tokens whose logits are in fp32 at once."""
_ROWS = 8192
"""Of the weight's gradient, computed at once."""
_CACHED = 32
"""Of these on a CPU, where what stays in its cache is quickest: measured by benchmarks/loss.py."""


def chunked_cross_entropy(chunk: int = CHUNK, *, compiled: bool = False) -> Objective:
    """`objectives.cross_entropy` of a GPT, `chunk` tokens at a time; `compiled` fuses what is done to a chunk's logits into few kernels."""
    if chunk < 1:
        raise ValueError(f"chunk: wanted at least 1 token, came {chunk}")

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        def losses(x: Tensor) -> Tensor:
            """(B, T, C) -> (B, T), in place of `unembed`."""
            hidden: Tensor = model.norm(x)  # type: ignore[operator]
            weight: Tensor = model.head_weight  # type: ignore[assignment]
            config: GPTConfig = model.config  # type: ignore[assignment]
            targets = batch.targets.flatten()
            return linear_cross_entropy(
                hidden.flatten(0, 1), weight, targets, config.tokens, chunk, compiled, config.logit_softcap
            ).view_as(batch.targets)

        # Within forward, as a model that is divided among processes has its weights together only there.
        out: Tensor = model(batch.inputs, unembed=losses)
        return out

    return objective


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    tokens: int,
    chunk: int = CHUNK,
    compiled: bool = False,
    softcap: float | None = None,
) -> Tensor:
    """(N, C) hidden, (V, C) weight, (N,) targets -> (N,): `F.cross_entropy((hidden @ weight.T)[:, :tokens], targets, reduction="none")`.

    With a `softcap`, of softcap tanh(logits / softcap) in place of the logits.

    Products are computed in autocast's format where it is on, the rest in fp32, as the plain way does.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    keep = torch.is_grad_enabled() and dtype.itemsize < 4
    losses: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, tokens, chunk, dtype, keep, compiled, softcap)  # type: ignore[no-untyped-call]
    return losses


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        tokens: int,
        chunk: int,
        dtype: torch.dtype,
        keep: bool,
        compiled: bool,
        softcap: float | None,
    ) -> Tensor:
        low, matrix = hidden.to(dtype), weight.to(dtype)
        whole = low @ matrix.T if keep else None  # (N, V)
        turn = functools.partial(_piecewise, _compiled() if compiled else losses_from_logits)
        losses = []
        for rows in _chunks(len(low), chunk):
            logits = low[rows] @ matrix.T if whole is None else whole[rows]
            losses.append(turn(logits, targets[rows], tokens, softcap))
        ctx.save_for_backward(low, matrix, targets, *([] if whole is None else [whole]))
        ctx.chunk, ctx.tokens, ctx.softcap, ctx.turn, ctx.formats = chunk, tokens, softcap, turn, (hidden.dtype, weight.dtype)
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        low, matrix, targets, *kept = ctx.saved_tensors
        of_hidden, of_weight = ctx.formats
        scaled = (low * upstream[:, None]).to(low.dtype)  # (N, C)
        if kept:
            by_hidden = (kept[0] @ matrix).to(of_hidden) * upstream[:, None]
            by_weight = torch.empty_like(matrix, dtype=of_weight)
            for columns in _chunks(len(matrix), _ROWS):  # where memory is fullest, so not all in 16 bits beside all of it in fp32
                by_weight[columns] = kept[0][:, columns].T @ scaled
        else:
            by_hidden, by_weight = torch.empty_like(low), torch.zeros_like(matrix)
            for rows in _chunks(len(low), ctx.chunk):
                gradient = low[rows] @ matrix.T
                ctx.turn(gradient, targets[rows], ctx.tokens, ctx.softcap)
                torch.mm(gradient, matrix, out=by_hidden[rows])
                by_weight.addmm_(gradient.T, scaled[rows])
            by_hidden.mul_(upstream[:, None])
        return by_hidden.to(of_hidden), by_weight.to(of_weight), None, None, None, None, None, None, None


def losses_from_logits(logits: Tensor, targets: Tensor, tokens: int, softcap: float | None = None) -> Tensor:
    """(n, V) logits and (n,) targets -> (n,) losses in fp32; the logits become the losses' gradient, 0 for what pads the vocabulary."""
    inside, targets = logits[:, :tokens], targets[:, None]
    wide = torch.promote_types(logits.dtype, torch.float32)
    capped = inside if softcap is None else softcapped(inside, softcap)
    log_p = F.log_softmax(capped, -1, dtype=wide)
    losses = -log_p.gather(1, targets)
    gradient = log_p.exp_().scatter_(1, targets, torch.expm1(-losses))  # p - 1, not rounded to 16 bits before the 1 is taken away
    if softcap is not None:
        gradient.mul_(1 - (capped / softcap).square_())  # tanh' = 1 - tanh²
    inside.copy_(gradient)
    logits[:, tokens:] = 0
    return losses.squeeze(1)


def _piecewise(turn: Callable[..., Tensor], logits: Tensor, targets: Tensor, tokens: int, softcap: float | None) -> Tensor:
    if logits.device.type != "cpu":
        return turn(logits, targets, tokens, softcap)
    return torch.cat([turn(logits[rows], targets[rows], tokens, softcap) for rows in _chunks(len(logits), _CACHED)])


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(losses_from_logits, dynamic=False)


def _chunks(length: int, chunk: int) -> Iterator[slice]:
    return (slice(start, start + chunk) for start in range(0, length, chunk))
