"""The folder of a checkpoint: its name, its manifest, and whether every byte in it is as it was written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from daybreak import files, machine
from daybreak.world import ALONE, World

FORMAT = 2
"""1 knew neither ranks nor the names of moments."""
MANIFEST = "manifest.json"
INDEX = "index.json"
STATE = "state.json"
_REPLACED = ".replaced"


class CheckpointProblem(files.FileProblem):
    """A checkpoint that is damaged, or does not fit the run."""


def path_of(run: Path, step: int) -> Path:
    """Where the checkpoint of `step` steps done is published."""
    return run / "checkpoints" / f"step-{step:09d}"


def step_of(folder: Path) -> int:
    """How many steps a published checkpoint had done, by its name."""
    return int(folder.name.removeprefix("step-"))


def temporary(final: Path, why: str = "") -> Path:
    """The name of an unpublished folder beside `final`."""
    return final.with_name(f".{final.name}{why}.tmp")


def found(run: Path) -> list[Path]:
    """The published checkpoints of a run, oldest first; verified only when read."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if path.is_dir())


def sweep(run: Path) -> None:
    """Removes what was being written or deleted when a run was killed, and puts back what was about to be replaced."""
    for left in (run / "checkpoints").glob(".step-*.tmp"):
        final = left.with_name(left.name[1:].partition(".")[0])
        if left == temporary(final, _REPLACED) and not final.exists():
            left.rename(final)
        else:
            shutil.rmtree(left, ignore_errors=True)


def publish(written: Path, final: Path) -> None:
    """Gives a finished folder its name. One that has the name already, damaged or of a past that the run went back on, is replaced."""
    aside = temporary(final, _REPLACED)
    if final.exists():
        final.rename(aside)
    try:
        files.publish_folder(written, final)
    except (OSError, files.FileProblem):
        if aside.exists():
            aside.rename(final)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def write_manifest(folder: Path, final: Path, rows: Mapping[str, Any], **told: Any) -> None:
    """Lists the files of a folder that is to be published as `final`."""
    manifest = {"format": FORMAT, "folder": final.name, **told, "versions": machine.versions(), "files": dict(rows)}
    text = json.dumps({**manifest, "checksum": files.json_sha256(manifest)}, indent=2)
    files.write_text(folder / MANIFEST, text)  # without a last line's end, which could be cut off unseen


def read_manifest(folder: Path) -> dict[str, Any]:
    """A manifest that vouches for itself and belongs to this folder. Raises CheckpointProblem."""
    try:
        manifest: dict[str, Any] = files.read_json(folder / MANIFEST)
        if manifest["format"] != FORMAT:
            raise CheckpointProblem(f"its format is {manifest['format']}, this version reads {FORMAT}")
        if manifest.pop("checksum") != files.json_sha256(manifest):
            raise CheckpointProblem(f"{MANIFEST}: its content changed (it differs from its own checksum)")
        if manifest["folder"] != folder.name:
            raise CheckpointProblem(f"{MANIFEST}: is of another checkpoint ({manifest['folder']})")
        names = manifest["files"].keys()
        if {INDEX, STATE} - names:
            raise CheckpointProblem(f"{MANIFEST}: does not list what a checkpoint has")
        if strange := [name for name in names - {INDEX, STATE} if Path(name).name != name or not name.endswith(".safetensors")]:
            raise CheckpointProblem(f"{MANIFEST}: lists {strange[0]}, which no checkpoint has")
        return manifest
    except CheckpointProblem:
        raise
    except (files.FileProblem, KeyError, TypeError, AttributeError) as error:
        raise CheckpointProblem(f"its manifest is unreadable ({error})") from None


def problems(folder: Path, world: World = ALONE) -> list[str]:
    """What is wrong with a checkpoint, one sentence each; an empty list means that every byte is as it was written.

    Called by all ranks of a world: each reads a part of the files, and all get the same answer.
    """
    wrong: list[str] = []
    rows: dict[str, Any] = {}
    if world.leads:
        try:
            rows = read_manifest(folder)["files"]
            wrong = [f"{name}: not in the manifest" for name in sorted({path.name for path in folder.iterdir()} - {MANIFEST, *rows})]
        except (CheckpointProblem, OSError) as error:
            wrong = [str(error)]
    wrong, rows = world.agree([wrong, rows])
    turns = shared_out({name: row["bytes"] for name, row in rows.items()}, world.size)
    mine = {name: row for name, row in rows.items() if turns[name] == world.rank}
    damaged = [problem for part in world.gather(_mismatches(folder, mine, world)) for problem in part]
    return sorted(damaged) + wrong


def delete(folder: Path) -> None:
    """Removes a checkpoint; however it is interrupted, what is left can never pass for whole."""
    remove(unpublish(folder))


def unpublish(folder: Path) -> Path:
    """Takes a checkpoint's name from it, in one step and quickly; returns what is left to be removed."""
    hidden = temporary(folder, ".deleted")
    shutil.rmtree(hidden, ignore_errors=True)
    return folder.rename(hidden)


def remove(hidden: Path) -> None:
    """Removes what was un-published, its manifest first."""
    (hidden / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(hidden, ignore_errors=True)


def shared_out(sizes: Mapping[Any, int], ranks: int) -> dict[Any, int]:
    """Things of different sizes to ranks: the largest first, each to the rank that has the least so far. The same answer everywhere."""
    load = [0] * ranks
    turns = {}
    for key in sorted(sizes, key=lambda key: (-sizes[key], key)):
        turns[key] = load.index(min(load))
        load[turns[key]] += sizes[key]
    return turns


def _mismatches(folder: Path, rows: Mapping[str, Any], world: World) -> list[str]:
    """What differs, several files at a time: hashing leaves the interpreter to others."""
    threads = max(1, (os.cpu_count() or 1) // world.local_size)
    largest_first: Sequence[str] = sorted(rows, key=lambda name: -rows[name]["bytes"])
    try:
        with ThreadPoolExecutor(threads) as pool:
            told = pool.map(lambda name: files.mismatches(folder, {name: rows[name]}), largest_first)
            return [problem for part in told for problem in part]
    except OSError as error:
        return [f"cannot be read ({error})"]
