"""What needs a GPU: kernels checked against the plain one and timed, a run stopped and resumed, tokens per second at every GPT-2 size.

    bash benchmarks/gpu.sh

Without a GPU the same runs on a tiny model, so that this file is known to work before a GPU is at hand.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import flash
import numpy as np
import torch
from attention import milliseconds
from record import bar, record

import daybreak as db
from daybreak import machine
from daybreak.data.batches import Ahead
from daybreak.data.prepare import prepare
from daybreak.model import flex
from daybreak.model.attention import KERNELS, Kernel, blocked
from daybreak.model.flops import flops_per_token
from daybreak.training.precision import MixedPrecision

DEVICE = machine.choose_device()
ON_GPU = DEVICE.type == "cuda"
TINY = db.GPTConfig(vocab_size=300, context_length=64, n_layer=2, n_head=2, d_model=64)
# (size, sequences at once, steps that are timed)
SIZES = [("124m", 32, 20), ("355m", 16, 12), ("774m", 8, 10), ("1558m", 4, 8)]


class RandomTokens:
    """Tokens to measure speed on; random ones, as constant ones run faster on some devices."""

    def __init__(self, vocab_size: int, count: int) -> None:
        self._tokens = np.random.default_rng(0).integers(0, vocab_size, count, dtype=np.uint16)

    def __len__(self) -> int:
        return len(self._tokens)

    def windows(self, starts: Any, length: int) -> Any:
        """(n,) starts -> (n, length)."""
        return np.stack([self._tokens[start : start + length] for start in starts])


def check_kernels() -> list[dict[str, Any]]:
    """Relative error of each attention kernel against the plain one in fp64, dense and banded, forward and backward."""
    kernels: dict[str, Kernel] = {**KERNELS, "blocked": blocked, **({"flex": flex.attention} if ON_GPU else {})}
    rows = []
    for (dtype, limit), band in itertools.product(((torch.float32, 1e-3), (torch.bfloat16, 2e-2)), (None, 100)):
        exact = [torch.randn(2, 4, 256, 64, device=DEVICE, dtype=torch.float64, requires_grad=True) for _ in range(3)]
        reference = KERNELS["plain"](*exact, 0.0, band)
        weight = torch.randn_like(reference)
        wanted = [reference, *torch.autograd.grad((reference * weight).sum(), exact)]
        for name, kernel in kernels.items():
            inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in exact]
            out = kernel(*inputs, 0.0, band)
            came = [out, *torch.autograd.grad((out * weight.to(dtype)).sum(), inputs)]
            errors = [float((a.detach().double() - b.detach()).norm() / b.detach().norm()) for a, b in zip(came, wanted, strict=True)]
            rows.append({"kernel": name, "band": band, "dtype": str(dtype), "worst_relative_error": max(errors), "limit": limit})
    return rows


def time_band() -> dict[str, Any]:
    """Milliseconds of attention, forward and backward, dense and with GPT-3's band of 256 in 2,048 tokens."""
    T, band, B, H = (2048, 256, 8, 12) if ON_GPU else (256, 32, 1, 2)
    kernels: dict[str, tuple[Kernel, int | None]] = {
        "dense auto": (KERNELS["auto"], None),
        "banded auto": (KERNELS["auto"], band),
        "banded blocked": (blocked, band),
        "banded fused": (KERNELS["fused"], band),
    }
    took = milliseconds(kernels, (B, H, T, 64), DEVICE, torch.bfloat16 if ON_GPU else torch.float32, rounds=10 if ON_GPU else 2)
    return {"check": "band", "tokens": T, "band": band, "sequences": B, "heads": H, "milliseconds": took}


