"""How long steps take: the time from one to the next, without what compiled in between, and how much of it was spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Lap:
    """One step's time."""

    seconds: float
    """Of computing, and of waiting for data."""
    compile_seconds: float
    data_share: float
    """The part of `seconds` that was waiting for data."""


class Pace:
    """`lap()` after each step, `skip()` after anything that is none."""

    def __init__(self, waited: Callable[[], float], compiled: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        """`waited` and `compiled` tell the seconds so far that went into waiting for data and into compiling."""
        self._clocks = (clock, waited, compiled)
        self.skip()

    def skip(self) -> None:
        """What was done since the last step counts for none."""
        self._last = [each() for each in self._clocks]

    def lap(self) -> Lap:
        """The time since the last."""
        before = self._last
        self.skip()
        whole, waited, compiled = (now - then for now, then in zip(self._last, before, strict=True))
        seconds = max(whole - compiled, 1e-9)
        return Lap(seconds, compiled, min(1.0, waited / seconds))
