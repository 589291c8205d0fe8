"""Which parameter gets which optimizer: two tables, and the groups that they make of a model.

Every optimizer here takes torch's parameter groups; `lr_scale` in a group multiplies the schedule's learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from daybreak.model.attention import Attention
from daybreak.training.optimizers.adam import Adam
from daybreak.training.optimizers.adamw import AdamW
from daybreak.training.optimizers.lion import Lion
from daybreak.training.optimizers.muon import Muon
from daybreak.training.optimizers.rmsprop import RMSprop
from daybreak.training.optimizers.sgd import SGD
from daybreak.training.optimizers.sharing import sharing
from daybreak.training.optimizers.together import Together

Role = Literal["matrix", "embedding", "head", "vector"]
Groups = list[dict[str, Any]]


class Treatment(NamedTuple):
    """What becomes of the parameters of a role."""

    decays: bool
    by_muon: bool
    """Whether Muon trains them where Muon is the optimizer; AdamW trains the others then."""


ROLES: dict[Role, Treatment] = {
    "matrix": Treatment(decays=True, by_muon=True),  # of attention and MLP, within the blocks
    "embedding": Treatment(
        decays=True, by_muon=False
    ),  # a token's row learns when the token comes: there is no matrix product to keep even
    "head": Treatment(decays=True, by_muon=False),
    "vector": Treatment(decays=False, by_muon=False),  # biases, gains and other scalars
}
"""Matrices and embeddings decay, biases and gains do not (GPT-3 paper, appendix B; nanoGPT `configure_optimizers`); Muon is for the
matrices inside (Jordan et al. 2024: embeddings, head and vectors do better with AdamW)."""


@dataclass(frozen=True)
class Knobs:
    """What the optimizers can be told; each takes what it knows."""

    weight_decay: float
    betas: tuple[float, float]
    epsilon: float
    momentum: float = 0.95
    momentum_warmup: int = 0
    """Over how many steps Muon's rises to it."""
    scales: Mapping[Role, float] = field(default_factory=dict)
    """What multiplies the schedule's learning rate for the parameters of a role; 1 if absent."""
    relative_width: float = 1.0
    """How many times as wide the model is as that for which the learning rates are meant."""
    dtype: torch.dtype | None = None
    """The format that Muon multiplies in; None keeps the weights'."""
    copies: int = 1
    """Among how many processes that have the whole model Muon shares its work."""


def _adamw(groups: Groups, knobs: Knobs) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.0, betas=knobs.betas, eps=knobs.epsilon, fused=_fuses(groups))


def _adam(groups: Groups, knobs: Knobs) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=0.0, betas=knobs.betas, eps=knobs.epsilon, fused=_fuses(groups))


def _sgd(groups: Groups, momentum: float = 0.0, nesterov: bool = False) -> torch.optim.Optimizer:
    whole = type(groups[0]["params"][0]) is nn.Parameter  # the fused kernel knows nothing of shards
    return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=nesterov, fused=whole and _fuses(groups))


def _muon(groups: Groups, knobs: Knobs, beta2: float | None = None) -> torch.optim.Optimizer:
    inside, others = ([group for group in groups if group["by_muon"] is wanted] for wanted in (True, False))
    muon = Muon(
        inside,
        lr=0.0,
        momentum=knobs.momentum,
        momentum_warmup=knobs.momentum_warmup,
        beta2=beta2,
        dtype=knobs.dtype,
        sharing=sharing(inside[0]["params"][0], knobs.copies),
    )
    # Its rates for embeddings are tens of times those for matrices, and decay is times the rate: what suits these would wipe those out.
    return Together(muon, _adamw([{**group, "weight_decay": 0.0} for group in others], knobs))


