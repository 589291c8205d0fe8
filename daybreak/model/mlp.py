"""The MLP of a block: up to a larger width, bent, and down again.

B batch, T tokens, C d_model.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from daybreak.model.config import GPTConfig
from daybreak.model.gelu import gelu


class MLP(nn.Module):
    """Up to four times the width, an activation, and down again (GPT-2 `mlp`)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.mlp_width, bias=config.bias)
        self.down = nn.Linear(config.mlp_width, config.d_model, bias=config.bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        out: Tensor = self.down(self.activation(self.up(x)))
        return out


class SwiGLU(nn.Module):
    """Up twice, the one a gate for the other, and down again (Shazeer 2020, "GLU Variants Improve Transformer")."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.mlp_width, bias=config.bias)
        self.gate = nn.Linear(config.d_model, config.mlp_width, bias=config.bias)
        self.down = nn.Linear(config.mlp_width, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


def relu2(x: Tensor) -> Tensor:
    """ReLU squared (So et al. 2021, "Primer")."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": gelu, "relu2": relu2}
MLPS: dict[str, type[MLP | SwiGLU]] = {"gelu": MLP, "relu2": MLP, "swiglu": SwiGLU}
