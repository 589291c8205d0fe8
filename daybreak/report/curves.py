"""From the events of a run to curves that can be drawn: what counts, when it was, fewer points, smoother lines.

Numbers that are absent, null, NaN or infinite are passed over everywhere; nothing here changes its input.
N: number of points of a curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from daybreak.metrics import as_one_run

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int64]
Event = Mapping[str, Any]

MAX_POINTS = 2000

CLOCK = "at_seconds"
"""The key under which `happened` notes how long had been trained."""

QUANTITIES = {
    "loss": ("step", "loss"),
    "learning_rate": ("step", "learning_rate"),
    "grad_norm": ("step", "grad_norm"),
    "tokens_per_second": ("step", "tokens_per_second"),
    "val_loss": ("eval", "val_loss"),
    "bits_per_byte": ("eval", "bits_per_byte"),
}
"""Each curve's name, the event that carries it, and the key under which."""


@dataclass(frozen=True)
class Curve:
    """One quantity of a run, and for each of its points where the run stood then. All four arrays are (N,)."""

    steps: FloatArray
    tokens: FloatArray
    seconds: FloatArray
    values: FloatArray

    def __len__(self) -> int:
        return len(self.values)

    def at(self, indices: IndexArray) -> Curve:
        """The same curve, only the points at `indices`."""
        return Curve(self.steps[indices], self.tokens[indices], self.seconds[indices], self.values[indices])


def number(value: Any) -> float | None:
    """`value` as a float if it is a finite number, else None. True and False are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def happened(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The events that count, in order: what was done past the step that a run resumed from is dropped.

    Lines without a usable step stand where the line before them stood.
    """
    step: float = 0
    told: list[dict[str, Any]] = []
    for event in events:
        if not isinstance(event.get("event"), str):
            continue
        came = event.get("step")
        if type(came) is int or number(came) is not None:
            step = came if came is not None else step
            told.append(event if isinstance(event, dict) else dict(event))
        else:
            told.append({**event, "step": step})
    return as_one_run({**event, CLOCK: seconds} for event, seconds in zip(told, _clock(told), strict=True))


def elapsed(events: Sequence[Event]) -> FloatArray:
    """Seconds of training at each event that `happened` returns: the sum of the gaps in `time`, but for those before a "start" or "resume".

    So the night that a stopped run lay still is not counted, nor what a resume made void, nor a clock that was set back. What was lost to
    a rollback is counted: the same process spent it.
    """
    return np.array([event[CLOCK] for event in events], dtype=np.float64)


def curves(events: Sequence[Event]) -> dict[str, Curve]:
    """All of `QUANTITIES` from events as `happened` returns them; a quantity that was never written has no points."""
    seconds = elapsed(events)
    found: dict[str, Curve] = {}
    for kind in ("step", "eval"):
        places = [i for i, event in enumerate(events) if event["event"] == kind]
        rows, where = [events[i] for i in places], np.array(places, dtype=np.int64)
        steps = _filled(_column(rows, "step"))
        order = np.argsort(steps, kind="stable")
        tokens = np.fmax.accumulate(_column(rows, "tokens")[order]) if rows else np.zeros(0)
        for name, (event, key) in QUANTITIES.items():
            if event == kind:
                values = _column(rows, key)[order]
                whole = Curve(steps[order], tokens, np.maximum.accumulate(seconds[where][order]) if rows else np.zeros(0), values)
                found[name] = whole.at(np.flatnonzero(np.isfinite(values)))
    return found


def task_curve(events: Sequence[Event], seconds: Sequence[float], task: str, protocol: str, metric: str) -> Curve:
    """One figure of one task over the run, from its `tasks` events of a protocol."""
    rows = []
    for event, at in zip(events, seconds, strict=True):
        told = event["tasks"].get(task) if event["event"] == "tasks" and isinstance(event.get("tasks"), Mapping) else None
        if not isinstance(told, Mapping) or told.get("protocol") != protocol or not isinstance(told.get("metrics"), Mapping):
            continue
        row = told["metrics"].get(metric)
        if isinstance(row, Mapping) and (value := number(row.get("value"))) is not None:
            rows.append((number(event.get("step")) or 0.0, number(event.get("tokens")) or 0.0, at, value))
    columns = np.array(rows, dtype=np.float64).reshape(-1, 4).T
    return Curve(columns[0], columns[1], columns[2], columns[3])


