"""A tiny model that trains for a few steps and saves itself: what the tests of checkpoints begin with."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from daybreak import checkpoint
from daybreak.data.batches import Batch
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.training.loop import train
from daybreak.training.optimizers import make_optimizer

FILES = ["index.json", "manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]


class OneBatch:
    """A batch of one sequence of 8 tokens a step."""

    def __getitem__(self, step):
        tokens = torch.arange(9)[None] + step
        return [Batch(tokens[:, :-1], tokens[:, 1:])]

    def tokens_after(self, step):
        return 8 * (step + 1)


class Run:
    """A model and its optimizer, trained for some steps with dropout."""

    def __init__(self, folder: Path, optimizer: str = "adamw", seed: int = 0, n_layer: int = 1, d_model: int = 8) -> None:
        self.folder = folder
        shape = GPTConfig(vocab_size=64, context_length=8, n_layer=n_layer, n_head=1, d_model=d_model, dropout=0.2)
        self.model = build(shape, seed)
        self.optimizer = make_optimizer(optimizer, self.model, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8)
        self.done = 0

    def train(self, to: int) -> list[float]:
        """Takes the steps up to `to` and returns their losses."""
        steps = train(self.model, self.optimizer, OneBatch(), lambda tokens: 1e-2, steps=to, start=self.done)
        losses = [float(step.loss) for step in steps]
        self.done = to
        return losses

    def save(self, keep: int = 2, **state: Any) -> Path:
        """Saves and waits."""
        named = {"model": self.model, "optimizer": self.optimizer, "state": state, "keep": keep}
        return checkpoint.save(self.folder, step=self.done, tokens=8 * self.done, **named)

    def begin(self, saver: checkpoint.Saver, hurry: bool = False, **state: Any) -> None:
        """Begins to save."""
        saver.begin(self.done, 8 * self.done, self.model, self.optimizer, state, hurry=hurry)

    def restore(self, **named: Any) -> checkpoint.Restored | None:
        """Goes on from the newest checkpoint."""
        restored = checkpoint.restore(self.folder, self.model, self.optimizer, **named)
        if restored is not None:
            self.done = restored.step
        return restored

    def names(self) -> list[str]:
        """The published checkpoints."""
        return [path.name for path in checkpoint.found(self.folder)]

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of the weights."""
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}


def same(one, other):
    """Whether two dicts hold the same tensors, bit for bit."""
    return set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)


def hidden(run_dir: Path) -> list[str]:
    """What is left of unfinished work."""
    return sorted(path.name for path in (run_dir / "checkpoints").glob(".*"))


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def evil_pickle(mark: Path) -> bytes:
    """Bytes that make the folder `mark` if they are ever unpickled."""
    return pickle.dumps(Evil(mark))
