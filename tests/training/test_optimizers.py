"""Optimizers: each written out against torch's, their states exchanged, who is trained by what, and what a refused step leaves."""

import copy

import pytest
import torch

from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.training.optimizers import OPTIMIZERS, Knobs, make_optimizer, parameter_groups, role_of
from daybreak.training.optimizers.adamw import AdamW
from daybreak.training.optimizers.guarded import guarded_step
from daybreak.training.optimizers.lion import Lion

SETTINGS = {"weight_decay": 0.1, "betas": (0.9, 0.95), "epsilon": 1e-8, "momentum": 0.9}
WRITTEN_OUT = [name.removesuffix("-plain") for name in OPTIMIZERS if name.endswith("-plain")]


def model(**shape):
    return build(GPTConfig(**{"vocab_size": 64, "context_length": 4, "n_layer": 1, "n_head": 1, "d_model": 8, **shape}), 0)


def take(optimizer, weights, steps, first=0, verdicts=None):
    """Steps with gradients that depend on the step's number only, in the order of the parameters."""
    for step in range(first, first + steps):
        draw = torch.Generator().manual_seed(step)
        for parameter in weights.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw) * 10 ** (step % 5 - 3)
        for number, group in enumerate(optimizer.param_groups):
            group["lr"] = 1e-2 / (1 + number) / (1 + step)
        if verdicts is None:
            optimizer.step()
            continue
        if not verdicts[step]:
            for parameter in weights.parameters():
                parameter.grad.fill_(float("nan"))
        guarded_step(optimizer, torch.tensor(verdicts[step]))


def assert_same_weights(one, other):
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def state(optimizer):
    return {(number, key): value for number, kept in optimizer.state_dict()["state"].items() for key, value in kept.items()}


# --- equal to torch's --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_ours_takes_torch_s_steps(name):
    ours, theirs, untouched = model(), model(), model()
    take(make_optimizer(f"{name}-plain", ours, **SETTINGS), ours, 50)
    take(make_optimizer(name, theirs, **SETTINGS), theirs, 50)
    assert_same_weights(ours, theirs)
    assert not torch.allclose(ours.token_embedding.weight, untouched.token_embedding.weight, atol=1e-5)


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_in_fp64_they_are_equal_to_the_last_digits(name):
    ours, theirs = model().double(), model().double()
    for weights, which in ((ours, f"{name}-plain"), (theirs, name)):
        optimizer = make_optimizer(which, weights, **SETTINGS)
        for step in range(200):
            draw = torch.Generator().manual_seed(step)
            for parameter in weights.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 10 ** (step % 5 - 3)
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 / (1 + step)
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("torch_s", [{"fused": False, "foreach": False}, {"foreach": True}, {"fused": True}])
def test_adamw_is_every_one_of_torch_s(torch_s):
    ours, theirs = model(), model()
    take(make_optimizer("adamw-plain", ours, **SETTINGS), ours, 20)
    take(torch.optim.AdamW(parameter_groups(theirs, 0.1), lr=0.0, betas=(0.9, 0.95), eps=1e-8, **torch_s), theirs, 20)
    assert_same_weights(ours, theirs)


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


