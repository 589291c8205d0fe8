"""The state of a run in a folder: written whole, verified when read, or rejected by name.

    RUN_DIR/checkpoints/step-000001000/   model.safetensors  optimizer.safetensors  state.json  manifest.json

A checkpoint is written under a temporary name, flushed to the disk, listed in a manifest with the size and sha256 of every file, and
published by a rename. What does not match its manifest is never loaded. No file in it can run code.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from daybreak import files, machine

_FORMAT = 1
_MANIFEST = "manifest.json"


class CheckpointProblem(files.FileProblem):
    """A checkpoint that is damaged, or does not fit the run."""


@dataclass(frozen=True)
class Restored:
    """What a checkpoint says of its run besides the tensors."""

    path: Path
    step: int
    """Steps done; the next one to take has this number."""
    tokens: int
    state: dict[str, Any]
    rejected: tuple[str, ...] = ()
    """Newer checkpoints that were not used, each with the reason."""


def save(
    run: Path, *, step: int, tokens: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], keep: int
) -> Path:
    """Writes the checkpoint of `step` steps done and returns its folder; older ones beyond `keep` are deleted afterwards.

    `state` is whatever else the run needs to go on, as JSON. Raises CheckpointProblem if it cannot be written; the last good one stays.
    """
    final = run / "checkpoints" / f"step-{step:09d}"
    if final.exists():  # resumed and stopped again before another step: the same state is there already
        if not problems(final):
            return final
        delete(final)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    moments, scalars = _optimizer_state(optimizer)
    for left in final.parent.glob(".step-*.tmp"):  # by a run that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    temporary = final.with_name(f".{final.name}.tmp")
    try:
        files.need_space(run, sum(t.numel() * t.element_size() for t in (*tensors.values(), *moments.values())) + (1 << 20))
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / "model.safetensors")
        save_file({**moments, **_random_state()}, temporary / "optimizer.safetensors")
        _write(temporary / "state.json", {"step": step, "tokens": tokens, "optimizer": scalars, **state})
        names = ["model.safetensors", "optimizer.safetensors", "state.json"]
        manifest = {"format": _FORMAT, "versions": machine.versions(), "files": files.fingerprints(temporary, names)}
        _write(temporary / _MANIFEST, {**manifest, "checksum": files.json_sha256(manifest)})
        files.publish_folder(temporary, final)
    except (OSError, SafetensorError, files.FileProblem) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointProblem(f"{final}: could not be written ({error}); the last good checkpoint is untouched") from None
    # Newer ones can only be damaged, rejected by `restore`; they do not count, or they would push out the one just written.
    for old in [folder for folder in found(run) if folder <= final][:-keep]:
        delete(old)
    return final


def restore(run: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Restored | None:
    """Loads the newest checkpoint that verifies into model, optimizer and random generators; None if there is none at all.

    Raises CheckpointProblem if there are some but all are damaged.
    """
    rejected: list[str] = []
    for folder in reversed(found(run)):
        if wrong := problems(folder):
            rejected.append(f"{folder.name}: {'; '.join(wrong)}")
            continue
        state = files.read_json(folder / "state.json")
        try:
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except RuntimeError as error:
            raise CheckpointProblem(f"{folder}: holds another architecture than the run's settings ({_first_line(error)})") from None
        tensors = load_file(folder / "optimizer.safetensors")
        _restore_optimizer(optimizer, tensors, state["optimizer"])
        _restore_random_state(tensors)
        return Restored(folder, state["step"], state["tokens"], state, tuple(rejected))
    if rejected:
        raise CheckpointProblem(
            f"{run / 'checkpoints'}: none of its checkpoints verifies ({'; '.join(rejected)}); delete the run's folder to start anew"
        )
    return None


def found(run: Path) -> list[Path]:
    """The published checkpoints of a run, oldest first; verified only when read."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if path.is_dir())


def problems(folder: Path) -> list[str]:
    """What is wrong with a checkpoint, one sentence each; an empty list means that every byte is as it was written."""
    try:
        manifest = files.read_json(folder / _MANIFEST)
        if manifest["format"] != _FORMAT:
            return [f"its format is {manifest['format']}, this version reads {_FORMAT}"]
        if manifest.pop("checksum") != files.json_sha256(manifest):
            return [f"{_MANIFEST}: its content changed (it differs from its own checksum)"]
        extra = {path.name for path in folder.iterdir()} - {_MANIFEST, *manifest["files"]}
        return files.mismatches(folder, manifest["files"]) + [f"{name}: not in the manifest" for name in sorted(extra)]
    except (files.FileProblem, KeyError, TypeError) as error:
        return [f"its manifest is unreadable ({error})"]


def delete(folder: Path) -> None:
    """Removes a checkpoint: the manifest first, so that a half-deleted one can never pass for whole."""
    (folder / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's tensors as `optimizer.INDEX.NAME`, and its other values as JSON."""
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for index, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value.detach().cpu().contiguous()
            else:
                scalars.setdefault(str(index), {})[name] = value
    return tensors, scalars


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in scalars.items()}
    for key, tensor in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimizer":
            index, _, name = rest.partition(".")
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _random_state() -> dict[str, Tensor]:
    state = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 else lines[0]
