"""Whether one learning rate serves all widths: the modern recipe at three widths, its rates swept, with `model.width_base` and without.

    python benchmarks/widths.py [--widths 64 128 256] [--tokens 262144] [--work DIR] [--seeds 1]

Where rates carry across widths the best multiple of the recipe's own is the same at each. Tokens count and not time, so it does not matter
what else the machine does. Every run is kept in DIR and not run again.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from recipes import QUIET, daybreak, scaled_rates, told
from record import RESULTS, bar, record

from daybreak import files

RECIPE, BATCH, HEAD = "modern.124m", 2048, 32
SHAPE = ("model.n_layer=4", "model.context_length=128", "model.vocab_size=none")
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
WAYS = {"carried": (), "not carried": ("model.width_base=none",)}
"""Without it all widths have what the preset has at 768."""

Rows = list[dict[str, Any]]


def main() -> None:
    """Runs what is missing; a record, and a plot beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--tokens", type=int, default=262_144)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/widths"), help="where the runs are kept")
    options = parser.parse_args()
    if not (options.work / "data" / "manifest.json").is_file():
        daybreak("data", "prepare", "python:docs", "--vocab-size", 4096, "--out", options.work / "data")
    rows: Rows = []
    for way, edits in WAYS.items():
        for width in options.widths:
            for factor in FACTORS:
                losses = [run(options, way, edits, width, factor, seed) for seed in range(options.seeds)]
                rows.append({"way": way, "width": width, "factor": factor, "val_loss": round(statistics.mean(losses), 4)})
                print(rows[-1], flush=True)
    bars = [bar(f"{way}: the largest best factor over widths to the smallest", apart(rows, way), want) for way, want in WANTED.items()]
    bars.append(bar("carried: nats above a width's best where it has the rate that is best at the smallest width", lost(rows), "<= 0.03"))
    draw(rows, RESULTS / "widths.png")
    record("widths", bars, rows)


WANTED = {"carried": "<= 2"}
"""Factors are a doubling apart."""


def run(options: argparse.Namespace, way: str, edits: tuple[str, ...], width: int, factor: float, seed: int) -> float:
    """The validation loss that a run ends at."""
    out = options.work / f"{way.replace(' ', '-')}-{width}-{options.tokens}-x{factor:g}-s{seed}"
    if not (out / "DONE").is_file():
        settings = (*SHAPE, f"model.d_model={width}", f"model.n_head={width // HEAD}", *scaled_rates(RECIPE, (), factor), *edits, *QUIET)
        plan = (f"train.train_tokens={options.tokens}", f"train.batch_tokens={BATCH}", f"train.seed={seed}")
        daybreak("train", RECIPE, "--out", out, f"data.dir={options.work / 'data'}", *settings, *plan)
    return told(out).val_loss


def best(rows: Rows, way: str) -> dict[int, dict[str, Any]]:
    """By width, the row of the lowest loss."""
    widths = {row["width"] for row in rows}
    return {
        width: min((row for row in rows if (row["way"], row["width"]) == (way, width)), key=lambda row: float(row["val_loss"]))
        for width in sorted(widths)
    }


def apart(rows: Rows, way: str) -> float:
    """By how much the best factors of the widths differ."""
    factors = [row["factor"] for row in best(rows, way).values()]
    return float(max(factors) / min(factors))


def lost(rows: Rows) -> float:
    """What the smallest width's best rate costs at the others, at most."""
    found = best(rows, "carried")
    factor = found[min(found)]["factor"]
    at = {row["width"]: row["val_loss"] for row in rows if (row["way"], row["factor"]) == ("carried", factor)}
    return float(max(at[width] - row["val_loss"] for width, row in found.items()))


def draw(rows: Rows, path: Path) -> None:
    """Loss over factor, a line for each width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, way in zip(figure.subplots(1, 2, sharey=True), WAYS, strict=True):
        for width, low in best(rows, way).items():
            here = [row for row in rows if (row["way"], row["width"]) == (way, width)]
            (line,) = axes.plot([row["factor"] for row in here], [row["val_loss"] for row in here], "o-", label=f"width {width}")
            axes.plot(low["factor"], low["val_loss"], "o", markersize=11, markerfacecolor="none", color=line.get_color())
        axes.set(xscale="log", xlabel="learning rates, as multiples of the recipe's", title=way)
        axes.set_xticks(FACTORS, [f"{factor:g}" for factor in FACTORS])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("validation loss, nats a token")
    figure.axes[0].legend(frameon=False)
    with files.replacing(path) as file:
        figure.savefig(file, format="png", dpi=90)


if __name__ == "__main__":
    main()
