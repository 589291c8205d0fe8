"""What a model is trained for: `(model, batch) -> loss per token (B, T)`, never averaged.

The loop sums the tokens' losses and divides by the step's token weight, so any split into micro-batches and devices gives the same
gradient. Another objective is another function of this form.

B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from daybreak.data.batches import Batch

Objective = Callable[[nn.Module, Batch], Tensor]
"""(model, batch) -> (B, T) loss of each token in nats."""


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """-log p(next token), in fp32: the objective of GPT-2 and GPT-3."""
    logits = model(batch.inputs)  # (B, T, V)
    losses = F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten(), reduction="none")
    return losses.view_as(batch.targets)