OPTIMIZERS: dict[str, Callable[[Groups, Knobs], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adamw-plain": lambda groups, knobs: AdamW(groups, lr=0.0, betas=knobs.betas, eps=knobs.epsilon),
    "adam": _adam,
    "adam-plain": lambda groups, knobs: Adam(groups, lr=0.0, betas=knobs.betas, eps=knobs.epsilon),
    "sgd": lambda groups, knobs: _sgd(groups),
    "sgd-plain": lambda groups, knobs: SGD(groups, lr=0.0),
    "momentum": lambda groups, knobs: _sgd(groups, knobs.momentum),
    "momentum-plain": lambda groups, knobs: SGD(groups, lr=0.0, momentum=knobs.momentum),
    "nesterov": lambda groups, knobs: _sgd(groups, knobs.momentum, nesterov=True),
    "nesterov-plain": lambda groups, knobs: SGD(groups, lr=0.0, momentum=knobs.momentum, nesterov=True),
    "rmsprop": lambda groups, knobs: torch.optim.RMSprop(groups, lr=0.0, alpha=knobs.betas[1], eps=knobs.epsilon),
    "rmsprop-plain": lambda groups, knobs: RMSprop(groups, lr=0.0, alpha=knobs.betas[1], eps=knobs.epsilon),
    "lion": lambda groups, knobs: Lion(groups, lr=0.0, betas=knobs.betas),
    "muon": _muon,
    "normuon": lambda groups, knobs: _muon(groups, knobs, beta2=knobs.betas[1]),
}
"""torch's kernels where it has them; what ends in -plain is the same written out, and lion and the muons are ours."""


def make_optimizer(
    name: str,
    model: nn.Module,
    *,
    weight_decay: float,
    betas: tuple[float, float],
    epsilon: float,
    **more: Any,
) -> torch.optim.Optimizer:
    """The named optimizer over the model's groups; `more` as in `Knobs`. The loop sets the learning rate before every step."""
    knobs = Knobs(weight_decay, betas, epsilon, **more)
    slower = widths(knobs.relative_width, by_muon=name in ("muon", "normuon"))
    return OPTIMIZERS[name](parameter_groups(model, knobs.weight_decay, knobs.scales, slower), knobs)


def widths(relative_width: float, by_muon: bool = False) -> dict[Role, float]:
    """What multiplies the learning rates of a wider model, so that each step changes what its layers put out as much as in a narrow one.

    A step of Adam's is about as large for every weight, and all of a sum's terms change the same way: matrices and head have to go 1/width
    as far (Yang et al. 2022, "Tensor Programs V", table 8; for steps that do not depend on the gradient's size). Muon's step has one
    strength in all directions whatever the width.
    """
    return {"matrix": 1.0 if by_muon else 1.0 / relative_width, "head": 1.0 / relative_width}


def parameter_groups(
    model: nn.Module, weight_decay: float, scales: Mapping[Role, float] | None = None, slower: Mapping[Role, float] | None = None
) -> Groups:
    """The parameters that are trained, together where they are treated alike. What is `slower` decays no more slowly for it."""
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter, rows in _parameters(model):
        role = role_of(name, parameter)
        treatment, scale, width = ROLES[role], (scales or {}).get(role, 1.0), (slower or {}).get(role, 1.0)
        treated = {
            "weight_decay": weight_decay / width if treatment.decays else 0.0,
            "lr_scale": scale * width,
            "by_muon": treatment.by_muon,
            "rows": rows if treatment.by_muon else (),
        }
        groups.setdefault(tuple(treated.values()), {"params": [], **treated})["params"].append(parameter)
    return list(groups.values())


def role_of(name: str, parameter: torch.Tensor) -> Role:
    """What a parameter is for, by its name and shape."""
    if parameter.dim() < 2:
        return "vector"
    if name.endswith("embedding.weight"):
        return "embedding"
    return "matrix" if "blocks." in name else "head"


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, tuple[int, ...]]]:
    """What is trained, by name, with the rows of each matrix that it stacks, if it stacks any."""
    stacked = {id(module.qkv.weight): module.qkv_rows for module in model.modules() if isinstance(module, Attention)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter, tuple(stacked.get(id(parameter), ()))


def _fuses(groups: Groups) -> bool:
    return groups[0]["params"][0].device.type in ("cpu", "cuda")
