"""A run as the charts' script takes it: few points that look like all, means that can be smoothed, moments to mark.

The script gets two forms of a curve. `values` keeps every peak, for the pale line of single steps. `means` are averages over stretches of
steps with how many steps each holds: whatever is smoothed from them is smoothed from all steps, and not from the peaks alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from daybreak.report.curves import MAX_POINTS, Curve, FloatArray, number, spread, thin

MAX_MARKS = 200
MAX_MEANS = 500
MARKED = ("checkpoint", "skip", "resume", "rollback", "stop")
NOISY = ("loss", "grad_norm", "tokens_per_second")
"""What differs from step to step so much that a line through all of it hides where it goes."""

Window = tuple[str, float, float]
"""An axis ("steps", "tokens", "seconds"), and from where to where on it."""


def drawable(curves: Mapping[str, Curve], limit: int = MAX_POINTS, window: Window | None = None) -> dict[str, Any]:
    """Each curve with points, thinned to `limit` and to what lies in the window, and the means of those that are noisy."""
    drawn: dict[str, Any] = {}
    for name, whole in curves.items():
        curve = whole if window is None else within(whole, *window)
        if not len(curve):
            continue
        drawn[name] = _columns(curve.at(thin(curve.values, limit)))
        if name in NOISY:
            counts, averaged = means(curve, min(MAX_MEANS, limit))
            drawn[name]["means"] = {**_columns(averaged), "counts": counts, "of": len(whole)}
    return drawn


def within(curve: Curve, axis: str, low: float, high: float) -> Curve:
    """The points from `low` to `high` on an axis, and one more at each side, so that the lines leave the frame."""
    along = {"steps": curve.steps, "tokens": curve.tokens, "seconds": curve.seconds}[axis]
    inside = np.flatnonzero((along >= low) & (along <= high))
    if not len(inside):
        return curve.at(inside)
    return curve.at(np.arange(max(0, inside[0] - 1), min(len(curve), inside[-1] + 2)))


def means(curve: Curve, limit: int = MAX_MEANS) -> tuple[list[int], Curve]:
    """Averages over at most `limit` stretches, and how many points each has; a stretch stands where its last point does.

    As in `thin`, half of the stretches are equally long and half grow geometrically.
    """
    n = len(curve)
    if n <= limit:
        return [1] * n, curve
    half = limit // 2
    edges = np.unique(np.concatenate([np.linspace(0, n, half + 1)[:-1], np.geomspace(1, n, half + 1)[:-1]]).astype(np.int64))
    counts = np.diff(edges, append=n)
    at = curve.at(edges + counts - 1)
    averaged = np.add.reduceat(curve.values, edges) / counts
    return [int(count) for count in counts], Curve(at.steps, at.tokens, at.seconds, averaged)


def marks(events: Sequence[Mapping[str, Any]], seconds: Sequence[float]) -> list[dict[str, Any]]:
    """The moments to mark: what happened, when, and a few words about it."""
    marked = [pair for pair in zip(events, seconds, strict=True) if pair[0]["event"] in MARKED]
    often = [pair for pair in marked if pair[0]["event"] in ("checkpoint", "skip")]
    rare = [pair for pair in marked if pair[0]["event"] not in ("checkpoint", "skip")]
    chosen = sorted(spread(rare, MAX_MARKS) + spread(often, MAX_MARKS), key=lambda pair: pair[1])
    return [
        {
            "kind": event["event"],
            "steps": number(event.get("step")),
            "tokens": number(event.get("tokens")),
            "seconds": round(at, 1),
            "said": str(event.get("reason") or "")[:300],
        }
        for event, at in chosen
    ]


def _columns(curve: Curve) -> dict[str, list[float | int | None]]:
    whole = {"steps": curve.steps, "tokens": curve.tokens, "seconds": curve.seconds, "values": curve.values}
    return {name: rounded(column) for name, column in whole.items()}


def rounded(column: FloatArray) -> list[float | int | None]:
    """Numbers as short as a screen needs: whole ones whole, others to seven digits, what is no number as null."""
    known = np.isfinite(column)
    if known.all() and (column == np.rint(column)).all() and (np.abs(column) < 2**53).all():
        whole: list[float | int | None] = list(column.astype(np.int64).tolist())
        return whole
    size = np.abs(np.where(known & (column != 0), column, 1.0))
    factor = 10.0 ** np.clip(6 - np.floor(np.log10(size)), -300, 300)
    return [x if x == x else None for x in np.where(known, np.rint(column * factor) / factor, np.nan).tolist()]
