"""What one rank holds of a run's tensors, by name: whole ones, or some rows of those that are divided among the ranks.

A moment goes by its parameter's name, `exp_avg/blocks.0.mlp.up.weight`, so that it finds its parameter in every layout and optimizer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from daybreak.checkpoint.folder import CheckpointProblem

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
"""What compilation and activation checkpointing put into names."""


@dataclass(frozen=True)
class Holding:
    """The part of one tensor that this rank holds."""

    rows: Tensor
    """The part itself, where the run has it; not a copy."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    first: int = 0
    """The first of its rows."""
    shards: int = 1
    """Among how many ranks the tensor is divided; 1 if each has all of it."""
    copy: bool = False
    """Whether another rank holds the same rows of a divided tensor and is the one to write them."""

    @property
    def bytes(self) -> int:
        """Of the part."""
        return self.rows.numel() * self.rows.element_size()


def hold(name: str, tensor: Tensor) -> Holding:
    """What this rank holds of a tensor. Raises CheckpointProblem for one that is divided otherwise than by rows."""
    tensor = tensor.detach()
    if type(tensor) is Tensor:
        return Holding(tensor, tuple(tensor.shape))
    from torch.distributed.tensor import DTensor, Replicate, Shard  # takes longer than all the rest, and only divided runs need it

    if not isinstance(tensor, DTensor):
        return Holding(tensor, tuple(tensor.shape))
    mesh, rows = tensor.device_mesh, tensor.to_local()
    divided = [axis for axis, placement in enumerate(tensor.placements) if type(placement) is not Replicate]
    if not divided:
        return Holding(rows, tuple(tensor.shape))
    [axis, *more] = divided
    if more or type(tensor.placements[axis]) is not Shard or tensor.placements[axis] != Shard(0):
        raise CheckpointProblem(f"{name}: wanted it whole, or its rows divided once, came {tensor.placements}")
    place = mesh.get_coordinate()
    assert place is not None, "this rank has no part in the mesh"
    share = -(-tensor.shape[0] // mesh.size(axis))  # as torch.chunk divides: the last ranks may have less, or nothing
    first = min(place[axis] * share, tensor.shape[0])
    if rows.shape[0] != min(share, tensor.shape[0] - first):
        raise CheckpointProblem(f"{name}: wanted {share} rows from row {first} on rank {place}, came {rows.shape[0]}")
    elsewhere = any(place[other] for other in range(len(place)) if other != axis)
    return Holding(rows, tuple(tensor.shape), first, mesh.size(axis), elsewhere)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers by name, free of what wraps the model."""
    state = {_plain(name): tensor for name, tensor in model.state_dict().items()}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise CheckpointProblem(f"{name}: wanted a tensor, came {type(tensor).__name__}")
    return state


def optimized(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[Tensor, dict[str, Any]]]:
    """Every parameter that the optimizer works on, and its group's settings, by name. Raises CheckpointProblem for a stranger's."""
    names = {id(parameter): _plain(name) for name, parameter in model.named_parameters()}
    found: dict[str, tuple[Tensor, dict[str, Any]]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise CheckpointProblem(f"the optimizer has a parameter of shape {tuple(parameter.shape)} that the model does not have")
            found[names[id(parameter)]] = (parameter, group)
    return found


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """The optimizer's tensors as `exp_avg/NAME`, and its other values as {NAME: {"step": 1}}."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for name, (parameter, _) in optimized(model, optimizer).items():
        divided = hold(name, parameter).shards > 1
        for key, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor):
                values.setdefault(name, {})[key] = value
                continue
            if divided and value.dim() and hold(name, value).shards == 1:
                raise CheckpointProblem(f"{key} of {name}: wanted it divided among the ranks as its parameter is, came a plain tensor")
            tensors[f"{key}/{name}"] = value
    return tensors, values


def random_state(device: torch.device) -> dict[str, Tensor]:
    """What every random generator of this rank is about to draw."""
    version, words, gauss = random.getstate()
    state = {"random/cpu": torch.get_rng_state(), f"random/python.{version}": torch.tensor(words, dtype=torch.int64)}
    if gauss is not None:
        state["random/python.gauss"] = torch.tensor(gauss, dtype=torch.float64)
    if device.type != "cpu":
        state[f"random/{device.type}"] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> bool:
    """Has every generator draw as it would have; False, with nothing changed, if the state is of another kind of device or Python."""
    version = random.getstate()[0]
    if not {"random/cpu", f"random/{device.type}", f"random/python.{version}"} <= state.keys():
        return False
    gauss = state.get("random/python.gauss")
    random.setstate((version, tuple(state[f"random/python.{version}"].tolist()), None if gauss is None else gauss.item()))
    torch.set_rng_state(state["random/cpu"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state[f"random/{device.type}"])
    return True


def device_of(model: nn.Module) -> torch.device:
    """Where the model is; the CPU for one without parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")  # as torch's DistributedDataParallel says
