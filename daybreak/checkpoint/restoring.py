"""From a run's newest checkpoint that verifies back to a model, its optimizer and what they were about to draw, on any number of ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from daybreak import files, machine
from daybreak.checkpoint.folder import STATE, CheckpointProblem, found, path_of, problems, read_manifest
from daybreak.checkpoint.holdings import device_of, hold, model_tensors, optimized, set_random_state
from daybreak.checkpoint.tensorfile import DTYPES, Pieces
from daybreak.world import ALONE, World


@dataclass(frozen=True)
class Restored:
    """What a checkpoint says of its run besides the tensors."""

    path: Path
    step: int
    """Steps done; the next one to take has this number."""
    tokens: int
    state: dict[str, Any]
    layout: dict[str, int]
    """By how many ranks it was saved, and among how many each tensor was divided: {"ranks": 4, "shards": 2}."""
    draws: str
    """"as saved" if every random generator goes on where it was; else why they begin anew, from the seed, the step and the rank."""
    rejected: tuple[str, ...] = ()
    """Newer checkpoints that were not used, each with the reason."""


def restore(
    run: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    world: World = ALONE,
    *,
    seed: int = 0,
    identity: Mapping[str, str] | None = None,
    most_steps: int | None = None,
) -> Restored | None:
    """Loads the newest checkpoint that verifies into model, optimizer and random generators; None if there is none at all.

    Those of more than `most_steps` steps done are passed over.
    Called by all ranks; all take the same one. One whose identity (see `Saver`) differs is rejected. Raises CheckpointProblem if there
    are some but none can be used, or if the one to be used does not fit the model.
    """
    rejected: list[str] = []
    names = [folder.name for folder in reversed(found(run)) if most_steps is None or folder <= path_of(run, most_steps)]
    for name in world.agree(names):
        folder = run / "checkpoints" / name
        wrong = problems(folder, world) or world.agree(_strange(folder, identity or {}) if world.leads else None)
        if wrong:
            rejected.append(f"{name}: {'; '.join(wrong)}")
            continue
        failure = None
        try:
            restored = _load(folder, model, optimizer, world, seed, tuple(rejected))
        except Exception as error:  # whatever it is, the other ranks wait to hear of it
            failure = str(error) if isinstance(error, files.FileProblem) else f"{folder}: cannot be read ({type(error).__name__}: {error})"
        if failures := [told for told in world.gather(failure) if told]:
            raise CheckpointProblem(failures[0])
        return restored
    if rejected:
        raise CheckpointProblem(
            f"{run / 'checkpoints'}: none of its checkpoints verifies ({'; '.join(rejected)}); delete the run's folder to start anew"
        )
    return None


def read_model(folder: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, each whole, in host memory, by whatever layout it was saved. Verify the folder first."""
    with Pieces(folder) as pieces:
        tensors = {name: pieces.empty("model", name) for name in pieces.index["model"]}
        for name, tensor in tensors.items():
            pieces.fill(tensor, "model", name)
    return tensors


@torch.no_grad()
def _load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world: World, seed: int, rejected: tuple[str, ...]) -> Restored:
    state = files.read_json(folder / STATE)
    with Pieces(folder) as pieces:
        weights, parameters = model_tensors(model), optimized(model, optimizer)
        if misfits := _misfits(pieces.index, weights, parameters):
            more = f", and {len(misfits) - 1} more" if len(misfits) > 1 else ""
            raise CheckpointProblem(f"{folder}: holds another architecture than the run's settings ({misfits[0]}{more})")
        for name, tensor in weights.items():
            part = hold(name, tensor)
            pieces.fill(part.rows, "model", name, part.first)
        optimizer.state.clear()
        for name, (parameter, _) in parameters.items():
            if name in state["optimizer"]:
                optimizer.state[parameter].update(state["optimizer"][name])
        for path in pieces.index["optimizer"]:
            key, _, name = path.partition("/")
            parameter, group = parameters[name]
            optimizer.state[parameter][key] = _moment(pieces, path, key, parameter, group)
        draws = _draw(pieces, world, device_of(model), seed, state["step"])
    return Restored(folder, state["step"], state["tokens"], state["state"], state["layout"], draws, rejected)


def _moment(pieces: Pieces, path: str, key: str, parameter: Tensor, group: Mapping[str, Any]) -> Tensor:
    """A tensor of the optimizer's state: divided as its parameter is if it has as many rows, else whole on every rank."""
    kept = pieces.index["optimizer"][path]
    rows, *columns = kept["shape"] or [0]
    if key != "step" and len(kept["shape"]) == parameter.dim() and rows == parameter.shape[0]:
        like = parameter[:, : columns[0]] if columns and columns[0] < parameter.shape[1] else parameter
        moment = torch.empty_like(like, dtype=DTYPES[kept["dtype"]], requires_grad=False)
        part = hold(path, moment)
        pieces.fill(part.rows, "optimizer", path, part.first)
        return moment
    whole = pieces.empty("optimizer", path)
    pieces.fill(whole, "optimizer", path)
    counted_here = key == "step" and not (group.get("fused") or group.get("capturable"))  # torch's optimizers count on the CPU then
    return whole if counted_here else whole.to(parameter.device)


def _misfits(index: Mapping[str, Any], weights: Mapping[str, Tensor], parameters: Mapping[str, Any]) -> list[str]:
    """What the checkpoint and the model do not share, by name."""
    kept = index["model"]
    wrong = [f"{name} is not in the checkpoint" for name in weights if name not in kept]
    wrong += [f"{name} is only in the checkpoint" for name in kept if name not in weights]
    for name, wanted in weights.items():
        came = kept.get(name)
        if came is None:
            continue
        if tuple(came["shape"]) != tuple(wanted.shape):
            wrong.append(f"{name}: wanted the shape {tuple(wanted.shape)}, came {tuple(came['shape'])}")
        elif DTYPES.get(came["dtype"]) != wanted.dtype:
            wrong.append(f"{name}: wanted {wanted.dtype}, came {came['dtype']}")
    strangers = (path for path in index["optimizer"] if path.partition("/")[2] not in parameters)
    return wrong + [f"{path} is of a parameter that is not trained" for path in strangers]


def _draw(pieces: Pieces, world: World, device: torch.device, seed: int, step: int) -> str:
    """Has the random generators go on where they were if the ranks are as many as then, else begin from (seed, step, rank)."""
    by_rank = pieces.index["random"]
    reason = f"saved by {len(by_rank)} ranks, restored by {world.size}"
    if len(by_rank) == world.size:
        if set_random_state(pieces.whole_file(by_rank[world.rank], "random/"), device):
            return "as saved"
        reason = f"saved on another device than {device.type}, or by another Python"
    digest = hashlib.sha256(f"{seed}:{step}:{world.rank}".encode()).digest()
    machine.seed_everything(int.from_bytes(digest[:8], "little") >> 1)
    return f"begun anew from the seed, the step and the rank: {reason}"


def _strange(folder: Path, identity: Mapping[str, str]) -> list[str]:
    kept = read_manifest(folder)["identity"]
    differing = [name for name, value in identity.items() if kept.get(name, value) != value]
    return [f"is of another run (its {name} is {kept[name]}, this run's {identity[name]})" for name in differing]
