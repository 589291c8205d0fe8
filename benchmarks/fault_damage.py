"""Single flipped bits, cut files and pickles, over everything that a run or its data keeps: all are told by name, and nothing runs."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from daybreak import checkpoint, config, files, loading
from daybreak.corpus import Data
from daybreak.data.inspection import verify
from daybreak.data.tokenizer import load_tokenizer
from daybreak.model.gpt import GPT
from daybreak.settings import Settings
from daybreak.training.optimizers import make_optimizer


@dataclass
class Found:
    """What came of the damage to one kind of folder."""

    kind: str
    flips: int = 0
    truncations: int = 0
    detected: int = 0
    at_start: Counter[str] = field(default_factory=Counter)
    """By file, what was noticed without verifying, as a run opens its data."""
    only_by_verify: Counter[str] = field(default_factory=Counter)
    """By file, what was not."""
    undetected: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        return self.flips + self.truncations


def flip(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """One bit turned over: as often in the first kilobyte, where headers are, as anywhere."""
    damaged = bytearray(content)
    place = draw.randrange(min(len(content), 1200) if draw.random() < 0.5 else len(content))
    bit = draw.randrange(8)
    damaged[place] ^= 1 << bit
    return bytes(damaged), f"bit {bit} of byte {place} flipped"


def cut(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Cut anywhere: to nothing, and by one byte, more often than chance would have it."""
    length = draw.choice([0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(6))])
    return content[:length], f"cut to {length} of {len(content)} bytes"


def damage(paths: list[Path], flips: int, cuts: int, draw: random.Random, check: Callable[[Path, str], None], found: Found) -> Found:
    """Damages one file at a time, each as often as the others, has `check` look, and mends it."""
    for number in range(flips + cuts):
        path = paths[number % len(paths)]
        content = path.read_bytes()
        damaged, how = (flip if number < flips else cut)(content, draw)
        path.write_bytes(damaged)
        try:
            check(path, how)
        finally:
            path.write_bytes(content)
    found.flips, found.truncations = flips, cuts
    return found


class Opened:
    """A model and its optimizer, for a run's checkpoints to be restored into."""

    def __init__(self, run: Path) -> None:
        self.run = run
        chosen = config.load(Settings, run / "settings.json")
        self.model = GPT(chosen.model)
        self.optimizer = make_optimizer("adamw", self.model, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8)

    def restore(self) -> checkpoint.Restored | None:
        return checkpoint.restore(self.run, self.model, self.optimizer)


def damage_checkpoints(run: Path, kind: str, flips: int, cuts: int, draw: random.Random) -> Found:
    """The newest checkpoint of a run is damaged: it must be named as the one that is not used, with the file, and the one before used."""
    opened, found = Opened(run), Found(kind)
    older, newest = checkpoint.found(run)[-2:]
    assert not [problem for folder in (older, newest) for problem in checkpoint.problems(folder)]

    def check(path: Path, how: str) -> None:
        restored = opened.restore()
        named = restored is not None and len(restored.rejected) == 1 and restored.rejected[0].startswith(f"{newest.name}: ")
        if restored is None or restored.path != older or not named or path.stem not in restored.rejected[0]:
            found.undetected.append(f"{path.name}: {how}: {restored and (restored.path.name, restored.rejected)}")
        else:
            found.detected += 1
            found.at_start[path.name] += 1

    damage(sorted(newest.iterdir()), flips, cuts, draw, check, found)
    restored = opened.restore()
    assert restored is not None
    assert (restored.path, restored.rejected) == (newest, ())  # mended, it is used again
    return found


def damage_data(data: Path, flips: int, cuts: int, draw: random.Random) -> Found:
    """`data verify` must name every damaged file; told apart is what opening the data notices, as every run does when it starts."""
    found = Found("data")
    assert not verify(data)

    def check(path: Path, how: str) -> None:
        if any(path.name in problem for problem in verify(data)):
            found.detected += 1
        else:
            found.undetected.append(f"{path.name}: {how}: {verify(data)}")
        try:
            Data.open(data)
        except ValueError as problem:
            found.at_start[path.name] += 1
            if path.name not in str(problem) and path.parent.name not in str(problem):
                found.undetected.append(f"{path.name}: {how}: opening says only {problem}")
        else:
            found.only_by_verify[path.name] += 1

    damage(sorted(path for path in data.rglob("*") if path.is_file()), flips, cuts, draw, check, found)
    return found


