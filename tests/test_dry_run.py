"""The dry run: what a device would hold is what the planner says and what devices that are there do hold."""

from __future__ import annotations

import dataclasses
import resource
from typing import Any

import pytest
import torch
import torch.distributed as dist
from worlds import in_worlds

from daybreak import config, devices, planning
from daybreak.data.batches import Batch
from daybreak.dry_run import Held, dry_run
from daybreak.model.config import GPTConfig
from daybreak.model.gpt import GPT
from daybreak.model.init import initialize
from daybreak.model.memory import state_bytes
from daybreak.planning import Layout, Memory, Placement
from daybreak.recipes import recipe_settings
from daybreak.settings import Settings
from daybreak.training.loop import accumulate
from daybreak.training.optimizers import make_optimizer
from daybreak.training.parallel import across
from daybreak.training.precision import MixedPrecision
from daybreak.world import World

SHAPE = GPTConfig(vocab_size=250, context_length=16, n_layer=2, n_head=3, d_model=36, attention_pattern=("dense", "banded"))
SETTINGS = dataclasses.replace(Settings(), model=SHAPE)


def placed(layout: Layout, recompute: bool = False) -> Placement:
    return Placement(layout, 2, recompute, Memory(0, 0, 0, 0))


@pytest.mark.parametrize(
    ("layout", "devices", "share"),
    [("single", 1, 1), ("ddp", 4, 1), ("fsdp", 2, 2), ("fsdp", 4, 4), ("fsdp", 7, 7), ("fsdp", 300, 300), ("hsdp", 16, 8)],
)
def test_the_first_device_holds_the_planned_share_and_its_uneven_rows(layout: Layout, devices: int, share: int) -> None:
    held = dry_run(SETTINGS, placed(layout, recompute=devices == 7), devices)
    assert held.gradients == held.weights
    assert held.moments == 2 * held.weights
    assert held.total == pytest.approx(state_bytes(SHAPE) / share + sum(row.extra_bytes for row in held.uneven), abs=1e-6)
    assert held.unexplained(-(-state_bytes(SHAPE) // share)) == 0
    assert held.unexplained(state_bytes(SHAPE) // share + 5) < 0
    assert bool(held.uneven) == (share > 4)
    assert not dist.is_initialized()


def test_all_shares_together_are_the_model() -> None:
    every = [dry_run(SETTINGS, placed("fsdp"), 5, rank) for rank in range(5)]
    assert sum(held.total for held in every) == state_bytes(SHAPE)
    assert max(every, key=lambda held: held.total) == every[0]
    assert sum(row.extra_bytes for held in every for row in held.uneven) == pytest.approx(0, abs=1e-6)


def really(world: World, layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bytes of weights, gradients and moments on this device, after a step on tensors that are there: in numbers, and in memory."""
    with torch.device("meta"):
        model = GPT(SHAPE)
    ways = across(layout, world, torch.device("cpu"), torch.bfloat16)
    ways.place(model)
    initialize(model.to_empty(device="cpu"), 0, ways.write)
    optimizer = make_optimizer("adamw", model, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8)
    tokens = torch.randint(250, (2, 16))
    accumulate(model, [Batch(tokens, tokens)], _objective, MixedPrecision("bf16", torch.device("cpu")), across=ways)
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    kinds = (list(model.parameters()), [parameter.grad for parameter in model.parameters()], moments)
    return tuple(map(_numbers, kinds)), tuple(map(_memory, kinds))


def _objective(model: Any, batch: Batch) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(batch.inputs).float().mT, batch.targets, reduction="none")


def _local(tensor: Any) -> torch.Tensor:
    here: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return here


def _numbers(tensors: Any) -> int:
    return sum(4 * _local(tensor).numel() for tensor in tensors)


def _memory(tensors: Any) -> int:
    """Tensors may lie in one storage."""
    storages = [_local(tensor).untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("layout", ["ddp", "fsdp"])
def test_devices_that_are_there_hold_the_same(layout: Layout) -> None:
    held = [dry_run(SETTINGS, placed(layout), 3, rank) for rank in range(3)]
    there = in_worlds(3, really, layout)  # forked from this process: they must not take themselves for what it has just imagined
    assert [numbers for numbers, _ in there] == [(one.weights, one.gradients, one.moments) for one in held]
    numbers, memory = there[0]
    assert memory == numbers


def test_13b_takes_a_step_without_memory() -> None:
    settings = recipe_settings("gpt3.13b")
    made = planning.plan(settings, planning.Fleet(*devices.parse("64xh100")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    held = dry_run(settings, made.placement, 64)
    assert held == Held(weights=803_351_680, gradients=803_351_680, moments=2 * 803_351_680, uneven=())
    assert held.total == made.placement.memory.states
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes; one device's share is 3.2 million


def test_hsdp_wants_several_whole_nodes() -> None:
    for number in (8, 12):
        with pytest.raises(config.ConfigError, match=f"several nodes of 8 devices for hsdp, came {number} devices"):
            dry_run(SETTINGS, placed("hsdp"), number)


@pytest.mark.parametrize("name", ["sgd", "momentum", "rmsprop", "lion", "adamw-plain", "muon", "normuon"])
@pytest.mark.parametrize(("layout", "devices", "share"), [("single", 1, 1), ("ddp", 3, 1), ("fsdp", 7, 7), ("hsdp", 16, 8)])
def test_every_optimizer_holds_what_is_planned_for_it(name: str, layout: Layout, devices: int, share: int) -> None:
    settings = dataclasses.replace(SETTINGS, train=dataclasses.replace(SETTINGS.train, optimizer=name))
    held = dry_run(settings, placed(layout), devices)
    assert held.unexplained(-(-state_bytes(SHAPE, name) // share)) == 0
    assert held.unexplained(state_bytes(SHAPE, name) // share + 5) < 0
    assert (state_bytes(SHAPE, name) < state_bytes(SHAPE)) == (name != "adamw-plain")
