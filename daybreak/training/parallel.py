"""One model on many devices: whole copies that add up their gradients, or shards that are gathered block by block.

    single   one process
    ddp      every process holds the whole model; gradients are summed once per step
    fsdp     weights, gradients and optimizer state are divided among all processes (ZeRO stage 3: Rajbhandari et al. 2020; torch's FSDP2)
    hsdp     divided within a node, copied between nodes

The loop knows none of these. It tells an `Across` what it is about to do, and the layout's own class does what that layout needs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from daybreak.world import World

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule

Layout = Literal["single", "ddp", "fsdp", "hsdp"]

_BUCKET_BYTES = 100 << 20


class Across(Protocol):
    """What a layout does at the moments where layouts differ."""

    layout: Layout
    size: int
    """How many processes share each batch."""
    divided: bool
    """Whether each process holds only a part of the model, so that every forward pass needs them all."""

    def place(self, model: nn.Module) -> None:
        """Divides a model that lies on the meta device, before it is given memory."""

    def write(self, parameter: Tensor, values: Tensor) -> None:
        """Sets a parameter, or what this process holds of it, from the values of all of it."""

    def micro_batch(self, model: nn.Module, *, last: bool) -> None:
        """Called before the forward pass of each micro-batch of a step."""

    def gradients(self, model: nn.Module) -> None:
        """Called after the last backward pass of a step: the gradients become the sum over all processes."""

    def total(self, value: Tensor) -> Tensor:
        """The sum of a value over all processes; on the device."""

    def whole(self, value: Tensor) -> Tensor:
        """A value that was computed from what is divided, such as the gradient's norm, as an ordinary tensor."""


class Alone:
    """One process: nothing to tell anyone."""

    layout: Layout = "single"
    size = 1
    divided = False

    def place(self, model: nn.Module) -> None:
        """Leaves it whole."""

    def write(self, parameter: Tensor, values: Tensor) -> None:
        """Copies the values."""
        parameter.copy_(values)

    def micro_batch(self, model: nn.Module, *, last: bool) -> None:
        """Nothing to prepare."""

    def gradients(self, model: nn.Module) -> None:
        """They are the sum already."""

    def total(self, value: Tensor) -> Tensor:
        """The value."""
        return value

    def whole(self, value: Tensor) -> Tensor:
        """The value."""
        return value


