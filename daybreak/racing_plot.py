"""A race as a picture: each optimizer's loss at its best learning rate, and what the sweep found at the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from daybreak import files
from daybreak.racing import Placed


def draw(placed: Sequence[Placed], title: str, path: Path) -> None:
    """Writes a PNG: losses by tokens on the left, final losses by learning rate on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no pyplot: it keeps state, and asks for a screen
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    losses, sweeps = figure.subplots(1, 2)
    for row in placed:
        best = row.best
        line = losses.plot(*zip(*smoothed(best.curve), strict=True), label=f"{best.optimizer}  {best.val_loss:.3f}", linewidth=1.2)
        rates = [(rate, loss) for rate, loss in row.tried if math.isfinite(loss)]
        if rates:
            sweeps.plot(*zip(*rates, strict=True), "o-", markersize=3, linewidth=1, color=line[0].get_color())
    losses.set_xlabel("tokens")
    losses.set_ylabel("training loss, smoothed")
    losses.legend(fontsize=8, title="validation loss", title_fontsize=8, frameon=False)
    sweeps.set_xscale("log")
    sweeps.tick_params(axis="x", which="minor", labelbottom=False)  # or they lie on each other
    sweeps.set_xlabel("learning rate")
    sweeps.set_ylabel("validation loss at the end")
    losses.set_title(title, loc="left", fontsize=10)
    for axes in (losses, sweeps):
        axes.spines[["top", "right"]].set_visible(False)
    with files.replacing(path) as file:
        figure.savefig(file, format="png", dpi=130)


def smoothed(curve: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """A running average over about a twentieth of the way, corrected for its start."""
    keep, average, weight, points = 1 - 1 / max(1.0, len(curve) / 20), 0.0, 0.0, []
    for tokens, loss in curve:
        average, weight = keep * average + (1 - keep) * loss, keep * weight + (1 - keep)
        points.append((tokens, average / weight))
    return points
