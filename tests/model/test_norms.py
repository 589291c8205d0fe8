"""RMSNorm beside its formula and torch's own, with its gradients."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from daybreak.model.config import GPTConfig
from daybreak.model.norms import NORMS, RMSNorm, rms_norm

CONFIG = GPTConfig(vocab_size=50, context_length=12, n_layer=2, n_head=2, d_model=16)


def drawn(*shape, dtype=torch.float32, seed=0):
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
@pytest.mark.parametrize("gain", [False, True])
@pytest.mark.parametrize("shape", [(16,), (5, 16), (2, 3, 4, 16)])
def test_it_is_the_formula(shape, gain, epsilon):
    x, weight = drawn(*shape).requires_grad_(), drawn(16, seed=1).requires_grad_() if gain else None
    by_hand = x / torch.sqrt((x**2).mean(-1, keepdim=True) + epsilon) * (1 if weight is None else weight)
    inputs, upstream = [x] if weight is None else [x, weight], drawn(*shape, seed=2)
    ours = rms_norm(x, weight, epsilon)
    for other in (by_hand, F.rms_norm(x, (16,), weight, epsilon)):
        torch.testing.assert_close(ours, other)
        for a, b in zip(*(torch.autograd.grad(out, inputs, upstream, retain_graph=True) for out in (ours, other)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gain", [False, True])
def test_its_gradient(gain):
    x, weight = (drawn(*shape, dtype=torch.float64).requires_grad_() for shape in ((3, 4, 5), (5,)))
    inputs = (x, weight) if gain else (x,)
    assert torch.autograd.gradcheck(lambda x, weight=None: rms_norm(x, weight), inputs)


def test_in_16_bits_it_is_computed_in_32():
    x = drawn(7, 16).bfloat16().requires_grad_()
    out = rms_norm(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, rms_norm(x.detach().float()).bfloat16(), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    wide = x.detach().float().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(rms_norm(wide).sum(), wide)[0].bfloat16(), rtol=0.02, atol=1e-3)


def test_under_autocast_the_stream_stays_in_32_bits():
    with torch.autocast("cpu", torch.bfloat16):
        assert RMSNorm(16, 1e-5)(drawn(3, 16)).dtype == torch.float32


def test_parts_of_heads_are_normalised_each_for_itself():
    x = drawn(2, 3, 6, 8)[:, :, :2]  # not contiguous, as queries are
    torch.testing.assert_close(rms_norm(x).square().mean(-1), torch.ones(2, 3, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("norm", "bias", "names"),
    [
        ("layernorm", True, ["weight", "bias"]),
        ("layernorm", False, ["weight"]),
        ("rmsnorm", True, ["weight"]),
        ("rmsnorm-no-gain", True, []),
    ],
)
def test_the_table_makes_what_the_config_says(norm, bias, names):
    made = NORMS[norm](dataclasses.replace(CONFIG, norm=norm, bias=bias, layer_norm_epsilon=0.5))
    assert [name for name, _ in made.named_parameters()] == names
    x = drawn(4, 16)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(drawn(16, seed=3))
    reference = nn.LayerNorm(16, 0.5, bias=bias) if norm == "layernorm" else nn.RMSNorm(16, 0.5, elementwise_affine=norm == "rmsnorm")
    reference.load_state_dict(made.state_dict())
    torch.testing.assert_close(made(x), reference(x))
