"""A tiny text, the settings of a tiny run, and the command line in this process: what many tests begin with."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daybreak import config
from daybreak.model.config import GPTConfig
from daybreak.settings import CheckpointSettings, DataSettings, EvalSettings, MachineSettings, SampleSettings, Settings, TrainSettings

SUBJECTS = ("the sun", "a model", "the night", "every token", "a small café", "the loss")
VERBS = ("rises", "learns", "falls", "predicts", "waits", "counts")
ENDS = ("at dawn.", "in the east.", "from the text.", "once more.", "and again!", "over the hill.")


def tiny_documents(count: int = 40, seed: int = 0) -> Iterator[str]:
    """English of a kind, the same for the same seed: `count` different documents of about 150 characters."""
    draw = random.Random(seed)
    for number in range(count):
        sentences = (f"{draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(ENDS)}".capitalize() for _ in range(5))
        yield f"{number}. {' '.join(sentences)}\n"


def write_jsonl(path: Path, documents: Iterator[str]) -> Path:
    """The documents as a .jsonl file."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return path


def tiny_settings(data_dir: Path, *edits: str, **named: Any) -> Settings:
    """A run of ten steps: 2 layers, 32 wide, context 16, batches of 64 tokens, in fp32 on one CPU thread.

    `tiny_settings(data_dir, "train.seed=3", "eval.every_tokens=64")`; or `**{"train.seed": 3}`.
    """
    settings = Settings(
        recipe="tiny",
        model=GPTConfig(vocab_size=None, context_length=16, n_layer=2, n_head=2, d_model=32),
        data=DataSettings(dir=str(data_dir)),
        train=TrainSettings(train_tokens=640, batch_tokens=64, learning_rate=1e-2, warmup_tokens=128),
        eval=EvalSettings(every_tokens=256, tokens=128),
        sample=SampleSettings(every_tokens=256, prompts=("The sun",), max_tokens=8),
        checkpoint=CheckpointSettings(every_seconds=1e6),
        machine=MachineSettings(device="cpu", precision="fp32", threads=1),
    )
    return config.edit(settings, [*edits, *(f"{path}={value}" for path, value in named.items())])


def tiny_words(data_dir: Path) -> list[str]:
    """The same run for the command line: `daybreak train demo *tiny_words(data_dir)`."""
    differing = config.differences(tiny_settings(data_dir), Settings())
    as_text = {path: ",".join(value) if isinstance(value, tuple) else str(value) for path, value, _ in differing}
    return [f"{path}={value}" for path, value in as_text.items() if path != "recipe"]
