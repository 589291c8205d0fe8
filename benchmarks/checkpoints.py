"""What checkpoints cost: how long a save holds training up, how much it slows the steps beside it, and how long verifying takes.

    python benchmarks/checkpoints.py [--rounds 5] [--on DIR]

GPT-2 124M and the demo's model with AdamW, on this machine's best device, saved to the disk of DIR. The share of training time is
(what `begin` held up + what the steps beside the writing took longer than others) / the recipe's interval between saves.
Verifying is measured twice: with the files in the system's memory, as after a crash of the process, and read from the disk.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from record import bar, record
from torch import nn
from torch.nn import functional as F

from daybreak import checkpoint, machine
from daybreak.model.init import build
from daybreak.recipes import recipe_settings
from daybreak.settings import Settings
from daybreak.training.optimizers import make_optimizer

# (recipe, sequences and tokens of a measured step: small, so that several fit beside one save)
MEASURED = [("gpt2.124m", 1, 64), ("demo", 8, 128)]


class Training:
    """A recipe's model and optimizer, and steps on random tokens."""

    def __init__(self, settings: Settings, sequences: int, tokens: int) -> None:
        self.device = machine.choose_device()
        if self.device.type == "cpu":
            machine.prepare_cpu()
        shape, plan = settings.model, settings.train
        shape = shape if shape.vocab_size else type(shape)(**{**vars(shape), "vocab_size": 4096})
        self.model: nn.Module = build(shape, 0, self.device)
        self.optimizer = make_optimizer(
            plan.optimizer, self.model, weight_decay=plan.weight_decay, betas=(plan.beta1, plan.beta2), epsilon=plan.epsilon
        )
        self.narrow = machine.choose_precision(self.device) == "bf16"
        self.ids = torch.randint(shape.vocab_size, (sequences, tokens + 1), device=self.device)

    def step(self) -> float:
        """One step; the seconds that it took."""
        started = time.perf_counter()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.narrow):
            loss = F.cross_entropy(self.model(self.ids[:, :-1]).flatten(0, 1), self.ids[:, 1:].flatten())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        float(loss.detach())  # waits for the device
        return time.perf_counter() - started


def saves(training: Training, run: Path, rounds: int) -> list[dict[str, float]]:
    """Saves so often, with steps before each and beside it."""
    saver = checkpoint.Saver(run)
    rows: list[dict[str, float]] = []
    for _ in range(4):
        training.step()
    for number in range(rounds + 1):
        alone = statistics.median(training.step() for _ in range(9))
        busy = time.process_time()
        saver.begin(2 * number, 0, training.model, training.optimizer, {})
        saver.finish()
        busy = time.process_time() - busy
        saver.begin(2 * number + 1, 0, training.model, training.optimizer, {})
        beside = []
        while not saver.done_here:
            beside.append(training.step())
        saved = saver.finish()
        assert saved is not None
        slower = max(0.0, sum(beside) - len(beside) * alone)
        rows.append(
            {
                "bytes": saved.bytes,
                "processor_seconds": busy,
                "held_up_ms": 1000 * saved.held_up,
                "seconds_to_publish": saved.seconds,
                "step_ms": 1000 * alone,
                "steps_beside": len(beside),
                "slowed_seconds": slower,
                "cost_seconds": saved.held_up + slower,
            }
        )
        print({name: round(value, 3) for name, value in rows[-1].items()}, flush=True)
    return rows


def verifying(run: Path, rounds: int) -> dict[str, float]:
    """Seconds to verify and to restore the newest checkpoint."""
    folder = checkpoint.found(run)[-1]
    warm, cold = [], []
    for _ in range(rounds):
        for path in folder.iterdir():
            _forget(path)
        cold.append(_seconds(lambda: checkpoint.problems(folder)))
        warm.append(_seconds(lambda: checkpoint.problems(folder)))
    return {"verify_seconds": statistics.median(warm), "verify_from_disk_seconds": statistics.median(cold)}


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    assert work() == []
    return time.perf_counter() - started


def _forget(path: Path) -> None:
    """Has the system read the file from the disk the next time."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Measures, and records the medians without each model's first save, which makes the memory that the others use again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--on", default=None)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, sequences, tokens in MEASURED:
        settings = recipe_settings(name)
        training = Training(settings, sequences, tokens)
        folder = Path(tempfile.mkdtemp(dir=given.on))
        try:
            first, *others = saves(training, folder, given.rounds)
            row = {key: statistics.median(row[key] for row in others) for key in first}
            restored = time.perf_counter()
            checkpoint.restore(folder, training.model, training.optimizer)
            row |= {"restore_seconds": time.perf_counter() - restored, **verifying(folder, given.rounds)}
        finally:
            shutil.rmtree(folder)
        every = settings.checkpoint.every_seconds
        row |= {"first_held_up_ms": first["held_up_ms"], "every_seconds": every, "share_of_training": row["cost_seconds"] / every}
        rows.append({"recipe": name, **{key: round(value, 5) for key, value in row.items()}})
        del training
        gc.collect()
    large, demo = rows
    record(
        "checkpoints",
        [
            bar("seconds to verify a checkpoint of GPT-2 124M with its moments", large["verify_seconds"], "< 3"),
            bar("the same, read from the disk", large["verify_from_disk_seconds"], "< 3"),
            bar("share of training time that saving costs, GPT-2 124M every 15 minutes", large["share_of_training"], "< 0.02"),
            bar("share of training time that saving costs, the demo every minute", demo["share_of_training"], "< 0.02"),
        ],
        rows,
        packages=("safetensors",),
    )


if __name__ == "__main__":
    main()