def check_resume() -> dict[str, Any]:
    """A small run straight through, and one stopped half-way and resumed: the largest difference between their losses."""
    generator = random.Random(0)
    words = ["sun", "moon", "rises", "sets", "over", "the", "sea", "and", "hills", "slowly"]
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text(" ".join(generator.choice(words) for _ in range(40_000)), encoding="utf-8")
        for _ in prepare([str(text)], Path(folder) / "data", tokenizer="bytes", val_fraction=0.1, workers=1):
            pass
        edits = [
            f"data.dir={Path(folder) / 'data'}",
            "model.n_layer=2",
            "model.d_model=64",
            "model.n_head=2",
            "model.context_length=64",
            "model.dropout=0.1",
            "train.batch_tokens=2048",
            "train.train_tokens=81920",
            "train.warmup_tokens=8192",
            "sample.every_tokens=1B",
        ]
        settings = db.edit(db.recipes.demo.demo(), edits)
        straight = [event["loss"] for event in db.events(settings, Path(folder) / "straight") if event["event"] == "step"]
        resumed: list[float] = []
        for _ in range(2):
            for event in db.events(settings, Path(folder) / "resumed"):
                if event["event"] == "step":
                    resumed.append(event["loss"])
                    if event["step"] == 20 and len(resumed) == 20:
                        os.kill(os.getpid(), signal.SIGINT)
    difference = max(abs(a - b) for a, b in zip(straight, resumed, strict=True))
    return {
        "check": "resume",
        "steps": len(straight),
        "first_loss": straight[0],
        "last_loss": straight[-1],
        "largest_difference": difference,
    }


def measure(name: str, config: db.GPTConfig, sequences: int, steps: int) -> dict[str, Any]:
    """Trains on random tokens and takes the median step; the first three are warm-up."""
    precision = machine.choose_precision(DEVICE)
    model = db.build(config, 0, DEVICE)
    optimizer = db.make_optimizer("adamw", model, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8)
    tokens = RandomTokens(config.tokens, 4 * sequences * config.context_length + 1)
    batch_tokens = sequences * config.context_length
    batches = db.Batches(tokens, context_length=config.context_length, batch_tokens=batch_tokens, micro_batch=sequences)
    schedule = db.warmup_cosine(3e-4, 3e-5, 10 * batch_tokens, 1000 * batch_tokens)
    ahead, seconds, last = Ahead(batches, DEVICE), [], time.perf_counter()
    for step in db.train(model, optimizer, ahead, schedule, steps=steps + 3, precision=MixedPrecision(precision, DEVICE)):
        loss = float(step.loss)  # waits for the device
        seconds.append(time.perf_counter() - last)
        last = time.perf_counter()
    ahead.close()
    speed = batch_tokens / statistics.median(seconds[3:])
    peak = machine.peak_flops(DEVICE)
    return {
        "size": name,
        "precision": precision,
        "sequences": sequences,
        "context_length": config.context_length,
        "tokens_per_second": round(speed, 1),
        "share_of_peak": round(speed * flops_per_token(config) / peak, 4) if peak else "unknown",
        "memory_gb": round(machine.peak_memory(DEVICE) / 1e9, 2),
        "last_loss": round(loss, 4),
    }


def main() -> None:
    """Everything, most important first."""
    kernels = check_kernels()
    resume = check_resume()
    band = time_band()
    flash_bars, flash_rows = flash.measure()
    rows: list[dict[str, Any]] = [*kernels, resume, band, *flash_rows]
    if ON_GPU:
        for name, sequences, steps in SIZES:
            torch.cuda.reset_peak_memory_stats()
            rows.append(measure(name, db.recipes.gpt2.size(name).model, sequences, steps))
            print(rows[-1], flush=True)
            torch.cuda.empty_cache()
    else:
        rows.append(measure("tiny", TINY, 8, 5))
    bars = [
        bar(
            f"{row['kernel']} attention over {row['band'] or 'all'} tokens in {row['dtype']}: relative error",
            row["worst_relative_error"],
            f"<= {row['limit']}",
        )
        for row in kernels
    ]
    bars += flash_bars
    bars.append(bar("largest difference of a loss after a resume", resume["largest_difference"], "<= 1e-3"))
    if ON_GPU:
        ratio = band["milliseconds"]["banded auto"] / band["milliseconds"]["dense auto"]
        bars.append(bar(f"time of a band of {band['band']} to dense attention, {band['tokens']} tokens", ratio, "< 1"))
    # The tiny run on a CPU only shows that this works; a GPU's figures are not to be overwritten by it.
    record("gpu" if ON_GPU else "gpu_tiny", bars, rows)


if __name__ == "__main__":
    main()
