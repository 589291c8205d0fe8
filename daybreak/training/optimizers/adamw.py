"""AdamW, written out (Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2).

The run's default is torch's fused kernel, which does the same in one pass over memory; this one is to be read, and to check it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from daybreak.training.optimizers.written_out import WrittenOut


class AdamW(WrittenOut):
    """m and v are running averages of the gradient and of its square; the step is m / sqrt(v), corrected for their start at 0.

    m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g²
    w = w - lr weight_decay w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @staticmethod
    def update(weight: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step of one weight."""
        lr, (beta1, beta2) = group["lr"], group["betas"]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(weight)  # torch's names, so that the two optimizers can load each other's state
            state["exp_avg_sq"] = torch.zeros_like(weight)
        state["step"] += 1
        t, m, v = state["step"].item(), state["exp_avg"], state["exp_avg_sq"]
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        weight.mul_(1 - lr * group["weight_decay"])
        denominator = (v / (1 - beta2**t)).sqrt_().add_(group["eps"])
        weight.addcdiv_(m, denominator, value=-lr / (1 - beta1**t))
