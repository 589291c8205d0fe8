"""A ladder as a picture: tokens a second of each rung, those that were kept in colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from daybreak import files
from daybreak.ladder import Row

_KEPT, _LEFT, _AGAIN = "#b8562b", "#b9b4ab", "#7d8a94"


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Writes a PNG with one bar for each rung that was measured, the first on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no pyplot: it keeps state, and asks for a screen
    from matplotlib.figure import Figure

    measured = [(row, row.trial) for row in rows if row.trial is not None]
    figure = Figure(figsize=(8.5, 1.2 + 0.34 * len(measured)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    speeds = [trial.tokens_per_second for _, trial in measured]
    colors = [_AGAIN if row.again else _KEPT if row.kept else _LEFT for row, _ in measured]
    bars = axes.barh(range(len(measured)), speeds, color=colors)
    axes.bar_label(bars, [f"{speed:,.0f}" for speed in speeds], padding=4, fontsize=8)
    axes.set_yticks(range(len(measured)), [f"{row.name}, again" if row.again else row.name for row, _ in measured])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(speeds, default=1.0))
    axes.set_xlabel("tokens a second")
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    with files.replacing(path) as file:
        figure.savefig(file, format="png", dpi=130)
