"""How a run learns: its optimizer, and the learning rate of each step, from its settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from daybreak.data.steps import Steps
from daybreak.model.gpt import GPT
from daybreak.settings import Settings
from daybreak.training.clock import Clock
from daybreak.training.optimizers import Role, make_optimizer
from daybreak.training.parallel import Across
from daybreak.training.schedules import Schedule, one_minus_sqrt, warmup_cosine, warmup_linear, warmup_stable_decay, within


def optimizer_for(settings: Settings, model: GPT, precision: str, across: Across) -> torch.optim.Optimizer:
    """The optimizer of a model that is in its place, though perhaps without weights yet."""
    plan = settings.train
    scales: dict[Role, float] = {"embedding": plan.embedding_scale, "head": plan.head_scale, "vector": plan.vector_scale}
    if plan.optimizer in ("muon", "normuon"):
        scales["matrix"] = plan.muon_learning_rate / plan.learning_rate
    return make_optimizer(
        plan.optimizer,
        model,
        weight_decay=plan.weight_decay,
        betas=(plan.beta1, plan.beta2),
        epsilon=plan.epsilon,
        momentum=plan.momentum,
        momentum_warmup=plan.momentum_warmup,
        scales=scales,
        relative_width=model.config.relative_width,
        dtype=torch.bfloat16 if precision == "bf16" else None,
        copies=1 if across.divided else across.size,
    )


SCHEDULES: dict[str, Callable[[float, float, int, int, float], Schedule]] = {
    "cosine": lambda peak, floor, warmup, end, share: warmup_cosine(peak, floor, warmup, end),
    "linear": lambda peak, floor, warmup, end, share: warmup_linear(peak, floor, warmup, end),
    "wsd": warmup_stable_decay,
    "wsd-sqrt": partial(warmup_stable_decay, shape=one_minus_sqrt),
}
"""By name, as functions of (peak, floor, warmup_tokens, decay_tokens, decay_share)."""


def learning_rates(settings: Settings, clock: Clock | None = None) -> Schedule:
    """The learning rate of each step: a function of the tokens trained on, laid out for all of `train_tokens`, wherever the run stops.

    With a budget of time it is one of that, too, and so not the same when the run is repeated.
    """
    plan = settings.train
    steps = Steps(plan.batch_tokens, plan.batch_start_tokens, plan.batch_ramp_tokens)
    floor = plan.learning_rate * plan.final_learning_rate
    end = plan.decay_tokens or steps.before(steps.count(plan.train_tokens))
    schedule = SCHEDULES[plan.schedule](plan.learning_rate, floor, plan.warmup_tokens, end, plan.decay_share)
    return schedule if clock is None or plan.budget_seconds is None else within(schedule, end, clock.share)


LAYOUT = ("train.schedule", "train.decay_share", "train.decay_tokens", "train.final_learning_rate", "train.train_tokens")
"""What lays the schedule out, and may be laid out anew while that changes no step that has been taken."""


def same_so_far(settings: Settings, begun: Settings, done: int) -> bool:
    """Whether the first `done` steps of a run with these settings have the learning rates that they had as it was begun."""
    plan = begun.train
    if plan.budget_seconds is not None:
        return False
    steps = Steps(plan.batch_tokens, plan.batch_start_tokens, plan.batch_ramp_tokens)
    now, then = learning_rates(settings), learning_rates(begun)
    return all(now(tokens) == then(tokens) for tokens in map(steps.before, range(1, done + 1)))
