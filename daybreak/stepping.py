"""The steps of a run: the loop with the learning rates, the loss and the number format that its settings name.

`story.py` tells them with all that comes between; `trial.py` times them on made-up text.
"""

from __future__ import annotations

from collections.abc import Iterator

from daybreak.learning import learning_rates
from daybreak.running import Running
from daybreak.settings import Settings, loss_chunk
from daybreak.training.chunked import chunked_cross_entropy
from daybreak.training.loop import Probe, Step, train
from daybreak.training.objectives import Objective, cross_entropy, with_z_loss


def steps(running: Running, count: int, probe: Probe | None = None) -> Iterator[Step]:
    """Takes the steps that are left of `count`, and yields each once it is taken."""
    settings = running.settings
    return train(
        running.gpt,
        running.optimizer,
        running.ahead,
        learning_rates(settings, running.clock),
        steps=count,
        start=running.done,
        max_norm=settings.train.grad_clip,
        precision=running.precision,
        guard=running.guard,
        across=running.across,
        objective=objective(settings, running.number_format),
        probe=probe,
    )


def objective(settings: Settings, precision: str) -> Objective:
    """What the model is trained for, computed in a number format."""
    if settings.train.z_loss:
        return with_z_loss(settings.train.z_loss)
    chunk = loss_chunk(settings, precision)
    return cross_entropy if chunk is None else chunked_cross_entropy(chunk, compiled=settings.machine.compile)
