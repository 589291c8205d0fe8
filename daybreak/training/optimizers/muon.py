"""Muon: momentum whose update is made orthogonal, for the matrices inside the blocks (Jordan et al. 2024).

A gradient's update is mostly a few strong directions. Muon keeps the directions and makes all of them equally strong: U S V^T becomes
U V^T, by matrix products alone. https://kellerjordan.github.io/posts/muon. NorMuon then evens out the rows, which are the neurons
(Li et al. 2025, "NorMuon: Making Muon more efficient and scalable", arXiv 2510.05491).

N matrices, R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from daybreak.training.optimizers.guarded import StepsIf
from daybreak.training.optimizers.sharing import Columns, Everything, Sharing

QUINTIC = (3.4445, -4.7750, 2.0315)
"""a, b, c of Jordan's polynomial a s + b s³ + c s⁵. Five times over it brings every singular value s from 0.003 to 1 near 1: between 0.68
and 1.13, for it gives up arriving at 1 in order to lift the small ones fast."""
ITERATIONS = 5
FIRST_MOMENTUM = 0.85
"""Where a momentum that is warmed up begins: early gradients change fast, and what is remembered of them is soon wrong."""
_AT_ONCE = 1 << 26
"""How many entries are made orthogonal at once, lest their copies fill the device's memory."""


