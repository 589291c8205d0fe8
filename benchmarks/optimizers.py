"""What Muon costs, counted and measured, and a race of all optimizers where text is given.

python benchmarks/optimizers.py [--data DIR --tokens 2000000 --tries 6 --threads 2]

Counted: the operations of Muon's iterations as a share of a training step's, for the published sizes at half a million tokens a step.
Measured: two blocks of the 124M shape in the machine's number format, the optimizer's step beside forward and backward, and what share
that is at half a million tokens. The race is `daybreak bench optimizers` on a small model; its plot lies beside the results.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from record import RESULTS, bar, record
from torch.nn import functional as F

from daybreak import config, machine, opening, racing
from daybreak.cli.race import figures
from daybreak.model.config import SIZES
from daybreak.model.flops import flops_per_token
from daybreak.model.gpt import GPT
from daybreak.model.init import build
from daybreak.racing_plot import draw
from daybreak.recipes import recipe_settings
from daybreak.training.optimizers import make_optimizer
from daybreak.training.optimizers.muon import Muon
from daybreak.training.optimizers.together import Together
from daybreak.training.precision import MixedPrecision

STEP = 524_288
RACE = (
    *("model.n_layer=4", "model.n_head=4", "model.d_model=128", "model.context_length=128", "model.vocab_size=none"),
    *("train.batch_tokens=8192", "train.schedule=linear", "train.final_learning_rate=0"),
)


def muon_of(model: GPT, dtype: torch.dtype | None = None) -> tuple[Together, Muon]:
    """The optimizer of a model, and its part that is Muon."""
    both = make_optimizer("muon", model, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8, dtype=dtype)
    assert isinstance(both, Together)
    assert isinstance(both.parts[0], Muon)
    return both, both.parts[0]


def counted(family: str, size: str) -> dict[str, Any]:
    """Muon's share of the operations of a step."""
    shape = SIZES[family][size]
    with torch.device("meta"):
        muon = muon_of(GPT(shape))[1].flops()
    step = STEP * flops_per_token(shape)
    return {"counted": f"{family}.{size}", "muon_flops": muon, "step_flops": step, "share": round(muon / step, 5)}


def seconds(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """The median of some rounds, after one that does not count."""
    taken = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def measured(device: torch.device, rounds: int) -> dict[str, Any]:
    """Milliseconds of Muon's step and AdamW's on two blocks, and Muon's share of a step of so many tokens."""
    name = machine.choose_precision(device)
    precision = MixedPrecision(name, device)
    shape = replace(SIZES["gpt2"]["124m"], n_layer=2, vocab_size=256)  # a head of the whole vocabulary would make Muon look cheaper
    model = build(shape, 0, device)
    tokens = torch.randint(256, (1 if device.type == "cpu" else 16, shape.context_length), device=device)

    def learn() -> None:
        with precision.autocast():
            logits = model(tokens)
        F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten()).backward()  # type: ignore[no-untyped-call]

    learning = seconds(learn, device, rounds) / tokens.numel()
    muon = muon_of(model, torch.bfloat16 if name == "bf16" else None)[0]
    adamw = make_optimizer("adamw", model, weight_decay=0.1, betas=(0.9, 0.95), epsilon=1e-8)
    by_muon, by_adamw = (seconds(optimizer.step, device, rounds) for optimizer in (muon, adamw))
    return {
        "measured": "two blocks of gpt2.124m",
        "precision": name,
        "threads": torch.get_num_threads(),
        "muon_milliseconds": round(1000 * by_muon, 2),
        "adamw_milliseconds": round(1000 * by_adamw, 2),
        "tokens_per_second": round(1 / learning, 1),
        "share": round(by_muon / (by_muon + STEP * learning), 5),
    }


def raced(data: str, tokens: int, tries: int) -> list[dict[str, Any]]:
    """The race's rows; its plot is drawn."""
    sized = [f"train.train_tokens={tokens}", f"train.warmup_tokens={tokens // 20}", f"data.dir={data}"]
    settings, text, device, precision, _ = opening.resolve(
        config.edit(recipe_settings("gpt2.124m"), [*RACE, *sized, "train.learning_rate=2e-3"])
    )
    heats = []
    for heat in racing.race(settings, text, device, precision, tries=tries):
        print(f"{heat.optimizer} {heat.learning_rate:.3g}: {heat.val_loss:.4f}", flush=True)
        heats.append(heat)
    placed = racing.placing(heats)
    title = f"4 layers, 128 wide, {tokens:,} tokens"
    draw(placed, title, RESULTS / "optimizers.png")
    return [{"race": title, **row} for row in figures(placed, title)["rows"]]


def main() -> None:
    """Counts, measures, races, records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="prepared data to race on")
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--tries", type=int, default=6)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = machine.choose_device()
    if device.type == "cpu":
        machine.prepare_cpu(options.threads)
    rows = [counted("gpt2", size) for size in SIZES["gpt2"]]
    rows.append(measured(device, options.rounds))
    bars = [
        bar("Muon's share of the operations at 124M and 0.5M tokens a step", rows[0]["share"], "< 0.05"),
        bar("Muon's share of the time of two blocks of 124M at 0.5M tokens a step, measured", rows[-1]["share"], "< 0.05"),
    ]
    if options.data:
        rows += raced(options.data, options.tokens, options.tries)
        losses = {row["optimizer"]: row["val_loss"] for row in rows if "race" in row}
        bars.append(bar("Muon's validation loss, in AdamW's", losses["muon"] / losses["adamw"], "< 1"))
    record("optimizers", bars, rows)


if __name__ == "__main__":
    main()