class Copies:
    """A whole model in every process. Not torch's DistributedDataParallel, whose gradients are right only if its own forward ran: an
    objective may call a model's parts as it likes, and here the gradients are simply summed when the step's last one is there."""

    layout: Layout = "ddp"
    divided = False

    def __init__(self, world: World) -> None:
        self.size = world.size

    def place(self, model: nn.Module) -> None:
        """Leaves it whole: equal seeds make equal copies."""

    def write(self, parameter: Tensor, values: Tensor) -> None:
        """Copies the values."""
        parameter.copy_(values)

    def micro_batch(self, model: nn.Module, *, last: bool) -> None:
        """Nothing: gradients gather locally until the step's last."""

    def gradients(self, model: nn.Module) -> None:
        """Sums them over all processes, some 100 MB at a time, each bucket under way while the next is packed."""
        present = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        under_way = []
        for bucket in _buckets(present):
            packed = torch.cat([gradient.reshape(-1) for gradient in bucket])
            under_way.append((bucket, packed, dist.all_reduce(packed, async_op=True)))
        for bucket, packed, work in under_way:
            work.wait()
            for gradient, summed in zip(bucket, torch.split(packed, [gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        summed = value.clone()
        dist.all_reduce(summed)
        return summed

    def whole(self, value: Tensor) -> Tensor:
        """The value: every process computed it from the same gradients."""
        return value


class Shards:
    """Every process holds a share of the rows of each parameter; a block is gathered when it computes and let go after.

    The tied embedding stays with the root group, as embedding and head both need it. In bf16 the matrices of the blocks are gathered
    in bf16 and the rest in fp32, which gives autocast's numbers; gradients are summed in fp32.
    """

    divided = True

    def __init__(
        self, world: World, device: torch.device, layout: Layout = "fsdp", dtype: torch.dtype | None = None, each_micro_batch: bool = False
    ) -> None:
        """`each_micro_batch`: exchange gradients after each, not once per step, so that none is ever whole on a device."""
        from torch.distributed.device_mesh import init_device_mesh

        self.dtype, self.each_micro_batch = dtype, each_micro_batch
        self.layout: Layout = layout
        self.size = world.size
        shape = (world.size,) if layout == "fsdp" else (world.size // world.local_size, world.local_size)
        names = ("shards",) if layout == "fsdp" else ("copies", "shards")
        self.mesh: DeviceMesh = init_device_mesh(device.type, shape, mesh_dim_names=names)

    def place(self, model: nn.Module) -> None:
        """Makes the matrices of every block a group that is gathered by itself, and the rest one more."""
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        # The logits are a view, cut to the vocabulary. Only writing into them in place would do harm, and the loss does not.
        warnings.filterwarnings("ignore", message=".*returned a view tensor", category=UserWarning)
        blocks: Iterable[nn.Module] = model.blocks  # type: ignore[assignment]
        policy = MixedPrecisionPolicy(param_dtype=self.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in blocks:
            fully_shard([block.attention, block.mlp], mesh=self.mesh, mp_policy=policy)  # type: ignore[list-item]
        fully_shard(model, mesh=self.mesh)
        for group in _groups(model):
            group.set_force_sum_reduction_for_comms(True)  # gloo cannot scale while it sums
            group.set_gradient_divide_factor(1.0)  # the loss is divided by the whole step's weight already: gradients are summed

    def write(self, parameter: Tensor, values: Tensor) -> None:
        """Copies this process's rows; every process has computed the same values, so nothing is sent."""
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor)
        values = values.to(parameter.device)
        rows = distribute_tensor(values, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.to_local().copy_(rows.to_local())

    def micro_batch(self, model: nn.Module, *, last: bool) -> None:
        """Gradients are exchanged in the backward pass of the last micro-batch, or of each."""
        root: FSDPModule = model  # type: ignore[assignment]
        root.set_requires_gradient_sync(last or self.each_micro_batch)
        root.set_is_last_backward(last)

    def gradients(self, model: nn.Module) -> None:
        """They were summed during the last backward pass."""

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        summed = value.clone()
        dist.all_reduce(summed)
        return summed

    def whole(self, value: Tensor) -> Tensor:
        """The full tensor of one that is divided."""
        from torch.distributed.tensor import DTensor

        return value.full_tensor() if isinstance(value, DTensor) else value


def across(layout: Layout, world: World, device: torch.device, dtype: torch.dtype | None = None, each_micro_batch: bool = False) -> Across:
    """What carries out a layout. `dtype` is the 16-bit format that is computed in, None for fp32; the rest is for `Shards`."""
    if layout == "single":
        return Alone()
    return Copies(world) if layout == "ddp" else Shards(world, device, layout, dtype, each_micro_batch)


def recompute_blocks(model: nn.Module) -> None:
    """Lets each block keep only its input and compute the rest again in the backward pass: less memory, about a third more work
    (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). Call it before `place`."""
    blocks: Iterable[nn.Module] = model.blocks  # type: ignore[assignment]
    for block in blocks:
        # In place of a wrapping module, which would change the parameters' names.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _groups(model: nn.Module) -> Iterator[FSDPModule]:
    from torch.distributed.fsdp import FSDPModule

    return (module for module in model.modules() if isinstance(module, FSDPModule))


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, in groups of one dtype and about _BUCKET_BYTES."""
    bucket: list[Tensor] = []
    held = 0
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if bucket and (held + size > _BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append(tensor)
        held += size
    if bucket:
        yield bucket
