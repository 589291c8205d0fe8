"""The activations and SwiGLU beside their formulas."""

import dataclasses
import math

import pytest
import torch

from daybreak.model.config import GPTConfig
from daybreak.model.mlp import ACTIVATIONS, MLPS

CONFIG = GPTConfig(vocab_size=50, context_length=12, n_layer=2, n_head=2, d_model=48)


def test_the_activations_are_their_formulas():
    x = torch.linspace(-4, 4, 101)
    torch.testing.assert_close(ACTIVATIONS["relu2"](x), torch.where(x > 0, x * x, 0.0))
    gelu = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    torch.testing.assert_close(ACTIVATIONS["gelu"](x), gelu)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu2", "swiglu"])
def test_the_mlp_is_its_formula(activation, bias):
    mlp = MLPS[activation](dataclasses.replace(CONFIG, activation=activation, bias=bias))
    x = torch.randn(2, 3, 48)

    def linear(x, layer):
        return x @ layer.weight.T + (layer.bias if bias else 0)

    up = linear(x, mlp.up)
    if activation == "swiglu":
        gate = linear(x, mlp.gate)
        bent = gate / (1 + torch.exp(-gate)) * up
    else:
        bent = ACTIVATIONS[activation](up)
    torch.testing.assert_close(mlp(x), linear(bent, mlp.down))
    assert sum(name.endswith("bias") for name, _ in mlp.named_parameters()) == (len(mlp.state_dict()) // 2 if bias else 0)


@pytest.mark.parametrize("d_model", [192, 384, 768, 1536])
def test_swiglu_has_as_many_weights_as_the_others_where_widths_divide(d_model):
    config = dataclasses.replace(CONFIG, d_model=d_model, bias=False)
    wide, gated = (MLPS[name](dataclasses.replace(config, activation=name)) for name in ("gelu", "swiglu"))
    assert sum(weight.numel() for weight in wide.parameters()) == sum(weight.numel() for weight in gated.parameters()) == 8 * d_model**2
