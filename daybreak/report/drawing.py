"""A picture of the loss that needs no script: lines and points as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from daybreak.report import words
from daybreak.report.curves import Curve, half_life, smooth, thin
from daybreak.report.markup import escape
from daybreak.report.record import Summary

WIDTH, HEIGHT = 900, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 14, 40
POINTS = 400


def loss_picture(runs: Sequence[Summary]) -> str:
    """The losses of all runs against tokens, or nothing where no run has one."""
    trains = [run.curves["loss"] for run in runs]
    evals = [run.curves["val_loss"] for run in runs]
    drawn = [curve for curve in (*trains, *evals) if len(curve)]
    if not drawn:
        return ""
    x_ticks = ticks(0, max(float(np.nanmax(_x(curve))) for curve in drawn))
    y_ticks = ticks(min(float(curve.values.min()) for curve in drawn), max(float(curve.values.max()) for curve in drawn))
    box = (x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    parts = [_axes(x_ticks, y_ticks, box)]
    for i, (train, val) in enumerate(zip(trains, evals, strict=True)):
        averaged = Curve(train.steps, train.tokens, train.seconds, smooth(train.values, half_life(len(train))))
        if len(runs) == 1:
            parts.append(_line(train.at(thin(train.values, POINTS)), box, "raw"))
        parts.append(_line(averaged.at(thin(averaged.values, POINTS)), box, f"line run-{i % 8}"))
        parts.append(_dots(val.at(thin(val.values, POINTS)), box, "dots" if len(runs) == 1 else f"dots run-{i % 8}"))
    label = escape(f"Loss against tokens: {words.listing([run.name for run in runs])}")
    return f'<svg class="picture" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers, evenly spaced, the first at most `low` and the last at least `high`."""
    if not high > low:
        low, high = low - 0.5, low + 0.5
    raw = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, last + 1)]


def _x(curve: Curve) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return curve.tokens if np.isfinite(curve.tokens).any() else curve.steps


def _places(curve: Curve, box: tuple[float, float, float, float]) -> list[tuple[float, float]]:
    x0, x1, y0, y1 = box
    across = LEFT + (_x(curve) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
    down = HEIGHT - BOTTOM - (curve.values - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
    return [(x, y) for x, y in zip(across.tolist(), down.tolist(), strict=True) if math.isfinite(x) and math.isfinite(y)]


def _line(curve: Curve, box: tuple[float, float, float, float], kind: str) -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in _places(curve, box))
    return f'<polyline class="{kind}" points="{places}"/>' if places else ""


def _dots(curve: Curve, box: tuple[float, float, float, float], kind: str) -> str:
    return f'<g class="{kind}">{"".join(f"""<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>""" for x, y in _places(curve, box))}</g>'


def _axes(x_ticks: list[float], y_ticks: list[float], box: tuple[float, float, float, float]) -> str:
    x0, x1, y0, y1 = box
    parts = []
    for value in y_ticks:
        y = HEIGHT - BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.6g}</text>')
    for value in x_ticks:
        x = LEFT + (value - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{words.short(value)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">tokens</text>')
    return "".join(parts)
