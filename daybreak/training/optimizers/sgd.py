"""Stochastic gradient descent, with momentum, plain or as Nesterov has it (Sutskever et al. 2013), written out.

torch's fused kernel is the run's default; this one is to be read, and to check it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from daybreak.training.optimizers.written_out import WrittenOut


class SGD(WrittenOut):
    """m remembers the gradients, the latest most; the step goes along it, or with Nesterov to where it will point a step later.

    g = g + weight_decay w          m = mu m + g
    w = w - lr m, or with Nesterov w - lr (g + mu m)

    The learning rate is outside m, as in torch: in Sutskever's form a change of it would reach the steps only slowly.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})

    @staticmethod
    def update(weight: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """One step of one weight."""
        lr, mu = group["lr"], group["momentum"]
        g = g.add(weight, alpha=group["weight_decay"])
        if mu:
            if not state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            m = state["momentum_buffer"].mul_(mu).add_(g)
            g = g.add(m, alpha=mu) if group["nesterov"] else m
        weight.add_(g, alpha=-lr)
