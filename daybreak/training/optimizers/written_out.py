"""What the optimizers that are written out to be read have in common: a step is the same few lines for every parameter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class WrittenOut(torch.optim.Optimizer, ABC):
    """An optimizer that is told by what it does to one parameter."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.update(weight, weight.grad, self.state[weight], group)
        return loss

    @staticmethod
    @abstractmethod
    def update(weight: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Moves a weight in place by its gradient g; `state` is what it remembers, empty at first, `group` its settings."""
