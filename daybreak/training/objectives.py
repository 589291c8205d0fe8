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


def with_z_loss(weight: float) -> Objective:
    """Cross-entropy plus `weight` log² Z, where Z normalises the softmax: keeps logits from drifting to where bf16 has no digits left.

    PaLM, section 5: 1e-4. The loss that a step tells contains it.
    """

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = model(batch.inputs).float()  # (B, T, V)
        log_z: Tensor = logits.logsumexp(-1)  # (B, T)
        return log_z - logits.gather(-1, batch.targets[..., None]).squeeze(-1) + weight * log_z.square()

    return objective