def test_lion_is_the_paper_s_formula():
    weight = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = Lion([weight], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    w, m = 2.0, 0.0
    for g in (1.0, -3.0, 0.25, -0.1):
        weight.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
        update = 0.9 * m + 0.1 * g
        w -= 0.1 * 0.5 * w + 0.1 * (1 if update > 0 else -1)
        m = 0.99 * m + 0.01 * g
        assert float(weight.detach()) == pytest.approx(w, rel=1e-12)


@pytest.mark.parametrize("name", WRITTEN_OUT)
@pytest.mark.parametrize("turn", [("", "-plain"), ("-plain", "")])
def test_one_goes_on_with_the_other_s_state(name, turn):
    first, then = (name + ending for ending in turn)
    straight, changed = model(), model()
    take(make_optimizer(first, straight, **SETTINGS), straight, 20)
    before = make_optimizer(first, changed, **SETTINGS)
    take(before, changed, 10)
    after, kept = make_optimizer(then, changed, **SETTINGS), copy.deepcopy(before.state_dict())
    kept["param_groups"] = after.state_dict()["param_groups"]
    after.load_state_dict(kept)
    take(after, changed, 10, first=10)
    assert_same_weights(straight, changed)


# --- who is trained by what --------------------------------------------------------------------------------------------------


def test_matrices_decay_biases_and_norms_do_not():
    weights = model()
    names = {parameter: name for name, parameter in weights.named_parameters()}
    groups = parameter_groups(weights, 0.1)
    decayed, spared = ({names[p] for group in groups if group["weight_decay"] == decay for p in group["params"]} for decay in (0.1, 0.0))
    assert decayed == {
        name for name in names.values() if name.endswith(("embedding.weight", "qkv.weight", "out.weight", "up.weight", "down.weight"))
    }
    assert spared == {name for name in names.values() if name.endswith("bias") or "norm" in name}
    assert decayed | spared == set(names.values())
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_every_parameter_of_a_modern_model_has_its_role_and_its_learning_rate():
    weights = model(tied_head=False, position="rotary", activation="swiglu", embedding_shortcut=True, value_residual=True, n_layer=2)
    roles = {name: role_of(name, parameter) for name, parameter in weights.named_parameters()}
    by_role = {role: {name.removeprefix("blocks.1.") for name in roles if roles[name] == role} for role in set(roles.values())}
    assert by_role["embedding"] == {"token_embedding.weight"}
    assert by_role["head"] == {"head.weight"}
    assert {name for name in by_role["matrix"] if "blocks.0" not in name} == {
        "attention.qkv.weight",
        "attention.out.weight",
        "mlp.up.weight",
        "mlp.gate.weight",
        "mlp.down.weight",
    }
    assert {"shortcut.mix", "attention.value_residual.mix", "norm.weight", "mlp.up.bias"} <= by_role["vector"]
    scales = {"matrix": 2.0, "embedding": 3.0, "head": 4.0, "vector": 5.0}
    optimizer = make_optimizer("muon", weights, **SETTINGS, scales=scales)
    names = {id(parameter): name for name, parameter in weights.named_parameters()}
    given = {names[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert given == {name: scales[role] for name, role in roles.items()}


def test_the_decay_shrinks_by_the_learning_rate_and_reaches_only_its_groups():
    for name in ("adamw", "adamw-plain", "lion", "muon"):
        weights = model()
        before = {key: tensor.clone() for key, tensor in weights.state_dict().items()}
        optimizer = make_optimizer(name, weights, **{**SETTINGS, "weight_decay": 0.5})
        for parameter in weights.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        optimizer.step()
        after = weights.state_dict()
        embedding_stays = name == "muon"  # whose rate for embeddings is tens of times that for matrices
        for decayed, share in (("blocks.0.mlp.up.weight", 0.5), ("token_embedding.weight", 0.0 if embedding_stays else 0.5)):
            torch.testing.assert_close(after[decayed], before[decayed] * (1 - 0.1 * share))
        assert torch.equal(after["norm.weight"], before["norm.weight"])


def test_frozen_parameters_and_those_without_a_gradient_stay():
    weights = model()
    weights.position_embedding.weight.requires_grad_(False)
    assert all(p is not weights.position_embedding.weight for group in parameter_groups(weights, 0.1) for p in group["params"])
    for name in OPTIMIZERS:
        optimizer = make_optimizer(name, weights, **SETTINGS)
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        before = copy.deepcopy(weights.state_dict())
        weights.zero_grad()
        weights.norm.bias.grad = torch.ones_like(weights.norm.bias)
        optimizer.step()
        changed = {key for key, tensor in weights.state_dict().items() if not torch.equal(tensor, before[key])}
        assert changed == {"norm.bias"}, name


# --- a refused step, and a state that comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_refused_step_is_as_if_it_had_never_been(name):
    verdicts = [False, True, True, False, True, False]
    refused, straight = model(), model()
    optimizers = [make_optimizer(name, weights, **SETTINGS, **_more(name)) for weights in (refused, straight)]
    take(optimizers[0], refused, len(verdicts), verdicts=verdicts)
    for step, accepted in enumerate(verdicts):
        if accepted:
            take(optimizers[1], straight, 1, first=step)
    for (where, a), b in zip(refused.named_parameters(), straight.parameters(), strict=True):
        assert torch.equal(a, b), where
    kept, expected = map(state, optimizers)
    assert kept.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) if torch.is_tensor(value) else value == expected[key] for key, value in kept.items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_comes_back_bit_for_bit(name):
    straight, stopped = model(), model()
    take(make_optimizer(name, straight, **SETTINGS, **_more(name)), straight, 10)
    before = make_optimizer(name, stopped, **SETTINGS, **_more(name))
    take(before, stopped, 6)
    after = make_optimizer(name, stopped, **SETTINGS, **_more(name))
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    take(after, stopped, 4, first=6)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), stopped.parameters(), strict=True))


def _more(name):
    return {"momentum_warmup": 4} if "muon" in name else {}


def test_knobs_are_what_they_say():
    with pytest.raises(TypeError, match="unexpected keyword"):
        Knobs(0.1, (0.9, 0.95), 1e-8, learning_rate=1.0)
