"""Lion, written out (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2, arXiv 2302.06675)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from daybreak.training.optimizers.guarded import StepsIf


class Lion(StepsIf):
    """Only the sign of an average of the gradient counts, so every weight moves equally far; half of AdamW's state.

    w = w - lr weight_decay w - lr sign(beta1 m + (1 - beta1) g)          m = beta2 m + (1 - beta2) g

    The paper's learning rate is a third to a tenth of AdamW's, and its weight decay as many times larger.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step_if(self, accepted: Tensor | None) -> None:
        """One update of every parameter that has a gradient, if accepted."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, self.state[weight], group, accepted)

    @staticmethod
    def _update(weight: Tensor, state: dict[str, Any], group: dict[str, Any], accepted: Tensor | None) -> None:
        assert weight.grad is not None
        (beta1, beta2), lr, g = group["betas"], group["lr"], weight.grad
        if not state:
            state["exp_avg"] = torch.zeros_like(weight)
        m = state["exp_avg"]
        new = weight * (1 - lr * group["weight_decay"]) - lr * torch.lerp(g, m, beta1).sign()
        weight.copy_(new if accepted is None else torch.where(accepted, new, weight))
        m.lerp_(g if accepted is None else torch.where(accepted, g, m), 1 - beta2)
