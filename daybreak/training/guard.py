"""Keeps a broken step out of the weights: a loss or gradient that is not finite is passed over, and too many in a row end the run."""

from __future__ import annotations

import torch
from torch import Tensor


class TrainingFailed(RuntimeError):
    """The run cannot go on; the message says why and what helps."""


class Guard:
    """Decides for each step whether its gradient may be used. `skipped_in_a_row` is part of the run's state."""

    def __init__(self, patience: int = 20, skipped_in_a_row: int = 0) -> None:
        self.patience = patience
        self.skipped_in_a_row = skipped_in_a_row

    def accepts(self, loss: Tensor, grad_norm: Tensor) -> bool:
        """Whether loss and gradient norm are finite. Raises TrainingFailed after `patience` refusals in a row."""
        finite = bool(torch.isfinite(loss) & torch.isfinite(grad_norm))
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= self.patience:
            raise TrainingFailed(
                f"the loss or the gradient was not finite for {self.patience} steps in a row; begin a new run with a lower "
                "train.learning_rate, or go on from the last checkpoint with machine.precision=fp32"
            )
        return finite
