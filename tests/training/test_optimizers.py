"""Optimizers: AdamW written out against torch's, their states exchanged, and who decays."""

import copy

import pytest
import torch

from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.training.optimizers import OPTIMIZERS, decay_groups, make_optimizer
from daybreak.training.optimizers.adamw import AdamW

SETTINGS = {"betas": (0.9, 0.95), "eps": 1e-8}


def model():
    return build(GPTConfig(vocab_size=64, context_length=4, n_layer=1, n_head=1, d_model=8), 0)


def optimizer_of(make, weights, **more):
    return make(decay_groups(weights, 0.1), lr=0.0, **SETTINGS, **more)


def take(optimizer, weights, steps, first=0):
    """Steps with gradients that depend on the step's number only, in the order of the parameters."""
    for step in range(first, first + steps):
        draw = torch.Generator().manual_seed(step)
        for parameter in weights.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw) * 10 ** (step % 5 - 3)
        for number, group in enumerate(optimizer.param_groups):
            group["lr"] = 1e-2 / (1 + number) / (1 + step)
        optimizer.step()


def assert_same_weights(one, other):
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("torch_s", [{"fused": False, "foreach": False}, {"foreach": True}, {"fused": True}])
def test_ours_takes_torch_s_steps(torch_s):
    ours, theirs, untouched = model(), model(), model()
    take(optimizer_of(AdamW, ours), ours, 50)
    take(optimizer_of(torch.optim.AdamW, theirs, **torch_s), theirs, 50)
    assert_same_weights(ours, theirs)
    assert not torch.allclose(ours.token_embedding.weight, untouched.token_embedding.weight, atol=1e-3)


def test_it_is_the_paper_s_formula():
    weight = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = AdamW([weight], lr=0.1, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.5)
    w, m, v = 2.0, 0.0, 0.0
    for t, g in enumerate([1.0, -3.0, 0.25], start=1):
        weight.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        w -= 0.1 * 0.5 * w + 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)) ** 0.5 + 1e-3)
        assert float(weight.detach()) == pytest.approx(w, rel=1e-9)


@pytest.mark.parametrize(("first", "then"), [("adamw", "adamw-plain"), ("adamw-plain", "adamw"), ("adamw", "adamw")])
def test_one_goes_on_with_the_other_s_state(first, then):
    straight, changed = model(), model()
    take(optimizer_of(AdamW, straight), straight, 20)
    before = optimizer_of(OPTIMIZERS[first], changed)
    take(before, changed, 10)
    after = optimizer_of(OPTIMIZERS[then], changed)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    take(after, changed, 10, first=10)
    assert_same_weights(straight, changed)


def test_matrices_decay_biases_and_norms_do_not():
    weights = model()
    names = {parameter: name for name, parameter in weights.named_parameters()}
    decayed, spared = ({names[p] for p in group["params"]} for group in decay_groups(weights, 0.1))
    assert decayed == {
        name for name in names.values() if name.endswith(("embedding.weight", "qkv.weight", "out.weight", "up.weight", "down.weight"))
    }
    assert spared == {name for name in names.values() if name.endswith("bias") or "norm" in name}
    assert decayed | spared == set(names.values())
    assert [group["weight_decay"] for group in decay_groups(weights, 0.1)] == [0.1, 0.0]


def test_decay_shrinks_by_the_learning_rate_and_reaches_only_its_group():
    weights = model()
    before = {name: tensor.clone() for name, tensor in weights.state_dict().items()}
    optimizer = make_optimizer("adamw-plain", weights, weight_decay=0.5, betas=(0.9, 0.95), epsilon=1e-8)
    for parameter in weights.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    after = weights.state_dict()
    torch.testing.assert_close(after["blocks.0.mlp.up.weight"], before["blocks.0.mlp.up.weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(after["norm.weight"], before["norm.weight"])


def test_frozen_parameters_and_those_without_a_gradient_stay():
    weights = model()
    weights.position_embedding.weight.requires_grad_(False)
    assert all(p is not weights.position_embedding.weight for group in decay_groups(weights, 0.1) for p in group["params"])
    optimizer = AdamW(weights.parameters(), lr=0.1, weight_decay=0.5)
    before = copy.deepcopy(weights.state_dict())
    weights.norm.bias.grad = torch.ones_like(weights.norm.bias)
    optimizer.step()
    changed = {name for name, tensor in weights.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"norm.bias"}
