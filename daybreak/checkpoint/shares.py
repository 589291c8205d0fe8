"""What each rank writes of a checkpoint, so that together they write every row once, and the index that says where it lies.

Rows that are divided among ranks are written where they are held. What all ranks have is taken in turns, each tensor by one of them, so
that copies of a model are saved as quickly as shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from daybreak.checkpoint.folder import CheckpointProblem, shared_out
from daybreak.checkpoint.holdings import Holding, device_of, hold, model_tensors, optimizer_state, random_state
from daybreak.checkpoint.tensorfile import dtype_name
from daybreak.world import World

KINDS = ("model", "optimizer")
"""Each rank writes a file of each."""


@dataclass(frozen=True)
class Share:
    """What one rank writes."""

    tensors: dict[str, dict[str, Tensor]]
    """Of each kind by name: its rows of what is divided, its turns of what all have, its random state. Not copies."""
    pieces: dict[str, list[list[int]]]
    """Of each kind the tensors that it writes, by their place in `described`, with the first row and how many rows."""
    described: dict[str, dict[str, Any]]
    """Of each kind every tensor's shape and dtype: the same on all ranks."""
    values: dict[str, dict[str, Any]]
    """What the optimizer keeps besides tensors."""
    shards: int
    """Among how many ranks the model is divided."""

    @property
    def bytes(self) -> int:
        """Of its tensors."""
        return sum(tensor.numel() * tensor.element_size() for part in self.tensors.values() for tensor in part.values())


def share_of(model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> Share:
    """What this rank is to write."""
    weights = model_tensors(model)  # first: it has FSDP put its shards back
    moments, values = optimizer_state(model, optimizer)
    held = {
        "model": {name: hold(name, weights[name]) for name in sorted(weights)},
        "optimizer": {name: hold(name, moments[name]) for name in sorted(moments)},
    }
    turns = shared_out({(kind, name): part.bytes for kind in KINDS for name, part in held[kind].items() if part.shards == 1}, world.size)
    tensors: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    pieces: dict[str, list[list[int]]] = {kind: [] for kind in KINDS}
    described: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        for number, (name, part) in enumerate(held[kind].items()):
            described[kind][name] = {"shape": list(part.shape), "dtype": dtype_name(name, part.rows)}
            if turns[kind, name] == world.rank if part.shards == 1 else not part.copy and len(part.rows) > 0:
                pieces[kind].append([number, part.first, _rows(part)])
                tensors[kind][name] = part.rows
    tensors["optimizer"].update(random_state(device_of(model)))
    return Share(tensors, pieces, described, values, max((part.shards for part in held["model"].values()), default=1))


def file_name(kind: str, rank: int, ranks: int) -> str:
    """Named as the hub names the parts of a model."""
    return f"{kind}.safetensors" if ranks == 1 else f"{kind}-{rank + 1:05}-of-{ranks:05}.safetensors"


def index(described: Mapping[str, Mapping[str, Any]], by_rank: Sequence[Mapping[str, list[list[int]]]]) -> dict[str, Any]:
    """Where every tensor's rows lie, and every rank's random state. Raises CheckpointProblem unless each row is there exactly once."""
    ranks = len(by_rank)
    made: dict[str, Any] = {kind: {name: {**row, "pieces": []} for name, row in described[kind].items()} for kind in KINDS}
    for kind in KINDS:
        names = list(made[kind])
        for rank, pieces in enumerate(by_rank):
            for number, first, rows in pieces[kind]:
                made[kind][names[number]]["pieces"].append([file_name(kind, rank, ranks), first, rows])
        for name, row in made[kind].items():
            row["pieces"].sort(key=lambda piece: (piece[1], piece[0]))
            end = 0
            for file, first, rows in row["pieces"]:
                if first != end:
                    raise CheckpointProblem(f"{name}: wanted row {end} next, {file} goes on with row {first}")
                end += rows
            if end != (row["shape"][0] if row["shape"] else 1):
                raise CheckpointProblem(f"{name}: wanted {row['shape'][0]} rows, the ranks hold {end}")
    return {**made, "random": [file_name("optimizer", rank, ranks) for rank in range(ranks)]}


def _rows(part: Holding) -> int:
    return len(part.rows) if part.rows.dim() else 1
