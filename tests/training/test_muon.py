"""Muon: what it makes orthogonal and how nearly, torch's Muon, NorMuon's formula, and the same steps by several processes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from worlds import in_worlds, single

from daybreak.model.attention import plain
from daybreak.model.config import SIZES, GPTConfig
from daybreak.model.flops import flops_per_token
from daybreak.model.gpt import GPT
from daybreak.model.init import build, initialize
from daybreak.training.optimizers import make_optimizer
from daybreak.training.optimizers.guarded import guarded_step
from daybreak.training.optimizers.muon import Muon, even_out, newton_schulz_flops, orthogonalize
from daybreak.training.optimizers.sharing import deal
from daybreak.training.parallel import across

CPU = torch.device("cpu")


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- orthogonal --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 16), (64, 16), (16, 64), (3, 40), (1, 5)])
def test_all_singular_values_come_near_one_and_their_directions_stay(shape):
    matrix = drawn(*shape)
    made = orthogonalize(matrix[None])[0]
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = (u.mT @ made.double() @ v.mT).diagonal()
    assert made.shape == matrix.shape
    assert 0.6 < values[s > 0.01 * s[0]].min() <= values.max() < 1.2
    torch.testing.assert_close(u @ values.diag() @ v, made.double(), rtol=0, atol=1e-4)


def test_it_does_not_depend_on_the_length_and_leaves_zeros_alone():
    matrices = drawn(3, 8, 12)
    torch.testing.assert_close(orthogonalize(matrices * 1e3), orthogonalize(matrices), rtol=1e-4, atol=1e-4)
    assert torch.equal(orthogonalize(torch.zeros(2, 4, 4)), torch.zeros(2, 4, 4))


def test_many_at_once_are_each_for_itself():
    matrices = drawn(5, 24, 16)
    alone = torch.cat([orthogonalize(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(orthogonalize(matrices), alone, rtol=1e-4, atol=1e-5)


def test_bf16_is_exact_enough():
    matrix = drawn(48, 32)
    values = torch.linalg.svdvals(orthogonalize(matrix.bfloat16()[None])[0].float())
    assert 0.5 < values.min() <= values.max() < 1.3


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_its_operations_are_those_that_torch_counts(shape):
    with FlopCounterMode(display=False) as counter:
        orthogonalize(drawn(1, *shape))
    assert counter.get_total_flops() == newton_schulz_flops(*shape)


def test_at_124m_and_half_a_million_tokens_it_is_a_small_part_of_the_step():
    shape, C = SIZES["gpt2"]["124m"], 768
    with torch.device("meta"):
        muon, _ = make_optimizer("muon", GPT(shape), weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8).parts
    each_block = 4 * newton_schulz_flops(C, C) + newton_schulz_flops(4 * C, C) + newton_schulz_flops(C, 4 * C)
    assert muon.flops() == 12 * each_block
    assert 0.003 < muon.flops() / (524_288 * flops_per_token(shape)) < 0.05


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_it_is_torch_s_muon(shape):
    ours, theirs = (torch.nn.Parameter(drawn(*shape)) for _ in range(2))
    one = Muon([ours], lr=0.02, momentum=0.9, weight_decay=0.1, dtype=torch.bfloat16)
    other = torch.optim.Muon([theirs], lr=0.02, momentum=0.9, weight_decay=0.1)
    for step in range(20):
        ours.grad = drawn(*shape, seed=step + 1)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=20 * 0.02 * 2**-7)
    assert (ours - drawn(*shape)).abs().max() > 0.1


def test_queries_keys_and_values_are_three_matrices():
    weights = build(GPTConfig(vocab_size=64, context_length=4, n_layer=1, n_head=4, n_kv_head=2, d_model=16), 0)
    together = weights.blocks[0].attention.qkv.weight
    expected = together.detach().clone()
    together.grad = drawn(*together.shape)
    optimizer = make_optimizer("muon", weights, weight_decay=0.0, betas=(0.9, 0.95), epsilon=1e-8)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    pieces = [orthogonalize(piece[None])[0] for piece in together.grad.split((16, 8, 8))]
    torch.testing.assert_close(together.detach(), expected - 0.1 * torch.cat(pieces), rtol=1e-4, atol=1e-5)


def test_the_momentum_is_warmed_up():
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = Muon([weight], momentum=0.95, momentum_warmup=4)
    remembered = torch.zeros(4, 4)
    for step in range(6):
        weight.grad = drawn(4, 4, seed=step)
        optimizer.step()
        remembered.lerp_(weight.grad, 1 - (0.85 + 0.1 * min(1.0, (step + 1) / 4)))
        torch.testing.assert_close(optimizer.state[weight]["momentum_buffer"], remembered)


def test_normuon_evens_out_the_rows_and_keeps_the_length():
    matrix = drawn(6, 9) * torch.tensor([1.0, 2.0, 4.0, 0.1, 1.0, 3.0])[:, None]
    second = torch.zeros(6, 1)
    made = even_out(matrix, second, 0.9)
    torch.testing.assert_close(second, 0.1 * matrix.square().mean(1, keepdim=True))
    assert made.norm() == pytest.approx(float(matrix.norm()), rel=1e-5)
    assert made.norm(dim=1).tolist() == pytest.approx([float(made.norm()) / 6**0.5] * 6, rel=1e-4)  # at first all rows alike
    again = even_out(2 * matrix, second, 0.9)
    torch.testing.assert_close(second, (0.09 + 0.4) * matrix.square().mean(1, keepdim=True))
    torch.testing.assert_close(again / again.norm(), made / made.norm())


# --- shared ------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 100), max_size=30), st.integers(1, 6))
def test_all_is_dealt_once_and_about_evenly(costs, hands):
    dealt = deal(costs, hands)
    assert sorted(number for hand in dealt for number in hand) == list(range(len(costs)))
    held = [sum(costs[number] for number in hand) for hand in dealt]
    assert max(held) - min(held) <= max(costs, default=0)


SHAPE = GPTConfig(vocab_size=61, context_length=4, n_layer=2, n_head=2, n_kv_head=1, d_model=12, tied_head=False)


def steps(world, layout, name, verdicts=(True,) * 4):
    """Whole weights after some steps on gradients that depend on the step and the parameters' names only."""
    ways = across(layout, world, CPU)
    with torch.device("meta"):
        model = GPT(SHAPE, plain)
    ways.place(model)
    initialize(model.to_empty(device=CPU), 7, ways.write)
    copies = 1 if ways.divided else ways.size
    scales = {"matrix": 2.0}
    optimizer = make_optimizer(
        name, model, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8, momentum_warmup=3, scales=scales, copies=copies
    )
    for step, accepted in enumerate(verdicts):
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = torch.empty_like(parameter)
            ways.write(parameter.grad, drawn(*parameter.shape, seed=100 * step + number))
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * group["lr_scale"]
        guarded_step(optimizer, torch.tensor(accepted))
    whole = {name: ways.whole(parameter.detach()) for name, parameter in model.named_parameters()}
    for where, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            whole[f"{key}/{where}"] = ways.whole(value) if value.dim() else value
    return {name: tensor.tolist() for name, tensor in whole.items()}


