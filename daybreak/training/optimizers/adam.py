"""Adam, written out (Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015, algorithm 1).

torch's fused kernel is the run's default; this one is to be read, and to check it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from daybreak.training.optimizers.written_out import WrittenOut


class Adam(WrittenOut):
    """RMSprop with momentum, both corrected for their start at 0. Weight decay is part of the gradient, and so divided by its size, too:
    what AdamW mends.

    g = g + weight_decay w          m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g²
    w = w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @staticmethod
    def update(weight: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step of one weight."""
        beta1, beta2 = group["betas"]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        state["step"] += 1
        t, m, v = state["step"].item(), state["exp_avg"], state["exp_avg_sq"]
        g = g.add(weight, alpha=group["weight_decay"])
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        denominator = (v / (1 - beta2**t)).sqrt_().add_(group["eps"])
        weight.addcdiv_(m, denominator, value=-group["lr"] / (1 - beta1**t))
