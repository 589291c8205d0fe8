"""Pictures of losses that need no script: lines and points as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from daybreak.report import words
from daybreak.report.comparison import Comparison, along, validation
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


def comparison_picture(told: Comparison) -> str:
    """Validation losses of all groups, each run a line, and the loss to be reached."""
    drawn = []
    for row in told.rows:
        for run in row.group.runs:
            curve = validation(run)
            drawn.append(Curve(curve.steps, along(run, curve, told.by), curve.seconds, curve.values))
    right = max(float(curve.tokens[-1]) for curve in drawn)
    settled = [curve.values[curve.tokens >= 0.1 * right] for curve in drawn]
    high = max([float(values.max()) for values in settled if len(values)] or [told.to_loss])
    y_ticks = ticks(min(min(float(curve.values.min()) for curve in drawn), told.to_loss), max(high, told.to_loss))
    unit, unit_name = (3600.0, "hours of training") if right > 7200 else (60.0, "minutes of training") if right > 180 else (1.0, "seconds")
    unit, unit_name = (unit, unit_name) if told.by == "time" else (1.0, "FLOPs" if told.by == "flops" else "tokens")
    x_ticks = [tick * unit for tick in ticks(0, right / unit)]
    box = (x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    parts = [_axes(x_ticks, y_ticks, box, unit_name, lambda value: _mark(value / unit))]
    level = HEIGHT - BOTTOM - (told.to_loss - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)
    parts.append(f'<line class="goal" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
    place = 0
    for i, row in enumerate(told.rows):
        for _ in row.group.runs:
            curve = drawn[place]
            shown = curve.at(np.flatnonzero(curve.values <= y_ticks[-1]))
            kept = shown.at(thin(shown.values, POINTS)) if len(shown) else shown
            parts += [_line(kept, box, f"run-{i % 8}"), _dots(kept, box, f"dots run-{i % 8}") if len(kept) < 60 else ""]
            place += 1
    label = escape(f"Validation loss against {unit_name}: {words.listing([row.group.name for row in told.rows], 8)}")
    return f'<svg class="picture" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def intervals_picture(told: Comparison) -> str:
    """How far each group lies from the baseline: a dot, its interval, each run's own difference from the baseline's mean, and zero."""
    rows = [(row, row.apart) for row in told.rows[1:] if row.apart is not None]
    zero = told.rows[0].loss.mean
    reached = [0.0]
    for row, apart in rows:
        reached += [apart.mean, *(bound for bound in (apart.low, apart.high) if bound is not None), *(loss - zero for loss in row.losses)]
    x_ticks = ticks(min(reached), max(reached))
    left, line, height = 220, 34, 34 * len(rows) + 34

    def across(value: float) -> float:
        return left + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (WIDTH - left - RIGHT)

    parts = []
    for value in x_ticks:
        x, kind = f"{across(value):.1f}", "grid" if value else "goal"
        parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="4" y2="{height - 26}"/>')
        parts.append(f'<text x="{x}" y="{height - 8}" text-anchor="middle">{f"{value:+.4g}" if value else "0"}</text>')
    for i, (row, apart) in enumerate(rows, start=1):
        y = line * i - 12
        parts.append(f'<text x="{left - 14}" y="{y + 4}" text-anchor="end">{escape(row.group.name[:32])}</text>')
        if apart.low is not None and apart.high is not None:
            parts.append(
                f'<line class="interval run-{i % 8}" x1="{across(apart.low):.1f}" x2="{across(apart.high):.1f}" y1="{y}" y2="{y}"/>'
            )
        single = "".join(f'<circle cx="{across(loss - zero):.1f}" cy="{y}" r="2.5"/>' for loss in row.losses)
        parts.append(f'<g class="dots pale run-{i % 8}">{single}</g>')
        parts.append(f'<g class="dots run-{i % 8}"><circle cx="{across(apart.mean):.1f}" cy="{y}" r="6"/></g>')
    label = escape(f"Loss less that of {told.rows[0].group.name}, with 95 % intervals")
    return f'<svg class="picture" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _mark(value: float) -> str:
    return words.power(value).replace(".00", "") if value >= 1e15 else words.short(value)


def _axes(
    x_ticks: list[float],
    y_ticks: list[float],
    box: tuple[float, float, float, float],
    name: str = "tokens",
    written: Callable[[float], str] = words.short,
) -> str:
    x0, x1, y0, y1 = box
    parts = []
    for value in y_ticks:
        y = HEIGHT - BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.6g}</text>')
    for value in x_ticks:
        x = LEFT + (value - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{written(value)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{name}</text>')
    return "".join(parts)
