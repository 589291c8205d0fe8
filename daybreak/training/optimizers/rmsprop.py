"""RMSprop, written out (Hinton, "Neural Networks for Machine Learning", 2012, lecture 6e).

torch's own is the run's default; this one is to be read, and to check it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from daybreak.training.optimizers.written_out import WrittenOut


class RMSprop(WrittenOut):
    """The gradient divided by the root of its running mean square, so that every weight moves at about the same pace.

    g = g + weight_decay w          v = alpha v + (1 - alpha) g²
    w = w - lr g / (sqrt(v) + eps)
    """

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay})

    @staticmethod
    def update(weight: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step of one weight."""
        if not state:
            state["step"] = torch.tensor(0.0)  # which torch's counts, too, and does not need
            state["square_avg"] = torch.zeros_like(weight)
        state["step"] += 1
        g, v = g.add(weight, alpha=group["weight_decay"]), state["square_avg"]
        v.mul_(group["alpha"]).addcmul_(g, g, value=1 - group["alpha"])
        weight.addcdiv_(g, v.sqrt().add_(group["eps"]), value=-group["lr"])
