"""What a run's lines say so far, taken as they come: the same figures as the report draws, without reading anything twice.

The report reads a whole file and then decides what counts (`report.curves.happened`). Here each batch of lines is added to what is there,
and a resume or a rollback cuts it back. Both must come to the same curves; a test holds them to it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from daybreak.report.curves import QUANTITIES, Curve, FloatArray, number
from daybreak.watch.columns import Columns

_ENDING = ("sample", "tasks", "end")
_OF_STEP = [name for name, (event, _) in QUANTITIES.items() if event == "step"]
_OF_EVAL = [name for name, (event, _) in QUANTITIES.items() if event == "eval"]


class History:
    """A run's curves and events, as far as they were read."""

    def __init__(self, sampled: bool = False) -> None:
        self.steps, self.evals = Columns(*_OF_STEP), Columns(*_OF_EVAL)
        self.events: list[dict[str, Any]] = []
        """All but steps and evaluations, each with `seconds`: how long had been trained by then."""
        self.begun: dict[str, Any] = {}
        """The last start or resume: what is trained, on what, and how far it is to go."""
        self.step: float = 0
        self.seconds = 0.0
        self.broken = 0
        """Lines that are no events, as a crash leaves them."""
        self.strays = 0
        """Steps that came after later ones though nothing had been resumed: another process writes to the same file."""
        self.redone = 0
        """Steps that a resume or rollback made void."""
        self.time: float | None = None
        self._sampled = sampled

    def take(self, lines: Sequence[bytes]) -> None:
        """Adds whole lines, in the order of the file."""
        for kind, group in groupby(self._parsed(lines), key=lambda event: event.get("event")):
            events = list(group)
            if kind != "step" or not self._take_steps(events):
                for event in events:
                    self._take_one(event)

    def curves(self) -> dict[str, Curve]:
        """Every quantity of the report."""
        return self.steps.curves() | self.evals.curves()

    @property
    def tokens(self) -> float | None:
        """How many tokens were trained on, as the last step or event says."""
        known = [column.tokens[-1] for column in (self.steps, self.evals) if len(column)]
        known += [value for event in self.events[-1:] if (value := number(event.get("tokens"))) is not None]
        return max((value for value in known if math.isfinite(value)), default=None)

    def _parsed(self, lines: Sequence[bytes]) -> Iterable[dict[str, Any]]:
        try:  # a batch as one array costs half of line by line (docs/LOG.md)
            found = json.loads(b"[" + b",".join(lines) + b"]")
            if len(found) == len(lines) and all(type(event) is dict for event in found):
                return [event for event in found if isinstance(event.get("event"), str)]
        except ValueError:
            pass
        found = []
        for line in lines:
            try:
                event = json.loads(line.decode("utf-8", errors="replace"))
            except ValueError:
                self.broken += bool(line.strip())
                continue
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                found.append(event)
        return found

    def _take_steps(self, events: list[dict[str, Any]]) -> bool:
        """Adds many steps at once, if all of them are as they should be."""
        try:
            steps = _numbers(events, "step")
            times = _numbers(events, "time")
        except (TypeError, ValueError, OverflowError):
            return False
        if not (np.isfinite(steps).all() and np.isfinite(times).all()):
            return False
        after = self.steps.steps[-1] if len(self.steps) else -math.inf
        if (np.diff(steps, prepend=after) <= 0).any():
            return False
        try:
            values = {name: _numbers(events, QUANTITIES[name][1]) for name in _OF_STEP}
            tokens = _numbers(events, "tokens")
        except (TypeError, ValueError, OverflowError):
            return False
        gaps = np.clip(np.diff(times, prepend=times[0] if self.time is None else self.time), 0, None)
        seconds = self.seconds + np.cumsum(gaps)
        self.steps.extend(steps, tokens, seconds, values)
        self.step, self.time, self.seconds = float(steps[-1]), float(times[-1]), float(seconds[-1])
        return True

    def _take_one(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        came = number(event.get("step"))
        self.step = self.step if came is None else came
        if kind in ("start", "resume", "rollback"):
            self._rewind(kind, event)
        self._pass_time(number(event.get("time")), still=kind in ("start", "resume"))
        if kind in ("step", "eval"):
            columns, names = (self.steps, _OF_STEP) if kind == "step" else (self.evals, _OF_EVAL)
            if len(columns) and self.step <= columns.steps[-1]:
                if not self._sampled:
                    self.strays += 1
                    return
                columns.cut(self.step - 1)  # the line that says why was not among those read
            row = {name: _row(event.get(QUANTITIES[name][1])) for name in names}
            columns.extend(_row(self.step), _row(event.get("tokens")), _row(self.seconds), row)
        else:
            self.events.append({**event, "step": self.step, "seconds": self.seconds})
        if kind in ("start", "resume"):
            self.begun = {**self.begun, **event}

    def _rewind(self, kind: str, event: dict[str, Any]) -> None:
        to = -math.inf if kind == "start" else self.step
        self.redone += self.steps.cut(to)
        self.evals.cut(to)
        self.events = [earlier for earlier in self.events if earlier["step"] <= to]
        if kind != "start" and self.step == event.get("steps"):  # only its end is left to tell, and is told again
            self.events = [earlier for earlier in self.events if earlier["step"] < to or earlier["event"] not in _ENDING]
        if kind != "rollback":  # there the lost work was done by the same process, and its time has passed
            last = [column.seconds[-1] for column in (self.steps, self.evals) if len(column)]
            self.seconds = max([*last, *(earlier["seconds"] for earlier in self.events[-1:])], default=0.0)

    def _pass_time(self, time: float | None, still: bool) -> None:
        if time is None:
            return
        if self.time is not None and not still:
            self.seconds += max(0.0, time - self.time)
        self.time = time


def _numbers(events: Sequence[dict[str, Any]], key: str) -> FloatArray:
    column = np.array([event.get(key) for event in events], dtype=np.float64)  # None becomes NaN
    column[~np.isfinite(column)] = np.nan
    return column


def _row(value: Any) -> FloatArray:
    known = number(value)
    return np.array([math.nan if known is None else known])
