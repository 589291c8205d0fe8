"""Curves that grow as lines are read, and are cut back where a run went back."""

from __future__ import annotations

from array import array
from bisect import bisect_right

import numpy as np

from daybreak.report.curves import Curve, FloatArray


class Columns:
    """Where a run stood, and what it measured there: columns of one kind of event, their steps rising.

    N rows; absent is NaN. Values are kept in 32 bits, so that a million rows of four take 40 MB.
    """

    def __init__(self, *names: str) -> None:
        self.steps, self.tokens, self.seconds = array("d"), array("d"), array("d")
        self.values = {name: array("f") for name in names}

    def __len__(self) -> int:
        return len(self.steps)

    def extend(self, steps: FloatArray, tokens: FloatArray, seconds: FloatArray, values: dict[str, FloatArray]) -> None:
        """Appends rows, each column (N,)."""
        for column, came in ((self.steps, steps), (self.tokens, tokens), (self.seconds, seconds)):
            column.frombytes(np.ascontiguousarray(came, np.float64).tobytes())
        for name, column in self.values.items():
            column.frombytes(values[name].astype(np.float32).tobytes())

    def cut(self, step: float) -> int:
        """Drops the rows past `step` and returns how many they were."""
        kept = bisect_right(self.steps, step)
        dropped = len(self) - kept
        for column in (self.steps, self.tokens, self.seconds, *self.values.values()):
            del column[kept:]
        return dropped

    def curves(self) -> dict[str, Curve]:
        """Every quantity, where it was measured; copies, so that the columns may grow on."""
        steps, tokens, seconds = np.array(self.steps), np.fmax.accumulate(np.array(self.tokens)), np.array(self.seconds)
        found = {}
        for name, column in self.values.items():
            values = np.array(column, dtype=np.float64)
            finite = np.isfinite(values)
            whole = Curve(steps, tokens, seconds, values)
            found[name] = whole if finite.all() else whole.at(np.flatnonzero(finite))
        return found
