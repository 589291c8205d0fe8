"""Every initial weight, in one table.

Each parameter is drawn from a random generator of its own, seeded by the run's seed and the parameter's name. So the initial
weights depend on nothing else: not on the device, not on the order of construction, not on how many machines share the model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from daybreak.model.attention import Kernel, automatic
from daybreak.model.config import GPTConfig
from daybreak.model.gpt import GPT


def std_table(config: GPTConfig) -> dict[str, float]:
    """The standard deviation for each kind of weight matrix, by the end of its name (GPT-2 paper, section 2.3).

    The projections that add to the residual stream are scaled by 1/sqrt(2 n_layer): there are two per block, and the variance
    of a sum of 2 n_layer terms should not grow with the depth. The code that OpenAI released has no such scale. Others begin with 0, so
    that each block's part grows as it is learned.

    A matrix adds up as many terms as the model is wide. At another width than `width_base` those in the blocks keep the size of their
    sums by 1/sqrt(width), the head, whose rows will come to point where its input does, by 1/width (Yang et al. 2022, "Tensor Programs V").
    """
    inside = config.init_std / math.sqrt(config.relative_width)
    scale = {"paper": 1 / math.sqrt(2 * config.n_layer), "openai": 1.0, "zero": 0.0}
    residual = inside * scale[config.residual_scaling]
    return {
        "token_embedding.weight": config.init_std if config.token_init_std is None else config.token_init_std,
        "position_embedding.weight": config.position_init_std,
        "attention.qkv.weight": inside,
        "attention.out.weight": residual,
        "mlp.up.weight": inside,
        "mlp.gate.weight": inside,
        "mlp.down.weight": residual,
        "head.weight": config.head_init_std / config.relative_width,
    }


MIXES = {"shortcut.mix": (1.0, 0.0), "value_residual.mix": (0.5,)}
"""Shortcuts begin with the stream alone, and values as half the layer's own and half the first layer's."""


@torch.no_grad()
def initialize(model: GPT, seed: int, write: Callable[[Tensor, Tensor], object] = Tensor.copy_) -> GPT:
    """Fills every parameter in place and returns the model: matrices from the table, gains of norms 1, all biases 0.

    `write(parameter, values)` sets one from all its values; a model that is divided among processes keeps its share of them.
    """
    table = std_table(model.config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            values = torch.zeros(parameter.shape)
        elif "norm" in name:
            values = torch.ones(parameter.shape)
        elif name.endswith("mix"):
            values = torch.tensor(next(mix for ending, mix in MIXES.items() if name.endswith(ending)))
        else:
            std = next(std for ending, std in table.items() if name.endswith(ending))
            values = _normal(parameter.shape, std, seed, name)
        if name in ("token_embedding.weight", "head.weight"):
            values[model.config.tokens :].zero_()  # rows that only round the vocabulary up
        write(parameter, values)
    return model


def build(config: GPTConfig, seed: int, device: torch.device | str = "cpu", kernel: Kernel = automatic) -> GPT:
    """A freshly initialised model on `device`, without torch's own initialisation, which would be thrown away."""
    with torch.device("meta"):
        model = GPT(config, kernel)
    return initialize(model.to_empty(device=device), seed)


def _normal(shape: torch.Size, std: float, seed: int, name: str) -> Tensor:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.empty(shape).normal_(0.0, std, generator=generator)
