"""How a run learns: its optimizer, and the learning rate of each step, from its settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from daybreak.data.steps import Steps
from daybreak.model.gpt import GPT
from daybreak.settings import Settings
from daybreak.training.optimizers import Role, make_optimizer
from daybreak.training.parallel import Across
from daybreak.training.schedules import Schedule, one_minus_sqrt, warmup_cosine, warmup_linear, warmup_stable_decay


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


def learning_rates(settings: Settings) -> Schedule:
    """The learning rate of each step: a function of the tokens trained on, laid out for all of `train_tokens`, wherever the run stops."""
    plan = settings.train
    steps = Steps(plan.batch_tokens, plan.batch_start_tokens, plan.batch_ramp_tokens)
    floor = plan.learning_rate * plan.final_learning_rate
    end = plan.decay_tokens or steps.before(steps.count(plan.train_tokens))
    return SCHEDULES[plan.schedule](plan.learning_rate, floor, plan.warmup_tokens, end, plan.decay_share)
