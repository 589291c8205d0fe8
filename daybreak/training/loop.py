"""The training loop: a generator of steps.

Whoever wants to log, evaluate, save, sample or stop does it between two steps, in a for-loop of his own:

    for step in train(model, optimizer, batches, schedule, steps=1000):
        print(step.number, float(step.loss))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from daybreak.data.batches import Batch
from daybreak.training.guard import Guard, Verdict
from daybreak.training.objectives import Objective, cross_entropy
from daybreak.training.parallel import Across, Alone
from daybreak.training.precision import MixedPrecision
from daybreak.training.schedules import Schedule

Probe = Callable[[nn.Module], None]
"""Called with the model after each micro-batch's backward pass, to look at the gradients gathered so far."""


@dataclass(frozen=True)
class Step:
    """One step that has been taken, or refused by the guard."""

    number: int
    loss: Tensor
    """() mean loss of the step's tokens in nats, before its update; on the device."""
    grad_norm: Tensor
    """() length of the whole gradient before clipping; on the device."""
    learning_rate: float
    tokens: int
    """Tokens trained on since the run began, with this step's."""
    verdict: Verdict
    """Whether the guard let the step change the weights; on the device, too."""


class StepBatches(Protocol):
    """Micro-batches by step: `data.batches.Batches`, or anything that answers like it."""

    def __getitem__(self, step: int) -> Sequence[Batch]: ...

    def tokens_after(self, step: int) -> int:
        """Tokens trained on when `step` is done."""
        ...


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: StepBatches,
    schedule: Schedule,
    *,
    steps: int,
    start: int = 0,
    max_norm: float = 1.0,
    objective: Objective = cross_entropy,
    precision: MixedPrecision | None = None,
    guard: Guard | None = None,
    probe: Probe | None = None,
    across: Across | None = None,
) -> Iterator[Step]:
    """Takes the steps `start` to `steps` - 1 and yields each once its update is done."""
    precision = precision or MixedPrecision("fp32", torch.device("cpu"))
    guard = guard or Guard(precision.device)
    across = across or Alone()
    for step in range(start, steps):
        model.train()  # whoever evaluated between two steps may have left it otherwise
        tokens = batches.tokens_after(step)
        learning_rate = schedule(tokens)
        for group in optimizer.param_groups:
            group["lr"] = group.get("lr_scale", 1.0) * learning_rate
        loss = accumulate(model, batches[step], objective, precision, probe, across)
        precision.unscale(optimizer)
        grad_norm = across.whole(clip_grad_norm(model, max_norm))
        verdict = guard.judge(step, loss, grad_norm)
        precision.step(optimizer, verdict)
        optimizer.zero_grad(set_to_none=True)
        yield Step(step, loss, grad_norm, learning_rate, tokens, verdict)


def accumulate(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    objective: Objective,
    precision: MixedPrecision,
    probe: Probe | None = None,
    across: Across | None = None,
) -> Tensor:
    """Adds the gradient of the step's mean loss to the parameters, one micro-batch after another, and returns that loss ().

    Each micro-batch contributes (sum of its tokens' losses) / (token weight of the whole step on all devices), so the result does not
    depend on how the step is divided.
    """
    across = across or Alone()
    total_weight = _total_weight(micro_batches, across)
    step_loss = torch.zeros((), device=micro_batches[0].inputs.device)
    for number, batch in enumerate(micro_batches, 1):
        across.micro_batch(model, last=number == len(micro_batches))
        with precision.autocast():
            losses = objective(model, batch)  # (B, T)
        loss = (losses if batch.weights is None else losses * batch.weights).sum() / total_weight
        precision.backward(loss)
        step_loss += loss.detach()
        if probe is not None:
            probe(model)
    across.gradients(model)
    return across.total(step_loss)


def clip_grad_norm(model: nn.Module, max_norm: float) -> Tensor:
    """Scales the gradients so that their common length is at most `max_norm` (0: never); returns the length before ()."""
    return torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm if max_norm > 0 else float("inf"))


def _total_weight(micro_batches: Sequence[Batch], across: Across) -> float | Tensor:
    """The weight of a step's tokens in all processes, which have equally many."""
    if all(batch.weights is None for batch in micro_batches):
        return across.size * sum(batch.targets.numel() for batch in micro_batches)
    here = torch.stack(
        [torch.tensor(float(b.targets.numel())).to(b.inputs.device) if b.weights is None else b.weights.sum() for b in micro_batches]
    )
    return across.total(here.sum())
