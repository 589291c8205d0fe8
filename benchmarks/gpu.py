"""What needs a GPU: the ladder of speed, every GPT-2 size beside nanoGPT, kernels checked and timed, decoding, a run stopped and resumed.

    bash benchmarks/gpu.sh [--peer nanogpt=DIR]

Without a GPU the same runs on a tiny model, so that this file is known to work before a GPU is at hand.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flash
import torch
from attention import milliseconds
from gpu_decode import decoding
from gpu_recipes import compare
from gpu_train import Found, Training
from record import bar, record

import daybreak as db
from daybreak import machine
from daybreak.data.prepare import prepare
from daybreak.model import flex
from daybreak.model.attention import KERNELS, Kernel, blocked

DEVICE = machine.choose_device()
ON_GPU = DEVICE.type == "cuda"


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
            f"machine.threads={torch.get_num_threads()}",
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


def kernels() -> Found:
    """Errors of each attention kernel, as bars."""
    rows = check_kernels()
    bars = [
        bar(
            f"{row['kernel']} attention over {row['band'] or 'all'} tokens in {row['dtype']}: relative error",
            row["worst_relative_error"],
            f"<= {row['limit']}",
        )
        for row in rows
    ]
    return bars, rows


def resume() -> Found:
    """Stopped and resumed."""
    row = check_resume()
    return [bar("largest difference of a loss after a resume", row["largest_difference"], "<= 1e-3")], [row]


def band() -> Found:
    """A band beside dense attention."""
    row = time_band()
    ratio = row["milliseconds"]["banded auto"] / row["milliseconds"]["dense auto"]
    name = f"time of a band of {row['band']} to dense attention, {row['tokens']} tokens"
    return [bar(name, ratio, "< 1")] if ON_GPU else [], [row]


def parts(training: Training, peers: dict[str, str], left: Callable[[], float]) -> Iterator[tuple[str, float, Callable[[], Found]]]:
    """Name, seconds that it is expected to take on a GPU, and the part itself; most important first. `left`: the seconds that are left.

    The last takes a call of its own: --only recipes.
    """
    there = "nanogpt" in peers
    yield "attention kernels against fp64", 40, kernels
    yield "the ladder at 124M", 150, training.climb
    if there:
        yield "nanoGPT at 124M", 50, lambda: training.nanogpt("124m", peers["nanogpt"])
    yield "1558M", 60, lambda: training.size("1558m")
    if there:
        yield "nanoGPT at 1558M", 50, lambda: training.nanogpt("1558m", peers["nanogpt"])
    yield "decoding", 60, decoding
    yield "stopped and resumed", 15, resume
    yield "FlashAttention by context", 40, flash.measure
    yield "copies and shards on one device", 25, training.layouts
    yield "774M", 40, lambda: training.size("774m")
    yield "355M", 40, lambda: training.size("355m")
    yield "optimizers", 20, training.optimizers
    yield "a band of attention", 15, band
    yield "recipes at 124M", 400, lambda: compare(left() - 15)


def main() -> int:
    """Every part for which there is time left; what was found is written after each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", action="append", default=[], metavar="nanogpt=DIR", help="Where nanoGPT lies, to be measured beside.")
    parser.add_argument("--seconds", type=float, default=560.0, help="How long all may take; parts that no longer fit are left out.")
    parser.add_argument("--only", help="Only parts whose name contains this.")
    arguments = parser.parse_args()
    peers = dict(peer.partition("=")[::2] for peer in arguments.peer)
    for name, folder in list(peers.items()):
        if not (Path(folder) / "model.py").is_file():
            print(f"{name}: no model.py in {folder}; its parts are left out")
            del peers[name]
    began = time.monotonic()
    if not ON_GPU:
        torch.set_num_threads(1)  # for so small a model more only wait for each other
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
    training = Training()
    bars: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = [{"check": "ceilings", **training.ceilings.as_dict()}]
    failed = 0
    for name, expected, part in parts(training, peers, lambda: arguments.seconds - (time.monotonic() - began)):
        spent = time.monotonic() - began
        if arguments.only and arguments.only not in name:
            continue
        if ON_GPU and spent + expected > arguments.seconds:
            rows.append({"part": name, "left_out": f"{arguments.seconds - spent:.0f} seconds were left, {expected:.0f} wanted"})
            continue
        print(f"{spent:5.0f} s  {name}", flush=True)
        try:
            new_bars, new_rows = part()
        except Exception as error:  # the other parts go on
            traceback.print_exc()
            new_bars, new_rows, failed = [], [{"part": name, "failed": f"{type(error).__name__}: {error}"}], failed + 1
        bars += new_bars
        rows += [*new_rows, {"part": name, "seconds": round(time.monotonic() - began - spent, 1)}]
        # The tiny run on a CPU only shows that this works; a GPU's figures are not to be overwritten by it.
        record("gpu" if ON_GPU else "gpu_tiny", bars, rows, show=False)
    record("gpu" if ON_GPU else "gpu_tiny", bars, rows)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
