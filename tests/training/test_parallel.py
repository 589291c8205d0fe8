"""The same training on one device and divided among several: equal weights at the start, equal losses and gradients on the way."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from worlds import in_worlds, single

from daybreak.data.batches import Batch, Batches
from daybreak.model.attention import plain
from daybreak.model.config import GPTConfig
from daybreak.model.gpt import GPT
from daybreak.model.init import initialize
from daybreak.training.loop import train
from daybreak.training.optimizers import make_optimizer
from daybreak.training.parallel import across, recompute_blocks
from daybreak.training.precision import MixedPrecision

CPU = torch.device("cpu")
CONFIG = GPTConfig(vocab_size=67, context_length=8, n_layer=3, n_head=2, d_model=12)  # 128 padded rows; d_model 12 divides unevenly by 8
SEQUENCES = 8


class Text:
    """A fixed text of random tokens."""

    def __init__(self):
        self.ids = np.random.default_rng(0).integers(0, 67, 600)

    def __len__(self):
        return len(self.ids)

    def windows(self, starts, length):
        return self.ids[np.asarray(starts)[:, None] + np.arange(length)]


class Weighted(Batches):
    """Batches whose tokens count differently, by their ids."""

    def __getitem__(self, step):
        return [Batch(b.inputs, b.targets, (b.targets % 3).float()) for b in super().__getitem__(step)]


def placed(world, layout, recompute=False, **more):
    ways = across(layout, world, CPU, **more)
    with torch.device("meta"):
        model = GPT(CONFIG, plain)
    if recompute:
        recompute_blocks(model)
    ways.place(model)
    model.to_empty(device=CPU)
    return initialize(model, 7, ways.write), ways


def weights(world, layout):
    model, ways = placed(world, layout)
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(name.encode() + ways.whole(parameter.detach()).numpy().tobytes())
    return digest.hexdigest()


def run(world, layout, micro_batch, batches=Batches, recompute=False, precision="fp32", each_micro_batch=False, steps=5):
    dtype = torch.bfloat16 if precision == "bf16" else None
    model, ways = placed(world, layout, recompute, dtype=dtype, each_micro_batch=each_micro_batch)
    optimizer = make_optimizer("adamw", model, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8)
    text = batches(
        Text(), context_length=8, batch_tokens=8 * SEQUENCES, micro_batch=micro_batch, seed=3, rank=world.rank, world_size=world.size
    )
    return [
        (float(step.loss), float(step.grad_norm))
        for step in train(
            model, optimizer, text, lambda tokens: 1e-2, steps=steps, max_norm=0.5, across=ways, precision=MixedPrecision(precision, CPU)
        )
    ]


LAYOUTS = [("ddp", 2), ("fsdp", 2), ("fsdp", 3), ("hsdp", 4)]


@pytest.fixture(scope="module")
def alone():
    return single(run, "single", SEQUENCES), single(run, "single", SEQUENCES, Weighted), single(weights, "single")


def two_nodes(world, work, *arguments):
    """Four processes that take themselves for two nodes of two."""
    return work(type(world)(world.rank, world.rank % 2, world.size, 2, world.group), *arguments)


def spread(layout, size, work, *arguments):
    if layout == "hsdp":
        return in_worlds(size, two_nodes, work, layout, *arguments)
    return in_worlds(size, work, layout, *arguments)


@pytest.mark.parametrize(("layout", "size"), LAYOUTS)
def test_the_initial_weights_are_the_same_bit_for_bit(alone, layout, size):
    assert set(spread(layout, size, weights)) == {alone[2]}


@pytest.mark.parametrize("micro_batch", [1, 2])
@pytest.mark.parametrize(("layout", "size"), [("ddp", 2), ("fsdp", 2), ("hsdp", 4)])
def test_losses_and_gradient_norms_are_equal_to_rounding(alone, layout, size, micro_batch):
    answers = spread(layout, size, run, micro_batch)
    assert answers == [answers[0]] * size  # every process sees the same figures
    assert np.array(answers[0]) == pytest.approx(np.array(alone[0]), rel=2e-5)


@pytest.mark.parametrize(("layout", "size"), [("ddp", 2), ("fsdp", 2)])
def test_weights_of_tokens_are_taken_over_all_processes(alone, layout, size):
    answers = spread(layout, size, run, 2, Weighted)
    assert np.array(answers[0]) == pytest.approx(np.array(alone[1]), rel=2e-5)
    assert np.array(alone[1]) != pytest.approx(np.array(alone[0]), rel=1e-3)


def test_blocks_that_are_computed_again_change_nothing(alone):
    assert single(run, "single", SEQUENCES, Batches, True) == alone[0]
    assert np.array(in_worlds(2, run, "fsdp", 2, Batches, True)[0]) == pytest.approx(np.array(alone[0]), rel=2e-5)


def test_gradients_may_be_exchanged_after_each_micro_batch(alone):
    assert np.array(in_worlds(2, run, "fsdp", 1, Batches, False, "fp32", True)[0]) == pytest.approx(np.array(alone[0]), rel=2e-5)


@pytest.mark.parametrize(("layout", "size", "recompute"), [("ddp", 2, False), ("fsdp", 2, False), ("fsdp", 2, True)])
def test_in_bf16_the_layouts_agree_as_far_as_bf16_goes(layout, size, recompute):
    whole = single(run, "single", SEQUENCES, Batches, False, "bf16")
    assert np.array(spread(layout, size, run, 2, Batches, recompute, "bf16")[0]) == pytest.approx(np.array(whole), rel=5e-3)


def test_processes_share_the_batch_and_not_its_size():
    with pytest.raises(ValueError, match="3 devices"):
        Batches(Text(), context_length=8, batch_tokens=64, micro_batch=1, world_size=3)
