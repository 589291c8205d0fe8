"""Training on a GPU: the ladder, every GPT-2 size, nanoGPT beside it, layouts over one device, and optimizers. Parts of gpu.py."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from record import bar

import daybreak as db
from daybreak import config, ladder, machine
from daybreak.model.config import GPTConfig
from daybreak.settings import Settings
from daybreak.shares import Ceilings
from daybreak.training.parallel import Across, Layout, across
from daybreak.trial import OutOfMemory, Trial, TrialFailed, measure
from daybreak.world import World

DEVICE = machine.choose_device()
ON_GPU = DEVICE.type == "cuda"
SECONDS = 1.0 if ON_GPU else 0.01
TINY = GPTConfig(vocab_size=300, context_length=64, n_layer=2, n_head=2, d_model=64)
# (size, micro-batches to try): on 141 GB
SIZES = {"124m": (64,), "1558m": (16, 8), "774m": (32,), "355m": (32,)}
WANTED = {"124m": 0.50, "1558m": 0.52}
"""Shares of the maker's peak."""
BEYOND_NANOGPT = 1.15
BEST = ("machine.precision=auto", "machine.compile=true", "machine.attention=rule", "machine.loss_chunk=1024", "train.optimizer=adamw")
"""How the larger sizes are trained, unless the ladder of the smallest has found better."""

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""Bars and rows."""


class Training:
    """What the parts know of each other: the ceilings, and what was found best."""

    def __init__(self) -> None:
        self.ceilings = Ceilings.measure(DEVICE)
        self.edits = BEST if ON_GPU else tuple(each for each in BEST if "compile" not in each)
        self.speeds: dict[str, float] = {}
        """By size, tokens a second."""

    def climb(self) -> Found:
        """The whole ladder at 124M."""
        settings = of("124m", 64 if ON_GPU else 4)
        rows = []
        for row in ladder.climb(settings, DEVICE, self._measure, SECONDS):
            print(f"  {row.name}: {row.problem or row.trial}", flush=True)
            rows.append(row)
        found = ladder.Ladder(rows)
        best, drift = found.best, found.drift
        if best is None or best.trial is None:
            return [], [{"check": "ladder", "problem": rows[-1].problem}]
        if ON_GPU:
            levers = ("machine.precision", "machine.compile", "machine.attention", "machine.loss_chunk", "train.optimizer")
            values = config.to_dict(best.choice.settings)
            self.edits = tuple(f"{path}={str(values[path.partition('.')[0]][path.partition('.')[2]]).lower()}" for path in levers)
        told = [
            {"check": "ladder", "rung": row.name, "kept": row.kept, "again": row.again, **self._row(settings, row.trial, row.problem)}
            for row in rows
        ]
        told.append({"check": "ladder", "best": best.name, "edits": list(self.edits), "drift": drift})
        return self._bars("124m", settings, best.trial), told

    def size(self, name: str) -> Found:
        """One size: 16 bits as it is written, then with all levers, at the micro-batches that are worth a try."""
        rows, best = [], None
        sizes = SIZES[name] if ON_GPU else (4,)
        plain = ("machine.precision=auto", "machine.attention=rule", "machine.loss_chunk=0")
        for label, edits, sequences in [("16 bits alone", plain, sizes[-1]), *(("all levers", self.edits, each) for each in sizes)]:
            settings = config.edit(of(name, sequences), edits)
            trial, problem = self._try(settings)
            rows.append({"check": "size", "size": name, "levers": label, **self._row(settings, trial, problem), "micro_batch": sequences})
            print(f"  {rows[-1]}", flush=True)
            if label == "all levers" and trial and (best is None or trial.tokens_per_second > best.tokens_per_second):
                best = trial
        return (self._bars(name, of(name, 1), best) if best else []), rows

    def nanogpt(self, name: str, folder: str) -> Found:
        """nanoGPT's model in its best configuration: 16 bits, compiled as a whole, its fused optimizer; micro-batches tried, too."""
        tried = {}
        for sequences in {"124m": (32, 64)}.get(name, (16,)) if ON_GPU else (4,):
            with contextlib.suppress(torch.OutOfMemoryError):
                tried[sequences] = nanogpt_speed(of(name, sequences), folder, sequences)
            torch.compiler.reset()
            if ON_GPU:
                torch.cuda.empty_cache()
        rows = [{"check": "nanogpt", "size": name, "tokens_per_second": tried}]
        print(f"  {rows[-1]}", flush=True)
        if name not in self.speeds or not tried:
            return [], rows
        ratio = self.speeds[name] / max(tried.values())
        return [bar(f"{name}: speed, in speeds of nanoGPT's best", ratio, f">= {BEYOND_NANOGPT}")] if ON_GPU else [], rows

    def layouts(self) -> Found:
        """One device as a process group of one: what copies and shards cost where nothing has to be sent."""
        sequences = 16 if ON_GPU else 4
        settings = config.edit(of("124m", sequences), ["machine.precision=auto", "machine.attention=rule"])
        rows = [{"check": "layout", "layout": "single", **self._row(settings, *self._try(settings))}]
        with group_of_one():
            layouts: tuple[Layout, ...] = ("ddp", "fsdp")
            for layout in layouts:
                world = World(0, 0, 1, 1)
                precision = machine.choose_precision(DEVICE)
                ways = across(layout, world, DEVICE, torch.bfloat16 if precision == "bf16" else None)
                rows.append({"check": "layout", "layout": layout, **self._row(settings, *self._try(settings, ways))})
        return [], rows

    def optimizers(self) -> Found:
        """A step's milliseconds with Muon and with AdamW; the difference is the optimizer's."""
        rows = []
        for name in ("adamw", "muon", "adamw-plain"):
            settings = config.edit(of("124m", 16 if ON_GPU else 4), ["machine.precision=auto", f"train.optimizer={name}"])
            rows.append({"check": "optimizer", "optimizer": name, **self._row(settings, *self._try(settings))})
        return [], rows

    def _measure(self, settings: Settings, seconds: float, padded: bool) -> Trial:
        if settings.machine.compile and not ON_GPU:
            raise TrialFailed("left out here, where compiling takes longer than all the rest")
        try:
            return measure(settings, seconds, padded)
        except TrialFailed:
            raise
        except Exception as error:  # a rung that fails is a row
            raise TrialFailed(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error

    def _try(self, settings: Settings, ways: Across | None = None) -> tuple[Trial | None, str]:
        try:
            return measure(settings, SECONDS, ways=ways), ""
        except OutOfMemory as error:
            return None, str(error)

    def _row(self, settings: Settings, trial: Trial | None, problem: str) -> dict[str, Any]:
        if trial is None:
            return {"problem": problem}
        return {**dataclasses.asdict(trial), **self.ceilings.share(settings.model, trial.tokens_per_second).as_dict()}

    def _bars(self, name: str, settings: Settings, trial: Trial) -> list[dict[str, Any]]:
        self.speeds[name] = max(trial.tokens_per_second, self.speeds.get(name, 0.0))
        if name not in WANTED or self.ceilings.peak is None:
            return []
        share = self.ceilings.share(settings.model, trial.tokens_per_second).of_peak
        return [bar(f"{name}: share of the peak of {self.ceilings.peak / 1e12:.0f} TFLOP/s", share or 0.0, f">= {WANTED[name]}")]


def of(name: str, sequences: int) -> Settings:
    """A size in steps of one micro-batch; a tiny model without a GPU."""
    settings = db.recipes.gpt2.size(name)
    if not ON_GPU:
        settings = dataclasses.replace(settings, model=TINY)
    plan = (f"train.batch_tokens={sequences * settings.model.context_length}", f"train.micro_batch={sequences}")
    return config.edit(settings, [*plan, f"machine.device={DEVICE.type}"])


@contextlib.contextmanager
def group_of_one() -> Iterator[None]:
    """A process group with nobody else in it."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if ON_GPU else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def nanogpt_speed(settings: Settings, folder: str, sequences: int) -> float:
    """Tokens a second of nanoGPT's model with the order of a step of its train.py."""
    if folder not in sys.path:
        sys.path.insert(0, folder)
    theirs = importlib.import_module("model")
    shape = settings.model
    sizes = {"n_layer": shape.n_layer, "n_head": shape.n_head, "n_embd": shape.d_model}
    gpt_config = theirs.GPTConfig(block_size=shape.context_length, vocab_size=shape.padded_vocab_size, dropout=0.0, bias=True, **sizes)
    torch.manual_seed(0)
    model = theirs.GPT(gpt_config).to(DEVICE)
    optimizer = model.configure_optimizers(0.1, 3e-4, (0.9, 0.95), DEVICE.type)
    called = torch.compile(model) if ON_GPU else model
    torch.set_float32_matmul_precision("high")  # as its train.py allows TF32
    tokens = torch.randint(shape.tokens, (8, sequences, shape.context_length + 1), device=DEVICE)
    bf16 = machine.choose_precision(DEVICE) == "bf16"
    try:
        taken, last = [], time.perf_counter()
        for number in range(3 + (20 if ON_GPU else 3)):
            rows = tokens[number % len(tokens)]
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
                _, loss = called(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            machine.wait(DEVICE)
            taken.append(time.perf_counter() - last)
            last = time.perf_counter()
        return round(sequences * shape.context_length / statistics.median(taken[3:]), 1)
    finally:
        torch.set_float32_matmul_precision("highest")