def two_nodes(world, work, *arguments):
    """Four processes that take themselves for two nodes of two."""
    return work(type(world)(world.rank, world.rank % 2, world.size, 2, world.group), *arguments)


@pytest.mark.parametrize("name", ["muon", "normuon"])
@pytest.mark.parametrize(("layout", "size"), [("ddp", 2), ("ddp", 3), ("fsdp", 2), ("fsdp", 3), ("fsdp", 8), ("hsdp", 4)])
def test_several_processes_take_the_steps_of_one(layout, size, name):
    alone = single(steps, "single", name)
    answers = in_worlds(size, two_nodes, steps, layout, name) if layout == "hsdp" else in_worlds(size, steps, layout, name)
    for whole in answers:
        assert whole.keys() == alone.keys()
        for where, tensor in whole.items():
            torch.testing.assert_close(torch.tensor(tensor), torch.tensor(alone[where]), rtol=1e-4, atol=2e-5, msg=where)
    assert all(whole == answers[0] for whole in answers)


@pytest.mark.parametrize("layout", ["ddp", "fsdp"])
def test_all_processes_leave_out_a_refused_step(layout):
    refused = in_worlds(2, steps, layout, "normuon", (True, False))
    straight = in_worlds(2, steps, layout, "normuon", (True,))
    assert refused == straight
