"""Runs that never happened, told as a real one would be: the shapes and sizes of the events, not their truth."""

from __future__ import annotations

import math
import random
from typing import Any

from daybreak.report.record import RunRecord

BEGAN = 1_760_000_000.0
PROMPT = "The sun rose over"
LATER = (
    ", the the of and a\n to , .",
    " the hill, and the men was in the",
    " the hills, and the old men came out of their houses to look at it.",
)


def made_events(
    steps: int = 400,
    batch_tokens: int = 524_288,
    every: int = 20,
    final: float = 3.28,
    seed: int = 0,
    noise: float = 0.06,
    end: bool = True,
) -> list[dict[str, Any]]:
    """A run of so many steps: falling loss with noise, warm-up and cosine, a spike that is skipped, checkpoints and samples."""
    chance = random.Random(seed)
    time, events = BEGAN, []

    def tell(event: str, step: int, **more: Any) -> None:
        events.append({"event": event, "step": step, "tokens": step * batch_tokens, "time": round(time, 3), **more})

    def fallen(step: int) -> float:
        done = (step + 1) / steps
        return final + (10.9 - final) * math.exp(-done * 60) + 1.9 * (1 - final / 10.9) * (1 - math.pow(done, 0.33))

    tell("start", 0, parameters=124_439_808)
    for step in range(1, steps + 1):
        time += 1.7 + chance.random() * 0.1
        rate = 6e-4 * (step / (steps * 0.05) if step < steps * 0.05 else 0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
        loss = fallen(step) + chance.gauss(0, noise)
        spike = step == int(steps * 0.43)
        norm = abs(chance.gauss(0.34, 0.05)) + 4 * math.exp(-step / steps * 60) + (9.0 if spike else 0)
        speed = batch_tokens / 1.75 * chance.gauss(1, 0.012) * (0.4 if step < 3 else 1)
        tell(
            "step",
            step,
            loss=None if spike else round(loss, 6),
            learning_rate=rate,
            grad_norm=round(norm, 5),
            tokens_per_second=round(speed, 1),
        )
        if spike:
            tell("skip", step, reason="gradient norm 9.4 is 12 deviations above its mean")
        if step % every == 0:
            time += 6
            val = fallen(step) + 0.02
            tell("eval", step, val_loss=round(val, 6), bits_per_byte=round(val / math.log(2) / 4.46, 6), perplexity=round(math.exp(val), 4))
        if step % (every * 4) == 0:
            tell("checkpoint", step, path=f"checkpoints/step-{step:09d}")
            text = LATER[min(2, int(step / steps * 3))]
            tell("sample", step, prompt=PROMPT, text=PROMPT + text)
            tell("sample", step, prompt="Q: What is a gradient? A:", text=text)
    if end:
        val = fallen(steps) + 0.02
        compressors = {"gzip -9": 2.913, "xz -9": 2.402}
        tell(
            "end",
            steps,
            val_loss=val,
            bits_per_byte=val / math.log(2) / 4.46,
            seconds=time - BEGAN,
            compressors=compressors,
            val_bytes=46_000_000,
        )
    return events


def made_run(name: str = "dawn", learning_rate: float = 6e-4, **how: Any) -> RunRecord:
    """A whole record around `made_events(**how)`."""
    return RunRecord(
        name=name,
        settings={
            "model": {"n_layer": 12, "n_head": 12, "d_model": 768, "context_length": 1024, "vocab_size": 50257, "dropout": 0.0},
            "train": {"learning_rate": learning_rate, "weight_decay": 0.1, "grad_clip": 1.0, "batch_tokens": 524_288, "compile": True},
            "data": {"folder": "data/fineweb", "seed": 1337, "splits": ["train", "val"]},
        },
        events=made_events(**how),
        data={
            "sources": [{"name": "FineWeb-Edu 10B", "documents": 9_672_101}],
            "documents": 9_672_101,
            "tokens": {"train": 9_900_000_000, "val": 100_000_000},
            "bytes": 46_200_000_000,
            "tokenizer": {"name": "gpt2", "sha256": "1f" * 32},
            "shards": {f"train-{i:06d}.bin": {"bytes": 200_001_024, "sha256": "ab" * 32} for i in range(99)},
        },
        facts={
            "parameters": 124_439_808,
            "device": "one NVIDIA H200",
            "precision": "bfloat16",
            "flops_per_token": 8.55e8,
            "versions": {"torch": "2.11.0", "python": "3.12.3", "daybreak": "0.1.0"},
        },
    )