def orthogonalize(matrices: Tensor) -> Tensor:
    """(N, R, C) -> (N, R, C): about U V^T of each U S V^T, in the matrices' dtype; bf16 is exact enough (Newton and Schulz's iteration).

    X X^T has the directions of X, so a X + (b X X^T + c (X X^T)²) X turns every singular value s into a s + b s³ + c s⁵.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    X = matrices.mT if tall else matrices  # the smaller square is cheaper
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # no singular value is above 1 then
    for _ in range(ITERATIONS):
        A = X @ X.mT
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)
        X = torch.baddbmm(X, B, X, beta=a)
    return X.mT if tall else X


def newton_schulz_flops(R: int, C: int) -> int:
    """Operations to make one (R, C) matrix orthogonal: in each iteration two products of the small square with the matrix, one of it with
    itself. They do not depend on the batch, so their share of a step falls as it grows."""
    small, large = min(R, C), max(R, C)
    return ITERATIONS * (4 * small**2 * large + 2 * small**3)


class Muon(StepsIf):
    """Every parameter is a matrix, or several stacked by rows: a group's `rows` says how many each has, () for one matrix.

    m = mu m + (1 - mu) g          O = orthogonalize((1 - mu) g + mu m)          (Nesterov's momentum)
    w = w - lr weight_decay w - lr sqrt(max(1, R / C)) O

    The factor keeps the size of what a matrix adds to its output the same for every shape, so that one learning rate serves all, and
    other widths too. With `beta2` it is NorMuon: each row of O is divided by the root of the running average of its mean square, and O is
    scaled back to the length that it had.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        *,
        momentum_warmup: int = 0,
        beta2: float | None = None,
        dtype: torch.dtype | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        """`momentum_warmup`: over how many steps it rises to `momentum`. `dtype`: what is multiplied in; None keeps the weights'."""
        self.dtype, self.beta2, self.sharing = dtype, beta2, sharing or Everything()
        # `capturable` is torch's word for a step count that stays on the device.
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "momentum_warmup": momentum_warmup}
        super().__init__(params, {**defaults, "rows": (), "capturable": True})

    @torch.no_grad()
    def step_if(self, accepted: Tensor | None) -> None:
        """One update of every parameter that has a gradient, if accepted."""
        work = [(weight, group) for group in self.param_groups for weight in group["params"] if weight.grad is not None]
        if not work:
            return
        held = [self._remember(weight, group, accepted) for weight, group in work]
        groups = [group for _, group in work]
        made = self.sharing(held, [len(weight) for weight, _ in work], lambda mine, whole: self._made([groups[n] for n in mine], whole))
        for (weight, group), (update, *seconds) in zip(work, made, strict=True):
            state = self.state[weight]
            for second in seconds:
                kept = _local(state["second_moment"])
                kept.copy_(second if accepted is None else torch.where(accepted, second, kept))
            decay, update = 1 - group["lr"] * group["weight_decay"], update.to(weight.dtype)
            if accepted is not None:  # selected, never multiplied: 0 times NaN is NaN
                decay, update = torch.where(accepted, decay, 1.0), torch.where(accepted, update, 0.0)
            _local(weight).mul_(decay).add_(update, alpha=-group["lr"])

    def flops(self) -> int:
        """Operations of its iterations in one step, by all processes together."""
        shapes = [(R, p.shape[1]) for group in self.param_groups for p in group["params"] for R in _rows(group, p)]
        return sum(newton_schulz_flops(R, C) for R, C in shapes)

    def _remember(self, weight: Tensor, group: dict[str, Any], accepted: Tensor | None) -> Columns:
        """Adds the gradient to the momentum, unless refused, and returns what is to be made orthogonal."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), device=weight.device)
            state["momentum_buffer"] = torch.zeros_like(weight)
            if self.beta2 is not None:
                state["second_moment"] = torch.zeros_like(weight[:, :1])  # divided as the weight is
        step, remembered, gradient = state["step"], _local(state["momentum_buffer"]), _local(weight.grad)
        if accepted is not None:
            gradient = torch.where(accepted, gradient, remembered)  # which adds nothing
        step += 1.0 if accepted is None else accepted
        momentum = group["momentum"]
        if group["momentum_warmup"]:
            momentum = FIRST_MOMENTUM + (momentum - FIRST_MOMENTUM) * (step / group["momentum_warmup"]).clamp_max(1.0)
        remembered.lerp_(gradient, 1 - momentum)
        update = gradient.lerp(remembered, momentum).to(self.dtype or weight.dtype)
        return (update,) if self.beta2 is None else (update, _local(state["second_moment"]).clone())

    def _made(self, groups: list[dict[str, Any]], whole: list[Columns]) -> list[Columns]:
        """Updates made orthogonal and sized by their shapes; equal shapes are computed at once."""
        matrices = [
            piece for group, columns in zip(groups, whole, strict=True) for piece in torch.split(columns[0], _rows(group, columns[0]))
        ]
        made: list[Tensor] = list(matrices)
        for numbers in _alike(matrices):
            stacked = orthogonalize(torch.stack([matrices[number] for number in numbers]))
            R, C = stacked.shape[1:]
            for number, matrix in zip(numbers, stacked, strict=True):
                made[number] = matrix * max(1.0, R / C) ** 0.5
        pieces, results = iter(made), []
        for group, (update, *seconds) in zip(groups, whole, strict=True):
            rows = _rows(group, update)
            parts = [next(pieces) for _ in rows]
            for second in seconds:
                assert self.beta2 is not None
                parts = [even_out(part, kept, self.beta2) for part, kept in zip(parts, torch.split(second, rows), strict=True)]
            results.append((torch.cat(parts), *seconds))
        return results


def even_out(matrix: Tensor, second_moment: Tensor, beta2: float) -> Tensor:
    """(R, C), and (R, 1), which is updated in place -> (R, C) whose rows are usually about equally long, as long in all as before."""
    square = matrix.float().square().mean(dim=1, keepdim=True)
    second_moment.lerp_(square.to(second_moment.dtype), 1 - beta2)
    evened = matrix * second_moment.clamp_min(1e-10).rsqrt()
    longer: Tensor = matrix.norm() / evened.norm().clamp_min(1e-10)
    return (evened * longer).to(matrix.dtype)


def _rows(group: dict[str, Any], matrix: Tensor) -> list[int]:
    return list(group["rows"]) or [len(matrix)]


def _alike(matrices: list[Tensor]) -> list[list[int]]:
    """The numbers of those of one shape, in lists of which each is not too much at once."""
    found: dict[torch.Size, list[list[int]]] = {}
    for number, matrix in enumerate(matrices):
        lists = found.setdefault(matrix.shape, [[]])
        if (len(lists[-1]) + 1) * matrix.numel() > _AT_ONCE and lists[-1]:
            lists.append([])
        lists[-1].append(number)
    return [numbers for lists in found.values() for numbers in lists]


def _local(tensor: Tensor | None) -> Tensor:
    """The part of it that this process holds, not a copy."""
    assert tensor is not None
    if type(tensor) in (Tensor, torch.nn.Parameter):
        return tensor
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
