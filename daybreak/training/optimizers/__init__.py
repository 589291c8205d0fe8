"""Which parameter gets which optimizer: one table, and the groups that it works on.

Every optimizer here takes torch's parameter groups; `lr_scale` in a group multiplies the schedule's learning rate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from daybreak.training.optimizers.adamw import AdamW


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and embeddings decay, biases and LayerNorm gains do not (GPT-3 paper, appendix B; nanoGPT `configure_optimizers`)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay, "lr_scale": 1.0},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0, "lr_scale": 1.0},
    ]


def _fused_adamw(groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, fused=groups[0]["params"][0].device.type in ("cpu", "cuda"), **settings)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": _fused_adamw,
    "adamw-plain": AdamW,
}


def make_optimizer(
    name: str, model: nn.Module, *, weight_decay: float, betas: tuple[float, float], epsilon: float
) -> torch.optim.Optimizer:
    """The named optimizer over the model's decay groups. The loop sets the learning rate before every step."""
    return OPTIMIZERS[name](decay_groups(model, weight_decay), lr=0.0, betas=betas, eps=epsilon)
