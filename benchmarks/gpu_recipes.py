"""The recipes at 124M for as long as the machine is to be had: what share of the faithful recipe's tokens and time the modern one needs.

Part of gpu.py, and too long to fit beside the others: `bash benchmarks/gpu.sh --only recipes`. The text is the code that lies in every
Python with torch (`python:code`), so nothing has to be brought. One seed, one validation text, one evaluation for all: the faithful recipe
at two learning rates, the better of which sets the target; then the modern one at shares of its tokens, each with a whole schedule.
"""

from __future__ import annotations

import gc
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_train import BEST, DEVICE, ON_GPU, TINY, Found
from recipes import QUIET, scaled_rates
from record import bar

import daybreak as db
from daybreak import config, files, trial
from daybreak.data.prepare import prepare
from daybreak.recipes import recipe_settings
from daybreak.settings import Settings

SEQUENCES = 64 if ON_GPU else 4
WARMUP = 0.05
"""Of a run's tokens, where the recipe warms up at all."""
RUNS = (("gpt2.124m", 1.0, 1.0), ("gpt2.124m", 3.0, 1.0), ("modern.124m", 1.0, 1 / 3), ("modern.124m", 1.0, 1 / 4))
"""(recipe, times its learning rates, share of the faithful run's tokens), in the order in which they are run."""
IF_TIME_IS_LEFT = (("gpt2.124m-tuned", 1.0, 1 / 2), ("modern.124m", 1.0, 1 / 2), ("gpt2.124m", 6.0, 1.0))
BESIDE = 20.0 if ON_GPU else 0.0
"""Seconds that a run takes beside its steps: to compile, to evaluate, to save."""
CAREFUL = 0.8
"""The speed to reckon with, in the faithful recipe's: the modern one's steps take longer."""
JUDGED = 2**20


class Ran(NamedTuple):
    """What a run came to."""

    recipe: str
    factor: float
    share: float
    tokens: int
    val_loss: float
    bits_per_byte: float
    tokens_per_second: float

    @property
    def seconds(self) -> float:
        """Of training, without what happens once."""
        return self.tokens / self.tokens_per_second


def compare(seconds: float) -> Found:
    """Runs what fits into so many seconds."""
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vocab_size = prepared(folder)
        plain = settings_for("gpt2.124m", vocab_size, folder, 1.0, 10**9)
        speed = trial.measure(plain, 3.0 if ON_GPU else 0.01).tokens_per_second
        batch = plain.train.batch_tokens
        spent = sum(share for _, _, share in RUNS)
        whole = CAREFUL * speed * max(0.0, deadline - time.monotonic() - len(RUNS) * BESIDE) / spent if ON_GPU else 12 * batch
        rows: list[dict[str, Any]] = [{"check": "recipes", "faithful_tokens": int(whole), "batch_tokens": batch, "vocabulary": vocab_size}]
        ran = []
        for number, (recipe, factor, share) in enumerate((*RUNS, *IF_TIME_IS_LEFT)):
            tokens = max(batch, round(whole * share / batch) * batch)
            if ON_GPU and number > 1 and time.monotonic() + tokens / (CAREFUL * speed) + BESIDE > deadline:
                rows.append({"check": "recipes", "recipe": recipe, "share": share, "left_out": "no time was left"})
                continue
            settings = settings_for(recipe, vocab_size, folder, factor, tokens)
            came = Ran(recipe, factor, round(share, 4), tokens, *trained(settings, folder / f"run-{number}"))
            print(f"  {came}", flush=True)
            rows.append({"check": "recipes", **came._asdict(), "seconds": round(came.seconds, 1)})
            ran.append(came)
    return judged(ran), rows


def judged(ran: list[Ran]) -> list[dict[str, Any]]:
    """The bars: of the modern runs that reach the faithful recipe's best, the shortest; 1 where none does."""
    faithful = min((each for each in ran if each.recipe == "gpt2.124m"), key=lambda each: each.val_loss)
    reached = [each for each in ran if each.recipe == "modern.124m" and each.val_loss <= faithful.val_loss]
    best = min(reached, key=lambda each: each.tokens, default=faithful)
    if not ON_GPU:
        return []
    return [
        bar("124M: share of the faithful recipe's tokens that the modern one needs", best.tokens / faithful.tokens, "<= 0.3334"),
        bar("124M: share of its time", best.seconds / faithful.seconds, "<= 0.4"),
    ]


def prepared(folder: Path) -> int:
    """Makes the data set, and tells its vocabulary's size."""
    source, tokenizer = "python:code", "bpe"
    if not ON_GPU:
        draw = random.Random(0)
        (folder / "text.txt").write_text(" ".join(draw.choice(("sun", "moon", "sea", "hill")) for _ in range(20_000)), encoding="utf-8")
        source, tokenizer = str(folder / "text.txt"), "bytes"
    for _ in prepare([source], folder / "data", tokenizer=tokenizer, vocab_size=8192, val_fraction=0.02 if ON_GPU else 0.1):
        pass
    return int(files.read_json(folder / "data" / "manifest.json")["tokenizer"]["vocab_size"])


def settings_for(recipe: str, vocab_size: int, folder: Path, factor: float, tokens: int) -> Settings:
    """A recipe on the data, in steps of one micro-batch, at its best on this device."""
    base = recipe_settings(recipe)
    model = () if ON_GPU else tuple(f"model.{name}={getattr(TINY, name)}" for name in ("context_length", "n_layer", "n_head", "d_model"))
    context = base.model.context_length if ON_GPU else TINY.context_length
    batch = SEQUENCES * context
    plan = (f"train.train_tokens={tokens}", f"train.batch_tokens={batch}", f"train.micro_batch={SEQUENCES}")
    warmup = round(tokens * WARMUP / batch) * batch if base.train.warmup_tokens else 0
    place = (f"data.dir={folder / 'data'}", f"model.vocab_size={vocab_size}", f"machine.device={DEVICE.type}")
    levers = [edit for edit in BEST if "optimizer" not in edit and (ON_GPU or "compile" not in edit)]
    quiet = (*QUIET, f"eval.final_tokens={JUDGED if ON_GPU else 1024}")
    return config.edit(base, [*model, *place, *plan, f"train.warmup_tokens={warmup}", *levers, *quiet, *scaled_rates(recipe, (), factor)])


def trained(settings: Settings, out: Path) -> tuple[float, float, float]:
    """Validation loss, bits per byte and the median of the steps' tokens a second."""
    torch.compiler.reset()  # after a few shapes of one piece of code the compiler gives up on it
    speeds, end = [], {}
    for event in db.events(settings, out):
        if event["event"] == "step":
            speeds.append(event["tokens_per_second"])
        end = event
    gc.collect()
    if ON_GPU:
        torch.cuda.empty_cache()
    return end["val_loss"], end["bits_per_byte"], statistics.median(speeds)
