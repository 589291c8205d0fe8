"""A run's first step on devices that are not there, and what each of them would hold after it: the planner's sum, from real tensors.

The model is built, divided and trained for a step by the code that trains. Its tensors have shapes and no memory (torch's
FakeTensorMode), and exchanges with other devices end at once (its fake process group), so that one process stands for any of thousands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from daybreak.config import ConfigError, edit
from daybreak.data.batches import Batch
from daybreak.learning import optimizer_for
from daybreak.model.attention import KERNELS
from daybreak.model.gpt import GPT
from daybreak.planning import NODE, Placement
from daybreak.settings import Settings
from daybreak.training.loop import accumulate, clip_grad_norm
from daybreak.training.objectives import cross_entropy
from daybreak.training.parallel import across, recompute_blocks
from daybreak.training.precision import MixedPrecision
from daybreak.world import World


@dataclass(frozen=True)
class Uneven:
    """A parameter whose rows do not divide evenly among the devices: the first ones hold a row more than the last."""

    name: str
    rows: int
    here: int
    extra_bytes: float
    """What this device holds of it, with gradient and moments, beyond an even share; below 0 on the last ones."""


@dataclass(frozen=True)
class Held:
    """Bytes that one device holds of what stays from step to step, by what they are for."""

    weights: int
    gradients: int
    moments: int
    uneven: tuple[Uneven, ...]

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.moments

    def unexplained(self, planned: int) -> int:
        """How far this is from an even share as planned, but for uneven rows and the bytes that a share is rounded up by."""
        off = self.total - planned - sum(row.extra_bytes for row in self.uneven)
        return 0 if abs(off) < 1 else round(off)


def dry_run(settings: Settings, placement: Placement, devices: int, rank: int = 0) -> Held:
    """What the device `rank` holds when the run has taken a step of one micro-batch, placed so on so many devices; 0 holds most.

    Raises ConfigError for a number of devices that the layout cannot have.
    """
    node = min(devices, NODE)
    if placement.layout == "hsdp" and (devices % node or devices == node):
        raise ConfigError([f"machine.parallel: wanted several nodes of {NODE} devices for hsdp, came {devices:,} devices"])
    # Those written out hold what torch's do, and ask for numbers, of which there are none.
    settings = edit(settings, [f"train.optimizer={settings.train.optimizer.removesuffix('-plain')}"])
    shape, plan = settings.model, settings.train
    precision = "fp32" if settings.machine.precision in ("fp32", "tf32") else "bf16"
    cpu = torch.device("cpu")
    world = World(rank, rank % node, devices, node)
    with torch.device("meta"):
        model = GPT(shape, KERNELS[settings.machine.attention])
    if placement.recompute:
        recompute_blocks(model)
    with _fake_group(world):
        ways = across(placement.layout, world, cpu, torch.bfloat16 if precision == "bf16" else None)
        ways.place(model)
        with _no_memory():
            model.to_empty(device=cpu)
            optimizer = optimizer_for(settings, model, precision, ways)
            tokens = torch.zeros((placement.micro_batch, shape.context_length), dtype=torch.int64)
            gradients = _Gradients()
            # As the loop does, but for the guard: some optimizers' hosts would wait for its verdict, and there is none.
            accumulate(model, [Batch(tokens, tokens)], cross_entropy, MixedPrecision(precision, cpu), gradients, ways)
            clip_grad_norm(model, plan.grad_clip)
            optimizer.step()
            moments = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
            return Held(
                weights=sum(map(_bytes, model.parameters())),
                gradients=gradients.bytes,
                moments=sum(map(_bytes, moments)),
                uneven=tuple(_uneven(model, optimizer, {"fsdp": devices, "hsdp": node}.get(placement.layout, 1))),
            )


class _Gradients:
    """A probe: the loop lets go of the gradients before it yields."""

    bytes = 0

    def __call__(self, model: nn.Module) -> None:
        self.bytes = sum(_bytes(parameter.grad) for parameter in model.parameters() if parameter.grad is not None)


@contextlib.contextmanager
def _fake_group(world: World) -> Iterator[None]:
    """A process group in which nobody else is, and nobody is waited for."""
    from torch.distributed.tensor.debug import _clear_sharding_prop_cache
    from torch.testing._internal.distributed.fake_pg import FakeStore  # which also makes the backend known

    dist.init_process_group("fake", store=FakeStore(), rank=world.rank, world_size=world.size)
    try:
        yield
    finally:
        dist.destroy_process_group()
        # Meshes are equal whatever the rank in them, so DTensor would take the devices of a later world for these.
        _clear_sharding_prop_cache()  # type: ignore[no-untyped-call]


def _no_memory() -> contextlib.AbstractContextManager[object]:
    """Within it tensors have everything but their numbers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def _local(tensor: Tensor) -> Tensor:
    """What of it lies on this device."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _bytes(tensor: Tensor) -> int:
    here = _local(tensor)
    return here.numel() * here.element_size()


def _uneven(model: nn.Module, optimizer: torch.optim.Optimizer, shares: int) -> Iterator[Uneven]:
    for name, parameter in model.named_parameters():
        rows, here = parameter.shape[0], _local(parameter).shape[0]
        if rows % shares:
            moments = [value for value in optimizer.state[parameter].values() if value.dim()]
            row = sum(tensor[0].numel() * tensor.element_size() for tensor in (parameter, parameter, *moments))  # the gradient is as large
            yield Uneven(name, rows, here, row * (here - rows / shares))