def thin(values: FloatArray, limit: int = MAX_POINTS) -> IndexArray:
    """Indices of at most `limit` points that look like all of them: both ends, and the least and greatest of each bucket.

    Half of the buckets are equally long and half grow geometrically, so that the first steps survive on a logarithmic axis.
    """
    if limit < 6:
        raise ValueError(f"limit: wanted at least 6 points, came {limit}")
    n = len(values)
    if n <= limit:
        return np.arange(n)
    half = (limit - 2) // 4  # each edge may bring two points, and there are two kinds of edges
    edges = np.unique(np.concatenate([np.linspace(0, n, half + 1)[:-1], np.geomspace(1, n, half + 1)[:-1]]).astype(np.int64))
    kept, gaps = [0, n - 1], not np.isfinite(values).all()
    for begin, end in zip(edges.tolist(), [*edges[1:].tolist(), n], strict=True):
        bucket = values[begin:end]
        if not gaps:
            kept += [begin + int(bucket.argmin()), begin + int(bucket.argmax())]
        elif np.isfinite(bucket).any():
            kept += [begin + int(np.nanargmin(bucket)), begin + int(np.nanargmax(bucket))]
    return np.unique(np.array(kept, dtype=np.int64))


def spread(items: list[Any], limit: int) -> list[Any]:
    """At most `limit` of the items, evenly chosen, with the first and the last."""
    if len(items) <= limit:
        return items
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def smooth(values: FloatArray, half_life: float) -> FloatArray:
    """The exponential moving average of `values`, corrected for its beginning at zero.

    With beta = 0.5 ** (1 / half_life), s_0 = 0, s_t = beta * s_{t-1} + (1 - beta) * x_t, the result is s_t / (1 - beta ** t)
    (Kingma and Ba 2015, section 3). A point that is not finite is passed over: t does not grow and the average stays.
    """
    if half_life <= 0:
        return values.copy()
    beta = 0.5 ** (1 / half_life)
    average, weight, result = 0.0, 0.0, []
    for value in values.tolist():
        if math.isfinite(value):
            average = beta * average + (1 - beta) * value
            weight = beta * weight + (1 - beta)  # = 1 - beta ** t
        result.append(average / weight if weight else math.nan)
    return np.array(result, dtype=np.float64)


def half_life(n: int) -> float:
    """A half-life, in points, under which the noise of a curve of `n` points goes and its bends stay."""
    return min(max(n / 500, 1.0), 100.0)


def _clock(told: Sequence[Event]) -> Iterator[float]:
    """Seconds of training at each line, also at those that do not count in the end."""
    seconds: list[float] = []
    clock, before = 0.0, None
    places = [{**{key: event[key] for key in ("event", "step", "steps") if key in event}, "place": i} for i, event in enumerate(told)]
    for i, event in enumerate(told):
        time = number(event.get("time"))
        if event["event"] in ("start", "resume"):  # goes on where the last line that still counts stood
            kept = as_one_run(iter(places[: i + 1]))[:-1]
            clock = seconds[kept[-1]["place"]] if kept else 0.0
        elif time is not None and before is not None:
            clock += max(0.0, time - before)
        before = before if time is None else time
        seconds.append(clock)
    yield from seconds


def _column(rows: Sequence[Event], key: str) -> FloatArray:
    """One key of all rows as numbers; what is absent or no finite number is NaN."""
    listed = [row.get(key) for row in rows]
    try:
        column = np.array(listed, dtype=np.float64)  # None becomes NaN
    except (TypeError, ValueError, OverflowError):
        column = np.array([math.nan if (x := number(value)) is None else x for value in listed], dtype=np.float64)
    column[~np.isfinite(column)] = np.nan
    return column


def _filled(column: FloatArray) -> FloatArray:
    """`column` with each NaN replaced by the last number before it, or the first number of all, or zero."""
    known = np.isfinite(column)
    if not known.any():
        return np.zeros_like(column)
    last = np.maximum.accumulate(np.where(known, np.arange(len(column)), -1))
    first = int(np.argmax(known))
    return column[np.where(last < 0, first, last)]
