"""Data that a run leaves out: stretches of the endless order of windows, which all that comes after moves up to fill.

A run that met trouble goes back and trains on without the batches of its troubled steps. As what is left out is a value that a
checkpoint carries, `batches[step]` stays a pure function, and a resumed run sees what one that never stopped would have seen.

N positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Skipped:
    """Stretches (first, end) of the whole order, ascending, with something left between them; the end itself is not skipped."""

    stretches: tuple[tuple[int, int], ...] = ()

    def places(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each position of what is left stands in the whole order: (N,) -> (N,)."""
        for first, end in self.stretches:
            positions = positions + np.where(positions >= first, end - first, 0)
        return positions

    def without(self, first: int, end: int) -> Skipped:
        """These, and the positions `first` to `end` - 1 of what was left. Raises ValueError if there are none."""
        if not 0 <= first < end:
            raise ValueError(f"skipped: wanted a stretch that begins at 0 or later and holds something, came {first} to {end}")
        begins, last = self.places(np.array([first, end - 1])).tolist()
        merged: list[tuple[int, int]] = []
        for start, stop in sorted([*self.stretches, (begins, last + 1)]):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            else:
                merged.append((start, stop))
        return Skipped(tuple(merged))
