"""muP's coordinate check: how far a few steps move what each layer puts out, at growing widths, with and without `model.width_base`.

python benchmarks/coordinate_check.py [--widths 32,64,128,256 --seeds 2 --steps 4 --threads 2]

With hyperparameters that carry across widths the movement does not depend on the width: its slope over the width, both as logarithms, is
0. A small model of the modern kind learns one batch of random tokens; its plot lies beside the results.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from record import RESULTS, bar, record
from torch import Tensor, nn
from torch.nn import functional as F

from daybreak import files, machine
from daybreak.model.config import GPTConfig
from daybreak.model.init import build
from daybreak.training.optimizers import Role, make_optimizer

HEAD, VOCAB, LENGTH, SEQUENCES = 16, 128, 32, 8
RATES: dict[str, tuple[float, dict[Role, float]]] = {"adamw": (1e-2, {}), "muon": (1e-2, {"matrix": 5.0})}
"""High ones, as are used in such checks: what grows does so sooner."""

Rows = list[dict[str, Any]]


def shape(width: int, base: int | None) -> GPTConfig:
    """A small model of the modern kind."""
    return GPTConfig(
        vocab_size=VOCAB,
        context_length=LENGTH,
        n_layer=4,
        n_head=width // HEAD,
        d_model=width,
        position="rotary",
        norm="rmsnorm",
        activation="relu2",
        tied_head=False,
        token_init_std=1.0,
        init_std=0.05,
        head_init_std=0.02,
        width_base=base,
    )


def movement(width: int, base: int | None, optimizer: str, steps: int, seed: int) -> dict[str, float]:
    """By layer: the mean size of what the steps changed of its output."""
    config = shape(width, base)
    model = build(config, seed)
    rate, scales = RATES[optimizer]
    learner = make_optimizer(
        optimizer, model, weight_decay=0.0, betas=(0.9, 0.95), epsilon=1e-10, scales=scales, relative_width=config.relative_width
    )
    seen: dict[str, list[Tensor]] = {}
    for name, layer in watched(model):
        layer.register_forward_hook(lambda module, given, out, name=name: seen.setdefault(name, []).append(out.detach()))
    tokens = torch.randint(VOCAB, (SEQUENCES, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    for step in range(steps + 1):
        logits = model(tokens[:, :-1])
        seen.setdefault("logits", []).append(logits.detach())
        if step == steps:
            break
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]
        for group in learner.param_groups:
            group["lr"] = rate * group["lr_scale"]
        learner.step()
        learner.zero_grad()
    return {name: float((outs[-1] - outs[0]).abs().mean()) for name, outs in seen.items()}


def watched(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers that are looked at."""
    return [(name, layer) for name, layer in model.named_modules() if name.endswith((".attention", ".mlp"))]


def check(widths: list[int], seeds: int, steps: int) -> Rows:
    """Every layer's slope, for each optimizer, with the base and without."""
    rows: Rows = []
    for optimizer in RATES:
        for base in (None, widths[0]):
            moved = [[movement(width, base, optimizer, steps, seed) for seed in range(seeds)] for width in widths]
            for layer in moved[0][0]:
                means = [float(np.mean([found[layer] for found in runs])) for runs in moved]
                slope = float(np.polyfit(np.log(widths), np.log(means), 1)[0])
                row = {"optimizer": optimizer, "base": base, "layer": layer, "moved": [float(f"{mean:.4g}") for mean in means]}
                rows.append({**row, "widths": widths, "slope": round(slope, 3)})
            print(optimizer, base, {row["layer"]: row["slope"] for row in rows[-len(moved[0][0]) :]}, flush=True)
    return rows


def draw(rows: Rows) -> None:
    """One panel for each optimizer with and without the base: a line for each layer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys((row["optimizer"], row["base"]) for row in rows))
    figure = Figure(figsize=(3.2 * len(kinds), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (optimizer, base) in zip(figure.subplots(1, len(kinds), sharey=True), kinds, strict=True):
        for row in rows:
            if (row["optimizer"], row["base"]) == (optimizer, base):
                color = "#b8562b" if row["layer"] == "logits" else "#7d8a94"
                axes.loglog(row["widths"], row["moved"], "o-", markersize=3, linewidth=1, color=color)
        axes.set_title(f"{optimizer}, {'as it is' if base is None else f'width_base={base}'}", loc="left", fontsize=10)
        axes.set_xticks(rows[0]["widths"], map(str, rows[0]["widths"]))
        axes.set_xticks([], minor=True)
        axes.set_xlabel("width")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("movement of outputs (logits in colour)")
    with files.replacing(RESULTS / "coordinate-check.png") as file:
        figure.savefig(file, format="png", dpi=130)


def main() -> None:
    """Checks, draws, records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", default="32,64,128,256")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    machine.prepare_cpu(options.threads)
    rows = check([int(width) for width in options.widths.split(",")], options.seeds, options.steps)
    draw(rows)
    bars = []
    for optimizer in RATES:
        slopes = {
            base: [row["slope"] for row in rows if (row["optimizer"], row["base"] is not None) == (optimizer, base)]
            for base in (False, True)
        }
        bars.append(
            bar(f"{optimizer}: the steepest slope of any layer with width_base, up or down", max(map(abs, slopes[True])), "<= 0.35")
        )
        bars.append(bar(f"{optimizer}: the steepest slope without it, so that the check can fail", max(slopes[False]), ">= 0.8"))
    record("coordinate-check", bars, rows)


if __name__ == "__main__":
    main()