# --- files that would run ----------------------------------------------------------------------------------------------------


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def pickles(mark: Path) -> dict[str, bytes]:
    """The forms that others load: a bare pickle, as torch.distributed.checkpoint's .metadata is, and torch.save's archive."""
    archive = mark.with_name("archive.pt")
    torch.save({"model": Evil(mark)}, archive)
    return {"a pickle": pickle.dumps(Evil(mark)), "torch.save": archive.read_bytes()}


def plant(run: Path, data: Path, mark: Path) -> tuple[int, list[str]]:
    """Puts pickles in the place of every kind of file, opens it as the package does; how many were tried, and what is wrong.

    In checkpoints twice: as the manifest does not know it, and with a manifest that vouches for it.
    """
    tried, wrong = 0, []
    opened, newest = Opened(run), checkpoint.found(run)[-1]

    def restore() -> str:
        restored = opened.restore()
        return "" if restored is None else " ".join(restored.rejected)

    def data_opened() -> str:
        said = " ".join(verify(data))
        Data.open(data)
        return said

    def weights() -> str:
        loading.load(run, device="cpu")
        return ""

    def chosen() -> str:
        config.load(Settings, run / "settings.json")
        return ""

    def tokenizer() -> str:
        load_tokenizer(run / "tokenizer")
        return ""

    places: list[tuple[Path, Callable[[], str], bool]] = [
        *(
            (newest / name, restore, True)
            for name in (".metadata", "state.json", "index.json", "model.safetensors", "optimizer.safetensors")
        ),
        (newest / "manifest.json", restore, False),
        *((run / "model" / name, weights, False) for name in ("config.json", "model.safetensors", "tokenizer.json")),
        (run / "settings.json", chosen, False),
        (run / "tokenizer" / "tokenizer.json", tokenizer, False),
        *(
            (data / name, data_opened, False)
            for name in ("manifest.json", "tokenizer/tokenizer.json", "train-000000.bin", "val-000000.bin")
        ),
    ]
    for form, content in pickles(mark).items():
        for path, look, listed in places:
            for vouched in (False, True) if listed else (False,):
                before = path.read_bytes() if path.exists() else None
                manifest = (newest / "manifest.json").read_bytes()
                path.write_bytes(content)
                if vouched:
                    _vouch(newest)
                tried += 1
                said = _said(look)
                who = f"{form} as {path.name}{', vouched for' if vouched else ''}"
                if mark.exists():
                    wrong.append(f"{who}: ran")
                    mark.rmdir()
                if path.name not in said and path.parent.name not in said:
                    wrong.append(f"{who}: not rejected by name ({said or 'nothing said'})")
                path.write_bytes(before) if before is not None else path.unlink()
                (newest / "manifest.json").write_bytes(manifest)
    if not _would_run(mark):
        wrong.append("the pickle is harmless, so that this proves nothing")
    return tried, wrong


def _said(look: Callable[[], str]) -> str:
    try:
        return look()
    except ValueError as problem:
        return str(problem)


def _vouch(folder: Path) -> None:
    """Signs the manifest anew, as whoever wanted to do harm would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("checksum")
    manifest["files"] = files.fingerprints(folder, sorted(path.name for path in folder.iterdir() if path.name != "manifest.json"))
    text = json.dumps({**manifest, "checksum": files.json_sha256(manifest)}, indent=2)
    (folder / "manifest.json").write_text(text)


def _would_run(mark: Path) -> bool:
    pickle.loads(pickles(mark)["a pickle"])  # noqa: S301 - to see that it would have
    ran = mark.exists()
    shutil.rmtree(mark, ignore_errors=True)
    return ran
